// pack.cuh - neighbouring elements in one load or store, floats or halves in memory, floats in the
// kernel. Widening a __half or __nv_bfloat16 is exact; a float is rounded to nearest even.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// WIDTH floats: 1, or 4 that one instruction loads or stores, at a multiple of 16 bytes.
template <int WIDTH> struct alignas(4 * WIDTH) Pack { float v[WIDTH]; };
template <int WIDTH> __device__ inline const Pack<WIDTH>* packs_of(const float* x) {
    return reinterpret_cast<const Pack<WIDTH>*>(x);
}
template <int WIDTH> __device__ inline Pack<WIDTH>* packs_of(float* x) {
    return reinterpret_cast<Pack<WIDTH>*>(x);
}

// Halves as they lie in memory: four at a multiple of 8 bytes.
template <class T, int WIDTH> struct alignas(sizeof(T) * WIDTH) Stored { T v[WIDTH]; };

// Pack number i of an array, and into it.
template <int WIDTH, class I> __device__ inline Pack<WIDTH> load_pack(const float* x, I i) {
    return packs_of<WIDTH>(x)[i];
}
template <int WIDTH, class I>
__device__ inline void store_pack(float* y, I i, const Pack<WIDTH>& pack) {
    packs_of<WIDTH>(y)[i] = pack;
}
template <int WIDTH, class T, class I> __device__ inline Pack<WIDTH> load_pack(const T* x, I i) {
    Stored<T, WIDTH> stored = reinterpret_cast<const Stored<T, WIDTH>*>(x)[i];
    Pack<WIDTH> pack;
#pragma unroll
    for (int j = 0; j < WIDTH; j++) pack.v[j] = float(stored.v[j]);
    return pack;
}
template <int WIDTH, class T, class I>
__device__ inline void store_pack(T* y, I i, const Pack<WIDTH>& pack) {
    Stored<T, WIDTH> stored;
#pragma unroll
    for (int j = 0; j < WIDTH; j++) stored.v[j] = T(pack.v[j]);
    reinterpret_cast<Stored<T, WIDTH>*>(y)[i] = stored;
}
