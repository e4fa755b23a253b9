"""Which kernels attention takes, by `matmul_precision` and by the type of its arrays, and what
comes out of a tensor's forward and backward pass with them.
"""

import numpy as np
import pytest

import tensor
from tensor import matmul_precision
from tensor.cuda_backend import CudaBackend
from tensor.cuda_launch import Version
from tensor.dtypes import converted, named, widened
from tests.kernels.attention_cases import TOLERANCES, check, reference
from tests.kernels.devices import NAME, ORDERS, close, needs_device, normal

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _compiler():
    needs_device()


@pytest.fixture
def launched(monkeypatch):
    """The kernels of attention that are launched, in their order."""
    names, load = [], CudaBackend.kernel

    def kernel(self, file, name):
        if name.startswith("attention"):
            names.append(name.removeprefix("attention_"))
        return load(self, file, name)

    monkeypatch.setattr(CudaBackend, "kernel", kernel)
    return names


def run(shape, dtype="float32", precision="float32", tolerance=1e-4):
    """Attention and its gradients on the device, against float64 on the same rounded numbers: the
    errors, relative to root mean squares.
    """
    B, H, T, S, D = shape
    rounded = [widened(converted(x, named(dtype))) for x in normal(
        0, (B, H, T, D), (B, H, S, D), (B, H, S, D), (B, H, T, D))]
    q, k, v = (tensor.Tensor(x, requires_grad=True, device=NAME, dtype=dtype) for x in rounded[:3])
    with matmul_precision(precision):
        out, _ = tensor.attention(q, k, v, causal=True)
        out.backward(tensor.Tensor(rounded[3], device=NAME, dtype=dtype))
    expected = reference(*rounded[:3], None, D ** -0.5, True, None, rounded[3], None)
    assert out.dtype == named(dtype)
    got, errors = [x.numpy() for x in (out, q.grad, k.grad, v.grad)], []
    for g, e in zip(got, [expected[0], *expected[2:]], strict=True):
        close(g, e, tolerance)
        errors.append(np.square(g - e).mean() ** 0.5 / np.square(e).mean() ** 0.5)
    return errors


@pytest.mark.parametrize(("precision", "kernels"), [
    ("float32", ["tiles_32", "row_products", "tiles_backward_queries_32",
                 "tiles_backward_keys_32"]),
    ("3xtf32", ["tiles_32", "row_products", "tiles_backward_queries_32",
                "tiles_backward_keys_32"]),
    ("tf32", ["mma_tf32_32", "row_products", "mma_backward_tf32_queries_32",
              "mma_backward_tf32_keys_32"]),
    ("bf16", ["mma_bf16_32", "row_products", "mma_backward_bf16_queries_32",
              "mma_backward_bf16_keys_32"])])
def test_precision(launched, precision, kernels):
    errors = run((1, 2, 20, 30, 16), precision=precision, tolerance=TOLERANCES.get(precision, 1e-4))
    assert launched == kernels
    if precision in TOLERANCES:
        assert min(errors) > 1e-5       # operands really are rounded


def test_where_tensor_cores_have_no_version(launched):
    """Few queries are computed in float32, and so is the gradient of a large head."""
    run((1, 1, 20, 20, 100), precision="tf32", tolerance=3e-3)
    assert launched == ["mma_tf32_128", "row_products", "tiles_backward_queries_128",
                        "tiles_backward_keys_128"]
    launched.clear()
    q, k, v = (tensor.Tensor(x, device=NAME) for x in normal(0, (1, 1, 4, 8), *[(1, 1, 9, 8)] * 2))
    with matmul_precision("tf32"):
        tensor.attention(q, k, v)
    assert launched == ["rows"]


@pytest.mark.parametrize(("shape", "kernels"), [
    ((1, 2, 20, 30, 16), ["mma_bf16_storage_32", "row_products_bf16",
                          "mma_backward_bf16_storage_queries_32",
                          "mma_backward_bf16_storage_keys_32"]),
    ((1, 2, 4, 30, 16), ["rows_bf16", "row_products_bf16", "mma_backward_bf16_storage_queries_32",
                         "mma_backward_bf16_storage_keys_32"]),
    ((1, 1, 20, 20, 100), ["mma_bf16_storage_128", "row_products", "tiles_backward_queries_128",
                           "tiles_backward_keys_128"])])
def test_arrays_of_bfloat16(launched, shape, kernels):
    """They are read and written as they are, or where there is no kernel, widened."""
    run(shape, "bfloat16", tolerance=TOLERANCES["bf16"])
    assert launched == kernels


def test_arrays_of_float16_are_widened(launched):
    run((1, 2, 20, 30, 16), "float16", tolerance=2e-3)
    assert launched[0] == "tiles_32"


def test_rows_of_bfloat16():
    for order in ORDERS:
        version = Version("attention_rows_bf16", 128, order)
        for shape in [(2, 3, 2, 33, 8), (1, 1, 1, 300, 64), (1, 2, 3, 65, 200)]:
            check(version, None, shape, True)
    version = Version("attention_rows_bf16", 64, ORDERS[-1])
    check(version, None, (1, 2, 3, 70, 33), True, checked=True)
