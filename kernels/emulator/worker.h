// worker.h - what a kernel sees of the worker that runs it, and the calls into runtime.cpp.
//
// A worker is one thread of the operating system: it runs blocks one after another. All stacks of
// its fibers lie in one aligned region of memory with the worker's own data at the start, so
// whatever runs on such a stack finds them by clearing the low bits of its stack pointer.
#pragma once
#include <cstddef>
#include <cstdint>

#include "vector_types.h"

constexpr size_t EMU_REGION = size_t(256) << 20;    // bytes of address space; most is never touched
constexpr int EMU_MAX_THREADS = 1024;               // in a block
constexpr int EMU_MAX_WORKERS = 16;

struct EmuWorker {
    uint3 thread_index, block_index, block_dim, grid_dim;       // thread_index: at each switch
    int number;                         // of this worker
    int thread;                         // the number of the running thread in its block
    uint64_t block_number;              // counts the blocks that this worker has run
    void* dynamic_shared;
    bool fence;                         // has the block called __threadfence?
    bool returned[EMU_MAX_THREADS];     // which threads have passed a `return;`
};

inline __attribute__((always_inline)) EmuWorker* emu_worker() {
    uintptr_t stack;
#if defined(__x86_64__)
    asm("movq %%rsp, %0" : "=r"(stack));
#else
    asm("mov %0, sp" : "=r"(stack));
#endif
    return reinterpret_cast<EmuWorker*>(stack & ~(EMU_REGION - 1));
}

// A place in the source. As a default argument, here() is the place of the call.
struct EmuPlace {
    const char* file;
    int line;
    static constexpr EmuPlace here(const char* file = __builtin_FILE(),
                                   int line = __builtin_LINE()) { return {file, line}; }
};

// What the last lane to arrive does for all: lanes[i] is what lane i brought; of the lanes in the
// mask only those in `alive` have not ended.
typedef void (*EmuTogether)(void** lanes, unsigned alive);

extern "C" {
int emu_syncthreads(bool predicate, EmuPlace place);        // how many threads brought true
void emu_warp(unsigned mask, void* mine, EmuTogether together, const char* what, EmuPlace place);
void* emu_shared(size_t bytes, size_t alignment, const char* name, EmuPlace place);
void emu_atomic_access(void* address, size_t bytes, EmuPlace place);    // checked mode only
// What a lane has of an instruction of the whole warp; counting mode only.
void emu_count_read(const void* address, size_t bytes, EmuPlace place);
void emu_count_product(unsigned flops, EmuPlace place);
[[noreturn]] void emu_stop(const char* why, EmuPlace place);
}
