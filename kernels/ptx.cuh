// ptx.cuh - all the PTX there is here: what CUDA C++ has no words for, one wrapper an instruction.
//
// Copies from device memory to shared memory that go on while the thread computes, and matrix
// products of a warp on the tensor cores. All need sm_80. An older architecture has nothing here:
// a kernel that uses them says SINCE_SM(80) before its name and `#if HAS_SM_80` around its body, so
// that it compiles to nothing there, and a launch is refused by name. The emulator runs plain C++
// of the same meaning (emulator/ptx.h). Source: PTX ISA, "Data Movement and Conversion" and
// "Warp Level Matrix Multiply-Accumulate", from which the places of the elements are.
//
// In what follows g = lane / 4 and t = lane % 4. All 32 lanes must come to a wrapper that says
// "the warp", from the same line.
#pragma once
#include "common.cuh"

#if defined(__CUDA_EMULATOR__) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800)
#define HAS_SM_80 1
#else
#define HAS_SM_80 0
#endif

#if HAS_SM_80

// The emulator's messages name the line of a kernel that calls a wrapper.
#ifdef __CUDA_EMULATOR__
#define CALLER EmuPlace place = EmuPlace::here()
#define AND_CALLER , EmuPlace place = EmuPlace::here()
#else
#define CALLER
#define AND_CALLER

// Shared memory has addresses of its own, of 32 bits.
__device__ inline unsigned shared_address(const void* p) {
    return static_cast<unsigned>(__cvta_generic_to_shared(p));
}
#endif

// ---- copies that do not wait

// Begin to copy `bytes` of SIZE bytes (4, 8 or 16) from device to shared memory, and zeros for the
// rest: both addresses are multiples of SIZE. With 0 bytes nothing is read, but the address must be
// valid. What lies at `to` is unknown until the thread's wait, and to other threads until a barrier
// after that. 16 bytes go past the L1 cache, which could only get in the way.
template <int SIZE>
__device__ inline void cp_async(void* to, const void* from, int bytes AND_CALLER) {
    static_assert(SIZE == 4 || SIZE == 8 || SIZE == 16, "no GPU copies this many bytes");
#ifdef __CUDA_EMULATOR__
    emu_cp_async(to, from, SIZE, bytes, place);
#else
    if constexpr (SIZE == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                     :: "r"(shared_address(to)), "l"(from), "r"(bytes) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                     :: "r"(shared_address(to)), "l"(from), "n"(SIZE), "r"(bytes) : "memory");
#endif
}

// The thread's copies since the last commit are a group, also if there are none.
__device__ inline void cp_async_commit() {
#ifdef __CUDA_EMULATOR__
    emu_cp_async_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Wait until all of the thread's groups but the last N have landed.
template <int N> __device__ inline void cp_async_wait(CALLER) {
#ifdef __CUDA_EMULATOR__
    emu_cp_async_wait(N, place);
#else
    asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
#endif
}

// ---- matrices of a warp

// The warp reads four matrices of 8 rows of 16 bytes: lane l gives the address of row l % 8 of
// matrix l / 8. x[i] is 4 bytes of matrix i, in row g the t-th four. So with `row` at four floats
// of a row, a lane has the float (g, t) of each of four 8 x 4 matrices.
__device__ inline void ldmatrix(unsigned (&x)[4], const void* row AND_CALLER) {
#ifdef __CUDA_EMULATOR__
    emu_ldmatrix(x, row, false, place);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(shared_address(row))
                 : "memory");
#endif
}

// The same with each matrix, 8 x 8 elements of 16 bits, transposed: x[i] has the elements (2t, g)
// and, in its upper half, (2t + 1, g).
__device__ inline void ldmatrix_trans(unsigned (&x)[4], const void* row AND_CALLER) {
#ifdef __CUDA_EMULATOR__
    emu_ldmatrix(x, row, true, place);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(shared_address(row))
                 : "memory");
#endif
}

// The nearest tf32 (a float with 10 bits after the point; ties away from zero), as its bits.
__device__ inline unsigned to_tf32(float x) {
#ifdef __CUDA_EMULATOR__
    return emu_to_tf32(x);
#else
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
#endif
}

// The nearest bfloat16 (7 bits after the point; ties to even) of two floats, `low` in the lower
// half.
__device__ inline unsigned to_bf16(float low, float high) {
#ifdef __CUDA_EMULATOR__
    return emu_to_bf16(low) | emu_to_bf16(high) << 16;
#else
    unsigned bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
#endif
}

// c += a b by the warp, a (16, 8) and b (8, 8) in tf32, c (16, 8) in float.
//   a[i]: (g + i % 2 * 8, t + i / 2 * 4)    b[i]: (t + i * 4, g)    c[i]: (g + i / 2 * 8, 2t + i % 2)
__device__ inline void mma_tf32(float (&c)[4], const unsigned (&a)[4],
                                const unsigned (&b)[2] AND_CALLER) {
#ifdef __CUDA_EMULATOR__
    emu_mma<false>(c, a, b, place);
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// c += a b by the warp, a (16, 16) and b (16, 8) in bfloat16, two neighbours along k in each
// element of a and b, c (16, 8) in float as above.
//   a[i]: (g + i % 2 * 8, 2t + i / 2 * 8) and the next in k    b[i]: (2t + i * 8, g) and the next
__device__ inline void mma_bf16(float (&c)[4], const unsigned (&a)[4],
                                const unsigned (&b)[2] AND_CALLER) {
#ifdef __CUDA_EMULATOR__
    emu_mma<true>(c, a, b, place);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

#endif  // HAS_SM_80
