// layer_norm.cu - over each row of C numbers (Ba et al. 2016), float32:
//
//   h = (x - mean) rstd,  rstd = 1 / sqrt(var + eps),  var the mean of (x - mean)^2;  y = h w + b
//   backward, with g = dy w:  dx = rstd (g - mean(g) - h mean(g h)),
//                             dw = sum over rows of dy h,  db = sum over rows of dy
//
//   x, y, dy, dx (rows, C);  w, b, dw, db (C,);  mean, rstd (rows,), kept for the backward
//
// The variance is computed from x - mean in a walk of its own: sum(x^2) - mean^2 would cancel.
//
// layer_norm_naive      One thread a row, three walks; neighbouring threads read C floats apart.
// layer_norm_warp       One warp a row: lanes read neighbouring addresses; walks two and three find
//                       the row in the cache. blockDim.x: whole warps.
// layer_norm_registers  The same with the row in registers, up to 2048 columns, loaded four at a
//                       time: x is read once, by a quarter of the instructions. C % 4 == 0; x, y,
//                       w, b at multiples of 16 bytes. blockDim.x: whole warps.
//
// layer_norm_backward_naive    dx: one thread a row.
// layer_norm_backward_columns  dw and db: one thread a column, walking down all rows. Goes with
//                              the naive dx, reading x and dy a second time, with C threads only.
// layer_norm_backward_block    All in one walk over x and dy: a block takes a row at a time, every
//                              gridDim.x-th one, and adds up dw and db of its rows in shared memory
//                              (2 C floats, dynamic), each thread those of its own columns. Its
//                              sums go to `parts` (gridDim.x, 2 C).
// layer_norm_backward_sum      … and here the rows of `parts` are added up, in their order: no
//                              atomics, so the same bits each time. 32 columns a block; its warps
//                              share the rows.
#include "row.cuh"

extern "C" __global__ void layer_norm_naive(
        const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b,
        float* __restrict__ y, float* __restrict__ mean, float* __restrict__ rstd, int rows, int C,
        float eps) {
    long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    x += row * C, y += row * C;
    float sum = 0.0f, squares = 0.0f;
    for (int c = 0; c < C; c++) sum += x[c];
    float m = sum / C;
    for (int c = 0; c < C; c++) squares += (x[c] - m) * (x[c] - m);
    float r = 1.0f / sqrtf(squares / C + eps);
    for (int c = 0; c < C; c++) y[c] = (x[c] - m) * r * w[c] + b[c];
    mean[row] = m;
    rstd[row] = r;
}

extern "C" __global__ void layer_norm_warp(
        const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b,
        float* __restrict__ y, float* __restrict__ mean, float* __restrict__ rstd, int rows, int C,
        float eps) {
    long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (row >= rows) return;  // the whole warp, so the shuffles stay complete
    x += row * C, y += row * C;
    float sum = 0.0f, squares = 0.0f;
    for (int c = lane; c < C; c += 32) sum += x[c];
    float m = warp_sum(sum) / C;
    for (int c = lane; c < C; c += 32) squares += (x[c] - m) * (x[c] - m);
    float r = 1.0f / sqrtf(warp_sum(squares) / C + eps);
    for (int c = lane; c < C; c += 32) y[c] = (x[c] - m) * r * w[c] + b[c];
    if (lane == 0) mean[row] = m, rstd[row] = r;
}

extern "C" __global__ void __launch_bounds__(256) layer_norm_registers(
        const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b,
        float* __restrict__ y, float* __restrict__ mean, float* __restrict__ rstd, int rows, int C,
        float eps) {
    long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int lane = threadIdx.x % 32, quads = C / 4;
    if (row >= rows) return;
    const float4* x4 = reinterpret_cast<const float4*>(x + row * C);
    const float4* w4 = reinterpret_cast<const float4*>(w);
    const float4* b4 = reinterpret_cast<const float4*>(b);
    float4* y4 = reinterpret_cast<float4*>(y + row * C);
    float4 held[16];  // unrolled, so that each has a register of its own
    float sum = 0.0f, squares = 0.0f;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        int q = lane + 32 * i;
        if (q >= quads) continue;
        float4 v = held[i] = x4[q];
        sum += (v.x + v.y) + (v.z + v.w);
    }
    float m = warp_sum(sum) / C;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        if (lane + 32 * i >= quads) continue;
        float4& v = held[i];
        v.x -= m, v.y -= m, v.z -= m, v.w -= m;
        squares += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
    }
    float r = 1.0f / sqrtf(warp_sum(squares) / C + eps);
#pragma unroll
    for (int i = 0; i < 16; i++) {
        int q = lane + 32 * i;
        if (q >= quads) continue;
        float4 v = held[i], s = w4[q], t = b4[q];
        y4[q] = make_float4(v.x * r * s.x + t.x, v.y * r * s.y + t.y, v.z * r * s.z + t.z,
                            v.w * r * s.w + t.w);
    }
    if (lane == 0) mean[row] = m, rstd[row] = r;
}

// --- backward

extern "C" __global__ void layer_norm_backward_naive(
        const float* __restrict__ dy, const float* __restrict__ x, const float* __restrict__ w,
        const float* __restrict__ mean, const float* __restrict__ rstd, float* __restrict__ dx,
        int rows, int C) {
    long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    dy += row * C, x += row * C, dx += row * C;
    float m = mean[row], r = rstd[row], sum_g = 0.0f, sum_gh = 0.0f;
    for (int c = 0; c < C; c++) {
        float g = dy[c] * w[c];
        sum_g += g;
        sum_gh += g * ((x[c] - m) * r);
    }
    for (int c = 0; c < C; c++)
        dx[c] = r * (dy[c] * w[c] - sum_g / C - (x[c] - m) * r * (sum_gh / C));
}

extern "C" __global__ void layer_norm_backward_columns(
        const float* __restrict__ dy, const float* __restrict__ x, const float* __restrict__ mean,
        const float* __restrict__ rstd, float* __restrict__ dw, float* __restrict__ db, int rows,
        int C) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= C) return;
    float sum_w = 0.0f, sum_b = 0.0f;
    for (long long row = 0; row < rows; row++) {
        float d = dy[row * C + c];
        sum_w += d * ((x[row * C + c] - mean[row]) * rstd[row]);
        sum_b += d;
    }
    dw[c] = sum_w;
    db[c] = sum_b;
}

extern "C" __global__ void layer_norm_backward_block(
        const float* __restrict__ dy, const float* __restrict__ x, const float* __restrict__ w,
        const float* __restrict__ mean, const float* __restrict__ rstd, float* __restrict__ dx,
        float* __restrict__ parts, int rows, int C) {
    extern __shared__ float sums[];  // dw, then db, of this block's rows
    int T = blockDim.x;
    for (int c = threadIdx.x; c < C; c += T) sums[c] = sums[C + c] = 0.0f;
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const float* dy_row = dy + row * C;
        const float* x_row = x + row * C;
        float m = mean[row], r = rstd[row], sum_g = 0.0f, sum_gh = 0.0f;
        for (int c = threadIdx.x; c < C; c += T) {
            float d = dy_row[c], h = (x_row[c] - m) * r, g = d * w[c];
            sum_g += g;
            sum_gh += g * h;
            sums[c] += d * h;
            sums[C + c] += d;
        }
        Sums whole = block_sums(sum_g, sum_gh);
        float mean_g = whole.a / C, mean_gh = whole.b / C;
        for (int c = threadIdx.x; c < C; c += T)
            dx[row * C + c] = r * (dy_row[c] * w[c] - mean_g - (x_row[c] - m) * r * mean_gh);
    }
    for (int i = threadIdx.x; i < C; i += T) {
        parts[(long long)blockIdx.x * 2 * C + i] = sums[i];
        parts[(long long)blockIdx.x * 2 * C + C + i] = sums[C + i];
    }
}

extern "C" __global__ void layer_norm_backward_sum(const float* __restrict__ parts,
                                                   float* __restrict__ dw, float* __restrict__ db,
                                                   int rows, int C) {
    __shared__ float part[32][32];
    int warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x % 32;
    int c = blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (c < 2 * C)
        for (int row = warp; row < rows; row += warps) sum += parts[(long long)row * 2 * C + c];
    part[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || c >= 2 * C) return;
    sum = 0.0f;
    for (int other = 0; other < warps; other++) sum += part[other][lane];
    if (c < C) dw[c] = sum;
    else db[c - C] = sum;
}
