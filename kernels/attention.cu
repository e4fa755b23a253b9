// attention.cu - for each head: out = softmax(q k^T * scale + bias) v (Vaswani et al. 2017, section
// 3.2), and its derivative; float32. With p the softmax, m the dropout's factors (0 or 1 / (1 - p),
// philox.cuh over the flat index in (B, H, T, S)) and a = p m the weights:
//
//   dv = a^T dout;  da = dout v^T (+ dweights);  ds = p (m da - r), r = sum over keys of a da;
//   dq = scale ds k;  dk = scale ds^T q.  Without dweights r = sum over D of dout out.
//
//   q, out, dout, dq (B, H, T, D);  k, v, dk, dv (B, H, S, D);  bias broadcasts to (B, H, T, S)
//   …_strides    of axes B, H, T or S in elements; along D elements lie side by side. Those of the
//                bias: all four axes, 0 where it is repeated; bias may be null
//   causal       1: query t sees the keys s <= t + S - T, so that the last query sees the last key
//   top, inverse (B, H, T): each row's maximum, and 1 / sum of exp(score - maximum), for the backward
//   dropping     1 where there is a dropout: its seed, draw, threshold and factor as in dropout.cu
//
// A row whose scores are all -inf gives NaN. Where all are the lowest float32, as a padding mask
// makes them, they are equal, and so are the weights.
//
// Plain: three steps, with the (T, S) scores in memory. matmul.cu gives q k^T; the kernels here make
// weights of that in place, one thread (naive) or one warp a row; matmul.cu multiplies by v.
//   attention_softmax_naive, attention_softmax_warp; attention_softmax_backward_naive, …_warp, which
//   put ds * scale in the place of da and the weights in the place of p.
//   Memory grows with T S, and each score is written and read several times. This is the version that
//   can give the weights.
//
// attention_rows   A block a query, never storing a score: each warp walks through 32 keys at a time,
//                  a lane a key, and keeps maximum, sum and the weighted values so far, rescaled
//                  when a new maximum appears (the online softmax of Milakov and Gimelshein 2018);
//                  at the end the warps' results are merged. For decoding, where a query a head is
//                  all there is: k and v are read once, by many warps. D <= 256; shared memory
//                  blockDim.x / 32 * D floats.
// attention_tiles  Tiles of 64 queries by 32 keys (FlashAttention, Dao et al. 2022): k and v come from
//                  memory once for 64 queries, and a thread has 4 x 4 scores and 4 x D / 8 results
//                  in registers. Of causal attention, tiles in the future are left out. D <= 32 or
//                  64, 2 x 64 threads.
// attention_tiles_backward_…  Scores are computed again from top and inverse, so nothing of size
//                  T S is kept. _queries has 32 queries a block and walks along the keys for dq;
//                  _keys has 32 keys a block and walks along the queries for dk and dv. The two do
//                  the products q k^T and dout v^T twice; one kernel that did them once would have
//                  to add dq by atomics, in another order each time. `r` comes from
//                  attention_row_products. 64 threads.
#include "common.cuh"
#include "philox.cuh"
#include "row.cuh"

// What belongs to a head: which keys a query sees, the bias, the dropout.
struct Head {
    const float* bias;
    long long bias_t, bias_s;
    int T, S, causal, dropping;
    unsigned long long seed, draw, first;  // first: the flat index of this head's score (0, 0)
    unsigned threshold;
    float factor;

    __device__ Head(const float* bias, const Dims& strides, int head, int H, int T, int S,
                    int causal, int dropping, unsigned long long seed, unsigned long long draw,
                    unsigned threshold, float factor)
        : bias(bias), bias_t(strides.n[2]), bias_s(strides.n[3]), T(T), S(S), causal(causal),
          dropping(dropping), seed(seed), draw(draw),
          first((unsigned long long)head * T * S), threshold(threshold), factor(factor) {
        if (bias) this->bias += head / H * strides.n[0] + head % H * strides.n[1];
    }
    // How many keys query t sees.
    __device__ int seen(int t) const { return causal ? max(0, min(S, t + S - T + 1)) : S; }
    // The first query that sees key s.
    __device__ int first_to_see(int s) const { return causal ? max(0, s - (S - T)) : 0; }
    __device__ float score(float product, int t, int s) const {
        if (t >= T || s >= seen(t)) return -INFINITY;
        return bias ? product + bias[t * bias_t + s * bias_s] : product;
    }
    __device__ float kept(Philox& random, int t, int s) const {
        return random.bits(first + (unsigned long long)t * S + s) >= threshold ? factor : 0.0f;
    }
};
// Where head `head` of an array begins.
__device__ inline long long start(const Dims& strides, int head, int H) {
    return head / H * strides.n[0] + head % H * strides.n[1];
}
// exp(score - top), 0 for a score of -inf whatever top is.
__device__ inline float exp_below(float score, float top) {
    return score == -INFINITY ? 0.0f : expf(score - top);
}

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
__device__ void softmax_of_scores_backward(float* p, float* da, const float* dweights, long long rows,
                                           int S, float scale, int dropping,
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

extern "C" __global__ void attention_rows(
        const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
        const float* __restrict__ OPTIONAL bias, float* __restrict__ out, float* __restrict__ top,
        float* __restrict__ inverse, int heads, int H, int T, int S, int D, Dims q_strides,
        Dims k_strides, Dims v_strides, Dims out_strides, Dims bias_strides, float scale,
        int causal, int dropping, unsigned long long seed, unsigned long long draw,
        unsigned threshold, float factor) {
    extern __shared__ float part[];  // (warps, D): each warp's weighted values
    __shared__ float tops[32];
    __shared__ float sums[32];
    __shared__ float query[256];
    int warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x % 32;
    int number = blockIdx.x / T, t = blockIdx.x % T;
    Head head(bias, bias_strides, number, H, T, S, causal, dropping, seed, draw, threshold, factor);
    q += start(q_strides, number, H) + t * q_strides.n[2];
    k += start(k_strides, number, H);
    v += start(v_strides, number, H);
    for (int d = threadIdx.x; d < D; d += blockDim.x) query[d] = q[d] * scale;
    __syncthreads();

    Philox random(seed, draw);
    int seen = head.seen(t);
    float max = -INFINITY, sum = 0.0f, o[8] = {};
    for (int s0 = warp * 32; s0 < seen; s0 += warps * 32) {
        int s = s0 + lane;
        float product = 0.0f;
        if (s < seen)
            for (int d = 0; d < D; d++) product += query[d] * k[s * k_strides.n[2] + d];
        float score = head.score(product, t, s);
        float higher = fmaxf(max, warp_max(score));
        float shrink = max == higher ? 1.0f : expf(max - higher), p = exp_below(score, higher);
        max = higher;
        sum = sum * shrink + p;
        if (dropping) p *= head.kept(random, t, s);
#pragma unroll
        for (int i = 0; i < 8; i++) o[i] *= shrink;
        for (int j = 0; j < min(32, seen - s0); j++) {
            float weight = __shfl_sync(0xffffffffu, p, j);
            const float* value = v + (s0 + j) * v_strides.n[2];
#pragma unroll
            for (int i = 0; i < 8; i++)
                if (lane + 32 * i < D) o[i] += weight * value[lane + 32 * i];
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
        out[start(out_strides, number, H) + t * out_strides.n[2] + d] = value * inv;
    }
    if (threadIdx.x == 0) top[blockIdx.x] = max, inverse[blockIdx.x] = inv;
}

// --- tiles
//
// A tile of D columns is stored row by row in float4, one more than needed in a row: so that the
// eight neighbouring rows that eight threads read lie in different banks. Thread (x, y) of a block
// has x of 8 and y of ROWS / 4: its four rows are y + ROWS / 4 * i, its columns x + 8 j. The eight
// threads of a row are in one warp.

template <int D, int N>
struct Tile {
    float4 row[N][D / 4 + 1];
};

// tile = X[first … first + N), zero from row `rows` and column `columns` on, times factor.
template <int D, int N, int THREADS>
__device__ inline void load(Tile<D, N>& tile, const float* X, long long step, int first, int rows,
                            int columns, float factor, int vector) {
#pragma unroll 4
    for (int i = threadIdx.x; i < N * D / 4; i += THREADS) {
        int r = i / (D / 4), c = i % (D / 4) * 4;
        const float* from = X + (first + r) * step + c;
        float4 four = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (first + r < rows) {
            if (vector && c < columns) {
                four = *reinterpret_cast<const float4*>(from);
            } else {
                if (c < columns) four.x = from[0];
                if (c + 1 < columns) four.y = from[1];
                if (c + 2 < columns) four.z = from[2];
                if (c + 3 < columns) four.w = from[3];
            }
        }
        tile.row[r][c / 4] =
            make_float4(four.x * factor, four.y * factor, four.z * factor, four.w * factor);
    }
}

// s[i][j] = row y + M / 4 i of a times row x + 8 j of b
template <int D, int M, int N>
__device__ inline void products(const Tile<D, M>& a, const Tile<D, N>& b, int x, int y,
                                float (&s)[4][N / 8]) {
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < N / 8; j++) s[i][j] = 0.0f;
#pragma unroll 4
    for (int d = 0; d < D / 4; d++) {
        float4 left[4];
#pragma unroll
        for (int i = 0; i < 4; i++) left[i] = a.row[y + M / 4 * i][d];
#pragma unroll
        for (int j = 0; j < N / 8; j++) {
            float4 right = b.row[x + 8 * j][d];
#pragma unroll
            for (int i = 0; i < 4; i++)
                s[i][j] += (left[i].x * right.x + left[i].y * right.y) +
                           (left[i].z * right.z + left[i].w * right.w);
        }
    }
}

// Scores, or what becomes of them: [row][column]
template <int M, int N>
struct Weights {
    float at[M][N + 4];
};

// o[i][c] += row y + M / 4 i of w times columns 4 (x + 8 c) … + 3 of v
template <int D, int M, int N>
__device__ inline void add_products(const Weights<M, N>& w, const Tile<D, N>& v, int x, int y,
                                    float4 (&o)[4][D / 32]) {
#pragma unroll 4
    for (int n = 0; n < N; n++) {
        float left[4];
#pragma unroll
        for (int i = 0; i < 4; i++) left[i] = w.at[y + M / 4 * i][n];
#pragma unroll
        for (int c = 0; c < D / 32; c++) {
            float4 right = v.row[n][x + 8 * c];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                o[i][c].x += left[i] * right.x;
                o[i][c].y += left[i] * right.y;
                o[i][c].z += left[i] * right.z;
                o[i][c].w += left[i] * right.w;
            }
        }
    }
}

// The dropout's factors of a tile, into the place where its weights will be: w.at[t][s], or with
// KEYS_ARE_ROWS w.at[s][t]. A thread takes four neighbouring keys, which share a counter's bits.
template <int M, int N, int THREADS, bool KEYS_ARE_ROWS>
__device__ inline void fill_factors(Weights<M, N>& w, const Head& head, int t0, int s0) {
    Philox random(head.seed, head.draw);
    for (int i = threadIdx.x; i < M * N / 4; i += THREADS) {
        int t = KEYS_ARE_ROWS ? i % N : i / (N / 4), s = (KEYS_ARE_ROWS ? i / N : i % (N / 4)) * 4;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float factor = head.kept(random, t0 + t, s0 + s + j);
            if (KEYS_ARE_ROWS) w.at[s + j][t] = factor;
            else w.at[t][s + j] = factor;
        }
    }
}

// A thread's four results of a row, in the first `columns` columns of `to`.
__device__ inline void store(float* to, int c, int columns, float4 o, float factor) {
    if (c < columns) to[c] = o.x * factor;
    if (c + 1 < columns) to[c + 1] = o.y * factor;
    if (c + 2 < columns) to[c + 2] = o.z * factor;
    if (c + 3 < columns) to[c + 3] = o.w * factor;
}

template <int D, int M, int N>
__device__ void tiles(const float* q, const float* k, const float* v, float* out, float* top,
                      float* inverse, const Head& head, int number, int block, int columns,
                      long long q_step, long long k_step, long long v_step, long long out_step,
                      float scale, int vector) {
    typedef Tile<D, M> Rows;  // names without a comma, which the macros of the emulator need
    typedef Tile<D, N> Columns;
    typedef Weights<M, N> Block;
    __shared__ Rows queries;
    __shared__ Columns keys;
    __shared__ Columns values;
    __shared__ Block weights;
    int x = threadIdx.x % 8, y = threadIdx.x / 8, t0 = block * M;
    load<D, M, 2 * M>(queries, q, q_step, t0, head.T, columns, scale, vector);
    float max[4], sum[4] = {};
    float4 o[4][D / 32] = {};
#pragma unroll
    for (int i = 0; i < 4; i++) max[i] = -INFINITY;
    int end = head.seen(min(t0 + M, head.T) - 1);  // the last query sees the most
    for (int s0 = 0; s0 < end; s0 += N) {
        __syncthreads();  // the last round's tiles have been used
        load<D, N, 2 * M>(keys, k, k_step, s0, head.S, columns, 1.0f, vector);
        load<D, N, 2 * M>(values, v, v_step, s0, head.S, columns, 1.0f, vector);
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
#pragma unroll
        for (int c = 0; c < D / 32; c++)
            store(out + t * out_step, 4 * (x + 8 * c), columns, o[i][c], inv);
        if (x > 0) continue;
        top[(long long)number * head.T + t] = max[i];
        inverse[(long long)number * head.T + t] = inv;
    }
}

extern "C" __global__ void __launch_bounds__(128, 3) attention_tiles_32(
        const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
        const float* __restrict__ OPTIONAL bias, float* __restrict__ out, float* __restrict__ top,
        float* __restrict__ inverse, int heads, int H, int T, int S, int D, Dims q_strides,
        Dims k_strides, Dims v_strides, Dims out_strides, Dims bias_strides, float scale,
        int causal, int dropping, unsigned long long seed, unsigned long long draw,
        unsigned threshold, float factor, int vector) {
    // The last queries see the most keys: their blocks begin first.
    int number = blockIdx.x % heads, block = (gridDim.x - 1 - blockIdx.x) / heads;
    Head head(bias, bias_strides, number, H, T, S, causal, dropping, seed, draw, threshold, factor);
    tiles<32, 64, 32>(q + start(q_strides, number, H), k + start(k_strides, number, H),
                      v + start(v_strides, number, H), out + start(out_strides, number, H), top,
                      inverse, head, number, block, D, q_strides.n[2], k_strides.n[2],
                      v_strides.n[2], out_strides.n[2], scale, vector);
}
extern "C" __global__ void __launch_bounds__(128, 3) attention_tiles_64(
        const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
        const float* __restrict__ OPTIONAL bias, float* __restrict__ out, float* __restrict__ top,
        float* __restrict__ inverse, int heads, int H, int T, int S, int D, Dims q_strides,
        Dims k_strides, Dims v_strides, Dims out_strides, Dims bias_strides, float scale,
        int causal, int dropping, unsigned long long seed, unsigned long long draw,
        unsigned threshold, float factor, int vector) {
    int number = blockIdx.x % heads, block = (gridDim.x - 1 - blockIdx.x) / heads;
    Head head(bias, bias_strides, number, H, T, S, causal, dropping, seed, draw, threshold, factor);
    tiles<64, 64, 32>(q + start(q_strides, number, H), k + start(k_strides, number, H),
                      v + start(v_strides, number, H), out + start(out_strides, number, H), top,
                      inverse, head, number, block, D, q_strides.n[2], k_strides.n[2],
                      v_strides.n[2], out_strides.n[2], scale, vector);
}

// --- tiles, backward

// r = sum over D of dout out: a warp a row.
extern "C" __global__ void attention_row_products(
        const float* __restrict__ dout, const float* __restrict__ out, float* __restrict__ r,
        int heads, int H, int T, int D, Dims dout_strides, Dims out_strides) {
    long long row = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (row >= (long long)heads * T) return;
    int number = row / T, t = row % T;
    dout += start(dout_strides, number, H) + t * dout_strides.n[2];
    out += start(out_strides, number, H) + t * out_strides.n[2];
    float sum = 0.0f;
    for (int d = threadIdx.x % 32; d < D; d += 32) sum += dout[d] * out[d];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) r[row] = sum;
}

template <int D, int M, int N>
__device__ void tiles_backward_queries(const float* dout, const float* q, const float* k,
                                       const float* v, const float* top, const float* inverse,
                                       const float* r, float* dq, const Head& head, int block,
                                       int columns, long long dout_step, long long q_step,
                                       long long k_step, long long v_step, long long dq_step,
                                       float scale, int vector) {
    typedef Tile<D, M> Rows;
    typedef Tile<D, N> Columns;
    typedef Weights<M, N> Block;
    __shared__ Rows queries;
    __shared__ Rows douts;
    __shared__ Columns keys;
    __shared__ Columns values;
    __shared__ Block weights;
    int x = threadIdx.x % 8, y = threadIdx.x / 8, t0 = block * M;
    load<D, M, 2 * M>(queries, q, q_step, t0, head.T, columns, scale, vector);
    load<D, M, 2 * M>(douts, dout, dout_step, t0, head.T, columns, 1.0f, vector);
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
        load<D, N, 2 * M>(keys, k, k_step, s0, head.S, columns, 1.0f, vector);
        load<D, N, 2 * M>(values, v, v_step, s0, head.S, columns, 1.0f, vector);
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
        if (t >= head.T) continue;
#pragma unroll
        for (int c = 0; c < D / 32; c++)
            store(dq + t * dq_step, 4 * (x + 8 * c), columns, o[i][c], scale);
    }
}

template <int D, int M, int N>
__device__ void tiles_backward_keys(const float* dout, const float* q, const float* k,
                                    const float* v, const float* top, const float* inverse,
                                    const float* r, float* dk, float* dv, const Head& head,
                                    int block, int columns, long long dout_step, long long q_step,
                                    long long k_step, long long v_step, long long dk_step,
                                    long long dv_step, float scale, int vector) {
    typedef Tile<D, M> Rows;
    typedef Tile<D, N> Columns;
    typedef Weights<M, N> Block;
    __shared__ Rows keys;
    __shared__ Rows values;
    __shared__ Columns queries;
    __shared__ Columns douts;
    __shared__ Block weights;
    int x = threadIdx.x % 8, y = threadIdx.x / 8, s0 = block * M;
    load<D, M, 2 * M>(keys, k, k_step, s0, head.S, columns, 1.0f, vector);
    load<D, M, 2 * M>(values, v, v_step, s0, head.S, columns, 1.0f, vector);
    float4 k_sum[4][D / 32] = {}, v_sum[4][D / 32] = {};
    for (int t0 = head.first_to_see(s0) / N * N; t0 < head.T; t0 += N) {
        __syncthreads();
        load<D, N, 2 * M>(queries, q, q_step, t0, head.T, columns, scale, vector);
        load<D, N, 2 * M>(douts, dout, dout_step, t0, head.T, columns, 1.0f, vector);
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
#pragma unroll
        for (int c = 0; c < D / 32; c++) {
            store(dk + s * dk_step, 4 * (x + 8 * c), columns, k_sum[i][c], 1.0f);
            store(dv + s * dv_step, 4 * (x + 8 * c), columns, v_sum[i][c], 1.0f);
        }
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
    int number = blockIdx.x % heads, block = (gridDim.x - 1 - blockIdx.x) / heads;
    Head head(bias, bias_strides, number, H, T, S, causal, dropping, seed, draw, threshold, factor);
    long long row = (long long)number * T;
    tiles_backward_queries<32, 32, 32>(
        dout + start(dout_strides, number, H), q + start(q_strides, number, H),
        k + start(k_strides, number, H), v + start(v_strides, number, H), top + row, inverse + row,
        r + row, dq + start(dq_strides, number, H), head, block, D, dout_strides.n[2],
        q_strides.n[2], k_strides.n[2], v_strides.n[2], dq_strides.n[2], scale, vector);
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
    int number = blockIdx.x % heads, block = blockIdx.x / heads;  // the first keys are seen by most
    Head head(bias, bias_strides, number, H, T, S, causal, dropping, seed, draw, threshold, factor);
    long long row = (long long)number * T;
    tiles_backward_keys<32, 32, 32>(
        dout + start(dout_strides, number, H), q + start(q_strides, number, H),
        k + start(k_strides, number, H), v + start(v_strides, number, H), top + row, inverse + row,
        r + row, dk + start(dk_strides, number, H), dv + start(dv_strides, number, H), head, block,
        D, dout_strides.n[2], q_strides.n[2], k_strides.n[2], v_strides.n[2], dk_strides.n[2],
        dv_strides.n[2], scale, vector);
}

extern "C" __global__ void __launch_bounds__(64, 4) attention_tiles_backward_queries_64(
        const float* __restrict__ dout, const float* __restrict__ q, const float* __restrict__ k,
        const float* __restrict__ v, const float* __restrict__ OPTIONAL bias,
        const float* __restrict__ top, const float* __restrict__ inverse,
        const float* __restrict__ r, float* __restrict__ dq, int heads, int H, int T, int S, int D,
        Dims dout_strides, Dims q_strides, Dims k_strides, Dims v_strides, Dims dq_strides,
        Dims bias_strides, float scale, int causal, int dropping, unsigned long long seed,
        unsigned long long draw, unsigned threshold, float factor, int vector) {
    int number = blockIdx.x % heads, block = (gridDim.x - 1 - blockIdx.x) / heads;
    Head head(bias, bias_strides, number, H, T, S, causal, dropping, seed, draw, threshold, factor);
    long long row = (long long)number * T;
    tiles_backward_queries<64, 32, 32>(
        dout + start(dout_strides, number, H), q + start(q_strides, number, H),
        k + start(k_strides, number, H), v + start(v_strides, number, H), top + row, inverse + row,
        r + row, dq + start(dq_strides, number, H), head, block, D, dout_strides.n[2],
        q_strides.n[2], k_strides.n[2], v_strides.n[2], dq_strides.n[2], scale, vector);
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
    int number = blockIdx.x % heads, block = blockIdx.x / heads;  // the first keys are seen by most
    Head head(bias, bias_strides, number, H, T, S, causal, dropping, seed, draw, threshold, factor);
    long long row = (long long)number * T;
    tiles_backward_keys<64, 32, 32>(
        dout + start(dout_strides, number, H), q + start(q_strides, number, H),
        k + start(k_strides, number, H), v + start(v_strides, number, H), top + row, inverse + row,
        r + row, dk + start(dk_strides, number, H), dv + start(dv_strides, number, H), head, block,
        D, dout_strides.n[2], q_strides.n[2], k_strides.n[2], v_strides.n[2], dk_strides.n[2],
        dv_strides.n[2], scale, vector);
}
