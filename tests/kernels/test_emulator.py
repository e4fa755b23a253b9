"""The emulator as a device: what it takes, what it refuses, and that nothing harms the process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kernels.device import get_device
from kernels.emulator import build
from kernels.emulator.device import EmulatorDevice
from kernels.launch import KernelError, Module, load
from kernels.signature import packing, read_launch_bounds, read_signatures
from tests.kernels.emulated import maker, needs_compiler

ROOT = Path(__file__).parents[2]
ADD = """extern "C" __global__ void k(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] + 1;
}"""


@pytest.fixture
def make(tmp_path):
    needs_compiler()
    return maker(tmp_path)


def add(kernel, n=128, **options):
    device = kernel.device
    x, y = device.from_numpy(np.arange(n, dtype=np.float32)), device.empty(n)
    kernel(x, y, n, **{"grid": 2, "block": 64, **options})
    return y.numpy()


def python(code: str, folder: Path, **environment: str) -> subprocess.Popen:
    """Another process that runs some code, with its cache of kernels in a folder."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT),
                 "MINIGPT_KERNEL_CACHE": str(folder / "cache"), **environment}
    return subprocess.Popen([sys.executable, "-c", code], env=variables, text=True, cwd=folder,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def output_of(process: subprocess.Popen) -> str:
    """All that it prints until it ends; one that doesn't in two minutes is killed, not left."""
    try:
        return process.communicate(timeout=120)[0]
    finally:
        process.kill()


def finish(process: subprocess.Popen) -> str:
    output = output_of(process)
    assert process.returncode == 0, output
    return output


# --- arguments

COPY = """#include "common.cuh"
extern "C" __global__ void k(const float* x, Dims shape, Dims strides, int flip, float* y,
                             unsigned long long n) {
    unsigned long long i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    long long from = i / shape.n[1] * strides.n[0] + i % shape.n[1] * strides.n[1];
    y[i] = flip ? -x[from] : x[from];
}"""


@pytest.mark.slow
@pytest.mark.parametrize("checked", [False, True])
def test_dims_travel_by_value_and_a_strided_array_is_passed_as_such(make, checked):
    kernel = make(COPY, checked)["k"]
    host = np.arange(12, dtype=np.float32).reshape(3, 4)
    x = kernel.device.from_numpy(host)[::-1, 1:].permute((1, 0))
    y = kernel.device.empty(x.shape)
    kernel.device.launches = 0
    kernel(x.strided, x.shape, x.strides, 1, y, x.size, grid=1, block=32)
    np.testing.assert_array_equal(y.numpy(), -host[::-1, 1:].T)
    assert kernel.device.launches == 1
    with pytest.raises(TypeError, match="'shape' is Dims shape and wants .*up to 8 integers"):
        kernel(x.strided, (1,) * 9, x.strides, 1, y, x.size, grid=1, block=32)
    with pytest.raises(ValueError, match="cannot pass the parameter 'unsigned char flip'"):
        make(COPY.replace("int flip", "unsigned char flip"), checked)


@pytest.mark.slow
def test_a_wrong_argument_is_named(make):
    device = get_device("emulator")
    softmax = load("softmax.cu", device)["softmax_naive"]
    x = device.empty((2, 3))
    with pytest.raises(TypeError, match="takes 4 arguments .*not 3"):
        softmax(x, x, 2, grid=1, block=32)
    with pytest.raises(TypeError, match="'y' is float. y and wants float32 elements, not int32"):
        softmax(x, device.empty((2, 3), np.int32), 2, 3, grid=1, block=32)
    with pytest.raises(TypeError, match="'x' .*wants a DeviceArray, not ndarray"):
        softmax(np.zeros(6, np.float32), x, 2, 3, grid=1, block=32)
    with pytest.raises(TypeError, match="'cols' .*wants an integer, not 3.0"):
        softmax(x, x, 2, 3.0, grid=1, block=32)
    with pytest.raises(TypeError, match="'x' .*contiguous.*strides .1, 3."):
        softmax(x.permute((1, 0)), x, 2, 3, grid=1, block=32)
    with pytest.raises(TypeError, match="'x' .*the array is on <device 'emulator', checked>"):
        softmax(get_device("emulator", True).empty((2, 3)), x, 2, 3, grid=1, block=32)
    with pytest.raises(ValueError, match="'cols' .*does not fit"):
        softmax(x, x, 2, 2**31, grid=1, block=32)
    with pytest.raises(ValueError, match="2048"):
        softmax(x, x, 2, 3, grid=1, block=2048)
    with pytest.raises(ValueError, match=r"grid=\(1, 70000\)"):
        softmax(x, x, 2, 3, grid=(1, 70000), block=32)
    with pytest.raises(ValueError, match="order is .*not 'sideways'"):
        softmax(x, x, 2, 3, grid=1, block=32, order="sideways")
    with pytest.raises(KeyError, match="softmax.cu has no kernel 'sofmax', but softmax_naive"):
        load("softmax.cu", device)["sofmax"]


def test_launch_bounds_are_read_from_the_source():
    source = '''extern "C" __global__ void __launch_bounds__(128, 3) a(int n) {}
        extern "C" __global__ void b(int n) {}
        extern "C" __global__ void __launch_bounds__( 64 )
        c(int n) {} // __launch_bounds__(32) b'''
    assert read_launch_bounds(source) == {"a": 128, "c": 64}
    assert list(read_signatures(source, "a.cu")) == ["a", "b", "c"]


def test_signatures_are_read_from_the_source():
    (kernel,) = read_signatures('''extern "C" __global__ void // k(int wrong)
        __launch_bounds__(256) k(const float* __restrict__ x, long long n)''', "a.cu").values()
    assert list(map(str, kernel)) == ["float* x", "long long n"]
    with pytest.raises(ValueError, match='declare the kernel k extern "C"'):
        read_signatures("__global__ void k(int n) {}", "a.cu")
    with pytest.raises(ValueError, match="cannot pass the parameter 'char. p'"):
        read_signatures('extern "C" __global__ void k(char* p) {}', "a.cu")
    (kernel,) = read_signatures('''extern "C" __global__ void k(unsigned int n, Dims shape,
        const half* __restrict__ x, unsigned long long m)''', "a.cu").values()
    assert list(map(str, kernel)) == ["unsigned n", "Dims shape", "__half* x",
                                      "unsigned long long m"]
    assert packing(kernel)[1] == [0, 8, 72, 80]         # as in a C struct


# --- faults and signals

@pytest.mark.slow
def test_a_fault_in_fast_mode_is_an_exception_and_the_next_launch_works(make):
    bad = make(ADD.replace("y[i] = x[i]", "y[i + 10000] = x[i]"))["k"]
    good = make(ADD)["k"]
    for order in ("forward", "reverse", 5):
        with pytest.raises(KernelError, match=r"test.cu:3: k: out of bounds: .*touches byte 4\d+ "
                                              "of an array of 512 bytes"):
            add(bad, order=order)
        np.testing.assert_array_equal(add(good, order=order), np.arange(128) + 1)


ENDLESS = """
import sys
from pathlib import Path
import numpy as np
from kernels.device import get_device
from kernels.launch import Module
Path("endless.cu").write_text('''extern "C" __global__ void endless(float* x) {
    volatile float v = 0;
    while (blockIdx.x < 4) v = v + 1;
    x[0] = v;
}
extern "C" __global__ void one(float* x) { x[0] = 1; }''')
device = get_device("emulator")
module = Module(Path("endless.cu"), device)
x = device.empty(1)
try:
    print("running", flush=True)
    module["endless"](x, grid=8, block=64)
except KeyboardInterrupt:
    module["one"](x, grid=1, block=1)
    print("interrupted, then", x.numpy()[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_ends_an_endless_kernel_and_the_process_goes_on(make, tmp_path, workers):
    process = python(ENDLESS, tmp_path, MINIGPT_EMULATOR_THREADS=workers)
    assert process.stdout.readline() == "running\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert finish(process) == "interrupted, then 1.0\n"


PATIENT = """
import signal
from pathlib import Path
from kernels.device import get_device
from kernels.launch import Module
seen = []
signal.signal(signal.SIGINT, lambda *_: seen.append("ours"))
Path("long.cu").write_text('''extern "C" __global__ void spin(float* x, int n) {
    volatile float v = 0;
    for (int i = 0; i < n; i++) v = 1;
    while (n == 0) v = v + 1;
    x[blockIdx.x] = v;
}''')
device = get_device("emulator")
spin = Module(Path("long.cu"), device)["spin"]
x = device.empty(8)
print("running", flush=True)
spin(x, 1 << 28, grid=8, block=1)
print(x.numpy().sum(), *seen, flush=True)
try:
    spin(x, 0, grid=8, block=1)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_handler_of_ctrl_c_is_for_after_the_launch_but_the_second_ctrl_c_ends_it(
    make, tmp_path, workers
):
    process = python(PATIENT, tmp_path, MINIGPT_EMULATOR_THREADS=workers)
    assert process.stdout.readline() == "running\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "8.0 ours\n"
    for _ in range(2):
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
    assert finish(process) == "interrupted\n"


HANDLERS = """
import ctypes, faulthandler, signal
from pathlib import Path
from kernels.device import get_device
from kernels.launch import Module
seen = []
signal.signal(signal.SIGINT, lambda *_: seen.append("ours"))
Path("one.cu").write_text('extern "C" __global__ void one(float* x) { x[0] = 1; }')
device = get_device("emulator")
one = Module(Path("one.cu"), device)["one"]
x = device.empty(1)
one(x, grid=1, block=1)
signal.raise_signal(signal.SIGINT)
assert seen == ["ours"], seen
faulthandler.enable()
one(x, grid=1, block=1)
print("still here", flush=True)
ctypes.string_at(0)             # a fault of another's: as if the emulator were not there
"""


@pytest.mark.slow
def test_other_handlers_of_signals_keep_working(make, tmp_path):
    process = python(HANDLERS, tmp_path)
    output = output_of(process)
    assert output.startswith("still here\n") and "Segmentation fault" in output
    assert process.returncode == -signal.SIGSEGV


# --- several workers

SUMS = """extern "C" __global__ void sums(const int* x, int* y, int* total, int n) {
    __shared__ int s[64];
    int i = blockIdx.x * blockDim.x + threadIdx.x, t = threadIdx.x;
    s[t] = i < n ? x[i] : 0;
    __syncthreads();
    for (int by = 32; by > 0; by /= 2) {
        if (t < by) s[t] += s[t + by];
        __syncthreads();
    }
    if (t == 0) { y[blockIdx.x] = s[0]; atomicAdd(total, s[0]); }
}
extern "C" __global__ void bad(int* x) { if (blockIdx.x >= 40) x[10000] = 1; }"""


@pytest.mark.slow
def test_several_workers_give_the_same_results(make):
    device = EmulatorDevice(False)
    path = make(SUMS).path
    sums, bad = (Module(path, device)[name] for name in ("sums", "bad"))
    x = np.random.default_rng(0).integers(0, 100, 6400).astype(np.int32)
    for device.workers in (1, 2, 5, 16):
        for order in ("forward", "reverse", 3):
            y, total = device.empty(100, np.int32), device.from_numpy(np.zeros(1, np.int32))
            sums(device.from_numpy(x), y, total, x.size, grid=100, block=64, order=order)
            np.testing.assert_array_equal(y.numpy(), x.reshape(100, 64).sum(1))
            assert total.numpy()[0] == x.sum()
        with pytest.raises(KernelError, match="out of bounds"):
            bad(y, grid=100, block=64)


@pytest.mark.slow
def test_a_wrong_number_of_workers_is_named(make, monkeypatch):
    for text in ("0", "17", "two"):
        monkeypatch.setenv("MINIGPT_EMULATOR_THREADS", text)
        with pytest.raises(ValueError, match=f"MINIGPT_EMULATOR_THREADS is '{text}': .*1 to 16"):
            EmulatorDevice(False)


# --- memory

@pytest.mark.slow
@pytest.mark.parametrize("checked", [False, True])
def test_new_memory_holds_nan_also_where_it_was_used_before(make, checked):
    device = get_device("emulator", checked)
    for _ in range(3):
        for size in (1, 1000, 5000):
            x, y = device.empty(size), device.empty(size)
            assert np.isnan(x.numpy()).all()
            device.write(x, np.zeros(size, np.float32))
            assert not x.numpy().any()
            device.copy(y, x)
            assert not y.numpy().any()


LIMITED = """
import resource
from pathlib import Path
from kernels.device import get_device
from kernels.launch import Module
device = get_device("emulator", %r)
Path("one.cu").write_text('extern "C" __global__ void one(float* x) { x[0] = 1; }')
one = Module(Path("one.cu"), device)["one"]
x = device.empty(1)
most = resource.getrlimit(resource.RLIMIT_AS)[1]
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

def refused(room, action):
    resource.setrlimit(resource.RLIMIT_AS, (in_use + room, most))
    try:
        action()
        print("no error")
    except MemoryError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))

refused(100 << 20, lambda: one(x, grid=1, block=1))
refused(1 << 30, lambda: device.empty(2**29))
one(x, grid=1, block=1)
print(x.numpy()[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize("checked", [False, True])
def test_a_refused_reservation_is_a_memory_error(make, tmp_path, checked):
    lines = finish(python(LIMITED % checked, tmp_path)).splitlines()
    assert lines == [
        "one: the system refused 268435456 bytes of address space for the stacks of 1 threads",
        "the emulator got no memory for an array of 2,147,483,648 bytes", "1.0"]


# --- compiling

def test_no_compiler_is_said_clearly(monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent")
    build.compiler.cache_clear()
    try:
        with pytest.raises(build.CompilerNotFoundError, match="/nonexistent.*the variable CXX"):
            build.compiler()
    finally:
        build.compiler.cache_clear()


@pytest.mark.slow
def test_what_cannot_be_compiled_has_file_and_line_or_says_what_to_write(make):
    with pytest.raises(build.CompileError, match=r"test.cu:3:\d+: error: .*z.* was not declared"):
        make(ADD.replace("x[i] + 1", "z[i]"))
    with pytest.raises(ValueError, match="write `__shared__ float a, b;.* as `__shared__ float na"):
        make(ADD.replace("int i", "__shared__ float a, b; int i"))


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_named(make, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINIGPT_KERNEL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match="cannot keep compiled kernels in .*cache: Not a directory; "
                                      "set MINIGPT_KERNEL_CACHE"):
        build.library("none", {"none.cpp": ""}, [], [])


COMPILE = """
from kernels.device import get_device
from kernels.launch import load
import numpy as np
device = get_device("emulator")
x, y = device.from_numpy(np.zeros((2, 3), np.float32)), device.empty((2, 3))
load("softmax.cu", device)["softmax_naive"](x, y, 2, 3, grid=1, block=32)
print(y.numpy().sum())
"""


@pytest.mark.slow
def test_processes_that_compile_the_same_at_once(make, tmp_path):
    processes = [python(COMPILE, tmp_path) for _ in range(3)]
    assert [finish(process) for process in processes] == ["2.0\n"] * 3
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "cache").iterdir())
    assert names == ["runtime", "softmax"]      # one of each, and nothing left over
