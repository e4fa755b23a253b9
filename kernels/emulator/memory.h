// memory.h - device memory and shared memory, with a note for each byte of what may be done to it.
//
// Every array in device memory has pages of its own, ends (to 32 bytes) at an inaccessible page,
// and starts full of 0xff, which as float is NaN. So a far step out of an array is a fault even in
// the fast mode; the checked mode reads the notes and finds each one.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <new>
#include <vector>

namespace emu {

constexpr size_t GUARD = 65536;         // a multiple of the page of every system we know
constexpr size_t SHARED_LIMIT = 48 << 10;           // bytes a block may use without opting in
constexpr size_t SHARED_GAP = 64;       // bytes between shared variables that belong to none
constexpr size_t SHARED_VARIABLES = 64;
constexpr size_t SHARED_SPACE = SHARED_LIMIT + (SHARED_VARIABLES + 2) * 2 * SHARED_GAP;

// UNLANDED: an asynchronous copy is on its way there.
enum Note : uint8_t { NOWHERE, UNINITIALISED, WRITTEN, UNLANDED };

enum Readers : uint8_t { ONE, SEVERAL_LANES, SEVERAL_WARPS };
enum Atomic : uint8_t { PLAIN, ATOMIC, ATOMIC_AFTER_FENCE };

// Who touched a few bytes last, by block_time and the warp's time of scheduler.h.
struct Cell {
    uint64_t write_time = 0, read_time = 0;
    unsigned write_warp_time = 0, read_warp_time = 0;
    uint16_t write_thread = 0, read_thread = 0;
    Atomic write_atomic = PLAIN;
    Readers readers = ONE;
};

// A Cell for each `unit` bytes: four, until an access of fewer comes.
struct Cells {
    std::vector<Cell> cells;
    size_t unit = 4;

    void resize(size_t bytes) { cells.resize(bytes / unit + 2); }
    void refine(size_t to) {            // the cells of fewer bytes know what the one knew
        std::vector<Cell> finer(cells.size() * (unit / to));
        for (size_t i = 0; i < finer.size(); i++) finer[i] = cells[i / (unit / to)];
        cells.swap(finer), unit = to;
    }
};

struct Array {
    uintptr_t low, high;                // the bytes that a kernel may use
    char* map;
    size_t map_bytes;                   // with the pages after the end
    std::vector<uint8_t> notes;         // a Note for each byte; none in the fast mode
    Cells cells;                        // none until a checked launch
    size_t bytes() const { return high - low; }
};

inline std::map<uintptr_t, Array>& arrays() {       // by the address of their map
    static std::map<uintptr_t, Array> all;
    return all;
}

// ---- pages, kept for the next array of the same size ----

constexpr size_t POOL_LIMIT = size_t(256) << 20;    // bytes to keep
struct Pool {
    std::map<size_t, std::vector<char*>> maps;      // by size
    size_t bytes = 0;
    void empty() {
        for (auto& entry : maps)
            for (char* map : entry.second) munmap(map, entry.first);
        maps.clear(), bytes = 0;
    }
};
inline Pool& pool() {
    static Pool kept;
    return kept;
}

inline char* reserve(size_t bytes, int protection) {            // nullptr: refused
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    for (int again = 0; again < 2; again++) {
        void* p = mmap(nullptr, bytes, protection, flags, -1, 0);
        if (p != MAP_FAILED) return static_cast<char*>(p);
        pool().empty();
    }
    return nullptr;
}

inline char* take_pages(size_t bytes) {             // the last GUARD of them inaccessible
    auto kept = pool().maps.find(bytes);
    if (kept != pool().maps.end() && !kept->second.empty()) {
        char* map = kept->second.back();
        kept->second.pop_back();
        pool().bytes -= bytes;
        return map;
    }
    char* map = reserve(bytes, PROT_READ | PROT_WRITE);
    if (map) mprotect(map + bytes - GUARD, GUARD, PROT_NONE);
    return map;
}

inline void give_pages(char* map, size_t bytes) {
    if (pool().bytes + bytes > POOL_LIMIT) {
        munmap(map, bytes);
        return;
    }
    pool().maps[bytes].push_back(map);
    pool().bytes += bytes;
}

// ---- arrays ----

inline uintptr_t new_array(size_t bytes, bool checked) {        // 0: the system has no more memory
    static const size_t page = size_t(sysconf(_SC_PAGESIZE));
    if (bytes > SIZE_MAX / 4) return 0;
    size_t pages = (bytes + page - 1) / page * page;
    char* map = take_pages(pages + GUARD);
    if (!map) return 0;
    try {
        Array array{0, 0, map, pages + GUARD, {}, {}};
        if (checked) array.notes.assign(bytes, UNINITIALISED);
        array.low = reinterpret_cast<uintptr_t>(map) + (pages - bytes) / 32 * 32;
        array.high = array.low + bytes;
        uintptr_t low = array.low;
        arrays()[reinterpret_cast<uintptr_t>(map)] = std::move(array);
        memset(reinterpret_cast<void*>(low), 0xff, bytes);
        return low;
    } catch (const std::bad_alloc&) {
        munmap(map, pages + GUARD);
        return 0;
    }
}

inline Array* array_at(uintptr_t address) {         // also for an address in its guard
    auto after = arrays().upper_bound(address);
    if (after == arrays().begin()) return nullptr;
    Array& array = std::prev(after)->second;
    return address - reinterpret_cast<uintptr_t>(array.map) < array.map_bytes ? &array : nullptr;
}

inline void free_array(uintptr_t address) {
    Array* array = array_at(address);
    if (!array) return;
    char* map = array->map;
    // In the checked mode never again: a pointer kept too long then points to no array.
    if (array->notes.empty()) give_pages(map, array->map_bytes);
    else munmap(map, array->map_bytes);
    arrays().erase(reinterpret_cast<uintptr_t>(map));
}

inline uint8_t* notes_at(const void* p) {           // of an address in an array, or nullptr
    uintptr_t address = reinterpret_cast<uintptr_t>(p);
    Array* array = array_at(address);
    return !array || array->notes.empty() ? nullptr : array->notes.data() + (address - array->low);
}

// The shared memory of the block that runs: the variables lie one after another with gaps.
struct SharedVariable { uintptr_t low, high; const char* name; };
struct SharedMemory {
    alignas(128) char space[SHARED_SPACE];
    size_t used, bytes, count;
    SharedVariable variables[SHARED_VARIABLES];
    uint8_t notes[SHARED_SPACE];
    Cells cells;

    bool contains(uintptr_t address) const {
        return address - reinterpret_cast<uintptr_t>(space) < SHARED_SPACE;
    }
    void reset() {
        memset(notes, NOWHERE, used);
        used = SHARED_GAP, bytes = count = 0;
    }
    void* add(size_t size, size_t alignment, const char* name) {    // nullptr: over the limit
        if (alignment < 32) alignment = 32;
        size_t start = (used + alignment - 1) / alignment * alignment;
        if (bytes + size > SHARED_LIMIT || count == SHARED_VARIABLES ||
            start + size + SHARED_GAP > SHARED_SPACE)
            return nullptr;
        memset(space + start, 0xff, size);
        memset(notes + start, UNINITIALISED, size);
        uintptr_t low = reinterpret_cast<uintptr_t>(space) + start;
        variables[count++] = {low, low + size, name};
        used = start + size + SHARED_GAP, bytes += size;
        return space + start;
    }
    const SharedVariable* nearest(uintptr_t address) const {    // the last that starts before it
        const SharedVariable* best = nullptr;
        for (size_t i = 0; i < count; i++)
            if (variables[i].low <= address) best = &variables[i];
        return best;
    }
};

}  // namespace emu
