// softmax.cu - over each row: y = exp(x - m) / sum of exp(x - m), m the row's maximum; log_softmax,
// y = x - m - log(sum of exp(x - m)); and their derivatives, from dy and y alone:
//
//   softmax      dx = y (dy - sum of dy y)
//   log_softmax  dx = dy - exp(y) (sum of dy)
//
// All arrays are (rows, cols) float32, row by row. A row of -inf alone gives NaN, as in NumPy.
//
// …_naive      One thread a row, three walks along it (backward: two). Neighbouring threads read
//              addresses `cols` apart, so each read fetches 32 bytes of memory for the sake of 4.
// …_warp       One warp a row: lanes read neighbouring addresses, and all that is fetched is used;
//              partial results meet in five shuffles. Still three walks: where the cache keeps the
//              row, memory is read once.
// …_registers  The row stays in registers, up to 32 columns a lane, 1024 in all: x is read once for
//              sure, and each exponential computed once. For rows of any length up to that.
// …_vector     The same, four columns in one load of 16 bytes: a quarter of the instructions that
//              wait for memory, and fewer registers for addresses: at most 64 a thread, backward 80
//              (_registers: 96 and 128), so that 32 warps, or 24, share a multiprocessor.
//              cols % 4 == 0; the arrays at multiples of 16 bytes.
// …_block      For long rows, which no warp's registers hold: one block a row, so that few rows keep
//              a GPU busy, too. Maximum and sum come from one walk (Online in row.cuh), and x is
//              read twice, not three times. For comparison; the model uses the next one:
// …_long       The same, four columns a load, wherever the row begins. The arrays at multiples of
//              16 bytes.
//
// blockDim.x: whole warps but for _naive; _registers and _vector at most 256.
//
// What the emulator counts for 64 rows of 768 columns: loads and stores a warp gives, and the memory
// that they touch when no cache helps, in arrays of that size. With a cache that keeps all, each
// version reads x (dy and y) once.
//
//             forward: loads, stores    read   written     backward: loads, stores    read   written
//   naive                      6,144      24         8                       7,680      32         8
//   warp                       6,144       3         1                       7,680       4         1
//   registers                  3,072       1         1                       4,608       2         1
//   vector                       768       1         1                       1,152       2         1
//   block                      4,608       2         1                       7,680       4         1
//   long                       1,152       2         1                       1,920       4         1
#include "row.cuh"

// keep: what is kept of z = x - m and e = exp(z) until the sum is known, and the result from it.
// What is not kept is not computed, and the logarithm only once a row: the compiler sees to both.
struct Softmax {
    __device__ static float keep(float, float e) { return e; }
    __device__ static float y(float kept, float sum) { return kept / sum; }
    __device__ static float addend(float dy, float y) { return dy * y; }
    __device__ static float dx(float dy, float y, float total) { return y * (dy - total); }
};
struct LogSoftmax {
    __device__ static float keep(float z, float) { return z; }
    __device__ static float y(float kept, float sum) { return kept - logf(sum); }
    __device__ static float addend(float dy, float) { return dy; }
    __device__ static float dx(float dy, float y, float total) { return dy - expf(y) * total; }
};

template <class F> __device__ inline float result(float x, float max, float sum) {
    return F::y(F::keep(x - max, expf(x - max)), sum);
}

// naive and warp: a Team (row.cuh) walks along its row three times.
template <class F, class Team>
__device__ void forward_walks(const float* x, float* y, int rows, int cols) {
    long long row = Team::row();
    if (row >= rows) return;  // the whole warp, so the shuffles stay complete
    x += row * cols, y += row * cols;
    float max = -INFINITY, sum = 0.0f;
    for (int c = Team::first(); c < cols; c += Team::step()) max = fmaxf(max, x[c]);
    max = Team::max(max);
    for (int c = Team::first(); c < cols; c += Team::step()) sum += expf(x[c] - max);
    sum = Team::sum(sum);
    for (int c = Team::first(); c < cols; c += Team::step()) y[c] = result<F>(x[c], max, sum);
}

// registers (32 packs of one) and vector (8 packs of four): a lane holds its share of the row.
template <class F, int WIDTH>
__device__ void forward_held(const float* x, float* y, int rows, int cols) {
    constexpr int N = 32 / WIDTH;
    long long row = Warp::row();
    if (row >= rows) return;
    const Pack<WIDTH>* from = packs_of<WIDTH>(x + row * cols);
    Pack<WIDTH>* to = packs_of<WIDTH>(y + row * cols);
    int lane = Warp::first(), packs = cols / WIDTH;
    Pack<WIDTH> held[N];  // all loops are unrolled, so that each float has a register of its own
    float max = -INFINITY, sum = 0.0f;
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (lane + 32 * i >= packs) continue;
        held[i] = from[lane + 32 * i];
        for (float v : held[i].v) max = fmaxf(max, v);
    }
    max = warp_max(max);
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (lane + 32 * i >= packs) continue;
        for (float& v : held[i].v) {
            float z = v - max, e = expf(z);
            sum += e;
            v = F::keep(z, e);
        }
    }
    sum = warp_sum(sum);
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (lane + 32 * i >= packs) continue;
        for (float& v : held[i].v) v = F::y(v, sum);
        to[lane + 32 * i] = held[i];
    }
}

template <class F> __device__ void forward_block(const float* x, float* y, int cols) {
    x += Block::row() * cols, y += Block::row() * cols;
    Online own;
    for (int c = Block::first(); c < cols; c += Block::step()) own.add(x[c]);
    own = block_merge(own);
    for (int c = Block::first(); c < cols; c += Block::step())
        y[c] = result<F>(x[c], own.max, own.sum);
}

template <class F> __device__ void forward_long(const float* x, float* y, int cols) {
    x += Block::row() * cols, y += Block::row() * cols;
    Online own;
    own.add_row(x, cols);
    own = block_merge(own);
    Quads quads(x, cols);
    const Pack<4>* from = packs_of<4>(x + quads.before);
    Pack<4>* to = packs_of<4>(y + quads.before);
    for (int i = Block::first(); i < quads.count; i += Block::step()) {
        Pack<4> four = from[i];
        for (float& v : four.v) v = result<F>(v, own.max, own.sum);
        to[i] = four;
    }
    int left = quads.left(Block::first());
    if (left < cols) y[left] = result<F>(x[left], own.max, own.sum);
}

// --- backward

// naive, warp and block
template <class F, class Team>
__device__ void backward_walks(const float* dy, const float* y, float* dx, int rows, int cols) {
    long long row = Team::row();
    if (row >= rows) return;
    dy += row * cols, y += row * cols, dx += row * cols;
    float total = 0.0f;
    for (int c = Team::first(); c < cols; c += Team::step()) total += F::addend(dy[c], y[c]);
    total = Team::sum(total);
    for (int c = Team::first(); c < cols; c += Team::step()) dx[c] = F::dx(dy[c], y[c], total);
}

template <class F, int WIDTH>
__device__ void backward_held(const float* dy, const float* y, float* dx, int rows, int cols) {
    constexpr int N = 32 / WIDTH;
    long long row = Warp::row();
    if (row >= rows) return;
    const Pack<WIDTH>* from_dy = packs_of<WIDTH>(dy + row * cols);
    const Pack<WIDTH>* from_y = packs_of<WIDTH>(y + row * cols);
    Pack<WIDTH>* to = packs_of<WIDTH>(dx + row * cols);
    int lane = Warp::first(), packs = cols / WIDTH;
    Pack<WIDTH> d[N], p[N];
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (lane + 32 * i >= packs) continue;
        d[i] = from_dy[lane + 32 * i];
        p[i] = from_y[lane + 32 * i];
        for (int j = 0; j < WIDTH; j++) total += F::addend(d[i].v[j], p[i].v[j]);
    }
    total = warp_sum(total);
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (lane + 32 * i >= packs) continue;
        for (int j = 0; j < WIDTH; j++) d[i].v[j] = F::dx(d[i].v[j], p[i].v[j], total);
        to[lane + 32 * i] = d[i];
    }
}

// This thread's share of the sum over a long row.
template <class F> __device__ float long_total(const float* dy, const float* y, int cols) {
    Quads quads(dy, cols);
    const Pack<4>* from_dy = packs_of<4>(dy + quads.before);
    const Pack<4>* from_y = packs_of<4>(y + quads.before);
    float total = 0.0f;
    for (int i = Block::first(); i < quads.count; i += Block::step()) {
        Pack<4> d = from_dy[i], p = from_y[i];
        for (int j = 0; j < 4; j++) total += F::addend(d.v[j], p.v[j]);
    }
    int left = quads.left(Block::first());
    if (left < cols) total += F::addend(dy[left], y[left]);
    return total;
}

template <class F>
__device__ void backward_long(const float* dy, const float* y, float* dx, int cols) {
    dy += Block::row() * cols, y += Block::row() * cols, dx += Block::row() * cols;
    float total = Block::sum(long_total<F>(dy, y, cols));
    Quads quads(dy, cols);
    const Pack<4>* from_dy = packs_of<4>(dy + quads.before);
    const Pack<4>* from_y = packs_of<4>(y + quads.before);
    Pack<4>* to = packs_of<4>(dx + quads.before);
    for (int i = Block::first(); i < quads.count; i += Block::step()) {
        Pack<4> d = from_dy[i], p = from_y[i];
        for (int j = 0; j < 4; j++) d.v[j] = F::dx(d.v[j], p.v[j], total);
        to[i] = d;
    }
    int left = quads.left(Block::first());
    if (left < cols) dx[left] = F::dx(dy[left], y[left], total);
}

// --- softmax

extern "C" __global__ void softmax_naive(
        const float* __restrict__ x, float* __restrict__ y, int rows, int cols) {
    forward_walks<Softmax, Thread>(x, y, rows, cols);
}
extern "C" __global__ void softmax_warp(
        const float* __restrict__ x, float* __restrict__ y, int rows, int cols) {
    forward_walks<Softmax, Warp>(x, y, rows, cols);
}
extern "C" __global__ void __launch_bounds__(256) softmax_registers(
        const float* __restrict__ x, float* __restrict__ y, int rows, int cols) {
    forward_held<Softmax, 1>(x, y, rows, cols);
}
extern "C" __global__ void __launch_bounds__(256) softmax_vector(
        const float* __restrict__ x, float* __restrict__ y, int rows, int cols) {
    forward_held<Softmax, 4>(x, y, rows, cols);
}
extern "C" __global__ void softmax_block(
        const float* __restrict__ x, float* __restrict__ y, int rows, int cols) {
    forward_block<Softmax>(x, y, cols);
}
extern "C" __global__ void softmax_long(
        const float* __restrict__ x, float* __restrict__ y, int rows, int cols) {
    forward_long<Softmax>(x, y, cols);
}
extern "C" __global__ void softmax_backward_naive(
        const float* __restrict__ dy, const float* __restrict__ y, float* __restrict__ dx,
        int rows, int cols) {
    backward_walks<Softmax, Thread>(dy, y, dx, rows, cols);
}
extern "C" __global__ void softmax_backward_warp(
        const float* __restrict__ dy, const float* __restrict__ y, float* __restrict__ dx,
        int rows, int cols) {
    backward_walks<Softmax, Warp>(dy, y, dx, rows, cols);
}
extern "C" __global__ void __launch_bounds__(256) softmax_backward_registers(
        const float* __restrict__ dy, const float* __restrict__ y, float* __restrict__ dx,
        int rows, int cols) {
    backward_held<Softmax, 1>(dy, y, dx, rows, cols);
}
extern "C" __global__ void __launch_bounds__(256) softmax_backward_vector(
        const float* __restrict__ dy, const float* __restrict__ y, float* __restrict__ dx,
        int rows, int cols) {
    backward_held<Softmax, 4>(dy, y, dx, rows, cols);
}
extern "C" __global__ void softmax_backward_block(
        const float* __restrict__ dy, const float* __restrict__ y, float* __restrict__ dx,
        int rows, int cols) {
    backward_walks<Softmax, Block>(dy, y, dx, rows, cols);
}
extern "C" __global__ void softmax_backward_long(
        const float* __restrict__ dy, const float* __restrict__ y, float* __restrict__ dx,
        int rows, int cols) {
    backward_long<Softmax>(dy, y, dx, cols);
}

// --- log_softmax

extern "C" __global__ void log_softmax_naive(
        const float* __restrict__ x, float* __restrict__ y, int rows, int cols) {
    forward_walks<LogSoftmax, Thread>(x, y, rows, cols);
}
extern "C" __global__ void log_softmax_warp(
        const float* __restrict__ x, float* __restrict__ y, int rows, int cols) {
    forward_walks<LogSoftmax, Warp>(x, y, rows, cols);
}
extern "C" __global__ void __launch_bounds__(256) log_softmax_registers(
        const float* __restrict__ x, float* __restrict__ y, int rows, int cols) {
    forward_held<LogSoftmax, 1>(x, y, rows, cols);
}
extern "C" __global__ void __launch_bounds__(256) log_softmax_vector(
        const float* __restrict__ x, float* __restrict__ y, int rows, int cols) {
    forward_held<LogSoftmax, 4>(x, y, rows, cols);
}
extern "C" __global__ void log_softmax_block(
        const float* __restrict__ x, float* __restrict__ y, int rows, int cols) {
    forward_block<LogSoftmax>(x, y, cols);
}
extern "C" __global__ void log_softmax_long(
        const float* __restrict__ x, float* __restrict__ y, int rows, int cols) {
    forward_long<LogSoftmax>(x, y, cols);
}
extern "C" __global__ void log_softmax_backward_naive(
        const float* __restrict__ dy, const float* __restrict__ y, float* __restrict__ dx,
        int rows, int cols) {
    backward_walks<LogSoftmax, Thread>(dy, y, dx, rows, cols);
}
extern "C" __global__ void log_softmax_backward_warp(
        const float* __restrict__ dy, const float* __restrict__ y, float* __restrict__ dx,
        int rows, int cols) {
    backward_walks<LogSoftmax, Warp>(dy, y, dx, rows, cols);
}
extern "C" __global__ void __launch_bounds__(256) log_softmax_backward_registers(
        const float* __restrict__ dy, const float* __restrict__ y, float* __restrict__ dx,
        int rows, int cols) {
    backward_held<LogSoftmax, 1>(dy, y, dx, rows, cols);
}
extern "C" __global__ void __launch_bounds__(256) log_softmax_backward_vector(
        const float* __restrict__ dy, const float* __restrict__ y, float* __restrict__ dx,
        int rows, int cols) {
    backward_held<LogSoftmax, 4>(dy, y, dx, rows, cols);
}
extern "C" __global__ void log_softmax_backward_block(
        const float* __restrict__ dy, const float* __restrict__ y, float* __restrict__ dx,
        int rows, int cols) {
    backward_walks<LogSoftmax, Block>(dy, y, dx, rows, cols);
}
extern "C" __global__ void log_softmax_backward_long(
        const float* __restrict__ dy, const float* __restrict__ y, float* __restrict__ dx,
        int rows, int cols) {
    backward_long<LogSoftmax>(dy, y, dx, cols);
}
