// attention.cuh - what the versions of attention share. For each head:
//
//   out = softmax(q k^T * scale + bias) v        (Vaswani et al. 2017, section 3.2)
//
// With p the softmax, m the dropout's factors (0 or 1 / (1 - p), philox.cuh over the flat index in
// (B, H, T, S)) and a = p m the weights, the derivative is
//
//   dv = a^T dout;  da = dout v^T (+ dweights);  ds = p (m da - r), r = sum over keys of a da;
//   dq = scale ds k;  dk = scale ds^T q.  Without dweights r = sum over D of dout out.
//
// The parameters of the kernels, all float32, or the four arrays of the first line and their
// gradients bfloat16 where the name says so:
//
//   q, out, dout, dq (B, H, T, D);  k, v, dk, dv (B, H, S, D);  bias broadcasts to (B, H, T, S)
//   heads        B H
//   …_strides    of axes B, H, T or S in elements; along D elements lie side by side. Those of the
//                bias: all four axes, 0 where it is repeated; bias may be null
//   causal       1: query t sees the keys s <= t + S - T, so that the last query sees the last key
//   top, inverse (B, H, T): each row's maximum, and 1 / sum of exp(score - maximum): what the
//                backward needs
//   dropping     1 where there is a dropout: its seed, draw, threshold and factor as in dropout.cu
//   vector       1 where rows begin at multiples of 16 bytes, which can be moved at a time
//
// A row whose scores are all -inf gives NaN. Where all are the lowest float32, as a padding mask
// makes them, they are equal, and so are the weights.
#pragma once
#include "common.cuh"
#include "philox.cuh"
#include "row.cuh"

// What belongs to a head: which keys a query sees, the bias, the dropout.
struct Head {
    const float* bias;
    long long bias_t, bias_s;
    int number, H, T, S, causal, dropping;  // number: of all B H heads
    unsigned long long seed, draw, first;  // first: the flat index of this head's score (0, 0)
    unsigned threshold;
    float factor;

    __device__ Head(const float* bias, const Dims& strides, int number, int H, int T, int S,
                    int causal, int dropping, unsigned long long seed, unsigned long long draw,
                    unsigned threshold, float factor)
        : bias(bias), bias_t(strides.n[2]), bias_s(strides.n[3]), number(number), H(H), T(T), S(S),
          causal(causal), dropping(dropping), seed(seed), draw(draw),
          first((unsigned long long)number * T * S), threshold(threshold),
          factor(dropping ? factor : 1.0f) {
        if (bias) this->bias += number / H * strides.n[0] + number % H * strides.n[1];
    }
    // Where this head begins in what has one number a query, (B, H, T).
    __device__ long long row() const { return (long long)number * T; }
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
// The rows of a head: where the first begins, and how far apart they are. T: float or const float.
template <class T>
struct Matrix {
    T* first;
    long long step;
    __device__ Matrix(T* x, const Dims& strides, int number, int H)
        : first(x + number / H * strides.n[0] + number % H * strides.n[1]), step(strides.n[2]) {}
    __device__ Matrix(T* x, const Dims& strides, const Head& head)
        : Matrix(x, strides, head.number, head.H) {}
    __device__ T* row(int r) const { return first + r * step; }
};
typedef Matrix<const float> Input;
typedef Matrix<float> Output;
// exp(score - top), 0 for a score of -inf whatever top is.
__device__ inline float exp_below(float score, float top) {
    return score == -INFINITY ? 0.0f : expf(score - top);
}
