// matmul_mma.cu - C = f(A B + bias) on the tensor cores, instruction by instruction: cp.async,
// ldmatrix and mma.sync (ptx.cuh), one template for all precisions. matmul.cuh tells what a kernel
// takes. sm_80 and later.
//
// A block of 8 warps computes 128 x 128 entries, a warp 64 x 32 of them in registers, from a ring
// of three stages in shared memory. A stage holds a tile of A and one of B, each 128 rows (of A, or
// columns of B) by 64 bytes of k: while one is multiplied, two are on their way, which no thread
// waits for; and one barrier a tile is enough. What it changes over matmul_wmma:
//
//   the ring     cp.async copies from device to shared memory past the registers, 16 bytes at
//                a time where address and row length allow, so that two tiles' latency is hidden.
//   swizzled     A tile keeps the order that its matrix has in memory, so that copies are whole
//                chunks of 16 bytes, but the chunks of a row change places (place_in_tile): the
//                eight that are read at a time, from as many rows, lie in different banks.
//   ldmatrix     one instruction gives each lane the four elements that mma.sync wants of it.
//   registers    a fragment of A serves 4 products, one of B too, and C never leaves the registers
//                before it is stored, with bias and GELU, two entries at a time.
//   in groups    Blocks go down 8 tiles of C before they go on to the next column, so that those
//                which run together share tiles of A and of B in the L2 cache (as in Triton's
//                tutorial on matrix multiplication).
//
// matmul_mma_tf32    float32 arrays. Each element is rounded to tf32 (10 bits after the point, to
//                    nearest) on its way to the tensor core, which adds in float32.
// matmul_mma_3xtf32  float32 arrays, and nearly float32's precision: a = big + small, both tf32,
//                    and a b = small big + big small + big big, at three times the products (Ootomo
//                    and Yokota 2022, section 3; CUTLASS's 3xTF32). A tensor core adds rounding
//                    toward zero; so each sum of three goes to the total by a plain addition. An
//                    infinity gives NaN here.
// matmul_mma_bf16    float32 arrays, each element rounded to bfloat16 (7 bits after the point).
// matmul_mma_bf16_storage
//                    A, B, bias and C are bfloat16 in memory, which halves the traffic and the room
//                    that a tile takes: 32 of k in 64 bytes. Sums, bias and GELU are in float32,
//                    and rounded once, for C.
// matmul_mma_bf16_parts
//                    The same with C in float32: for a long sum that is cut into pieces, to give a
//                    GPU more blocks, and whose parts are added before anything is rounded.
//
// block 256; grid batches * ceil(M / 128) * ceil(N / 128).
//
// Registers a thread on sm_80 and sm_90, and bytes of shared memory, nothing spilled (nvcc 13.0;
// tests/kernels/test_nvcc.py compares):
//   matmul_mma_tf32          122  126  49,152
//   matmul_mma_3xtf32        189  187  49,152
//   matmul_mma_bf16          128  128  49,152
//   matmul_mma_bf16_storage  128  128  49,152
//   matmul_mma_bf16_parts    128  128  49,152
// With up to 128 two blocks run on a multiprocessor at a time; 3xtf32's does alone.
#include "matmul.cuh"
#include "ptx.cuh"

#if HAS_SM_80

constexpr int SIDE = 128, STAGES = 3;
constexpr int CHUNK = 16;                       // bytes that are copied at a time
constexpr int CHUNKS = SIDE * 64 / CHUNK;       // of a tile
typedef float4 Ring[STAGES][2][CHUNKS];         // [stage][A, B]

template <class T> constexpr int EACH = CHUNK / int(sizeof(T));   // elements in a chunk
template <class T> constexpr int DEPTH = 64 / int(sizeof(T));     // of k in a tile

// Where element (r, k) lies in a tile of A, or (k, r) in one of B. `ALONG_ROWS` is as in `fill`:
// the tile lies [k][r], otherwise [r][k]. Of [r][k], 64 bytes a row, all banks hold two rows;
// ldmatrix reads a chunk of each of 8 rows. Of [k][r] it does the same with 8 rows of k if an
// element has 2 bytes; floats are read one by one, 8 neighbours from each of 4 rows of k.
template <class T, bool ALONG_ROWS>
__device__ inline int place_in_tile(unsigned r, unsigned k) {
    constexpr int E = EACH<T>;
    if (ALONG_ROWS) {
        int turn = sizeof(T) == 4 ? 2 * (k & 3) : k & 7;
        return k * SIDE + (r / E ^ turn) * E + r % E;
    }
    return r * DEPTH<T> + (k / E ^ (r / 2 & 3)) * E + k % E;
}

// --- from device memory to a tile

// A thread's two chunks of each tile of a matrix, half a tile apart, neighbouring threads' side by
// side in memory. `copy` goes from tile to tile.
template <class T, bool ALONG_ROWS>
struct Chunks {
    static constexpr int E = EACH<T>, D = DEPTH<T>, HALF = ALONG_ROWS ? D / 2 : SIDE / 2;
    const T* from;
    const T* valid;         // any address, for copies of nothing
    long long ld;
    int left, deep;         // what is left of the matrix along a chunk, and across
    int place;              // in the tile
    bool aligned;           // whole chunks can be copied

    // Rows `first` … of the matrix X of `rows` by K.
    __device__ Chunks(const T* X, long long ld, int first, int rows, int K, const T* valid)
        : valid(valid), ld(ld) {
        int i = threadIdx.x * E;
        int r = ALONG_ROWS ? i % SIDE : i / D, k = ALONG_ROWS ? i / SIDE : i % D;
        from = X + (ALONG_ROWS ? k * ld + first + r : (first + r) * ld + k);
        left = ALONG_ROWS ? rows - first - r : K - k;
        deep = ALONG_ROWS ? K - k : rows - first - r;
        place = place_in_tile<T, ALONG_ROWS>(r, k);
        aligned = ld % E == 0 && reinterpret_cast<size_t>(X) % CHUNK == 0;
    }
    // Begin to copy to the next tile, zeros for what is outside of the matrix.
    __device__ void copy(T* tile) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int inside = deep > half * HALF ? left : 0;
            const T* x = from + half * HALF * ld;
            T* to = tile + place + half * SIDE * D / 2;     // swizzled as the first: HALF is even
            if (aligned) {
                int wanted = max(0, min(inside, E));
                cp_async<CHUNK>(to, wanted ? x : valid, wanted * int(sizeof(T)));
                continue;
            }
#pragma unroll
            for (int e = 0; e < E; e++) {
                if constexpr (sizeof(T) == 4) cp_async<4>(to + e, e < inside ? x + e : valid,
                                                          e < inside ? 4 : 0);
                else to[e] = e < inside ? x[e] : T(0.0f);   // too small for cp.async
            }
        }
        from += ALONG_ROWS ? D * ld : D;
        if (ALONG_ROWS) deep -= D;
        else left -= D;
    }
};

// --- from a tile to fragments: 16 rows of A, or columns of B, by 32 bytes of k

// In what follows g = lane / 4 and t = lane % 4. A fragment has four parts of 8 rows by 16 bytes:
// part i begins 8 part_row(i) rows and 16 part_k(i) bytes on. mma.sync wants what it multiplies in
// neighbouring registers: all four parts of A, and of B the two of 8 rows. So they are loaded in
// this order, or moves would come before each product, as many as there are of everything else.
template <bool OF_A> __device__ inline int part_row(int i) { return OF_A ? i % 2 : i / 2; }
template <bool OF_A> __device__ inline int part_k(int i) { return OF_A ? i / 2 : i % 2; }

// x[i] is the element (g, t) of part i.
template <bool OF_A, bool ALONG_ROWS>
__device__ inline void load_floats(const float* tile, unsigned r, unsigned k, unsigned (&x)[4]) {
    unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    if (ALONG_ROWS) {
        // place_in_tile with r taken to pieces, r being a multiple of 16: only 8 t and the bits of
        // r that it turns are not the same for all, which saves registers.
        const float* from = tile + (k + t) * SIDE + r / 32 * 32 + g;
#pragma unroll
        for (int i = 0; i < 4; i++)
            x[i] = __float_as_uint(
                from[part_k<OF_A>(i) * 4 * SIDE + (r % 32 + part_row<OF_A>(i) * 8 ^ 8 * t)]);
    } else {
        int i = lane / 8;
        ldmatrix(x, tile + place_in_tile<float, false>(r + part_row<OF_A>(i) * 8 + lane % 8,
                                                       k + part_k<OF_A>(i) * 4));
    }
}

// How a precision loads a fragment and multiplies two: c (16 x 8) += a (16 x DEEP) times columns
// 8 half … 8 half + 7 of b (16 columns x DEEP).
struct Tf32 {
    typedef float Element;
    static constexpr int DEEP = 8;
    struct Fragment { unsigned x[4]; };

    template <bool OF_A, bool ALONG_ROWS>
    __device__ static void load(Fragment& f, const float* tile, unsigned r, unsigned k) {
        load_floats<OF_A, ALONG_ROWS>(tile, r, k, f.x);
#pragma unroll
        for (int i = 0; i < 4; i++) f.x[i] = to_tf32(__uint_as_float(f.x[i]));
    }
    __device__ static void multiply(float (&c)[4], const Fragment& a, const Fragment& b, int half) {
        const unsigned right[2] = {b.x[2 * half], b.x[2 * half + 1]};
        mma_tf32(c, a.x, right);
    }
};

struct Tf32x3 {
    typedef float Element;
    static constexpr int DEEP = 8;
    struct Fragment { unsigned big[4], small[4]; };

    template <bool OF_A, bool ALONG_ROWS>
    __device__ static void load(Fragment& f, const float* tile, unsigned r, unsigned k) {
        load_floats<OF_A, ALONG_ROWS>(tile, r, k, f.big);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float x = __uint_as_float(f.big[i]);
            f.big[i] = to_tf32(x);
            f.small[i] = to_tf32(x - __uint_as_float(f.big[i]));
        }
    }
    __device__ static void multiply(float (&c)[4], const Fragment& a, const Fragment& b, int half) {
        const unsigned big[2] = {b.big[2 * half], b.big[2 * half + 1]};
        const unsigned small[2] = {b.small[2 * half], b.small[2 * half + 1]};
        float sum[4] = {};
        mma_tf32(sum, a.small, big);
        mma_tf32(sum, a.big, small);
        mma_tf32(sum, a.big, big);
#pragma unroll
        for (int i = 0; i < 4; i++) c[i] += sum[i];
    }
};

// The order of k in a sum is free, if A and B agree. So two fragments of floats, 8 of k each,
// become one of 16 without a lane asking another: mma_bf16 wants neighbours 2t, 2t + 1 in a
// register, and gets t, t + 4. They are new registers in any case, in the order of A on both sides.
struct Bf16 {
    typedef float Element;
    static constexpr int DEEP = 16;
    struct Fragment { unsigned x[4]; };

    template <bool OF_A, bool ALONG_ROWS>
    __device__ static void load(Fragment& f, const float* tile, unsigned r, unsigned k) {
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
            unsigned x[4];
            load_floats<true, ALONG_ROWS>(tile, r, k + 4 * i, x);
            f.x[i] = to_bf16(__uint_as_float(x[0]), __uint_as_float(x[2]));
            f.x[i + 1] = to_bf16(__uint_as_float(x[1]), __uint_as_float(x[3]));
        }
    }
    __device__ static void multiply(float (&c)[4], const Fragment& a, const Fragment& b, int half) {
        const unsigned right[2] = {b.x[half], b.x[half + 2]};
        mma_bf16(c, a.x, right);
    }
};

struct Bf16Storage : Bf16 {
    typedef __nv_bfloat16 Element;

    __device__ static void multiply(float (&c)[4], const Fragment& a, const Fragment& b, int half) {
        const unsigned right[2] = {b.x[2 * half], b.x[2 * half + 1]};
        mma_bf16(c, a.x, right);
    }
    template <bool OF_A, bool ALONG_ROWS>
    __device__ static void load(Fragment& f, const __nv_bfloat16* tile, unsigned r, unsigned k) {
        unsigned lane = threadIdx.x % 32;
        r += part_row<OF_A>(lane / 8) * 8, k += part_k<OF_A>(lane / 8) * 8;
        if (ALONG_ROWS)
            ldmatrix_trans(f.x, tile + place_in_tile<__nv_bfloat16, true>(r, k + lane % 8));
        else
            ldmatrix(f.x, tile + place_in_tile<__nv_bfloat16, false>(r + lane % 8, k));
    }
};

// --- a tile of C

typedef float Sums[4][4][4];    // a lane's of 64 x 32: [16 rows][8 columns][as mma_tf32 tells]

template <class Precision, bool A_ROWS, bool B_ROWS>
__device__ inline void multiply(Sums& c, const typename Precision::Element* a,
                                const typename Precision::Element* b, unsigned m0, unsigned n0) {
    typedef typename Precision::Element T;
// Unrolled, a loop over floats would want more registers than let two blocks run at a time.
#pragma unroll (sizeof(T) == 2 ? 2 : 1)
    for (int k = 0; k < DEPTH<T>; k += Precision::DEEP) {
        typename Precision::Fragment left, right[2];
        for (int j = 0; j < 2; j++)
            Precision::template load<false, B_ROWS>(right[j], b, n0 + 16 * j, k);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            Precision::template load<true, A_ROWS>(left, a, m0 + 16 * i, k);
            for (int j = 0; j < 4; j++) Precision::multiply(c[i][j], left, right[j / 2], j % 2);
        }
    }
}

// `valid`: any address in device memory.
template <class Precision, bool A_ROWS, bool B_ROWS, class Matrices>
__device__ inline void sum_up(Sums& c, const Matrices& p, Place place, unsigned m0, unsigned n0,
                              Ring& ring, const typename Precision::Element* valid) {
    typedef typename Precision::Element T;
    Chunks<T, A_ROWS> a(p.A, p.lda, place.m, p.M, p.K, valid);
    Chunks<T, B_ROWS> b(p.B, p.ldb, place.n, p.N, p.K, valid);
    int tiles = (p.K + DEPTH<T> - 1) / DEPTH<T>;
    unsigned from = 0, to = 0;      // the stages that are multiplied and filled next
    auto copy = [&](bool more) {
        if (more) {
            a.copy(reinterpret_cast<T*>(ring[to][0]));
            b.copy(reinterpret_cast<T*>(ring[to][1]));
        }
        cp_async_commit();      // an empty group counts, so that the wait below always counts right
        to = to == STAGES - 1 ? 0 : to + 1;
    };
    for (int tile = 0; tile < STAGES - 1; tile++) copy(tile < tiles);
    for (int left = tiles; left > 0; left--) {
        cp_async_wait<STAGES - 2>();
        // Now all threads' copies are there, and nobody reads the stage that is overwritten next.
        __syncthreads();
        copy(left >= STAGES);
        multiply<Precision, A_ROWS, B_ROWS>(c, reinterpret_cast<T*>(ring[from][0]),
                                            reinterpret_cast<T*>(ring[from][1]), m0, n0);
        from = from == STAGES - 1 ? 0 : from + 1;
    }
}

// As place_of_block, but in groups of 8 rows of tiles.
template <class T, class Out>
__device__ inline Place place_in_group(const ProductOf<T, Out>& p) {
    long long across = (p.N - 1) / SIDE + 1, down = (p.M - 1) / SIDE + 1;
    long long tile = blockIdx.x % (across * down), top = tile / (8 * across) * 8;
    long long inside = tile - top * across, rows = min(down - top, 8LL);
    return {int(top + inside % rows) * SIDE, int(inside / rows) * SIDE,
            blockIdx.x / (across * down)};
}

template <class Precision, class Out = typename Precision::Element>
__device__ inline void compute(const ProductOf<typename Precision::Element, Out>& all, int ndim,
                               const Dims& batch, const Dims& a_strides, const Dims& b_strides,
                               Ring& ring) {
    Place place = place_in_group(all);
    auto p = all.at(place.matrix, ndim, batch, a_strides, b_strides);
    unsigned warp = threadIdx.x / 32, m0 = warp / 4 * 64, n0 = warp % 4 * 32;
    Sums c = {};
    const auto* valid = all.A;
    if (p.transpose_a && p.transpose_b)
        sum_up<Precision, true, false>(c, p, place, m0, n0, ring, valid);
    else if (p.transpose_a) sum_up<Precision, true, true>(c, p, place, m0, n0, ring, valid);
    else if (p.transpose_b) sum_up<Precision, false, false>(c, p, place, m0, n0, ring, valid);
    else sum_up<Precision, false, true>(c, p, place, m0, n0, ring, valid);
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                p.store(place.m + m0 + 16 * i + 8 * h + g, place.n + n0 + 8 * j + 2 * t,
                        make_float2(c[i][j][2 * h], c[i][j][2 * h + 1]));
}
#endif  // HAS_SM_80

// --- the entries

extern "C" __global__ void __launch_bounds__(256, 2) SINCE_SM(80) matmul_mma_tf32(
        const float* __restrict__ A, const float* __restrict__ B, const float* OPTIONAL bias,
        float* __restrict__ C, int M, int N, int K, long long lda, long long ldb, int transpose_a,
        int transpose_b, int activation, int ndim, const __grid_constant__ Dims batch,
        const __grid_constant__ Dims a_strides, const __grid_constant__ Dims b_strides,
        long long batches) {
#if HAS_SM_80
    __shared__ float4 ring[3][2][512];
    compute<Tf32>(
        {A, B, bias, C, M, N, K, transpose_a, transpose_b, activation, lda, ldb}, ndim, batch,
        a_strides, b_strides, ring);
#endif
}

extern "C" __global__ void __launch_bounds__(256, 1) SINCE_SM(80) matmul_mma_3xtf32(
        const float* __restrict__ A, const float* __restrict__ B, const float* OPTIONAL bias,
        float* __restrict__ C, int M, int N, int K, long long lda, long long ldb, int transpose_a,
        int transpose_b, int activation, int ndim, const __grid_constant__ Dims batch,
        const __grid_constant__ Dims a_strides, const __grid_constant__ Dims b_strides,
        long long batches) {
#if HAS_SM_80
    __shared__ float4 ring[3][2][512];
    compute<Tf32x3>(
        {A, B, bias, C, M, N, K, transpose_a, transpose_b, activation, lda, ldb}, ndim, batch,
        a_strides, b_strides, ring);
#endif
}

extern "C" __global__ void __launch_bounds__(256, 2) SINCE_SM(80) matmul_mma_bf16(
        const float* __restrict__ A, const float* __restrict__ B, const float* OPTIONAL bias,
        float* __restrict__ C, int M, int N, int K, long long lda, long long ldb, int transpose_a,
        int transpose_b, int activation, int ndim, const __grid_constant__ Dims batch,
        const __grid_constant__ Dims a_strides, const __grid_constant__ Dims b_strides,
        long long batches) {
#if HAS_SM_80
    __shared__ float4 ring[3][2][512];
    compute<Bf16>(
        {A, B, bias, C, M, N, K, transpose_a, transpose_b, activation, lda, ldb}, ndim, batch,
        a_strides, b_strides, ring);
#endif
}

extern "C" __global__ void __launch_bounds__(256, 2) SINCE_SM(80) matmul_mma_bf16_storage(
        const __nv_bfloat16* __restrict__ A, const __nv_bfloat16* __restrict__ B,
        const __nv_bfloat16* OPTIONAL bias, __nv_bfloat16* __restrict__ C, int M, int N, int K,
        long long lda, long long ldb, int transpose_a, int transpose_b, int activation, int ndim,
        const __grid_constant__ Dims batch, const __grid_constant__ Dims a_strides,
        const __grid_constant__ Dims b_strides, long long batches) {
#if HAS_SM_80
    __shared__ float4 ring[3][2][512];
    compute<Bf16Storage>(
        {A, B, bias, C, M, N, K, transpose_a, transpose_b, activation, lda, ldb}, ndim, batch,
        a_strides, b_strides, ring);
#endif
}

extern "C" __global__ void __launch_bounds__(256, 2) SINCE_SM(80) matmul_mma_bf16_parts(
        const __nv_bfloat16* __restrict__ A, const __nv_bfloat16* __restrict__ B,
        const __nv_bfloat16* OPTIONAL bias, float* __restrict__ C, int M, int N, int K,
        long long lda, long long ldb, int transpose_a, int transpose_b, int activation, int ndim,
        const __grid_constant__ Dims batch, const __grid_constant__ Dims a_strides,
        const __grid_constant__ Dims b_strides, long long batches) {
#if HAS_SM_80
    __shared__ float4 ring[3][2][512];
    compute<Bf16Storage, float>(
        {A, B, bias, C, M, N, K, transpose_a, transpose_b, activation, lda, ldb}, ndim, batch,
        a_strides, b_strides, ring);
#endif
}
