// softmax.cu - y[r][c] = exp(x[r][c] - m) / sum over c of exp(x[r][c] - m), m the row's maximum.
//
// x, y: (rows, cols) float32, row by row. A row of -inf alone gives NaN, as in NumPy.
//
// softmax_naive  one thread a row, three walks along it. Neighbouring threads read addresses `cols`
//                apart, so each read fetches a whole sector of memory for four bytes.
// softmax_warp   one warp a row: lanes read neighbouring addresses, partial results meet in five
//                shuffles. blockDim.x must be a multiple of 32.

extern "C" __global__ void softmax_naive(const float* __restrict__ x, float* __restrict__ y,
                                         int rows, int cols) {
    long long r = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= rows) return;
    const float* row = x + r * cols;
    float m = -INFINITY, sum = 0.0f;
    for (int c = 0; c < cols; c++) m = fmaxf(m, row[c]);
    for (int c = 0; c < cols; c++) sum += expf(row[c] - m);
    for (int c = 0; c < cols; c++) y[r * cols + c] = expf(row[c] - m) / sum;
}

extern "C" __global__ void softmax_warp(const float* __restrict__ x, float* __restrict__ y,
                                        int rows, int cols) {
    long long r = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (r >= rows) return;                      // the whole warp, so the shuffles stay complete
    const float* row = x + r * cols;
    float m = -INFINITY, sum = 0.0f;
    for (int c = lane; c < cols; c += 32) m = fmaxf(m, row[c]);
    for (int by = 16; by > 0; by /= 2) m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, by));
    for (int c = lane; c < cols; c += 32) sum += expf(row[c] - m);
    for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
    for (int c = lane; c < cols; c += 32) y[r * cols + c] = expf(row[c] - m) / sum;
}
