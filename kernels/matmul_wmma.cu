// matmul_wmma.cu - C = f(A B + bias) on the tensor cores, in CUDA's own words: nvcuda::wmma.
//
// The arrays are float32, as matmul.cuh tells, but each element of A and B is rounded to tf32 (10
// bits after the point, where float32 has 23) before it is multiplied; products are exact, and are
// added in float32. sm_80 and later.
//
// matmul_wmma  A block of 4 warps computes 64 x 64 entries from tiles in shared memory, as
//              matmul_registers does, but a warp multiplies whole matrices: a fragment of A (16 x
//              8) by one of B (8 x 16), spread over its lanes' registers, in one instruction. A
//              warp has 2 x 2 fragments of C, 32 x 32 entries, so that each fragment of A and B
//              serves twice. Where an element of a fragment lies is not told; so C goes through
//              shared memory, where its rows and columns are known again, for bias and GELU. What
//              limits is the wait for each tile: matmul_mma.cu mends that. block 128; grid batches
//              * ceil(M / 64) * ceil(N / 64).
//
// Registers a thread on sm_80 and sm_90, and bytes of shared memory, nothing spilled (nvcc 13.0;
// tests/kernels/test_nvcc.py compares):
//   matmul_wmma  128  128  25,600
#include <mma.h>

#include "matmul.cuh"
#include "ptx.cuh"

#if HAS_SM_80
using namespace nvcuda;

// The tiles have 16 float4 a row, and two more: so that rows of k, of which a fragment has eight,
// begin in different banks of shared memory.
constexpr int WMMA_LD = 72;

// Both tiles lie [k][m] and [k][n]: A's by columns, B's by rows.
typedef wmma::fragment<wmma::matrix_a, 16, 16, 8, wmma::precision::tf32, wmma::col_major> FragmentA;
typedef wmma::fragment<wmma::matrix_b, 16, 16, 8, wmma::precision::tf32, wmma::row_major> FragmentB;
typedef wmma::fragment<wmma::accumulator, 16, 16, 8, float> FragmentC;

template <class Fragment>
__device__ inline void load_rounded(Fragment& f, const float* tile) {
    wmma::load_matrix_sync(f, tile, WMMA_LD);
#pragma unroll
    for (int i = 0; i < f.num_elements; i++) f.x[i] = wmma::__float_to_tf32(f.x[i]);
}
#endif

extern "C" __global__ void __launch_bounds__(128) SINCE_SM(80) matmul_wmma(
        const float* __restrict__ A, const float* __restrict__ B, const float* OPTIONAL bias,
        float* __restrict__ C, int M, int N, int K, long long lda, long long ldb, int transpose_a,
        int transpose_b, int activation, int ndim, const __grid_constant__ Dims batch,
        const __grid_constant__ Dims a_strides, const __grid_constant__ Dims b_strides,
        long long batches) {
#if HAS_SM_80
    __shared__ float4 a[16][18];    // [k][m / 4]
    __shared__ float4 b[16][18];    // [k][n / 4]
    __shared__ float4 c[64][16];    // [m][n / 4]
    Product p{A, B, bias, C, M, N, K, transpose_a, transpose_b, activation, lda, ldb};
    Place place = place_of_block(p, 64, 64);
    p = p.at(place.matrix, ndim, batch, a_strides, b_strides);
    int warp = threadIdx.x / 32, m = warp / 2 * 32, n = warp % 2 * 32;  // the warp's 32 x 32 of C
    const float *flat_a = &a[0][0].x + m, *flat_b = &b[0][0].x + n;
    float* flat_c = &c[0][0].x;
    FragmentC sum[2][2];
    for (int i = 0; i < 4; i++) wmma::fill_fragment(sum[i / 2][i % 2], 0.0f);
    for (int k0 = 0; k0 < K; k0 += 16) {
        fill<64, 128>(a, p.A, lda, transpose_a, place.m, M, k0, K);
        fill<64, 128>(b, p.B, ldb, !transpose_b, place.n, N, k0, K);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < 16; k += 8) {
            FragmentA left[2];
            FragmentB right[2];
            for (int i = 0; i < 2; i++) {
                load_rounded(left[i], flat_a + k * WMMA_LD + 16 * i);
                load_rounded(right[i], flat_b + k * WMMA_LD + 16 * i);
            }
            for (int i = 0; i < 4; i++)
                wmma::mma_sync(sum[i / 2][i % 2], left[i / 2], right[i % 2], sum[i / 2][i % 2]);
        }
        __syncthreads();
    }
    for (int i = 0; i < 4; i++)
        wmma::store_matrix_sync(flat_c + (m + i / 2 * 16) * 64 + n + i % 2 * 16,
                                sum[i / 2][i % 2], 64, wmma::mem_row_major);
    __syncthreads();
    for (int i = threadIdx.x; i < 64 * 64; i += 128)
        p.store(place.m + i / 64, place.n + i % 64, flat_c[i]);
#endif
}
