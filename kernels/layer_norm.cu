// layer_norm.cu - over each row of C numbers (Ba et al. 2016), float32:
//
//   h = (x - mean) rstd,  rstd = 1 / sqrt(var + eps),  var the mean of (x - mean)^2;  y = h w + b
//   backward, with g = dy w:  dx = rstd (g - mean(g) - h mean(g h)),
//                             dw = sum over rows of dy h,  db = sum over rows of dy
//
//   x, y, dy, dx (rows, C);  w, b, dw, db (C,);  mean, rstd (rows,), kept for the backward
//
// The variance is computed from x - mean in a walk of its own: sum(x^2) - mean^2 would cancel. That
// walk also finds what rounding has left of the mean, and corrects both (Chan, Golub and LeVeque
// 1983, the corrected two-pass algorithm): a row of equal numbers gives b, however large they are.
//
// layer_norm_naive      One thread a row, three walks; neighbouring threads read C floats apart.
// layer_norm_warp       One warp a row: lanes read neighbouring addresses; walks two and three find
//                       the row in the cache, if it is still there.
// layer_norm_registers  The row stays in registers, up to 32 columns a lane, 1024 in all: x is read
//                       once for sure.
// layer_norm_vector     The same, four columns in one load: a quarter of the instructions that wait
//                       for memory. C % 4 == 0; x, y, w, b at multiples of 16 bytes.
// layer_norm_block      For long rows, of any length: a block a row, three walks.
// layer_norm_long       For long rows: a block holds the row in its registers, up to 16 columns a
//                       thread, 16384 in all; conditions as for _vector.
//
// add_layer_norm_vector, add_layer_norm_long
//                       The same of x + r, which is stored, too: the sum of a residual stream and
//                       of what a layer adds to it is normalised while it is in registers, and not
//                       read back: 4 walks over arrays of that size, not 5. r, sum (rows, C).
//
// layer_norm_backward_naive    dx: one thread a row.
// layer_norm_backward_rows     dx: one block a row, of any length.
// layer_norm_backward_columns  dw and db: one thread a column, walking down all rows. Goes with
//                              these two, reading x and dy again, with C threads only.
// layer_norm_backward_block    All in one launch: a block takes a row at a time, every gridDim.x-th
//                              one, and adds up dw and db of its rows in shared memory (2 C
//                              floats, dynamic), each thread those of its own columns. Reads x and
//                              dy twice. Its sums go to `parts` (gridDim.x, 2 C).
// layer_norm_backward_vector   The same with everything in registers, four columns in one load: x
//                              and dy are read once, w once a block, and dw and db stay out of
//                              shared memory. Up to 8 columns a thread, 2048 in all; C % 4 == 0;
//                              all arrays at multiples of 16 bytes. plus (rows, C) is added to dx:
//                              what x, a residual stream, has as a gradient already; or null.
// layer_norm_backward_sum      … and here the rows of `parts` are added up, in their order: no
//                              atomics, so the same bits each time. 32 columns a block; its warps
//                              share the rows.
//
// …_bfloat16: of _vector, _long, add_…, backward_vector and backward_sum, with all arrays but mean,
// rstd and parts in bfloat16, whose packs of four are 8 bytes; computed in float32.
//
// blockDim.x: whole warps but for _naive and _columns; _registers, _vector at most 256.
//
// What the emulator counts for 64 rows of 768 columns: loads and stores a warp gives, and the memory
// they touch when no cache helps, in arrays of that size. With a cache that keeps all, each version
// reads x (and dy) once, but for _columns, which makes that twice. Of the forward's reads 2 are w
// and b, which a cache keeps; backward, 8 blocks leave their sums, which are 0.25.
//
//               loads, stores   read   written                    loads, stores   read   written
//   naive               9,220   24.5         8     naive                 10,756   32.5         8
//   warp                9,344      5         1     rows                  11,520    6.1         1
//   registers           6,272      3         1      … and columns         6,192    2.5         0
//   vector              1,664      3         1     block                 11,904    6.1      1.25
//   block               9,344      5         1     vector                 1,680    2.2      1.25
//   long                1,664      3         1      … and sum               432   0.25         0
//   add_…               2,432      4         2     (add, then vector: 2,816      5         2)
//
// The registers of _vector are at most 64 a thread, both ways, so that 32 warps share a
// multiprocessor, and 3 KB of each are on their way from memory at a time; of add_…_vector, 72.
#include "common.cuh"
#include "row.cuh"

// What a second walk makes of the first one's mean m, from the sums of x - m and of its square: the
// mean of x - m is added to m, and its square taken off the variance.
struct Moments {
    float shift, rstd;
    __device__ Moments(Sums rest_squares, int C, float eps) {
        shift = rest_squares.a / C;
        rstd = 1.0f / sqrtf(rest_squares.b / C - shift * shift + eps);
    }
};

// naive, warp and block: a Team (row.cuh) walks along its row three times.
template <class Team>
__device__ void forward_walks(const float* x, const float* w, const float* b, float* y, float* mean,
                              float* rstd, int rows, int C, float eps) {
    long long row = Team::row();
    if (row >= rows) return;  // the whole warp, so the shuffles stay complete
    x += row * C, y += row * C;
    float sum = 0.0f, rest = 0.0f, squares = 0.0f;
    for (int c = Team::first(); c < C; c += Team::step()) sum += x[c];
    float m = Team::sum(sum) / C;
    for (int c = Team::first(); c < C; c += Team::step()) {
        float d = x[c] - m;
        rest += d;
        squares += d * d;
    }
    Moments moments(Team::sums(rest, squares), C, eps);
    for (int c = Team::first(); c < C; c += Team::step())
        y[c] = (x[c] - m - moments.shift) * moments.rstd * w[c] + b[c];
    if (Team::first() == 0) mean[row] = m + moments.shift, rstd[row] = moments.rstd;
}

// Where a row comes from: from memory, or it is the sum of two, and stored; of bfloat16, as rounded.
template <int WIDTH, class T> struct Given {
    const T* x;
    __device__ void go_to(long long element) { x += element; }
    __device__ Pack<WIDTH> pack(int p) const { return load_pack<WIDTH>(x, p); }
};
template <int WIDTH, class T> struct Summed {
    const T *x, *r;
    T* sum;
    __device__ void go_to(long long element) { x += element, r += element, sum += element; }
    __device__ Pack<WIDTH> pack(int p) const {
        Pack<WIDTH> s = load_pack<WIDTH>(x, p), more = load_pack<WIDTH>(r, p);
        for (int j = 0; j < WIDTH; j++) s.v[j] = float(T(s.v[j] + more.v[j]));
        store_pack(sum, p, s);
        return s;
    }
};

// registers, vector and long: each thread of a Team holds up to N packs of its row.
template <class Team, int WIDTH, int N, class T, template <int, class> class Source>
__device__ void forward_held(Source<WIDTH, T> source, const T* w, const T* b, T* y, float* mean,
                             float* rstd, int rows, int C, float eps) {
    long long row = Team::row();
    if (row >= rows) return;
    source.go_to(row * C);
    int first = Team::first(), step = Team::step(), packs = C / WIDTH;
    Pack<WIDTH> held[N];  // all loops are unrolled, so that each float has a register of its own
    float sum = 0.0f, rest = 0.0f, squares = 0.0f;
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (first + step * i >= packs) continue;
        held[i] = source.pack(first + step * i);
        for (float v : held[i].v) sum += v;
    }
    float m = Team::sum(sum) / C;
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (first + step * i >= packs) continue;
        for (float& v : held[i].v) {
            v -= m;
            rest += v;
            squares += v * v;
        }
    }
    Moments moments(Team::sums(rest, squares), C, eps);
#pragma unroll
    for (int i = 0; i < N; i++) {
        int p = first + step * i;
        if (p >= packs) continue;
        Pack<WIDTH> scale = load_pack<WIDTH>(w, p), shift = load_pack<WIDTH>(b, p);
        for (int j = 0; j < WIDTH; j++) {
            float h = (held[i].v[j] - moments.shift) * moments.rstd;
            held[i].v[j] = h * scale.v[j] + shift.v[j];
        }
        store_pack(y + row * C, p, held[i]);
    }
    if (first == 0) mean[row] = m + moments.shift, rstd[row] = moments.rstd;
}

extern "C" __global__ void layer_norm_naive(
        const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b,
        float* __restrict__ y, float* __restrict__ mean, float* __restrict__ rstd, int rows, int C,
        float eps) {
    forward_walks<Thread>(x, w, b, y, mean, rstd, rows, C, eps);
}
extern "C" __global__ void layer_norm_warp(
        const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b,
        float* __restrict__ y, float* __restrict__ mean, float* __restrict__ rstd, int rows, int C,
        float eps) {
    forward_walks<Warp>(x, w, b, y, mean, rstd, rows, C, eps);
}
extern "C" __global__ void __launch_bounds__(256) layer_norm_registers(
        const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b,
        float* __restrict__ y, float* __restrict__ mean, float* __restrict__ rstd, int rows, int C,
        float eps) {
    forward_held<Warp, 1, 32>(Given<1, float>{x}, w, b, y, mean, rstd, rows, C, eps);
}
extern "C" __global__ void __launch_bounds__(256) layer_norm_vector(
        const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b,
        float* __restrict__ y, float* __restrict__ mean, float* __restrict__ rstd, int rows, int C,
        float eps) {
    forward_held<Warp, 4, 8>(Given<4, float>{x}, w, b, y, mean, rstd, rows, C, eps);
}
extern "C" __global__ void layer_norm_block(
        const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b,
        float* __restrict__ y, float* __restrict__ mean, float* __restrict__ rstd, int rows, int C,
        float eps) {
    forward_walks<Block>(x, w, b, y, mean, rstd, rows, C, eps);
}
extern "C" __global__ void __launch_bounds__(1024) layer_norm_long(
        const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b,
        float* __restrict__ y, float* __restrict__ mean, float* __restrict__ rstd, int rows, int C,
        float eps) {
    forward_held<Block, 4, 4>(Given<4, float>{x}, w, b, y, mean, rstd, rows, C, eps);
}
extern "C" __global__ void __launch_bounds__(256) add_layer_norm_vector(
        const float* __restrict__ x, const float* __restrict__ r, const float* __restrict__ w,
        const float* __restrict__ b, float* __restrict__ sum, float* __restrict__ y,
        float* __restrict__ mean, float* __restrict__ rstd, int rows, int C, float eps) {
    forward_held<Warp, 4, 8>(Summed<4, float>{x, r, sum}, w, b, y, mean, rstd, rows, C, eps);
}
extern "C" __global__ void __launch_bounds__(1024) add_layer_norm_long(
        const float* __restrict__ x, const float* __restrict__ r, const float* __restrict__ w,
        const float* __restrict__ b, float* __restrict__ sum, float* __restrict__ y,
        float* __restrict__ mean, float* __restrict__ rstd, int rows, int C, float eps) {
    forward_held<Block, 4, 4>(Summed<4, float>{x, r, sum}, w, b, y, mean, rstd, rows, C, eps);
}
extern "C" __global__ void __launch_bounds__(256) layer_norm_vector_bfloat16(
        const __nv_bfloat16* __restrict__ x, const __nv_bfloat16* __restrict__ w,
        const __nv_bfloat16* __restrict__ b, __nv_bfloat16* __restrict__ y,
        float* __restrict__ mean, float* __restrict__ rstd, int rows, int C, float eps) {
    forward_held<Warp, 4, 8>(Given<4, __nv_bfloat16>{x}, w, b, y, mean, rstd, rows, C, eps);
}
extern "C" __global__ void __launch_bounds__(1024) layer_norm_long_bfloat16(
        const __nv_bfloat16* __restrict__ x, const __nv_bfloat16* __restrict__ w,
        const __nv_bfloat16* __restrict__ b, __nv_bfloat16* __restrict__ y,
        float* __restrict__ mean, float* __restrict__ rstd, int rows, int C, float eps) {
    forward_held<Block, 4, 4>(Given<4, __nv_bfloat16>{x}, w, b, y, mean, rstd, rows, C, eps);
}
extern "C" __global__ void __launch_bounds__(256) add_layer_norm_vector_bfloat16(
        const __nv_bfloat16* __restrict__ x, const __nv_bfloat16* __restrict__ r,
        const __nv_bfloat16* __restrict__ w, const __nv_bfloat16* __restrict__ b,
        __nv_bfloat16* __restrict__ sum, __nv_bfloat16* __restrict__ y,
        float* __restrict__ mean, float* __restrict__ rstd, int rows, int C, float eps) {
    forward_held<Warp, 4, 8>(Summed<4, __nv_bfloat16>{x, r, sum}, w, b, y, mean, rstd, rows, C, eps);
}
extern "C" __global__ void __launch_bounds__(1024) add_layer_norm_long_bfloat16(
        const __nv_bfloat16* __restrict__ x, const __nv_bfloat16* __restrict__ r,
        const __nv_bfloat16* __restrict__ w, const __nv_bfloat16* __restrict__ b,
        __nv_bfloat16* __restrict__ sum, __nv_bfloat16* __restrict__ y,
        float* __restrict__ mean, float* __restrict__ rstd, int rows, int C, float eps) {
    forward_held<Block, 4, 4>(Summed<4, __nv_bfloat16>{x, r, sum}, w, b, y, mean, rstd, rows, C, eps);
}

// --- backward

template <class Team>
__device__ void backward_walks(const float* dy, const float* x, const float* w, const float* mean,
                               const float* rstd, float* dx, int rows, int C) {
    long long row = Team::row();
    if (row >= rows) return;
    dy += row * C, x += row * C, dx += row * C;
    float m = mean[row], r = rstd[row], sum_g = 0.0f, sum_gh = 0.0f;
    for (int c = Team::first(); c < C; c += Team::step()) {
        float g = dy[c] * w[c];
        sum_g += g;
        sum_gh += g * ((x[c] - m) * r);
    }
    Sums whole = Team::sums(sum_g, sum_gh);
    float mean_g = whole.a / C, mean_gh = whole.b / C;
    for (int c = Team::first(); c < C; c += Team::step())
        dx[c] = r * (dy[c] * w[c] - mean_g - (x[c] - m) * r * mean_gh);
}

extern "C" __global__ void layer_norm_backward_naive(
        const float* __restrict__ dy, const float* __restrict__ x, const float* __restrict__ w,
        const float* __restrict__ mean, const float* __restrict__ rstd, float* __restrict__ dx,
        int rows, int C) {
    backward_walks<Thread>(dy, x, w, mean, rstd, dx, rows, C);
}
extern "C" __global__ void layer_norm_backward_rows(
        const float* __restrict__ dy, const float* __restrict__ x, const float* __restrict__ w,
        const float* __restrict__ mean, const float* __restrict__ rstd, float* __restrict__ dx,
        int rows, int C) {
    backward_walks<Block>(dy, x, w, mean, rstd, dx, rows, C);
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

template <class T>
__device__ void backward_held(const T* dy, const T* x, const T* w, const float* mean,
                              const float* rstd, const T* plus, T* dx, float* parts, int rows,
                              int C) {
    constexpr int N = 2;
    int quads = C / 4, threads = blockDim.x;
    Pack<4> weight[N] = {}, sum_w[N] = {}, sum_b[N] = {}, d[N], h[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
        int q = threadIdx.x + threads * i;
        if (q < quads) weight[i] = load_pack<4>(w, q);
    }
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        float m = mean[row], r = rstd[row], sum_g = 0.0f, sum_gh = 0.0f;
#pragma unroll
        for (int i = 0; i < N; i++) {
            int q = threadIdx.x + threads * i;
            if (q >= quads) continue;
            d[i] = load_pack<4>(dy + row * C, q);
            h[i] = load_pack<4>(x + row * C, q);
            for (int j = 0; j < 4; j++) {
                float& hat = h[i].v[j];
                hat = (hat - m) * r;
                sum_w[i].v[j] += d[i].v[j] * hat;
                sum_b[i].v[j] += d[i].v[j];
                d[i].v[j] *= weight[i].v[j];  // g from here on
                sum_g += d[i].v[j];
                sum_gh += d[i].v[j] * hat;
            }
        }
        Sums whole = block_sums(sum_g, sum_gh);
        float mean_g = whole.a / C, mean_gh = whole.b / C;
#pragma unroll
        for (int i = 0; i < N; i++) {
            int q = threadIdx.x + threads * i;
            if (q >= quads) continue;
            for (int j = 0; j < 4; j++)
                d[i].v[j] = r * (d[i].v[j] - mean_g - h[i].v[j] * mean_gh);
            if (plus) {
                Pack<4> more = load_pack<4>(plus + row * C, q);
                for (int j = 0; j < 4; j++) d[i].v[j] += more.v[j];
            }
            store_pack(dx + row * C, q, d[i]);
        }
    }
    Pack<4>* to = packs_of<4>(parts + (long long)blockIdx.x * 2 * C);
#pragma unroll
    for (int i = 0; i < N; i++) {
        int q = threadIdx.x + threads * i;
        if (q < quads) to[q] = sum_w[i], to[quads + q] = sum_b[i];
    }
}

extern "C" __global__ void __launch_bounds__(256) layer_norm_backward_vector(
        const float* __restrict__ dy, const float* __restrict__ x, const float* __restrict__ w,
        const float* __restrict__ mean, const float* __restrict__ rstd,
        const float* __restrict__ OPTIONAL plus, float* __restrict__ dx, float* __restrict__ parts,
        int rows, int C) {
    backward_held(dy, x, w, mean, rstd, plus, dx, parts, rows, C);
}
extern "C" __global__ void __launch_bounds__(256) layer_norm_backward_vector_bfloat16(
        const __nv_bfloat16* __restrict__ dy, const __nv_bfloat16* __restrict__ x,
        const __nv_bfloat16* __restrict__ w, const float* __restrict__ mean,
        const float* __restrict__ rstd, const __nv_bfloat16* __restrict__ OPTIONAL plus,
        __nv_bfloat16* __restrict__ dx, float* __restrict__ parts, int rows, int C) {
    backward_held(dy, x, w, mean, rstd, plus, dx, parts, rows, C);
}

template <class T>
__device__ void sum_parts(const float* parts, T* dw, T* db, int rows, int C) {
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
    if (c < C) dw[c] = T(sum);
    else db[c - C] = T(sum);
}

extern "C" __global__ void layer_norm_backward_sum(const float* __restrict__ parts,
                                                   float* __restrict__ dw, float* __restrict__ db,
                                                   int rows, int C) {
    sum_parts(parts, dw, db, rows, C);
}
extern "C" __global__ void layer_norm_backward_sum_bfloat16(
        const float* __restrict__ parts, __nv_bfloat16* __restrict__ dw,
        __nv_bfloat16* __restrict__ db, int rows, int C) {
    sum_parts(parts, dw, db, rows, C);
}
