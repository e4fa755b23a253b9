"""Half precision, bfloat16 and matrix fragments on the emulator: exact against NumPy and fractions.
"""

import math
from fractions import Fraction

import numpy as np
import pytest

from tests.kernels.emulated import maker, needs_compiler, nvcc_takes

pytestmark = pytest.mark.slow

SMALL = r"""
#include <cuda_fp16.h>
#include <cuda_bf16.h>
template <class T> __device__ void from_float(const float* x, T* y, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = T(x[i]);
}
template <class T> __device__ void to_float(const T* x, float* y, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = float(x[i]);
}
template <class T> __device__ void calculate(const T* x, const T* y, const T* z, T* out, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        out[i] = x[i] + y[i];
        out[n + i] = __hsub(x[i], y[i]);
        out[2 * n + i] = x[i] * y[i];
        out[3 * n + i] = x[i] / y[i];
        out[4 * n + i] = __hfma(x[i], y[i], z[i]);
        out[5 * n + i] = hsqrt(__habs(x[i]));
        out[6 * n + i] = __hmax(x[i], -y[i]);
        out[7 * n + i] = __hlt(x[i], y[i]) ? T(1.0f) : T(0);
    }
}
extern "C" __global__ void half_from(const float* x, __half* y, int n) { from_float(x, y, n); }
extern "C" __global__ void half_to(const __half* x, float* y, int n) { to_float(x, y, n); }
extern "C" __global__ void half_calculate(const __half* x, const __half* y, const __half* z,
                                          __half* out, int n) { calculate(x, y, z, out, n); }
extern "C" __global__ void bf16_from(const float* x, __nv_bfloat16* y, int n) {
    from_float(x, y, n);
}
extern "C" __global__ void bf16_to(const __nv_bfloat16* x, float* y, int n) { to_float(x, y, n); }
extern "C" __global__ void bf16_calculate(const __nv_bfloat16* x, const __nv_bfloat16* y,
                                          const __nv_bfloat16* z, __nv_bfloat16* out, int n) {
    calculate(x, y, z, out, n);
}
extern "C" __global__ void pairs(const float* x, __half* y, __half* sum) {
    __half2 a = __floats2half2_rn(x[2 * threadIdx.x], x[2 * threadIdx.x + 1]);
    reinterpret_cast<__half2*>(y)[threadIdx.x] = __hfma2(a, a, __float2half2_rn(1.0f));
    atomicAdd(sum, __low2half(a) + __high2half(a));
}
"""


@pytest.fixture(scope="module", params=[False, True], ids=["fast", "checked"])
def compiled(request, tmp_path_factory):
    needs_compiler()
    make = maker(tmp_path_factory.mktemp("language"))
    return lambda source: make(source, request.param)


def bfloat16_bits(x):
    """By the carry into the upper half: nearest even; for numbers that are not NaN."""
    u = x.view(np.uint32).astype(np.uint64)
    return ((u + 0x7FFF + (u >> 16 & 1)) >> 16).astype(np.uint16)


def bfloat16_value(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def floats_of_every_size():
    rng = np.random.default_rng(8)
    x = rng.integers(0, 2**32, 200_000, np.uint32).view(np.float32)
    near = rng.standard_normal(100_000).astype(np.float32)
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    with np.errstate(all="ignore"):
        ties = (halves[:-1] + halves[1:]) / 2
        x = np.concatenate([x, near, halves, ties, np.nextafter(ties, np.float32(np.inf)),
                            bfloat16_value(np.arange(2**16, dtype=np.uint16)), near * 2e-40])
    return x[~np.isnan(x)]


@pytest.mark.parametrize("kind", ["half", "bf16"])
def test_small_floats_are_rounded_to_nearest_even(compiled, kind):
    module = compiled(SMALL)
    device = module.device
    x = floats_of_every_size()
    x = np.append(x[:: 40 if device.checked else 1],
                  np.array([np.inf, -np.inf, 0.0, -0.0], np.float32))
    y = device.empty(x.shape, np.uint16)
    module[f"{kind}_from"](device.from_numpy(x), y, x.size, grid=1, block=32)
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16).view(np.uint16) if kind == "half" else bfloat16_bits(x)
    np.testing.assert_array_equal(y.numpy(), expected)

    every = np.arange(2**16, dtype=np.uint16)[:: 16 if device.checked else 1]
    back = device.empty(every.shape)
    module[f"{kind}_to"](device.from_numpy(every), back, every.size, grid=1, block=32)
    value = every.view(np.float16) if kind == "half" else bfloat16_value(every)
    np.testing.assert_array_equal(back.numpy(), value.astype(np.float32))


def test_half_arithmetic_is_numpys(compiled):
    module = compiled(SMALL)
    device = module.device
    rng = np.random.default_rng(9)
    n = 2000 if device.checked else 50_000
    x, y, z = (rng.integers(0, 2**16, n, np.uint16).view(np.float16) for _ in range(3))
    out = device.empty((8, n), np.float16)
    module["half_calculate"](*map(device.from_numpy, (x, y, z)), out, n, grid=1, block=32)
    with np.errstate(all="ignore"):
        wide = [v.astype(np.float64) for v in (x, y, z)]
        expected = [x + y, x - y, x * y, x / y, (wide[0] * wide[1] + wide[2]).astype(np.float16),
                    np.sqrt(np.abs(x)), np.fmax(x, -y), (x < y).astype(np.float16)]
    np.testing.assert_array_equal(out.numpy(), np.array(expected))

    x = rng.standard_normal(64).astype(np.float32)
    y, total = device.empty(64, np.float16), device.from_numpy(np.zeros(1, np.float16))
    module["pairs"](device.from_numpy(x), y, total, grid=1, block=32)
    h = x.astype(np.float16)
    np.testing.assert_array_equal(y.numpy(), (h.astype(np.float64)**2 + 1).astype(np.float16))
    np.testing.assert_allclose(total.numpy()[0], h.sum(dtype=np.float64), atol=0.2)


def nearest_bfloat16(exact):
    """The value of an exact fraction in bfloat16, to nearest even; within its normal numbers."""
    if exact == 0:
        return 0.0
    exponent = math.floor(math.log2(abs(exact)))
    exponent += (abs(exact) >= Fraction(2)**(exponent + 1)) - (abs(exact) < Fraction(2)**exponent)
    unit = Fraction(2)**(exponent - 7)
    return float(round(exact / unit) * unit)        # round() of a Fraction: to even


def test_bfloat16_arithmetic_is_that_of_exact_fractions(compiled):
    module = compiled(SMALL)
    device = module.device
    rng = np.random.default_rng(10)
    n = 2000
    x, y, z = (bfloat16_value(bfloat16_bits(
        (rng.standard_normal(n) * 2.0**rng.integers(-30, 30, n)).astype(np.float32)))
        for _ in range(3))
    # Products halfway between two numbers, and addends far too small to be seen but for the tie.
    x[:8], y[:8], z[:8] = 1 + 2.0**-7, 1.5, [2.0**-90, -2.0**-90, 2.0**-60, 0, 1, -1, 2**-9, -2**-9]
    bits = [device.from_numpy(bfloat16_bits(v)) for v in (x, y, z)]
    out = device.empty((8, n), np.uint16)
    module["bf16_calculate"](*bits, out, n, grid=1, block=32)
    got = bfloat16_value(out.numpy())
    for i in range(n):
        a, b, c = (Fraction(float(v[i])) for v in (x, y, z))
        expected = [a + b, a - b, a * b, a / b, a * b + c]
        assert got[:5, i].tolist() == [nearest_bfloat16(e) for e in expected]
    np.testing.assert_array_equal(got[5:], [
        bfloat16_value(bfloat16_bits(np.sqrt(np.abs(x)))), np.fmax(x, -y), x < y])


MMA = r"""
#include <mma.h>
using namespace nvcuda;
template <class T, class LayoutB, bool transposed>
__device__ void product(const T* A, const T* B, float* C, int M, int N, int K) {
    wmma::fragment<wmma::matrix_a, 16, 16, 16, T, wmma::row_major> a;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, T, LayoutB> b;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> c;
    wmma::fill_fragment(c, 0.0f);
    int row = blockIdx.y * 16, col = (blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32) * 16;
    if (col >= N) return;
    for (int k = 0; k < K; k += 16) {
        wmma::load_matrix_sync(a, A + row * K + k, K);
        wmma::load_matrix_sync(b, transposed ? B + col * K + k : B + k * N + col,
                               transposed ? K : N);
        wmma::mma_sync(c, a, b, c);
    }
    for (int i = 0; i < c.num_elements; i++) c.x[i] *= 0.5f;
    wmma::store_matrix_sync(C + row * N + col, c, N, wmma::mem_row_major);
}
extern "C" __global__ void half_product(const __half* A, const __half* B, float* C, int M, int N,
                                        int K) {
    product<__half, wmma::row_major, false>(A, B, C, M, N, K);
}
extern "C" __global__ void bf16_product(const __nv_bfloat16* A, const __nv_bfloat16* B, float* C,
                                        int M, int N, int K) {
    product<__nv_bfloat16, wmma::col_major, true>(A, B, C, M, N, K);
}
extern "C" __global__ void tf32_product(const float* A, const float* B, float* C, int M, int N,
                                        int K) {
    wmma::fragment<wmma::matrix_a, 16, 16, 8, wmma::precision::tf32, wmma::row_major> a;
    wmma::fragment<wmma::matrix_b, 16, 16, 8, wmma::precision::tf32, wmma::row_major> b;
    wmma::fragment<wmma::accumulator, 16, 16, 8, float> c;
    int row = blockIdx.y * 16, col = blockIdx.x * 16;
    wmma::load_matrix_sync(c, C + row * N + col, N, wmma::mem_row_major);
    for (int k = 0; k < K; k += 8) {
        wmma::load_matrix_sync(a, A + row * K + k, K);
        wmma::load_matrix_sync(b, B + k * N + col, N);
        for (int i = 0; i < a.num_elements; i++) a.x[i] = wmma::__float_to_tf32(a.x[i]);
        for (int i = 0; i < b.num_elements; i++) b.x[i] = wmma::__float_to_tf32(b.x[i]);
        wmma::mma_sync(c, a, b, c);
    }
    wmma::store_matrix_sync(C + row * N + col, c, N, wmma::mem_row_major);
}
"""


def test_matrix_fragments(compiled):
    module = compiled(MMA)
    device = module.device
    M, N, K = 32, 48, 64
    rng = np.random.default_rng(11)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((M, K), (K, N)))

    def close(got, exact, a, b):        # a sum of K products in float, in any order
        allowed = (K + 1) * 2.0**-24 * (np.abs(a) @ np.abs(b))
        assert (np.abs(got - exact) <= allowed).all()

    c = device.empty((M, N))
    h = [v.astype(np.float16) for v in (a, b)]
    module["half_product"](*map(device.from_numpy, h), c, M, N, K, grid=(2, 2), block=64)
    x, y = (v.astype(np.float64) for v in h)
    close(c.numpy() * 2, x @ y, x, y)

    bits = bfloat16_bits(a), bfloat16_bits(np.ascontiguousarray(b.T))
    module["bf16_product"](*map(device.from_numpy, bits), c, M, N, K, grid=(2, 2), block=64)
    x, y = bfloat16_value(bits[0]).astype(float), bfloat16_value(bits[1]).T.astype(float)
    close(c.numpy() * 2, x @ y, x, y)

    start = rng.standard_normal((M, N)).astype(np.float32)
    c = device.from_numpy(start)
    module["tf32_product"](device.from_numpy(a), device.from_numpy(b), c, M, N, K,
                           grid=(N // 16, M // 16), block=32)
    # To 11 digits, ties away from zero.
    x, y = ((((v.view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32)).astype(np.float64)
            for v in (a, b))
    close(c.numpy(), x @ y + start, np.hstack([x, np.eye(M)]), np.vstack([y, start]))


@pytest.mark.parametrize("source", [SMALL, MMA],
                         ids=["small", "mma"])
def test_nvcc_takes_the_same_source(source, tmp_path):
    nvcc_takes(source, tmp_path)
