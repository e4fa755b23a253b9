// cuda_emulator.h - the part of CUDA C++ that a kernel may use, for the host's C++ compiler.
//
// Each .cu is compiled with this header in front. What needs other threads or knows of memory is
// a call into runtime.cpp. What is not here does not compile, which is better than a wrong guess.
// Half precision, bfloat16 and matrix fragments come with <cuda_fp16.h>, <cuda_bf16.h>, <mma.h>,
// which stand in include/.
#pragma once
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "worker.h"

#define __CUDA_EMULATOR__ 1
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __grid_constant__
#define __restrict__ __restrict
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// What CUDA has as one instruction, and the emulator does by several, which the counting mode is not
// to see.
#ifdef EMU_COUNTED
#define EMU_QUIET __attribute__((no_sanitize("thread"), no_sanitize_coverage, noinline))
#else
#define EMU_QUIET
#endif
// Of what the last lane does for all, the checks would take each access for that lane's own.
#define EMU_UNCHECKED EMU_QUIET __attribute__((no_sanitize("thread"), noinline))

#define threadIdx (emu_worker()->thread_index)
#define blockIdx (emu_worker()->block_index)
#define blockDim (emu_worker()->block_dim)
#define gridDim (emu_worker()->grid_dim)
constexpr int warpSize = 32;

// build.py writes these in the place of the two forms of __shared__, and of `return;`:
//   __shared__ float tile[16][17];    ->  EMU_SHARED(float, tile, [16][17]);
//   extern __shared__ float tile[];   ->  EMU_DYNAMIC_SHARED(float, tile);
//   return;                           ->  EMU_RETURN;
// The first thread of a block that comes by makes the variable; the number tells the others.
struct EmuSlot { uint64_t block; void* address; };
EMU_QUIET inline void* emu_shared_at(EmuSlot* slots, size_t bytes, size_t alignment,
                                     const char* name, EmuPlace place) {
    EmuSlot& slot = slots[emu_worker()->number];
    if (slot.block != emu_worker()->block_number) {
        slot.address = emu_shared(bytes, alignment, name, place);
        slot.block = emu_worker()->block_number;
    }
    return slot.address;
}
#define EMU_SHARED(T, name, dims) \
    typedef T emu_type_##name dims; \
    static EmuSlot emu_slots_##name[EMU_MAX_WORKERS]; \
    emu_type_##name& name = *static_cast<emu_type_##name*>( \
        emu_shared_at(emu_slots_##name, sizeof(emu_type_##name), alignof(emu_type_##name), #name, \
                      EmuPlace::here()))
#define EMU_DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(emu_worker()->dynamic_shared)
// A thread that ends where others wait at a barrier is in order if it left by a `return;`, which
// GPUs since sm_70 allow; one that came to the kernel's end has passed the barrier by.
#define EMU_RETURN \
    do { emu_worker()->returned[emu_worker()->thread] = true; return; } while (0)

// ---- barriers and fences ----

inline void __syncthreads(EmuPlace place = EmuPlace::here()) { emu_syncthreads(false, place); }
inline int __syncthreads_count(int predicate, EmuPlace place = EmuPlace::here()) {
    return emu_syncthreads(predicate != 0, place);
}
inline int __syncthreads_or(int predicate, EmuPlace place = EmuPlace::here()) {
    return emu_syncthreads(predicate != 0, place) != 0;
}
inline int __syncthreads_and(int predicate, EmuPlace place = EmuPlace::here()) {
    return emu_syncthreads(predicate == 0, place) == 0;
}
inline void __threadfence() { emu_worker()->fence = true; }
inline void __threadfence_system() { __threadfence(); }
inline void __threadfence_block() {}

[[noreturn]] inline void __trap(EmuPlace place = EmuPlace::here()) { emu_stop("__trap", place); }
#undef assert
#define assert(condition) \
    ((condition) ? void(0) : emu_stop("assert(" #condition ") does not hold", EmuPlace::here()))
inline void __nanosleep(unsigned) {}

#include "device_math.h"
#include "warp.h"
#include "atomics.h"
#include "ptx.h"
