// attention_mma.cuh - products of attention's tiles on the tensor cores, and what the weights are
// made of there. Sums are float32.
//
// A warp owns 16 rows. In what follows g = lane / 4 and t = lane % 4, as in ptx.cuh, whose mma give
// a lane rows g and g + 8 of the left operand, column g of the right one, and columns 2t, 2t + 1 of
// the result in rows g and g + 8. A sum over k does not ask in which order, so of each 16 k a lane
// may have any four, as long as both operands have the same ones. That saves all shuffles:
//
//   products       k runs along D. The lane has k = t, 4 + t, 8 + t, 12 + t: as ldmatrix gives it.
//   add_products   k runs along the columns of a result of products, so the lane has 2t, 2t + 1,
//                  8 + 2t, 9 + 2t: the very weights that are in its registers.
//
// Nor do columns have to be in order: in add_products a lane reads columns 4g … 4g + 3 of a tile
// at once, one for each of four mma; so of 32 columns of the result it has 8t … 8t + 7.
// Arrays of bfloat16 need none of this: two neighbours of k are one register, and ldmatrix gives
// both operands in the order of PTX, the second one transposed.
//
// A row of a tile has an odd number of pieces of 16 bytes, one more than its elements need. So each
// way of reading is free of bank conflicts (the emulator counts none): the eight pieces that shared
// memory gives at a time are for ldmatrix the same piece of eight rows, and for add_products of
// floats pieces g and g + 1 of rows 0, 2, 4 and 6.
#pragma once
#include <cuda_bf16.h>

#include "attention_tiles.cuh"
#include "ptx.cuh"

#if HAS_SM_80

constexpr int M = 64, THREADS = 128;  // rows and threads of a block: four warps

// A precision: the elements of arrays, and what a lane has of 16 k, in two rows on the left (upper:
// g, lower: g + 8), in a column on the right.
//
// Floats rounded to tf32, in registers. An mma takes 8 k, two in a lane; so there are two of them.
struct Tf32 {
    typedef float Element;
    struct Left {
        unsigned x[2][4];
    };
    struct Right {
        unsigned x[2][2];
    };
    __device__ static Left left(const float (&upper)[4], const float (&lower)[4]) {
        return {{{to_tf32(upper[0]), to_tf32(lower[0]), to_tf32(upper[1]), to_tf32(lower[1])},
                 {to_tf32(upper[2]), to_tf32(lower[2]), to_tf32(upper[3]), to_tf32(lower[3])}}};
    }
    __device__ static Right right(float a, float b, float c, float d) {
        return {{{to_tf32(a), to_tf32(b)}, {to_tf32(c), to_tf32(d)}}};
    }
    __device__ static void mma(float (&sum)[4], const Left& left, const Right& right) {
        mma_tf32(sum, left.x[0], right.x[0]);
        mma_tf32(sum, left.x[1], right.x[1]);
    }
};
// Floats rounded to bfloat16. An mma takes all 16, two of the four in a register.
struct Bf16 {
    typedef float Element;
    struct Left {
        unsigned x[4];
    };
    struct Right {
        unsigned x[2];
    };
    __device__ static Left left(const float (&upper)[4], const float (&lower)[4]) {
        return {{to_bf16(upper[0], upper[1]), to_bf16(lower[0], lower[1]),
                 to_bf16(upper[2], upper[3]), to_bf16(lower[2], lower[3])}};
    }
    __device__ static Right right(float a, float b, float c, float d) {
        return {{to_bf16(a, b), to_bf16(c, d)}};
    }
    __device__ static void mma(float (&sum)[4], const Left& left, const Right& right) {
        mma_bf16(sum, left.x, right.x);
    }
};
// Arrays of bfloat16.
struct Bf16Storage : Bf16 {
    typedef __nv_bfloat16 Element;
};
template <class Precision>
constexpr bool FLOATS = sizeof(typename Precision::Element) == 4;

template <class Precision>
using InputOf = Matrix<const typename Precision::Element>;
template <class Precision>
using OutputOf = Matrix<typename Precision::Element>;

template <class Precision, int D, int N>
struct Operand {
    float4 row[N][D * sizeof(typename Precision::Element) / 16 + 1];
};

// The lane's part of rows first … first + 15 of x, zero from row `rows` and from `columns` on.
// Straight from device memory: each is read once.
template <class Precision, int D>
__device__ inline void load_rows(typename Precision::Left (&x)[D / 16], InputOf<Precision> from,
                                 int first, int rows, int columns) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int d = 0; d < D / 16; d++) {
        float part[2][4];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            int k = FLOATS<Precision> ? i % 4 * 4 + t : i % 4 / 2 * 8 + 2 * t + i % 2;
            int row = first + g + i / 4 * 8, column = 16 * d + k;
            bool inside = row < rows && column < columns;
            part[i / 4][i % 4] = inside ? float(from.row(row)[column]) : 0.0f;
        }
        x[d] = Precision::left(part[0], part[1]);
    }
}

// Begin to copy rows first … first + N - 1 of x, which has at least one row, to a tile; zeros from
// row `rows` and from `columns` on. A group of copies of its own. SIZE: bytes at a time; fewer than
// four are too few for cp.async.
template <int SIZE, class Precision, int D, int N>
__device__ inline void copy_pieces(Operand<Precision, D, N>& tile, InputOf<Precision> x, int first,
                                   int rows, int columns) {
    typedef typename Precision::Element Element;
    constexpr int EACH = SIZE / sizeof(Element), PIECES = D / EACH;
#pragma unroll 4
    for (int i = threadIdx.x; i < N * PIECES; i += THREADS) {
        int r = i / PIECES, c = i % PIECES * EACH;
        bool inside = first + r < rows && c < columns;
        Element* to = reinterpret_cast<Element*>(tile.row[r]) + c;
        const Element* from = inside ? x.row(first + r) + c : x.row(0);
        if constexpr (SIZE >= 4) cp_async<SIZE>(to, from, inside ? SIZE : 0);
        else *to = inside ? *from : Element(0.0f);
    }
    cp_async_commit();
}
// vector: 1 if 16 bytes can be copied at once.
template <class Precision, int D, int N>
__device__ inline void copy(Operand<Precision, D, N>& tile, InputOf<Precision> x, int first,
                            int rows, int columns, int vector) {
    if (vector) copy_pieces<16>(tile, x, first, rows, columns);
    else copy_pieces<sizeof(typename Precision::Element)>(tile, x, first, rows, columns);
}

// The right operands of products: 16 rows of a tile, 16 elements from 16 d on of each.
template <class Precision, int PIECES>
__device__ inline void read_along(typename Precision::Right (&b)[2], const float4 (*rows)[PIECES],
                                  int d) {
    int lane = threadIdx.x % 32;
    unsigned x[4];
    if constexpr (FLOATS<Precision>) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            ldmatrix(x, &rows[8 * i + lane % 8][4 * d + lane / 8]);
            b[i] = Precision::right(__uint_as_float(x[0]), __uint_as_float(x[1]),
                                    __uint_as_float(x[2]), __uint_as_float(x[3]));
        }
    } else {
        ldmatrix(x, &rows[lane / 16 * 8 + lane % 8][2 * d + lane / 8 % 2]);
        b[0] = {{x[0], x[1]}}, b[1] = {{x[2], x[3]}};
    }
}
// Those of add_products: columns 32 c … 32 c + 31 of 16 rows.
template <class Precision, int PIECES>
__device__ inline void read_across(typename Precision::Right (&b)[4], const float4 (*rows)[PIECES],
                                   int c) {
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    if constexpr (FLOATS<Precision>) {
        float4 k[4];
#pragma unroll
        for (int i = 0; i < 4; i++) k[i] = rows[i / 2 * 8 + 2 * t + i % 2][8 * c + g];
        b[0] = Precision::right(k[0].x, k[1].x, k[2].x, k[3].x);
        b[1] = Precision::right(k[0].y, k[1].y, k[2].y, k[3].y);
        b[2] = Precision::right(k[0].z, k[1].z, k[2].z, k[3].z);
        b[3] = Precision::right(k[0].w, k[1].w, k[2].w, k[3].w);
    } else {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            unsigned x[4];
            ldmatrix_trans(x, &rows[lane % 16][4 * c + 2 * i + lane / 16]);
            b[2 * i] = {{x[0], x[1]}}, b[2 * i + 1] = {{x[2], x[3]}};
        }
    }
}

// s = the warp's 16 rows times the N rows of a tile; s[n] has columns 8 n … 8 n + 7.
template <class Precision, int D, int N>
__device__ inline void products(const typename Precision::Left (&rows)[D / 16],
                                const Operand<Precision, D, N>& tile, float (&s)[N / 8][4]) {
#pragma unroll
    for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) s[n][i] = 0.0f;
#pragma unroll
    for (int d = 0; d < D / 16; d++)
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
            typename Precision::Right b[2];
            read_along<Precision>(b, tile.row + 16 * n, d);
            Precision::mma(s[2 * n], rows[d], b[0]);
            Precision::mma(s[2 * n + 1], rows[d], b[1]);
        }
}

// o += w (16, N), as `products` leaves it, times the N rows of a tile. o[4 c + j] are columns from
// 32 c on, which `store_row` puts in order.
template <class Precision, int D, int N>
__device__ inline void add_products(const float (&w)[N / 8][4],
                                    const Operand<Precision, D, N>& tile, float (&o)[D / 8][4]) {
#pragma unroll
    for (int n = 0; n < N / 16; n++) {
        const float(&a)[4] = w[2 * n], (&b)[4] = w[2 * n + 1];
        float upper[4] = {a[0], a[1], b[0], b[1]}, lower[4] = {a[2], a[3], b[2], b[3]};
        typename Precision::Left left = Precision::left(upper, lower);
#pragma unroll
        for (int c = 0; c < D / 32; c++) {
            typename Precision::Right right[4];
            read_across<Precision>(right, tile.row + 16 * n, c);
#pragma unroll
            for (int j = 0; j < 4; j++) Precision::mma(o[4 * c + j], left, right[j]);
        }
    }
}

// What a row of scores has to do with its columns. Rows may be queries and columns keys, or the
// other way round; a lane has two rows, g and g + 8 of its warp's 16.
struct Rows {
    int begin[2], end[2];  // the columns that belong together with the row; none, if it is outside
    const float* bias[2];  // at column 0, or null
    long long bias_step;   // from one column to the next
};
__device__ inline Rows rows_of_queries(const Head& head, int first) {
    Rows rows = {{}, {}, {}, head.bias_s};
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int t = first + threadIdx.x % 32 / 4 + 8 * half;
        rows.end[half] = t < head.T ? head.seen(t) : 0;
        rows.bias[half] = head.bias ? head.bias + t * head.bias_t : nullptr;
    }
    return rows;
}
__device__ inline Rows rows_of_keys(const Head& head, int first) {
    Rows rows = {{}, {}, {}, head.bias_t};
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int s = first + threadIdx.x % 32 / 4 + 8 * half;
        rows.begin[half] = head.first_to_see(s), rows.end[half] = s < head.S ? head.T : 0;
        rows.bias[half] = head.bias ? head.bias + s * head.bias_s : nullptr;
    }
    return rows;
}

// Products become scores of columns c0 … c0 + N - 1: with scale and bias, and -inf where a query
// does not see a key.
template <int N>
__device__ inline void finish_scores(float (&s)[N / 8][4], const Rows& rows, int c0, float scale) {
#pragma unroll
    for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) s[n][i] *= scale;
    bool all = c0 >= max(rows.begin[0], rows.begin[1]) && c0 + N <= min(rows.end[0], rows.end[1]);
    if (all && !rows.bias[0]) return;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int column = c0 + threadIdx.x % 4 * 2 + i % 2;
        const float* bias = rows.bias[i / 2];
        if (bias) bias += column * rows.bias_step;
#pragma unroll
        for (int n = 0; n < N / 8; n++) {
            if (column + 8 * n < rows.begin[i / 2] || column + 8 * n >= rows.end[i / 2])
                s[n][i] = -INFINITY;
            else if (bias) s[n][i] += bias[8 * n * rows.bias_step];
        }
    }
}

// Which of the lane's scores the dropout keeps, as bits: s[n][i] is bit 4 n + i. The warp's rows
// begin at `first`, the columns at c0; rows are queries, or with KEYS_ARE_ROWS keys.
// Eight neighbouring keys of a query share a counter's bits, if S is a multiple of eight; and 16 by
// 16 scores are 32 such eights: each lane makes the bits of one, and the others ask it for them.
template <int N, bool KEYS_ARE_ROWS>
__device__ inline unsigned kept_scores(const Head& head, int first, int c0) {
    static_assert(N <= 64, "a lane has N / 2 scores, and 32 bits");
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    Philox random(head.seed, head.draw);
    unsigned all = 0;
#pragma unroll 1
    for (int n = 0; n < N / 8; n += 2) {
        int query = (KEYS_ARE_ROWS ? c0 + 8 * n : first) + lane % 16;
        int key = (KEYS_ARE_ROWS ? first : c0 + 8 * n) + lane / 16 * 8;
        unsigned eight = 0;
#pragma unroll 1
        for (int i = 0; i < 8; i++)
            eight |= unsigned(head.kept(random, query, key + i) != 0.0f) << i;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            int row = g + i % 4 / 2 * 8, column = i / 4 * 8 + 2 * t + i % 2;
            int in_queries = KEYS_ARE_ROWS ? column : row, in_keys = KEYS_ARE_ROWS ? row : column;
            unsigned bits = __shfl_sync(0xffffffffu, eight, in_queries + in_keys / 8 * 16);
            all |= (bits >> in_keys % 8 & 1) << (4 * n + i);
        }
    }
    return all;
}

// The lane's results of row g (half = 0) or g + 8 (half = 1), times a factor, go to the first
// `columns` columns of a row `to`.
template <int D>
__device__ inline void store_row(float* to, int columns, const float (&o)[D / 8][4], int half,
                                 float factor, int vector) {
    int t = threadIdx.x % 4;
#pragma unroll
    for (int c = 0; c < D / 32; c++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float(*part)[4] = o + 4 * c;
            int at = 2 * half + i;
            store(to, 32 * c + 8 * t + 4 * i, columns,
                  make_float4(part[0][at], part[1][at], part[2][at], part[3][at]), factor,
                  vector);
        }
}
template <int D>
__device__ inline void store_row(__nv_bfloat16* to, int columns, const float (&o)[D / 8][4],
                                 int half, float factor, int vector) {
#pragma unroll
    for (int j = 0; j < D / 8; j++) {
        int c = 8 * j + threadIdx.x % 4 * 2;
        float first = o[j][2 * half] * factor, next = o[j][2 * half + 1] * factor;
        if (vector && c < columns) {
            *reinterpret_cast<unsigned*>(to + c) = to_bf16(first, next);
            continue;
        }
        if (c < columns) to[c] = __float2bfloat16(first);
        if (c + 1 < columns) to[c + 1] = __float2bfloat16(next);
    }
}

#endif  // HAS_SM_80
