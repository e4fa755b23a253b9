"""The wrappers of ptx.cuh on the emulator: what each computes, and that mistakes with them show."""

import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from kernels.cuda_compile import OPTIONS
from kernels.launch import KernelError, Module
from kernels.signature import read_architectures
from tests.kernels.devices import normal
from tests.kernels.emulated import maker, needs_compiler, nvcc_takes

pytestmark = pytest.mark.slow
ORDERS = ["forward", "reverse", 7]

# Each kernel is one warp but `ring`. The places of a matrix's elements are written out here once
# more, from the figures of the PTX ISA (mma.m16n8k8 with .tf32, mma.m16n8k16 with .bf16).
SOURCE = r"""
#include "ptx.cuh"
extern "C" __global__ void SINCE_SM(80) rows(const float* x, unsigned* y, int trans) {
#if HAS_SM_80
    __shared__ float4 s[32];
    int lane = threadIdx.x;
    s[lane] = reinterpret_cast<const float4*>(x)[lane];
    __syncthreads();
    unsigned out[4];
    if (trans) ldmatrix_trans(out, s + lane);
    else ldmatrix(out, s + lane);
    for (int i = 0; i < 4; i++) y[32 * i + lane] = out[i];
#endif
}
extern "C" __global__ void SINCE_SM(80) tf32(const float* a, const float* b, float* c) {
#if HAS_SM_80
    int group = threadIdx.x >> 2, in_group = threadIdx.x & 3;
    unsigned A[4], B[2];
    A[0] = to_tf32(a[group * 8 + in_group]);
    A[1] = to_tf32(a[(group + 8) * 8 + in_group]);
    A[2] = to_tf32(a[group * 8 + in_group + 4]);
    A[3] = to_tf32(a[(group + 8) * 8 + in_group + 4]);
    B[0] = to_tf32(b[in_group * 8 + group]);
    B[1] = to_tf32(b[(in_group + 4) * 8 + group]);
    float C[4] = {1.0f, 2.0f, 3.0f, 4.0f};
    mma_tf32(C, A, B);
    c[group * 8 + 2 * in_group] = C[0], c[group * 8 + 2 * in_group + 1] = C[1];
    c[(group + 8) * 8 + 2 * in_group] = C[2], c[(group + 8) * 8 + 2 * in_group + 1] = C[3];
#endif
}
extern "C" __global__ void SINCE_SM(80) bf16(const float* a, const float* b, float* c) {
#if HAS_SM_80
    int group = threadIdx.x >> 2, in_group = threadIdx.x & 3, k = 2 * in_group;
    unsigned A[4], B[2];
    const float *low = a + group * 16 + k, *high = a + (group + 8) * 16 + k;
    A[0] = to_bf16(low[0], low[1]), A[1] = to_bf16(high[0], high[1]);
    A[2] = to_bf16(low[8], low[9]), A[3] = to_bf16(high[8], high[9]);
    B[0] = to_bf16(b[k * 8 + group], b[(k + 1) * 8 + group]);
    B[1] = to_bf16(b[(k + 8) * 8 + group], b[(k + 9) * 8 + group]);
    float C[4] = {1.0f, 2.0f, 3.0f, 4.0f};
    mma_bf16(C, A, B);
    c[group * 8 + 2 * in_group] = C[0], c[group * 8 + 2 * in_group + 1] = C[1];
    c[(group + 8) * 8 + 2 * in_group] = C[2], c[(group + 8) * 8 + 2 * in_group + 1] = C[3];
#endif
}
extern "C" __global__ void SINCE_SM(80) rounded(const float* x, unsigned* y, int n) {
#if HAS_SM_80
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        y[i] = to_tf32(x[i]);
        y[n + i] = to_bf16(x[i], x[n - 1 - i]);
    }
#endif
}
extern "C" __global__ void SINCE_SM(80) pieces(const float* x, float* y, int size, int bytes) {
#if HAS_SM_80
    __shared__ float4 s[32];
    if (size == 4) cp_async<4>(s + threadIdx.x, x + 4 * threadIdx.x, bytes);
    else if (size == 8) cp_async<8>(s + threadIdx.x, x + 4 * threadIdx.x, bytes);
    else cp_async<16>(s + threadIdx.x, x + 4 * threadIdx.x, bytes);
    cp_async_commit();
    cp_async_wait<0>();
    const float* mine = reinterpret_cast<const float*>(s + threadIdx.x);
    for (int i = 0; i < size / 4; i++) y[4 * threadIdx.x + i] = mine[i];
#endif
}
// y = the sum over `tiles` of each tile of 4 blockDim.x floats, reversed, two at a time
extern "C" __global__ void SINCE_SM(80) ring(const float* X, float* Y, int tiles) {
#if HAS_SM_80
    const float4* x = reinterpret_cast<const float4*>(X);
    float4* y = reinterpret_cast<float4*>(Y);
    __shared__ float4 s[3][64];
    int i = threadIdx.x, n = blockDim.x;
    float4 sum = make_float4(0, 0, 0, 0);
    for (int t = 0; t < 2; t++) {
        if (t < tiles) cp_async<16>(&s[t][i], x + t * n + i, 16);
        cp_async_commit();
    }
    for (int t = 0; t < tiles; t++) {
        cp_async_wait<1>();
        __syncthreads();
        if (t + 2 < tiles) cp_async<16>(&s[(t + 2) % 3][i], x + (t + 2) * n + i, 16);
        cp_async_commit();
        float4 v = s[t % 3][n - 1 - i];
        sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
    }
    y[i] = sum;
#endif
}
"""


@pytest.fixture(scope="module", params=[False, True], ids=["fast", "checked"])
def module(request, tmp_path_factory):
    needs_compiler()
    return maker(tmp_path_factory.mktemp("ptx"))(SOURCE, request.param)


def run(module, name, inputs, shape, *values, dtype=np.float32, block=32, order="forward"):
    on = module.device.from_numpy
    y = module.device.empty(shape, dtype)
    arrays = [on(np.ascontiguousarray(x)) for x in inputs]
    module[name](*arrays, y, *values, grid=1, block=block, order=order)
    return y.numpy()


def tf32(x):
    """To 10 bits after the point, ties away from zero."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    units = np.ldexp(np.abs(mantissa), 11)
    return np.copysign(np.ldexp(np.floor(units + 0.5), exponent - 11), x).astype(np.float32)


def bf16(x):
    """To 7 bits after the point, ties to even."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.rint(np.ldexp(mantissa, 8)), exponent - 8).astype(np.float32)


@pytest.mark.parametrize("order", ORDERS)
def test_ldmatrix(module, order):
    halves = np.arange(256, dtype=np.uint16)
    got = run(module, "rows", [halves.view(np.float32)], (4, 8, 4), 0, dtype=np.uint32, order=order)
    np.testing.assert_array_equal(got.view(np.uint16).reshape(4, 8, 8), halves.reshape(4, 8, 8))
    got = run(module, "rows", [halves.view(np.float32)], (4, 8, 4), 1, dtype=np.uint32, order=order)
    np.testing.assert_array_equal(got.view(np.uint16).reshape(4, 8, 8),
                                  halves.reshape(4, 8, 8).swapaxes(1, 2))


@pytest.mark.parametrize(("name", "depth", "rounding"), [("tf32", 8, tf32), ("bf16", 16, bf16)])
@pytest.mark.parametrize("order", ORDERS)
def test_mma(module, name, depth, rounding, order):
    a, b = normal(0, (16, depth), (depth, 8))
    c = np.tile([[1.0, 2.0]], (16, 4)) + np.repeat([0, 2], 8)[:, None]
    got = run(module, name, [a, b], (16, 8), order=order)
    exact = rounding(a).astype(np.float64) @ rounding(b) + c
    np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-5)


def test_rounding(module):
    edges = [1 + 2**-11, -1 - 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, 1 + 3 * 2**-8, 0.0, -0.0, 1e-3,
             3e38, np.inf, -np.inf]
    x = np.concatenate([normal(0, (501,))[0], np.float32(edges)])
    got = run(module, "rounded", [x], (2, x.size), x.size, dtype=np.uint32)
    finite = np.isfinite(x)
    np.testing.assert_array_equal(got[0].view(np.float32)[finite], tf32(x[finite]))
    np.testing.assert_array_equal(got[0].view(np.float32)[~finite], x[~finite])
    low, high = got[1] << np.uint32(16), got[1] & np.uint32(0xFFFF0000)
    np.testing.assert_array_equal(low.view(np.float32)[finite], bf16(x[finite]))
    np.testing.assert_array_equal(high, low[::-1])


@pytest.mark.parametrize(("size", "wanted"), [(16, 16), (16, 12), (16, 4), (16, 0), (8, 8), (8, 4),
                                             (4, 4), (4, 0)])
def test_copies_end_in_zeros(module, size, wanted):
    (x,) = normal(0, (32, 4))
    got = run(module, "pieces", [x], (32, 4), size, wanted)[:, : size // 4]
    np.testing.assert_array_equal(got[:, : wanted // 4], x[:, : wanted // 4])
    np.testing.assert_array_equal(got[:, wanted // 4 :], 0)


def ring_is_right(module, order):
    (x,) = normal(0, (7, 64, 4))
    for tiles in (1, 2, 3, 7):
        got = run(module, "ring", [x], (64, 4), tiles, block=64, order=order)
        if not np.allclose(got, x[:tiles].sum(0)[::-1], rtol=1e-5, atol=1e-5):
            return False
    return True


@pytest.mark.parametrize("order", ORDERS)
def test_a_ring_of_copies(module, order):
    assert ring_is_right(module, order)


WAIT, BARRIER = "        cp_async_wait<1>();\n", "        __syncthreads();\n        if (t + 2"
BUGS = {
    "no wait": (WAIT, "", "unlanded"),
    "waits for too few": (WAIT, WAIT.replace("1", "2"), "unlanded"),
    "no barrier": (BARRIER, BARRIER.partition("\n")[2], "uninitialised|unlanded|race"),
    "barrier before the wait": (WAIT + BARRIER, BARRIER.partition("\n")[0] + "\n" + WAIT
                                + BARRIER.partition("\n")[2], "uninitialised|unlanded|race"),
    "never committed": ("        cp_async_commit();\n", "", "unlanded"),
    "two buffers for three": ("(t + 2) % 3][i]", "t % 3][i]", "uninitialised|unlanded|race"),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_show(tmp_path, bug, order):
    """In the checked mode each is named; the fast mode's numbers are wrong without the wait."""
    needs_compiler()
    old, new, words = BUGS[bug]
    assert SOURCE.count(old) in (1, 2)      # both commits go, of the prologue and of the loop
    source = SOURCE.replace(old, new)
    with pytest.raises(KernelError, match=rf"^test\.cu:\d+: ring: ({words})"):
        ring_is_right(maker(tmp_path)(source, True), order)
    if words == "unlanded":
        assert not ring_is_right(maker(tmp_path)(source), order)


def test_what_an_older_gpu_is_told(tmp_path):
    nvcc_takes(SOURCE, tmp_path)
    for arch in ("sm_75", "sm_90"):
        run = subprocess.run(["nvcc", *OPTIONS, f"-arch={arch}", str(tmp_path / "test.cu"), "-o",
                              str(tmp_path / "test.cubin")], capture_output=True, text=True)
        assert (run.returncode, run.stdout + run.stderr) == (0, "")


def test_a_gpu_without_the_instructions_is_refused_by_name(tmp_path):
    (tmp_path / "old.cu").write_text(SOURCE)
    assert read_architectures(SOURCE)["ring"] == 80
    entries = {name: name for name in read_architectures(SOURCE)}
    old = SimpleNamespace(architecture=75, compile=lambda path, signatures: entries)
    with pytest.raises(KernelError, match=r"ring \(old\.cu\) needs a GPU of architecture sm_80 or "
                                          r"later, and this one is sm_75"):
        Module(tmp_path / "old.cu", old)["ring"]
    new = SimpleNamespace(architecture=80, compile=lambda path, signatures: entries)
    assert Module(tmp_path / "old.cu", new)["ring"].name == "ring"
