"""Each version of the matrix product on the backend, against NumPy in float64."""

import itertools

import numpy as np
import pytest

from tensor import cuda_matmul, matmul_precision
from tensor.cuda_launch import Version
from tensor.dtypes import named
from tests.kernels.devices import ORDERS, backend, close, needs_device, normal
from tests.kernels.matmul_cases import FLAGS, SHAPES, check, lying, numbers, on_device, tolerance

pytestmark = pytest.mark.slow
VERSIONS = [Version("matmul_naive", 32), Version("matmul_coalesced", 200),
            Version("matmul_tiles"), Version("matmul_registers", 64), Version("matmul_vector", 256),
            Version("matmul_rows", 32), Version("matmul_rows", 256), Version("matmul_wmma", 128),
            Version("matmul_mma_tf32"), Version("matmul_mma_3xtf32"), Version("matmul_mma_bf16"),
            Version("matmul_mma_bf16_storage"), Version("matmul_rows_bf16", 128)]
LARGEST = Version("matmul_rows", 512)
PLAIN = Version("matmul_registers", 64)


@pytest.fixture(autouse=True)
def _compiler():
    needs_device()


@pytest.mark.parametrize("version", [*VERSIONS, LARGEST], ids=str)
def test_versions_and_shapes(version):
    for number, shape in enumerate(SHAPES):
        if version.name.startswith("matmul_rows") and shape[0] > 65:     # it is for few
            continue
        for order, flags in itertools.product(ORDERS, FLAGS):
            check(version._replace(order=order), *shape, *flags, gap=number % 2 * 3)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_orders_of_threads(version, order):
    check(version._replace(order=order), 33, 65, 31, False, True)
    check(version._replace(order=order), 5, 130, 33, True, False, gelu=True)


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_checked(version):
    for flags in [(False, False), (True, True)]:
        last = version._replace(order=ORDERS[-1])
        check(last, 33, 65, 19, *flags, gap=3, checked=True, gelu=True)


@pytest.mark.parametrize("version", VERSIONS[1:], ids=str)
@pytest.mark.parametrize("leading", [((5,), (5,)), ((2, 1), (3,)), ((), (2, 3)), ((4, 1), (1, 2))])
def test_batches_broadcast(version, leading):
    be = backend()
    a, b = numbers(version, (*leading[0], 9, 7), (*leading[1], 7, 10))
    c = cuda_matmul.product(be, on_device(be, version, a), on_device(be, version, b), None, False,
                            False, version=version)
    close(be.to_numpy(c), a.astype(np.float64) @ b, tolerance(version))


@pytest.mark.parametrize("rows", [1, 3, 9, 40])
def test_the_primitives_on_views(rows):
    be = backend()
    x, w, b, dy = normal(2, (rows, 3, 2, 5), (5, 6), (6,), (rows, 2, 3, 6))
    x = x.transpose(0, 2, 1, 3)
    view = be.from_numpy(np.ascontiguousarray(x.transpose(0, 2, 1, 3))).permute((0, 2, 1, 3))
    on = be.from_numpy
    close(cuda_matmul.linear(be, view, on(w), on(b), False), x.astype(np.float64) @ w + b)
    close(cuda_matmul.linear(be, view, on(w).permute((1, 0)), None, True), x.astype(np.float64) @ w)
    close(cuda_matmul.matmul(be, view, on(w), False, False), x.astype(np.float64) @ w)
    close(cuda_matmul.matmul(be, view, on(x), False, True), x.astype(np.float64) @ x.swapaxes(2, 3))
    close(cuda_matmul.linear_backward_weight(be, view, on(dy)),
          x.reshape(-1, 5).T.astype(np.float64) @ dy.reshape(-1, 6))
    close(cuda_matmul.linear(be, on(x[0, 0, 0]), on(w), on(b), False),
          x[0, 0, 0].astype(np.float64) @ w + b)


@pytest.mark.parametrize(("a", "b"), [((0, 3), (3, 2)), ((2, 0), (0, 4)), ((4, 0, 3), (3, 2)),
                                      ((2, 2, 3, 0), (2, 1, 0, 3)), ((5, 2, 3), (3, 0))])
def test_empty_ones(a, b):
    x, y = normal(3, a, b)
    be = backend()
    got = cuda_matmul.matmul(be, be.from_numpy(x), be.from_numpy(y), False, False)
    np.testing.assert_array_equal(got.numpy(), np.matmul(x, y))


@pytest.mark.parametrize(("sizes", "precision", "stored", "name"), [
    ((4096, 3072, 768, 1), "float32", "float32", "matmul_vector"),
    ((1, 50257, 768, 1), "float32", "float32", "matmul_rows"),
    ((64, 64, 32, 12), "float32", "float32", "matmul_registers"),
    ((64, 64, 32, 12), "tf32", "float32", "matmul_mma_tf32"),
    ((9, 64, 32, 1), "3xtf32", "float32", "matmul_mma_3xtf32"),
    ((8, 64, 32, 1), "tf32", "float32", "matmul_rows"),
    ((64, 64, 32, 12), "float32", "bfloat16", "matmul_mma_bf16_storage"),
    ((8, 64, 32, 1), "tf32", "bfloat16", "matmul_rows_bf16"),
])
def test_what_is_chosen(sizes, precision, stored, name):
    with matmul_precision(precision):
        assert cuda_matmul._best(backend(), *sizes, named(stored)).name == name


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("gap", [0, 3])
def test_long_sums_are_cut_into_pieces(flags, gap):
    be = backend()
    assert cuda_matmul._pieces(40, 70, 2048) == 4
    assert cuda_matmul._pieces(768, 768, 8192) == 8     # 36 tiles become 288
    assert cuda_matmul._pieces(50257, 768, 8192) == cuda_matmul._pieces(40, 70, 2049) == 1
    a, b, bias = normal(0, (40, 2048), (2048, 70), (70,))
    expected = a.astype(np.float64) @ b
    operands = lying(be, PLAIN, a, flags[0], gap), lying(be, PLAIN, b, flags[1], gap)
    close(cuda_matmul.product(be, *operands, be.from_numpy(bias), *flags), expected + bias)
    close(cuda_matmul.matmul(be, *operands, *flags), expected)
