// attention_mma.cu - attention whose products run on the tensor cores (FlashAttention-2, Dao 2023,
// algorithm 1); attention.cuh has the formulas and the parameters, attention_mma.cuh the products.
//
// attention_mma_tf32_32, …_64, …_128 and attention_mma_bf16_…, for D up to that. Operands are
// rounded to tf32 (10 bits after the point) or bfloat16 (7) in registers; arrays, sums and the
// softmax are float32. What they change against attention_tiles.cu:
//
//   The products are mma.sync: 16 x 8 x 8 multiply-adds an instruction of a warp, where FMA has 32.
//   A warp owns 16 queries from beginning to end: queries, scores and results stay in registers, a
//   row in the four lanes of a quad, where maximum and sum take two shuffles. The weights are the
//   left operand of the second product where they are; tiles.cu takes them through shared memory.
//   Keys and values come by cp.async, while the warps compute: a ring of two tiles, one of keys and
//   one of values. The values arrive during q k^T, the next keys during softmax and weights v. One
//   barrier a tile says both that this one has arrived and that the other may be overwritten.
//   Only tiles that hold the end of some row look which keys a query sees; those in the future are
//   left out.
//
// Against float64 the results are off by 4e-4 with tf32 and 3e-3 with bfloat16, root mean squares
// (T = S = 1024, D = 64, normal numbers, on the emulator), and gradients by 5e-4 and 4e-3.
//
// The price: each warp reads the whole tile for 16 queries, so shared memory (32 KiB for 16 x 64
// scores of D = 64, 256 cycles at 128 bytes each) is about as busy as an A100's tensor cores with
// tf32, and twice as busy with bfloat16.
//
// attention_mma_bf16_storage_… take q, k and v as bfloat16 and give the results as such; bias, top
// and inverse stay float32. Tiles are half as large, fragments are read as they are, without an
// instruction to round them, and shared memory is about as busy as the tensor cores again.
//
// block 128: 4 warps, 64 queries; 64 keys at a time, of float32 for D <= 128 32.
// grid heads * ceil(T / 64).
//
// Registers a thread on sm_80 and sm_90, and bytes of shared memory; none is spilled, and two blocks
// fit a multiprocessor (nvcc 13.0; tests/kernels/test_nvcc.py compares):
//   attention_mma_tf32_32           207  207  18,432
//   attention_mma_tf32_64           211  214  34,816
//   attention_mma_tf32_128          231  235  33,792
//   attention_mma_bf16_32           197  201  18,432
//   attention_mma_bf16_64           215  222  34,816
//   attention_mma_bf16_128          220  232  33,792
//   attention_mma_bf16_storage_32   189  189  10,240
//   attention_mma_bf16_storage_64   194  193  18,432
//   attention_mma_bf16_storage_128  223  221  34,816
#include "attention_mma.cuh"

#if HAS_SM_80

// Scores become exp(score - maximum so far); sums and results follow a new maximum.
template <int D, int N>
__device__ inline void online_softmax(float (&s)[N / 8][4], float (&max)[2], float (&sum)[2],
                                      float (&o)[D / 8][4]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float higher = max[half];
#pragma unroll
        for (int n = 0; n < N / 8; n++)
            higher = fmaxf(higher, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
        higher = fmaxf(higher, __shfl_xor_sync(0xffffffffu, higher, 1));
        higher = fmaxf(higher, __shfl_xor_sync(0xffffffffu, higher, 2));
        float base = higher == -INFINITY ? 0.0f : higher;  // -inf - -inf is no number
        float shrink = __expf(max[half] - base);
        max[half] = higher;
        sum[half] *= shrink;
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++)
                sum[half] += s[n][i] = __expf(s[n][i] - base);
#pragma unroll
        for (int d = 0; d < D / 8; d++) o[d][2 * half] *= shrink, o[d][2 * half + 1] *= shrink;
    }
}

template <class Precision, int D, int N>
__device__ void attend(InputOf<Precision> q, InputOf<Precision> k, InputOf<Precision> v,
                       OutputOf<Precision> out, float* top, float* inverse, const Head& head,
                       int block, int columns, float scale, int vector) {
    typedef Operand<Precision, D, N> Columns;  // a name without commas, for the emulator's macros
    __shared__ Columns keys;
    __shared__ Columns values;
    int first = block * M + threadIdx.x / 32 * 16;  // of the warp's queries
    typename Precision::Left queries[D / 16];
    load_rows<Precision, D>(queries, q, first, head.T, columns);
    Rows rows = rows_of_queries(head, first);
    float max[2] = {-INFINITY, -INFINITY}, sum[2] = {}, o[D / 8][4] = {};
    int end = head.seen(min(block * M + M, head.T) - 1);  // the last query sees the most
    if (end > 0) copy(keys, k, 0, head.S, columns, vector);
    for (int s0 = 0; s0 < end; s0 += N) {
        float s[N / 8][4];
        cp_async_wait<0>();
        __syncthreads();  // these keys are here, and the last values have been used
        copy(values, v, s0, head.S, columns, vector);
        products(queries, keys, s);
        cp_async_wait<0>();
        __syncthreads();  // these values are here, and the keys have been used
        if (s0 + N < end) copy(keys, k, s0 + N, head.S, columns, vector);
        finish_scores<N>(s, rows, s0, scale);
        online_softmax<D, N>(s, max, sum, o);
        if (head.dropping) {
            unsigned kept = kept_scores<N, false>(head, first, s0);
#pragma unroll
            for (int i = 0; i < N / 2; i++)
                if (!(kept >> i & 1)) s[i / 4][i % 4] = 0.0f;  // its factor comes in at the end
        }
        add_products(s, values, o);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 1);
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 2);
        int t = first + threadIdx.x % 32 / 4 + 8 * half;
        if (t >= head.T) continue;
        float inv = 1.0f / sum[half];
        store_row<D>(out.row(t), columns, o, half, inv * head.factor, vector);
        if (threadIdx.x % 4 > 0) continue;
        top[head.row() + t] = max[half], inverse[head.row() + t] = inv;
    }
}

#endif  // HAS_SM_80

extern "C" __global__ void __launch_bounds__(128, 2) SINCE_SM(80) attention_mma_tf32_32(
        const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
        const float* __restrict__ OPTIONAL bias, float* __restrict__ out, float* __restrict__ top,
        float* __restrict__ inverse, int heads, int H, int T, int S, int D, Dims q_strides,
        Dims k_strides, Dims v_strides, Dims out_strides, Dims bias_strides, float scale,
        int causal, int dropping, unsigned long long seed, unsigned long long draw,
        unsigned threshold, float factor, int vector) {
#if HAS_SM_80
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    attend<Tf32, 32, 64>(Input(q, q_strides, head), Input(k, k_strides, head),
                         Input(v, v_strides, head), Output(out, out_strides, head), top, inverse,
                         head, block_from_the_last(heads), D, scale, vector);
#endif
}

extern "C" __global__ void __launch_bounds__(128, 2) SINCE_SM(80) attention_mma_tf32_64(
        const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
        const float* __restrict__ OPTIONAL bias, float* __restrict__ out, float* __restrict__ top,
        float* __restrict__ inverse, int heads, int H, int T, int S, int D, Dims q_strides,
        Dims k_strides, Dims v_strides, Dims out_strides, Dims bias_strides, float scale,
        int causal, int dropping, unsigned long long seed, unsigned long long draw,
        unsigned threshold, float factor, int vector) {
#if HAS_SM_80
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    attend<Tf32, 64, 64>(Input(q, q_strides, head), Input(k, k_strides, head),
                         Input(v, v_strides, head), Output(out, out_strides, head), top, inverse,
                         head, block_from_the_last(heads), D, scale, vector);
#endif
}

extern "C" __global__ void __launch_bounds__(128, 2) SINCE_SM(80) attention_mma_tf32_128(
        const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
        const float* __restrict__ OPTIONAL bias, float* __restrict__ out, float* __restrict__ top,
        float* __restrict__ inverse, int heads, int H, int T, int S, int D, Dims q_strides,
        Dims k_strides, Dims v_strides, Dims out_strides, Dims bias_strides, float scale,
        int causal, int dropping, unsigned long long seed, unsigned long long draw,
        unsigned threshold, float factor, int vector) {
#if HAS_SM_80
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    attend<Tf32, 128, 32>(Input(q, q_strides, head), Input(k, k_strides, head),
                          Input(v, v_strides, head), Output(out, out_strides, head), top, inverse,
                          head, block_from_the_last(heads), D, scale, vector);
#endif
}

extern "C" __global__ void __launch_bounds__(128, 2) SINCE_SM(80) attention_mma_bf16_32(
        const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
        const float* __restrict__ OPTIONAL bias, float* __restrict__ out, float* __restrict__ top,
        float* __restrict__ inverse, int heads, int H, int T, int S, int D, Dims q_strides,
        Dims k_strides, Dims v_strides, Dims out_strides, Dims bias_strides, float scale,
        int causal, int dropping, unsigned long long seed, unsigned long long draw,
        unsigned threshold, float factor, int vector) {
#if HAS_SM_80
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    attend<Bf16, 32, 64>(Input(q, q_strides, head), Input(k, k_strides, head),
                         Input(v, v_strides, head), Output(out, out_strides, head), top, inverse,
                         head, block_from_the_last(heads), D, scale, vector);
#endif
}

extern "C" __global__ void __launch_bounds__(128, 2) SINCE_SM(80) attention_mma_bf16_64(
        const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
        const float* __restrict__ OPTIONAL bias, float* __restrict__ out, float* __restrict__ top,
        float* __restrict__ inverse, int heads, int H, int T, int S, int D, Dims q_strides,
        Dims k_strides, Dims v_strides, Dims out_strides, Dims bias_strides, float scale,
        int causal, int dropping, unsigned long long seed, unsigned long long draw,
        unsigned threshold, float factor, int vector) {
#if HAS_SM_80
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    attend<Bf16, 64, 64>(Input(q, q_strides, head), Input(k, k_strides, head),
                         Input(v, v_strides, head), Output(out, out_strides, head), top, inverse,
                         head, block_from_the_last(heads), D, scale, vector);
#endif
}

extern "C" __global__ void __launch_bounds__(128, 2) SINCE_SM(80) attention_mma_bf16_128(
        const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
        const float* __restrict__ OPTIONAL bias, float* __restrict__ out, float* __restrict__ top,
        float* __restrict__ inverse, int heads, int H, int T, int S, int D, Dims q_strides,
        Dims k_strides, Dims v_strides, Dims out_strides, Dims bias_strides, float scale,
        int causal, int dropping, unsigned long long seed, unsigned long long draw,
        unsigned threshold, float factor, int vector) {
#if HAS_SM_80
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    attend<Bf16, 128, 32>(Input(q, q_strides, head), Input(k, k_strides, head),
                          Input(v, v_strides, head), Output(out, out_strides, head), top, inverse,
                          head, block_from_the_last(heads), D, scale, vector);
#endif
}

extern "C" __global__ void __launch_bounds__(128, 2) SINCE_SM(80) attention_mma_bf16_storage_32(
        const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k,
        const __nv_bfloat16* __restrict__ v, const float* __restrict__ OPTIONAL bias,
        __nv_bfloat16* __restrict__ out, float* __restrict__ top, float* __restrict__ inverse,
        int heads, int H, int T, int S, int D, Dims q_strides, Dims k_strides, Dims v_strides,
        Dims out_strides, Dims bias_strides, float scale, int causal, int dropping,
        unsigned long long seed, unsigned long long draw, unsigned threshold, float factor,
        int vector) {
#if HAS_SM_80
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    attend<Bf16Storage, 32, 64>(Matrix(q, q_strides, head), Matrix(k, k_strides, head),
                                Matrix(v, v_strides, head), Matrix(out, out_strides, head), top,
                                inverse, head, block_from_the_last(heads), D, scale, vector);
#endif
}

extern "C" __global__ void __launch_bounds__(128, 2) SINCE_SM(80) attention_mma_bf16_storage_64(
        const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k,
        const __nv_bfloat16* __restrict__ v, const float* __restrict__ OPTIONAL bias,
        __nv_bfloat16* __restrict__ out, float* __restrict__ top, float* __restrict__ inverse,
        int heads, int H, int T, int S, int D, Dims q_strides, Dims k_strides, Dims v_strides,
        Dims out_strides, Dims bias_strides, float scale, int causal, int dropping,
        unsigned long long seed, unsigned long long draw, unsigned threshold, float factor,
        int vector) {
#if HAS_SM_80
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    attend<Bf16Storage, 64, 64>(Matrix(q, q_strides, head), Matrix(k, k_strides, head),
                                Matrix(v, v_strides, head), Matrix(out, out_strides, head), top,
                                inverse, head, block_from_the_last(heads), D, scale, vector);
#endif
}

extern "C" __global__ void __launch_bounds__(128, 2) SINCE_SM(80) attention_mma_bf16_storage_128(
        const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k,
        const __nv_bfloat16* __restrict__ v, const float* __restrict__ OPTIONAL bias,
        __nv_bfloat16* __restrict__ out, float* __restrict__ top, float* __restrict__ inverse,
        int heads, int H, int T, int S, int D, Dims q_strides, Dims k_strides, Dims v_strides,
        Dims out_strides, Dims bias_strides, float scale, int causal, int dropping,
        unsigned long long seed, unsigned long long draw, unsigned threshold, float factor,
        int vector) {
#if HAS_SM_80
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    attend<Bf16Storage, 128, 64>(Matrix(q, q_strides, head), Matrix(k, k_strides, head),
                                 Matrix(v, v_strides, head), Matrix(out, out_strides, head), top,
                                 inverse, head, block_from_the_last(heads), D, scale, vector);
#endif
}
