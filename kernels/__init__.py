"""Hand-written CUDA kernels, and the emulator that runs the same files on a CPU.

`launch.py` compiles a `.cu` file and launches its kernels, `device.py` holds their arrays,
`emulator/` is the machine that they run on. There is no path to a GPU, and no backend of `tensor`
on top, yet; README.md beside this file says what there is.

Imports go one way: `kernels` imports neither `tensor` nor `minigpt`. Of their modules only
`tensor/cuda_backend.py` may import this package, and only once a CUDA device is asked for.
"""
