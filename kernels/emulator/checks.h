// checks.h - what the checked mode looks at on each access, and what a fault of the CPU means.
//
// A checked kernel is compiled with -fsanitize=thread, which puts a call before every access to
// memory: __tsan_read4(address) and so on. They come here, not to the sanitizer's own library.
// Part of runtime.cpp, and needs its names.
#pragma once
#include <dlfcn.h>
#include <link.h>

namespace emu {

struct Range { uintptr_t low, high; };
Range own_data[2];              // of the kernel's library and of this one

bool in(Range r, uintptr_t address) { return address - r.low < r.high - r.low; }

int find_library(dl_phdr_info* info, size_t, void* wanted) {
    uintptr_t address = *static_cast<uintptr_t*>(wanted);
    Range r{UINTPTR_MAX, 0};
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const auto& segment = info->dlpi_phdr[i];
        if (segment.p_type != PT_LOAD) continue;
        uintptr_t low = info->dlpi_addr + segment.p_vaddr, high = low + segment.p_memsz;
        if (low < r.low) r.low = low;
        if (high > r.high) r.high = high;
    }
    if (!in(r, address)) return 0;
    (address == reinterpret_cast<uintptr_t>(&threadIdx) ? own_data[1] : own_data[0]) = r;
    return 1;
}

bool prepare_checks(void* module) {
    if (!checked) return true;
    uintptr_t mine = reinterpret_cast<uintptr_t>(&threadIdx);
    uintptr_t theirs = reinterpret_cast<uintptr_t>(module);
    dl_iterate_phdr(find_library, &mine);
    dl_iterate_phdr(find_library, &theirs);
    try {
        for (auto& entry : arrays()) {
            Array& array = entry.second;
            if (array.cells.empty()) array.cells.resize(array.notes.size() / 4 + 2);
        }
    } catch (const std::bad_alloc&) {
        return false;
    }
    return true;
}

// ---- one access ----

__attribute__((noreturn))
void report_outside(uintptr_t code, uintptr_t address, size_t size, bool write) {
    const char* verb = write ? "writes" : "reads";
    if (shared_memory.contains(address)) {
        const SharedVariable* v = shared_memory.nearest(address);
        if (!v) fail(code, 0, "out of bounds: %s %s %zu bytes before the first shared variable",
                     who(running).text, verb, size);
        fail(code, 0, "out of bounds: %s %s %zu bytes at byte %td of the shared variable '%s', "
             "which has %zu bytes", who(running).text, verb, size, ptrdiff_t(address - v->low),
             v->name, size_t(v->high - v->low));
    }
    if (Array* array = array_at(address))
        fail(code, 0, "out of bounds: %s %s %zu bytes at byte %td of an array of %zu bytes",
             who(running).text, verb, size, ptrdiff_t(address - array->low), array->notes.size());
    fail(code, 0, "out of bounds: %s %s %zu bytes at address 0x%zx, which is in no array",
         who(running).text, verb, size, size_t(address));
}

// Did thread `other`, at its times, come before what the running thread does now?
bool came_before(int other, uint64_t time, unsigned its_warp_time) {
    return time < block_time || other == running ||
           (other / 32 == running / 32 && its_warp_time < warp_time[running / 32]);
}

__attribute__((noreturn))
void report_race(uintptr_t code, const char* what, int other, bool other_block, bool shared) {
    uint3 t = threads[other].index;
    if (other_block)
        fail(code, 0, "race: %s %s that a thread of another block touched in this launch: blocks "
             "have no order, use an atomic operation or another launch", who(running).text, what);
    fail(code, 0, "race: %s %s in %s memory that thread (%u, %u, %u) touched since the last "
         "barrier: a __syncthreads, a __syncwarp or an atomic operation is missing",
         who(running).text, what, shared ? "shared" : "global", t.x, t.y, t.z);
}

// An earlier access against this one: 0 in order, 1 a race in the block, 2 between blocks.
int conflict(uint64_t time, int thread, unsigned its_warp_time, bool shared) {
    if (time >= block_start) return came_before(thread, time, its_warp_time) ? 0 : 1;
    return !shared && time >= launch_start ? 2 : 0;
}

// Of many readers since the last barrier the last one stands for all, with how many there were.
void note_reader(Cell& c) {
    unsigned now = warp_time[running / 32];
    bool same_warp = c.read_thread / 32 == running / 32;
    if (c.read_time != block_time) c.readers = ONE;
    else if (!same_warp || c.readers == SEVERAL_WARPS) c.readers = SEVERAL_WARPS;
    else if (c.read_warp_time < now) c.readers = ONE;   // the warp has met since: those are done
    else if (c.read_thread != running) c.readers = SEVERAL_LANES;
    c.read_time = block_time, c.read_thread = uint16_t(running), c.read_warp_time = now;
}

void check_order(Cell& c, uintptr_t code, bool write, bool shared) {
    bool atomic = emu_in_atomic;
    if (c.write_time && !(atomic && c.write_atomic))
        if (int kind = conflict(c.write_time, c.write_thread, c.write_warp_time, shared))
            report_race(code, write ? "writes a value" : "reads a value", c.write_thread,
                        kind == 2, shared);
    if (!write) {
        if (!atomic) note_reader(c);    // the atomic's own read is noted by its write
        return;
    }
    if (c.read_time) {
        int kind = conflict(c.read_time, c.read_thread, c.read_warp_time, shared);
        if (kind == 0 && c.read_time == block_time &&
            (c.readers == SEVERAL_WARPS ||
             (c.readers == SEVERAL_LANES && c.read_warp_time == warp_time[running / 32])))
            kind = 1;
        if (kind) report_race(code, "overwrites a value", c.read_thread, kind == 2, shared);
    }
    c.write_time = block_time, c.write_thread = uint16_t(running);
    c.write_warp_time = warp_time[running / 32], c.write_atomic = atomic;
}

void check_access(uintptr_t address, size_t size, bool write, uintptr_t code) {
    uintptr_t first_stack = reinterpret_cast<uintptr_t>(stacks);
    if (!checked || address - first_stack < MAX_THREADS * (STACK + STACK_GUARD)) return;
    uint8_t* notes;
    Cell* cells;
    bool shared = shared_memory.contains(address);
    if (shared) {
        size_t offset = address - reinterpret_cast<uintptr_t>(shared_memory.space);
        if (offset + size > SHARED_SPACE) report_outside(code, address, size, write);
        notes = shared_memory.notes + offset, cells = shared_memory.cells + offset / 4;
    } else {
        static Array* last;     // most accesses go to the array of the one before
        static uint64_t last_launch;
        if (last_launch != launch_start || address - last->low >= last->high - last->low) {
            Array* array = array_at(address);
            if (!array && (in(own_data[0], address) || in(own_data[1], address))) return;
            if (!array || address < array->low || address >= array->high)
                report_outside(code, address, size, write);
            last = array, last_launch = launch_start;
        }
        if (address + size > last->high) report_outside(code, address, size, write);
        notes = last->notes.data() + (address - last->low);
        cells = last->cells.data() + (address - last->low) / 4;
    }
    if (size <= 16 && address % size)
        fail(code, 0, "misaligned: %s %s %zu bytes at an address that is not a multiple of %zu",
             who(running).text, write ? "writes" : "reads", size, size);
    for (size_t i = 0; i < size; i++) {
        if (notes[i] == NOWHERE) report_outside(code, address, size, write);
        if (write) notes[i] = WRITTEN;
        else if (notes[i] == UNINITIALISED)
            fail(code, 0, "uninitialised: %s reads %zu bytes of %s memory that nobody has written",
                 who(running).text, size, shared ? "shared" : "global");
    }
    for (size_t i = 0; i < (size + 3) / 4; i++) check_order(cells[i], code, write, shared);
}

// ---- faults ----

void on_fault(int signal, siginfo_t* info, void* context) {
    const auto& machine = static_cast<ucontext_t*>(context)->uc_mcontext;
#if defined(__x86_64__)
    uintptr_t code = uintptr_t(machine.gregs[REG_RIP]) + 1;
#else
    uintptr_t code = uintptr_t(machine.pc) + 1;
#endif
    if (signal == SIGFPE) fail(code, 0, "integer division by zero: %s", who(running).text);
    uintptr_t address = reinterpret_cast<uintptr_t>(info->si_addr);
    if (info->si_code == SI_KERNEL || signal == SIGBUS)
        fail(code, 0, "misaligned: %s reads or writes a vector at an address that is not a "
             "multiple of its size, or at none at all", who(running).text);
    uintptr_t own_stack = reinterpret_cast<uintptr_t>(stacks) +
                          size_t(threads[running].stack) * (STACK + STACK_GUARD);
    if (address - own_stack < STACK_GUARD)
        fail(code, 0, "stack overflow: %s has more than %zu bytes of local variables",
             who(running).text, STACK);
    if (Array* array = array_at(address))
        fail(code, 0, "out of bounds: %s touches byte %td of an array of %zu bytes",
             who(running).text, ptrdiff_t(address - array->low), array->notes.size());
    fail(code, 0, "out of bounds: %s touches address 0x%zx, which is in no array",
         who(running).text, size_t(address));
}

// Our handlers for the time of a launch, on a stack of their own: the thread's may be full.
struct Faults {
    struct sigaction segv, bus, fpe;
    stack_t stack;
    Faults() {
        static char handler_stack[64 << 10];
        stack_t ours{};
        ours.ss_sp = handler_stack, ours.ss_size = sizeof handler_stack;
        sigaltstack(&ours, &stack);
        struct sigaction action{};
        action.sa_sigaction = on_fault, action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigaction(SIGSEGV, &action, &segv);
        sigaction(SIGBUS, &action, &bus);
        sigaction(SIGFPE, &action, &fpe);
    }
    void restore() {
        sigaction(SIGSEGV, &segv, nullptr);
        sigaction(SIGBUS, &bus, nullptr);
        sigaction(SIGFPE, &fpe, nullptr);
        sigaltstack(&stack, nullptr);
    }
};

}  // namespace emu

#define CODE reinterpret_cast<uintptr_t>(__builtin_return_address(0))
#define HOOKS(n) \
    void __tsan_read##n(uintptr_t a) { emu::check_access(a, n, false, CODE); } \
    void __tsan_write##n(uintptr_t a) { emu::check_access(a, n, true, CODE); } \
    void __tsan_unaligned_read##n(uintptr_t a) { emu::check_access(a, n, false, CODE); } \
    void __tsan_unaligned_write##n(uintptr_t a) { emu::check_access(a, n, true, CODE); }
extern "C" {
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16)
void __tsan_read_range(uintptr_t a, size_t n) { emu::check_access(a, n, false, CODE); }
void __tsan_write_range(uintptr_t a, size_t n) { emu::check_access(a, n, true, CODE); }
// -fsanitize=alignment: a vector that the compiler stores in parts is seen here only. The layout
// of the first argument is that of libubsan's TypeMismatchData, version 1.
struct Mismatch { const char* file; unsigned line, column; void* type; uint8_t log_alignment; };
void __ubsan_handle_type_mismatch_v1(const Mismatch* m, uintptr_t) {
    emu::fail(0, int(m->line), "misaligned: %s uses an address that is not a multiple of %u",
              emu::who(emu::running).text, 1u << m->log_alignment);
}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
#undef HOOKS
#undef CODE
