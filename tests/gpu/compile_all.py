"""Compile every `.cu` file for the GPU that is here, several at a time, and tell what they need.

    python -m tests.gpu.compile_all [sm_90]

So that no test waits for nvcc afterwards. Without an argument the driver is asked for the GPU.
"""

import sys
import time

from kernels.cuda_compile import HERE, compile_all, compile_cubin, find_nvcc
from kernels.cuda_probe import probe_driver
from tests.kernels import cubin


def main() -> int:
    arch = sys.argv[1] if sys.argv[1:] else probe_driver().gpus[0].arch
    nvcc = find_nvcc()
    files = sorted(HERE.glob("*.cu"))
    start = time.perf_counter()
    made = compile_all(arch)
    seconds = time.perf_counter() - start
    print(f"nvcc {nvcc.release} at {nvcc.path}, {arch}: {made} of {len(files)} files compiled in "
          f"{seconds:.1f} s\n")
    print("| kernel | registers | static shared memory, bytes |\n|--|--|--|")
    for path in files:
        for name, facts in sorted(cubin.kernels(compile_cubin(path, arch)).items()):
            print(f"| {path.name} {name} | {facts.registers} | {facts.shared} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
