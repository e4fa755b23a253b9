// matmul.cu - C = f(A B + bias) for a batch of matrices, float32, without tensor cores; matmul.cuh
// tells what a kernel takes.
//
// matmul_naive      A thread an entry of C; neighbouring threads take neighbouring rows of C. Each
//                   entry reads 2 K floats for K multiply-adds, and what a warp reads of A, or
//                   writes of C, lies in 32 places: of each sector of 32 bytes it uses 4.
//                   grid ceil(batches M N / blockDim.x), any block.
// matmul_coalesced  The same, but neighbouring threads take neighbouring columns: a warp reads a
//                   whole piece of a row of B and one float of A, and writes a piece of a row of C.
//                   Still memory is all that counts. Grid and block as before.
// matmul_tiles      A block computes 16 x 16 entries from 16 x 16 tiles of A and B that it keeps in
//                   shared memory: each float comes from device memory 16 times less often. What
//                   limits now is shared memory, two reads for each multiply-add.
//                   block (16, 16); grid batches * ceil(M / 16) * ceil(N / 16).
// matmul_registers  A block of 64 threads computes 64 x 64 entries, a thread 8 x 8 of them in
//                   registers: 16 floats read from shared memory, as four float4, serve 64
//                   multiply-adds. C, too, is written in float4 where its rows are multiples of
//                   that. block 64; grid batches * ceil(M / 64) * ceil(N / 64).
// matmul_vector     128 x 128 entries by 256 threads. Device memory, too, is read four floats at a
//                   time where both the data and its place in memory are multiples of four; and two
//                   buffers: while a tile is multiplied, the next one is already on its way into
//                   registers, so that its latency is hidden and one barrier a tile is enough.
//                   block 256; grid batches * ceil(M / 128) * ceil(N / 128).
// matmul_rows       For few rows of A, as in decoding, where reading B once is all the work. If B
//                   lies (K, N): 32 columns a block, the warps share K among them, and their sums
//                   meet in shared memory. If it lies (N, K): a warp a column, its lanes share K.
//                   Four rows of A at a time use each float of B. block: whole warps, up to 16:
//                   many, so that much of B is on its way from memory at any time;
//                   grid batches * ceil(M / 4) * ceil(N / (transpose_b ? blockDim.x / 32 : 32)).
// matmul_rows_bf16  The same for arrays of bfloat16, whose B is half as much to read; sums, bias
//                   and GELU are in float32. The tensor cores' version is in matmul_mma.cu.
//
// Registers a thread on sm_80 and sm_90, and bytes of shared memory, nothing spilled (nvcc 13.0;
// tests/kernels/test_nvcc.py compares):
//   matmul_tiles       44   44   2,176
//   matmul_registers  165  163   8,192
//   matmul_vector     128  128  16,384
//   matmul_rows        58   56   8,192
//   matmul_rows_bf16   48   56   8,192
#include "matmul.cuh"

// --- a thread an entry

__device__ inline void compute_entry(const Product& p, int m, int n) {
    float sum = 0.0f;
    for (int k = 0; k < p.K; k++) sum += p.a(m, k) * p.b(k, n);
    p.store(m, n, sum);
}

extern "C" __global__ void matmul_naive(
        const float* __restrict__ A, const float* __restrict__ B, const float* OPTIONAL bias,
        float* __restrict__ C, int M, int N, int K, long long lda, long long ldb, int transpose_a,
        int transpose_b, int activation, int ndim, const __grid_constant__ Dims batch,
        const __grid_constant__ Dims a_strides, const __grid_constant__ Dims b_strides,
        long long batches) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= batches * M * N) return;
    Product p{A, B, bias, C, M, N, K, transpose_a, transpose_b, activation, lda, ldb};
    compute_entry(p.at(i / M / N, ndim, batch, a_strides, b_strides), i % M, i / M % N);
}

extern "C" __global__ void matmul_coalesced(
        const float* __restrict__ A, const float* __restrict__ B, const float* OPTIONAL bias,
        float* __restrict__ C, int M, int N, int K, long long lda, long long ldb, int transpose_a,
        int transpose_b, int activation, int ndim, const __grid_constant__ Dims batch,
        const __grid_constant__ Dims a_strides, const __grid_constant__ Dims b_strides,
        long long batches) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= batches * M * N) return;
    Product p{A, B, bias, C, M, N, K, transpose_a, transpose_b, activation, lda, ldb};
    compute_entry(p.at(i / M / N, ndim, batch, a_strides, b_strides), i / N % M, i % N);
}

// --- tiles in shared memory

extern "C" __global__ void __launch_bounds__(256) matmul_tiles(
        const float* __restrict__ A, const float* __restrict__ B, const float* OPTIONAL bias,
        float* __restrict__ C, int M, int N, int K, long long lda, long long ldb, int transpose_a,
        int transpose_b, int activation, int ndim, const __grid_constant__ Dims batch,
        const __grid_constant__ Dims a_strides, const __grid_constant__ Dims b_strides,
        long long batches) {
    __shared__ float a[16][17];  // a column more, so that a transposed store hits 16 banks, not one
    __shared__ float b[16][17];
    Product p{A, B, bias, C, M, N, K, transpose_a, transpose_b, activation, lda, ldb};
    Place place = place_of_block(p, 16, 16);
    p = p.at(place.matrix, ndim, batch, a_strides, b_strides);
    int x = threadIdx.x, y = threadIdx.y;
    // Neighbouring threads read neighbouring addresses: along k or along m and n, as they lie.
    int am = transpose_a ? x : y, ak = transpose_a ? y : x;
    int bn = transpose_b ? y : x, bk = transpose_b ? x : y;
    float sum = 0.0f;
    for (int k0 = 0; k0 < K; k0 += 16) {
        // Outside the matrices the tiles hold zeros, which add nothing.
        a[am][ak] = place.m + am < M && k0 + ak < K ? p.a(place.m + am, k0 + ak) : 0.0f;
        b[bk][bn] = k0 + bk < K && place.n + bn < N ? p.b(k0 + bk, place.n + bn) : 0.0f;
        __syncthreads();
        for (int k = 0; k < 16; k++) sum += a[y][k] * b[k][x];
        __syncthreads();  // before the next round overwrites the tiles
    }
    p.store(place.m + y, place.n + x, sum);
}

// --- tiles in registers

// The 8 x 8 entries of a thread are four pieces of 4 x 4, half a tile apart: so neighbouring
// threads read neighbouring float4 of shared memory, which puts no two in one bank. `x` and `y` are
// the thread's place among SIDE x SIDE threads; a tile has 8 SIDE rows and columns.
template <int SIDE, int DEPTH>
__device__ inline void multiply(const float4 (&a)[DEPTH][2 * SIDE],
                                const float4 (&b)[DEPTH][2 * SIDE], int x, int y,
                                float (&sum)[8][8]) {
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
        float4 a0 = a[k][y], a1 = a[k][SIDE + y], b0 = b[k][x], b1 = b[k][SIDE + x];
        const float left[8] = {a0.x, a0.y, a0.z, a0.w, a1.x, a1.y, a1.z, a1.w};
        const float right[8] = {b0.x, b0.y, b0.z, b0.w, b1.x, b1.y, b1.z, b1.w};
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int j = 0; j < 8; j++) sum[i][j] += left[i] * right[j];
    }
}

template <int SIDE>
__device__ inline void store_all(const Product& p, Place place, int x, int y,
                                 const float (&sum)[8][8]) {
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 8; j += 4)
            p.store(place.m + i / 4 * 4 * SIDE + 4 * y + i % 4, place.n + j * SIDE + 4 * x,
                    make_float4(sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3]));
}

extern "C" __global__ void __launch_bounds__(64) matmul_registers(
        const float* __restrict__ A, const float* __restrict__ B, const float* OPTIONAL bias,
        float* __restrict__ C, int M, int N, int K, long long lda, long long ldb, int transpose_a,
        int transpose_b, int activation, int ndim, const __grid_constant__ Dims batch,
        const __grid_constant__ Dims a_strides, const __grid_constant__ Dims b_strides,
        long long batches) {
    __shared__ float4 a[16][16];  // [k][m / 4]
    __shared__ float4 b[16][16];  // [k][n / 4]
    Product p{A, B, bias, C, M, N, K, transpose_a, transpose_b, activation, lda, ldb};
    Place place = place_of_block(p, 64, 64);
    p = p.at(place.matrix, ndim, batch, a_strides, b_strides);
    int x = threadIdx.x % 8, y = threadIdx.x / 8;
    float sum[8][8] = {};
    for (int k0 = 0; k0 < K; k0 += 16) {
        fill<64, 64>(a, p.A, lda, transpose_a, place.m, M, k0, K);
        fill<64, 64>(b, p.B, ldb, !transpose_b, place.n, N, k0, K);
        __syncthreads();
        multiply<8, 16>(a, b, x, y, sum);
        __syncthreads();
    }
    store_all<8>(p, place, x, y, sum);
}

// --- four floats at a time, and two buffers

// A thread's four neighbouring floats of each tile of 128 x 8 (tile[k][r]): along r or along k, as
// they lie in memory. `load` goes from tile to tile.
struct Quad {
    const float* from;
    long long step;         // from a tile to the next
    int left, place;        // what is left of the matrix along the four; their place in the tile
    bool along_rows, aligned;
    int deep;               // what is left of it across: rows of k, or whether the row is inside

    __device__ Quad(const float* X, long long ld, bool along_rows, int first, int rows, int K)
        : along_rows(along_rows) {
        int i = threadIdx.x;
        int r = along_rows ? i % 32 * 4 : i / 2, k = along_rows ? i / 32 : i % 2 * 4;
        place = k * 128 + r;
        from = X + (along_rows ? k * ld + first + r : (first + r) * ld + k);
        step = along_rows ? 8 * ld : 8;
        left = along_rows ? rows - first - r : K - k;
        deep = along_rows ? K - k : rows - first - r;
        aligned = ld % 4 == 0 && reinterpret_cast<size_t>(X) % 16 == 0;
    }
    // The next tile's four floats, zero outside of the matrix.
    __device__ float4 load() {
        int inside = deep > 0 ? left : 0;
        float4 four = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (inside >= 4 && aligned) {
            four = *reinterpret_cast<const float4*>(from);
        } else {
            if (inside > 0) four.x = from[0];
            if (inside > 1) four.y = from[1];
            if (inside > 2) four.z = from[2];
            if (inside > 3) four.w = from[3];
        }
        from += step;
        if (along_rows) deep -= 8;
        else left -= 8;
        return four;
    }
    __device__ void store(float4 (&tile)[8][32], float4 four) const {
        float* flat = reinterpret_cast<float*>(tile) + place;
        if (along_rows) {
            *reinterpret_cast<float4*>(flat) = four;
        } else {
            flat[0] = four.x, flat[128] = four.y, flat[256] = four.z, flat[384] = four.w;
        }
    }
};

extern "C" __global__ void __launch_bounds__(256, 2) matmul_vector(
        const float* __restrict__ A, const float* __restrict__ B, const float* OPTIONAL bias,
        float* __restrict__ C, int M, int N, int K, long long lda, long long ldb, int transpose_a,
        int transpose_b, int activation, int ndim, const __grid_constant__ Dims batch,
        const __grid_constant__ Dims a_strides, const __grid_constant__ Dims b_strides,
        long long batches) {
    __shared__ float4 a[2][8][32];
    __shared__ float4 b[2][8][32];
    Product p{A, B, bias, C, M, N, K, transpose_a, transpose_b, activation, lda, ldb};
    Place place = place_of_block(p, 128, 128);
    p = p.at(place.matrix, ndim, batch, a_strides, b_strides);
    Quad from_a(p.A, lda, transpose_a, place.m, M, K);
    Quad from_b(p.B, ldb, !transpose_b, place.n, N, K);
    int x = threadIdx.x % 16, y = threadIdx.x / 16;
    float sum[8][8] = {};
    float4 next_a = from_a.load(), next_b = from_b.load();
    for (int k0 = 0, now = 0; k0 < K; k0 += 8, now ^= 1) {
        from_a.store(a[now], next_a);
        from_b.store(b[now], next_b);
        // The other buffer was read before this barrier, so the next round may overwrite it.
        __syncthreads();
        if (k0 + 8 < K) next_a = from_a.load(), next_b = from_b.load();
        multiply<16, 8>(a[now], b[now], x, y, sum);
    }
    store_all<16>(p, place, x, y, sum);
}

// --- few rows

template <class T>
__device__ inline void multiply_rows(ProductOf<T> p, int ndim, const Dims& batch,
                                     const Dims& a_strides, const Dims& b_strides,
                                     float (&part)[16][4][32]) {
    int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Place place = place_of_block(p, 4, p.transpose_b ? warps : 32);
    p = p.at(place.matrix, ndim, batch, a_strides, b_strides);
    int n = place.n + (p.transpose_b ? warp : lane), last = min(4, p.M - place.m);
    int k0 = p.transpose_b ? lane : warp, step = p.transpose_b ? 32 : warps;
    float sum[4] = {};
    if (n < p.N) {
#pragma unroll 8
        for (int k = k0; k < p.K; k += step) {
            float b = p.b(k, n);
#pragma unroll
            for (int r = 0; r < 4; r++)
                if (r < last) sum[r] += float(p.a(place.m + r, k)) * b;
        }
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        if (p.transpose_b) {
            for (int by = 16; by > 0; by /= 2) sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], by);
            if (lane == 0) p.store(place.m + r, n, sum[r]);
        } else {
            part[warp][r][lane] = sum[r];
        }
    }
    if (p.transpose_b) return;
    __syncthreads();
    for (int i = threadIdx.x; i < 4 * 32; i += blockDim.x) {
        float total = 0.0f;
        for (int w = 0; w < warps; w++) total += part[w][i / 32][i % 32];
        p.store(place.m + i / 32, place.n + i % 32, total);
    }
}

extern "C" __global__ void __launch_bounds__(512) matmul_rows(
        const float* __restrict__ A, const float* __restrict__ B, const float* OPTIONAL bias,
        float* __restrict__ C, int M, int N, int K, long long lda, long long ldb, int transpose_a,
        int transpose_b, int activation, int ndim, const __grid_constant__ Dims batch,
        const __grid_constant__ Dims a_strides, const __grid_constant__ Dims b_strides,
        long long batches) {
    __shared__ float part[16][4][32];  // a warp's sums, by row and lane
    multiply_rows<float>({A, B, bias, C, M, N, K, transpose_a, transpose_b, activation, lda, ldb},
                         ndim, batch, a_strides, b_strides, part);
}

extern "C" __global__ void __launch_bounds__(512, 2) matmul_rows_bf16(
        const __nv_bfloat16* __restrict__ A, const __nv_bfloat16* __restrict__ B,
        const __nv_bfloat16* OPTIONAL bias, __nv_bfloat16* __restrict__ C, int M, int N, int K,
        long long lda, long long ldb, int transpose_a, int transpose_b, int activation, int ndim,
        const __grid_constant__ Dims batch, const __grid_constant__ Dims a_strides,
        const __grid_constant__ Dims b_strides, long long batches) {
    __shared__ float part[16][4][32];
    multiply_rows<__nv_bfloat16>(
        {A, B, bias, C, M, N, K, transpose_a, transpose_b, activation, lda, ldb}, ndim, batch,
        a_strides, b_strides, part);
}
