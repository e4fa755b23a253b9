// row.cuh - sums and maxima over the threads of a warp or of a block. Their order is fixed, so the
// same numbers give the same bits.
#pragma once

__device__ inline float warp_sum(float x) {
    for (int by = 16; by > 0; by /= 2) x += __shfl_xor_sync(0xffffffffu, x, by);
    return x;
}
__device__ inline float warp_max(float x) {
    for (int by = 16; by > 0; by /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, by));
    return x;
}

// Two sums over all threads of a block of whole warps. Each warp's go to shared memory, and every
// thread adds these up.
struct Sums { float a, b; };
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
