"""The CUDA C++ that the emulator speaks: each primitive against what NumPy computes."""

import math

import numpy as np
import pytest

from tests.kernels.emulated import maker, needs_compiler, nvcc_takes

pytestmark = pytest.mark.slow

# Each source is CUDA: nvcc compiles it, too (the last test).
WARP = r"""
extern "C" __global__ void shuffles(const int* x, const long long* wide, int* y, long long* z,
                                    int by, int width) {
    int i = threadIdx.x, n = blockDim.x;
    y[i] = __shfl_sync(0xffffffffu, x[i], by, width);
    y[n + i] = __shfl_up_sync(0xffffffffu, x[i], by, width);
    y[2 * n + i] = __shfl_down_sync(0xffffffffu, x[i], by, width);
    y[3 * n + i] = __shfl_xor_sync(0xffffffffu, x[i], by, width);
    z[i] = __shfl_xor_sync(0xffffffffu, wide[i], by, width);
}
extern "C" __global__ void votes(const int* x, unsigned* y, int* sums) {
    int i = threadIdx.x, n = blockDim.x, all;
    y[i] = __ballot_sync(0xffffffffu, x[i] & 1);
    y[n + i] = __any_sync(0xffffffffu, x[i] > 3);
    y[2 * n + i] = __all_sync(0xffffffffu, x[i] < 5);
    y[3 * n + i] = __match_any_sync(0xffffffffu, x[i]);
    y[4 * n + i] = __match_all_sync(0xffffffffu, x[i] < 0, &all) - all;
    y[5 * n + i] = __activemask() >> (i % 32) & 1;
    sums[i] = __reduce_add_sync(0xffffffffu, x[i]);
    sums[n + i] = __reduce_min_sync(0xffffffffu, x[i]);
    sums[2 * n + i] = __reduce_max_sync(0xffffffffu, x[i]);
    sums[3 * n + i] = int(__reduce_and_sync(0xffffffffu, unsigned(x[i])));
    sums[4 * n + i] = int(__reduce_or_sync(0xffffffffu, unsigned(x[i])));
    sums[5 * n + i] = int(__reduce_xor_sync(0xffffffffu, unsigned(x[i])));
}
extern "C" __global__ void block_votes(const int* x, int* y) {
    int i = threadIdx.x, n = blockDim.x;
    y[i] = __syncthreads_count(x[i] > 2);
    y[n + i] = __syncthreads_and(x[i] > 2);
    y[2 * n + i] = __syncthreads_or(x[i] > 2);
}
// A quarter of each warp leaves; of the rest, even and odd lanes go separate ways.
extern "C" __global__ void diverged(int* y) {
    int lane = threadIdx.x % 32;
    if (lane >= 24) return;
    unsigned mine = __ballot_sync(0x00ffffffu, lane & 1);
    if (!(lane & 1)) mine = ~mine & 0x00ffffffu;
    int v = lane;
    if (lane & 1) v = __shfl_sync(mine, v, 23); else v = __shfl_sync(mine, v, 22);
    y[threadIdx.x] = v;
}
"""

ATOMICS = r"""
template <class T> __device__ void ordered(const T* x, T* y, int i) {
    atomicMax(&y[0], x[i]);
    atomicMin(&y[1], x[i]);
}
extern "C" __global__ void integers(const int* x, int* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    ordered(x, y, i);
    atomicAdd(&y[2], x[i]);
    atomicSub(&y[3], x[i]);
    atomicAnd(&y[4], x[i]);
    atomicOr(&y[5], x[i]);
    atomicXor(&y[6], x[i]);
    y[8 + atomicAdd(&y[7], 1)] = x[i];              // each gets a place of its own
}
extern "C" __global__ void wide(const long long* x, long long* y, unsigned long long* sum,
                                unsigned* wraps, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    ordered(x, y, i);
    atomicAdd(sum, (unsigned long long)x[i]);
    atomicInc(&wraps[0], 6);
    atomicDec(&wraps[1], 6);
}
extern "C" __global__ void floats(const float* x, float* sum, double* wide_sum, float* last,
                                  int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    atomicAdd(sum, x[i]);
    atomicAdd(wide_sum, double(x[i]));
    if (i == n - 1) atomicExch(last, x[i]);
}
// The maximum of floats by compare and swap, as kernels write it for want of an atomicMax.
extern "C" __global__ void float_max(const float* x, unsigned* bits, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned old = __float_as_uint(-INFINITY), seen;
    while (__uint_as_float(old) < x[i] &&
           (seen = atomicCAS(bits, old, __float_as_uint(x[i]))) != old) old = seen;
}
"""

SHARED = r"""
#include "common.cuh"
__constant__ int weights[4] = {1, 10, 100, 1000};
template <int N> __device__ int sum_shared(const int* x) {
    __shared__ int tile[N];                 // one of its own for each N
    if (threadIdx.x < N) tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    int sum = 0;
    for (int i = 0; i < N; i++) sum += tile[i] * weights[i % 4];
    return sum;
}
extern "C" __global__ void __launch_bounds__(256) templates(const int* x, int* y) {
    y[threadIdx.x] = sum_shared<4>(x) + sum_shared<8>(x);
}
extern "C" __global__ void dynamic(const double* x, double* y) {
    extern __shared__ double tile[];
    int i = threadIdx.x;
    tile[i] = x[blockIdx.x * blockDim.x + i];
    __syncthreads();
    y[blockIdx.x * blockDim.x + i] = tile[blockDim.x - 1 - i];
}
extern "C" __global__ void vectors(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (4 * i >= n) return;
    float4 v = reinterpret_cast<const float4*>(x)[i];
    float2 w = make_float2(v.x + v.y, v.z + v.w);
    reinterpret_cast<float4*>(y)[i] = make_float4(w.x, w.y, v.x, v.w);
}
extern "C" __global__ void where(int* y, Dims shape) {
    long long i = blockIdx.x + gridDim.x * (blockIdx.y + (long long)gridDim.y * blockIdx.z);
    long long t = threadIdx.x + blockDim.x * (threadIdx.y + (long long)blockDim.y * threadIdx.z);
    y[i * blockDim.x * blockDim.y * blockDim.z + t] = int(i * 1000 + t + shape.n[0]);
}
"""

MATH = r"""
extern "C" __global__ void floats(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    y[i] = rsqrtf(x[i]);
    y[n + i] = __expf(-x[i]);
    y[2 * n + i] = fmaf(x[i], x[i], -1.0f);
    y[3 * n + i] = erff(x[i]);
    y[4 * n + i] = __fdividef(__ldg(&x[i]), 3.0f);
    y[5 * n + i] = max(x[i], NAN) + min(1.0f, x[i]);
    y[6 * n + i] = __saturatef(x[i] - 1.0f);
    y[7 * n + i] = __int_as_float(__float_as_int(x[i]) ^ 1);
    y[8 * n + i] = float(__float2int_rn(x[i]) * 100 + __float2int_rz(x[i]));
}
extern "C" __global__ void integers(const unsigned long long* x, unsigned long long* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned low = unsigned(x[i]);
    y[i] = __umul64hi(x[i], x[i]);
    y[n + i] = __umulhi(low, low);
    y[2 * n + i] = __popcll(x[i]) * 100 + __popc(low);
    y[3 * n + i] = __clzll((long long)x[i]) * 100 + __clz(int(low));
    y[4 * n + i] = __ffsll((long long)x[i]) * 100 + __ffs(int(low));
    y[5 * n + i] = __brevll(x[i]);
    y[6 * n + i] = __funnelshift_l(low, unsigned(x[i] >> 32), 5);
    y[7 * n + i] = __byte_perm(low, unsigned(x[i] >> 32), 0x7150);
    y[8 * n + i] = (unsigned long long)__mul64hi((long long)x[i], 12345);
    y[9 * n + i] = max(x[i], 1ull << 40) + min(int(low & 7), 3);
}
"""


@pytest.fixture(scope="module", params=[False, True], ids=["fast", "checked"])
def compiled(request, tmp_path_factory):
    needs_compiler()
    make = maker(tmp_path_factory.mktemp("language"))
    return lambda source: make(source, request.param)


@pytest.mark.parametrize("order", ["forward", "reverse", 3])
def test_shuffles(compiled, order):
    module = compiled(WARP)
    device = module.device
    n, lane = 64, np.arange(64) % 32
    x = np.random.default_rng(0).integers(-9, 9, n).astype(np.int32)
    wide = x.astype(np.int64) << 40
    for by, width in [(1, 32), (5, 32), (3, 8), (1, 2), (31, 32), (16, 16)]:
        y, z = device.empty((4, n), np.int32), device.empty(n, np.int64)
        module["shuffles"](device.from_numpy(x), device.from_numpy(wide), y, z, by, width, grid=1,
                           block=n, order=order)
        warp, first = np.arange(n) - lane, lane // width * width
        sources = [first + by % width, np.where(lane - by >= first, lane - by, lane),
                   np.where(lane + by < first + width, lane + by, lane),
                   np.where((lane ^ by) < first + width, lane ^ by, lane)]
        np.testing.assert_array_equal(y.numpy(), [x[warp + s] for s in sources])
        np.testing.assert_array_equal(z.numpy(), wide[warp + sources[3]])


@pytest.mark.parametrize("order", ["forward", "reverse", 3])
def test_votes_matches_and_reductions(compiled, order):
    module = compiled(WARP)
    device = module.device
    n = 64
    x = np.random.default_rng(1).integers(0, 6, n).astype(np.int32)
    y, sums = device.empty((6, n), np.uint32), device.empty((6, n), np.int32)
    module["votes"](device.from_numpy(x), y, sums, grid=1, block=n, order=order)
    got, got_sums = y.numpy(), sums.numpy()
    for lanes in (slice(0, 32), slice(32, 64)):
        v = x[lanes]
        bits = 1 << np.arange(32, dtype=np.uint64)
        expected = [bits[v % 2 == 1].sum(), (v > 3).any(), (v < 5).all(),
                    [bits[v == value].sum() for value in v], 2**32 - 2, 1]
        for row, value in zip(got[:, lanes], expected):
            np.testing.assert_array_equal(row, np.broadcast_to(value, 32).astype(np.uint32))
        reduced = [v.sum(), v.min(), v.max(), np.bitwise_and.reduce(v), np.bitwise_or.reduce(v),
                   np.bitwise_xor.reduce(v)]
        np.testing.assert_array_equal(got_sums[:, lanes], np.array([[r] * 32 for r in reduced]))
    block = device.empty((3, n), np.int32)
    module["block_votes"](device.from_numpy(x), block, grid=1, block=n, order=order)
    count = (x > 2).sum()
    np.testing.assert_array_equal(block.numpy().T, [[count, count == n, count > 0]] * n)


def test_diverged_lanes_meet_in_their_own_masks(compiled):
    module = compiled(WARP)
    y = module.device.from_numpy(np.zeros(64, np.int32))
    module["diverged"](y, grid=1, block=64)
    lane = np.arange(64) % 32
    np.testing.assert_array_equal(y.numpy(), np.where(lane >= 24, 0, 22 + lane % 2))


@pytest.mark.parametrize("order", ["forward", "reverse", 3])
def test_atomics(compiled, order):
    module = compiled(ATOMICS)
    device = module.device
    n = 100
    launch = dict(grid=4, block=32, order=order)
    x = np.random.default_rng(2).integers(-2**31, 2**31, n).astype(np.int32)
    y = np.zeros(8 + n, np.int32)
    y[:2], y[4] = [-2**31, 2**31 - 1], -1
    on_device = device.from_numpy(y)
    module["integers"](device.from_numpy(x), on_device, n, **launch)
    got = on_device.numpy()
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(got[:8], [
            x.max(), x.min(), x.sum(dtype=np.int32), -x.sum(dtype=np.int32),
            np.bitwise_and.reduce(x), np.bitwise_or.reduce(x), np.bitwise_xor.reduce(x), n])
    np.testing.assert_array_equal(np.sort(got[8:]), np.sort(x))

    wide = x.astype(np.int64) << 20
    ends = device.from_numpy(np.array([-2**63, 2**63 - 1]))
    total = device.from_numpy(np.zeros(1, np.uint64))
    wraps = device.from_numpy(np.zeros(2, np.uint32))
    module["wide"](device.from_numpy(wide), ends, total, wraps, n, **launch)
    np.testing.assert_array_equal(ends.numpy(), [wide.max(), wide.min()])
    assert total.numpy()[0] == int(wide.sum()) % 2**64
    np.testing.assert_array_equal(wraps.numpy(), [n % 7, -n % 7])

    x = np.random.default_rng(3).standard_normal(n).astype(np.float32)
    total, exact = (device.from_numpy(np.zeros(1, t)) for t in (np.float32, np.float64))
    last, bits = device.from_numpy(np.zeros(1, np.float32)), device.from_numpy(
        np.array([-np.inf], np.float32).view(np.uint32))
    module["floats"](device.from_numpy(x), total, exact, last, n, **launch)
    module["float_max"](device.from_numpy(x), bits, n, **launch)
    np.testing.assert_allclose(total.numpy()[0], x.sum(), atol=n * 2**-22)
    np.testing.assert_allclose(exact.numpy()[0], math.fsum(x.tolist()), atol=1e-13)
    assert last.numpy()[0] == x[-1] and bits.numpy().view(np.float32)[0] == x.max()


def test_shared_memory_vectors_templates_constants(compiled):
    module = compiled(SHARED)
    device = module.device
    x = np.arange(1, 33, dtype=np.int32)
    y = device.empty(32, np.int32)
    with np.errstate(all="raise"):
        module["templates"](device.from_numpy(x[:8]), y, grid=1, block=8)
    weights = np.array([1, 10, 100, 1000])
    assert (y.numpy()[:8] == x[:4] @ weights + x[:8] @ np.tile(weights, 2)).all()

    x = np.random.default_rng(4).standard_normal((3, 40))
    y = device.empty((3, 40), np.float64)
    module["dynamic"](device.from_numpy(x), y, grid=3, block=40, shared=40 * 8)
    np.testing.assert_array_equal(y.numpy(), x[:, ::-1])

    x = np.random.default_rng(5).standard_normal((33, 4)).astype(np.float32)
    y = device.empty((33, 4))
    module["vectors"](device.from_numpy(x), y, 132, grid=2, block=32)
    np.testing.assert_array_equal(
        y.numpy(), np.stack([x[:, 0] + x[:, 1], x[:, 2] + x[:, 3], x[:, 0], x[:, 3]], 1))

    y = device.empty(2 * 3 * 4 * 24, np.int32)
    module["where"](y, (7,), grid=(2, 3, 4), block=(4, 3, 2), order="reverse")
    blocks, threads = np.divmod(np.arange(2 * 3 * 4 * 24), 24)
    np.testing.assert_array_equal(y.numpy(), blocks * 1000 + threads + 7)


def test_functions_of_floats(compiled):
    module = compiled(MATH)
    x = np.random.default_rng(6).uniform(0.1, 9, 50).astype(np.float32)
    y = module.device.empty((9, 50))
    module["floats"](module.device.from_numpy(x), y, 50, grid=2, block=32)
    d = x.astype(np.float64)
    expected = [1 / np.sqrt(d), np.exp(-d), d * d - 1, [math.erf(v) for v in d], d / 3,
                d + np.minimum(1, d), np.clip(d - 1, 0, 1), (x.view(np.int32) ^ 1).view(np.float32),
                np.rint(d) * 100 + np.trunc(d)]
    np.testing.assert_allclose(y.numpy(), np.array(expected), rtol=3e-7)


def test_functions_of_integers(compiled):
    module = compiled(MATH)
    x = np.random.default_rng(7).integers(0, 2**64, 50, np.uint64)
    x[:3] = [0, 1, 2**64 - 1]
    y = module.device.empty((10, 50), np.uint64)
    module["integers"](module.device.from_numpy(x), y, 50, grid=2, block=32)

    def of(v):
        low = v % 2**32
        signed = v - 2**64 if v >> 63 else v
        first = [(v & -v).bit_length(), (low & -low).bit_length()]
        picked = [v >> 8 * i & 255 for i in (0, 5, 1, 7)]
        return [v * v >> 64, low * low >> 32, v.bit_count() * 100 + low.bit_count(),
                (64 - v.bit_length()) * 100 + 32 - low.bit_length(), first[0] * 100 + first[1],
                int(f"{v:064b}"[::-1], 2), (v << 5 >> 32) % 2**32,
                sum(b << 8 * i for i, b in enumerate(picked)), (signed * 12345 >> 64) % 2**64,
                (max(v, 2**40) + min(low % 8, 3)) % 2**64]
    np.testing.assert_array_equal(y.numpy().T, np.array([of(int(v)) for v in x], np.uint64))


@pytest.mark.parametrize("source", [WARP, ATOMICS, SHARED, MATH],
                         ids=["warp", "atomics", "shared", "math"])
def test_nvcc_takes_the_same_source(source, tmp_path):
    nvcc_takes(source, tmp_path)
