"""What the emulator must tell of: bugs planted in kernels, and wrong arguments."""

import numpy as np
import pytest

from kernels.device import get_device
from kernels.emulator import build
from kernels.launch import KernelError, Module, load
from kernels.signature import packing, read_signatures

SHARED = """extern "C" __global__ void k(const float* x, float* y, int n) {
    __shared__ float s[64];
    int i = threadIdx.x;
    %s
}"""
GLOBAL = """extern "C" __global__ void k(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    %s
}"""

# name: (template, body, the message's first words). Each is run with 2 blocks of 64 threads on
# x and y of n = 128; the fault is on line 4.
PLANTED = {
    "one past the end": (GLOBAL, "y[i + 1] = x[i];", "out of bounds"),
    "one before the start": (GLOBAL, "y[i] = x[i - 1];", "out of bounds"),
    "far out": (GLOBAL, "y[i] = x[i * 1000];", "out of bounds"),
    "past a shared array": (SHARED, "s[i + 1] = 0.0f;", "out of bounds"),
    "shared, unwritten": (SHARED, "y[i] = s[i];", "uninitialised"),
    "global, unwritten": (GLOBAL, "y[i] += x[i];", "uninitialised"),
    "misaligned": (GLOBAL, "*(float2*)(y + 1) = make_float2(1, 2);", "misaligned"),
    "no barrier": (SHARED, "s[i] = 0; __syncthreads(); s[i] = x[i]; y[i] = s[63 - i];", "race"),
    "no syncwarp": (SHARED, "s[i] = 0; __syncthreads(); s[i] = x[i]; y[i] = s[i ^ 1];", "race"),
    "overwritten too early": (
        SHARED, "s[i] = x[i]; __syncthreads(); float v = s[63 - i]; s[i] = v;", "race"),
    "blocks add": (GLOBAL, "if (i % 64 == 0) y[0] = x[i];", "race"),
    "half a barrier": (SHARED, "if (i < 32) __syncthreads();", "divergent barrier"),
    "two barriers": (
        SHARED, "if (i < 32) __syncthreads(); else\n__syncthreads();", "divergent barrier"),
    "not in its mask": (SHARED, "y[i] = __shfl_sync(1u, 1.0f, 0);", "__shfl_sync"),
    "lanes that never come": (
        SHARED, "if (i & 1) __syncwarp(); else __syncthreads();", "deadlock"),
}
CORRECT = {
    "barrier": (SHARED, "s[i] = x[i]; __syncthreads(); y[blockIdx.x * 64 + i] = s[63 - i];"),
    "syncwarp": (SHARED, "s[i] = x[i]; __syncwarp(); y[blockIdx.x * 64 + i] = s[i ^ 1];"),
    "reread": (SHARED, "s[i] = x[i]; __syncthreads(); float v = s[63 - i]; __syncthreads(); "
                       "s[i] = v; y[blockIdx.x * 64 + i] = s[i];"),
    "atomic": (SHARED, "if (i == 0) s[0] = 0; __syncthreads(); atomicAdd(&s[0], 1);"),
    "early return": (SHARED, "if (i >= 40) return; y[blockIdx.x * 64 + i] = "
                             "__shfl_xor_sync(0xffffffffu, x[i], 1);"),
}


@pytest.fixture
def compiled(tmp_path, tmp_path_factory, monkeypatch):
    try:
        build.compiler()
    except build.CompilerNotFoundError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("MINIGPT_KERNEL_CACHE", str(tmp_path_factory.getbasetemp() / "kernels"))

    def make(source, checked):
        (tmp_path / "bug.cu").write_text(source)
        return Module(tmp_path / "bug.cu", get_device("emulator", checked))["k"]
    return make


def launch(kernel, order="forward"):
    device = kernel.device
    x, y = device.from_numpy(np.arange(128, dtype=np.float32)), device.empty(128)
    kernel(x, y, 128, grid=2, block=64, order=order)
    return y.numpy()


@pytest.mark.slow
@pytest.mark.parametrize("order", ["forward", "reverse", 7])
@pytest.mark.parametrize("name", PLANTED)
def test_planted_bugs_are_found(compiled, name, order):
    template, body, words = PLANTED[name]
    kernel = compiled(template % ("\n" * (4 - 1 - template[:template.index("%")].count("\n"))
                                  + body), checked=True)
    with pytest.raises(KernelError, match=rf"^bug\.cu:[45]: k: {words}"):
        launch(kernel, order)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["forward", "reverse", 7])
@pytest.mark.parametrize("name", CORRECT)
def test_correct_kernels_are_let_pass(compiled, name, order):
    template, body = CORRECT[name]
    launch(compiled(template % body, checked=True), order)


@pytest.mark.slow
def test_a_fault_in_fast_mode_is_an_exception_and_the_next_launch_works(compiled):
    with pytest.raises(KernelError, match="out of bounds"):
        launch(compiled(GLOBAL % "y[i + 1000] = 1;", checked=False))
    y = launch(compiled(GLOBAL % "y[i] = x[i] + 1;", checked=False))
    np.testing.assert_array_equal(y, np.arange(128) + 1)


COPY = """#include "common.cuh"
extern "C" __global__ void k(const float* x, Dims shape, Dims strides, unsigned char flip, float* y,
                             unsigned long long n) {
    unsigned long long i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    long long from = i / shape.n[1] * strides.n[0] + i % shape.n[1] * strides.n[1];
    y[i] = flip ? -x[from] : x[from];
}"""


@pytest.mark.slow
@pytest.mark.parametrize("checked", [False, True])
def test_dims_travel_by_value_and_a_strided_array_is_passed_as_such(compiled, checked):
    kernel = compiled(COPY.replace("unsigned char flip", "int flip"), checked)
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
        compiled(COPY, checked)


ADD_MANY = """#include "common.cuh"
extern "C" __global__ void k(Table arrays, int count, const float* OPTIONAL factor, float* y) {
    float sum = 0.0f;
    for (int i = 0; i < count; i++) sum += *(const float*)arrays.n[i];
    y[0] = factor ? sum * factor[0] : sum;
}"""


@pytest.mark.slow
@pytest.mark.parametrize("checked", [False, True])
def test_a_table_of_addresses_and_an_optional_pointer(compiled, checked):
    kernel = compiled(ADD_MANY, checked)
    arrays = [kernel.device.from_numpy(np.full(1, 2.0**i, np.float32)) for i in range(20)]
    factor, y = kernel.device.from_numpy(np.full(1, 3, np.float32)), kernel.device.empty(1)
    for given, expected in [(None, 2.0**20 - 1), (factor, 3 * (2.0**20 - 1))]:
        kernel(tuple(a.pointer for a in arrays), 20, given, y, grid=1, block=1)
        assert y.numpy() == expected
    with pytest.raises(TypeError, match="'y' .*wants a DeviceArray, not NoneType"):
        kernel((), 0, None, None, grid=1, block=1)
    with pytest.raises(TypeError, match="'arrays' is Table arrays and wants .*up to 64 integers"):
        kernel((0,) * 65, 0, None, y, grid=1, block=1)


@pytest.mark.slow
def test_a_wrong_argument_is_named(compiled):
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
    with pytest.raises(MemoryError, match="400,000,000,000,000 bytes"):
        device.empty(10**14)


def test_no_compiler_is_said_clearly(monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent")
    build.compiler.cache_clear()
    try:
        with pytest.raises(build.CompilerNotFoundError, match="/nonexistent.*the variable CXX"):
            build.compiler()
    finally:
        build.compiler.cache_clear()


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
    (kernel,) = read_signatures('''extern "C" __global__ void k(
        const float* __restrict__ OPTIONAL x, float* OPTIONAL y, float* z,
        Table many)''', "a.cu").values()
    assert list(map(str, kernel)) == ["float* x", "float* y", "float* z", "Table many"]
    assert [parameter.optional for parameter in kernel] == [True, True, False, False]
