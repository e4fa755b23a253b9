// memory.h - device memory and shared memory, with a note for each byte of what may be done to it.
//
// Every array in device memory has pages of its own, ends at (to 16 bytes) an inaccessible page,
// and starts full of 0xff, which as float is NaN. So a far step out of an array is a fault even in
// the fast mode; the checked mode reads the notes and finds each one.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <new>
#include <vector>

namespace emu {

constexpr size_t PAGE = 65536;          // a multiple of the page of every system we know
constexpr size_t SHARED_LIMIT = 48 << 10;           // bytes a block may use without opting in
constexpr size_t SHARED_GAP = 64;       // bytes between shared variables that belong to none
constexpr size_t SHARED_VARIABLES = 64;
constexpr size_t SHARED_SPACE = SHARED_LIMIT + (SHARED_VARIABLES + 2) * 2 * SHARED_GAP;

enum Note : uint8_t { NOWHERE, UNINITIALISED, WRITTEN };

enum Readers : uint8_t { ONE, SEVERAL_LANES, SEVERAL_WARPS };

// Who touched four bytes last, by block_time and warp_time of runtime.cpp.
struct Cell {
    uint64_t write_time, read_time;
    unsigned write_warp_time, read_warp_time;
    uint16_t write_thread, read_thread;
    uint8_t write_atomic;
    Readers readers;
};

struct Array {
    uintptr_t low, high;                // the bytes that a kernel may use
    char* map;
    size_t map_bytes;                   // with the page after the end
    std::vector<uint8_t> notes;         // a Note for each byte
    std::vector<Cell> cells;            // for each four bytes; empty until a checked launch
};

inline std::map<uintptr_t, Array>& arrays() {       // by the address of their map
    static std::map<uintptr_t, Array> all;
    return all;
}

inline char* map_pages(size_t bytes) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? nullptr : static_cast<char*>(p);
}

inline uintptr_t new_array(size_t bytes) {          // 0 where the system has no more memory
    if (bytes > SIZE_MAX / 4) return 0;
    size_t pages = (bytes + PAGE - 1) / PAGE * PAGE;
    char* map = map_pages(pages + PAGE);
    if (!map) return 0;
    try {
        Array array{0, 0, map, pages + PAGE, std::vector<uint8_t>(bytes, UNINITIALISED), {}};
        mprotect(map + pages, PAGE, PROT_NONE);
        array.low = reinterpret_cast<uintptr_t>(map) + (pages - bytes) / 16 * 16;
        array.high = array.low + bytes;
        memset(reinterpret_cast<void*>(array.low), 0xff, bytes);
        uintptr_t low = array.low;
        arrays()[reinterpret_cast<uintptr_t>(map)] = std::move(array);
        return low;
    } catch (const std::bad_alloc&) {
        munmap(map, pages + PAGE);
        return 0;
    }
}

inline Array* array_at(uintptr_t address) {         // also for an address in its guard page
    auto after = arrays().upper_bound(address);
    if (after == arrays().begin()) return nullptr;
    Array& array = std::prev(after)->second;
    return address - reinterpret_cast<uintptr_t>(array.map) < array.map_bytes ? &array : nullptr;
}

inline uint8_t* notes_at(const void* p) {           // of an address in an array
    uintptr_t address = reinterpret_cast<uintptr_t>(p);
    Array* array = array_at(address);
    return array->notes.data() + (address - array->low);
}

// The shared memory of the block that runs: the variables lie one after another with gaps.
struct SharedVariable { uintptr_t low, high; const char* name; };
struct SharedMemory {
    char* space = nullptr;
    size_t used = 0, bytes = 0, count = 0;
    SharedVariable variables[SHARED_VARIABLES];
    uint8_t notes[SHARED_SPACE];
    Cell cells[SHARED_SPACE / 4];

    bool contains(uintptr_t address) const {
        return address - reinterpret_cast<uintptr_t>(space) < SHARED_SPACE;
    }
    void reset() {
        memset(notes, NOWHERE, used);
        used = SHARED_GAP, bytes = count = 0;
    }
    void* add(size_t size, size_t alignment, const char* name) {    // nullptr: over the limit
        if (alignment < 16) alignment = 16;
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
