// attention.cu - attention without tiles; attention.cuh has the formulas and the parameters.
//
// Plain: three steps, with the (T, S) scores in memory. matmul.cu gives q k^T; the kernels here
// make weights of that in place, one thread (naive) or one warp a row; matmul.cu multiplies by v.
//   attention_softmax_naive, attention_softmax_warp
//   attention_softmax_backward_naive, attention_softmax_backward_warp: put ds * scale in the place
//   of da, and the weights in the place of p.
//   Memory grows with T S, and each score is written and read several times. This is the version
//   that can give the weights.
//
// attention_rows   A block a query, never storing a score: each warp walks through 32 keys at a
//                  time, a lane a key, and keeps maximum, sum and the weighted values so far,
//                  rescaled when a new maximum appears (the online softmax, Milakov and Gimelshein
//                  2018); at the end the warps' results are merged. For decoding, where a query a
//                  head is all there is: k and v are read once, by many warps, of a key four
//                  elements at a time where they lie so (vector). D <= 256; shared memory
//                  blockDim.x / 32 * D floats. Up to 256 threads, for the registers.
//                  attention_rows_bf16 reads q, k and v as bfloat16 and writes the results as such.
#include "attention.cuh"
#include "pack.cuh"

// --- plain: scores in memory. The first of a row's columns of a thread, and the step to the next:
// 0 and 1 for a thread a row, lane and 32 for a warp a row.

template <bool WARP>
__device__ inline float total(float x) {
    return WARP ? warp_sum(x) : x;
}

template <bool WARP>
__device__ void softmax_of_scores(float* scores, const float* bias, float* top, float* inverse,
                                  int heads, int H, int T, int S, const Dims& bias_strides,
                                  float scale, int causal, int dropping, unsigned long long seed,
                                  unsigned long long draw, unsigned threshold, float factor) {
    long long row = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / (WARP ? 32 : 1);
    int begin = WARP ? threadIdx.x % 32 : 0, step = WARP ? 32 : 1;
    if (row >= (long long)heads * T) return;
    int t = row % T;
    Head head(bias, bias_strides, row / T, H, T, S, causal, dropping, seed, draw, threshold,
              factor);
    float* x = scores + row * S;
    float max = -INFINITY, sum = 0.0f;
    for (int s = begin; s < S; s += step) {
        x[s] = head.score(x[s] * scale, t, s);
        max = fmaxf(max, x[s]);
    }
    if (WARP) max = warp_max(max);
    for (int s = begin; s < S; s += step) sum += x[s] = exp_below(x[s], max);
    float inv = 1.0f / total<WARP>(sum);
    Philox random(seed, draw);
    for (int s = begin; s < S; s += step) {
        float p = x[s] * inv;
        x[s] = dropping ? p * head.kept(random, t, s) : p;
    }
    if (top && begin == 0) top[row] = max, inverse[row] = inv;
}

extern "C" __global__ void attention_softmax_naive(
        float* __restrict__ scores, const float* __restrict__ OPTIONAL bias,
        float* __restrict__ OPTIONAL top, float* __restrict__ OPTIONAL inverse, int heads, int H,
        int T, int S, Dims bias_strides, float scale, int causal, int dropping,
        unsigned long long seed, unsigned long long draw, unsigned threshold, float factor) {
    softmax_of_scores<false>(scores, bias, top, inverse, heads, H, T, S, bias_strides, scale,
                             causal, dropping, seed, draw, threshold, factor);
}
extern "C" __global__ void attention_softmax_warp(
        float* __restrict__ scores, const float* __restrict__ OPTIONAL bias,
        float* __restrict__ OPTIONAL top, float* __restrict__ OPTIONAL inverse, int heads, int H,
        int T, int S, Dims bias_strides, float scale, int causal, int dropping,
        unsigned long long seed, unsigned long long draw, unsigned threshold, float factor) {
    softmax_of_scores<true>(scores, bias, top, inverse, heads, H, T, S, bias_strides, scale, causal,
                            dropping, seed, draw, threshold, factor);
}

template <bool WARP>
__device__ void softmax_of_scores_backward(float* p, float* da, const float* dweights,
                                           long long rows, int S, float scale, int dropping,
                                           unsigned long long seed, unsigned long long draw,
                                           unsigned threshold, float factor) {
    long long row = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / (WARP ? 32 : 1);
    int begin = WARP ? threadIdx.x % 32 : 0, step = WARP ? 32 : 1;
    if (row >= rows) return;
    p += row * S, da += row * S;
    Philox random(seed, draw);
    float r = 0.0f;
    for (int s = begin; s < S; s += step) {
        float m = 1.0f;
        if (dropping) m = random.bits(row * S + s) >= threshold ? factor : 0.0f;
        da[s] = m * (dweights ? da[s] + dweights[row * S + s] : da[s]);
        r += p[s] * da[s];
    }
    r = total<WARP>(r);
    for (int s = begin; s < S; s += step) {
        float m = 1.0f;
        if (dropping) m = random.bits(row * S + s) >= threshold ? factor : 0.0f;
        da[s] = p[s] * (da[s] - r) * scale;
        p[s] *= m;
    }
}

extern "C" __global__ void attention_softmax_backward_naive(
        float* __restrict__ p, float* __restrict__ da, const float* __restrict__ OPTIONAL dweights,
        long long rows, int S, float scale, int dropping, unsigned long long seed,
        unsigned long long draw, unsigned threshold, float factor) {
    softmax_of_scores_backward<false>(p, da, dweights, rows, S, scale, dropping, seed, draw,
                                      threshold, factor);
}
extern "C" __global__ void attention_softmax_backward_warp(
        float* __restrict__ p, float* __restrict__ da, const float* __restrict__ OPTIONAL dweights,
        long long rows, int S, float scale, int dropping, unsigned long long seed,
        unsigned long long draw, unsigned threshold, float factor) {
    softmax_of_scores_backward<true>(p, da, dweights, rows, S, scale, dropping, seed, draw,
                                     threshold, factor);
}

// --- a block a query

// WIDTH elements of the key at a time: 1, or 4 that lie at a multiple of their size.
template <int WIDTH, class Element>
__device__ inline float dot(const float* query, const Element* key, int D) {
    float sum = 0.0f;
#pragma unroll 4
    for (int d = 0; d < D; d += WIDTH) {
        Pack<WIDTH> left = load_pack<WIDTH>(query, d / WIDTH);
        Pack<WIDTH> right = load_pack<WIDTH>(key, d / WIDTH);
#pragma unroll
        for (int j = 0; j < WIDTH; j++) sum += left.v[j] * right.v[j];
    }
    return sum;
}

template <class Element>
__device__ void attend_rows(Matrix<const Element> q, Matrix<const Element> keys,
                            Matrix<const Element> values, Matrix<Element> out, float* top,
                            float* inverse, const Head& head, int t, int D, float scale,
                            int vector) {
    extern __shared__ float part[];  // (warps, D): each warp's weighted values
    __shared__ float tops[32];
    __shared__ float sums[32];
    __shared__ float4 query4[64];
    float* query = reinterpret_cast<float*>(query4);
    int warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x % 32;
    for (int d = threadIdx.x; d < D; d += blockDim.x) query[d] = float(q.row(t)[d]) * scale;
    __syncthreads();

    Philox random(head.seed, head.draw);
    int seen = head.seen(t);
    float max = -INFINITY, sum = 0.0f, o[8] = {};
    for (int s0 = warp * 32; s0 < seen; s0 += warps * 32) {
        int s = s0 + lane;
        float product = 0.0f;
        if (s < seen)
            product = vector ? dot<4>(query, keys.row(s), D) : dot<1>(query, keys.row(s), D);
        float score = head.score(product, t, s);
        float higher = fmaxf(max, warp_max(score));
        float shrink = max == higher ? 1.0f : expf(max - higher), p = exp_below(score, higher);
        max = higher;
        sum = sum * shrink + p;
        if (head.dropping) p *= head.kept(random, t, s);
#pragma unroll
        for (int i = 0; i < 8; i++) o[i] *= shrink;
        for (int j = 0; j < min(32, seen - s0); j++) {
            float weight = __shfl_sync(0xffffffffu, p, j);
            const Element* value = values.row(s0 + j);
#pragma unroll
            for (int i = 0; i < 8; i++)
                if (lane + 32 * i < D) o[i] += weight * float(value[lane + 32 * i]);
        }
    }
    sum = warp_sum(sum);
    if (lane == 0) tops[warp] = max, sums[warp] = sum;
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (lane + 32 * i < D) part[warp * D + lane + 32 * i] = o[i];
    __syncthreads();

    max = -INFINITY, sum = 0.0f;
    for (int w = 0; w < warps; w++) max = fmaxf(max, tops[w]);
    for (int w = 0; w < warps; w++) sum += Online::rescaled(sums[w], tops[w], max);
    float inv = 1.0f / sum;
    for (int d = threadIdx.x; d < D; d += blockDim.x) {
        float value = 0.0f;
        for (int w = 0; w < warps; w++)
            value += Online::rescaled(part[w * D + d], tops[w], max);
        out.row(t)[d] = Element(value * inv);
    }
    if (threadIdx.x == 0) top[head.row() + t] = max, inverse[head.row() + t] = inv;
}

extern "C" __global__ void __launch_bounds__(256, 2) attention_rows(
        const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
        const float* __restrict__ OPTIONAL bias, float* __restrict__ out, float* __restrict__ top,
        float* __restrict__ inverse, int heads, int H, int T, int S, int D, Dims q_strides,
        Dims k_strides, Dims v_strides, Dims out_strides, Dims bias_strides, float scale,
        int causal, int dropping, unsigned long long seed, unsigned long long draw,
        unsigned threshold, float factor, int vector) {
    Head head(bias, bias_strides, blockIdx.x / T, H, T, S, causal, dropping, seed, draw, threshold,
              factor);
    attend_rows(Matrix(q, q_strides, head), Matrix(k, k_strides, head), Matrix(v, v_strides, head),
                Matrix(out, out_strides, head), top, inverse, head, blockIdx.x % T, D, scale,
                vector);
}
extern "C" __global__ void __launch_bounds__(256, 2) attention_rows_bf16(
        const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k,
        const __nv_bfloat16* __restrict__ v, const float* __restrict__ OPTIONAL bias,
        __nv_bfloat16* __restrict__ out, float* __restrict__ top, float* __restrict__ inverse,
        int heads, int H, int T, int S, int D, Dims q_strides, Dims k_strides, Dims v_strides,
        Dims out_strides, Dims bias_strides, float scale, int causal, int dropping,
        unsigned long long seed, unsigned long long draw, unsigned threshold, float factor,
        int vector) {
    Head head(bias, bias_strides, blockIdx.x / T, H, T, S, causal, dropping, seed, draw, threshold,
              factor);
    attend_rows(Matrix(q, q_strides, head), Matrix(k, k_strides, head), Matrix(v, v_strides, head),
                Matrix(out, out_strides, head), top, inverse, head, blockIdx.x % T, D, scale,
                vector);
}
