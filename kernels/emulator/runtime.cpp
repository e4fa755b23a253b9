// runtime.cpp - runs the threads of a kernel as fibers, one block after another.
//
// A thread runs until it waits: at __syncthreads for its block, at a warp primitive for the lanes
// in its mask. Which thread goes first is the caller's choice (forward, reverse, or shuffled from
// a seed): a kernel with a missing barrier tends to give another result in another order.
// Whatever goes wrong ends the launch with a message and leaves the process as it was.
#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

#include <cstdarg>
#include <cstdio>
#include <utility>

#include "fibers.h"
#include "memory.h"

struct uint3 { unsigned x, y, z; };
extern "C" {
uint3 threadIdx, blockIdx, blockDim, gridDim;
uint64_t emu_block_number;
int emu_in_atomic;
}

namespace emu {

constexpr int MAX_THREADS = 1024;
constexpr size_t STACK = 128 << 10, STACK_GUARD = PAGE;

enum State : uint8_t { NEW, READY, AT_BARRIER, AT_WARP, DONE };
struct Thread {
    void* stack_pointer;
    uint3 index;
    State state;
    int stack, line;
    const char* what;           // what it waits at
    unsigned mask, ballot;
    int source;                 // the lane whose value it wants
    uint64_t value, result;
};

// All that one launch needs. The emulator runs one at a time: Python holds its lock around it.
Thread threads[MAX_THREADS];
int n_threads, n_live, n_at_barrier;
int running;                    // its place in `threads`
unsigned warp_time[MAX_THREADS / 32];   // counts the warp primitives that a warp has passed
uint64_t block_time, block_start, launch_start;     // counts barriers and blocks
bool checked, reversed, shuffled;
uint64_t random_state;
char* stacks;
void* stack_tops[MAX_THREADS];
int free_stacks[MAX_THREADS], n_free_stacks;
void* scheduler_stack;
void (*kernel)(const char*);
alignas(16) char arguments[4096];         // the most that CUDA takes
size_t dynamic_bytes;
void* dynamic_shared;
SharedMemory shared_memory;

sigjmp_buf give_up;
char message[1024];
uintptr_t message_address;      // of the code at fault, or 0
int message_line;               // the same, where it is known already

// ---- messages ----

__attribute__((noreturn, format(printf, 3, 4)))
void fail(uintptr_t code, int line, const char* format, ...) {
    va_list values;
    va_start(values, format);
    vsnprintf(message, sizeof message, format, values);
    va_end(values);
    message_address = code, message_line = line;
    siglongjmp(give_up, 1);
}

struct Who { char text[96]; };
Who who(int thread) {
    Who w;
    uint3 t = threads[thread].index, b = blockIdx;
    snprintf(w.text, sizeof w.text, "block (%u, %u, %u), thread (%u, %u, %u)", b.x, b.y, b.z, t.x,
             t.y, t.z);
    return w;
}

// ---- threads ----

unsigned next_random() {        // xorshift64 (Marsaglia 2003)
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return unsigned(random_state >> 32);
}

void release_lanes(int warp, unsigned mask);

int lanes_of(int warp) { return n_threads - warp * 32 < 32 ? n_threads - warp * 32 : 32; }

// A fiber runs one thread after another: a stack is used again while it is still in the cache.
void fiber() {
    for (;;) {
        kernel(arguments);
        Thread& t = threads[running];
        t.state = DONE;
        n_live--;
        free_stacks[n_free_stacks++] = t.stack;
        int first = running & ~31;      // lanes may have waited for this one only
        for (int lane = 0; lane < lanes_of(running / 32); lane++)
            if (threads[first + lane].state == AT_WARP)
                release_lanes(running / 32, threads[first + lane].mask);
        switch_stack(&stack_tops[t.stack], scheduler_stack);
    }
}

void resume(int thread) {
    Thread& t = threads[thread];
    running = thread;
    threadIdx = t.index;
    if (t.state == NEW) {
        t.state = READY;
        t.stack = free_stacks[--n_free_stacks];
        switch_stack(&scheduler_stack, stack_tops[t.stack]);
    } else {
        switch_stack(&scheduler_stack, t.stack_pointer);
    }
}

void wait(State state, const char* what, int line) {
    Thread& t = threads[running];
    t.state = state, t.what = what, t.line = line;
    switch_stack(&t.stack_pointer, scheduler_stack);
}

// ---- warps ----

// Where all lanes of `mask` that still run have come: hand out values and let them go.
void release_lanes(int warp, unsigned mask) {
    Thread* lanes = threads + warp * 32;
    unsigned alive = 0, ballot = 0;
    const Thread* one = nullptr;
    for (int lane = 0; lane < lanes_of(warp); lane++) {
        const Thread& t = lanes[lane];
        if (!(mask >> lane & 1) || t.state == DONE) continue;
        if (t.state != AT_WARP) return;         // not there yet
        alive |= 1u << lane;
        if (t.value) ballot |= 1u << lane;
        if (one && (t.mask != one->mask || t.what != one->what || t.line != one->line))
            fail(0, t.line,
                 "the lanes of a warp disagree: %s waits at %s with mask 0x%08x, but another lane "
                 "at %s of line %d with mask 0x%08x: bring all lanes of a mask to one call",
                 who(warp * 32 + lane).text, t.what, t.mask, one->what, one->line, one->mask);
        one = &t;
    }
    warp_time[warp]++;
    for (int lane = 0; lane < lanes_of(warp); lane++) {
        if (!(alive >> lane & 1)) continue;
        Thread& t = lanes[lane];
        // The value of a lane that takes no part is undefined on a GPU: NaN here.
        bool there = t.source >= 0 && t.source < 32 && (alive >> t.source & 1);
        t.result = there ? lanes[t.source].value : ~uint64_t(0);
        t.ballot = ballot;
        t.state = READY;
    }
}

// ---- blocks ----

void release_barrier() {
    const Thread* one = nullptr;
    int line = 0;
    for (int i = 0; i < n_threads; i++)
        if (threads[i].state == AT_BARRIER) line = threads[i].line;
    for (int i = 0; i < n_threads; i++) {
        Thread& t = threads[i];
        if (t.state == DONE)
            fail(0, line,
                 "divergent barrier: %d of the block's %d threads ended without this __syncthreads "
                 "(%s among them): let every thread reach it", n_threads - n_live, n_threads,
                 who(i).text);
        if (one && t.line != one->line)
            fail(0, t.line,
                 "divergent barrier: %s waits at this __syncthreads, but other threads of the "
                 "block at the one of line %d: let every thread reach the same one", who(i).text,
                 one->line);
        one = &t;
        t.state = READY;
    }
    n_at_barrier = 0;
    block_time++;
}

void report_deadlock() {
    for (int i = 0; i < n_threads; i++)
        if (threads[i].state == AT_WARP)
            fail(0, threads[i].line,
                 "deadlock: %s waits at %s with mask 0x%08x for lanes that never come; %d threads "
                 "of its block wait at __syncthreads, %d have ended", who(i).text, threads[i].what,
                 threads[i].mask, n_at_barrier, n_threads - n_live);
    fail(0, 0, "deadlock in block (%u, %u, %u)", blockIdx.x, blockIdx.y, blockIdx.z);
}

void arrange(int* order, int n) {
    for (int i = 0; i < n; i++) order[i] = reversed ? n - 1 - i : i;
    for (int i = n - 1; shuffled && i > 0; i--)
        std::swap(order[i], order[next_random() % unsigned(i + 1)]);
}

// Run the lanes of a warp until each has ended or waits for another warp.
void run_warp(int warp) {
    int order[32], n = lanes_of(warp);
    for (bool ran = true; ran;) {
        ran = false;
        arrange(order, n);
        for (int i = 0; i < n; i++) {
            int thread = warp * 32 + order[i];
            if (threads[thread].state <= READY) {
                resume(thread);
                ran = true;
            }
        }
    }
}

void run_block() {
    int order[MAX_THREADS / 32], n_warps = (n_threads + 31) / 32;
    for (int i = 0; i < n_threads; i++) threads[i].state = NEW;
    n_live = n_threads, n_at_barrier = 0;
    emu_block_number++;
    block_start = ++block_time;
    shared_memory.reset();
    dynamic_shared = shared_memory.add(dynamic_bytes, 16, "dynamic shared memory");
    while (n_live) {
        arrange(order, n_warps);
        for (int i = 0; i < n_warps; i++) run_warp(order[i]);
        if (n_at_barrier && n_at_barrier == n_live) release_barrier();
        else if (n_live) report_deadlock();
    }
}

void set_block(uint64_t number) {
    blockIdx = {unsigned(number % gridDim.x), unsigned(number / gridDim.x % gridDim.y),
                unsigned(number / (uint64_t(gridDim.x) * gridDim.y))};
}

bool prepare_stacks() {
    size_t each = STACK + STACK_GUARD;
    if (!stacks) {
        stacks = map_pages(MAX_THREADS * each);
        if (!stacks) return false;
        for (int i = 0; i < MAX_THREADS; i++) mprotect(stacks + i * each, STACK_GUARD, PROT_NONE);
    }
    n_free_stacks = n_threads;
    for (int i = 0; i < n_threads; i++) {
        stack_tops[i] = fresh_stack(stacks + (i + 1) * each, fiber);
        free_stacks[n_threads - 1 - i] = i;
    }
    return true;
}

}  // namespace emu

#include "checks.h"

extern "C" {

void emu_syncthreads(int line) {
    emu::n_at_barrier++;
    emu::wait(emu::AT_BARRIER, "__syncthreads", line);
}

int emu_lane() { return emu::running % 32; }

uint64_t emu_warp(unsigned mask, uint64_t value, int source, const char* what, int line,
                  unsigned* ballot) {
    using namespace emu;
    Thread& t = threads[running];
    if (!(mask >> (running % 32) & 1))
        fail(0, line, "%s: %s calls with mask 0x%08x, in which its own lane %d is missing", what,
             who(running).text, mask, running % 32);
    t.mask = mask, t.value = value, t.source = source;
    t.state = AT_WARP, t.what = what, t.line = line;
    release_lanes(running / 32, mask);
    if (t.state == AT_WARP) switch_stack(&t.stack_pointer, scheduler_stack);
    if (ballot) *ballot = t.ballot;
    return t.result;
}

void* emu_shared(size_t bytes, size_t alignment, const char* name, int line) {
    void* address = emu::shared_memory.add(bytes, alignment, name);
    if (!address)
        emu::fail(0, line, "shared memory: '%s' of %zu bytes beside the %zu in use is over a "
                  "block's %zu bytes or %zu variables: use smaller tiles", name, bytes,
                  emu::shared_memory.bytes, emu::SHARED_LIMIT, emu::SHARED_VARIABLES);
    return address;
}

void* emu_dynamic_shared() { return emu::dynamic_shared; }

void* emu_malloc(size_t bytes) { return reinterpret_cast<void*>(emu::new_array(bytes)); }

void emu_free(void* address) {
    emu::Array* array = emu::array_at(reinterpret_cast<uintptr_t>(address));
    if (!array) return;
    char* map = array->map;
    munmap(map, array->map_bytes);
    emu::arrays().erase(reinterpret_cast<uintptr_t>(map));
}

// From the host, and from one address of the device to another: what was not written stays so.
void emu_write(void* to, const void* from, size_t bytes) {
    memcpy(to, from, bytes);
    memset(emu::notes_at(to), emu::WRITTEN, bytes);
}

void emu_copy(void* to, const void* from, size_t bytes) {
    memcpy(to, from, bytes);
    memcpy(emu::notes_at(to), emu::notes_at(from), bytes);
}

const char* emu_message() { return emu::message; }
uintptr_t emu_message_address() { return emu::message_address; }
int emu_message_line() { return emu::message_line; }

// 0, or 1 with emu_message. Limits on the sizes were checked in launch.py. `order`: 0 forward,
// 1 reverse, 2 shuffled by `seed`; `module` is any address in the kernel's library.
int emu_launch(void (*kernel)(const char*), const char* arguments, size_t argument_bytes,
               const unsigned* grid, const unsigned* block, size_t dynamic_bytes, int order,
               uint64_t seed, int checked, void* module) {
    using namespace emu;
    message[0] = 0, message_address = 0, message_line = 0;
    emu::kernel = kernel, emu::dynamic_bytes = dynamic_bytes, emu::checked = checked != 0;
    if (argument_bytes > sizeof emu::arguments) {
        snprintf(message, sizeof message, "%zu bytes of arguments, and a kernel takes at most %zu",
                 argument_bytes, sizeof emu::arguments);
        return 1;
    }
    memcpy(emu::arguments, arguments, argument_bytes);
    blockDim = {block[0], block[1], block[2]}, gridDim = {grid[0], grid[1], grid[2]};
    n_threads = int(block[0] * block[1] * block[2]);
    if (!shared_memory.space) shared_memory.space = map_pages(SHARED_SPACE);
    if (!shared_memory.space || !prepare_stacks() || !prepare_checks(module)) {
        snprintf(message, sizeof message, "no memory for the threads' stacks (%zu bytes) or for "
                 "what the checks note", MAX_THREADS * (STACK + STACK_GUARD));
        return 2;
    }
    for (int i = 0; i < n_threads; i++) {
        unsigned u = unsigned(i);
        threads[i].index = {u % block[0], u / block[0] % block[1], u / (block[0] * block[1])};
    }
    reversed = order == 1, shuffled = order == 2;
    random_state = (seed + 1) * 0x9E3779B97F4A7C15ull | 1;
    emu_in_atomic = 0;
    launch_start = ++block_time;
    Faults faults;
    volatile int failed = 1;
    if (!sigsetjmp(give_up, 1)) {
        uint64_t blocks = uint64_t(grid[0]) * grid[1] * grid[2];
        for (uint64_t i = 0; i < blocks; i++) {
            set_block(reversed ? blocks - 1 - i : i);
            run_block();
        }
        failed = 0;
    }
    faults.restore();
    return failed;
}

}  // extern "C"
