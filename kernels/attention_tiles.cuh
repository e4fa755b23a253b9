// attention_tiles.cuh - tiles of q, k, v and of the scores, and the products of them.
//
// A tile of D columns is stored row by row in float4, one more than needed in a row: so that the
// eight neighbouring rows that eight threads read lie in different banks. Thread (x, y) of a block
// has x of 8 and y of ROWS / 4: its four rows are y + ROWS / 4 * i, its columns x + 8 j. The eight
// threads of a row are in one warp.
#pragma once
#include "attention.cuh"

template <int D, int N>
struct Tile {
    float4 row[N][D / 4 + 1];
};

// tile = factor times rows first … first + N - 1 of x, zero from row `rows` and from `columns` on.
// vector: 1 if four floats can be loaded at once.
template <int D, int N, int THREADS>
__device__ inline void load(Tile<D, N>& tile, Input x, int first, int rows, int columns,
                            float factor, int vector) {
#pragma unroll 4
    for (int i = threadIdx.x; i < N * D / 4; i += THREADS) {
        int r = i / (D / 4), c = i % (D / 4) * 4;
        const float* from = x.row(first + r) + c;
        float4 four = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (first + r < rows) {
            if (vector && c < columns) {
                four = *reinterpret_cast<const float4*>(from);
            } else {
                if (c < columns) four.x = from[0];
                if (c + 1 < columns) four.y = from[1];
                if (c + 2 < columns) four.z = from[2];
                if (c + 3 < columns) four.w = from[3];
            }
        }
        tile.row[r][c / 4] =
            make_float4(four.x * factor, four.y * factor, four.z * factor, four.w * factor);
    }
}

// s[i][j] = row y + M / 4 i of a times row x + 8 j of b
template <int D, int M, int N>
__device__ inline void products(const Tile<D, M>& a, const Tile<D, N>& b, int x, int y,
                                float (&s)[4][N / 8]) {
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < N / 8; j++) s[i][j] = 0.0f;
#pragma unroll 4
    for (int d = 0; d < D / 4; d++) {
        float4 left[4];
#pragma unroll
        for (int i = 0; i < 4; i++) left[i] = a.row[y + M / 4 * i][d];
#pragma unroll
        for (int j = 0; j < N / 8; j++) {
            float4 right = b.row[x + 8 * j][d];
#pragma unroll
            for (int i = 0; i < 4; i++)
                s[i][j] += (left[i].x * right.x + left[i].y * right.y) +
                           (left[i].z * right.z + left[i].w * right.w);
        }
    }
}

// Scores, or what becomes of them: [row][column]
template <int M, int N>
struct Weights {
    float at[M][N + 4];
};

// o[i][c] += row y + M / 4 i of w times columns 4 (x + 8 c) … + 3 of v
template <int D, int M, int N>
__device__ inline void add_products(const Weights<M, N>& w, const Tile<D, N>& v, int x, int y,
                                    float4 (&o)[4][D / 32]) {
#pragma unroll 4
    for (int n = 0; n < N; n++) {
        float left[4];
#pragma unroll
        for (int i = 0; i < 4; i++) left[i] = w.at[y + M / 4 * i][n];
#pragma unroll
        for (int c = 0; c < D / 32; c++) {
            float4 right = v.row[n][x + 8 * c];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                o[i][c].x += left[i] * right.x;
                o[i][c].y += left[i] * right.y;
                o[i][c].z += left[i] * right.z;
                o[i][c].w += left[i] * right.w;
            }
        }
    }
}

// The dropout's factors of a tile, into the place where its weights will be: w.at[t][s], or with
// KEYS_ARE_ROWS w.at[s][t]. A thread takes four neighbouring keys, which share a counter's bits.
template <int M, int N, int THREADS, bool KEYS_ARE_ROWS>
__device__ inline void fill_factors(Weights<M, N>& w, const Head& head, int t0, int s0) {
    Philox random(head.seed, head.draw);
    for (int i = threadIdx.x; i < M * N / 4; i += THREADS) {
        int t = KEYS_ARE_ROWS ? i % N : i / (N / 4), s = (KEYS_ARE_ROWS ? i / N : i % (N / 4)) * 4;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float factor = head.kept(random, t0 + t, s0 + s + j);
            if (KEYS_ARE_ROWS) w.at[s + j][t] = factor;
            else w.at[t][s + j] = factor;
        }
    }
}

// A thread's four results of a row, in the first `columns` columns of `to`.
__device__ inline void store(float* to, int c, int columns, float4 o, float factor, int vector) {
    o = make_float4(o.x * factor, o.y * factor, o.z * factor, o.w * factor);
    if (vector && c < columns) {
        *reinterpret_cast<float4*>(to + c) = o;
        return;
    }
    if (c < columns) to[c] = o.x;
    if (c + 1 < columns) to[c + 1] = o.y;
    if (c + 2 < columns) to[c + 2] = o.z;
    if (c + 3 < columns) to[c + 3] = o.w;
}
// Its results of a row: columns 4 (x + 8 c) … + 3.
template <int D>
__device__ inline void store_row(float* to, int x, int columns, const float4 (&o)[D / 32],
                                 float factor, int vector) {
#pragma unroll
    for (int c = 0; c < D / 32; c++) store(to, 4 * (x + 8 * c), columns, o[c], factor, vector);
}

// The number of a block among those of its head, counted from the last one: the last queries see
// the most keys, so their blocks begin first.
__device__ inline int block_from_the_last(int heads) {
    return (gridDim.x - 1 - blockIdx.x) / heads;
}
