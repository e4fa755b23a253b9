// scheduler.h - one worker: runs the threads of a block as fibers.
//
// A thread runs until it waits: at __syncthreads for its block, at a warp primitive for the lanes
// in its mask. Which one goes first is the caller's choice (forward, reverse, or shuffled from a
// seed): a kernel with a missing barrier tends to give another result in another order.
//
// A thread that ends makes room for the next on the very same stack, without a switch: a kernel
// whose threads never wait runs as a loop of calls.
#pragma once
#include <setjmp.h>

#include <cstdarg>
#include <cstdio>
#include <utility>

#include "fibers.h"
#include "memory.h"
#include "worker.h"

namespace emu {

constexpr size_t STACK = 128 << 10;                 // bytes of local variables of a thread
constexpr int WARPS = EMU_MAX_THREADS / 32;
enum Order { FORWARD, REVERSE, SHUFFLED };

// What all workers of a launch share.
struct Launch {
    void (*kernel)(const char*);
    const char* arguments;
    uint3 grid, block;
    size_t dynamic_bytes;
    uint64_t seed;
    Order order;
    bool checked, counted;
    int workers;
    uint64_t blocks;
    alignas(64) uint64_t next_block;    // what all write lies apart from what they read
    bool stop;                          // a worker has failed
};

struct Thread {
    void* stack_pointer;                // while it waits
    void* brought;                      // to a warp primitive
    EmuTogether together;
    const char* what;                   // it waits at
    EmuPlace place;
    unsigned mask;
    uint3 index;
    int stack;
};

struct Warp {                           // a bit for each lane
    unsigned ready, fresh, at_warp, at_barrier, ended;
    unsigned time;                      // counts the primitives that it has passed
    unsigned meetings;                  // those of them with all lanes that had not ended
    int lanes;
};

constexpr int COPIES = 64;              // that a thread may have on their way
struct Copy { char* to; char data[16]; int size; unsigned group; };
struct Copies {                         // of a thread: cp.async
    int count;
    unsigned group;                     // of the next one: how many groups have been committed
    Copy list[COPIES];
};

struct Worker : EmuWorker {
    const Launch* launch;
    Thread threads[EMU_MAX_THREADS];
    Warp warps[WARPS];
    int n_threads, n_warps, n_live, n_at_barrier;
    int n_true, barrier_true;           // the votes of __syncthreads_count and its like
    uint3 block_size;                   // that the threads' indices were made for
    uint64_t block_time, block_start, launch_start; // counts barriers and blocks
    uint64_t acquired;                  // other blocks' doings up to this time come before
    uint64_t released;                  // by a fence and an atomic on a variable of the file
    uint64_t block_in_grid;

    int warp_order[WARPS], lane_order[32], warp_at, lane_at;    // the walk over the threads
    uint64_t random_state;

    int n_stacks, n_free;
    void* stack_tops[EMU_MAX_THREADS];  // of the fibers at rest
    int free_stacks[EMU_MAX_THREADS];
    void* scheduler_stack;
    SharedMemory shared;
    Copies copies[EMU_MAX_THREADS];
    Array* last_array;                  // that the checks found
    bool interrupted;
    int signal;                         // that ended the launch, or 0
    volatile bool busy;                 // in the system's libraries: Ctrl-C has to wait

    sigjmp_buf give_up;
    char message[1024];
    uintptr_t message_code;             // address of the code at fault, or 0
    EmuPlace message_place;             // the same, where it is known already

    // ---- stacks ----

    char* stack_end(int i) {
        size_t first = (sizeof(Worker) + GUARD - 1) / GUARD * GUARD;
        static_assert((sizeof(Worker) + GUARD) + EMU_MAX_THREADS * (STACK + GUARD) < EMU_REGION,
                      "the stacks fit into the worker's region");
        return reinterpret_cast<char*>(this) + first + size_t(i + 1) * (STACK + GUARD);
    }
    static void fiber();
    void fresh(int i) {
        // Not all at the same offset in their pages: the CPU's caches keep few of such lines.
        stack_tops[i] = fresh_stack(stack_end(i) - i % 61 * 64, fiber);
    }
    bool prepare_stacks(int wanted) {   // false: the system has no memory for them
        for (; n_stacks < wanted; n_stacks++) {
            if (mprotect(stack_end(n_stacks) - STACK, STACK, PROT_READ | PROT_WRITE)) return false;
            fresh(n_stacks);
            free_stacks[n_free++] = n_stacks;
        }
        return true;
    }
    void abandon_stacks() {             // after a failure fibers stand somewhere in the kernel
        n_free = 0;
        for (int i = n_stacks - 1; i >= 0; i--) {
            fresh(i);
            free_stacks[n_free++] = i;
        }
    }

    // ---- failures ----

    [[noreturn]] void vfail(uintptr_t code, EmuPlace place, const char* format, va_list values) {
        vsnprintf(message, sizeof message, format, values);
        message_code = code, message_place = place;
        siglongjmp(give_up, 1);
    }
    [[noreturn]] __attribute__((format(printf, 3, 4)))
    void fail(EmuPlace place, const char* format, ...) {
        va_list values;
        va_start(values, format);
        vfail(0, place, format, values);
    }
    [[noreturn]] __attribute__((format(printf, 3, 4)))
    void fail_at(uintptr_t code, const char* format, ...) {
        va_list values;
        va_start(values, format);
        vfail(code, {nullptr, 0}, format, values);
    }
    struct Who { char text[96]; };
    Who who(int i) const {
        Who w;
        uint3 t = threads[i].index, b = block_index;
        snprintf(w.text, sizeof w.text, "block (%u, %u, %u), thread (%u, %u, %u)", b.x, b.y, b.z,
                 t.x, t.y, t.z);
        return w;
    }
    Who who() const { return who(thread); }

    // ---- who goes next ----

    unsigned next_random() {            // xorshift64 (Marsaglia 2003)
        random_state ^= random_state << 13;
        random_state ^= random_state >> 7;
        random_state ^= random_state << 17;
        return unsigned(random_state >> 32);
    }
    void arrange(int* order, int n) {
        for (int i = 0; i < n; i++) order[i] = launch->order == REVERSE ? n - 1 - i : i;
        for (int i = n - 1; launch->order == SHUFFLED && i > 0; i--)
            std::swap(order[i], order[next_random() % unsigned(i + 1)]);
    }
    void start_walk() {
        if (launch->order == SHUFFLED) arrange(warp_order, n_warps);
        warp_at = 0;
        start_warp();
    }
    void start_warp() {
        if (launch->order == SHUFFLED) arrange(lane_order, warps[warp_order[warp_at]].lanes);
        lane_at = 0;
    }
    // Through a warp again and again until its lanes have ended or wait for other warps, then on to
    // the next warp. -1: nobody can go on.
    int next() {
        for (int idle = 0; idle <= n_warps;) {
            int number = warp_order[warp_at];
            Warp& warp = warps[number];
            if (!warp.ready) {
                warp_at = warp_at + 1 == n_warps ? 0 : warp_at + 1;
                start_warp();
                idle++;
                continue;
            }
            for (; lane_at < warp.lanes; lane_at++) {
                int lane = launch->order == FORWARD ? lane_at
                           : launch->order == REVERSE ? warp.lanes - 1 - lane_at
                           : lane_order[lane_at];
                if (!(warp.ready >> lane & 1)) continue;
                lane_at++;
                warp.ready &= ~(1u << lane);
                return number * 32 + lane;
            }
            start_warp();
        }
        return -1;
    }
    void become(int i) { thread = i, thread_index = threads[i].index; }
    // Keep the running stack in *save and go on with a thread, or with run_block for -1.
    __attribute__((always_inline)) void go(void** save, int to) {
        void* stack = scheduler_stack;
        if (to >= 0) {
            become(to);
            unsigned& fresh = warps[to / 32].fresh;
            if (fresh >> (to & 31) & 1) {
                fresh &= ~(1u << (to & 31));
                threads[to].stack = free_stacks[--n_free];
                stack = stack_tops[threads[to].stack];
            } else {
                stack = threads[to].stack_pointer;
            }
        }
        switch_stack(save, stack);
    }
    void wait() {                       // where others can, or will let this one, go on
        int me = thread, to = next();
        if (to != me) go(&threads[me].stack_pointer, to);
    }

    // ---- warps ----

    // If all lanes in the mask of `lane` that still run have come: do their common work, and let
    // them go.
    bool release_lanes(int number, int lane) {
        Warp& warp = warps[number];
        Thread* lanes = threads + number * 32;
        const Thread& one = lanes[lane];
        unsigned all = warp.lanes == 32 ? ~0u : (1u << warp.lanes) - 1;
        unsigned alive = one.mask & ~warp.ended & all;
        if ((warp.at_warp & alive) != alive) return false;
        void* brought[32];
        for (int i = 0; i < 32; i++) {
            if (!(alive >> i & 1)) continue;
            const Thread& t = lanes[i];
            if (t.mask != one.mask || t.together != one.together || t.place.line != one.place.line)
                fail(one.place,
                     "the lanes of a warp disagree: %s waits at %s with mask 0x%08x, but lane %d at "
                     "%s of line %d with mask 0x%08x: bring all lanes of a mask to one call",
                     who(number * 32 + lane).text, one.what, one.mask, i, t.what, t.place.line,
                     t.mask);
            brought[i] = t.brought;
        }
        one.together(brought, alive);
        warp.time++;
        if (alive == (all & ~warp.ended)) warp.meetings++;
        warp.at_warp &= ~alive, warp.ready |= alive;
        return true;
    }

    // ---- blocks ----

    void release_barrier() {
        for (int i = 0; n_live < n_threads && i < n_threads; i++)
            if (warps[i / 32].ended >> (i & 31) & 1 && !returned[i])
                report_ended(i);
        for (int i = 0; i < n_warps; i++)
            warps[i].ready |= warps[i].at_barrier, warps[i].at_barrier = 0;
        barrier_true = n_true;
        n_at_barrier = n_true = 0;
        block_time++;
        start_walk();
    }
    int one_at(unsigned Warp::*state) const {
        for (int i = 0; i < n_threads; i++)
            if (warps[i / 32].*state >> (i & 31) & 1) return i;
        return -1;
    }
    [[noreturn]] void report_ended(int i) {
        fail(threads[one_at(&Warp::at_barrier)].place,
             "divergent barrier: %d of the block's %d threads ended without this __syncthreads (%s "
             "among them): let every thread reach it, or leave by a `return`", n_threads - n_live,
             n_threads, who(i).text);
    }
    void report_deadlock() {
        int i = one_at(&Warp::at_warp);
        if (i < 0) fail({nullptr, 0}, "deadlock in block (%u, %u, %u)", block_index.x,
                        block_index.y, block_index.z);
        fail(threads[i].place,
             "deadlock: %s waits at %s with mask 0x%08x for lanes that never come; %d threads of "
             "its block wait at __syncthreads, %d have ended", who(i).text, threads[i].what,
             threads[i].mask, n_at_barrier, n_threads - n_live);
    }
    void ended() {
        Warp& warp = warps[thread / 32];
        warp.ended |= 1u << (thread & 31);
        n_live--;
        // Lanes may have waited for this one only, and the block, too.
        for (unsigned waiting = warp.at_warp; waiting; waiting &= warp.at_warp) {
            int lane = __builtin_ctz(waiting);
            waiting &= waiting - 1;
            release_lanes(thread / 32, lane);
        }
        if (n_at_barrier && n_at_barrier == n_live) release_barrier();
    }

    void prepare_threads() {
        uint3 size = launch->block;
        n_threads = int(size.x * size.y * size.z), n_warps = (n_threads + 31) / 32;
        arrange(warp_order, n_warps);
        if (size.x == block_size.x && size.y == block_size.y && size.z == block_size.z) return;
        int i = 0;
        for (unsigned z = 0; z < size.z; z++)
            for (unsigned y = 0; y < size.y; y++)
                for (unsigned x = 0; x < size.x; x++) threads[i++].index = {x, y, z};
        block_size = size;
    }
    void start_block(uint64_t number) {
        uint64_t n = launch->blocks;
        uint64_t i = launch->order == REVERSE ? n - 1 - number
                     : launch->order == SHUFFLED ? (number + launch->seed % n) % n : number;
        uint3 grid = launch->grid;
        block_in_grid = i;
        block_index = {unsigned(i % grid.x), unsigned(i / grid.x % grid.y),
                       unsigned(i / (uint64_t(grid.x) * grid.y))};
        block_number++;
        block_start = ++block_time;
        fence = false, acquired = 0;
        n_live = n_threads, n_at_barrier = n_true = 0;
        memset(returned, 0, size_t(n_threads));
        for (int i = 0; i < n_threads; i++) copies[i].count = 0, copies[i].group = 0;
        for (int w = 0; w < n_warps; w++) {
            int lanes = n_threads - w * 32 < 32 ? n_threads - w * 32 : 32;
            unsigned all = lanes == 32 ? ~0u : (1u << lanes) - 1;
            warps[w] = {all, all, 0, 0, 0, 0, 0, lanes};
        }
        shared.reset();
        // No dynamic shared memory was asked for: an array of none, so that each access is one too far.
        dynamic_shared = shared.add(launch->dynamic_bytes, 32, "dynamic");
        random_state = (launch->seed + i + 1) * 0x9E3779B97F4A7C15ull | 1;
        start_walk();
    }
    void run_block(uint64_t number) {
        start_block(number);
        go(&scheduler_stack, next());
        if (n_live) report_deadlock();
    }
};

// A fiber runs one thread after another: a stack is used again while it is still in the cache.
inline void Worker::fiber() {
    Worker& w = *static_cast<Worker*>(emu_worker());
    for (;;) {
        w.launch->kernel(w.launch->arguments);
        w.ended();
        int stack = w.threads[w.thread].stack, to = w.next();
        if (to >= 0 && w.warps[to / 32].fresh >> (to & 31) & 1) {
            w.warps[to / 32].fresh &= ~(1u << (to & 31));
            w.threads[to].stack = stack;
            w.become(to);
            continue;
        }
        w.free_stacks[w.n_free++] = stack;
        w.go(&w.stack_tops[stack], to);
    }
}

}  // namespace emu
