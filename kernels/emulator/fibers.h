// fibers.h - a switch from one stack to another, for the two CPUs that the emulator knows.
//
// A CUDA thread is a fiber: a stack of its own that gives the CPU away only where it waits for
// other threads. The switch is inlined: as a function, all fibers would return through the same
// few addresses, and the CPU's guess of where a return leads would be wrong each time.
//
// A stack that is not running has on its top the frame pointer and the address to go on at. All
// other registers are named as clobbered, so the compiler saves those that it needs, and no others.
#pragma once
#include <cstdint>

#if !defined(__x86_64__) && !defined(__aarch64__)
#error "fibers.h: no context switch is written for this CPU; x86-64 and arm64 have one"
#endif

// Apple keeps this register for itself; on Linux it is one of the compiler's.
#if defined(__APPLE__)
#define EMU_X18
#else
#define EMU_X18 , "x18"
#endif

namespace emu {

// Keep the running stack in *save and go on with the stack `load`. Compile with -mno-red-zone on
// x86-64: the pushes would overwrite what a leaf function keeps below its stack pointer.
static inline __attribute__((always_inline)) void switch_stack(void** save, void* load) {
#if defined(__x86_64__)
    asm volatile(
        "leaq 1f(%%rip), %%rax\n\t"
        "pushq %%rax\n\t"
        "pushq %%rbp\n\t"
        "movq %%rsp, (%0)\n\t"
        "movq %1, %%rsp\n\t"
        "popq %%rbp\n\t"
        "popq %%rax\n\t"
        "jmpq *%%rax\n"
        "1:\n\t"
        : "+D"(save), "+S"(load)
        :
        : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
          "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
          "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "memory", "cc");
#else
    register void** x0 asm("x0") = save;
    register void* x1 asm("x1") = load;
    asm volatile(
        "adr x9, 1f\n\t"
        "stp x29, x9, [sp, #-16]!\n\t"
        "mov x10, sp\n\t"
        "str x10, [x0]\n\t"
        "mov sp, x1\n\t"
        "ldp x29, x9, [sp], #16\n\t"
        "br x9\n"
        "1:\n\t"
        : "+r"(x0), "+r"(x1)
        :
        : "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15",
          "x16", "x17", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x30",
          "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13",
          "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26",
          "v27", "v28", "v29", "v30", "v31", "memory", "cc" EMU_X18);
#endif
}

// What to give switch_stack to enter `entry`, which must never return, on an unused stack that
// ends at `end`.
inline void* fresh_stack(char* end, void (*entry)()) {
    void** top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(end) & ~uintptr_t(15));
#if defined(__x86_64__)
    *--top = nullptr;       // where a call would have left the return address
#endif
    *--top = reinterpret_cast<void*>(entry);
    *--top = nullptr;       // no frame above: debuggers stop here
    return top;
}

}  // namespace emu
