"""How many blocks a launch has: from a version's name, the threads of a block, and the sizes.

What each version asks for stands in the header of its `.cu` file; here it is once for whoever
launches: `tensor/cuda_*.py`, the bench, the tests. A name here is that of a kernel; `block` is the
number of threads in a block. Sizes are at least 1: an empty launch is none.
"""

from __future__ import annotations

from collections.abc import Iterable

CHUNK = 4096  # elements a block of optimizer.cu's kernels of many arrays; it has the same number
MOST_BLOCKS = 4096  # of a kernel on a GPU whose threads go on until all is done
TILE = 32  # rows and columns that copy_tiles_float moves at a time

# Rows and columns of C that a block of matmul*.cu computes.
MATMUL_TILES = {
    "matmul_tiles": (16, 16),
    "matmul_registers": (64, 64),
    "matmul_vector": (128, 128),
    "matmul_wmma": (64, 64),
    "matmul_mma_tf32": (128, 128),
    "matmul_mma_3xtf32": (128, 128),
    "matmul_mma_bf16": (128, 128),
    "matmul_mma_bf16_storage": (128, 128),
    "matmul_mma_bf16_parts": (128, 128),
}
# Versions with a block a row whose names don't say so.
BLOCK_A_ROW = {"cross_entropy_vector", "cross_entropy_backward_vector", "layer_norm_backward_rows"}


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def striding(work: int, each: int, most: int) -> int:
    """Of a kernel whose threads go on until all is done: enough blocks for `work` pieces, `each` a
    block, but no more than `most`.
    """
    return max(1, min(ceil_div(work, each), most))


def matmul(version: str, block: int, M: int, N: int, batches: int, transpose_b: bool) -> int:
    """Of matmul*.cu. KeyError for an unknown version."""
    if version in ("matmul_naive", "matmul_coalesced"):
        return ceil_div(batches * M * N, block)
    if version in ("matmul_rows", "matmul_rows_bf16"):
        rows, columns = 4, block // 32 if transpose_b else 32
    else:
        rows, columns = MATMUL_TILES[version]
    return batches * ceil_div(M, rows) * ceil_div(N, columns)


def matmul_file(version: str) -> str:
    """The file that has a version of the matrix product."""
    if version.startswith("matmul_mma_"):
        return "matmul_mma.cu"
    return "matmul_wmma.cu" if version == "matmul_wmma" else "matmul.cu"


def matmul_block(version: str, block: int) -> int | tuple[int, int]:
    """The block's shape: matmul_tiles numbers its threads in two dimensions."""
    return (16, 16) if version == "matmul_tiles" else block


def over_rows(version: str, block: int, rows: int) -> int:
    """Of softmax.cu, layer_norm.cu and cross_entropy.cu: the name says what works on a row."""
    version = version.removesuffix("_bfloat16")
    if version.endswith(("_block", "_long")) or version in BLOCK_A_ROW:
        return rows
    return ceil_div(rows, block if version.endswith("_naive") else block // 32)


def cross_entropy_backward(version: str, block: int, rows: int, V: int) -> int:
    """As `over_rows`, but the naive version has a thread an element."""
    naive = version == "cross_entropy_backward_naive"
    return ceil_div(rows * V, block) if naive else over_rows(version, block, rows)


def layer_norm_backward(rows: int) -> int:
    """Of layer_norm_backward_block and _vector, whose blocks share the rows: some for each of a
    GPU's multiprocessors. But what each leaves to be added up is written and read again, the bytes
    of four rows of C floats; so from 2048 rows on, a block has 8 of them or more.
    """
    return min(rows, max(256, min(512, rows // 8)))


def gelu_backward_bias(rows: int, C: int) -> tuple[int, int]:
    """Of gelu_backward_bias: 128 columns a block, and chunks of 32 rows or more, so many that there
    are about 1024 blocks. (Each chunk leaves a sum a column: a hundredth of what it has read.)
    """
    columns = ceil_div(C, 128)
    return columns, min(ceil_div(rows, 32), ceil_div(1024, columns))


def layer_norm_backward_sum(C: int) -> int:
    """Of layer_norm_backward_sum: 32 of the 2 C columns a block."""
    return ceil_div(2 * C, 32)


def attention_file(version: str) -> str:
    """The file that has a version of attention or of its gradient."""
    files = ("attention_tiles_backward", "attention_mma_backward", "attention_tiles",
             "attention_mma")  # fmt: skip
    return next((f"{file}.cu" for file in files if version.startswith(file)), "attention.cu")


def attention(version: str, block: int, heads: int, T: int) -> int:
    """Of attention_tiles_…, attention_mma_… and attention_rows; heads: B H. The backward's kernels
    have as many with T, or with S for T, rows.
    """
    return heads * (T if version.startswith("attention_rows") else ceil_div(T, block // 2))


def attention_softmax(version: str, block: int, rows: int) -> int:
    """Of attention_softmax_… and attention_softmax_backward_…; rows: B H T."""
    return ceil_div(rows, block // 32 if version.endswith("_warp") else block)


def many(sizes: Iterable[int]) -> int:
    """Of the kernels of optimizer.cu that take many arrays: a block a chunk of each."""
    return sum(ceil_div(size, CHUNK) for size in sizes)


def copy_tiles(batch: int, rows: int, columns: int) -> int:
    """The tiles of copy_tiles_float, by blocks of TILE x 8 threads, which may do several each."""
    return batch * ceil_div(rows, TILE) * ceil_div(columns, TILE)
