// checks.h - what the checked mode looks at on each access to memory.
//
// A checked kernel is compiled with -fsanitize=thread, which puts a call before every access:
// __tsan_read4(address) and so on. They come here, not to the sanitizer's own library; so do the
// calls of -fsanitize=alignment and its like, at the end.
#pragma once
#include <dlfcn.h>

#include "counts.h"
#include "scheduler.h"

namespace emu {

enum Kind : uint8_t { READ, WRITE, ATOMIC_CHANGE };
struct Access {
    uintptr_t address;
    size_t size;
    Kind kind;
    uintptr_t code;             // where it is done: an address in the code, or a place
    EmuPlace place;
    bool anywhere;              // the compiler means it to work at any address
    const char* verb() const {
        return kind == READ ? "reads" : kind == WRITE ? "writes" : "atomically changes";
    }
};

[[noreturn]] __attribute__((format(printf, 3, 4)))
inline void report(Worker& w, const Access& a, const char* format, ...) {
    va_list values;
    va_start(values, format);
    w.vfail(a.code, a.place, format, values);
}

[[noreturn]] inline void report_outside(Worker& w, const Access& a) {
    Worker::Who who = w.who();
    if (w.shared.contains(a.address)) {
        const SharedVariable* v = w.shared.nearest(a.address);
        if (!v) report(w, a, "out of bounds: %s %s %zu bytes before the first shared variable",
                       who.text, a.verb(), a.size);
        report(w, a, "out of bounds: %s %s %zu bytes at byte %td of the shared variable '%s', "
               "which has %zu bytes", who.text, a.verb(), a.size, ptrdiff_t(a.address - v->low),
               v->name, size_t(v->high - v->low));
    }
    if (Array* array = array_at(a.address))
        report(w, a, "out of bounds: %s %s %zu bytes at byte %td of an array of %zu bytes",
               who.text, a.verb(), a.size, ptrdiff_t(a.address - array->low), array->bytes());
    report(w, a, "out of bounds: %s %s %zu bytes at address 0x%zx, which is in no array",
           who.text, a.verb(), a.size, size_t(a.address));
}

[[noreturn]] inline void report_race(Worker& w, const Access& a, const char* what, int other,
                                     bool other_block, bool shared) {
    uint3 t = w.threads[other].index;
    if (other_block)
        report(w, a, "race: %s %s that a thread of another block touched in this launch: blocks "
               "have no order, use an atomic operation or another launch", w.who().text, what);
    report(w, a, "race: %s %s in %s memory that thread (%u, %u, %u) touched since the last "
           "barrier: a __syncthreads, a __syncwarp or an atomic operation is missing",
           w.who().text, what, shared ? "shared" : "global", t.x, t.y, t.z);
}

// ---- the order of accesses ----

enum Conflict { NONE, IN_BLOCK, BETWEEN_BLOCKS };

// An earlier access, by a thread at these times, against one of the running thread now.
inline Conflict conflict(const Worker& w, uint64_t time, int thread, unsigned warp_time,
                         bool shared) {
    if (time < w.block_start)
        return !shared && time >= w.launch_start && time > w.acquired ? BETWEEN_BLOCKS : NONE;
    bool before = time < w.block_time || thread == w.thread ||
                  (thread / 32 == w.thread / 32 && warp_time < w.warps[thread / 32].time);
    return before ? NONE : IN_BLOCK;
}

// Of many readers since the last barrier the last one stands for all, with how many there were.
inline void note_reader(const Worker& w, Cell& c) {
    unsigned now = w.warps[w.thread / 32].time;
    bool same_warp = c.read_thread / 32 == w.thread / 32;
    if (c.read_time != w.block_time) c.readers = ONE;
    else if (!same_warp || c.readers == SEVERAL_WARPS) c.readers = SEVERAL_WARPS;
    else if (c.read_warp_time < now) c.readers = ONE;   // the warp has met since: those are done
    else if (c.read_thread != w.thread) c.readers = SEVERAL_LANES;
    c.read_time = w.block_time, c.read_thread = uint16_t(w.thread), c.read_warp_time = now;
}

// "Fence, then take a ticket by an atomic operation": whoever takes a later one sees what came
// before this one, also what other blocks did.
inline void acquire(Worker& w, uint64_t released) {
    if (released > w.acquired && released >= w.launch_start && released < w.block_start)
        w.acquired = released;
}

inline void check_order(Worker& w, Cell& c, const Access& a, bool shared) {
    bool atomic = a.kind == ATOMIC_CHANGE;
    unsigned now = w.warps[w.thread / 32].time;
    if (atomic && c.write_atomic == ATOMIC_AFTER_FENCE) acquire(w, c.write_time);
    if (c.write_time && !(atomic && c.write_atomic != PLAIN))
        if (Conflict kind = conflict(w, c.write_time, c.write_thread, c.write_warp_time, shared))
            report_race(w, a, a.kind == READ ? "reads a value" : "writes a value", c.write_thread,
                        kind == BETWEEN_BLOCKS, shared);
    if (a.kind == READ) {
        note_reader(w, c);
        return;
    }
    if (c.read_time) {
        Conflict kind = conflict(w, c.read_time, c.read_thread, c.read_warp_time, shared);
        if (kind == NONE && c.read_time == w.block_time &&
            (c.readers == SEVERAL_WARPS ||
             (c.readers == SEVERAL_LANES && c.read_warp_time == now)))
            kind = IN_BLOCK;
        if (kind) report_race(w, a, "overwrites a value", c.read_thread, kind == BETWEEN_BLOCKS,
                              shared);
    }
    c.write_time = w.block_time, c.write_thread = uint16_t(w.thread), c.write_warp_time = now;
    c.write_atomic = !atomic ? PLAIN : w.fence ? ATOMIC_AFTER_FENCE : ATOMIC;
}

// ---- one access ----

// While this lives, a lock of the system's may be held: Ctrl-C ends the launch only after it.
struct Busy {
    Worker& w;
    explicit Busy(Worker& w) : w(w) { w.busy = true; }
    ~Busy() {
        w.busy = false;
        if (w.interrupted) w.fail({nullptr, 0}, "interrupted: %s", w.who().text);
    }
};

// Variables of the kernel's file itself, as `__constant__` ones are, need no check.
inline bool in_kernel_file(Worker& w, uintptr_t address) {
    static uintptr_t known[64];         // pages found to be so
    uintptr_t page = address >> 12, &slot = known[page % 64];
    if (slot == page) return true;
    Busy busy(w);
    Dl_info there, kernel;
    if (!dladdr(reinterpret_cast<void*>(address), &there) ||
        !dladdr(reinterpret_cast<void*>(w.launch->kernel), &kernel) ||
        there.dli_fbase != kernel.dli_fbase)
        return false;
    slot = page;
    return true;
}

// ---- the counting mode ----

[[noreturn]] inline void report_uncountable(Worker& w) {
    w.fail({nullptr, 0}, "too much to count: %s has more than %zu accesses of its warp between two "
           "points where all lanes meet, or the system refused the memory: count a smaller shape",
           w.who().text, MOST_PENDING);
}

inline void count_access(Worker& w, const Access& a) {
    bool shared = w.shared.contains(a.address);
    if (!shared) {
        if (a.address - reinterpret_cast<uintptr_t>(&w) < EMU_REGION) return;       // local
        Array* array = w.last_array;
        if (!array || a.address - array->low >= array->bytes()) array = array_at(a.address);
        if (!array) return;             // a variable of the file, or a fault that is to come
        w.last_array = array;
    }
    bool fits = false;
    try {
        Busy busy(w);
        fits = counter().access(w, a.code, a.place,
                                Counted((shared ? SHARED_READ : GLOBAL_READ) + a.kind), a.address,
                                a.size);
    } catch (const std::bad_alloc&) {
    }
    if (!fits) report_uncountable(w);
}

inline void count_visit(uintptr_t code) {
    if (!counter().running) return;
    Worker& w = *static_cast<Worker*>(emu_worker());
    bool fits = false;
    try {
        Busy busy(w);
        counter().visit(w, code);
        fits = true;
    } catch (const std::bad_alloc&) {
    }
    if (!fits) report_uncountable(w);
}

inline void count_product(EmuPlace place, unsigned flops) {
    Worker& w = *static_cast<Worker*>(emu_worker());
    bool fits = false;
    try {
        Busy busy(w);
        counter().product(w, place, flops);
        fits = true;
    } catch (const std::bad_alloc&) {
    }
    if (!fits) report_uncountable(w);
}

inline void check_access(const Access& a) {
    EmuWorker* base = emu_worker();
    Worker& w = *static_cast<Worker*>(base);
    if (w.launch->counted) {
        count_access(w, a);
        return;
    }
    uint8_t* notes;
    Cells* cells;
    size_t offset;
    bool shared = w.shared.contains(a.address);
    if (shared) {
        offset = a.address - reinterpret_cast<uintptr_t>(w.shared.space);
        if (offset + a.size > SHARED_SPACE) report_outside(w, a);
        notes = w.shared.notes, cells = &w.shared.cells;
    } else {
        if (a.address - reinterpret_cast<uintptr_t>(base) < EMU_REGION) return;     // local
        Array* array = w.last_array;    // most accesses go to the array of the one before
        if (!array || a.address - array->low >= array->bytes()) {
            array = array_at(a.address);
            if (!array && in_kernel_file(w, a.address)) {
                if (a.kind != ATOMIC_CHANGE) return;
                acquire(w, w.released);
                if (w.fence) w.released = w.block_time;
                return;
            }
            if (!array || a.address < array->low || a.address >= array->high)
                report_outside(w, a);
            w.last_array = array;
        }
        if (a.address + a.size > array->high) report_outside(w, a);
        offset = a.address - array->low;
        notes = array->notes.data(), cells = &array->cells;
    }
    if (!a.anywhere && a.size <= 16 && a.address % a.size)
        report(w, a, "misaligned: %s %s %zu bytes at an address that is not a multiple of %zu",
               w.who().text, a.verb(), a.size, a.size);
    for (size_t i = offset; i < offset + a.size; i++) {
        if (notes[i] == NOWHERE) report_outside(w, a);
        if (a.kind != WRITE && notes[i] == UNINITIALISED)
            report(w, a, "uninitialised: %s %s %zu bytes of %s memory that nobody has written",
                   w.who().text, a.verb(), a.size, shared ? "shared" : "global");
        if (a.kind != WRITE && notes[i] == UNLANDED)
            report(w, a, "unlanded: %s %s %zu bytes of shared memory that an asynchronous copy has "
                   "yet to fill: the thread that began it has to wait for it, before a barrier",
                   w.who().text, a.verb(), a.size);
        if (a.kind != READ) notes[i] = WRITTEN;
    }
    if (a.size < cells->unit) {
        try {
            Busy busy(w);
            cells->refine(a.size);
        } catch (const std::bad_alloc&) {
            report(w, a, "the system refused the memory for what the checks note of single bytes");
        }
    }
    for (size_t i = offset / cells->unit; i * cells->unit < offset + a.size; i++)
        check_order(w, cells->cells[i], a, shared);
}

inline bool prepare_checks(Worker& w) {             // false: no memory
    w.last_array = nullptr;
    try {
        if (w.shared.cells.cells.empty()) w.shared.cells.resize(SHARED_SPACE);
        for (auto& entry : arrays()) {
            Array& array = entry.second;
            if (array.cells.cells.empty() && !array.notes.empty())
                array.cells.resize(array.bytes());
        }
    } catch (const std::bad_alloc&) {
        return false;
    }
    return true;
}

// What -fsanitize=alignment, bounds and others tell. The layouts are libubsan's.
struct Location { const char* file; unsigned line, column; };
struct Type { uint16_t kind, info; char name[1]; };

[[noreturn]] __attribute__((format(printf, 2, 3)))
inline void undefined(const Location& l, const char* format, ...) {
    va_list values;
    va_start(values, format);
    static_cast<Worker*>(emu_worker())->vfail(0, {l.file, int(l.line)}, format, values);
}
inline Worker::Who who() { return static_cast<Worker*>(emu_worker())->who(); }

}  // namespace emu

#define CODE reinterpret_cast<uintptr_t>(__builtin_return_address(0))
#define HOOK(name, n, kind, anywhere) \
    void __tsan_##name(uintptr_t a) { emu::check_access({a, n, emu::kind, CODE, {}, anywhere}); }
#define HOOKS(n) \
    HOOK(read##n, n, READ, false) \
    HOOK(write##n, n, WRITE, false) \
    HOOK(unaligned_read##n, n, READ, true) \
    HOOK(unaligned_write##n, n, WRITE, true)
#define RANGE_HOOK(name, kind) \
    void __tsan_##name(uintptr_t a, size_t n) { \
        emu::check_access({a, n, emu::kind, CODE, {}, true}); \
    }
#define OVERFLOW_HOOK(name, what) \
    void __ubsan_handle_##name(const emu::Location* l, uintptr_t, uintptr_t) { \
        emu::undefined(*l, "overflow: %s %s", emu::who().text, what); \
    }
extern "C" {
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16)
RANGE_HOOK(read_range, READ)
RANGE_HOOK(write_range, WRITE)
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
void __sanitizer_cov_trace_pc() { emu::count_visit(CODE); }

// A vector that the compiler stores in parts is seen here only.
struct Mismatch { emu::Location location; emu::Type* type; uint8_t log_alignment; };
void __ubsan_handle_type_mismatch_v1(const Mismatch* m, uintptr_t) {
    emu::undefined(m->location, "misaligned: %s uses an address that is not a multiple of %u",
                   emu::who().text, 1u << m->log_alignment);
}
struct Bounds { emu::Location location; emu::Type *array, *index; };
void __ubsan_handle_out_of_bounds(const Bounds* b, intptr_t index) {
    emu::undefined(b->location, "out of bounds: %s uses index %td of an array of type %s",
                   emu::who().text, ptrdiff_t(index), b->array->name);
}
OVERFLOW_HOOK(add_overflow, "adds signed integers whose sum does not fit their type")
OVERFLOW_HOOK(sub_overflow, "subtracts signed integers whose difference does not fit their type")
OVERFLOW_HOOK(mul_overflow, "multiplies signed integers whose product does not fit their type")
OVERFLOW_HOOK(negate_overflow, "negates a signed integer that is its type's lowest")
OVERFLOW_HOOK(shift_out_of_bounds, "shifts an integer by more than its bits, or by less than 0")
OVERFLOW_HOOK(divrem_overflow, "divides integers by zero, or the lowest by -1")
}
#undef OVERFLOW_HOOK
#undef RANGE_HOOK
#undef HOOKS
#undef HOOK
#undef CODE
