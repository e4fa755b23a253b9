// ptx.h - what the wrappers of kernels/ptx.cuh do on the emulator; part of cuda_emulator.h.
//
// An asynchronous copy reads when it begins, and what it has read lands when the thread waits for
// it: no sooner, though a GPU's may. Until then the bytes in shared memory are 0xff, and the checked
// mode stops at whoever reads them. Products are exact and are added in float, from the first to the
// last; a GPU's tensor cores add in an order of their own, and round toward zero.
#pragma once
#include "small_float.h"

extern "C" {                            // in runtime.cpp
void emu_cp_async(void* to, const void* from, int size, int bytes, EmuPlace place);
void emu_cp_async_commit();
void emu_cp_async_wait(int but_the_last, EmuPlace place);
}

inline unsigned emu_to_tf32(float x) {
    unsigned bits = __float_as_uint(x);
    return x != x || x - x != 0.0f ? bits : (bits + 0x1000u) & 0xffffe000u;
}
inline unsigned emu_to_bf16(float x) { return EmuSmallFloat<8, 7>(x).bits; }

// ---- ldmatrix: each lane brings a row, and the last one hands out the elements ----

struct EmuRow { uint16_t row[8]; unsigned (*x)[4]; bool transposed; };

EMU_UNCHECKED inline void emu_ldmatrix_all(void** lanes, unsigned) {
    auto row = [&](int matrix, int i) { return static_cast<EmuRow*>(lanes[8 * matrix + i])->row; };
    for (int lane = 0; lane < 32; lane++) {
        auto& mine = *static_cast<EmuRow*>(lanes[lane]);
        int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; i++) {
            unsigned low = mine.transposed ? row(i, 2 * t)[g] : row(i, g)[2 * t];
            unsigned high = mine.transposed ? row(i, 2 * t + 1)[g] : row(i, g)[2 * t + 1];
            (*mine.x)[i] = low | high << 16;
        }
    }
}
// A GPU reads the 16 bytes of a row at once, and so it is to be counted.
EMU_QUIET inline void emu_read_row(EmuRow& mine, const void* row, EmuPlace place) {
#ifdef EMU_COUNTED
    emu_count_read(row, sizeof mine.row, place);
#endif
    for (int i = 0; i < 8; i++) mine.row[i] = static_cast<const uint16_t*>(row)[i];
}
inline void emu_ldmatrix(unsigned (&x)[4], const void* row, bool transposed, EmuPlace place) {
    if (reinterpret_cast<uintptr_t>(row) % 16)
        emu_stop("misaligned: ldmatrix reads rows at multiples of 16 bytes", place);
    EmuRow mine{{}, &x, transposed};
    emu_read_row(mine, row, place);
    emu_warp(0xffffffffu, &mine, emu_ldmatrix_all, "ldmatrix", place);
}

// ---- mma ----

struct EmuMma { float (*c)[4]; const unsigned (*a)[4]; const unsigned (*b)[2]; };

template <bool BF16> EMU_UNCHECKED void emu_mma_all(void** lanes, unsigned) {
    constexpr int K = BF16 ? 16 : 8;
    float a[16][K], b[K][8], c[16][8];
    auto put = [](unsigned bits, float& first, float& next) {   // a tensor core ignores the rest
        if (BF16) first = __uint_as_float(bits << 16), next = __uint_as_float(bits & 0xffff0000u);
        else first = __uint_as_float(bits & 0xffffe000u);
    };
    for (int lane = 0; lane < 32; lane++) {
        const auto& mine = *static_cast<EmuMma*>(lanes[lane]);
        int g = lane / 4, t = lane % 4, k = BF16 ? 2 * t : t, next = BF16;
        for (int i = 0; i < 4; i++) {
            int row = g + i % 2 * 8, col = k + i / 2 * (K / 2);
            put((*mine.a)[i], a[row][col], a[row][col + next]);
            c[g + i / 2 * 8][2 * t + i % 2] = (*mine.c)[i];
        }
        for (int i = 0; i < 2; i++) {
            int row = k + i * (K / 2);
            put((*mine.b)[i], b[row][g], b[row + next][g]);
        }
    }
    for (int m = 0; m < 16; m++)
        for (int i = 0; i < K; i++)
            for (int n = 0; n < 8; n++) c[m][n] += a[m][i] * b[i][n];
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++)
            (*static_cast<EmuMma*>(lanes[lane])->c)[i] = c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}
template <bool BF16>
inline void emu_mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                    EmuPlace place) {
    EmuMma mine{&c, &a, &b};
#ifdef EMU_COUNTED
    emu_count_product(2 * 16 * 8 * (BF16 ? 16 : 8) / 32, place);
#endif
    emu_warp(0xffffffffu, &mine, emu_mma_all<BF16>, "mma.sync", place);
}
