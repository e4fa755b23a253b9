// cuda_emulator.h - the part of CUDA C++ that our kernels use, for the host's C++ compiler.
//
// Each .cu is compiled with this header in front. What needs other threads or knows of memory is
// a call into runtime.cpp. What is not here does not compile, which is better than a wrong guess.
#pragma once
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __restrict__ __restrict
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

#include "vector_types.h"

extern "C" {
extern uint3 threadIdx, blockIdx, blockDim, gridDim;    // written at each switch of threads
void emu_syncthreads(int line);
uint64_t emu_warp(unsigned mask, uint64_t value, int source, const char* what, int line,
                  unsigned* ballot);
int emu_lane();
void* emu_shared(size_t bytes, size_t alignment, const char* name, int line);
void* emu_dynamic_shared();
extern uint64_t emu_block_number;                       // counts the blocks of all launches
extern int emu_in_atomic;
}

// launch.py writes these in the place of the two forms of __shared__:
//   __shared__ float tile[16][17];    ->  EMU_SHARED(float, tile, [16][17]);
//   extern __shared__ float tile[];   ->  EMU_DYNAMIC_SHARED(float, tile);
// The first thread of a block that comes by makes the variable; the number tells the others.
struct EmuSlot { uint64_t block; void* address; };
#define EMU_SHARED(T, name, dims) \
    typedef T emu_type_##name dims; \
    static EmuSlot emu_slot_##name; \
    if (emu_slot_##name.block != emu_block_number) { \
        emu_slot_##name.address = \
            emu_shared(sizeof(emu_type_##name), alignof(emu_type_##name), #name, __LINE__); \
        emu_slot_##name.block = emu_block_number; \
    } \
    emu_type_##name& name = *static_cast<emu_type_##name*>(emu_slot_##name.address)
#define EMU_DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(emu_dynamic_shared())

constexpr int warpSize = 32;

// The default argument is the line of the call, also where the call is in a template.
inline void __syncthreads(int line = __builtin_LINE()) { emu_syncthreads(line); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
    emu_warp(mask, 0, emu_lane(), "__syncwarp", line, nullptr);
}

template <class T>
inline T emu_shuffle(unsigned mask, T value, int source, const char* what, int line) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    bits = emu_warp(mask, bits, source, what, line, nullptr);
    memcpy(&value, &bits, sizeof(T));
    return value;
}
// The source lane of each kind of shuffle: one outside the group of `width` lanes is oneself.
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32,
                     int line = __builtin_LINE()) {
    int first = emu_lane() & ~(width - 1);
    return emu_shuffle(mask, value, first + (source & (width - 1)), "__shfl_sync", line);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32,
                         int line = __builtin_LINE()) {
    int lane = emu_lane(), source = lane ^ bits, end = (lane & ~(width - 1)) + width;
    return emu_shuffle(mask, value, source < end ? source : lane, "__shfl_xor_sync", line);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32,
                          int line = __builtin_LINE()) {
    int lane = emu_lane(), source = lane + int(by), end = (lane & ~(width - 1)) + width;
    return emu_shuffle(mask, value, source < end ? source : lane, "__shfl_down_sync", line);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32,
                        int line = __builtin_LINE()) {
    int lane = emu_lane(), source = lane - int(by), first = lane & ~(width - 1);
    return emu_shuffle(mask, value, source >= first ? source : lane, "__shfl_up_sync", line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    unsigned ballot;
    emu_warp(mask, predicate != 0, emu_lane(), "__ballot_sync", line, &ballot);
    return ballot;
}
inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return __ballot_sync(mask, predicate, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return __ballot_sync(mask, !predicate, line) == 0;
}

// Threads change only where they wait, so a plain read, change and write is atomic here. The type
// of the second argument follows from the first, so that atomicAdd(&float, 1) means what it does
// to nvcc.
template <class T> struct EmuSame { typedef T type; };
struct EmuAtomic {
    EmuAtomic() { emu_in_atomic = 1; }
    ~EmuAtomic() { emu_in_atomic = 0; }
};
template <class T> inline T atomicAdd(T* p, typename EmuSame<T>::type value) {
    EmuAtomic atomic;
    T old = *p;
    *p = old + value;
    return old;
}
template <class T> inline T atomicMax(T* p, typename EmuSame<T>::type value) {
    EmuAtomic atomic;
    T old = *p;
    *p = value > old ? value : old;
    return old;
}
template <class T> inline T atomicMin(T* p, typename EmuSame<T>::type value) {
    EmuAtomic atomic;
    T old = *p;
    *p = value < old ? value : old;
    return old;
}
template <class T> inline T atomicExch(T* p, typename EmuSame<T>::type value) {
    EmuAtomic atomic;
    T old = *p;
    *p = value;
    return old;
}
template <class T> inline T atomicCAS(T* p, typename EmuSame<T>::type compare,
                                      typename EmuSame<T>::type value) {
    EmuAtomic atomic;
    T old = *p;
    *p = old == compare ? value : old;
    return old;
}

#include "device_math.h"
