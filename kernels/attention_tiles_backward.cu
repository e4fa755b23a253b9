// attention_tiles_backward.cu - the derivative of attention_tiles.cu; attention.cuh has the
// formulas and the parameters.
//
// Scores are computed again from q, k and each row's top and inverse, so nothing of size T S is
// kept. Two kernels, each with sums of its own in registers: attention_tiles_backward_queries_… has
// 32 queries a block and walks along the keys for dq, …_keys_… has 32 keys a block and walks along
// the queries for dk and dv. Both do the products q k^T and dout v^T. One kernel that did these
// once would have to add dq by atomics, in another order each time: 7 products instead of 5 are the
// price of the same bits. attention_row_products gives them r.
// For D <= 32, 64 and 128, the last with 16 queries and keys instead of 32. A larger head takes the
// plain path of attention.cu, with the scores in memory.
// block 64, grids heads * ceil(T / 32) and heads * ceil(S / 32); for D <= 128 block 32, 16 each.
#include <cuda_bf16.h>

#include "attention_tiles.cuh"

// r = sum over D of dout out: eight lanes a row, which read 32 bytes of it at a time.
template <class Element>
__device__ void row_products(const Element* dout, const Element* out, float* r, int heads, int H,
                             int T, int D, const Dims& dout_strides, const Dims& out_strides) {
    typedef Matrix<const Element> Rows;
    long long row = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / 8;
    bool inside = row < (long long)heads * T;
    float sum = 0.0f;
    if (inside) {
        int number = row / T, t = row % T;
        const Element* dout_row = Rows(dout, dout_strides, number, H).row(t);
        const Element* out_row = Rows(out, out_strides, number, H).row(t);
        for (int d = threadIdx.x % 8; d < D; d += 8) sum += float(dout_row[d]) * float(out_row[d]);
    }
    for (int by = 4; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
    if (inside && threadIdx.x % 8 == 0) r[row] = sum;
}
extern "C" __global__ void attention_row_products(
        const float* __restrict__ dout, const float* __restrict__ out, float* __restrict__ r,
        int heads, int H, int T, int D, Dims dout_strides, Dims out_strides) {
    row_products(dout, out, r, heads, H, T, D, dout_strides, out_strides);
}
extern "C" __global__ void attention_row_products_bf16(
        const __nv_bfloat16* __restrict__ dout, const __nv_bfloat16* __restrict__ out,
        float* __restrict__ r, int heads, int H, int T, int D, Dims dout_strides,
        Dims out_strides) {
    row_products(dout, out, r, heads, H, T, D, dout_strides, out_strides);
}

template <int D, int M, int N>
__device__ void tiles_backward_queries(Input dout, Input q, Input k, Input v, const float* top,
                                       const float* inverse, const float* r, Output dq,
                                       const Head& head, int block, int columns, float scale,
                                       int vector) {
    typedef Tile<D, M> Rows;
    typedef Tile<D, N> Columns;
    typedef Weights<M, N> Block;
    __shared__ Rows queries;
    __shared__ Rows douts;
    __shared__ Columns keys;
    __shared__ Columns values;
    __shared__ Block weights;
    int x = threadIdx.x % 8, y = threadIdx.x / 8, t0 = block * M;
    top += head.row(), inverse += head.row(), r += head.row();
    load<D, M, 2 * M>(queries, q, t0, head.T, columns, scale, vector);
    load<D, M, 2 * M>(douts, dout, t0, head.T, columns, 1.0f, vector);
    float4 o[4][D / 32] = {};
    float row_top[4], row_inverse[4], row_r[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int t = min(t0 + y + M / 4 * i, head.T - 1);  // a row outside has no scores
        row_top[i] = top[t], row_inverse[i] = inverse[t], row_r[i] = r[t];
    }
    int end = head.seen(min(t0 + M, head.T) - 1);
    for (int s0 = 0; s0 < end; s0 += N) {
        __syncthreads();
        load<D, N, 2 * M>(keys, k, s0, head.S, columns, 1.0f, vector);
        load<D, N, 2 * M>(values, v, s0, head.S, columns, 1.0f, vector);
        if (head.dropping) fill_factors<M, N, 2 * M, false>(weights, head, t0, s0);
        __syncthreads();
        float s[4][N / 8], da[4][N / 8];
        products<D, M, N>(queries, keys, x, y, s);
        products<D, M, N>(douts, values, x, y, da);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < N / 8; j++) {
                int row = y + M / 4 * i, column = x + 8 * j;
                float score = head.score(s[i][j], t0 + row, s0 + column);
                float p = exp_below(score, row_top[i]) * row_inverse[i];
                float& place = weights.at[row][column];
                place = p * ((head.dropping ? place : 1.0f) * da[i][j] - row_r[i]);
            }
        __syncwarp();
        add_products<D, M, N>(weights, keys, x, y, o);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int t = t0 + y + M / 4 * i;
        if (t < head.T) store_row<D>(dq.row(t), x, columns, o[i], scale, vector);
    }
}

template <int D, int M, int N>
__device__ void tiles_backward_keys(Input dout, Input q, Input k, Input v, const float* top,
                                    const float* inverse, const float* r, Output dk, Output dv,
                                    const Head& head, int block, int columns, float scale,
                                    int vector) {
    typedef Tile<D, M> Rows;
    typedef Tile<D, N> Columns;
    typedef Weights<M, N> Block;
    __shared__ Rows keys;
    __shared__ Rows values;
    __shared__ Columns queries;
    __shared__ Columns douts;
    __shared__ Block weights;
    int x = threadIdx.x % 8, y = threadIdx.x / 8, s0 = block * M;
    top += head.row(), inverse += head.row(), r += head.row();
    load<D, M, 2 * M>(keys, k, s0, head.S, columns, 1.0f, vector);
    load<D, M, 2 * M>(values, v, s0, head.S, columns, 1.0f, vector);
    float4 k_sum[4][D / 32] = {}, v_sum[4][D / 32] = {};
    for (int t0 = head.first_to_see(s0) / N * N; t0 < head.T; t0 += N) {
        __syncthreads();
        load<D, N, 2 * M>(queries, q, t0, head.T, columns, scale, vector);
        load<D, N, 2 * M>(douts, dout, t0, head.T, columns, 1.0f, vector);
        if (head.dropping) fill_factors<M, N, 2 * M, true>(weights, head, t0, s0);
        __syncthreads();
        float s[4][N / 8], da[4][N / 8];
        products<D, M, N>(keys, queries, x, y, s);
        products<D, M, N>(values, douts, x, y, da);
#pragma unroll
        for (int j = 0; j < N / 8; j++) {
            int column = x + 8 * j, t = min(t0 + column, head.T - 1);
            float row_top = top[t], row_inverse = inverse[t], row_r = r[t];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int row = y + M / 4 * i;
                float score = head.score(s[i][j], t0 + column, s0 + row);
                float p = exp_below(score, row_top) * row_inverse;
                float& place = weights.at[row][column];
                float m = head.dropping ? place : 1.0f;
                place = p * m;
                s[i][j] = p * (m * da[i][j] - row_r);
            }
        }
        __syncwarp();
        add_products<D, M, N>(weights, douts, x, y, v_sum);
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < N / 8; j++) weights.at[y + M / 4 * i][x + 8 * j] = s[i][j];
        __syncwarp();
        add_products<D, M, N>(weights, queries, x, y, k_sum);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int s = s0 + y + M / 4 * i;
        if (s >= head.S) continue;
        store_row<D>(dk.row(s), x, columns, k_sum[i], 1.0f, vector);
        store_row<D>(dv.row(s), x, columns, v_sum[i], 1.0f, vector);
    }
}

extern "C" __global__ void __launch_bounds__(64, 4) attention_tiles_backward_queries_32(
        const float* __restrict__ dout, const float* __restrict__ q, const float* __restrict__ k,
        const float* __restrict__ v, const float* __restrict__ OPTIONAL bias,
        const float* __restrict__ top, const float* __restrict__ inverse,
        const float* __restrict__ r, float* __restrict__ dq, int heads, int H, int T, int S, int D,
        Dims dout_strides, Dims q_strides, Dims k_strides, Dims v_strides, Dims dq_strides,
        Dims bias_strides, float scale, int causal, int dropping, unsigned long long seed,
        unsigned long long draw, unsigned threshold, float factor, int vector) {
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    tiles_backward_queries<32, 32, 32>(Input(dout, dout_strides, head), Input(q, q_strides, head),
                                       Input(k, k_strides, head), Input(v, v_strides, head), top,
                                       inverse, r, Output(dq, dq_strides, head), head,
                                       block_from_the_last(heads), D, scale, vector);
}
extern "C" __global__ void __launch_bounds__(64, 4) attention_tiles_backward_keys_32(
        const float* __restrict__ dout, const float* __restrict__ q, const float* __restrict__ k,
        const float* __restrict__ v, const float* __restrict__ OPTIONAL bias,
        const float* __restrict__ top, const float* __restrict__ inverse,
        const float* __restrict__ r, float* __restrict__ dk, float* __restrict__ dv, int heads,
        int H, int T, int S, int D, Dims dout_strides, Dims q_strides, Dims k_strides,
        Dims v_strides, Dims dk_strides, Dims dv_strides, Dims bias_strides, float scale,
        int causal, int dropping, unsigned long long seed, unsigned long long draw,
        unsigned threshold, float factor, int vector) {
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    tiles_backward_keys<32, 32, 32>(Input(dout, dout_strides, head), Input(q, q_strides, head),
                                    Input(k, k_strides, head), Input(v, v_strides, head), top,
                                    inverse, r, Output(dk, dk_strides, head),
                                    Output(dv, dv_strides, head), head, blockIdx.x / heads, D,
                                    scale, vector);
}

extern "C" __global__ void __launch_bounds__(64, 4) attention_tiles_backward_queries_64(
        const float* __restrict__ dout, const float* __restrict__ q, const float* __restrict__ k,
        const float* __restrict__ v, const float* __restrict__ OPTIONAL bias,
        const float* __restrict__ top, const float* __restrict__ inverse,
        const float* __restrict__ r, float* __restrict__ dq, int heads, int H, int T, int S, int D,
        Dims dout_strides, Dims q_strides, Dims k_strides, Dims v_strides, Dims dq_strides,
        Dims bias_strides, float scale, int causal, int dropping, unsigned long long seed,
        unsigned long long draw, unsigned threshold, float factor, int vector) {
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    tiles_backward_queries<64, 32, 32>(Input(dout, dout_strides, head), Input(q, q_strides, head),
                                       Input(k, k_strides, head), Input(v, v_strides, head), top,
                                       inverse, r, Output(dq, dq_strides, head), head,
                                       block_from_the_last(heads), D, scale, vector);
}
extern "C" __global__ void __launch_bounds__(64, 4) attention_tiles_backward_keys_64(
        const float* __restrict__ dout, const float* __restrict__ q, const float* __restrict__ k,
        const float* __restrict__ v, const float* __restrict__ OPTIONAL bias,
        const float* __restrict__ top, const float* __restrict__ inverse,
        const float* __restrict__ r, float* __restrict__ dk, float* __restrict__ dv, int heads,
        int H, int T, int S, int D, Dims dout_strides, Dims q_strides, Dims k_strides,
        Dims v_strides, Dims dk_strides, Dims dv_strides, Dims bias_strides, float scale,
        int causal, int dropping, unsigned long long seed, unsigned long long draw,
        unsigned threshold, float factor, int vector) {
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    tiles_backward_keys<64, 32, 32>(Input(dout, dout_strides, head), Input(q, q_strides, head),
                                    Input(k, k_strides, head), Input(v, v_strides, head), top,
                                    inverse, r, Output(dk, dk_strides, head),
                                    Output(dv, dv_strides, head), head, blockIdx.x / heads, D,
                                    scale, vector);
}

extern "C" __global__ void __launch_bounds__(32) attention_tiles_backward_queries_128(
        const float* __restrict__ dout, const float* __restrict__ q, const float* __restrict__ k,
        const float* __restrict__ v, const float* __restrict__ OPTIONAL bias,
        const float* __restrict__ top, const float* __restrict__ inverse,
        const float* __restrict__ r, float* __restrict__ dq, int heads, int H, int T, int S, int D,
        Dims dout_strides, Dims q_strides, Dims k_strides, Dims v_strides, Dims dq_strides,
        Dims bias_strides, float scale, int causal, int dropping, unsigned long long seed,
        unsigned long long draw, unsigned threshold, float factor, int vector) {
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    tiles_backward_queries<128, 16, 16>(Input(dout, dout_strides, head), Input(q, q_strides, head),
                                        Input(k, k_strides, head), Input(v, v_strides, head), top,
                                        inverse, r, Output(dq, dq_strides, head), head,
                                        block_from_the_last(heads), D, scale, vector);
}
extern "C" __global__ void __launch_bounds__(32) attention_tiles_backward_keys_128(
        const float* __restrict__ dout, const float* __restrict__ q, const float* __restrict__ k,
        const float* __restrict__ v, const float* __restrict__ OPTIONAL bias,
        const float* __restrict__ top, const float* __restrict__ inverse,
        const float* __restrict__ r, float* __restrict__ dk, float* __restrict__ dv, int heads,
        int H, int T, int S, int D, Dims dout_strides, Dims q_strides, Dims k_strides,
        Dims v_strides, Dims dk_strides, Dims dv_strides, Dims bias_strides, float scale,
        int causal, int dropping, unsigned long long seed, unsigned long long draw,
        unsigned threshold, float factor, int vector) {
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    tiles_backward_keys<128, 16, 16>(Input(dout, dout_strides, head), Input(q, q_strides, head),
                                     Input(k, k_strides, head), Input(v, v_strides, head), top,
                                     inverse, r, Output(dk, dk_strides, head),
                                     Output(dv, dv_strides, head), head, blockIdx.x / heads, D,
                                     scale, vector);
}
