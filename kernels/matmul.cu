// matmul.cu - C = A B: A (M, K), B (K, N), C (M, N), float32, row by row. K = 0 gives zeros.
//
// matmul_naive  one thread an entry of C: each reads 2 K floats from device memory.
//               grid ceil(N / blockDim.x), ceil(M / blockDim.y).
// matmul_tiles  a block computes a tile of 16 x 16 entries from tiles of A and B that it keeps in
//               shared memory: each float is read from device memory 16 times less often.
//               block (16, 16); grid ceil(N / 16), ceil(M / 16).

extern "C" __global__ void matmul_naive(const float* __restrict__ A, const float* __restrict__ B,
                                        float* __restrict__ C, int M, int N, int K) {
    int n = blockIdx.x * blockDim.x + threadIdx.x, m = blockIdx.y * blockDim.y + threadIdx.y;
    if (m >= M || n >= N) return;
    float sum = 0.0f;
    for (int k = 0; k < K; k++) sum += A[(long long)m * K + k] * B[(long long)k * N + n];
    C[(long long)m * N + n] = sum;
}

extern "C" __global__ void __launch_bounds__(256) matmul_tiles(
        const float* __restrict__ A, const float* __restrict__ B, float* __restrict__ C, int M,
        int N, int K) {
    __shared__ float a[16][16];
    __shared__ float b[16][16];
    int x = threadIdx.x, y = threadIdx.y;
    int n = blockIdx.x * 16 + x, m = blockIdx.y * 16 + y;
    float sum = 0.0f;
    for (int k0 = 0; k0 < K; k0 += 16) {
        // Outside the matrices the tiles hold zeros, which add nothing.
        a[y][x] = m < M && k0 + x < K ? A[(long long)m * K + k0 + x] : 0.0f;
        b[y][x] = k0 + y < K && n < N ? B[(long long)(k0 + y) * N + n] : 0.0f;
        __syncthreads();
        for (int k = 0; k < 16; k++) sum += a[y][k] * b[k][x];
        __syncthreads();            // before the next round overwrites the tiles
    }
    if (m < M && n < N) C[(long long)m * N + n] = sum;
}
