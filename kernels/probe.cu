// probe.cu - the smallest kernel that does something: `minigpt doctor` runs it, to see that a
// device compiles, launches, and gives the right numbers.
//
// y[i] = a * x[i] + y[i] for i < n; x, y: (n,) float32. One thread an element.

extern "C" __global__ void probe_axpy(float a, const float* __restrict__ x, float* __restrict__ y,
                                      long long n) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
