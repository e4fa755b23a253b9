// softmax.cu - over each row: y = exp(x - m) / sum of exp(x - m), m the row's maximum; log_softmax,
// y = x - m - log(sum of exp(x - m)); and their derivatives, from dy and y alone:
//
//   softmax      dx = y (dy - sum of dy y)
//   log_softmax  dx = dy - exp(y) (sum of dy)
//
// All arrays are (rows, cols) float32, row by row. A row of -inf alone gives NaN, as in NumPy.
//
// …_naive  One thread a row, two or three walks along it. Neighbouring threads read addresses
//          `cols` apart, so each read fetches a whole sector of memory for four bytes.
// …_warp   One warp a row: lanes read neighbouring addresses, partial results meet in five
//          shuffles. The later walks find a short row in the cache. blockDim.x: whole warps.
// …_block  One block a row, for long rows, which a warp alone would read too slowly and the cache
//          may not hold: maximum and sum come from one walk (Online in row.cuh), so that x is read
//          twice, not three times. blockDim.x: whole warps.
#include "row.cuh"

struct Softmax {
    __device__ static float y(float x, float max, float sum) { return expf(x - max) / sum; }
    __device__ static float addend(float dy, float y) { return dy * y; }
    __device__ static float dx(float dy, float y, float total) { return y * (dy - total); }
};
struct LogSoftmax {
    // The logarithm of a sum is the same for the whole row; the compiler takes it out of the loop.
    __device__ static float y(float x, float max, float sum) { return x - max - logf(sum); }
    __device__ static float addend(float dy, float) { return dy; }
    __device__ static float dx(float dy, float y, float total) { return dy - expf(y) * total; }
};

// Which row a thread works on, and which of its columns: first, first + step, ….
struct Part { long long row; int first, step; };
__device__ inline Part thread_a_row() {
    return {(long long)blockIdx.x * blockDim.x + threadIdx.x, 0, 1};
}
__device__ inline Part warp_a_row() {
    long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    return {row, (int)threadIdx.x % 32, 32};
}
__device__ inline Part block_a_row() { return {blockIdx.x, (int)threadIdx.x, (int)blockDim.x}; }

template <class F>
__device__ void forward_naive(const float* x, float* y, int rows, int cols) {
    long long row = thread_a_row().row;
    if (row >= rows) return;
    x += row * cols, y += row * cols;
    float max = -INFINITY, sum = 0.0f;
    for (int c = 0; c < cols; c++) max = fmaxf(max, x[c]);
    for (int c = 0; c < cols; c++) sum += expf(x[c] - max);
    for (int c = 0; c < cols; c++) y[c] = F::y(x[c], max, sum);
}

template <class F>
__device__ void forward_warp(const float* x, float* y, int rows, int cols) {
    Part part = warp_a_row();
    if (part.row >= rows) return;  // the whole warp, so the shuffles stay complete
    x += part.row * cols, y += part.row * cols;
    float max = -INFINITY, sum = 0.0f;
    for (int c = part.first; c < cols; c += 32) max = fmaxf(max, x[c]);
    max = warp_max(max);
    for (int c = part.first; c < cols; c += 32) sum += expf(x[c] - max);
    sum = warp_sum(sum);
    for (int c = part.first; c < cols; c += 32) y[c] = F::y(x[c], max, sum);
}

template <class F>
__device__ void forward_block(const float* x, float* y, int cols) {
    Part part = block_a_row();
    x += part.row * cols, y += part.row * cols;
    Online own;
    for (int c = part.first; c < cols; c += part.step) own.add(x[c]);
    own = block_merge(own);
    for (int c = part.first; c < cols; c += part.step) y[c] = F::y(x[c], own.max, own.sum);
}

template <class F>
__device__ void backward_naive(const float* dy, const float* y, float* dx, int rows, int cols) {
    long long row = thread_a_row().row;
    if (row >= rows) return;
    dy += row * cols, y += row * cols, dx += row * cols;
    float total = 0.0f;
    for (int c = 0; c < cols; c++) total += F::addend(dy[c], y[c]);
    for (int c = 0; c < cols; c++) dx[c] = F::dx(dy[c], y[c], total);
}

template <class F>
__device__ void backward_warp(const float* dy, const float* y, float* dx, int rows, int cols) {
    Part part = warp_a_row();
    if (part.row >= rows) return;
    dy += part.row * cols, y += part.row * cols, dx += part.row * cols;
    float total = 0.0f;
    for (int c = part.first; c < cols; c += 32) total += F::addend(dy[c], y[c]);
    total = warp_sum(total);
    for (int c = part.first; c < cols; c += 32) dx[c] = F::dx(dy[c], y[c], total);
}

template <class F>
__device__ void backward_block(const float* dy, const float* y, float* dx, int cols) {
    Part part = block_a_row();
    dy += part.row * cols, y += part.row * cols, dx += part.row * cols;
    float total = 0.0f;
    for (int c = part.first; c < cols; c += part.step) total += F::addend(dy[c], y[c]);
    total = block_sums(total, 0.0f).a;
    for (int c = part.first; c < cols; c += part.step) dx[c] = F::dx(dy[c], y[c], total);
}

// --- softmax

extern "C" __global__ void softmax_naive(const float* __restrict__ x, float* __restrict__ y,
                                         int rows, int cols) {
    forward_naive<Softmax>(x, y, rows, cols);
}
extern "C" __global__ void softmax_warp(const float* __restrict__ x, float* __restrict__ y,
                                        int rows, int cols) {
    forward_warp<Softmax>(x, y, rows, cols);
}
extern "C" __global__ void softmax_block(const float* __restrict__ x, float* __restrict__ y,
                                         int rows, int cols) {
    forward_block<Softmax>(x, y, cols);
}
extern "C" __global__ void softmax_backward_naive(const float* __restrict__ dy,
                                                  const float* __restrict__ y,
                                                  float* __restrict__ dx, int rows, int cols) {
    backward_naive<Softmax>(dy, y, dx, rows, cols);
}
extern "C" __global__ void softmax_backward_warp(const float* __restrict__ dy,
                                                 const float* __restrict__ y,
                                                 float* __restrict__ dx, int rows, int cols) {
    backward_warp<Softmax>(dy, y, dx, rows, cols);
}
extern "C" __global__ void softmax_backward_block(const float* __restrict__ dy,
                                                  const float* __restrict__ y,
                                                  float* __restrict__ dx, int rows, int cols) {
    backward_block<Softmax>(dy, y, dx, cols);
}

// --- log_softmax

extern "C" __global__ void log_softmax_naive(const float* __restrict__ x, float* __restrict__ y,
                                             int rows, int cols) {
    forward_naive<LogSoftmax>(x, y, rows, cols);
}
extern "C" __global__ void log_softmax_warp(const float* __restrict__ x, float* __restrict__ y,
                                            int rows, int cols) {
    forward_warp<LogSoftmax>(x, y, rows, cols);
}
extern "C" __global__ void log_softmax_block(const float* __restrict__ x, float* __restrict__ y,
                                             int rows, int cols) {
    forward_block<LogSoftmax>(x, y, cols);
}
extern "C" __global__ void log_softmax_backward_naive(const float* __restrict__ dy,
                                                      const float* __restrict__ y,
                                                      float* __restrict__ dx, int rows, int cols) {
    backward_naive<LogSoftmax>(dy, y, dx, rows, cols);
}
extern "C" __global__ void log_softmax_backward_warp(const float* __restrict__ dy,
                                                     const float* __restrict__ y,
                                                     float* __restrict__ dx, int rows, int cols) {
    backward_warp<LogSoftmax>(dy, y, dx, rows, cols);
}
extern "C" __global__ void log_softmax_backward_block(const float* __restrict__ dy,
                                                      const float* __restrict__ y,
                                                      float* __restrict__ dx, int rows, int cols) {
    backward_block<LogSoftmax>(dy, y, dx, cols);
}
