// index.cu - elements picked by arrays of integers, and the gradient of that.
//
// x[index] of NumPy, with integer arrays for some axes and slices for the others, comes down to one
// table: the integer arrays, broadcast together, give `count` places, and place k of the table says
// how far into x it leads. The slices give the axes in front of the table and behind it. So the
// result is (before, count, after), and element (b, k, a) is
//     x[offset of b + table[k] + offset of a].
// The host makes the table from the index, which is its own, and turns boolean arrays into the
// places where they are true: how many there are decides the shape of the result, and that is a
// number the host needs before anything is launched.
//
// Backward, elements that were picked several times add up.
//
// Version "atomic" (gather_backward_atomic): the naive one. dx is zero at first, and a thread for
// each element of dy adds it with atomicAdd. The order in which threads come by changes from run to
// run, and with it the last digits of the sums; places that are picked often make threads wait.
//
// Version "sorted" (gather_backward_sorted): a thread for each *different* place of the table goes
// through all of its occurrences, which the host has put next to each other by sorting. No atomics,
// each sum in one register, always in the same order: the same bits each time.
//
//   table        (count,), in elements of x
//   before, after: axes in front of the table and behind it, how many elements they hold together;
//                …_ndim (at least 1), …_shape, …_strides in x
#include "strides.cuh"

template <class T>
__device__ void gather(const T* x, const long long* table, T* y, long long count, long long before,
                       int before_ndim, const Dims& before_shape, const Dims& before_strides,
                       long long after, int after_ndim, const Dims& after_shape,
                       const Dims& after_strides) {
    for (long long i = first_element(); i < before * count * after; i += all_threads()) {
        long long a = i % after, k = i / after % count, b = i / after / count;
        y[i] = x[find_offset(b, before_ndim, before_shape, before_strides) + table[k] +
                 find_offset(a, after_ndim, after_shape, after_strides)];
    }
}

extern "C" __global__ void gather_float(
    const float* x, const long long* table, float* y, long long count, long long before,
    int before_ndim, const __grid_constant__ Dims before_shape,
    const __grid_constant__ Dims before_strides, long long after, int after_ndim,
    const __grid_constant__ Dims after_shape, const __grid_constant__ Dims after_strides) {
    gather(x, table, y, count, before, before_ndim, before_shape, before_strides, after, after_ndim,
           after_shape, after_strides);
}

extern "C" __global__ void gather_long(
    const long long* x, const long long* table, long long* y, long long count, long long before,
    int before_ndim, const __grid_constant__ Dims before_shape,
    const __grid_constant__ Dims before_strides, long long after, int after_ndim,
    const __grid_constant__ Dims after_shape, const __grid_constant__ Dims after_strides) {
    gather(x, table, y, count, before, before_ndim, before_shape, before_strides, after, after_ndim,
           after_shape, after_strides);
}

// Four floats at a time: where `after` is a single axis without gaps whose size, and all strides
// and entries of the table, are multiples of four. They count groups of four here. Rows of a hidden
// state, picked by position, are such.
extern "C" __global__ void gather_float4(
    const float* x, const long long* table, float* y, long long count, long long before,
    int before_ndim, const __grid_constant__ Dims before_shape,
    const __grid_constant__ Dims before_strides, long long after) {
    const float4* from = reinterpret_cast<const float4*>(x);
    for (long long i = first_element(); i < before * count * after; i += all_threads()) {
        long long a = i % after, k = i / after % count, b = i / after / count;
        reinterpret_cast<float4*>(y)[i] =
            from[find_offset(b, before_ndim, before_shape, before_strides) + table[k] / 4 + a];
    }
}

// dy (before, count, after); dx, of x's shape, is zero before the launch.
extern "C" __global__ void gather_backward_atomic(
    const float* dy, const long long* table, float* dx, long long count, long long before,
    int before_ndim, const __grid_constant__ Dims before_shape,
    const __grid_constant__ Dims before_strides, long long after, int after_ndim,
    const __grid_constant__ Dims after_shape, const __grid_constant__ Dims after_strides) {
    for (long long i = first_element(); i < before * count * after; i += all_threads()) {
        long long a = i % after, k = i / after % count, b = i / after / count;
        atomicAdd(&dx[find_offset(b, before_ndim, before_shape, before_strides) + table[k] +
                      find_offset(a, after_ndim, after_shape, after_strides)],
                  dy[i]);
    }
}

// order (count,): the places of the table, sorted by what the table says, of equal ones the first
// first. starts (different + 1,): where in `order` each different entry begins, and count.
extern "C" __global__ void gather_backward_sorted(
    const float* dy, const long long* table, const long long* order, const long long* starts,
    float* dx, long long count, long long different, long long before, int before_ndim,
    const __grid_constant__ Dims before_shape, const __grid_constant__ Dims before_strides,
    long long after, int after_ndim, const __grid_constant__ Dims after_shape,
    const __grid_constant__ Dims after_strides) {
    for (long long i = first_element(); i < before * different * after; i += all_threads()) {
        long long a = i % after, run = i / after % different, b = i / after / different;
        float total = 0.0f;
        for (long long j = starts[run]; j < starts[run + 1]; j++)
            total += dy[(b * count + order[j]) * after + a];
        dx[find_offset(b, before_ndim, before_shape, before_strides) + table[order[starts[run]]] +
           find_offset(a, after_ndim, after_shape, after_strides)] = total;
    }
}
