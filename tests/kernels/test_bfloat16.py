"""The kernels that read and write bfloat16, beside the same formulas on float64 of the same values:
three orders of the threads, odd sizes, once with every access checked.
"""

from __future__ import annotations

import numpy as np
import pytest

from kernels.launch import load
from tensor.cuda_elementwise import BINARY
from tensor.dtypes import BFLOAT16, converted, widened
from tests.kernels.devices import ORDERS, device, needs_device, normal

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_device")]
RUNS = [(order, False) for order in ORDERS] + [(ORDERS[-1], True)]
runs = pytest.mark.parametrize(("order", "checked"), RUNS, ids=str)
LAST_PLACE = 2.0**-8  # half a unit in the last place of a bfloat16, relative, and a little more


@pytest.fixture
def _device():
    needs_device()


def drawn(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Normal numbers, bfloat16."""
    return [converted(x, BFLOAT16) for x in normal(seed, *shapes)]


def exact(x: np.ndarray) -> np.ndarray:
    return widened(x).astype(np.float64)


def near(got: np.ndarray, expected: np.ndarray, scale: float = 0.0) -> None:
    """Within a rounding to bfloat16; `scale` is that of numbers that cancelled."""
    np.testing.assert_allclose(exact(got), expected, rtol=1.01 * LAST_PLACE, atol=1e-6 * scale)


@runs
def test_arithmetic(order, checked):
    there = device(checked)
    kernels = load("elementwise.cu", there)
    formulas = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
                "maximum": np.maximum}  # fmt: skip
    for n in (1, 33, 1000):
        a, b, c = drawn(0, (n,), (n,), (1,))
        y = there.empty(n, BFLOAT16)
        x, z, number = (there.from_numpy(v) for v in (a, b, c))
        for name, formula in formulas.items():
            op = BINARY.index(name)
            kernels["binary_bfloat16_vector"](op, x, z, y, n, 1, 1, grid=2, block=64, order=order)
            near(y.numpy(), formula(exact(a), exact(b)))
            kernels["binary_bfloat16_vector"](op, x, number, y, n, 1, 0, grid=2, block=64,
                                              order=order)
            near(y.numpy(), formula(exact(a), exact(c)))
            kernels["binary_strided_bfloat16"](op, x[::-1].strided, z, y, n, 1, (n,), (-1,), (1,),
                                               grid=2, block=64, order=order)
            near(y.numpy(), formula(exact(a[::-1]), exact(b)))


@runs
def test_accumulation(order, checked):
    there = device(checked)
    kernels = load("elementwise.cu", there)
    for n in (1, 33, 1000):
        a, b = drawn(1, (n,), (n,))
        into, x = there.from_numpy(a), there.from_numpy(b)
        kernels["accumulate_bfloat16_vector"](into, x, n, 1, grid=2, block=64, order=order)
        first = converted(widened(a) + widened(b), BFLOAT16)
        np.testing.assert_array_equal(into.numpy(), first)
        kernels["accumulate_strided_bfloat16"](into, x[::-1].strided, n, 1, (n,), (1,), (-1,),
                                               grid=2, block=64, order=order)
        second = converted(widened(first) + widened(b[::-1]), BFLOAT16)
        np.testing.assert_array_equal(into.numpy(), second)


def gelu_and_slope(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """GPT-2's form (Hendrycks and Gimpel 2016, section 2), and its derivative."""
    c = np.sqrt(2 / np.pi)
    t = np.tanh(c * (z + 0.044715 * z**3))
    slope = (1 + t) / 2 + z / 2 * (1 - t * t) * c * (1 + 3 * 0.044715 * z * z)
    return z * (1 + t) / 2, slope


@runs
def test_gelu(order, checked):
    there = device(checked)
    kernels = load("gelu.cu", there)
    for rows, C in ((1, 4), (33, 132), (3, 1001)):
        x, b, dy = drawn(3, (rows, C), (C,), (rows, C))
        array, bias, grad = (there.from_numpy(v) for v in (x, b, dy))
        y, n = there.empty((rows, C), BFLOAT16), rows * C
        with_bias = C % 4 == 0
        for added in (None, bias) if with_bias else (None,):
            z = exact(x) + (0.0 if added is None else exact(b))
            value, slope = gelu_and_slope(z)
            kernels["gelu_tanh_vector_bfloat16"](array, added, y, n, C, grid=2, block=64,
                                                 order=order)
            near(y.numpy(), value, scale=1.0)
            kernels["gelu_tanh_backward_vector_bfloat16"](grad, array, added, y, n, C, grid=2,
                                                          block=64, order=order)
            near(y.numpy(), exact(dy) * slope, scale=1.0)
        if with_bias:
            parts = there.empty((2, C))
            kernels["gelu_tanh_backward_bias_bfloat16"](grad, array, bias, y, parts, rows, C,
                                                        grid=(2, 2), block=64, order=order)
            near(y.numpy(), exact(dy) * slope, scale=1.0)
            db = (exact(dy) * slope).sum(0)
            np.testing.assert_allclose(parts.numpy().sum(0), db, atol=1e-5 * rows)


@runs
def test_layer_norm(order, checked):
    there = device(checked)
    kernels = load("layer_norm.cu", there)
    for name, rows, C, block in (("vector", 33, 132, 64), ("vector", 2, 1024, 64),
                                 ("long", 3, 1600, 128)):  # fmt: skip
        x, w, b, dy = drawn(4, (rows, C), (C,), (C,), (rows, C))
        y, mean, rstd = there.empty((rows, C), BFLOAT16), there.empty(rows), there.empty(rows)
        arrays = [there.from_numpy(v) for v in (x, w, b, dy)]
        grid = -(-rows // (block // 32)) if name == "vector" else rows
        kernels[f"layer_norm_{name}_bfloat16"](*arrays[:3], y, mean, rstd, rows, C, 1e-5,
                                               grid=grid, block=block, order=order)
        wide = exact(x)
        r = 1 / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
        h = (wide - wide.mean(1, keepdims=True)) * r
        near(y.numpy(), h * exact(w) + exact(b), scale=10.0)
        np.testing.assert_allclose(mean.numpy(), wide.mean(1), atol=1e-6)
        np.testing.assert_allclose(rstd.numpy(), r[:, 0], rtol=1e-5)
        total, again = there.empty((rows, C), BFLOAT16), there.empty((rows, C), BFLOAT16)
        kernels[f"add_layer_norm_{name}_bfloat16"](
            arrays[0], arrays[3], *arrays[1:3], total, y, mean, rstd, rows, C, 1e-5, grid=grid,
            block=block, order=order)
        kernels[f"layer_norm_{name}_bfloat16"](total, *arrays[1:3], again, mean, rstd, rows, C,
                                               1e-5, grid=grid, block=block, order=order)
        near(total.numpy(), exact(x) + exact(dy))
        np.testing.assert_array_equal(y.numpy(), again.numpy())     # of the rounded sum
        kernels[f"layer_norm_{name}_bfloat16"](*arrays[:3], y, mean, rstd, rows, C, 1e-5,
                                               grid=grid, block=block, order=order)
        parts, dx = there.empty((2, 2 * C)), there.empty((rows, C), BFLOAT16)
        kernels["layer_norm_backward_vector_bfloat16"](
            arrays[3], arrays[0], arrays[1], mean, rstd, arrays[0], dx, parts, rows, C, grid=2,
            block=256, order=order,
        )  # fmt: skip
        g = exact(dy) * exact(w)
        means = g.mean(1, keepdims=True) + h * (g * h).mean(1, keepdims=True)
        near(dx.numpy(), r * (g - means) + wide, scale=10.0)
        sums = np.concatenate([(exact(dy) * h).sum(0), exact(dy).sum(0)])
        np.testing.assert_allclose(parts.numpy().sum(0), sums, atol=1e-4)
        dw, db = there.empty(C, BFLOAT16), there.empty(C, BFLOAT16)
        kernels["layer_norm_backward_sum_bfloat16"](parts, dw, db, 2, C, grid=-(-2 * C // 32),
                                                    block=64, order=order)
        near(np.concatenate([dw.numpy(), db.numpy()]), sums, scale=100.0)


@runs
def test_dropout(order, checked):
    """The elements that float32's kernel drops."""
    there = device(checked)
    kernels = load("dropout.cu", there)
    for n in (1, 33, 1000):
        (x,) = drawn(7, (n,))
        y, wide = there.empty(n, BFLOAT16), there.empty(n)
        numbers = (n, 5, 2, 1 << 30, 4 / 3)
        kernels["dropout_eight"](there.from_numpy(widened(x)), wide, *numbers, grid=2, block=64)
        kernels["dropout_eight_bfloat16"](there.from_numpy(x), y, *numbers, grid=2, block=64,
                                          order=order)
        expected = converted(wide.numpy(), BFLOAT16)
        np.testing.assert_array_equal(widened(y.numpy()), widened(expected))


@runs
def test_gradient_of_an_embedding(order, checked):
    there = device(checked)
    kernel = load("embedding.cu", there)["embedding_backward_first_bfloat16"]
    for n, V, C in ((1, 3, 5), (70, 9, 133)):
        (dy,) = drawn(5, (n, C))
        ids = np.random.default_rng(0).integers(0, V, n)
        dweight = there.from_numpy(np.zeros((V, C), np.uint16).view(BFLOAT16))
        kernel(there.from_numpy(dy), there.from_numpy(ids), dweight, n, V, C,
               grid=n * -(-C // 128), block=32, order=order)
        expected = np.zeros((V, C))
        np.add.at(expected, ids, exact(dy))
        near(dweight.numpy(), expected, scale=10.0)


@runs
def test_cross_entropy(order, checked):
    there = device(checked)
    kernels = load("cross_entropy.cu", there)
    for rows, V in ((1, 1), (5, 65), (3, 1003), (2, 7)):
        (x,) = drawn(6, (rows, V))
        targets = np.random.default_rng(0).integers(0, V, rows)
        targets[-1] = targets[-1] if rows == 1 else -100
        logits, wanted = there.from_numpy(x), there.from_numpy(targets)
        lse, losses, count = there.empty(rows), there.empty(rows), there.from_numpy(np.float32(2))
        kernels["cross_entropy_vector_bfloat16"](logits, wanted, lse, losses, rows, V, -100,
                                                 grid=rows, block=64, order=order)
        wide, counts = exact(x), targets >= 0
        exact_lse = np.log(np.exp(wide).sum(1))
        np.testing.assert_allclose(lse.numpy(), exact_lse, rtol=1e-5, atol=1e-6)
        chosen = wide[np.arange(rows), np.where(counts, targets, 0)]
        np.testing.assert_allclose(losses.numpy(), (exact_lse - chosen) * counts, atol=1e-5)
        dy = there.from_numpy(np.float32(3))
        one_hot = (np.arange(V) == targets[:, None]) * 1.0
        p = np.exp(wide - exact_lse[:, None])
        for step in (V, -(-V // 8) * 8):
            dx = there.empty((rows, step), BFLOAT16)[:, :V]
            kernels["cross_entropy_backward_vector_bfloat16"](
                dy, logits, wanted, lse, count, dx.strided, rows, V, step, -100, grid=rows,
                block=64, order=order,
            )  # fmt: skip
            near(dx.numpy(), (p - one_hot) * counts[:, None] * 1.5, scale=10.0)


@runs
def test_sums(order, checked):
    there = device(checked)
    kernels = load("reduce.cu", there)
    for rows, columns in ((1, 33), (65, 33), (1000, 5)):
        (x,) = drawn(2, (rows, columns))
        wide, array = exact(x), there.from_numpy(x)
        for chunks in (1, 3):
            y = there.empty((chunks, columns))
            kernels["sum_columns_bfloat16"](array, y, columns, rows, 1, (rows,), (columns,),
                                            grid=(2, chunks), block=(32, 4), order=order)
            np.testing.assert_allclose(y.numpy().sum(0), wide.sum(0), atol=1e-5 * rows)
            y = there.empty((chunks, rows))
            kernels["sum_warp_bfloat16"](array, y, rows, 1, (rows,), (columns,), columns, 1,
                                         (columns,), (1,), grid=(2, chunks), block=64, order=order)
            np.testing.assert_allclose(y.numpy().sum(0), wide.sum(1), atol=1e-5 * columns)
