"""Hand-written CUDA kernels and the means to run them: nothing here yet.

This package will hold the `.cu` files, each kernel from its naive version to a fast one, and the
few modules that allocate device memory and launch a kernel, on a GPU through PyCUDA or on any CPU
through an emulator.

Imports go one way: `kernels` imports neither `tensor` nor `minigpt`. Of their modules only
`tensor/cuda_backend.py` may import this package, and only once a CUDA device is asked for.
"""
