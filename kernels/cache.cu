// cache.cu - new keys and values, written behind those that a cache holds.
//
//   k, v (B, H, T, D), with any strides, go to positions length, ..., length + T - 1 of
//   k_room, v_room (B, H, room, D), which have no gaps.
//
//   n   elements of k, and of v; shape and strides have these four axes
//
// cache_append_float, cache_append_short (elements of two bytes, whatever they mean)
//     Both in one launch, one thread an element of each. As two strided copies the new keys and
//     values cost two launches a layer, for a few thousand elements when a text is continued by one
//     token; and where they went was told by an address. Here it is a number, `length`, which a
//     recorded step takes anew each time it is replayed.
#include "strides.cuh"

template <class T>
__device__ inline void append(const T* __restrict__ k, const T* __restrict__ v,
                              T* __restrict__ k_room, T* __restrict__ v_room, long long n,
                              const Dims& shape, const Dims& k_strides, const Dims& v_strides,
                              int room, int length) {
    long long D = shape.n[3], new_ones = shape.n[2] * D;  // elements of a head
    for (long long i = first_element(); i < n; i += all_threads()) {
        long long head = i / new_ones;
        long long to = (head * room + length) * D + i - head * new_ones;
        k_room[to] = k[find_offset(i, 4, shape, k_strides)];
        v_room[to] = v[find_offset(i, 4, shape, v_strides)];
    }
}

extern "C" __global__ void cache_append_float(
    const float* k, const float* v, float* k_room, float* v_room, long long n,
    const __grid_constant__ Dims shape, const __grid_constant__ Dims k_strides,
    const __grid_constant__ Dims v_strides, int room, int length) {
    append(k, v, k_room, v_room, n, shape, k_strides, v_strides, room, length);
}
extern "C" __global__ void cache_append_short(
    const unsigned short* k, const unsigned short* v, unsigned short* k_room,
    unsigned short* v_room, long long n, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims k_strides, const __grid_constant__ Dims v_strides, int room,
    int length) {
    append(k, v, k_room, v_room, n, shape, k_strides, v_strides, room, length);
}
