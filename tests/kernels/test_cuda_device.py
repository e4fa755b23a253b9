"""kernels/cuda.py through the real PyCUDA, on stand-ins for the driver and nvcc: tests/gpu/
driver_double.py says what that shows, and what not. Each test is a process of its own, because
what is tested ends with the process, or ends it.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.emulator.build import CompilerNotFoundError, compiler
from tests.gpu import driver_double

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow

START = """
import threading
import numpy as np
from kernels.device import get_device
from kernels.cuda_errors import CudaError
from kernels.launch import KernelError, load
rng = np.random.default_rng(0)
x = rng.standard_normal((33, 65)).astype(np.float32)

def softmax(device, x):
    rows, cols = x.shape
    y = device.empty(x.shape)
    load("softmax.cu", device)["softmax_warp"](device.from_numpy(x), y, rows, cols, grid=rows,
                                               block=32)
    return y.numpy()

def right(y):
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    np.testing.assert_allclose(y, e / e.sum(1, keepdims=True), rtol=1e-5)

def fails(kind, function, *arguments, **named):
    try:
        function(*arguments, **named)
    except kind as error:
        assert type(error) is kind, repr(error)
        print(error)
        return
    raise SystemExit(f"no {kind.__name__}")
"""


@pytest.fixture(scope="module")
def doubles(tmp_path_factory):
    if not sys.platform.startswith("linux"):
        pytest.skip("the driver's stand-in is written for Linux")
    try:
        compiler()
    except CompilerNotFoundError as error:
        pytest.skip(str(error))
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler for the driver's stand-in")
    return driver_double.environment(tmp_path_factory.mktemp("double"))


@pytest.fixture
def run(doubles, tmp_path):
    """run(code, VARIABLE=...) -> (what it printed, what the driver's double noted at its end)."""
    if importlib.util.find_spec("pycuda") is None:
        pytest.skip("PyCUDA is not installed")

    def run(code, status=0, complaints=r"", **variables):
        log = tmp_path / "log"
        done = subprocess.run([sys.executable, "-c", START + code], cwd=ROOT, capture_output=True,
                              text=True, env={**doubles, "DOUBLE_LOG": str(log), **variables})
        assert done.returncode == status, done.stderr
        assert re.fullmatch(complaints, done.stderr.strip()), done.stderr
        words = log.read_text().split()
        return done.stdout, dict(zip(words[::2], map(int, words[1::2])))
    return run


def test_the_driver_is_asked_without_pycuda(doubles):
    code = "from kernels.cuda_probe import probe_driver; print(probe_driver())"
    for failing, words in (("", "Gpu(name='test double, no GPU', arch='sm_90', memory=1073741824)"),
                           ("cuInit:100", "the driver sees no GPU")):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True,
                              text=True, env={**doubles, "DOUBLE_FAIL": failing})
        assert words in done.stdout + done.stderr


# As PyCUDA does it, in a few lines of ctypes: so that the double works also where it is not.
LAUNCH = """
import ctypes, sys
import numpy as np
from pathlib import Path
from kernels.cuda_compile import HERE, compile_cubin
lib = ctypes.CDLL("libcuda.so.1")
def ok(status): assert status == 0, status
context, module, function, address = (ctypes.c_void_p() for _ in range(4))
ok(lib.cuInit(0))
ok(lib.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
assert lib.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(80)) == 201     # not current yet
ok(lib.cuCtxPushCurrent_v2(context))
ok(lib.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(80)))
x = np.arange(10, dtype=np.float32)
ok(lib.cuMemcpyHtoD_v2(address, x.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(40)))
half = ctypes.c_void_p(address.value + 40)
ok(lib.cuMemcpyDtoD_v2(half, address, ctypes.c_size_t(40)))
ok(lib.cuModuleLoadData(ctypes.byref(module), compile_cubin(HERE / "probe.cu", "sm_90")))
ok(lib.cuModuleGetFunction(ctypes.byref(function), module, b"probe_axpy"))
arguments = np.array([(2.0, address.value, half.value, 10)],
                     np.dtype("f4, u8, u8, i8", align=True)).tobytes()
def launch(arguments):
    size = ctypes.c_size_t(len(arguments))
    extra = (ctypes.c_void_p * 5)(1, ctypes.cast(arguments, ctypes.c_void_p), 2,
                                  ctypes.cast(ctypes.byref(size), ctypes.c_void_p), 0)
    return lib.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, None, None, extra)
ok(launch(arguments))
assert launch(arguments[:-4]) == 1                          # another size than the kernel's
back = np.empty(10, np.float32)
ok(lib.cuMemcpyDtoH_v2(back.ctypes.data_as(ctypes.c_void_p), half, ctypes.c_size_t(40)))
assert (back == 3 * x).all()
"""


def test_the_double_launches_what_the_emulator_built(doubles):
    done = subprocess.run([sys.executable, "-c", LAUNCH], cwd=ROOT, capture_output=True, text=True,
                          env=doubles)
    assert (done.returncode, done.stderr) == (0, "")


# A kernel that tells which arguments have reached it: of each type, and each after a smaller one.
TELL = """#include "common.cuh"
extern "C" __global__ void tell(float f, double* out, int i, double d, unsigned u, Dims dims,
                                unsigned char* mask, int j, long long q, unsigned long long w) {
    if (threadIdx.x) return;
    out[0] = f; out[1] = i; out[2] = d; out[3] = u; out[4] = j; out[5] = (double)q;
    out[6] = (double)w; out[7] = mask[1];
    for (int axis = 0; axis < 8; axis++) out[8 + axis] = (double)dims.n[axis];
}
"""


def test_arguments_of_each_type_arrive(run, tmp_path):
    (tmp_path / "tell.cu").write_text(TELL)
    run(f"""
from pathlib import Path
from kernels.launch import Module
device = get_device("cuda")
out, mask = device.empty(16, np.float64), device.from_numpy(np.array([False, True]))
Module(Path({str(tmp_path / "tell.cu")!r}), device)["tell"](
    1.5, out, -2, 1e300, 2**32 - 1, (5, 2**40, -3), mask, 7, -2**62, 2**63, grid=1, block=32)
assert out.numpy().tolist() == [1.5, -2, 1e300, 2**32 - 1, 7, -2.0**62, 2.0**63, 1,
                                5, 2**40, -3, 0, 0, 0, 0, 0]
""")


def test_a_kernel_gives_numpy_s_numbers_and_is_counted(run):
    _, log = run("""
device = get_device("cuda")
right(softmax(device, x))
assert device.transfers.to_device_bytes == device.transfers.from_device_bytes == x.nbytes
assert device.launches == 1 and get_device("cuda") is device
""")
    assert (log["pushed"], log["launched"]) == (1, 1)       # the context is made current once


def test_arrays_of_every_kind_come_back_as_they_went(run):
    run("""
device = get_device("cuda")
for dtype in ("bool", "uint8", "int32", "int64", "uint32", "float16", "float32"):
    for shape in ((), (0,), (3, 0), (1,), (7, 5)):
        host = np.array(rng.standard_normal(shape) * 3).astype(dtype)
        host.flags.writeable = False
        back = device.from_numpy(host).numpy()
        assert back.dtype == host.dtype and back.shape == host.shape and (back == host).all()
copy = device.empty(x.shape)
device.copy(copy, device.from_numpy(x))
device.copy(device.empty(0), device.empty(0))
device.synchronize()
assert (copy.numpy() == x).all()
assert (device.from_numpy(x[::2, ::-1]).numpy() == x[::2, ::-1]).all()
assert (device.from_numpy(x)[::2, ::-1].numpy() == x[::2, ::-1]).all()
""")


def test_memory_is_used_again(run):
    _, log = run("""
device = get_device("cuda")
for _ in range(100):
    softmax(device, x)
""")
    assert log["allocated"] == 2 and log["launched"] == 100


def test_other_threads_work_and_may_end(run):
    # PyCUDA aborts the process when a thread ends in which a context is still current.
    _, log = run("""
device = get_device("cuda")
made = []
def work():
    right(softmax(device, x))
    made.append(device.from_numpy(x))
for _ in range(3):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
made.clear()                                                # made by others, freed here
right(softmax(device, x))
checked = get_device("cuda", checked=True)
kept = [checked.from_numpy(x)]
thread = threading.Thread(target=kept.clear)                # frees at once, in the other thread
thread.start()
thread.join()
assert checked.pool.bytes_in_use == 0
""")
    assert log["pushed"] == log["popped"] + 1


def test_a_device_first_used_in_another_thread(run):
    _, log = run("""
def work():
    right(softmax(get_device("cuda"), x))
thread = threading.Thread(target=work)
thread.start()
thread.join()
right(softmax(get_device("cuda"), x))
""")
    assert log["pushed"] == log["popped"]


def test_arrays_that_live_to_the_end_go_in_silence(run):
    run("""
class Holder:
    pass
for checked in (False, True):
    device = get_device("cuda", checked)
    kept = device.from_numpy(x)
    holder = Holder()
    holder.itself, holder.array = holder, device.from_numpy(x)      # found by the garbage collector
""")


def test_pycuda_s_own_primary_context_lives_beside_ours(run):
    run("""
import pycuda.autoprimaryctx
device = get_device("cuda")
right(softmax(device, x))
import pycuda.gpuarray
assert (pycuda.gpuarray.to_gpu(x).get() == x).all()
right(softmax(device, x))
""", complaints=r"(PyCUDA WARNING: a clean-up operation failed[^\n]*\ncuCtxDetach[^\n]*)?")


def test_a_kernel_s_fault_is_told_of_once_the_driver_tells(run):
    out, _ = run("""
device = get_device("cuda")
kernel = load("softmax.cu", device)["softmax_warp"]
y = device.from_numpy(x)
kernel(y, y, 33, 10**6, grid=33, block=32)                  # far more columns than there are
fails(KernelError, y.numpy)
fails(KernelError, device.synchronize)
fails(KernelError, device.from_numpy, x)
fails(KernelError, kernel, y, y, 33, 65, grid=33, block=32)
""", complaints=r"driver_double: softmax_warp: .*")
    assert "a kernel did what it must not, and the GPU's context is lost" in out
    assert "looked at: a copy of 8,580 bytes from the GPU: cuMemcpyDtoH failed: an illegal memory" \
        in out
    assert "launched last: softmax_warp" in out and "compute-sanitizer" in out
    assert out.count("cuMemcpyDtoH failed") == 4            # later calls repeat the first error


def test_checked_names_the_kernel(run):
    out, _ = run("""
device = get_device("cuda", checked=True)
right(softmax(device, x))
kernel = load("softmax.cu", device)["softmax_warp"]
y = device.from_numpy(x)
fails(KernelError, kernel, y, y, 33, 10**6, grid=33, block=32)
""", complaints=r"driver_double: softmax_warp: .*")
    assert out.startswith("softmax_warp: the kernel did what it must not")
    assert "grid (33, 1, 1), block (32, 1, 1), 0 bytes of shared memory" in out


def test_no_room(run):
    out, log = run("""
device = get_device("cuda")
held = device.empty(150_000)
dropped = device.empty(60_000)
del dropped
fails(MemoryError, device.empty, 150_000)
device.empty(80_000)                                        # the dropped one's, and more
""", DOUBLE_MEMORY="1000000")
    assert out == ("the GPU has no 600,000 bytes left; the arrays of this process have 655,360 "
                   "there\n")
    assert log["most"] <= 1_000_000


@pytest.mark.parametrize(("failing", "words"), [
    ("cuInit:100", "the driver sees no GPU\n  (looked at: cuInit: cuInit failed: no CUDA-capable"),
    ("cuInit:999", "does not answer"),
    ("cuInit:803", "the driver was updated while in use"),
    ("cuDeviceGet:101", "there is no GPU of this number"),
    ("cuDevicePrimaryCtxRetain:2", "no memory is left on the GPU for CUDA itself"),
])
def test_a_gpu_that_cannot_be_used(run, failing, words):
    out, _ = run("fails(CudaError, get_device, 'cuda')\n", DOUBLE_FAIL=failing)
    assert words in out


def test_a_cubin_that_the_driver_refuses(run):
    out, _ = run("fails(CudaError, load, 'softmax.cu', get_device('cuda'))\n",
                 DOUBLE_FAIL="cuModuleLoadDataEx:200")
    assert "cannot run what nvcc made" in out and "softmax.cu, compiled for sm_90, on test" in out


def test_a_launch_that_the_driver_refuses(run):
    out, _ = run("""
device = get_device("cuda")
fails(KernelError, softmax, device, x)
assert (device.from_numpy(x).numpy() == x).all()            # the context is not lost
""", DOUBLE_FAIL="cuLaunchKernel:701")
    assert "softmax_warp: the GPU refused the launch" in out
    assert "too many resources requested for launch" in out and "32 registers a thread" in out


# --- recorded steps: CUDA graphs

STEP = """
from kernels.recording import Changing, Recording
def step(device, x, draw):
    y, z = device.empty(x.shape), device.empty(x.shape)
    device.copy(y, x)
    load("probe.cu", device)["probe_axpy"](2.0, x, y, x.size, grid=20, block=128)
    load("dropout.cu", device)["dropout_eight"](y, z, x.size, 5, draw, 2**31, 2.0, grid=2, block=64)
    return z

def record(device, steps):
    on_device, recording, results = device.from_numpy(x), Recording(device), []
    for draw in range(steps):
        if recording.is_ready:
            recording.replay(draw=draw)
        else:
            with recording.take(draw=draw):
                y = step(device, on_device, Changing(draw, "draw"))
        results.append(y.numpy())
    return results

def plain(device, steps):
    return [step(device, device.from_numpy(x), draw).numpy() for draw in range(steps)]
"""


def test_a_recorded_step_is_one_cuda_graph(run):
    _, log = run(STEP + """
device = get_device("cuda")
assert all((a == b).all() for a, b in zip(record(device, 5), plain(device, 5)))
thread = threading.Thread(target=record, args=(device, 3))
thread.start()
thread.join()
""")
    assert (log["graphs"], log["graphs_left"]) == (2, 0)
    assert (log["graph_launches"], log["updates"]) == (4, 4)
    assert log["launched"] == 2 * (5 + 5 + 3)


def test_checked_replays_launch_by_launch(run):
    _, log = run(STEP + """
device = get_device("cuda", checked=True)
assert all((a == b).all() for a, b in zip(record(device, 4), plain(device, 4)))
""")
    assert (log["graphs"], log["launched"]) == (0, 2 * (4 + 4))


@pytest.mark.parametrize("function", ["cuGraphCreate", "cuGraphAddKernelNode_v2",
                                      "cuGraphAddMemcpyNode", "cuGraphInstantiateWithFlags",
                                      "cuGraphExecKernelNodeSetParams_v2", "cuGraphLaunch"])
def test_a_graph_that_the_driver_refuses(run, function):
    out, _ = run(STEP + "fails(CudaError, record, get_device('cuda'), 3)\n",
                 DOUBLE_FAIL=f"{function}:1")
    assert out.startswith("the NVIDIA driver refused\n  (looked at: ")
    assert "a recorded step of 2 launches: " in out
    assert f"{function} failed: CUDA_ERROR_SOME_OTHER: invalid argument" in out


def test_a_fault_in_a_recorded_step(run):
    out, _ = run(STEP + """
device = get_device("cuda")
recording, y = Recording(device), device.from_numpy(x)
for n in (x.size, x.size, 10**7):
    number = Changing(n, "n")
    if recording.is_ready:
        recording.replay(n=n)
    else:
        with recording.take(n=n):
            load("probe.cu", device)["probe_axpy"](1.0, y, y, number, grid=10**5, block=128)
fails(KernelError, y.numpy)
fails(KernelError, recording.replay, n=3)
""", complaints=r"driver_double: probe_axpy: .*")
    assert "launched last: probe_axpy, making a CUDA graph of a recorded step of 1 launches, " \
        "a recorded step of 1 launches" in out


def test_a_driver_without_graphs(run, doubles, tmp_path):
    source = (driver_double.HERE / "driver_double.c").read_text()
    new, old = "cuGraphAddKernelNode_v2", "cuGraphAddKernelNode"
    (tmp_path / "old.c").write_text(source.replace(new, old))
    subprocess.run(["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", str(tmp_path / "old.c"),
                    "-o", str(tmp_path / "libcuda.so.1"), "-ldl"], check=True)
    out, _ = run(STEP + "fails(CudaError, record, get_device('cuda'), 3)\n",
                 LD_LIBRARY_PATH=str(tmp_path))
    assert "no CUDA graphs as CUDA 12 has them" in out and "cuGraphAddKernelNode_v2" in out
