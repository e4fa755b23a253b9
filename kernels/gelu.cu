// gelu.cu - y = GELU(x + b) and its derivative, in the exact form and in GPT-2's (with tanh); the
// formulas are in gelu.cuh. With z = x + b:
//
//   dx = dy GELU'(z),  db = sum over rows of dx
//
//   x, y, dy, dx (rows, C), n = rows C floats without gaps;  b (C,) or null, which adds nothing
//
// All are limited by memory. So nothing is kept for the backward but x, which is there already: the
// slope is computed there anew, with a second exponential, and not written here and read there.
//
// gelu_naive            One thread an element. Any grid: threads go on to the elements beyond it.
// gelu_vector           Four elements a thread, in one load and one store of 16 bytes: a quarter of
//                       the instructions keeps the memory busy. What is left over, at most three,
//                       the first threads do. All arrays at multiples of 16 bytes; with b,
//                       C % 4 == 0. One remainder, of 32 bits, finds the four columns of b.
//
// gelu_backward_naive   dx, one thread an element. db is then the sum of dx over its rows, which
//                       reads all of dx again.
// gelu_backward_vector  dx, four elements a thread, as above.
// gelu_backward_bias    dx and db in one walk: a thread keeps to four columns and goes down the
//                       rows, so that b is loaded once and db adds up in registers. A warp is 128
//                       columns wide; the warps of a block share the rows of a chunk and add up
//                       their sums in shared memory. They go to `parts` (gridDim.y, C), to be added
//                       up in their order: no atomics, so the same bits each time. C % 4 == 0; all
//                       arrays at multiples of 16 bytes; grid (128 columns each, chunks of rows).
//
// What the emulator counts for 64 rows of 768 columns with b: loads and stores a warp gives, and the
// memory that they touch when no cache helps, in arrays of that size. One of the reads is b, which a
// cache keeps.
//
//             loads, stores   read   written                 loads, stores   read   written
//   naive             4,608      2         1     naive               6,144      3         1
//                                                 … sum of dx         1,560      1         0
//   vector            1,152      2         1     vector              1,536      3         1
//                                                bias                1,296    2.3      1.03
//
// gelu_tanh_…: GPT-2's form. …_bfloat16: of it, with all arrays but `parts` in bfloat16, whose packs
// of four are 8 bytes; computed in float32.
#include "gelu.cuh"
#include "row.cuh"
#include "strides.cuh"

template <class F>
__device__ void each(const float* x, const float* b, float* y, long long n, int C) {
    for (long long i = first_element(); i < n; i += all_threads())
        y[i] = F::value(x[i] + (b ? b[i % C] : 0.0f));
}

template <class F>
__device__ void each_backward(const float* dy, const float* x, const float* b, float* dx,
                              long long n, int C) {
    for (long long i = first_element(); i < n; i += all_threads())
        dx[i] = dy[i] * F::both(x[i] + (b ? b[i % C] : 0.0f)).slope;
}

// z of the pack number i of an array without gaps.
template <class T> __device__ Pack<4> four_z(const T* x, const T* b, long long i, int C) {
    Pack<4> z = load_pack<4>(x, i);
    if (b) {
        long long quad = i >> 32 ? i % (C / 4) : (unsigned)i % (unsigned)(C / 4);
        Pack<4> bias = load_pack<4>(b, quad);
        for (int j = 0; j < 4; j++) z.v[j] += bias.v[j];
    }
    return z;
}

template <class F, class T>
__device__ void fours(const T* x, const T* b, T* y, long long n, int C) {
    for (long long i = first_element(); i < n / 4; i += all_threads()) {
        Pack<4> z = four_z(x, b, i, C);
        for (float& v : z.v) v = F::value(v);
        store_pack(y, i, z);
    }
    long long rest = n / 4 * 4 + first_element();  // there is none with b
    if (rest < n) y[rest] = T(F::value(float(x[rest])));
}

template <class F, class T>
__device__ void fours_backward(const T* dy, const T* x, const T* b, T* dx, long long n, int C) {
    for (long long i = first_element(); i < n / 4; i += all_threads()) {
        Pack<4> z = four_z(x, b, i, C), d = load_pack<4>(dy, i);
        for (int j = 0; j < 4; j++) d.v[j] *= F::both(z.v[j]).slope;
        store_pack(dx, i, d);
    }
    long long rest = n / 4 * 4 + first_element();
    if (rest < n) dx[rest] = T(float(dy[rest]) * F::both(float(x[rest])).slope);
}

template <class F, class T>
__device__ void backward_bias(const T* dy, const T* x, const T* b, T* dx, float* parts, int rows,
                              int C) {
    __shared__ float sums[32][128];
    int warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x % 32;
    int quad = blockIdx.x * 32 + lane, quads = C / 4;
    int size = (rows + gridDim.y - 1) / gridDim.y;
    long long from = (long long)size * blockIdx.y;
    long long to = from + size < rows ? from + size : rows;
    Pack<4> sum = {};
    if (quad < quads) {
        Pack<4> bias = load_pack<4>(b, quad);
        for (long long row = from + warp; row < to; row += warps) {
            long long i = row * quads + quad;
            Pack<4> v = load_pack<4>(x, i), d = load_pack<4>(dy, i);
            for (int j = 0; j < 4; j++) {
                d.v[j] *= F::both(v.v[j] + bias.v[j]).slope;
                sum.v[j] += d.v[j];
            }
            store_pack(dx, i, d);
        }
    }
    packs_of<4>(sums[warp])[lane] = sum;
    __syncthreads();
    for (int t = threadIdx.x; t < 128 && blockIdx.x * 128 + t < C; t += blockDim.x) {
        float total = 0.0f;
        for (int w = 0; w < warps; w++) total += sums[w][t];
        parts[(long long)blockIdx.y * C + blockIdx.x * 128 + t] = total;
    }
}

// --- the exact form

extern "C" __global__ void gelu_naive(
        const float* __restrict__ x, const float* __restrict__ OPTIONAL b, float* __restrict__ y,
        long long n, int C) {
    each<GeluExact>(x, b, y, n, C);
}
extern "C" __global__ void gelu_vector(
        const float* __restrict__ x, const float* __restrict__ OPTIONAL b, float* __restrict__ y,
        long long n, int C) {
    fours<GeluExact>(x, b, y, n, C);
}
extern "C" __global__ void gelu_backward_naive(
        const float* __restrict__ dy, const float* __restrict__ x,
        const float* __restrict__ OPTIONAL b, float* __restrict__ dx, long long n, int C) {
    each_backward<GeluExact>(dy, x, b, dx, n, C);
}
extern "C" __global__ void gelu_backward_vector(
        const float* __restrict__ dy, const float* __restrict__ x,
        const float* __restrict__ OPTIONAL b, float* __restrict__ dx, long long n, int C) {
    fours_backward<GeluExact>(dy, x, b, dx, n, C);
}
extern "C" __global__ void gelu_backward_bias(
        const float* __restrict__ dy, const float* __restrict__ x, const float* __restrict__ b,
        float* __restrict__ dx, float* __restrict__ parts, int rows, int C) {
    backward_bias<GeluExact>(dy, x, b, dx, parts, rows, C);
}

// --- with tanh

extern "C" __global__ void gelu_tanh_naive(
        const float* __restrict__ x, const float* __restrict__ OPTIONAL b, float* __restrict__ y,
        long long n, int C) {
    each<GeluTanh>(x, b, y, n, C);
}
extern "C" __global__ void gelu_tanh_vector(
        const float* __restrict__ x, const float* __restrict__ OPTIONAL b, float* __restrict__ y,
        long long n, int C) {
    fours<GeluTanh>(x, b, y, n, C);
}
extern "C" __global__ void gelu_tanh_backward_naive(
        const float* __restrict__ dy, const float* __restrict__ x,
        const float* __restrict__ OPTIONAL b, float* __restrict__ dx, long long n, int C) {
    each_backward<GeluTanh>(dy, x, b, dx, n, C);
}
extern "C" __global__ void gelu_tanh_backward_vector(
        const float* __restrict__ dy, const float* __restrict__ x,
        const float* __restrict__ OPTIONAL b, float* __restrict__ dx, long long n, int C) {
    fours_backward<GeluTanh>(dy, x, b, dx, n, C);
}
extern "C" __global__ void gelu_tanh_backward_bias(
        const float* __restrict__ dy, const float* __restrict__ x, const float* __restrict__ b,
        float* __restrict__ dx, float* __restrict__ parts, int rows, int C) {
    backward_bias<GeluTanh>(dy, x, b, dx, parts, rows, C);
}
extern "C" __global__ void gelu_tanh_vector_bfloat16(
        const __nv_bfloat16* __restrict__ x, const __nv_bfloat16* __restrict__ OPTIONAL b,
        __nv_bfloat16* __restrict__ y, long long n, int C) {
    fours<GeluTanh>(x, b, y, n, C);
}
extern "C" __global__ void gelu_tanh_backward_vector_bfloat16(
        const __nv_bfloat16* __restrict__ dy, const __nv_bfloat16* __restrict__ x,
        const __nv_bfloat16* __restrict__ OPTIONAL b, __nv_bfloat16* __restrict__ dx, long long n,
        int C) {
    fours_backward<GeluTanh>(dy, x, b, dx, n, C);
}
extern "C" __global__ void gelu_tanh_backward_bias_bfloat16(
        const __nv_bfloat16* __restrict__ dy, const __nv_bfloat16* __restrict__ x,
        const __nv_bfloat16* __restrict__ b, __nv_bfloat16* __restrict__ dx,
        float* __restrict__ parts, int rows, int C) {
    backward_bias<GeluTanh>(dy, x, b, dx, parts, rows, C);
}
