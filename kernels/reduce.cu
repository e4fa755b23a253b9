// reduce.cu - sums, largest elements and where they stand, over any axes.
//
// The host puts the axes that are kept in front of those that are reduced, and joins what can be
// joined. Then there is one result for each of `kept` places, and each reduces `count` elements.
// The order of the additions depends on the shapes alone: a sum has the same bits each time.
//
// Version "naive" (sum_naive_float …): a thread for each result, which goes through its elements
// one by one. Where the elements of a row lie next to each other, neighbouring threads read places
// far apart; where there are few results, most of the GPU has nothing to do; and a float sum of n
// terms one after another is off by up to n roundings.
//
// Version "warp" (sum_warp_float …): a warp for each result. Its 32 lanes read neighbouring
// elements and keep a part of the sum each; five shuffles add the parts up in the registers. For
// rows; a sum is off by n / 32 + 5 roundings.
//
// Version "columns" (sum_columns_float …): for reduced axes that lie outside of the kept ones, as
// in the gradient of a bias: rows (count) of neighbouring columns (kept). A block takes 32 columns,
// one for each lane, so that all reads are of neighbours; its warps share the rows and add up their
// parts in shared memory.
//
// Both better versions cut the elements of a result into `chunks`, one for each blockIdx.y, where
// there are too few results to fill a GPU: y is then (chunks, kept); a second launch reduces it.
//
// sum_warp_bfloat16, sum_columns_bfloat16: the elements are bfloat16, the sums float32.
//
//   kept         results; kept_ndim, kept_shape, kept_strides: where the first element of each lies
//   count        elements of each; count_ndim, count_shape, count_strides: where they lie from it
//   y            (chunks, kept), without gaps; chunks = gridDim.y
#include "pack.cuh"
#include "strides.cuh"

template <class T> struct Sum {
    __device__ static T start(T) { return 0; }
    __device__ static T join(T a, T b) { return a + b; }
};

template <class T> struct Max {  // NaN if one is
    // Any element of the result will do to begin with, also in a chunk that has it not.
    __device__ static T start(T first) { return first; }
    __device__ static T join(T a, T b) { return b > a || b != b ? b : a; }
};

template <class Op, class T>
__device__ void reduce_naive(const T* x, T* y, long long kept, int kept_ndim,
                             const Dims& kept_shape, const Dims& kept_strides, long long count,
                             int count_ndim, const Dims& count_shape, const Dims& count_strides) {
    for (long long i = first_element(); i < kept; i += all_threads()) {
        const T* row = x + find_offset(i, kept_ndim, kept_shape, kept_strides);
        T total = Op::start(row[0]);
        for (long long j = 0; j < count; j++)
            total = Op::join(total, row[find_offset(j, count_ndim, count_shape, count_strides)]);
        y[i] = total;
    }
}

extern "C" __global__ void sum_naive_float(
    const float* x, float* y, long long kept, int kept_ndim,
    const __grid_constant__ Dims kept_shape, const __grid_constant__ Dims kept_strides,
    long long count, int count_ndim, const __grid_constant__ Dims count_shape,
    const __grid_constant__ Dims count_strides) {
    reduce_naive<Sum<float>>(x, y, kept, kept_ndim, kept_shape, kept_strides, count, count_ndim,
                             count_shape, count_strides);
}

extern "C" __global__ void max_naive_float(
    const float* x, float* y, long long kept, int kept_ndim,
    const __grid_constant__ Dims kept_shape, const __grid_constant__ Dims kept_strides,
    long long count, int count_ndim, const __grid_constant__ Dims count_shape,
    const __grid_constant__ Dims count_strides) {
    reduce_naive<Max<float>>(x, y, kept, kept_ndim, kept_shape, kept_strides, count, count_ndim,
                             count_shape, count_strides);
}

// The elements [from, to) of a result that fall to this block's chunk.
__device__ inline void my_chunk(long long count, long long& from, long long& to) {
    long long size = (count + gridDim.y - 1) / gridDim.y;
    from = size * blockIdx.y < count ? size * blockIdx.y : count;
    to = from + size < count ? from + size : count;
}

template <class Op, class T, class A>
__device__ void reduce_warp(const T* x, A* y, long long kept, int kept_ndim,
                            const Dims& kept_shape, const Dims& kept_strides, long long count,
                            int count_ndim, const Dims& count_shape, const Dims& count_strides) {
    int lane = threadIdx.x % 32;
    long long warps = all_threads() / 32, from, to;
    my_chunk(count, from, to);
    for (long long i = first_element() / 32; i < kept; i += warps) {
        const T* row = x + find_offset(i, kept_ndim, kept_shape, kept_strides);
        A total = Op::start(A(row[0]));
        for (long long j = from + lane; j < to; j += 32)
            total = Op::join(total, A(row[find_offset(j, count_ndim, count_shape, count_strides)]));
        for (int apart = 16; apart > 0; apart /= 2)
            total = Op::join(total, __shfl_xor_sync(0xffffffffu, total, apart));
        if (lane == 0) y[blockIdx.y * kept + i] = total;
    }
}

// Blocks of any multiple of 32 threads; the bound holds the registers to what 1024 of them have.
extern "C" __global__ void __launch_bounds__(1024) sum_warp_float(
    const float* x, float* y, long long kept, int kept_ndim,
    const __grid_constant__ Dims kept_shape, const __grid_constant__ Dims kept_strides,
    long long count, int count_ndim, const __grid_constant__ Dims count_shape,
    const __grid_constant__ Dims count_strides) {
    reduce_warp<Sum<float>>(x, y, kept, kept_ndim, kept_shape, kept_strides, count, count_ndim,
                            count_shape, count_strides);
}

extern "C" __global__ void __launch_bounds__(1024) sum_warp_bfloat16(
    const __nv_bfloat16* x, float* y, long long kept, int kept_ndim,
    const __grid_constant__ Dims kept_shape, const __grid_constant__ Dims kept_strides,
    long long count, int count_ndim, const __grid_constant__ Dims count_shape,
    const __grid_constant__ Dims count_strides) {
    reduce_warp<Sum<float>>(x, y, kept, kept_ndim, kept_shape, kept_strides, count, count_ndim,
                            count_shape, count_strides);
}

extern "C" __global__ void __launch_bounds__(1024) sum_warp_long(
    const long long* x, long long* y, long long kept, int kept_ndim,
    const __grid_constant__ Dims kept_shape, const __grid_constant__ Dims kept_strides,
    long long count, int count_ndim, const __grid_constant__ Dims count_shape,
    const __grid_constant__ Dims count_strides) {
    reduce_warp<Sum<long long>>(x, y, kept, kept_ndim, kept_shape, kept_strides, count, count_ndim,
                                count_shape, count_strides);
}

extern "C" __global__ void __launch_bounds__(1024) max_warp_float(
    const float* x, float* y, long long kept, int kept_ndim,
    const __grid_constant__ Dims kept_shape, const __grid_constant__ Dims kept_strides,
    long long count, int count_ndim, const __grid_constant__ Dims count_shape,
    const __grid_constant__ Dims count_strides) {
    reduce_warp<Max<float>>(x, y, kept, kept_ndim, kept_shape, kept_strides, count, count_ndim,
                            count_shape, count_strides);
}

extern "C" __global__ void __launch_bounds__(1024) max_warp_long(
    const long long* x, long long* y, long long kept, int kept_ndim,
    const __grid_constant__ Dims kept_shape, const __grid_constant__ Dims kept_strides,
    long long count, int count_ndim, const __grid_constant__ Dims count_shape,
    const __grid_constant__ Dims count_strides) {
    reduce_warp<Max<long long>>(x, y, kept, kept_ndim, kept_shape, kept_strides, count, count_ndim,
                                count_shape, count_strides);
}

// Column c of row j lies at x[c + offset(j)]. Blocks of 32 x up to 32 threads.
template <class Op, class T, class A>
__device__ void reduce_columns(const T* x, A* y, long long kept, long long count, int count_ndim,
                               const Dims& count_shape, const Dims& count_strides) {
    __shared__ A parts[32][32];
    int lane = threadIdx.x;
    long long from, to;
    my_chunk(count, from, to);
    for (long long first = blockIdx.x * 32LL; first < kept; first += gridDim.x * 32LL) {
        long long column = first + lane;
        const T* down = x + column;
        A total = A(0);
        if (column < kept) {
            total = Op::start(A(down[0]));
            for (long long j = from + threadIdx.y; j < to; j += blockDim.y)
                total = Op::join(total,
                                 A(down[find_offset(j, count_ndim, count_shape, count_strides)]));
        }
        parts[threadIdx.y][lane] = total;
        __syncthreads();
        if (threadIdx.y == 0 && column < kept) {
            for (int i = 1; i < blockDim.y; i++) total = Op::join(total, parts[i][lane]);
            y[blockIdx.y * kept + column] = total;
        }
        __syncthreads();  // before the next columns are written over these
    }
}

extern "C" __global__ void sum_columns_float(
    const float* x, float* y, long long kept, long long count, int count_ndim,
    const __grid_constant__ Dims count_shape, const __grid_constant__ Dims count_strides) {
    reduce_columns<Sum<float>>(x, y, kept, count, count_ndim, count_shape, count_strides);
}

extern "C" __global__ void sum_columns_bfloat16(
    const __nv_bfloat16* x, float* y, long long kept, long long count, int count_ndim,
    const __grid_constant__ Dims count_shape, const __grid_constant__ Dims count_strides) {
    reduce_columns<Sum<float>>(x, y, kept, count, count_ndim, count_shape, count_strides);
}

extern "C" __global__ void max_columns_float(
    const float* x, float* y, long long kept, long long count, int count_ndim,
    const __grid_constant__ Dims count_shape, const __grid_constant__ Dims count_strides) {
    reduce_columns<Max<float>>(x, y, kept, count, count_ndim, count_shape, count_strides);
}

// --- where the largest element of each row stands, of equal ones the first; NaN is the largest.
// Here the reduced axis is a single one: element j of a row lies at j * stride.

template <class T> __device__ bool is_larger(T a, T b) { return a > b || (a != a && b == b); }

template <class T>
__device__ void argmax_naive(const T* x, long long* y, long long kept, int kept_ndim,
                             const Dims& kept_shape, const Dims& kept_strides, long long count,
                             long long stride) {
    for (long long i = first_element(); i < kept; i += all_threads()) {
        const T* row = x + find_offset(i, kept_ndim, kept_shape, kept_strides);
        long long best = 0;
        for (long long j = 1; j < count; j++)
            if (is_larger(row[j * stride], row[best * stride])) best = j;
        y[i] = best;
    }
}

template <class T>
__device__ void argmax_warp(const T* x, long long* y, long long kept, int kept_ndim,
                            const Dims& kept_shape, const Dims& kept_strides, long long count,
                            long long stride) {
    int lane = threadIdx.x % 32;
    long long warps = all_threads() / 32;
    for (long long i = first_element() / 32; i < kept; i += warps) {
        const T* row = x + find_offset(i, kept_ndim, kept_shape, kept_strides);
        long long best = lane < count ? lane : 0;
        T value = row[best * stride];
        for (long long j = best + 32; j < count; j += 32)
            if (is_larger(row[j * stride], value)) {
                best = j;
                value = row[j * stride];
            }
        for (int apart = 16; apart > 0; apart /= 2) {
            long long other = __shfl_xor_sync(0xffffffffu, best, apart);
            T others = __shfl_xor_sync(0xffffffffu, value, apart);
            bool is_equal = !is_larger(value, others) && !is_larger(others, value);
            if (is_larger(others, value) || (is_equal && other < best)) {
                best = other;
                value = others;
            }
        }
        if (lane == 0) y[i] = best;
    }
}

extern "C" __global__ void argmax_naive_float(
    const float* x, long long* y, long long kept, int kept_ndim,
    const __grid_constant__ Dims kept_shape, const __grid_constant__ Dims kept_strides,
    long long count, long long stride) {
    argmax_naive(x, y, kept, kept_ndim, kept_shape, kept_strides, count, stride);
}

extern "C" __global__ void argmax_warp_float(
    const float* x, long long* y, long long kept, int kept_ndim,
    const __grid_constant__ Dims kept_shape, const __grid_constant__ Dims kept_strides,
    long long count, long long stride) {
    argmax_warp(x, y, kept, kept_ndim, kept_shape, kept_strides, count, stride);
}

extern "C" __global__ void argmax_warp_long(
    const long long* x, long long* y, long long kept, int kept_ndim,
    const __grid_constant__ Dims kept_shape, const __grid_constant__ Dims kept_strides,
    long long count, long long stride) {
    argmax_warp(x, y, kept, kept_ndim, kept_shape, kept_strides, count, stride);
}
