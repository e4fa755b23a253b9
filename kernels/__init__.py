"""Hand-written CUDA kernels, and the emulator that runs the same files on a CPU.

`launch.py` compiles a `.cu` file and launches its kernels, `array.py` has the arrays that they work
on, `device.py` the devices that hold these; `emulator/` is the machine that they run on. README.md
beside this file says what there is.

Imports go one way: `kernels` imports neither `tensor` nor `minigpt`. Of their modules only
`tensor/cuda_*.py` may import this package, and only once a CUDA device is asked for.
"""
