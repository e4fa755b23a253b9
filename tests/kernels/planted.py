"""Bugs planted in kernels, which the checker must find on their very line, and kernels that look
like them and are right, which it must let pass. SOURCE has all of them, to be compiled once.
"""

from typing import NamedTuple

import numpy as np


class Planted(NamedTuple):
    """The body of a kernel of (const float* x, float* y, int n), run with 2 blocks of 64 threads on
    x and y of n = 128 floats; `i` is the thread in its block, `g` in the grid, `s` 64 floats of
    shared memory. /*!*/ marks the line to be named (the kernel's first, where none is marked),
    `words` begin the message. in_fast: the fast mode finds it, too.
    """

    body: str
    words: str
    in_fast: bool = False
    shared: int = 0


# "Threadfence reduction": the last block to take a ticket adds what all blocks have written.
TICKET = ("__shared__ bool last; if (i == 0) { y[blockIdx.x] = 1 + blockIdx.x; __threadfence(); "
          "last = atomicInc(%s, gridDim.x - 1) == gridDim.x - 1; } __syncthreads(); "
          "if (last && i == 0) y[2] = y[0] + y[1];")

PLANTED = {
    # --- out of bounds
    "past_the_end": Planted("y[g + 1] = x[g]; /*!*/", "out of bounds"),
    "before_the_start": Planted("y[g] = x[g - 1]; /*!*/", "out of bounds"),
    "far_out": Planted("y[g] = x[(g + 1) * 100000]; /*!*/", "out of bounds"),
    "null": Planted("float* none = nullptr;\n none[i] = 1; /*!*/", "out of bounds", True),
    "vector_past_the_end": Planted("y[g] = ((const float4*)x)[i].w; /*!*/", "out of bounds"),
    "shared_index": Planted("s[i + 1] = 0; /*!*/", "out of bounds"),
    "shared_pointer": Planted("float* p = s + i;\n p[1] = 0; /*!*/", "out of bounds"),
    "dynamic_too_small": Planted(
        "extern __shared__ float d[];\n d[i] = x[g]; /*!*/", "out of bounds", shared=128),
    "no_dynamic": Planted("extern __shared__ float d[];\n d[i] = x[g]; /*!*/", "out of bounds"),
    "local_index": Planted("int a[4] = {0, 1, 2, 3};\n y[g] = a[i / 8]; /*!*/", "out of bounds"),
    "atomic_outside": Planted("atomicAdd(&y[n + i], 1.0f); /*!*/", "out of bounds"),
    # --- alignment
    "misaligned_vector": Planted("*(float2*)(y + 2 * i + 1) = make_float2(1, 2); /*!*/",
                                 "misaligned"),
    "misaligned_read": Planted("y[g] = *(const float*)((const char*)x + 1); /*!*/", "misaligned"),
    "misaligned_shared": Planted("s[i] = 0;\n float4 v = *(float4*)(s + 1); /*!*/\n y[g] = v.x;",
                                 "misaligned"),
    # --- what nobody has written
    "shared_unwritten": Planted("if (i != 40) s[i] = 0;\n __syncthreads();\n y[g] = s[i]; /*!*/",
                                "uninitialised"),
    "global_unwritten": Planted("y[g] += x[g]; /*!*/", "uninitialised"),
    "atomic_unwritten": Planted("atomicAdd(&y[0], 1.0f); /*!*/", "uninitialised"),
    # --- order
    "no_barrier": Planted("s[i] = 0; __syncthreads();\n s[i] = x[g]; /*!*/\n y[g] = s[63 - i]; "
                          "/*!*/", "race"),
    "no_barrier_below": Planted("s[i] = 0; __syncthreads();\n s[i] = x[g]; /*!*/\n"
                                " y[g] = s[i ? i - 1 : 0]; /*!*/", "race"),
    "no_syncwarp": Planted("s[i] = 0; __syncthreads();\n s[i] = x[g]; /*!*/\n y[g] = s[i ^ 1]; "
                           "/*!*/", "race"),
    "read_then_overwritten": Planted(
        "s[i] = x[g]; __syncthreads();\n float v = s[63 - i]; /*!*/\n s[i] = v; /*!*/", "race"),
    "tile_loop": Planted(
        "float a = 0;\n for (int t = 0; t < 4; t++) {\n s[i] = x[g]; /*!*/\n __syncthreads();\n"
        " a += s[63 - i]; /*!*/\n }\n y[g] = a;", "race"),
    "sum_twice": Planted(
        "y[g] = 0;\n for (int k = 0; k < 2; k++) {\n if (i % 32 == 0) s[i / 32] = x[g]; /*!*/\n"
        " __syncthreads();\n y[g] += s[0] + s[1]; /*!*/\n }", "race"),
    "lost_update": Planted("((float*)x)[i] += 1; /*!*/", "race"),
    "blocks_write": Planted("if (i == 0) y[0] = x[g]; /*!*/", "race"),
    "blocks_read": Planted("if (g == 0 || g == 127) y[g] = 1;\n else if (i == 5)\n"
                           " y[g] = y[127 - g / 64 * 127]; /*!*/", "race|uninitialised"),
    "warps_in_global": Planted("y[g] = 0; /*!*/\n y[g ^ 32] = 1; /*!*/", "race"),
    "atomic_and_plain": Planted(
        "if (i == 0) s[0] = 0;\n __syncthreads();\n atomicAdd(&s[0], 1.0f); /*!*/\n"
        " if (i == 9) s[0] = 3; /*!*/", "race"),
    "same_byte": Planted("unsigned char* b = (unsigned char*)s;\n b[i / 2] = 1; /*!*/", "race"),
    "no_fence": Planted(TICKET.replace("__threadfence(); ", "") % "&tickets" + " /*!*/", "race"),
    # --- barriers and warps
    "half_a_barrier": Planted("if (i < 32)\n __syncthreads(); /*!*/", "divergent barrier", True),
    "two_barriers": Planted("if (i < 32)\n __syncthreads(); /*!*/\n else\n __syncthreads(); /*!*/",
                            "divergent barrier", True),
    "other_count": Planted("for (int k = i; k < 96; k += 64)\n __syncthreads(); /*!*/",
                           "divergent barrier", True),
    "not_in_its_mask": Planted("y[g] = __shfl_sync(1u, 1.0f, 0); /*!*/", "__shfl_sync", True),
    "two_calls": Planted("if (i & 1)\n __syncwarp(); /*!*/\n else\n __syncwarp(); /*!*/",
                         "the lanes of a warp disagree", True),
    "two_masks": Planted("__syncwarp(i & 1 ? 0xffffffffu : 0xfffffffdu); /*!*/",
                         "the lanes of a warp disagree", True),
    "barrier_and_shuffle": Planted(
        "float v = i;\n if (i & 16) __syncthreads();\n"
        " else v = __shfl_xor_sync(0xffffffffu, v, 1); /*!*/", "deadlock", True),
    # --- arithmetic, and what the kernel itself finds wrong
    "overflow": Planted("y[g] = n * 20000000 + i; /*!*/", "overflow"),
    "shift": Planted("y[g] = n << (i + 1); /*!*/", "overflow"),
    "division": Planted("y[g] = n / i; /*!*/", "overflow|integer division by zero"),
    "stack": Planted("volatile float big[100000];\n big[i] = 1;\n y[g] = big[i];",
                     "stack overflow", True),
    "trap": Planted("if (i == 3) __trap(); /*!*/", "__trap", True),
    "assertion": Planted("assert(i < 63); /*!*/", "assert", True),
}

# The same launch; each must run, and give what NumPy says (None: not looked at).
X = np.arange(128, dtype=np.float32)
CORRECT = {
    "barrier": ("s[i] = x[g]; __syncthreads(); y[g] = s[63 - i];",
                X.reshape(2, 64)[:, ::-1].ravel()),
    "syncwarp": ("s[i] = x[g]; __syncwarp(); y[g] = s[i ^ 1];",
                 X.reshape(64, 2)[:, ::-1].ravel()),
    "reread": ("s[i] = x[g]; __syncthreads(); float v = s[63 - i]; __syncthreads(); s[i] = v; "
               "y[g] = s[i];", X.reshape(2, 64)[:, ::-1].ravel()),
    "many_readers": ("s[i] = x[g]; __syncthreads(); float v = 0; for (int k = 0; k < 64; k++) "
                     "v += s[k]; y[g] = v;", np.repeat(X.reshape(2, 64).sum(1), 64)),
    "atomic": ("if (i == 0) s[0] = 0; __syncthreads(); atomicAdd(&s[0], 1.0f); __syncthreads(); "
               "y[g] = s[0];", np.full(128, 64.0)),
    "early_return": ("if (i >= 40) return; y[g] = 1; __syncthreads(); y[g] = y[g] + "
                     "__shfl_xor_sync(0xffffffffu, 0.0f, 1);", None),
    "return_in_a_helper": ("y[g] = 1; helper(i, s); y[g] = 2;", np.full(128, 2.0)),
    "neighbouring_bytes": ("unsigned char* b = (unsigned char*)s; b[i] = i; __syncthreads(); "
                           "y[g] = b[i ^ 1];", np.tile(np.arange(64) ^ 1, 2)),
    "bytes_then_words": ("s[i] = 1; __syncthreads(); ((unsigned char*)s)[4 * i] = 0; "
                         "__syncthreads(); y[g] = s[63 - i];", np.ones(128)),
    "shared_once_more": ("for (int k = 0; k < 3; k++) { __syncthreads(); s[i] = x[g] + k; "
                         "__syncthreads(); y[g] = s[i ^ 33]; }",
                         X.reshape(2, 64)[:, np.arange(64) ^ 33].ravel() + 2),
    "ticket": (TICKET % "&tickets", None),
    "ticket_in_an_array": (TICKET % "(unsigned*)x", None),
}
HEADER = """
__device__ unsigned tickets = 0;
__device__ void helper(int i, float* s) {
    if (i >= 40) return;
    s[i] = 1;
    __syncthreads();
}
"""


def source_of(name: str, body: str) -> str:
    return (f'extern "C" __global__ void {name}(const float* x, float* y, int n) {{\n'
            "    __shared__ float s[64];\n    int i = threadIdx.x, g = blockIdx.x * blockDim.x + i;"
            f"\n    {body}\n}}\n")


# One file for all, so that it is compiled once.
SOURCE = HEADER + "".join(source_of(name, planted.body) for name, planted in PLANTED.items())
SOURCE += "".join(source_of(name, body) for name, (body, _) in CORRECT.items())


def lines_of(name: str) -> str:
    """A pattern for the numbers of the marked lines of one planted bug."""
    lines = SOURCE.split("\n")
    start = next(n for n, line in enumerate(lines) if f" {name}(" in line)
    end = next(n for n in range(start, len(lines)) if lines[n] == "}")
    marked = [n for n in range(start, end) if "/*!*/" in lines[n]] or [start]
    return "|".join(str(n + 1) for n in marked)
