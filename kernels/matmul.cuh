// matmul.cuh - what the files matmul*.cu share: a product of a batch, and who computes what of it.
//
// C = f(A B + bias) for a batch of matrices. K = 0 gives f(bias). A kernel of the family takes
//
//   A, B, bias, C  the arrays; bias (N,) or null for none; C at a multiple of 16 bytes
//   M, N, K        A is (M, K), B is (K, N), C is (M, N); C lies row by row without gaps
//   lda, ldb       elements from one row of A or B, as it lies in memory, to the next
//   transpose_a    1 if A lies in memory as (K, M); transpose_b the same for B as (N, K)
//   activation     f: 0 for none, 1 for the GELU in GPT-2's form
//   ndim, batch    the leading axes, at least one: how many, and their sizes. a_strides, b_strides:
//                  their strides in A and B, 0 along an axis that is repeated
//   batches        product of those sizes
//
// Every grid is one row of blocks, because x alone may have more than 65535: a block finds its
// tile by dividing its number. Sums run over k in one fixed order, so the same bits each time.
#pragma once
#include <cuda_bf16.h>

#include "gelu.cuh"
#include "strides.cuh"

// Neighbours in one store.
__device__ inline void put(float* to, float2 x) { *reinterpret_cast<float2*>(to) = x; }
__device__ inline void put(float* to, float4 x) { *reinterpret_cast<float4*>(to) = x; }
__device__ inline void put(__nv_bfloat16* to, float2 x) {
    unsigned low = __bfloat16_as_ushort(__float2bfloat16(x.x));
    *reinterpret_cast<unsigned*>(to) = low | __bfloat16_as_ushort(__float2bfloat16(x.y)) << 16;
}

// One matrix product of the batch, of arrays of T; of C those of Out.
template <class T, class Out = T>
struct ProductOf {
    const T *A, *B, *bias;
    Out* C;
    int M, N, K, transpose_a, transpose_b, activation;
    long long lda, ldb;

    // The same for matrix `number` of the batch.
    __device__ ProductOf at(long long number, int ndim, const Dims& batch, const Dims& a_strides,
                            const Dims& b_strides) const {
        ProductOf one = *this;
        one.A += find_offset(number, ndim, batch, a_strides);
        one.B += find_offset(number, ndim, batch, b_strides);
        one.C += number * M * N;
        return one;
    }
    __device__ T a(int m, int k) const { return transpose_a ? A[k * lda + m] : A[m * lda + k]; }
    __device__ T b(int k, int n) const { return transpose_b ? B[n * ldb + k] : B[k * ldb + n]; }
    // f(sum + bias[n])
    __device__ float finished(int n, float sum) const {
        if (bias) sum += float(bias[n]);
        return activation ? GeluTanh::value(sum) : sum;
    }
    // C[m][n] = f(sum + bias[n]), if that is inside of C
    __device__ void store(int m, int n, float sum) const {
        if (m < M && n < N) C[(long long)m * N + n] = Out(finished(n, sum));
    }
    // The same for two and four neighbours, n a multiple of that: in one store where N is, too.
    __device__ void store(int m, int n, float2 sums) const {
        if (N % 2) {
            store(m, n, sums.x);
            store(m, n + 1, sums.y);
        } else if (m < M && n < N) {
            sums.x = finished(n, sums.x), sums.y = finished(n + 1, sums.y);
            put(C + (long long)m * N + n, sums);
        }
    }
    __device__ void store(int m, int n, float4 sums) const {
        if (N % 4) {
            store(m, n, make_float2(sums.x, sums.y));
            store(m, n + 2, make_float2(sums.z, sums.w));
        } else if (m < M && n < N) {
            sums.x = finished(n, sums.x), sums.y = finished(n + 1, sums.y);
            sums.z = finished(n + 2, sums.z), sums.w = finished(n + 3, sums.w);
            put(C + (long long)m * N + n, sums);
        }
    }
};
typedef ProductOf<float> Product;

// Where a block works: the first row and column of its tile, and which matrix.
struct Place {
    int m, n;
    long long matrix;
};
template <class T, class Out>
__device__ inline Place place_of_block(const ProductOf<T, Out>& p, int rows, int columns) {
    long long across = (p.N - 1) / columns + 1, down = (p.M - 1) / rows + 1;
    long long tile = blockIdx.x;
    return {int(tile / across % down) * rows, int(tile % across) * columns, tile / across / down};
}

// Fill tile[k][r] = X(first + r, k0 + k), zero outside of `rows` and `K`; WIDTH float4 a row are
// room for ROWS floats and some more. A matrix lies in memory along r (`along_rows`: element (r, k)
// at k ld + r) or along k (at r ld + k); neighbouring threads read along it.
template <int ROWS, int THREADS, int DEPTH, int WIDTH>
__device__ inline void fill(float4 (&tile)[DEPTH][WIDTH], const float* X, long long ld,
                            bool along_rows, int first, int rows, int k0, int K) {
    float* flat = reinterpret_cast<float*>(tile);
#pragma unroll 4
    for (int i = threadIdx.x; i < ROWS * DEPTH; i += THREADS) {
        int r = along_rows ? i % ROWS : i / DEPTH, k = along_rows ? i / ROWS : i % DEPTH;
        bool inside = first + r < rows && k0 + k < K;
        long long at = along_rows ? (k0 + k) * ld + first + r : (first + r) * ld + k0 + k;
        flat[k * 4 * WIDTH + r] = inside ? X[at] : 0.0f;
    }
}
