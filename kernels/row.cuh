// row.cuh - what the kernels share that work along the rows of a matrix: who works on a row, sums
// and maxima over a warp or a block, the online softmax. The order of all
// additions is fixed, so the same numbers give the same bits.
#pragma once
#include "pack.cuh"

__device__ inline float warp_sum(float x) {
    for (int by = 16; by > 0; by /= 2) x += __shfl_xor_sync(0xffffffffu, x, by);
    return x;
}
__device__ inline float warp_max(float x) {
    for (int by = 16; by > 0; by /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, by));
    return x;
}

struct Sums { float a, b; };

// Two sums over all threads of a block of whole warps. Each warp's go to shared memory, and every
// thread adds these up.
__device__ inline Sums block_sums(float a, float b) {
    __shared__ float part_a[32];
    __shared__ float part_b[32];
    a = warp_sum(a);
    b = warp_sum(b);
    int warps = blockDim.x / 32;
    if (warps == 1) return {a, b};
    __syncthreads();  // what an earlier call left there has been read
    if (threadIdx.x % 32 == 0) part_a[threadIdx.x / 32] = a, part_b[threadIdx.x / 32] = b;
    __syncthreads();
    a = b = 0.0f;
    for (int w = 0; w < warps; w++) a += part_a[w], b += part_b[w];
    return {a, b};
}

// Who works on a row together, on which row, and on which of its columns each thread: first(),
// first() + step(), …. Warp and Block: blockDim.x is a number of whole warps.
struct Thread {
    __device__ static long long row() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
    __device__ static int first() { return 0; }
    __device__ static int step() { return 1; }
    __device__ static float sum(float x) { return x; }
    __device__ static Sums sums(float a, float b) { return {a, b}; }
    __device__ static float max(float x) { return x; }
};
struct Warp {
    __device__ static long long row() {
        return (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    }
    __device__ static int first() { return threadIdx.x % 32; }
    __device__ static int step() { return 32; }
    __device__ static float sum(float x) { return warp_sum(x); }
    __device__ static Sums sums(float a, float b) { return {warp_sum(a), warp_sum(b)}; }
    __device__ static float max(float x) { return warp_max(x); }
};
struct Block {
    __device__ static long long row() { return blockIdx.x; }
    __device__ static int first() { return threadIdx.x; }
    __device__ static int step() { return blockDim.x; }
    __device__ static float sum(float x) { return block_sums(x, 0.0f).a; }
    __device__ static Sums sums(float a, float b) { return block_sums(a, b); }
};

// A row of 50257 floats begins at a multiple of 16 bytes only every fourth time, as one of halves at
// a multiple of 8. So: how many of its columns come `before` the first multiple, and the `count` of
// packs of four that follow. What is left at the two ends, at most six columns, the first threads
// take one by one.
struct Quads {
    int before, count;
    template <class T> __device__ Quads(const T* x, int cols) {
        int size = sizeof(T), off = int(reinterpret_cast<size_t>(x) % (4 * size));
        before = min(cols, (4 * size - off) / size % 4);
        count = (cols - before) / 4;
    }
    // The k-th of the columns left over; `cols` or more where there are not so many.
    __device__ int left(int k) const { return k < before ? k : k + 4 * count; }
};

// The maximum of the numbers seen, and the sum of exp(x - maximum), in one walk: a new maximum
// rescales the sum (Milakov and Gimelshein 2018). -inf adds nothing, also while it is the maximum;
// +inf and NaN make the sum NaN, as they do in two walks.
struct Online {
    float max = -INFINITY, sum = 0.0f;

    __device__ void add(float x) {
        if (x > max) {
            sum = sum * expf(max - x) + expf(x - x);
            max = x;
        } else if (x != -INFINITY) {
            sum += expf(x - max);
        }
    }
    // Four at once: rescaled once, if at all, and an exponential each.
    __device__ void add(Pack<4> x) {
        float top = fmaxf(fmaxf(x.v[0], x.v[1]), fmaxf(x.v[2], x.v[3]));
        if (top > max) {
            sum *= expf(max - top);
            max = top;
        }
        if (max == -INFINITY) {  // so far nothing but -inf and NaN
            for (int j = 0; j < 4; j++) add(x.v[j]);
        } else {
            sum += (expf(x.v[0] - max) + expf(x.v[1] - max)) +
                   (expf(x.v[2] - max) + expf(x.v[3] - max));
        }
    }
    // This thread's share of a row that its block works on, four at a time.
    template <class T> __device__ void add_row(const T* x, int cols) {
        Quads quads(x, cols);
        const T* packs = x + quads.before;
        for (int i = threadIdx.x; i < quads.count; i += blockDim.x) add(load_pack<4>(packs, i));
        int left = quads.left(threadIdx.x);
        if (left < cols) add(float(x[left]));
    }
    __device__ static float rescaled(float sum, float from, float to) {
        return from == to ? sum : sum * expf(from - to);  // -inf to -inf is no change
    }
    __device__ void merge(float other_max, float other_sum) {
        float top = fmaxf(max, other_max);
        sum = rescaled(sum, max, top) + rescaled(other_sum, other_max, top);
        max = top;
    }
};
__device__ inline Online warp_merge(Online own) {
    for (int by = 16; by > 0; by /= 2) {
        float max = __shfl_xor_sync(0xffffffffu, own.max, by);
        float sum = __shfl_xor_sync(0xffffffffu, own.sum, by);
        own.merge(max, sum);
    }
    return own;
}
__device__ inline Online block_merge(Online own) {
    __shared__ float part_max[32];
    __shared__ float part_sum[32];
    own = warp_merge(own);
    int warps = blockDim.x / 32;
    if (warps == 1) return own;
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        part_max[threadIdx.x / 32] = own.max;
        part_sum[threadIdx.x / 32] = own.sum;
    }
    __syncthreads();
    own = Online();
    for (int w = 0; w < warps; w++) own.merge(part_max[w], part_sum[w]);
    return own;
}
