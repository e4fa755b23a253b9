// limits.cu - what this GPU reaches at best: the roofs that the bench measures other kernels by.
//
// A datasheet's numbers are for a clock and a memory that a given card may not have; these are for
// the card at hand, in the same process and by the same clock as what is compared with them.
//
// limit_copy      y = x, four floats a thread in one load and one store: the bandwidth of memory,
//                 2 * 16 bytes a thread. block any; grid ceil(n / 4 / blockDim.x); n % 4 == 0, x and
//                 y at multiples of 16 bytes, and much larger than the L2 cache.
// limit_fma       CHAINS chains of fused multiply-adds a thread, each waiting for itself alone, all
//                 in registers: float32 arithmetic, 2 * CHAINS * rounds operations a thread.
// limit_mma_tf32  the same with products of a warp on the tensor cores (ptx.cuh): CHAINS * rounds
// limit_mma_bf16  products of 2 * 16 * 8 * 8 and 2 * 16 * 8 * 16 operations. Since sm_90 there are
//                 other instructions (wgmma) that reach more than mma.sync does; no kernel here
//                 uses them. block: whole warps.
//
// The last three write each thread's sum to out (all threads), or the compiler would see that
// nobody needs it; with a b = 1 and rounds r it is known beforehand, so that a test can compare.
#include "ptx.cuh"

constexpr int CHAINS = 8;

extern "C" __global__ void limit_copy(const float* __restrict__ x, float* __restrict__ y,
                                      long long n) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n / 4) reinterpret_cast<float4*>(y)[i] = reinterpret_cast<const float4*>(x)[i];
}

// out = the sum over chains of x_r, x_0 = chain, x_(i + 1) = a x_i + b
extern "C" __global__ void limit_fma(float* __restrict__ out, float a, float b, int rounds) {
    float x[CHAINS], sum = 0.0f;
#pragma unroll
    for (int c = 0; c < CHAINS; c++) x[c] = c;
#pragma unroll 8
    for (int r = 0; r < rounds; r++)
#pragma unroll
        for (int c = 0; c < CHAINS; c++) x[c] = a * x[c] + b;
#pragma unroll
    for (int c = 0; c < CHAINS; c++) sum += x[c];
    out[(long long)blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

#if HAS_SM_80
// Every element of the products of matrices of ones adds their inner size, 8 or 16.
template <bool BF16>
__device__ inline void multiply_ones(float* out, int rounds) {
    unsigned one = BF16 ? to_bf16(1.0f, 1.0f) : to_tf32(1.0f);
    const unsigned a[4] = {one, one, one, one}, b[2] = {one, one};
    float c[CHAINS][4] = {}, sum = 0.0f;
#pragma unroll 4
    for (int r = 0; r < rounds; r++)
#pragma unroll
        for (int i = 0; i < CHAINS; i++) {
            if constexpr (BF16) mma_bf16(c[i], a, b);
            else mma_tf32(c[i], a, b);
        }
#pragma unroll
    for (int i = 0; i < CHAINS; i++) sum += (c[i][0] + c[i][1]) + (c[i][2] + c[i][3]);
    out[(long long)blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
#endif

extern "C" __global__ void SINCE_SM(80) limit_mma_tf32(float* __restrict__ out, int rounds) {
#if HAS_SM_80
    multiply_ones<false>(out, rounds);
#endif
}
extern "C" __global__ void SINCE_SM(80) limit_mma_bf16(float* __restrict__ out, int rounds) {
#if HAS_SM_80
    multiply_ones<true>(out, rounds);
#endif
}
