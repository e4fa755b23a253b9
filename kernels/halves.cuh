// halves.cuh - elements of two bytes, __half and __nv_bfloat16, in kernels that compute in float.
//
// float(x) of a half is exact, and T(x) of a float rounds to nearest even.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// Four neighbours in one load or store: 16 bytes of floats, 8 of halves. Their array begins at a
// multiple of that.
template <class T> struct alignas(4 * sizeof(T)) Four {
    T x, y, z, w;
};
