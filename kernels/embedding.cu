// embedding.cu - rows of a table: y[i] = weight[ids[i]], and back: dweight[v] = sum of the
// dy[i] with ids[i] = v, zero for a v that does not occur.
//
//   weight, dweight (V, C);  ids (n,), each in 0 … V - 1;  y, dy (n, C)
//
// embedding_naive            One thread an element of y; each divides its number by C.
// embedding_vector           Four elements a thread in one load and one store of 16 bytes.
//                            C % 4 == 0; weight and y at multiples of 16 bytes.
//
// Adding with atomics would be short, but the order of the additions, and so the last digits, would
// change from run to run. Both versions here add in the order of i.
//
// embedding_backward_naive   One thread an element of dweight looks through all ids: V C n steps.
// embedding_backward_first   A warp a position and 128 columns. It stops where the same id occurs
//                            earlier; the first warp of an id adds up the rows of all later ones.
//                            Looking for the id takes a warp n / 32 steps for 32 ids at a time, n^2
//                            / 32 at most for all, which is little beside V C. dweight must be zero
//                            before. blockDim.x: whole warps; grid n * ceil(C / 128) warps.
// embedding_backward_first_bfloat16   The same with dy and dweight in bfloat16; the sums are float32,
//                            rounded once.
//
// Forward, rows of bfloat16 and float16 are copied as floats, two elements in one.
#include "common.cuh"
#include "pack.cuh"

extern "C" __global__ void embedding_naive(const float* __restrict__ weight,
                                           const long long* __restrict__ ids,
                                           float* __restrict__ y, long long n, int C) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n * C) y[i] = weight[ids[i / C] * C + i % C];
}

extern "C" __global__ void embedding_vector(const float* __restrict__ weight,
                                            const long long* __restrict__ ids,
                                            float* __restrict__ y, long long n, int C) {
    int quads = C / 4;
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * quads) return;
    const float4* from = reinterpret_cast<const float4*>(weight);
    reinterpret_cast<float4*>(y)[i] = from[ids[i / quads] * quads + i % quads];
}

extern "C" __global__ void embedding_backward_naive(const float* __restrict__ dy,
                                                    const long long* __restrict__ ids,
                                                    float* __restrict__ dweight, long long n, int V,
                                                    int C) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)V * C) return;
    float sum = 0.0f;
    for (long long k = 0; k < n; k++)
        if (ids[k] == i / C) sum += dy[k * C + i % C];
    dweight[i] = sum;
}

template <class T>
__device__ void backward_first(const T* dy, const long long* ids, T* dweight, long long n, int C) {
    int pieces = (C - 1) / 128 + 1, lane = threadIdx.x % 32;
    long long warp = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    long long first = warp / pieces;
    int c0 = warp % pieces * 128 + lane;
    if (first >= n) return;  // the whole warp
    long long id = ids[first];
    for (long long k = 0; k < first; k += 32) {
        long long mine = k + lane;
        if (__any_sync(0xffffffffu, mine < first && ids[mine] == id)) return;
    }
    float sum[4] = {};
    for (long long k = first; k < n; k += 32) {
        unsigned found = __ballot_sync(0xffffffffu, k + lane < n && ids[k + lane] == id);
        for (; found; found &= found - 1) {  // the lowest bit first: in the order of the positions
            const T* row = dy + (k + __ffs(found) - 1) * C;
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (c0 + 32 * j < C) sum[j] += float(row[c0 + 32 * j]);
        }
    }
#pragma unroll
    for (int j = 0; j < 4; j++)
        if (c0 + 32 * j < C) dweight[id * C + c0 + 32 * j] = T(sum[j]);
}

extern "C" __global__ void embedding_backward_first(const float* __restrict__ dy,
                                                    const long long* __restrict__ ids,
                                                    float* __restrict__ dweight, long long n, int V,
                                                    int C) {
    backward_first(dy, ids, dweight, n, C);
}
extern "C" __global__ void embedding_backward_first_bfloat16(
        const __nv_bfloat16* __restrict__ dy, const long long* __restrict__ ids,
        __nv_bfloat16* __restrict__ dweight, long long n, int V, int C) {
    backward_first(dy, ids, dweight, n, C);
}
