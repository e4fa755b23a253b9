// gelu.cuh - the GELU and its derivative, for gelu.cu and for the epilogue of matmul.cu.
//
// Hendrycks and Gimpel 2016. Both forms are y = x * s(x), with a sigmoid-like s.
#pragma once

struct GeluValue { float y, slope; };  // y and dy/dx

// s = P(X <= x) = (1 + erf(x / sqrt(2))) / 2 of a normal X;
// dy/dx = s + x exp(-x^2 / 2) / sqrt(2 pi)
struct GeluExact {
    __device__ static float value(float x) { return x * (0.5f * (1.0f + erff(x * 0.70710678f))); }
    __device__ static GeluValue both(float x) {
        float s = 0.5f * (1.0f + erff(x * 0.70710678f));
        return {x * s, s + x * (0.39894228f * expf(-0.5f * x * x))};
    }
};

// GPT-2's form: s = (1 + tanh(u)) / 2 = 1 / (1 + exp(-2u)), u = c (x + a x^3), c = sqrt(2 / pi),
// a = 0.044715;  dy/dx = s + y (1 - s) 2c (1 + 3 a x^2)
struct GeluTanh {
    static constexpr float TWO_C = 1.59576912f, A = 0.044715f;
    // The quick division is off by 2 in the last place; an exact one has a slow path, 10 instructions
    // and a branch for each element of kernels that have no time for them.
    __device__ static float sigmoid_of(float x) {
        return __fdividef(1.0f, 1.0f + expf(-TWO_C * (x + A * x * x * x)));
    }
    __device__ static float value(float x) { return x * sigmoid_of(x); }
    __device__ static GeluValue both(float x) {
        float s = sigmoid_of(x), y = x * s;
        return {y, s + y * (1.0f - s) * (TWO_C * (1.0f + 3.0f * A * x * x))};
    }
};
