// elementwise.cu - one result for each element: arithmetic, functions, comparisons, choices.
//
// Version "strided" (binary_strided_float …): the naive one. A thread finds where its element lies
// in each operand by dividing its number by the sizes of the axes, so that any broadcast,
// transposed or sliced operand works as it is. The host joins axes first: operands without gaps
// have one axis and cost no division.
//
// Version "float4" (binary_float4 …): for operands without gaps, or a single number. A thread loads
// and stores four floats at a time, 16 bytes in one instruction, so that a quarter of the
// instructions keeps the memory busy. What is left over, at most three elements, is done one by one
// by the first threads. The arrays must begin at a multiple of 16 bytes; the host looks.
//
// Version "bfloat16" (binary_bfloat16 …, strided and "vector" as float4): two bytes an element in
// memory, float32 in between, and each result rounded once. Half of the bytes; the host takes it for
// what a model in bfloat16 does most, and widens around the others (tensor/cuda_half.py).
//
// All are limited by memory: an addition moves 12 bytes for one flop. So which operation it is
// arrives as a number and is looked up once a thread; that costs nothing that can be measured, and
// one kernel stands for many. The numbers are the places in the enums here; cuda_backend.py has the
// same lists, and a test compares them.
//
//   n        elements of the result, which has no gaps
//   ndim     axes, at least 1; shape: their sizes
//   …strides of an operand, in elements; 0 where it is repeated
#include "pack.cuh"
#include "strides.cuh"

enum Binary { ADD, SUB, MUL, DIV, POW, MAXIMUM };
enum Unary { NEG, EXP, LOG, SQRT, TANH, ERF, RELU, SIGMOID, POW_SCALAR };
enum Comparison { EQUAL, NOT_EQUAL, LESS, LESS_EQUAL, GREATER, GREATER_EQUAL };

// --- two operands

struct Add { template <class T> __device__ T operator()(T a, T b) const { return a + b; } };
struct Sub { template <class T> __device__ T operator()(T a, T b) const { return a - b; } };
struct Mul { template <class T> __device__ T operator()(T a, T b) const { return a * b; } };
struct Div { template <class T> __device__ T operator()(T a, T b) const { return a / b; } };
struct Maximum {  // NaN if either is
    template <class T> __device__ T operator()(T a, T b) const {
        return a > b || a != a ? a : b;
    }
};
struct Pow {
    __device__ float operator()(float a, float b) const { return powf(a, b); }
    __device__ long long operator()(long long a, long long b) const {  // 0 for a negative power
        long long power = b < 0 ? 0 : 1;
        for (; b > 0; b >>= 1, a *= a)
            if (b & 1) power *= a;
        return power;
    }
};

// What an element is computed as.
__device__ inline float wide(float x) { return x; }
__device__ inline float wide(__nv_bfloat16 x) { return float(x); }
__device__ inline long long wide(long long x) { return x; }
__device__ inline unsigned char wide(unsigned char x) { return x; }

template <class T, class Op>
__device__ void binary_strided(Op op, const T* a, const T* b, T* y, long long n, int ndim,
                               const Dims& shape, const Dims& a_strides, const Dims& b_strides) {
    const Dims* const strides[2] = {&a_strides, &b_strides};
    long long at[2];
    for (long long i = first_element(); i < n; i += all_threads()) {
        find_offsets<2>(i, ndim, shape, strides, at);
        y[i] = T(op(wide(a[at[0]]), wide(b[at[1]])));
    }
}

template <class T>
__device__ void binary_of_floats(int op, const T* a, const T* b, T* y, long long n, int ndim,
                                 const Dims& shape, const Dims& a_strides, const Dims& b_strides) {
    switch (op) {
    case ADD: binary_strided(Add(), a, b, y, n, ndim, shape, a_strides, b_strides); break;
    case SUB: binary_strided(Sub(), a, b, y, n, ndim, shape, a_strides, b_strides); break;
    case MUL: binary_strided(Mul(), a, b, y, n, ndim, shape, a_strides, b_strides); break;
    case DIV: binary_strided(Div(), a, b, y, n, ndim, shape, a_strides, b_strides); break;
    case POW: binary_strided(Pow(), a, b, y, n, ndim, shape, a_strides, b_strides); break;
    case MAXIMUM: binary_strided(Maximum(), a, b, y, n, ndim, shape, a_strides, b_strides); break;
    }
}

extern "C" __global__ void binary_strided_float(
    int op, const float* a, const float* b, float* y, long long n, int ndim,
    const __grid_constant__ Dims shape, const __grid_constant__ Dims a_strides,
    const __grid_constant__ Dims b_strides) {
    binary_of_floats(op, a, b, y, n, ndim, shape, a_strides, b_strides);
}
extern "C" __global__ void binary_strided_bfloat16(
    int op, const __nv_bfloat16* a, const __nv_bfloat16* b, __nv_bfloat16* y, long long n,
    int ndim, const __grid_constant__ Dims shape, const __grid_constant__ Dims a_strides,
    const __grid_constant__ Dims b_strides) {
    binary_of_floats(op, a, b, y, n, ndim, shape, a_strides, b_strides);
}

// Integers wrap around. There is no DIV: a quotient of integers is one of floats.
extern "C" __global__ void binary_strided_long(
    int op, const long long* a, const long long* b, long long* y, long long n, int ndim,
    const __grid_constant__ Dims shape, const __grid_constant__ Dims a_strides,
    const __grid_constant__ Dims b_strides) {
    switch (op) {
    case ADD: binary_strided(Add(), a, b, y, n, ndim, shape, a_strides, b_strides); break;
    case SUB: binary_strided(Sub(), a, b, y, n, ndim, shape, a_strides, b_strides); break;
    case MUL: binary_strided(Mul(), a, b, y, n, ndim, shape, a_strides, b_strides); break;
    case POW: binary_strided(Pow(), a, b, y, n, ndim, shape, a_strides, b_strides); break;
    case MAXIMUM: binary_strided(Maximum(), a, b, y, n, ndim, shape, a_strides, b_strides); break;
    }
}

// Booleans, 0 or 1 each: "and" is MUL, "or" is MAXIMUM.
extern "C" __global__ void binary_strided_bool(
    int op, const unsigned char* a, const unsigned char* b, unsigned char* y, long long n, int ndim,
    const __grid_constant__ Dims shape, const __grid_constant__ Dims a_strides,
    const __grid_constant__ Dims b_strides) {
    if (op == MUL) binary_strided(Mul(), a, b, y, n, ndim, shape, a_strides, b_strides);
    if (op == MAXIMUM) binary_strided(Maximum(), a, b, y, n, ndim, shape, a_strides, b_strides);
}

// An operand of one number is loaded four times over; a_step is 1 for an array and 0 for a number.
template <class T> __device__ Pack<4> load4(const T* a, long long quad, int step) {
    if (step == 0) return {wide(a[0]), wide(a[0]), wide(a[0]), wide(a[0])};
    return load_pack<4>(a, quad);
}

template <class T, class Op>
__device__ void binary4(Op op, const T* a, const T* b, T* y, long long n, int a_step, int b_step) {
    for (long long quad = first_element(); quad < n / 4; quad += all_threads()) {
        Pack<4> u = load4(a, quad, a_step), v = load4(b, quad, b_step);
        for (int j = 0; j < 4; j++) u.v[j] = op(u.v[j], v.v[j]);
        store_pack(y, quad, u);
    }
    for (long long i = n / 4 * 4 + first_element(); i < n; i += all_threads())
        y[i] = T(op(wide(a[i * a_step]), wide(b[i * b_step])));
}

template <class T>
__device__ void binary4_of(int op, const T* a, const T* b, T* y, long long n, int a_step,
                           int b_step) {
    switch (op) {
    case ADD: binary4(Add(), a, b, y, n, a_step, b_step); break;
    case SUB: binary4(Sub(), a, b, y, n, a_step, b_step); break;
    case MUL: binary4(Mul(), a, b, y, n, a_step, b_step); break;
    case DIV: binary4(Div(), a, b, y, n, a_step, b_step); break;
    case POW: binary4(Pow(), a, b, y, n, a_step, b_step); break;
    case MAXIMUM: binary4(Maximum(), a, b, y, n, a_step, b_step); break;
    }
}

extern "C" __global__ void binary_float4(
    int op, const float* a, const float* b, float* y, long long n, int a_step, int b_step) {
    binary4_of(op, a, b, y, n, a_step, b_step);
}
extern "C" __global__ void binary_bfloat16_vector(
    int op, const __nv_bfloat16* a, const __nv_bfloat16* b, __nv_bfloat16* y, long long n,
    int a_step, int b_step) {
    binary4_of(op, a, b, y, n, a_step, b_step);
}

// --- one operand; `number` is POW_SCALAR's exponent

struct Neg { template <class T> __device__ T operator()(T x) const { return -x; } };
struct Exp { __device__ float operator()(float x) const { return expf(x); } };
struct Log { __device__ float operator()(float x) const { return logf(x); } };
struct Sqrt { __device__ float operator()(float x) const { return sqrtf(x); } };
struct Tanh { __device__ float operator()(float x) const { return tanhf(x); } };
struct Erf { __device__ float operator()(float x) const { return erff(x); } };
struct Relu { __device__ float operator()(float x) const { return x < 0.0f ? 0.0f : x; } };
struct Sigmoid {  // exp overflows to infinity, which gives 0
    __device__ float operator()(float x) const { return 1.0f / (1.0f + expf(-x)); }
};
struct PowScalar {
    float exponent;
    __device__ float operator()(float x) const {
        if (exponent == 2.0f) return x * x;
        if (exponent == 3.0f) return x * x * x;
        return powf(x, exponent);
    }
};

template <class T, class Op>
__device__ void unary_strided(Op op, const T* x, T* y, long long n, int ndim, const Dims& shape,
                              const Dims& strides) {
    for (long long i = first_element(); i < n; i += all_threads())
        y[i] = op(x[find_offset(i, ndim, shape, strides)]);
}

extern "C" __global__ void unary_strided_float(
    int op, const float* x, float* y, float number, long long n, int ndim,
    const __grid_constant__ Dims shape, const __grid_constant__ Dims strides) {
    switch (op) {
    case NEG: unary_strided(Neg(), x, y, n, ndim, shape, strides); break;
    case EXP: unary_strided(Exp(), x, y, n, ndim, shape, strides); break;
    case LOG: unary_strided(Log(), x, y, n, ndim, shape, strides); break;
    case SQRT: unary_strided(Sqrt(), x, y, n, ndim, shape, strides); break;
    case TANH: unary_strided(Tanh(), x, y, n, ndim, shape, strides); break;
    case ERF: unary_strided(Erf(), x, y, n, ndim, shape, strides); break;
    case RELU: unary_strided(Relu(), x, y, n, ndim, shape, strides); break;
    case SIGMOID: unary_strided(Sigmoid(), x, y, n, ndim, shape, strides); break;
    case POW_SCALAR: unary_strided(PowScalar{number}, x, y, n, ndim, shape, strides); break;
    }
}

extern "C" __global__ void neg_strided_long(
    const long long* x, long long* y, long long n, int ndim, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims strides) {
    unary_strided(Neg(), x, y, n, ndim, shape, strides);
}

struct Not { __device__ unsigned char operator()(unsigned char x) const { return !x; } };

extern "C" __global__ void not_strided_bool(
    const unsigned char* x, unsigned char* y, long long n, int ndim,
    const __grid_constant__ Dims shape, const __grid_constant__ Dims strides) {
    unary_strided(Not(), x, y, n, ndim, shape, strides);
}

template <class Op> __device__ void unary4(Op op, const float* x, float* y, long long n) {
    for (long long quad = first_element(); quad < n / 4; quad += all_threads()) {
        float4 v = reinterpret_cast<const float4*>(x)[quad];
        reinterpret_cast<float4*>(y)[quad] = make_float4(op(v.x), op(v.y), op(v.z), op(v.w));
    }
    for (long long i = n / 4 * 4 + first_element(); i < n; i += all_threads()) y[i] = op(x[i]);
}

extern "C" __global__ void unary_float4(
    int op, const float* x, float* y, float number, long long n) {
    switch (op) {
    case NEG: unary4(Neg(), x, y, n); break;
    case EXP: unary4(Exp(), x, y, n); break;
    case LOG: unary4(Log(), x, y, n); break;
    case SQRT: unary4(Sqrt(), x, y, n); break;
    case TANH: unary4(Tanh(), x, y, n); break;
    case ERF: unary4(Erf(), x, y, n); break;
    case RELU: unary4(Relu(), x, y, n); break;
    case SIGMOID: unary4(Sigmoid(), x, y, n); break;
    case POW_SCALAR: unary4(PowScalar{number}, x, y, n); break;
    }
}

// y = min(max(x, low), high); NaN stays NaN.
template <class T> struct Clip {
    T low, high;
    __device__ T operator()(T x) const { return x < low ? low : x > high ? high : x; }
};

extern "C" __global__ void clip_strided_float(
    const float* x, float* y, float low, float high, long long n, int ndim,
    const __grid_constant__ Dims shape, const __grid_constant__ Dims strides) {
    unary_strided(Clip<float>{low, high}, x, y, n, ndim, shape, strides);
}

extern "C" __global__ void clip_strided_long(
    const long long* x, long long* y, long long low, long long high, long long n, int ndim,
    const __grid_constant__ Dims shape, const __grid_constant__ Dims strides) {
    unary_strided(Clip<long long>{low, high}, x, y, n, ndim, shape, strides);
}

// --- comparisons: y is 1 where they hold; a comparison with NaN is false, but for NOT_EQUAL

template <class T> __device__ bool holds(int how, T a, T b) {
    switch (how) {
    case EQUAL: return a == b;
    case NOT_EQUAL: return a != b;
    case LESS: return a < b;
    case LESS_EQUAL: return a <= b;
    case GREATER: return a > b;
    default: return a >= b;
    }
}

template <class T>
__device__ void compare_strided(int how, const T* a, const T* b, unsigned char* y, long long n,
                                int ndim, const Dims& shape, const Dims& a_strides,
                                const Dims& b_strides) {
    const Dims* const strides[2] = {&a_strides, &b_strides};
    long long at[2];
    for (long long i = first_element(); i < n; i += all_threads()) {
        find_offsets<2>(i, ndim, shape, strides, at);
        y[i] = holds(how, a[at[0]], b[at[1]]);
    }
}

extern "C" __global__ void compare_strided_float(
    int how, const float* a, const float* b, unsigned char* y, long long n, int ndim,
    const __grid_constant__ Dims shape, const __grid_constant__ Dims a_strides,
    const __grid_constant__ Dims b_strides) {
    compare_strided(how, a, b, y, n, ndim, shape, a_strides, b_strides);
}

extern "C" __global__ void compare_strided_long(
    int how, const long long* a, const long long* b, unsigned char* y, long long n, int ndim,
    const __grid_constant__ Dims shape, const __grid_constant__ Dims a_strides,
    const __grid_constant__ Dims b_strides) {
    compare_strided(how, a, b, y, n, ndim, shape, a_strides, b_strides);
}

// --- choices: y = condition ? a : b

template <class T>
__device__ void where_strided(const unsigned char* condition, const T* a, const T* b, T* y,
                              long long n, int ndim, const Dims& shape, const Dims& c_strides,
                              const Dims& a_strides, const Dims& b_strides) {
    const Dims* const strides[3] = {&c_strides, &a_strides, &b_strides};
    long long at[3];
    for (long long i = first_element(); i < n; i += all_threads()) {
        find_offsets<3>(i, ndim, shape, strides, at);
        y[i] = condition[at[0]] ? a[at[1]] : b[at[2]];
    }
}

extern "C" __global__ void where_strided_float(
    const unsigned char* condition, const float* a, const float* b, float* y, long long n, int ndim,
    const __grid_constant__ Dims shape, const __grid_constant__ Dims c_strides,
    const __grid_constant__ Dims a_strides, const __grid_constant__ Dims b_strides) {
    where_strided(condition, a, b, y, n, ndim, shape, c_strides, a_strides, b_strides);
}

extern "C" __global__ void where_strided_long(
    const unsigned char* condition, const long long* a, const long long* b, long long* y,
    long long n, int ndim, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims c_strides, const __grid_constant__ Dims a_strides,
    const __grid_constant__ Dims b_strides) {
    where_strided(condition, a, b, y, n, ndim, shape, c_strides, a_strides, b_strides);
}

// --- in place: into += x, for gradients

template <class T>
__device__ void add_to(T* into, const T* x, long long n, int ndim, const Dims& shape,
                       const Dims& into_strides, const Dims& x_strides) {
    const Dims* const strides[2] = {&into_strides, &x_strides};
    long long at[2];
    for (long long i = first_element(); i < n; i += all_threads()) {
        find_offsets<2>(i, ndim, shape, strides, at);
        into[at[0]] = T(wide(into[at[0]]) + wide(x[at[1]]));
    }
}

extern "C" __global__ void accumulate_strided(
    float* into, const float* x, long long n, int ndim, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims into_strides, const __grid_constant__ Dims x_strides) {
    add_to(into, x, n, ndim, shape, into_strides, x_strides);
}
extern "C" __global__ void accumulate_strided_bfloat16(
    __nv_bfloat16* into, const __nv_bfloat16* x, long long n, int ndim,
    const __grid_constant__ Dims shape, const __grid_constant__ Dims into_strides,
    const __grid_constant__ Dims x_strides) {
    add_to(into, x, n, ndim, shape, into_strides, x_strides);
}

extern "C" __global__ void accumulate_float4(float* into, const float* x, long long n, int x_step) {
    binary4(Add(), into, x, into, n, 1, x_step);
}
extern "C" __global__ void accumulate_bfloat16_vector(
    __nv_bfloat16* into, const __nv_bfloat16* x, long long n, int x_step) {
    binary4(Add(), into, x, into, n, 1, x_step);
}
