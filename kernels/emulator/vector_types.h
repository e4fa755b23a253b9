// vector_types.h - float4 and its like, with CUDA's alignments; part of cuda_emulator.h.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

// A GPU reads and writes a vector at once, and so it is to be counted: in the counting mode a copy
// goes through a register of that size, which the compiler can't take to pieces.
#ifdef EMU_COUNTED
inline __attribute__((always_inline)) void emu_copy_vector(void* to, const void* from, size_t size) {
    for (; size >= 16; size -= 16) {
        __int128 all = *static_cast<const __int128*>(from);
        asm("" : "+r"(all));
        *static_cast<__int128*>(to) = all;
        to = static_cast<__int128*>(to) + 1, from = static_cast<const __int128*>(from) + 1;
    }
    if (size == 8) {
        uint64_t all = *static_cast<const uint64_t*>(from);
        asm("" : "+r"(all));
        *static_cast<uint64_t*>(to) = all;
    } else if (size) {
        uint32_t all = 0;
        memcpy(&all, from, size);
        asm("" : "+r"(all));
        memcpy(to, &all, size);
    }
}
#define EMU_COPIED_AT_ONCE(name) \
    name() = default; \
    name(const name& other) { emu_copy_vector(this, &other, sizeof other); } \
    name& operator=(const name& other) { \
        emu_copy_vector(this, &other, sizeof other); \
        return *this; \
    }
#define EMU_COPIED_2(T, name) EMU_COPIED_AT_ONCE(name) name(T x, T y) : x(x), y(y) {}
#define EMU_COPIED_4(T, name) \
    EMU_COPIED_AT_ONCE(name) name(T x, T y, T z, T w) : x(x), y(y), z(z), w(w) {}
#else
#define EMU_COPIED_2(T, name)
#define EMU_COPIED_4(T, name)
#endif

#define EMU_VECTOR(T, name, align2, align4) \
    struct name##1 { T x; }; \
    struct alignas(align2) name##2 { T x, y; EMU_COPIED_2(T, name##2) }; \
    struct name##3 { T x, y, z; }; \
    struct alignas(align4) name##4 { T x, y, z, w; EMU_COPIED_4(T, name##4) }; \
    inline name##1 make_##name##1(T x) { return {x}; } \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; } \
    inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

EMU_VECTOR(signed char, char, 2, 4)
EMU_VECTOR(unsigned char, uchar, 2, 4)
EMU_VECTOR(short, short, 4, 8)
EMU_VECTOR(unsigned short, ushort, 4, 8)
EMU_VECTOR(int, int, 8, 16)
EMU_VECTOR(unsigned, uint, 8, 16)
EMU_VECTOR(float, float, 8, 16)
EMU_VECTOR(long long, longlong, 16, 16)
EMU_VECTOR(unsigned long long, ulonglong, 16, 16)
EMU_VECTOR(double, double, 16, 16)
#undef EMU_VECTOR

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};
