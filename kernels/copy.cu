// copy.cu - elements put elsewhere: fills, strided copies, transposes, casts, borders.
//
// Version "strided" (copy_strided_float …): the naive one. A thread finds by division where its
// element lies in both arrays, which may have any strides: transposed, sliced, reversed, repeated.
// Neighbouring threads write neighbouring elements; what they read may lie far apart, and then each
// read of 4 bytes costs the memory 32.
//
// Version "float4" (copy_strided_float4): the same on groups of four floats, 16 bytes a thread in
// one instruction, where the last axis has no gaps in either array. A quarter of the divisions and
// of the instructions: the way of heads that are split and merged, of concatenation and of slices.
//
// Version "tiles" (copy_tiles_float): for a transposed matrix, whose elements lie next to each
// other down a column. A block moves a tile of 32 x 32 through shared memory, so that reads run
// along the columns of x and writes along the rows of y, and both use all of each 32 bytes that the
// memory gives. A row of the tile has 33 places: with 32 a column would lie in a single one of the
// 32 banks of shared memory, whose threads would have to wait for one another.
//
// Half precision and bfloat16: "short" versions move two bytes, whatever they mean; rows without
// gaps go as floats, two elements in one (tensor/cuda_moving.py). The casts from and to float are
// "strided" ones, and "vector" ones for arrays without gaps: four elements a thread, 16 bytes of
// floats and 8 of halves in one instruction each. A float is rounded to nearest even.
//
//   n           elements to write
//   ndim        axes, at least 1; shape: their sizes; …strides in elements
#include "pack.cuh"
#include "strides.cuh"

// --- fills: y[0 … n-1] = value

template <class T> __device__ void fill(T* y, T value, long long n) {
    for (long long i = first_element(); i < n; i += all_threads()) y[i] = value;
}

extern "C" __global__ void fill_float(float* y, float value, long long n) { fill(y, value, n); }

extern "C" __global__ void fill_long(long long* y, long long value, long long n) {
    fill(y, value, n);
}

extern "C" __global__ void fill_int(int* y, int value, long long n) { fill(y, value, n); }

extern "C" __global__ void fill_bool(unsigned char* y, int value, long long n) {
    fill(y, (unsigned char)value, n);
}

// value: the bits of an element
extern "C" __global__ void fill_short(unsigned short* y, int value, long long n) {
    fill(y, (unsigned short)value, n);
}

extern "C" __global__ void fill_float4(float* y, float value, long long n) {
    for (long long quad = first_element(); quad < n / 4; quad += all_threads())
        reinterpret_cast<float4*>(y)[quad] = make_float4(value, value, value, value);
    for (long long i = n / 4 * 4 + first_element(); i < n; i += all_threads()) y[i] = value;
}

// --- copies between arrays of one shape

template <class T>
__device__ void copy_strided(const T* x, T* y, long long n, int ndim, const Dims& shape,
                             const Dims& x_strides, const Dims& y_strides) {
    const Dims* const strides[2] = {&x_strides, &y_strides};
    long long at[2];
    for (long long i = first_element(); i < n; i += all_threads()) {
        find_offsets<2>(i, ndim, shape, strides, at);
        y[at[1]] = x[at[0]];
    }
}

extern "C" __global__ void copy_strided_float(
    const float* x, float* y, long long n, int ndim, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims x_strides, const __grid_constant__ Dims y_strides) {
    copy_strided(x, y, n, ndim, shape, x_strides, y_strides);
}

extern "C" __global__ void copy_strided_long(
    const long long* x, long long* y, long long n, int ndim, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims x_strides, const __grid_constant__ Dims y_strides) {
    copy_strided(x, y, n, ndim, shape, x_strides, y_strides);
}

extern "C" __global__ void copy_strided_int(
    const int* x, int* y, long long n, int ndim, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims x_strides, const __grid_constant__ Dims y_strides) {
    copy_strided(x, y, n, ndim, shape, x_strides, y_strides);
}

extern "C" __global__ void copy_strided_bool(
    const unsigned char* x, unsigned char* y, long long n, int ndim,
    const __grid_constant__ Dims shape, const __grid_constant__ Dims x_strides,
    const __grid_constant__ Dims y_strides) {
    copy_strided(x, y, n, ndim, shape, x_strides, y_strides);
}

extern "C" __global__ void copy_strided_short(
    const unsigned short* x, unsigned short* y, long long n, int ndim,
    const __grid_constant__ Dims shape, const __grid_constant__ Dims x_strides,
    const __grid_constant__ Dims y_strides) {
    copy_strided(x, y, n, ndim, shape, x_strides, y_strides);
}

// n, the last size of shape, and all strides but the last, which is 1, count groups of four floats.
extern "C" __global__ void copy_strided_float4(
    const float* x, float* y, long long n, int ndim, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims x_strides, const __grid_constant__ Dims y_strides) {
    copy_strided(reinterpret_cast<const float4*>(x), reinterpret_cast<float4*>(y), n, ndim, shape,
                 x_strides, y_strides);
}

// y (batch, rows, cols), without gaps along a row, takes x, without gaps along a column.
//   x_batch, x_col      strides of x, whose rows have stride 1
//   y_batch, y_row      strides of y, whose columns have stride 1
// Blocks of 32 x 8 threads, four rows of the tile to each.
constexpr int TILE = 32;

extern "C" __global__ void copy_tiles_float(
    const float* x, float* y, long long batch, long long rows, long long cols, long long x_batch,
    long long x_col, long long y_batch, long long y_row) {
    __shared__ float tile[TILE][TILE + 1];
    long long tiles_across = (cols + TILE - 1) / TILE, tiles_down = (rows + TILE - 1) / TILE;
    for (long long i = blockIdx.x; i < batch * tiles_down * tiles_across; i += gridDim.x) {
        long long b = i / (tiles_down * tiles_across);
        long long row = i / tiles_across % tiles_down * TILE, col = i % tiles_across * TILE;
        for (int c = threadIdx.y; c < TILE; c += blockDim.y)
            if (row + threadIdx.x < rows && col + c < cols)
                tile[c][threadIdx.x] = x[b * x_batch + row + threadIdx.x + (col + c) * x_col];
        __syncthreads();
        for (int r = threadIdx.y; r < TILE; r += blockDim.y)
            if (row + r < rows && col + threadIdx.x < cols)
                y[b * y_batch + (row + r) * y_row + col + threadIdx.x] = tile[threadIdx.x][r];
        __syncthreads();  // before the next tile is written over this one
    }
}

// --- casts: y, without gaps, takes x in another type. To integers the fraction is cut off, to
// booleans everything but 0 becomes 1.

template <class To, class From>
__device__ void cast(const From* x, To* y, long long n, int ndim, const Dims& shape,
                     const Dims& strides) {
    for (long long i = first_element(); i < n; i += all_threads())
        y[i] = (To)x[find_offset(i, ndim, shape, strides)];
}

template <class From>
__device__ void cast_to_bool(const From* x, unsigned char* y, long long n, int ndim,
                             const Dims& shape, const Dims& strides) {
    for (long long i = first_element(); i < n; i += all_threads())
        y[i] = x[find_offset(i, ndim, shape, strides)] != 0;
}

extern "C" __global__ void cast_float_long(
    const float* x, long long* y, long long n, int ndim, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims strides) {
    cast(x, y, n, ndim, shape, strides);
}
extern "C" __global__ void cast_float_int(
    const float* x, int* y, long long n, int ndim, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims strides) {
    cast(x, y, n, ndim, shape, strides);
}
extern "C" __global__ void cast_float_bool(
    const float* x, unsigned char* y, long long n, int ndim, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims strides) {
    cast_to_bool(x, y, n, ndim, shape, strides);
}
extern "C" __global__ void cast_long_float(
    const long long* x, float* y, long long n, int ndim, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims strides) {
    cast(x, y, n, ndim, shape, strides);
}
extern "C" __global__ void cast_long_int(
    const long long* x, int* y, long long n, int ndim, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims strides) {
    cast(x, y, n, ndim, shape, strides);
}
extern "C" __global__ void cast_long_bool(
    const long long* x, unsigned char* y, long long n, int ndim, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims strides) {
    cast_to_bool(x, y, n, ndim, shape, strides);
}
extern "C" __global__ void cast_int_float(
    const int* x, float* y, long long n, int ndim, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims strides) {
    cast(x, y, n, ndim, shape, strides);
}
extern "C" __global__ void cast_int_long(
    const int* x, long long* y, long long n, int ndim, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims strides) {
    cast(x, y, n, ndim, shape, strides);
}
extern "C" __global__ void cast_int_bool(
    const int* x, unsigned char* y, long long n, int ndim, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims strides) {
    cast_to_bool(x, y, n, ndim, shape, strides);
}
extern "C" __global__ void cast_bool_float(
    const unsigned char* x, float* y, long long n, int ndim, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims strides) {
    cast(x, y, n, ndim, shape, strides);
}
extern "C" __global__ void cast_bool_long(
    const unsigned char* x, long long* y, long long n, int ndim, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims strides) {
    cast(x, y, n, ndim, shape, strides);
}
extern "C" __global__ void cast_bool_int(
    const unsigned char* x, int* y, long long n, int ndim, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims strides) {
    cast(x, y, n, ndim, shape, strides);
}

extern "C" __global__ void cast_float_half(
    const float* x, __half* y, long long n, int ndim, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims strides) {
    cast(x, y, n, ndim, shape, strides);
}
extern "C" __global__ void cast_half_float(
    const __half* x, float* y, long long n, int ndim, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims strides) {
    cast(x, y, n, ndim, shape, strides);
}
extern "C" __global__ void cast_float_bfloat16(
    const float* x, __nv_bfloat16* y, long long n, int ndim, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims strides) {
    cast(x, y, n, ndim, shape, strides);
}
extern "C" __global__ void cast_bfloat16_float(
    const __nv_bfloat16* x, float* y, long long n, int ndim, const __grid_constant__ Dims shape,
    const __grid_constant__ Dims strides) {
    cast(x, y, n, ndim, shape, strides);
}

// Both arrays without gaps, at multiples of 16 bytes.
template <class To, class From>
__device__ void cast_vector(const From* x, To* y, long long n) {
    for (long long i = first_element(); i < n / 4; i += all_threads())
        store_pack(y, i, load_pack<4>(x, i));
    for (long long i = n / 4 * 4 + first_element(); i < n; i += all_threads()) y[i] = (To)x[i];
}

extern "C" __global__ void cast_float_half_vector(const float* x, __half* y, long long n) {
    cast_vector(x, y, n);
}
extern "C" __global__ void cast_half_float_vector(const __half* x, float* y, long long n) {
    cast_vector(x, y, n);
}
extern "C" __global__ void cast_float_bfloat16_vector(const float* x, __nv_bfloat16* y,
                                                      long long n) {
    cast_vector(x, y, n);
}
extern "C" __global__ void cast_bfloat16_float_vector(const __nv_bfloat16* x, float* y,
                                                      long long n) {
    cast_vector(x, y, n);
}

// --- a field of one value with an array set into it: padding, and the gradient of a slice
//
// y, without gaps, has the shape `shape`. Along each axis, element k of x goes to start + k * step
// of y, for k < count; everything else is `value`. A negative step is a reversed slice.

template <class T>
__device__ void place(const T* x, T* y, T value, long long n, int ndim, const Dims& shape,
                      const Dims& starts, const Dims& steps, const Dims& counts,
                      const Dims& strides) {
    for (long long i = first_element(); i < n; i += all_threads()) {
        long long rest = i, offset = 0;
        bool inside = true;
        for (int axis = ndim - 1; axis >= 0; axis--) {
            long long distance = rest % shape.n[axis] - starts.n[axis];
            long long k = distance / steps.n[axis];
            rest /= shape.n[axis];
            inside = inside && k * steps.n[axis] == distance && k >= 0 && k < counts.n[axis];
            offset += k * strides.n[axis];
        }
        y[i] = inside ? x[offset] : value;
    }
}

extern "C" __global__ void place_float(
    const float* x, float* y, float value, long long n, int ndim,
    const __grid_constant__ Dims shape, const __grid_constant__ Dims starts,
    const __grid_constant__ Dims steps, const __grid_constant__ Dims counts,
    const __grid_constant__ Dims strides) {
    place(x, y, value, n, ndim, shape, starts, steps, counts, strides);
}

extern "C" __global__ void place_long(
    const long long* x, long long* y, long long value, long long n, int ndim,
    const __grid_constant__ Dims shape, const __grid_constant__ Dims starts,
    const __grid_constant__ Dims steps, const __grid_constant__ Dims counts,
    const __grid_constant__ Dims strides) {
    place(x, y, value, n, ndim, shape, starts, steps, counts, strides);
}
