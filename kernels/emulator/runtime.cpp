// runtime.cpp - the library that Python calls, and that the compiled kernels call.
//
// A launch hands its blocks to one or several workers (scheduler.h). Whatever goes wrong ends the
// launch with a message and leaves the process as it was.
#include <system_error>
#include <thread>

#include "checks.h"
#include "faults.h"
#include "scheduler.h"

namespace emu {

Worker* workers[EMU_MAX_WORKERS];
char arguments[4096];                   // the most that CUDA takes
char message[1200];
const Worker* failed;                   // the one whose message it is

// A worker at the start of a region aligned to its size; its stacks follow. nullptr: refused.
Worker* new_worker(int number) {
    char* map = reserve(2 * EMU_REGION, PROT_NONE);
    if (!map) return nullptr;
    uintptr_t low = reinterpret_cast<uintptr_t>(map);
    uintptr_t base = (low + EMU_REGION - 1) & ~(EMU_REGION - 1);
    if (base > low) munmap(map, base - low);
    munmap(reinterpret_cast<void*>(base + EMU_REGION), low + EMU_REGION - base);
    void* place = reinterpret_cast<void*>(base);
    if (mprotect(place, (sizeof(Worker) + GUARD - 1) / GUARD * GUARD, PROT_READ | PROT_WRITE)) {
        munmap(place, EMU_REGION);
        return nullptr;
    }
    Worker* w = new (place) Worker();
    w->number = number;
    return w;
}

bool prepare(const Launch& launch) {
    int n_threads = int(launch.block.x * launch.block.y * launch.block.z);
    for (int i = 0; i < launch.workers; i++) {
        if (!workers[i]) workers[i] = new_worker(i);
        if (!workers[i] || !workers[i]->prepare_stacks(n_threads)) {
            snprintf(message, sizeof message, "the system refused %zu bytes of address space for "
                     "the stacks of %d threads", EMU_REGION, n_threads);
            return false;
        }
    }
    if (!launch.checked || prepare_checks(*workers[0])) return true;
    snprintf(message, sizeof message, "the system refused the memory for what the checks note: 8 "
             "bytes a byte of every array on the checked device");
    return false;
}

// Blocks, one after another, until there are no more or a worker has failed.
void work(Worker& w, Launch& launch) {
    prepare_handler_stack();
    w.launch = &launch, w.signal = 0;
    w.message[0] = 0, w.message_code = 0, w.message_place = {}, w.interrupted = false;
    w.block_dim = launch.block, w.grid_dim = launch.grid;
    w.launch_start = ++w.block_time;
    w.prepare_threads();
    if (!sigsetjmp(w.give_up, 0)) {
        current = &w;                   // from here on a signal has where to jump to
        while (!__atomic_load_n(&launch.stop, __ATOMIC_RELAXED)) {
            uint64_t block = __atomic_fetch_add(&launch.next_block, 1, __ATOMIC_RELAXED);
            if (block >= launch.blocks) break;
            w.run_block(block);
        }
    } else {
        __atomic_store_n(&launch.stop, true, __ATOMIC_RELAXED);
        if (w.signal) unblock(w.signal);
        w.abandon_stacks();
    }
    current = nullptr;
}

void run(Launch& launch, bool patient) {
    Launching here(launch, patient);
    std::thread others[EMU_MAX_WORKERS];
    int wanted = launch.workers;
    launch.workers = 1;
    try {
        for (int i = 1; i < wanted; i++) {
            others[i] = std::thread([i, &launch] { work(*workers[i], launch); });
            threads[i] = others[i].native_handle();
            launch.workers = i + 1;
        }
    } catch (const std::system_error&) {            // fewer will do
    }
    work(*workers[0], launch);
    if (workers[0]->interrupted) interrupt_others();
    for (std::thread& other : others)
        if (other.joinable()) other.join();
}

}  // namespace emu

extern "C" {

// ---- for the kernels ----

int emu_syncthreads(bool predicate, EmuPlace place) {
    using namespace emu;
    Worker& w = *static_cast<Worker*>(emu_worker());
    Thread& t = w.threads[w.thread];
    t.what = "__syncthreads", t.place = place;
    if (w.n_at_barrier) {
        int other = w.one_at(&Warp::at_barrier);
        if (w.threads[other].place.line != place.line)
            w.fail(place, "divergent barrier: %s waits at this __syncthreads, but %s at the one of "
                   "line %d: let every thread reach the same one", w.who().text,
                   w.who(other).text, w.threads[other].place.line);
    }
    w.warps[w.thread / 32].at_barrier |= 1u << (w.thread & 31);
    w.n_at_barrier++, w.n_true += predicate;
    if (w.n_at_barrier == w.n_live) w.release_barrier();
    w.wait();
    return w.barrier_true;
}

void emu_warp(unsigned mask, void* mine, EmuTogether together, const char* what, EmuPlace place) {
    using namespace emu;
    Worker& w = *static_cast<Worker*>(emu_worker());
    int lane = w.thread & 31;
    if (!(mask >> lane & 1))
        w.fail(place, "%s: %s calls with mask 0x%08x, in which its own lane %d is missing", what,
               w.who().text, mask, lane);
    Thread& t = w.threads[w.thread];
    t.mask = mask, t.brought = mine, t.together = together, t.what = what, t.place = place;
    Warp& warp = w.warps[w.thread / 32];
    warp.at_warp |= 1u << lane;
    if (w.release_lanes(w.thread / 32, lane)) warp.ready &= ~(1u << lane);     // it just goes on
    else w.wait();
}

void* emu_shared(size_t bytes, size_t alignment, const char* name, EmuPlace place) {
    using namespace emu;
    Worker& w = *static_cast<Worker*>(emu_worker());
    void* address = w.shared.add(bytes, alignment, name);
    if (!address)
        w.fail(place, "shared memory: '%s' of %zu bytes beside the %zu in use is over a block's "
               "%zu bytes or %zu variables: use smaller tiles", name, bytes, w.shared.bytes,
               SHARED_LIMIT, SHARED_VARIABLES);
    return address;
}

void emu_atomic_access(void* address, size_t bytes, EmuPlace place) {
    emu::check_access({reinterpret_cast<uintptr_t>(address), bytes, emu::ATOMIC_CHANGE, 0, place,
                       false});
}

void emu_count_read(const void* address, size_t bytes, EmuPlace place) {
    emu::check_access({reinterpret_cast<uintptr_t>(address), bytes, emu::READ, 0, place, false});
}

void emu_count_product(unsigned flops, EmuPlace place) { emu::count_product(place, flops); }

void emu_stop(const char* why, EmuPlace place) {
    emu::Worker& w = *static_cast<emu::Worker*>(emu_worker());
    w.fail(place, "%s: %s", why, w.who().text);
}

// Asynchronous copies (ptx.h). The checks take the beginning for a write as well as the landing: on
// a GPU it may be either, or any time between.
void emu_cp_async(void* to, const void* from, int size, int bytes, EmuPlace place) {
    using namespace emu;
    Worker& w = *static_cast<Worker*>(emu_worker());
    Copies& mine = w.copies[w.thread];
    uintptr_t address = reinterpret_cast<uintptr_t>(to);
    if (mine.count == COPIES)
        w.fail(place, "cp.async: %s has %d copies on their way, the most that the emulator keeps",
               w.who().text, COPIES);
    if (address % uintptr_t(size) || (bytes && reinterpret_cast<uintptr_t>(from) % uintptr_t(size)))
        w.fail(place, "misaligned: %s copies %d bytes from or to an address that is not a multiple "
               "of %d", w.who().text, size, size);
    if (bytes < 0 || bytes > size)
        w.fail(place, "cp.async: %s copies %d of %d bytes", w.who().text, bytes, size);
    if (!w.shared.contains(address))
        w.fail(place, "cp.async: %s copies to an address that is not in shared memory",
               w.who().text);
    if (w.launch->counted) {
        if (bytes) emu_count_read(from, size_t(bytes), place);
        check_access({address, size_t(size), WRITE, 0, place, false});
    }
    if (w.launch->checked) {
        for (int i = 0; i < bytes; i += 4)
            check_access({reinterpret_cast<uintptr_t>(from) + size_t(i), 4, READ, 0, place, false});
        check_access({address, size_t(size), WRITE, 0, place, false});
        memset(w.shared.notes + (address - reinterpret_cast<uintptr_t>(w.shared.space)), UNLANDED,
               size_t(size));
    }
    Copy& copy = mine.list[mine.count++];
    copy = {static_cast<char*>(to), {}, size, mine.group};
    memcpy(copy.data, from, size_t(bytes));
    memset(to, 0xff, size_t(size));
}

void emu_cp_async_commit() {
    emu::Worker& w = *static_cast<emu::Worker*>(emu_worker());
    w.copies[w.thread].group++;
}

void emu_cp_async_wait(int but_the_last, EmuPlace place) {
    using namespace emu;
    Worker& w = *static_cast<Worker*>(emu_worker());
    Copies& mine = w.copies[w.thread];
    int left = 0;
    for (int i = 0; i < mine.count; i++) {
        const Copy& copy = mine.list[i];
        if (copy.group + unsigned(but_the_last) >= mine.group) {
            mine.list[left++] = copy;
            continue;
        }
        if (w.launch->checked)
            check_access({reinterpret_cast<uintptr_t>(copy.to), size_t(copy.size), WRITE, 0, place,
                          false});
        memcpy(copy.to, copy.data, size_t(copy.size));
    }
    mine.count = left;
}

// ---- for kernels/emulator/device.py ----

void* emu_malloc(size_t bytes, int checked) {
    return reinterpret_cast<void*>(emu::new_array(bytes, checked));
}

void emu_free(void* address) { emu::free_array(reinterpret_cast<uintptr_t>(address)); }

// From the host, and from one address of the device to another: what was not written stays so.
void emu_write(void* to, const void* from, size_t bytes) {
    memcpy(to, from, bytes);
    if (uint8_t* notes = emu::notes_at(to)) memset(notes, emu::WRITTEN, bytes);
}

void emu_copy(void* to, const void* from, size_t bytes) {
    memcpy(to, from, bytes);
    uint8_t *notes = emu::notes_at(to), *source = emu::notes_at(from);
    if (notes && source) memcpy(notes, source, bytes);
}

const char* emu_message() { return emu::message; }
uintptr_t emu_message_code() { return emu::failed ? emu::failed->message_code : 0; }
const char* emu_message_file() { return emu::failed ? emu::failed->message_place.file : nullptr; }
int emu_message_line() { return emu::failed ? emu::failed->message_place.line : 0; }

// Of the last launch, in the counting mode: what each place in the code did, and the sectors of
// memory that were read and written at least once. nullptr: no memory for them.
const emu::SiteCounts* emu_counts(uint64_t* n, uint64_t* first_reads, uint64_t* first_writes) {
    emu::Counter& all = emu::counter();
    try {
        all.settle();
        all.result.clear();
        for (const emu::Site& site : all.sites) all.result.push_back(site.sum);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
    *n = all.result.size(), *first_reads = all.first_reads, *first_writes = all.first_writes;
    return all.result.data();
}

struct Options {                        // packed by device.py
    unsigned grid[3], block[3];
    uint64_t seed;
    unsigned shared, order, mode, workers;          // mode: 0 fast, 1 checked, 2 counted
    unsigned patient;                               // 1: Ctrl-C has a handler of the program's
};

// 0; 1 with emu_message; 2 no memory; 3 interrupted. device.py has checked the sizes.
int emu_launch(void (*kernel)(const char*), const char* arguments, size_t argument_bytes,
               const Options* o) {
    using namespace emu;
    failed = nullptr;
    if (argument_bytes > sizeof emu::arguments) {
        snprintf(message, sizeof message, "%zu bytes of arguments, and a kernel takes at most %zu",
                 argument_bytes, sizeof emu::arguments);
        return 1;
    }
    memcpy(emu::arguments, arguments, argument_bytes);
    uint64_t blocks = uint64_t(o->grid[0]) * o->grid[1] * o->grid[2];
    uint64_t most = o->workers < EMU_MAX_WORKERS ? o->workers : EMU_MAX_WORKERS;
    Launch launch{kernel, emu::arguments, {o->grid[0], o->grid[1], o->grid[2]},
                  {o->block[0], o->block[1], o->block[2]}, o->shared, o->seed, Order(o->order),
                  o->mode == 1, o->mode == 2, int(blocks < most ? blocks : most), blocks, 0, false};
    if (!prepare(launch)) return 2;
    if (launch.counted) counter().start(), workers[0]->last_array = nullptr;
    run(launch, o->patient);
    counter().running = false;
    if (!launch.stop) return 0;
    for (int i = 0; i < launch.workers; i++) {      // of several failures that of the first block
        const Worker* w = workers[i];
        if (w->message[0] && (!failed || w->block_in_grid < failed->block_in_grid)) failed = w;
        if (w->message[0] && w->interrupted) { failed = w; break; }
    }
    snprintf(message, sizeof message, "%s", failed->message);
    return failed->interrupted ? 3 : 1;
}

}  // extern "C"
