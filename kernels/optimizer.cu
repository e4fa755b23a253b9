// optimizer.cu - one step of AdamW or SGD, the norm of all gradients, and their scaling; in place,
// computed in float32.
//
//   AdamW (Loshchilov and Hutter 2019, algorithm 2), t the number of the step, from 1:
//     m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//     p = (1 - lr decay) p - lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)
//   SGD:  u = g + decay p;  velocity = momentum velocity + u, and u = velocity, if there is one;
//     p -= lr u
//
// The host computes what is the same for all elements:
//   keep = 1 - lr decay, rate = lr / (1 - beta1^t), correction = 1 / (1 - beta2^t)
//
// A model has over a hundred parameters, many of them tiny: a launch for each would cost more than
// the arithmetic. So the kernels here take tables, by value, of the addresses and sizes of up to 64
// arrays, and a block finds by its number which CHUNK elements of which array are its own. Nothing
// is copied to the device for a step.
//
//   sizes, count   elements of each array; how many arrays
//
// adamw_naive     One array a launch, one thread an element.
// adamw_many      Up to 64 arrays a launch.
// adamw_vector    The same with four elements at a time in loads and stores of 16 bytes: 28 bytes
//                 move for each element, and memory is the limit. All arrays at multiples of 16
//                 bytes; what is left over of an array is done one by one.
// adamw_master_many_…     Parameters and gradients in half precision. Eight bits of a bfloat16 would
//                 lose a step that is a thousandth of its weight, so each weight has a master in
//                 float32, which is stepped, and of which the parameter is what remains when it is
//                 rounded (Micikevicius et al. 2018, "Mixed Precision Training", section 3.1).
// adamw_master_vector_…   The same with four elements at a time: 28 bytes move for each element, as
//                 for adamw_vector, and the gradient need not be widened first.
// sgd_many, scale_many, squares_many   The others, by the same table; the last two for gradients in
//                 half precision, too.
// squares_total   The sum of what the blocks of squares_many left, in their order, by one block.
#include "common.cuh"
#include "pack.cuh"

constexpr int CHUNK = 4096;  // elements a block; grids.py has the same number

struct Chunk {
    int array;
    long long first;
    int size;
};
__device__ inline Chunk chunk_of_block(const Table& sizes, int count) {
    long long chunk = blockIdx.x;
    int array = 0;
    for (; array < count - 1; array++) {
        long long chunks = (sizes.n[array] + CHUNK - 1) / CHUNK;
        if (chunk < chunks) break;
        chunk -= chunks;
    }
    long long first = chunk * CHUNK, left = sizes.n[array] - first;
    return {array, first, int(left < CHUNK ? left : CHUNK)};
}
template <class T>
__device__ inline T* array_of(long long address) {
    return reinterpret_cast<T*>(address);
}

// --- AdamW

struct AdamW {
    float beta1, rest1, beta2, rest2, correction, eps, rate, keep;  // rest = 1 - beta

    __device__ void update(float& p, float g, float& m, float& v) const {
        m = m * beta1 + g * rest1;
        v = v * beta2 + g * g * rest2;
        p = p * keep - m / (sqrtf(v * correction) + eps) * rate;
    }
};

extern "C" __global__ void adamw_naive(float* __restrict__ p, const float* __restrict__ g,
                                       float* __restrict__ m, float* __restrict__ v, long long n,
                                       float beta1, float rest1, float beta2, float rest2,
                                       float correction, float eps, float rate, float keep) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    AdamW step{beta1, rest1, beta2, rest2, correction, eps, rate, keep};
    if (i < n) step.update(p[i], g[i], m[i], v[i]);
}

extern "C" __global__ void adamw_many(Table ps, Table gs, Table ms, Table vs, Table sizes,
                                      int count, float beta1, float rest1, float beta2, float rest2,
                                      float correction, float eps, float rate, float keep) {
    Chunk chunk = chunk_of_block(sizes, count);
    AdamW step{beta1, rest1, beta2, rest2, correction, eps, rate, keep};
    float* p = array_of<float>(ps.n[chunk.array]) + chunk.first;
    const float* g = array_of<const float>(gs.n[chunk.array]) + chunk.first;
    float* m = array_of<float>(ms.n[chunk.array]) + chunk.first;
    float* v = array_of<float>(vs.n[chunk.array]) + chunk.first;
    for (int i = threadIdx.x; i < chunk.size; i += blockDim.x) step.update(p[i], g[i], m[i], v[i]);
}

extern "C" __global__ void adamw_vector(Table ps, Table gs, Table ms, Table vs, Table sizes,
                                        int count, float beta1, float rest1, float beta2,
                                        float rest2, float correction, float eps, float rate,
                                        float keep) {
    Chunk chunk = chunk_of_block(sizes, count);
    AdamW step{beta1, rest1, beta2, rest2, correction, eps, rate, keep};
    float* p = array_of<float>(ps.n[chunk.array]) + chunk.first;
    const float* g = array_of<const float>(gs.n[chunk.array]) + chunk.first;
    float* m = array_of<float>(ms.n[chunk.array]) + chunk.first;
    float* v = array_of<float>(vs.n[chunk.array]) + chunk.first;
    for (int i = threadIdx.x; i < chunk.size / 4; i += blockDim.x) {
        float4 p4 = reinterpret_cast<float4*>(p)[i], g4 = reinterpret_cast<const float4*>(g)[i];
        float4 m4 = reinterpret_cast<float4*>(m)[i], v4 = reinterpret_cast<float4*>(v)[i];
        step.update(p4.x, g4.x, m4.x, v4.x);
        step.update(p4.y, g4.y, m4.y, v4.y);
        step.update(p4.z, g4.z, m4.z, v4.z);
        step.update(p4.w, g4.w, m4.w, v4.w);
        reinterpret_cast<float4*>(p)[i] = p4;
        reinterpret_cast<float4*>(m)[i] = m4;
        reinterpret_cast<float4*>(v)[i] = v4;
    }
    int rest = chunk.size / 4 * 4 + threadIdx.x;
    for (int i = rest; i < chunk.size; i += blockDim.x) step.update(p[i], g[i], m[i], v[i]);
}

// --- AdamW with master weights: p and g of type T, the others float

// This block's chunk of each of the five arrays.
template <class T> struct Chunks {
    T* p;
    const T* g;
    float *master, *m, *v;
    int size;

    __device__ Chunks(const Table& ps, const Table& gs, const Table& masters, const Table& ms,
                      const Table& vs, const Table& sizes, int count) {
        Chunk chunk = chunk_of_block(sizes, count);
        p = array_of<T>(ps.n[chunk.array]) + chunk.first;
        g = array_of<const T>(gs.n[chunk.array]) + chunk.first;
        master = array_of<float>(masters.n[chunk.array]) + chunk.first;
        m = array_of<float>(ms.n[chunk.array]) + chunk.first;
        v = array_of<float>(vs.n[chunk.array]) + chunk.first;
        size = chunk.size;
    }
    // The elements from `first` on, one by one.
    __device__ void update(const AdamW& step, int first) const {
        for (int i = first + threadIdx.x; i < size; i += blockDim.x) {
            step.update(master[i], float(g[i]), m[i], v[i]);
            p[i] = T(master[i]);
        }
    }
    // All of them, four at a time.
    __device__ void update_fours(const AdamW& step) const {
        for (int i = threadIdx.x; i < size / 4; i += blockDim.x) {
            Pack<4> g4 = load_pack<4>(g, i), w4 = load_pack<4>(master, i);
            Pack<4> m4 = load_pack<4>(m, i), v4 = load_pack<4>(v, i);
            for (int j = 0; j < 4; j++) step.update(w4.v[j], g4.v[j], m4.v[j], v4.v[j]);
            store_pack(master, i, w4);
            store_pack(m, i, m4);
            store_pack(v, i, v4);
            store_pack(p, i, w4);
        }
        update(step, size / 4 * 4);
    }
};

extern "C" __global__ void adamw_master_many_half(
    Table ps, Table gs, Table masters, Table ms, Table vs, Table sizes, int count, float beta1,
    float rest1, float beta2, float rest2, float correction, float eps, float rate, float keep) {
    Chunks<__half> own(ps, gs, masters, ms, vs, sizes, count);
    own.update({beta1, rest1, beta2, rest2, correction, eps, rate, keep}, 0);
}
extern "C" __global__ void adamw_master_many_bfloat16(
    Table ps, Table gs, Table masters, Table ms, Table vs, Table sizes, int count, float beta1,
    float rest1, float beta2, float rest2, float correction, float eps, float rate, float keep) {
    Chunks<__nv_bfloat16> own(ps, gs, masters, ms, vs, sizes, count);
    own.update({beta1, rest1, beta2, rest2, correction, eps, rate, keep}, 0);
}
extern "C" __global__ void adamw_master_vector_half(
    Table ps, Table gs, Table masters, Table ms, Table vs, Table sizes, int count, float beta1,
    float rest1, float beta2, float rest2, float correction, float eps, float rate, float keep) {
    Chunks<__half> own(ps, gs, masters, ms, vs, sizes, count);
    own.update_fours({beta1, rest1, beta2, rest2, correction, eps, rate, keep});
}
extern "C" __global__ void adamw_master_vector_bfloat16(
    Table ps, Table gs, Table masters, Table ms, Table vs, Table sizes, int count, float beta1,
    float rest1, float beta2, float rest2, float correction, float eps, float rate, float keep) {
    Chunks<__nv_bfloat16> own(ps, gs, masters, ms, vs, sizes, count);
    own.update_fours({beta1, rest1, beta2, rest2, correction, eps, rate, keep});
}

// --- SGD

extern "C" __global__ void sgd_many(Table ps, Table gs, Table velocities, Table sizes, int count,
                                    int has_velocity, float lr, float momentum, float decay) {
    Chunk chunk = chunk_of_block(sizes, count);
    float* p = array_of<float>(ps.n[chunk.array]) + chunk.first;
    const float* g = array_of<const float>(gs.n[chunk.array]) + chunk.first;
    float* velocity = array_of<float>(velocities.n[chunk.array]) + chunk.first;
    for (int i = threadIdx.x; i < chunk.size; i += blockDim.x) {
        float update = g[i] + decay * p[i];
        if (has_velocity) update = velocity[i] = momentum * velocity[i] + update;
        p[i] -= lr * update;
    }
}

// --- the norm of all gradients

template <class T>
__device__ void scale(const Table& xs, const Table& sizes, int count, float factor) {
    Chunk chunk = chunk_of_block(sizes, count);
    T* x = array_of<T>(xs.n[chunk.array]) + chunk.first;
    for (int i = threadIdx.x; i < chunk.size; i += blockDim.x) x[i] = T(float(x[i]) * factor);
}

extern "C" __global__ void scale_many(Table xs, Table sizes, int count, float factor) {
    scale<float>(xs, sizes, count, factor);
}
extern "C" __global__ void scale_many_half(Table xs, Table sizes, int count, float factor) {
    scale<__half>(xs, sizes, count, factor);
}
extern "C" __global__ void scale_many_bfloat16(Table xs, Table sizes, int count, float factor) {
    scale<__nv_bfloat16>(xs, sizes, count, factor);
}

// In float64: 1e20 squared is beyond float32, and memory stays the limit, one multiplication for
// four bytes. The block's sum goes to sums[first + its number].
template <class T>
__device__ void squares(const Table& xs, const Table& sizes, int count, double* sums,
                        long long first) {
    __shared__ double part[1024];
    Chunk chunk = chunk_of_block(sizes, count);
    const T* x = array_of<const T>(xs.n[chunk.array]) + chunk.first;
    double sum = 0.0;
    for (int i = threadIdx.x; i < chunk.size; i += blockDim.x) {
        double value = float(x[i]);
        sum += value * value;
    }
    part[threadIdx.x] = sum;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {  // blockDim.x: a power of two
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) sums[first + blockIdx.x] = part[0];
}

extern "C" __global__ void squares_many(Table xs, Table sizes, int count,
                                        double* __restrict__ sums, long long first) {
    squares<float>(xs, sizes, count, sums, first);
}
extern "C" __global__ void squares_many_half(Table xs, Table sizes, int count,
                                             double* __restrict__ sums, long long first) {
    squares<__half>(xs, sizes, count, sums, first);
}
extern "C" __global__ void squares_many_bfloat16(Table xs, Table sizes, int count,
                                                 double* __restrict__ sums, long long first) {
    squares<__nv_bfloat16>(xs, sizes, count, sums, first);
}

extern "C" __global__ void squares_total(const double* __restrict__ sums,
                                         double* __restrict__ total, long long n) {
    __shared__ double part[1024];
    double sum = 0.0;
    for (long long i = threadIdx.x; i < n; i += blockDim.x) sum += sums[i];
    part[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int t = 1; t < blockDim.x; t++) sum += part[t];
    total[0] = sum;
}
