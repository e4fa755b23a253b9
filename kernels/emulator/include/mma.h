// mma.h - matrix fragments (nvcuda::wmma), in the emulator's place of CUDA's header.
//
// Which element lies in which lane is not told on a GPU either: a correct kernel loads, fills,
// stores, and does the same to each x[i]. Here lane l has the elements from l * num_elements on,
// row by row. mma_sync multiplies exactly and adds in float, from the first product to the last; a
// GPU adds in an order of its own.
#pragma once
#include "cuda_bf16.h"
#include "cuda_fp16.h"

namespace nvcuda {
namespace wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
namespace precision { struct tf32 {}; }
enum layout_t { mem_row_major, mem_col_major };

// What an element is kept as, and what it counts as in a product: of a tf32 a GPU ignores the
// lower 13 bits, so a kernel rounds it with __float_to_tf32 first.
template <class T> struct emu_element {
    typedef T type;
    static float value(T x) { return float(x); }
};
template <> struct emu_element<precision::tf32> {
    typedef float type;
    static float value(float x) { return __uint_as_float(__float_as_uint(x) & 0xffffe000u); }
};
inline float __float_to_tf32(float x) {             // to nearest, ties away from zero
    if (x != x || x - x != 0.0f) return x;
    return __uint_as_float((__float_as_uint(x) + 0x1000u) & 0xffffe000u);
}

template <class T, int M, int N, int K> constexpr bool emu_shape() {
    if (sizeof(typename emu_element<T>::type) == 4) return M == 16 && N == 16 && K == 8;
    return K == 16 && ((M == 16 && N == 16) || (M == 32 && N == 8) || (M == 8 && N == 32));
}
template <class Use, int M, int N, int K> struct emu_matrix { enum { rows = M, cols = N }; };
template <int M, int N, int K> struct emu_matrix<matrix_a, M, N, K> { enum { rows = M, cols = K }; };
template <int M, int N, int K> struct emu_matrix<matrix_b, M, N, K> { enum { rows = K, cols = N }; };

template <class Use, int M, int N, int K, class T, class Layout = void> struct fragment {
    enum {
        rows = emu_matrix<Use, M, N, K>::rows,
        cols = emu_matrix<Use, M, N, K>::cols,
        num_elements = rows * cols / 32
    };
    typename emu_element<T>::type x[num_elements];
};

template <class F, class V> inline void fill_fragment(F& f, V value) {
    for (int i = 0; i < F::num_elements; i++) f.x[i] = value;
}

// Where element i of this lane lies in memory with `ld` elements from one row (or column) to the
// next; and the alignments that the hardware asks for.
template <class F> inline size_t emu_offset(int i, unsigned ld, bool by_column) {
    int number = emu_lane() * F::num_elements + i, row = number / F::cols, col = number % F::cols;
    return by_column ? size_t(col) * ld + row : size_t(row) * ld + col;
}
inline void emu_check_fragment(const void* p, unsigned ld, size_t element, EmuPlace place) {
    if (reinterpret_cast<uintptr_t>(p) % 32)
        emu_stop("misaligned: a fragment's address must be a multiple of 32 bytes", place);
    if (ld * element % 16)
        emu_stop("misaligned: a fragment's rows must be a multiple of 16 bytes apart", place);
}
template <class F, class T>
inline void emu_load(F& f, const T* p, unsigned ld, bool by_column, EmuPlace place) {
    emu_check_fragment(p, ld, sizeof(T), place);
    for (int i = 0; i < F::num_elements; i++) f.x[i] = p[emu_offset<F>(i, ld, by_column)];
}
template <class Use, int M, int N, int K, class T, class S>
inline void load_matrix_sync(fragment<Use, M, N, K, T, row_major>& f, const S* p, unsigned ld,
                             EmuPlace place = EmuPlace::here()) {
    emu_load(f, p, ld, false, place);
}
template <class Use, int M, int N, int K, class T, class S>
inline void load_matrix_sync(fragment<Use, M, N, K, T, col_major>& f, const S* p, unsigned ld,
                             EmuPlace place = EmuPlace::here()) {
    emu_load(f, p, ld, true, place);
}
template <int M, int N, int K, class T>
inline void load_matrix_sync(fragment<accumulator, M, N, K, T>& f, const T* p, unsigned ld,
                             layout_t layout, EmuPlace place = EmuPlace::here()) {
    emu_load(f, p, ld, layout == mem_col_major, place);
}
template <int M, int N, int K, class T>
inline void store_matrix_sync(T* p, const fragment<accumulator, M, N, K, T>& f, unsigned ld,
                              layout_t layout, EmuPlace place = EmuPlace::here()) {
    typedef fragment<accumulator, M, N, K, T> F;
    emu_check_fragment(p, ld, sizeof(T), place);
    for (int i = 0; i < F::num_elements; i++)
        p[emu_offset<F>(i, ld, layout == mem_col_major)] = f.x[i];
}

// d = a b + c, by the last lane for the whole warp.
template <class A, class B, class C> struct emu_mma { const A* a; const B* b; const C* c; C* d; };

template <class TA, class TB, class A, class B, class C>
EMU_UNCHECKED void emu_mma_all(void** lanes, unsigned) {
    float a[A::rows][A::cols], b[B::rows][B::cols], c[C::rows][C::cols];
    auto brought = [&](int lane) { return static_cast<emu_mma<A, B, C>*>(lanes[lane]); };
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < A::num_elements; i++)
            (&a[0][0])[lane * A::num_elements + i] = emu_element<TA>::value(brought(lane)->a->x[i]);
        for (int i = 0; i < B::num_elements; i++)
            (&b[0][0])[lane * B::num_elements + i] = emu_element<TB>::value(brought(lane)->b->x[i]);
        for (int i = 0; i < C::num_elements; i++)
            (&c[0][0])[lane * C::num_elements + i] = float(brought(lane)->c->x[i]);
    }
    for (int m = 0; m < C::rows; m++)
        for (int k = 0; k < A::cols; k++)
            for (int n = 0; n < C::cols; n++) c[m][n] += a[m][k] * b[k][n];
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < C::num_elements; i++)
            brought(lane)->d->x[i] = (&c[0][0])[lane * C::num_elements + i];
}
template <int M, int N, int K, class TA, class LA, class TB, class LB, class TC>
inline void mma_sync(fragment<accumulator, M, N, K, TC>& d,
                     const fragment<matrix_a, M, N, K, TA, LA>& a,
                     const fragment<matrix_b, M, N, K, TB, LB>& b,
                     const fragment<accumulator, M, N, K, TC>& c,
                     EmuPlace place = EmuPlace::here()) {
    static_assert(emu_shape<TA, M, N, K>(), "no GPU multiplies fragments of this shape and type");
    typedef fragment<matrix_a, M, N, K, TA, LA> A;
    typedef fragment<matrix_b, M, N, K, TB, LB> B;
    typedef fragment<accumulator, M, N, K, TC> C;
    emu_mma<A, B, C> mine{&a, &b, &c, &d};
#ifdef EMU_COUNTED
    emu_count_product(2 * M * N * K / 32, place);
#endif
    emu_warp(0xffffffffu, &mine, emu_mma_all<TA, TB, A, B, C>, "mma_sync", place);
}

}  // namespace wmma
}  // namespace nvcuda
