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
// …_naive   Forward: one thread a row, two walks; neighbouring threads read V floats apart, so each
//           read fetches 32 bytes for the sake of 4. Backward: one thread an element.
// …_block   One block a row. Forward: maximum and sum in one walk (Online in row.cuh), so that
//           logits are read once; x[target] is one number more. Backward: what belongs to the row
//           is read once a thread. blockDim.x: whole warps.
// …_vector  The same with four elements in one load of 16 bytes, wherever a row begins (Quads in
//           row.cuh), and less arithmetic: the online sum is rescaled at most once for four. logits
//           and dlogits at multiples of 16 bytes.
//
// cross_entropy_fused  Losses and gradient in one launch, as in llm.c (Karpathy 2024): the second
//                      walk goes backwards, so that it begins with what the first has left in the
//                      cache. Where it finds the row there, logits are read from memory once, not
//                      twice. For comparison: it has to know dy beforehand, and a forward pass does
//                      not; to multiply later by a dy that is not 1 costs more than it saves.
//
// …_vector_bfloat16   logits and dlogits in bfloat16, whose packs of four are 8 bytes; computed in
//                     float32, like the losses. Rows of dlogits may be `step` elements apart: at
//                     multiples of 16 bytes, the products that read them copy eight elements at a
//                     time, where rows of 50257 would give them one.
//
// cross_entropy_mean  The mean of the rows' losses, by one block, in float64: as many numbers as
//                     there are rows. blockDim.x threads, any number; their order is fixed.
//
// What the emulator counts for 8 rows of 50257 columns: loads and stores a warp gives, and the
// memory that they touch when no cache helps, in arrays of the logits' size. (_block touches a fifth
// more: most rows begin within a sector of 32 bytes, and 128 bytes from there are in five of them.)
//
//             loads, stores   read   written                 loads, stores   read   written
//   naive           100,518     16         0     naive              75,390      2         1
//   block            12,600    1.2         0     block              25,392    1.2       1.2
//   vector            3,184      1         0     vector              6,560      1         1
//                                                fused, both         9,680    2.1         1
#include "row.cuh"

__device__ inline float log_sum_exp(float max, float sum) {
    return max == -INFINITY ? NAN : logf(sum) + max;  // of -inf alone, as in NumPy
}

// What the forward pass leaves of a row.
template <class T>
__device__ void keep_row(const T* x, long long target, long long ignore, long long row,
                                float max, float sum, float* lse, float* losses) {
    float log_sum = log_sum_exp(max, sum);
    lse[row] = log_sum;
    losses[row] = target == ignore ? 0.0f : log_sum - float(x[target]);
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

template <class T>
__device__ void forward_quads(const T* logits, const long long* targets, float* lse, float* losses,
                              int V, long long ignore) {
    long long row = blockIdx.x;
    const T* x = logits + row * V;
    Online own;
    own.add_row(x, V);
    own = block_merge(own);
    if (threadIdx.x == 0)
        keep_row(x, targets[row], ignore, row, own.max, own.sum, lse, losses);
}

extern "C" __global__ void cross_entropy_vector(
        const float* __restrict__ logits, const long long* __restrict__ targets,
        float* __restrict__ lse, float* __restrict__ losses, int rows, int V, long long ignore) {
    forward_quads(logits, targets, lse, losses, V, ignore);
}
extern "C" __global__ void cross_entropy_vector_bfloat16(
        const __nv_bfloat16* __restrict__ logits, const long long* __restrict__ targets,
        float* __restrict__ lse, float* __restrict__ losses, int rows, int V, long long ignore) {
    forward_quads(logits, targets, lse, losses, V, ignore);
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

// What belongs to a row: its log-sum-exp, dy / count, and its target; 0 and -1 where it is ignored.
struct Row {
    float lse, factor;
    long long target;
    __device__ Row(float lse, float factor, long long target, long long ignore)
        : lse(lse), factor(target == ignore ? 0.0f : factor),
          target(target == ignore ? -1 : target) {}
    __device__ float dx(float x, int v) const {
        return (expf(x - lse) - (v == target ? 1.0f : 0.0f)) * factor;
    }
    // Four at a time, the last ones first: they are the ones that a walk before this one read last.
    // They are stored at once, and loaded at once where x and dx lie alike.
    template <class T> __device__ void gradient(const T* x, T* dx, int V) const {
        Quads quads(dx, V);
        const T* from = x + quads.before;
        T* to = dx + quads.before;
        bool at_once = reinterpret_cast<size_t>(from) % (4 * sizeof(T)) == 0;
        for (int i = quads.count - 1 - (int)threadIdx.x; i >= 0; i -= blockDim.x) {
            Pack<4> four;
            if (at_once) four = load_pack<4>(from, i);
            else for (int j = 0; j < 4; j++) four.v[j] = float(from[4 * i + j]);
            for (int j = 0; j < 4; j++)
                four.v[j] = this->dx(four.v[j], quads.before + 4 * i + j);
            store_pack(to, i, four);
        }
        int left = quads.left(threadIdx.x);
        if (left < V) dx[left] = T(this->dx(float(x[left]), left));
    }
};

extern "C" __global__ void cross_entropy_backward_naive(
        const float* __restrict__ dy, const float* __restrict__ logits,
        const long long* __restrict__ targets, const float* __restrict__ lse,
        const float* __restrict__ count, float* __restrict__ dlogits, int rows, int V,
        long long ignore) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)rows * V) return;
    Row row(lse[i / V], dy[0] / count[0], targets[i / V], ignore);
    dlogits[i] = row.dx(logits[i], i % V);
}

extern "C" __global__ void cross_entropy_backward_block(
        const float* __restrict__ dy, const float* __restrict__ logits,
        const long long* __restrict__ targets, const float* __restrict__ lse,
        const float* __restrict__ count, float* __restrict__ dlogits, int rows, int V,
        long long ignore) {
    long long at = blockIdx.x;
    Row row(lse[at], dy[0] / count[0], targets[at], ignore);
    const float* x = logits + at * V;
    float* dx = dlogits + at * V;
    for (int v = threadIdx.x; v < V; v += blockDim.x) dx[v] = row.dx(x[v], v);
}

extern "C" __global__ void cross_entropy_backward_vector(
        const float* __restrict__ dy, const float* __restrict__ logits,
        const long long* __restrict__ targets, const float* __restrict__ lse,
        const float* __restrict__ count, float* __restrict__ dlogits, int rows, int V,
        long long ignore) {
    long long at = blockIdx.x;
    Row row(lse[at], dy[0] / count[0], targets[at], ignore);
    row.gradient(logits + at * V, dlogits + at * V, V);
}

extern "C" __global__ void cross_entropy_backward_vector_bfloat16(
        const float* __restrict__ dy, const __nv_bfloat16* __restrict__ logits,
        const long long* __restrict__ targets, const float* __restrict__ lse,
        const float* __restrict__ count, __nv_bfloat16* __restrict__ dlogits, int rows, int V,
        long long step, long long ignore) {
    long long at = blockIdx.x;
    Row row(lse[at], dy[0] / count[0], targets[at], ignore);
    row.gradient(logits + at * V, dlogits + at * step, V);
}

extern "C" __global__ void cross_entropy_fused(
        const float* __restrict__ dy, const float* __restrict__ logits,
        const long long* __restrict__ targets, const float* __restrict__ count,
        float* __restrict__ lse, float* __restrict__ losses, float* __restrict__ dlogits, int rows,
        int V, long long ignore) {
    long long at = blockIdx.x;
    const float* x = logits + at * V;
    Online own;
    own.add_row(x, V);
    own = block_merge(own);
    if (threadIdx.x == 0) keep_row(x, targets[at], ignore, at, own.max, own.sum, lse, losses);
    Row row(log_sum_exp(own.max, own.sum), dy[0] / count[0], targets[at], ignore);
    row.gradient(x, dlogits + at * V, V);
}
