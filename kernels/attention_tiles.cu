// attention_tiles.cu - attention whose scores never reach memory (FlashAttention, Dao et al. 2022);
// attention.cuh has the formulas and the parameters.
//
// attention_tiles_32, …_64, …_128, for D up to that. A block has 64 queries and walks along the
// keys, 32 at a time: k and v come from memory once for 64 queries, not once for each. A thread has
// 4 x 4 scores and 4 x D / 8 results in registers; 8 float4 from shared memory serve 64
// multiply-adds.
// Maximum and sum of a row are rescaled as it goes (the online softmax, Milakov and Gimelshein
// 2018). Of causal attention, tiles in the future are left out: nearly half. For D <= 128, whose
// tiles would not fit the 48 KiB of shared memory, 32 queries by 16 keys.
// block 128, grid heads * ceil(T / 64); for D <= 128 block 64, grid heads * ceil(T / 32).
#include "attention_tiles.cuh"

template <int D, int M, int N>
__device__ void tiles(Input q, Input k, Input v, Output out, float* top, float* inverse,
                      const Head& head, int block, int columns, float scale, int vector) {
    typedef Tile<D, M> Rows;  // names without a comma, which the macros of the emulator need
    typedef Tile<D, N> Columns;
    typedef Weights<M, N> Block;
    __shared__ Rows queries;
    __shared__ Columns keys;
    __shared__ Columns values;
    __shared__ Block weights;
    int x = threadIdx.x % 8, y = threadIdx.x / 8, t0 = block * M;
    load<D, M, 2 * M>(queries, q, t0, head.T, columns, scale, vector);
    float max[4], sum[4] = {};
    float4 o[4][D / 32] = {};
#pragma unroll
    for (int i = 0; i < 4; i++) max[i] = -INFINITY;
    int end = head.seen(min(t0 + M, head.T) - 1);  // the last query sees the most
    for (int s0 = 0; s0 < end; s0 += N) {
        __syncthreads();  // the last round's tiles have been used
        load<D, N, 2 * M>(keys, k, s0, head.S, columns, 1.0f, vector);
        load<D, N, 2 * M>(values, v, s0, head.S, columns, 1.0f, vector);
        if (head.dropping) fill_factors<M, N, 2 * M, false>(weights, head, t0, s0);
        __syncthreads();
        float s[4][N / 8];
        products<D, M, N>(queries, keys, x, y, s);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int row = y + M / 4 * i;
            float higher = max[i];
#pragma unroll
            for (int j = 0; j < N / 8; j++) {
                s[i][j] = head.score(s[i][j], t0 + row, s0 + x + 8 * j);
                higher = fmaxf(higher, s[i][j]);
            }
            for (int by = 4; by > 0; by /= 2)
                higher = fmaxf(higher, __shfl_xor_sync(0xffffffffu, higher, by));
            float shrink = max[i] == higher ? 1.0f : expf(max[i] - higher);
            max[i] = higher;
            sum[i] *= shrink;
#pragma unroll
            for (int j = 0; j < N / 8; j++) {
                float p = exp_below(s[i][j], higher);
                float& place = weights.at[row][x + 8 * j];
                sum[i] += p;
                place = head.dropping ? p * place : p;
            }
#pragma unroll
            for (int c = 0; c < D / 32; c++)
                o[i][c] = make_float4(o[i][c].x * shrink, o[i][c].y * shrink, o[i][c].z * shrink,
                                      o[i][c].w * shrink);
        }
        __syncwarp();  // a row's weights are its warp's own
        add_products<D, M, N>(weights, values, x, y, o);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        for (int by = 4; by > 0; by /= 2) sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], by);
        int t = t0 + y + M / 4 * i;
        if (t >= head.T) continue;
        float inv = 1.0f / sum[i];
        store_row<D>(out.row(t), x, columns, o[i], inv, vector);
        if (x == 0) top[head.row() + t] = max[i], inverse[head.row() + t] = inv;
    }
}

extern "C" __global__ void __launch_bounds__(128, 3) attention_tiles_32(
        const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
        const float* __restrict__ OPTIONAL bias, float* __restrict__ out, float* __restrict__ top,
        float* __restrict__ inverse, int heads, int H, int T, int S, int D, Dims q_strides,
        Dims k_strides, Dims v_strides, Dims out_strides, Dims bias_strides, float scale,
        int causal, int dropping, unsigned long long seed, unsigned long long draw,
        unsigned threshold, float factor, int vector) {
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    tiles<32, 64, 32>(Input(q, q_strides, head), Input(k, k_strides, head),
                      Input(v, v_strides, head), Output(out, out_strides, head), top, inverse, head,
                      block_from_the_last(heads), D, scale, vector);
}
extern "C" __global__ void __launch_bounds__(128, 3) attention_tiles_64(
        const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
        const float* __restrict__ OPTIONAL bias, float* __restrict__ out, float* __restrict__ top,
        float* __restrict__ inverse, int heads, int H, int T, int S, int D, Dims q_strides,
        Dims k_strides, Dims v_strides, Dims out_strides, Dims bias_strides, float scale,
        int causal, int dropping, unsigned long long seed, unsigned long long draw,
        unsigned threshold, float factor, int vector) {
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    tiles<64, 64, 32>(Input(q, q_strides, head), Input(k, k_strides, head),
                      Input(v, v_strides, head), Output(out, out_strides, head), top, inverse, head,
                      block_from_the_last(heads), D, scale, vector);
}
extern "C" __global__ void __launch_bounds__(64, 4) attention_tiles_128(
        const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
        const float* __restrict__ OPTIONAL bias, float* __restrict__ out, float* __restrict__ top,
        float* __restrict__ inverse, int heads, int H, int T, int S, int D, Dims q_strides,
        Dims k_strides, Dims v_strides, Dims out_strides, Dims bias_strides, float scale,
        int causal, int dropping, unsigned long long seed, unsigned long long draw,
        unsigned threshold, float factor, int vector) {
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    tiles<128, 32, 16>(Input(q, q_strides, head), Input(k, k_strides, head),
                       Input(v, v_strides, head), Output(out, out_strides, head), top, inverse,
                       head, block_from_the_last(heads), D, scale, vector);
}
