// gelu.cu - y = GELU(x) and, where `slope` is given, dy/dx, in its exact form and in GPT-2's (with
// tanh); the formulas are in gelu.cuh. x, y, slope: n floats.
//
// The slope is computed in the forward pass, while the exponential is at hand: that saves a second
// one, and what is kept for the backward pass is as large as x itself.
//
// …_naive   One thread an element. Any grid: threads go on to the elements beyond it.
// …_vector  Four elements a thread at a time, in one load and one store of 16 bytes: memory is the
//           limit, and a quarter of the instructions keeps it busy. What is left over, at most
//           three, the first threads do. x, y and slope at multiples of 16 bytes.
#include "gelu.cuh"
#include "strides.cuh"

template <class F>
__device__ inline void one(const float* x, float* y, float* slope, long long i) {
    if (slope) {
        GeluValue v = F::both(x[i]);
        y[i] = v.y;
        slope[i] = v.slope;
    } else {
        y[i] = F::value(x[i]);
    }
}

template <class F>
__device__ void each(const float* x, float* y, float* slope, long long n) {
    for (long long i = first_element(); i < n; i += all_threads()) one<F>(x, y, slope, i);
}

template <class F>
__device__ void four_at_a_time(const float* x, float* y, float* slope, long long n) {
    const float4* x4 = reinterpret_cast<const float4*>(x);
    float4* y4 = reinterpret_cast<float4*>(y);
    float4* slope4 = reinterpret_cast<float4*>(slope);
    for (long long i = first_element(); i < n / 4; i += all_threads()) {
        float4 v = x4[i];
        if (slope) {
            GeluValue a = F::both(v.x), b = F::both(v.y), c = F::both(v.z), d = F::both(v.w);
            y4[i] = make_float4(a.y, b.y, c.y, d.y);
            slope4[i] = make_float4(a.slope, b.slope, c.slope, d.slope);
        } else {
            y4[i] = make_float4(F::value(v.x), F::value(v.y), F::value(v.z), F::value(v.w));
        }
    }
    long long rest = n / 4 * 4 + first_element();
    if (rest < n) one<F>(x, y, slope, rest);
}

extern "C" __global__ void gelu_naive(const float* __restrict__ x, float* __restrict__ y,
                                      float* __restrict__ OPTIONAL slope, long long n) {
    each<GeluExact>(x, y, slope, n);
}
extern "C" __global__ void gelu_vector(const float* __restrict__ x, float* __restrict__ y,
                                       float* __restrict__ OPTIONAL slope, long long n) {
    four_at_a_time<GeluExact>(x, y, slope, n);
}
extern "C" __global__ void gelu_tanh_naive(const float* __restrict__ x, float* __restrict__ y,
                                           float* __restrict__ OPTIONAL slope, long long n) {
    each<GeluTanh>(x, y, slope, n);
}
extern "C" __global__ void gelu_tanh_vector(const float* __restrict__ x, float* __restrict__ y,
                                            float* __restrict__ OPTIONAL slope, long long n) {
    four_at_a_time<GeluTanh>(x, y, slope, n);
}
