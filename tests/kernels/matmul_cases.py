"""What the tests of matrix products share: operands that lie in memory in every way, the numbers
that a precision multiplies, and the comparison with NumPy in float64.
"""

from __future__ import annotations

import numpy as np

from kernels.array import DeviceArray
from tensor import cuda_matmul
from tensor.cuda_backend import CudaBackend
from tensor.cuda_launch import Version
from tensor.dtypes import converted, named, widened
from tests.kernels.devices import backend, close, normal, one_axis_at_a_time

FLAGS = [(False, False), (False, True), (True, False), (True, True)]
# (M, N, K)
SHAPES = one_axis_at_a_time((33, 65, 17)) + [(1, 1, 1), (128, 128, 8), (130, 132, 20), (4, 4, 0)]
# Those that round the operands are less exact, and 3xtf32 more exact than is asked of float32.
TOLERANCES = {"matmul_wmma": 3e-3, "matmul_mma_tf32": 3e-3, "matmul_mma_3xtf32": 1e-5,
              "matmul_mma_bf16": 2e-2, "matmul_mma_bf16_storage": 2e-2, "matmul_rows_bf16": 2e-2}
STORED_AS_BFLOAT16 = ("matmul_mma_bf16_storage", "matmul_rows_bf16")


def tolerance(version: Version) -> float:
    return TOLERANCES.get(version.name, 1e-4)


def on_device(be: CudaBackend, version: Version, x: np.ndarray) -> DeviceArray:
    """x there in the element type that a version takes."""
    stored = "bfloat16" if version.name in STORED_AS_BFLOAT16 else "float32"
    return be.from_numpy(converted(x, named(stored)))


def lying(be: CudaBackend, version: Version, x: np.ndarray, transposed: bool,
          gap: int) -> DeviceArray:
    """x on the device, transposed in memory or not, with `gap` elements between its rows."""
    x = x.swapaxes(-1, -2) if transposed else x
    room = np.full((*x.shape[:-1], x.shape[-1] + gap), np.nan, np.float32)
    room[..., : x.shape[-1]] = x
    return on_device(be, version, room)[..., : x.shape[-1]]


def numbers(version: Version, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Normal numbers, which a version for bfloat16 arrays can be given exactly."""
    found = normal(0, *shapes)
    if version.name not in STORED_AS_BFLOAT16:
        return found
    return [widened(converted(x, named("bfloat16"))) for x in found]


def check(version: Version, M: int, N: int, K: int, transpose_a: bool, transpose_b: bool,
          gap: int = 0, checked: bool = False, gelu: bool = False) -> None:
    be = backend(checked)
    a, b, bias = numbers(version, (M, K), (K, N), (N,))
    c = cuda_matmul.product(
        be, lying(be, version, a, transpose_a, gap), lying(be, version, b, transpose_b, gap),
        on_device(be, version, bias), transpose_a, transpose_b, gelu, version)
    expected = a.astype(np.float64) @ b + bias
    if gelu:
        u = np.sqrt(2 / np.pi) * (expected + 0.044715 * expected**3)
        expected = expected * (1 + np.tanh(u)) / 2
    close(be.to_numpy(c), expected, tolerance(version))
