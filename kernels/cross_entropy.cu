// cross_entropy.cu - mean of lse - x[target] over the rows whose target counts, NaN if none does;
// lse = log(sum of exp(x)), which the backward needs:
//
//   dx = (exp(x - lse) - one_hot(target)) dy / count, zero in rows whose target is `ignore`
//
//   logits, dlogits (rows, V);  targets (rows,), each in 0 … V - 1 or `ignore`
//   lse, losses (rows,);  loss, count and dy one number each
//
// Nothing else is as large as the logits: the probabilities are never stored.
//
// …_naive   Forward: one thread a row, two walks. Backward: one thread an element.
// …_block   One block a row. Forward: maximum and sum in one walk (Online in row.cuh). Backward:
//           what belongs to the row is read once a thread. blockDim.x: whole warps.
// …_vector  The same with four elements in one load of 16 bytes. A row of 50257 floats begins at a
//           multiple of 16 bytes only every fourth time, so the first few elements of a row, and
//           the last ones, are taken one by one. logits and dlogits at multiples of 16 bytes.
//
// cross_entropy_mean  The mean of the rows' losses, by one block, in float64: as many numbers as
//                     there are rows. blockDim.x threads, any number; their order is fixed.
#include "row.cuh"

// What the forward pass leaves of a row.
__device__ inline void keep_row(const float* x, long long target, long long ignore, long long row,
                                float max, float sum, float* lse, float* losses) {
    float log_sum = max == -INFINITY ? NAN : logf(sum) + max;  // -inf alone: as in NumPy
    lse[row] = log_sum;
    losses[row] = target == ignore ? 0.0f : log_sum - x[target];
}

// The part of a row before the first multiple of 16 bytes, and how many groups of four follow.
struct Groups { int before, count; };
__device__ inline Groups groups_of(const float* x, int V) {
    int before = min(V, int((16 - reinterpret_cast<size_t>(x) % 16) / 4 % 4));
    return {before, (V - before) / 4};
}

extern "C" __global__ void cross_entropy_naive(
        const float* __restrict__ logits, const long long* __restrict__ targets,
        float* __restrict__ lse, float* __restrict__ losses, int rows, int V, long long ignore) {
    long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    const float* x = logits + row * V;
    float max = -INFINITY, sum = 0.0f;
    for (int v = 0; v < V; v++) max = fmaxf(max, x[v]);
    for (int v = 0; v < V; v++) sum += expf(x[v] - max);
    keep_row(x, targets[row], ignore, row, max, sum, lse, losses);
}

extern "C" __global__ void cross_entropy_block(
        const float* __restrict__ logits, const long long* __restrict__ targets,
        float* __restrict__ lse, float* __restrict__ losses, int rows, int V, long long ignore) {
    long long row = blockIdx.x;
    const float* x = logits + row * V;
    Online own;
    for (int v = threadIdx.x; v < V; v += blockDim.x) own.add(x[v]);
    own = block_merge(own);
    if (threadIdx.x == 0)
        keep_row(x, targets[row], ignore, row, own.max, own.sum, lse, losses);
}

extern "C" __global__ void cross_entropy_vector(
        const float* __restrict__ logits, const long long* __restrict__ targets,
        float* __restrict__ lse, float* __restrict__ losses, int rows, int V, long long ignore) {
    long long row = blockIdx.x;
    const float* x = logits + row * V;
    Groups groups = groups_of(x, V);
    const float4* x4 = reinterpret_cast<const float4*>(x + groups.before);
    Online own;
    for (int i = threadIdx.x; i < groups.count; i += blockDim.x) {
        float4 four = x4[i];
        own.add(four.x), own.add(four.y), own.add(four.z), own.add(four.w);
    }
    int done = groups.before + 4 * groups.count;
    for (int v = threadIdx.x; v < groups.before; v += blockDim.x) own.add(x[v]);
    for (int v = done + threadIdx.x; v < V; v += blockDim.x) own.add(x[v]);
    own = block_merge(own);
    if (threadIdx.x == 0)
        keep_row(x, targets[row], ignore, row, own.max, own.sum, lse, losses);
}

extern "C" __global__ void cross_entropy_mean(const float* __restrict__ losses,
                                              const long long* __restrict__ targets,
                                              float* __restrict__ loss, float* __restrict__ count,
                                              int rows, long long ignore) {
    __shared__ double sums[1024];
    __shared__ int counts[1024];
    double sum = 0.0;
    int counted = 0;
    for (int row = threadIdx.x; row < rows; row += blockDim.x)
        if (targets[row] != ignore) sum += losses[row], counted++;
    sums[threadIdx.x] = sum;
    counts[threadIdx.x] = counted;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int t = 1; t < blockDim.x; t++) sum += sums[t], counted += counts[t];
    loss[0] = counted ? float(sum / counted) : NAN;
    count[0] = counted;
}

// --- backward

struct Row {
    float lse, factor;
    long long target;  // -1 for none
    __device__ Row(const float* dy, const long long* targets, const float* lse, const float* count,
                   long long ignore, long long row)
        : lse(lse[row]), factor(targets[row] == ignore ? 0.0f : dy[0] / count[0]),
          target(targets[row] == ignore ? -1 : targets[row]) {}
    __device__ float dx(float x, int v) const {
        return (expf(x - lse) - (v == target ? 1.0f : 0.0f)) * factor;
    }
};

extern "C" __global__ void cross_entropy_backward_naive(
        const float* __restrict__ dy, const float* __restrict__ logits,
        const long long* __restrict__ targets, const float* __restrict__ lse,
        const float* __restrict__ count, float* __restrict__ dlogits, int rows, int V,
        long long ignore) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)rows * V) return;
    Row row(dy, targets, lse, count, ignore, i / V);
    dlogits[i] = row.dx(logits[i], i % V);
}

extern "C" __global__ void cross_entropy_backward_block(
        const float* __restrict__ dy, const float* __restrict__ logits,
        const long long* __restrict__ targets, const float* __restrict__ lse,
        const float* __restrict__ count, float* __restrict__ dlogits, int rows, int V,
        long long ignore) {
    Row row(dy, targets, lse, count, ignore, blockIdx.x);
    const float* x = logits + (long long)blockIdx.x * V;
    float* dx = dlogits + (long long)blockIdx.x * V;
    for (int v = threadIdx.x; v < V; v += blockDim.x) dx[v] = row.dx(x[v], v);
}

extern "C" __global__ void cross_entropy_backward_vector(
        const float* __restrict__ dy, const float* __restrict__ logits,
        const long long* __restrict__ targets, const float* __restrict__ lse,
        const float* __restrict__ count, float* __restrict__ dlogits, int rows, int V,
        long long ignore) {
    Row row(dy, targets, lse, count, ignore, blockIdx.x);
    const float* x = logits + (long long)blockIdx.x * V;
    float* dx = dlogits + (long long)blockIdx.x * V;
    Groups groups = groups_of(x, V);
    const float4* x4 = reinterpret_cast<const float4*>(x + groups.before);
    float4* dx4 = reinterpret_cast<float4*>(dx + groups.before);
    for (int i = threadIdx.x; i < groups.count; i += blockDim.x) {
        float4 four = x4[i];
        int v = groups.before + 4 * i;
        dx4[i] = make_float4(row.dx(four.x, v), row.dx(four.y, v + 1), row.dx(four.z, v + 2),
                             row.dx(four.w, v + 3));
    }
    int done = groups.before + 4 * groups.count;
    for (int v = threadIdx.x; v < groups.before; v += blockDim.x) dx[v] = row.dx(x[v], v);
    for (int v = done + threadIdx.x; v < V; v += blockDim.x) dx[v] = row.dx(x[v], v);
}
