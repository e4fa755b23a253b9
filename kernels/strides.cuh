// strides.cuh - where the elements of a strided array lie, and which of them a thread takes.
//
// An array of up to 8 axes is described by two Dims: its shape, and its strides in elements. An
// axis that is repeated (broadcast) has stride 0, one that is reversed a negative stride. The host
// joins neighbouring axes wherever that changes nothing, so that most arrays arrive with one axis.
#pragma once
#include "common.cuh"

// Threads take elements first_element(), first_element() + all_threads(), …: neighbouring threads
// touch neighbouring elements, and a grid of any size covers an array of any size.
__device__ inline long long first_element() {
    return (long long)blockIdx.x * blockDim.x + threadIdx.x;
}
__device__ inline long long all_threads() { return (long long)gridDim.x * blockDim.x; }

// The offsets, in N arrays with strides of their own, of element i of their common shape, counted
// with the last axis running fastest. The first axis takes what is left: no division for it, and
// so none at all for arrays of one axis.
//
// A division of 64 bits takes a GPU about a hundred instructions, one of 32 bits a quarter of
// that, so numbers that fit are divided as unsigned.
template <int N>
__device__ inline void find_offsets(long long i, int ndim, const Dims& shape,
                                    const Dims* const (&strides)[N], long long (&offsets)[N]) {
    #pragma unroll
    for (int k = 0; k < N; k++) offsets[k] = 0;
    for (int axis = ndim - 1; axis > 0; axis--) {
        long long size = shape.n[axis], quotient;
        if (((i | size) >> 32) == 0) quotient = (unsigned)i / (unsigned)size;
        else quotient = i / size;
        long long place = i - quotient * size;
        #pragma unroll
        for (int k = 0; k < N; k++) offsets[k] += place * strides[k]->n[axis];
        i = quotient;
    }
    #pragma unroll
    for (int k = 0; k < N; k++) offsets[k] += i * strides[k]->n[0];
}

// The same for one array.
__device__ inline long long find_offset(long long i, int ndim, const Dims& shape,
                                        const Dims& strides) {
    const Dims* const both[1] = {&strides};
    long long offset[1];
    find_offsets<1>(i, ndim, shape, both, offset);
    return offset[0];
}
