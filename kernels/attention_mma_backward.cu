// attention_mma_backward.cu - the derivative of attention_mma.cu, with its products on the tensor
// cores; attention.cuh has the formulas and the parameters, attention_mma.cuh the products.
//
// attention_mma_backward_tf32_queries_32, …_64 and attention_mma_backward_tf32_keys_…, the same for
// bf16, and for arrays of bfloat16 bf16_storage. As in attention_tiles_backward.cu scores are
// computed again, and one kernel sums up dq, another dk and dv: so no sum needs an atomic
// operation, and the bits are the same each time. attention_row_products there gives them r.
//
// A warp owns 16 rows, queries in the one kernel and keys in the other, in registers: both left
// operands and all sums. The other side comes in two tiles by cp.async, a ring of two pairs: while
// the warps compute with a pair the next one arrives, and one barrier a pair says that it is here
// and that the last one may be overwritten. For the keys scores are transposed, so that weights and
// ds are left operands where they are, there, too.
//
// For D <= 64: with 128 the left operands and sums of a warp's keys alone are 256 registers a lane.
// There attention_tiles_backward.cu takes over.
//
// block 128: 4 warps, 64 rows; 32 columns at a time. grids heads * ceil(T / 64) and … ceil(S / 64).
// Registers a thread on sm_80 and sm_90, and bytes of shared memory; none is spilled, and two blocks
// fit a multiprocessor (nvcc 13.0; tests/kernels/test_nvcc.py compares):
//   attention_mma_backward_tf32_queries_32          187  196  18,432
//   attention_mma_backward_tf32_queries_64          236  246  34,816
//   attention_mma_backward_tf32_keys_32             227  223  19,200
//   attention_mma_backward_tf32_keys_64             250  253  35,584
//   attention_mma_backward_bf16_queries_32          182  168  18,432
//   attention_mma_backward_bf16_queries_64          200  212  34,816
//   attention_mma_backward_bf16_keys_32             236  226  19,200
//   attention_mma_backward_bf16_keys_64             254  255  35,584
//   attention_mma_backward_bf16_storage_queries_32  178  182  10,240
//   attention_mma_backward_bf16_storage_queries_64  197  189  18,432
//   attention_mma_backward_bf16_storage_keys_32     207  208  11,008
//   attention_mma_backward_bf16_storage_keys_64     240  240  19,200
#include "attention_mma.cuh"

#if HAS_SM_80

constexpr int N = 32;  // columns at a time

template <class Precision, int D>
__device__ void backward_of_queries(InputOf<Precision> dout, InputOf<Precision> q,
                                    InputOf<Precision> k, InputOf<Precision> v, const float* top,
                                    const float* inverse, const float* r, OutputOf<Precision> dq,
                                    const Head& head, int block, int columns, float scale,
                                    int vector) {
    typedef Operand<Precision, D, N> Columns;  // a name without commas, for the emulator's macros
    __shared__ Columns keys[2];
    __shared__ Columns values[2];
    int first = block * M + threadIdx.x / 32 * 16;  // of the warp's queries
    top += head.row(), inverse += head.row(), r += head.row();
    typename Precision::Left queries[D / 16], douts[D / 16];
    load_rows<Precision, D>(queries, q, first, head.T, columns);
    load_rows<Precision, D>(douts, dout, first, head.T, columns);
    Rows rows = rows_of_queries(head, first);
    float row_top[2], row_inverse[2], row_r[2], o[D / 8][4] = {};
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int t = min(first + threadIdx.x % 32 / 4 + 8 * half, head.T - 1);  // none outside is stored
        row_top[half] = top[t], row_inverse[half] = inverse[t], row_r[half] = r[t];
    }
    int end = head.seen(min(block * M + M, head.T) - 1), now = 0;
    int seen = head.seen(min(first + 15, head.T - 1));  // by any of the warp's queries
    if (end > 0) {
        copy(keys[0], k, 0, head.S, columns, vector);
        copy(values[0], v, 0, head.S, columns, vector);
    }
    for (int s0 = 0; s0 < end; s0 += N, now ^= 1) {
        cp_async_wait<0>();
        __syncthreads();  // this pair is here, and the last one has been used
        if (s0 + N < end) {
            copy(keys[now ^ 1], k, s0 + N, head.S, columns, vector);
            copy(values[now ^ 1], v, s0 + N, head.S, columns, vector);
        }
        if (s0 >= seen) continue;
        float s[N / 8][4], da[N / 8][4];
        products(queries, keys[now], s);
        products(douts, values[now], da);
        finish_scores<N>(s, rows, s0, scale);
        unsigned kept = head.dropping ? kept_scores<N, false>(head, first, s0) : ~0u;
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            int half = i % 4 / 2;
            float p = __expf(s[i / 4][i % 4] - row_top[half]) * row_inverse[half];
            float m = kept >> i & 1 ? head.factor : 0.0f;
            s[i / 4][i % 4] = p * (m * da[i / 4][i % 4] - row_r[half]);
        }
        add_products(s, keys[now], o);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int t = first + threadIdx.x % 32 / 4 + 8 * half;
        if (t < head.T) store_row<D>(dq.row(t), columns, o, half, scale, vector);
    }
}

// What the columns' queries have of their own: top, inverse and r.
struct Statistics {
    float of[3][N];
};
// Part of the next group of copies; zeros from row T on.
__device__ inline void copy(Statistics& to, const float* top, const float* inverse, const float* r,
                            int t0, int T) {
    int which = threadIdx.x / N, i = threadIdx.x % N, inside = t0 + i < T;
    const float* from = which == 0 ? top : which == 1 ? inverse : r;
    if (which < 3) cp_async<4>(&to.of[which][i], from + (inside ? t0 + i : 0), inside ? 4 : 0);
}

template <class Precision, int D>
__device__ void backward_of_keys(InputOf<Precision> dout, InputOf<Precision> q,
                                 InputOf<Precision> k, InputOf<Precision> v, const float* top,
                                 const float* inverse, const float* r, OutputOf<Precision> dk,
                                 OutputOf<Precision> dv, const Head& head, int block, int columns,
                                 float scale, int vector) {
    typedef Operand<Precision, D, N> Columns;
    __shared__ Columns queries[2];
    __shared__ Columns douts[2];
    __shared__ Statistics statistics[2];
    int first = block * M + threadIdx.x / 32 * 16;  // of the warp's keys
    top += head.row(), inverse += head.row(), r += head.row();
    typename Precision::Left keys[D / 16], values[D / 16];
    load_rows<Precision, D>(keys, k, first, head.S, columns);
    load_rows<Precision, D>(values, v, first, head.S, columns);
    Rows rows = rows_of_keys(head, first);
    float k_sum[D / 8][4] = {}, v_sum[D / 8][4] = {};
    int begin = head.first_to_see(block * M) / N * N, now = 0;  // the first key is seen by the most
    if (begin < head.T) {
        copy(statistics[0], top, inverse, r, begin, head.T);
        copy(queries[0], q, begin, head.T, columns, vector);
        copy(douts[0], dout, begin, head.T, columns, vector);
    }
    for (int t0 = begin; t0 < head.T; t0 += N, now ^= 1) {
        cp_async_wait<0>();
        __syncthreads();  // this pair is here, and the last one has been used
        if (t0 + N < head.T) {
            copy(statistics[now ^ 1], top, inverse, r, t0 + N, head.T);
            copy(queries[now ^ 1], q, t0 + N, head.T, columns, vector);
            copy(douts[now ^ 1], dout, t0 + N, head.T, columns, vector);
        }
        float s[N / 8][4], da[N / 8][4];
        products(keys, queries[now], s);
        products(values, douts[now], da);
        finish_scores<N>(s, rows, t0, scale);
        unsigned kept = head.dropping ? kept_scores<N, true>(head, first, t0) : ~0u;
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                int column = 8 * n + threadIdx.x % 4 * 2 + j;
                float t_top = statistics[now].of[0][column];
                float t_inverse = statistics[now].of[1][column];
                float t_r = statistics[now].of[2][column];
#pragma unroll
                for (int i = j; i < 4; i += 2) {
                    float p = __expf(s[n][i] - t_top) * t_inverse;
                    float m = kept >> (4 * n + i) & 1 ? head.factor : 0.0f;
                    s[n][i] = p * m;
                    da[n][i] = p * (m * da[n][i] - t_r);
                }
            }
        add_products(s, douts[now], v_sum);
        add_products(da, queries[now], k_sum);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int s = first + threadIdx.x % 32 / 4 + 8 * half;
        if (s >= head.S) continue;
        store_row<D>(dk.row(s), columns, k_sum, half, scale, vector);
        store_row<D>(dv.row(s), columns, v_sum, half, 1.0f, vector);
    }
}

#endif  // HAS_SM_80

extern "C" __global__ void __launch_bounds__(128, 2) SINCE_SM(80)
attention_mma_backward_tf32_queries_32(
        const float* __restrict__ dout, const float* __restrict__ q, const float* __restrict__ k,
        const float* __restrict__ v, const float* __restrict__ OPTIONAL bias,
        const float* __restrict__ top, const float* __restrict__ inverse,
        const float* __restrict__ r, float* __restrict__ dq, int heads, int H, int T, int S, int D,
        Dims dout_strides, Dims q_strides, Dims k_strides, Dims v_strides, Dims dq_strides,
        Dims bias_strides, float scale, int causal, int dropping, unsigned long long seed,
        unsigned long long draw, unsigned threshold, float factor, int vector) {
#if HAS_SM_80
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    backward_of_queries<Tf32, 32>(Input(dout, dout_strides, head), Input(q, q_strides, head),
                                  Input(k, k_strides, head), Input(v, v_strides, head), top,
                                  inverse, r, Output(dq, dq_strides, head), head,
                                  block_from_the_last(heads), D, scale, vector);
#endif
}
extern "C" __global__ void __launch_bounds__(128, 2) SINCE_SM(80)
attention_mma_backward_tf32_keys_32(
        const float* __restrict__ dout, const float* __restrict__ q, const float* __restrict__ k,
        const float* __restrict__ v, const float* __restrict__ OPTIONAL bias,
        const float* __restrict__ top, const float* __restrict__ inverse,
        const float* __restrict__ r, float* __restrict__ dk, float* __restrict__ dv, int heads,
        int H, int T, int S, int D, Dims dout_strides, Dims q_strides, Dims k_strides,
        Dims v_strides, Dims dk_strides, Dims dv_strides, Dims bias_strides, float scale,
        int causal, int dropping, unsigned long long seed, unsigned long long draw,
        unsigned threshold, float factor, int vector) {
#if HAS_SM_80
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    backward_of_keys<Tf32, 32>(Input(dout, dout_strides, head), Input(q, q_strides, head),
                               Input(k, k_strides, head), Input(v, v_strides, head), top, inverse,
                               r, Output(dk, dk_strides, head), Output(dv, dv_strides, head), head,
                               blockIdx.x / heads, D, scale, vector);
#endif
}
extern "C" __global__ void __launch_bounds__(128, 2) SINCE_SM(80)
attention_mma_backward_tf32_queries_64(
        const float* __restrict__ dout, const float* __restrict__ q, const float* __restrict__ k,
        const float* __restrict__ v, const float* __restrict__ OPTIONAL bias,
        const float* __restrict__ top, const float* __restrict__ inverse,
        const float* __restrict__ r, float* __restrict__ dq, int heads, int H, int T, int S, int D,
        Dims dout_strides, Dims q_strides, Dims k_strides, Dims v_strides, Dims dq_strides,
        Dims bias_strides, float scale, int causal, int dropping, unsigned long long seed,
        unsigned long long draw, unsigned threshold, float factor, int vector) {
#if HAS_SM_80
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    backward_of_queries<Tf32, 64>(Input(dout, dout_strides, head), Input(q, q_strides, head),
                                  Input(k, k_strides, head), Input(v, v_strides, head), top,
                                  inverse, r, Output(dq, dq_strides, head), head,
                                  block_from_the_last(heads), D, scale, vector);
#endif
}
extern "C" __global__ void __launch_bounds__(128, 2) SINCE_SM(80)
attention_mma_backward_tf32_keys_64(
        const float* __restrict__ dout, const float* __restrict__ q, const float* __restrict__ k,
        const float* __restrict__ v, const float* __restrict__ OPTIONAL bias,
        const float* __restrict__ top, const float* __restrict__ inverse,
        const float* __restrict__ r, float* __restrict__ dk, float* __restrict__ dv, int heads,
        int H, int T, int S, int D, Dims dout_strides, Dims q_strides, Dims k_strides,
        Dims v_strides, Dims dk_strides, Dims dv_strides, Dims bias_strides, float scale,
        int causal, int dropping, unsigned long long seed, unsigned long long draw,
        unsigned threshold, float factor, int vector) {
#if HAS_SM_80
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    backward_of_keys<Tf32, 64>(Input(dout, dout_strides, head), Input(q, q_strides, head),
                               Input(k, k_strides, head), Input(v, v_strides, head), top, inverse,
                               r, Output(dk, dk_strides, head), Output(dv, dv_strides, head), head,
                               blockIdx.x / heads, D, scale, vector);
#endif
}
extern "C" __global__ void __launch_bounds__(128, 2) SINCE_SM(80)
attention_mma_backward_bf16_queries_32(
        const float* __restrict__ dout, const float* __restrict__ q, const float* __restrict__ k,
        const float* __restrict__ v, const float* __restrict__ OPTIONAL bias,
        const float* __restrict__ top, const float* __restrict__ inverse,
        const float* __restrict__ r, float* __restrict__ dq, int heads, int H, int T, int S, int D,
        Dims dout_strides, Dims q_strides, Dims k_strides, Dims v_strides, Dims dq_strides,
        Dims bias_strides, float scale, int causal, int dropping, unsigned long long seed,
        unsigned long long draw, unsigned threshold, float factor, int vector) {
#if HAS_SM_80
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    backward_of_queries<Bf16, 32>(Input(dout, dout_strides, head), Input(q, q_strides, head),
                                  Input(k, k_strides, head), Input(v, v_strides, head), top,
                                  inverse, r, Output(dq, dq_strides, head), head,
                                  block_from_the_last(heads), D, scale, vector);
#endif
}
extern "C" __global__ void __launch_bounds__(128, 2) SINCE_SM(80)
attention_mma_backward_bf16_keys_32(
        const float* __restrict__ dout, const float* __restrict__ q, const float* __restrict__ k,
        const float* __restrict__ v, const float* __restrict__ OPTIONAL bias,
        const float* __restrict__ top, const float* __restrict__ inverse,
        const float* __restrict__ r, float* __restrict__ dk, float* __restrict__ dv, int heads,
        int H, int T, int S, int D, Dims dout_strides, Dims q_strides, Dims k_strides,
        Dims v_strides, Dims dk_strides, Dims dv_strides, Dims bias_strides, float scale,
        int causal, int dropping, unsigned long long seed, unsigned long long draw,
        unsigned threshold, float factor, int vector) {
#if HAS_SM_80
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    backward_of_keys<Bf16, 32>(Input(dout, dout_strides, head), Input(q, q_strides, head),
                               Input(k, k_strides, head), Input(v, v_strides, head), top, inverse,
                               r, Output(dk, dk_strides, head), Output(dv, dv_strides, head), head,
                               blockIdx.x / heads, D, scale, vector);
#endif
}
extern "C" __global__ void __launch_bounds__(128, 2) SINCE_SM(80)
attention_mma_backward_bf16_queries_64(
        const float* __restrict__ dout, const float* __restrict__ q, const float* __restrict__ k,
        const float* __restrict__ v, const float* __restrict__ OPTIONAL bias,
        const float* __restrict__ top, const float* __restrict__ inverse,
        const float* __restrict__ r, float* __restrict__ dq, int heads, int H, int T, int S, int D,
        Dims dout_strides, Dims q_strides, Dims k_strides, Dims v_strides, Dims dq_strides,
        Dims bias_strides, float scale, int causal, int dropping, unsigned long long seed,
        unsigned long long draw, unsigned threshold, float factor, int vector) {
#if HAS_SM_80
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    backward_of_queries<Bf16, 64>(Input(dout, dout_strides, head), Input(q, q_strides, head),
                                  Input(k, k_strides, head), Input(v, v_strides, head), top,
                                  inverse, r, Output(dq, dq_strides, head), head,
                                  block_from_the_last(heads), D, scale, vector);
#endif
}
extern "C" __global__ void __launch_bounds__(128, 2) SINCE_SM(80)
attention_mma_backward_bf16_keys_64(
        const float* __restrict__ dout, const float* __restrict__ q, const float* __restrict__ k,
        const float* __restrict__ v, const float* __restrict__ OPTIONAL bias,
        const float* __restrict__ top, const float* __restrict__ inverse,
        const float* __restrict__ r, float* __restrict__ dk, float* __restrict__ dv, int heads,
        int H, int T, int S, int D, Dims dout_strides, Dims q_strides, Dims k_strides,
        Dims v_strides, Dims dk_strides, Dims dv_strides, Dims bias_strides, float scale,
        int causal, int dropping, unsigned long long seed, unsigned long long draw,
        unsigned threshold, float factor, int vector) {
#if HAS_SM_80
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    backward_of_keys<Bf16, 64>(Input(dout, dout_strides, head), Input(q, q_strides, head),
                               Input(k, k_strides, head), Input(v, v_strides, head), top, inverse,
                               r, Output(dk, dk_strides, head), Output(dv, dv_strides, head), head,
                               blockIdx.x / heads, D, scale, vector);
#endif
}
extern "C" __global__ void __launch_bounds__(128, 2) SINCE_SM(80)
attention_mma_backward_bf16_storage_queries_32(
        const __nv_bfloat16* __restrict__ dout, const __nv_bfloat16* __restrict__ q,
        const __nv_bfloat16* __restrict__ k, const __nv_bfloat16* __restrict__ v,
        const float* __restrict__ OPTIONAL bias, const float* __restrict__ top,
        const float* __restrict__ inverse, const float* __restrict__ r,
        __nv_bfloat16* __restrict__ dq, int heads, int H, int T, int S, int D, Dims dout_strides,
        Dims q_strides, Dims k_strides, Dims v_strides, Dims dq_strides, Dims bias_strides,
        float scale, int causal, int dropping, unsigned long long seed, unsigned long long draw,
        unsigned threshold, float factor, int vector) {
#if HAS_SM_80
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    backward_of_queries<Bf16Storage, 32>(
        Matrix(dout, dout_strides, head), Matrix(q, q_strides, head), Matrix(k, k_strides, head),
        Matrix(v, v_strides, head), top, inverse, r, Matrix(dq, dq_strides, head), head,
        block_from_the_last(heads), D, scale, vector);
#endif
}
extern "C" __global__ void __launch_bounds__(128, 2) SINCE_SM(80)
attention_mma_backward_bf16_storage_keys_32(
        const __nv_bfloat16* __restrict__ dout, const __nv_bfloat16* __restrict__ q,
        const __nv_bfloat16* __restrict__ k, const __nv_bfloat16* __restrict__ v,
        const float* __restrict__ OPTIONAL bias, const float* __restrict__ top,
        const float* __restrict__ inverse, const float* __restrict__ r,
        __nv_bfloat16* __restrict__ dk, __nv_bfloat16* __restrict__ dv, int heads, int H, int T,
        int S, int D, Dims dout_strides, Dims q_strides, Dims k_strides, Dims v_strides,
        Dims dk_strides, Dims dv_strides, Dims bias_strides, float scale, int causal, int dropping,
        unsigned long long seed, unsigned long long draw, unsigned threshold, float factor,
        int vector) {
#if HAS_SM_80
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    backward_of_keys<Bf16Storage, 32>(Matrix(dout, dout_strides, head), Matrix(q, q_strides, head),
                                      Matrix(k, k_strides, head), Matrix(v, v_strides, head), top,
                                      inverse, r, Matrix(dk, dk_strides, head),
                                      Matrix(dv, dv_strides, head), head, blockIdx.x / heads, D,
                                      scale, vector);
#endif
}
extern "C" __global__ void __launch_bounds__(128, 2) SINCE_SM(80)
attention_mma_backward_bf16_storage_queries_64(
        const __nv_bfloat16* __restrict__ dout, const __nv_bfloat16* __restrict__ q,
        const __nv_bfloat16* __restrict__ k, const __nv_bfloat16* __restrict__ v,
        const float* __restrict__ OPTIONAL bias, const float* __restrict__ top,
        const float* __restrict__ inverse, const float* __restrict__ r,
        __nv_bfloat16* __restrict__ dq, int heads, int H, int T, int S, int D, Dims dout_strides,
        Dims q_strides, Dims k_strides, Dims v_strides, Dims dq_strides, Dims bias_strides,
        float scale, int causal, int dropping, unsigned long long seed, unsigned long long draw,
        unsigned threshold, float factor, int vector) {
#if HAS_SM_80
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    backward_of_queries<Bf16Storage, 64>(
        Matrix(dout, dout_strides, head), Matrix(q, q_strides, head), Matrix(k, k_strides, head),
        Matrix(v, v_strides, head), top, inverse, r, Matrix(dq, dq_strides, head), head,
        block_from_the_last(heads), D, scale, vector);
#endif
}
extern "C" __global__ void __launch_bounds__(128, 2) SINCE_SM(80)
attention_mma_backward_bf16_storage_keys_64(
        const __nv_bfloat16* __restrict__ dout, const __nv_bfloat16* __restrict__ q,
        const __nv_bfloat16* __restrict__ k, const __nv_bfloat16* __restrict__ v,
        const float* __restrict__ OPTIONAL bias, const float* __restrict__ top,
        const float* __restrict__ inverse, const float* __restrict__ r,
        __nv_bfloat16* __restrict__ dk, __nv_bfloat16* __restrict__ dv, int heads, int H, int T,
        int S, int D, Dims dout_strides, Dims q_strides, Dims k_strides, Dims v_strides,
        Dims dk_strides, Dims dv_strides, Dims bias_strides, float scale, int causal, int dropping,
        unsigned long long seed, unsigned long long draw, unsigned threshold, float factor,
        int vector) {
#if HAS_SM_80
    Head head(bias, bias_strides, blockIdx.x % heads, H, T, S, causal, dropping, seed, draw,
              threshold, factor);
    backward_of_keys<Bf16Storage, 64>(Matrix(dout, dout_strides, head), Matrix(q, q_strides, head),
                                      Matrix(k, k_strides, head), Matrix(v, v_strides, head), top,
                                      inverse, r, Matrix(dk, dk_strides, head),
                                      Matrix(dv, dv_strides, head), head, blockIdx.x / heads, D,
                                      scale, vector);
#endif
}
