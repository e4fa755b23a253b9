// dropout.cu - y = x * kept * factor (Srivastava et al. 2014): element i is kept where its random
// bits (philox.cuh) are at least `threshold` = p * 2^32; factor = 1 / (1 - p).
// It is its own backward, with dy for x. x, y: n floats.
//
// dropout_naive  One thread an element. Each computes eight elements' bits and uses one of them.
// dropout_eight  A thread the eight elements of one counter, so that each number is computed once;
//                two loads and two stores of 16 bytes. x and y at multiples of 16 bytes. Threads go
//                on to the elements beyond the grid.
#include "philox.cuh"
#include "strides.cuh"

__device__ inline float dropped(float x, unsigned bits, unsigned threshold, float factor) {
    return x * (bits >= threshold ? 1.0f : 0.0f) * factor;
}

extern "C" __global__ void dropout_naive(const float* __restrict__ x, float* __restrict__ y,
                                         long long n, unsigned long long seed,
                                         unsigned long long draw, unsigned threshold,
                                         float factor) {
    long long i = first_element();
    if (i < n) y[i] = dropped(x[i], Philox(seed, draw).bits(i), threshold, factor);
}

extern "C" __global__ void dropout_eight(const float* __restrict__ x, float* __restrict__ y,
                                         long long n, unsigned long long seed,
                                         unsigned long long draw, unsigned threshold,
                                         float factor) {
    Philox random(seed, draw);
    for (long long i = first_element(); 8 * i < n; i += all_threads()) {
        long long first = 8 * i;
        if (first + 8 <= n) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                long long at = first + 4 * half;
                float4 v = *reinterpret_cast<const float4*>(x + at);
                v.x = dropped(v.x, random.bits(at), threshold, factor);
                v.y = dropped(v.y, random.bits(at + 1), threshold, factor);
                v.z = dropped(v.z, random.bits(at + 2), threshold, factor);
                v.w = dropped(v.w, random.bits(at + 3), threshold, factor);
                *reinterpret_cast<float4*>(y + at) = v;
            }
        } else {
            for (long long at = first; at < n; at++)
                y[at] = dropped(x[at], random.bits(at), threshold, factor);
        }
    }
}
