// dropout.cu - y = x * kept * factor (Srivastava et al. 2014): element i is kept where its random
// bits (philox.cuh) are at least `threshold` = p * 2^32; factor = 1 / (1 - p).
// It is its own backward, with dy for x. x, y: n floats.
//
// dropout_naive  One thread an element. Each computes eight elements' bits and uses one of them.
// dropout_eight  A thread the eight elements of one counter, so that each number is computed once;
//                two loads and two stores of 16 bytes. x and y at multiples of 16 bytes. Threads go
//                on to the elements beyond the grid.
// dropout_eight_bfloat16   The same in bfloat16: two loads and two stores of 8 bytes, and the same
//                elements dropped.
#include "pack.cuh"
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

template <class T>
__device__ void eights(const T* x, T* y, long long n, unsigned long long seed,
                       unsigned long long draw, unsigned threshold, float factor) {
    Philox random(seed, draw);
    for (long long i = first_element(); 8 * i < n; i += all_threads()) {
        long long first = 8 * i;
        if (first + 8 <= n) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                long long at = first + 4 * half;
                Pack<4> v = load_pack<4>(x + at, 0);
                for (int j = 0; j < 4; j++)
                    v.v[j] = dropped(v.v[j], random.bits(at + j), threshold, factor);
                store_pack(y + at, 0, v);
            }
        } else {
            for (long long at = first; at < n; at++)
                y[at] = T(dropped(float(x[at]), random.bits(at), threshold, factor));
        }
    }
}

extern "C" __global__ void dropout_eight(const float* __restrict__ x, float* __restrict__ y,
                                         long long n, unsigned long long seed,
                                         unsigned long long draw, unsigned threshold,
                                         float factor) {
    eights(x, y, n, seed, draw, threshold, factor);
}
extern "C" __global__ void dropout_eight_bfloat16(
        const __nv_bfloat16* __restrict__ x, __nv_bfloat16* __restrict__ y, long long n,
        unsigned long long seed, unsigned long long draw, unsigned threshold, float factor) {
    eights(x, y, n, seed, draw, threshold, factor);
}
