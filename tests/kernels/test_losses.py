"""Embedding, cross-entropy and dropout: each version on the emulator, against NumPy."""

import math

import numpy as np
import pytest

from tensor import cuda_fused
from tensor.backend import DropoutMask
from tensor.cuda_launch import Version
from tensor.dtypes import BFLOAT16, converted, widened
from tensor.random import keep_mask
from tests.kernels.devices import ORDERS, backend, close, needs_device, normal
from tests.tensor import slow_ops

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _compiler():
    needs_device()


def versions(*names, blocks=(32, 256, 1024)):
    return [Version(name, block) for name in names for block in blocks]


def everywhere(run, version, shapes):
    """run(be, shape, version) for each shape in each order, and once checked."""
    for order in ORDERS:
        for shape in shapes:
            run(backend(), shape, version._replace(order=order))
    run(backend(checked=True), shapes[0], version._replace(order=ORDERS[-1]))


# (V, n, C)
TABLES = [(7, 33, 12), (1, 5, 1), (1000, 65, 4), (33, 1000, 8), (9, 3, 1000), (65, 1, 132)]


@pytest.mark.parametrize("version", versions("embedding_naive", "embedding_vector"), ids=str)
def test_embedding(version):
    def run(be, shape, version):
        V, n, C = shape
        if version.name == "embedding_vector" and C % 4:
            return
        (weight,) = normal(0, (V, C))
        ids = np.random.default_rng(1).integers(0, V, (n, 2))
        y = cuda_fused.embedding(be, be.from_numpy(weight), be.from_numpy(ids), version)
        np.testing.assert_array_equal(y.numpy(), weight[ids])
    everywhere(run, version, TABLES)


@pytest.mark.parametrize("version", versions("embedding_backward_naive",
                                             "embedding_backward_first"), ids=str)
def test_embedding_backward(version):
    def run(be, shape, version):
        V, n, C = shape
        ids = np.random.default_rng(1).integers(0, V, n)
        (dy,) = normal(0, (n, C))
        expected = np.zeros((V, C), np.float32)
        for row, position in zip(dy, ids, strict=True):     # in the order of the positions
            expected[position] += row
        got = cuda_fused.embedding_backward(be, be.from_numpy(dy), be.from_numpy(ids), V, version)
        np.testing.assert_array_equal(got.numpy(), expected)    # so the same bits
    everywhere(run, version, TABLES)


def test_embedding_of_nothing_and_of_small_integers():
    be = backend()
    weight = be.from_numpy(normal(0, (3, 4))[0])
    none = be.from_numpy(np.zeros((2, 0), np.int64))
    assert cuda_fused.embedding(be, weight, none).shape == (2, 0, 4)
    zero = cuda_fused.embedding_backward(be, be.empty((2, 0, 4)), none, 3)
    np.testing.assert_array_equal(zero.numpy(), np.zeros((3, 4)))
    small = be.from_numpy(np.array([2, 0], np.int32))
    np.testing.assert_array_equal(cuda_fused.embedding(be, weight, small).numpy(),
                                  weight.numpy()[[2, 0]])


LOGITS = [(5, 132), (1, 1), (33, 65), (65, 33), (3, 1000), (1000, 3), (2, 4099)]


@pytest.mark.parametrize("version", versions("naive", "block", "vector"), ids=str)
def test_cross_entropy(version):
    def run(be, shape, version):
        (x,) = normal(0, shape)
        x *= 5
        rng = np.random.default_rng(1)
        targets = np.where(rng.random(shape[0]) < 0.7, rng.integers(0, shape[1], shape[0]), -100)
        targets[0] = shape[1] - 1
        on, kind = be.from_numpy, version.name
        loss, lse, count = cuda_fused.cross_entropy(
            be, on(x), on(targets), -100, version._replace(name=f"cross_entropy_{kind}"))
        exact = x.astype(np.float64)
        close(lse, np.log(np.exp(exact).sum(1)))
        assert count.numpy() == (targets != -100).sum()
        assert loss.shape == count.shape == ()
        expected = slow_ops.cross_entropy(exact, targets, -100)
        assert abs(loss.numpy() - expected) <= 1e-6 * max(1, expected)
        dy = on(np.array(1.5, np.float32))
        dx = cuda_fused.cross_entropy_backward(
            be, dy, on(x), on(targets), -100, lse, count,
            version._replace(name=f"cross_entropy_backward_{kind}"))
        d = slow_ops.softmax(exact, 1)
        rows = np.flatnonzero(targets != -100)
        d[rows, targets[rows]] -= 1
        d[targets == -100] = 0
        # With one column the difference is exactly 0, but for the rounding of lse.
        if shape[1] > 1:
            close(dx, d * 1.5 / len(rows))
        else:
            assert np.abs(dx.numpy()).max() < 1e-5
    everywhere(run, version, LOGITS)


def test_rows_of_the_gradient_in_bfloat16_lie_as_products_want_them():
    be, rows, V, C = backend(), 20, 131, 40
    x, w, h = (widened(converted(a, BFLOAT16)) for a in normal(0, (rows, V), (V, C), (rows, C)))
    targets = np.arange(rows)
    logits, weight, hidden = (be.from_numpy(converted(a, BFLOAT16)) for a in (x, w, h))
    _, lse, count = be.cross_entropy(logits, be.from_numpy(targets), -100)
    dx = be.cross_entropy_backward(be.from_numpy(np.array(1.0, np.float32)), logits,
                                   be.from_numpy(targets), -100, lse, count)
    assert dx.strides == (136, 1)       # 17 pieces of 16 bytes
    d = slow_ops.softmax(x.astype(np.float64), 1)
    d[targets, targets] -= 1
    for got, expected in [(be.matmul(dx, weight, False, False), d @ w),
                          (be.matmul(dx, hidden, True, False), d.T @ h)]:
        close(be.to_numpy(got), expected / rows, 2e-2)


@pytest.mark.parametrize("block", [32, 64, 256])
def test_losses_and_gradient_in_one_launch(block):
    def run(be, shape, version):
        rows, V = shape
        (x,) = normal(0, shape)
        x *= 5
        rng = np.random.default_rng(1)
        targets = np.where(rng.random(rows) < 0.7, rng.integers(0, V, rows), -100)
        targets[0] = V - 1
        counted = np.flatnonzero(targets != -100)
        on = be.from_numpy
        lse, losses, dx = be.empty((rows,)), be.empty((rows,)), be.empty(shape)
        be.kernel("cross_entropy.cu", "cross_entropy_fused")(
            on(np.float32(1.5)), on(x), on(targets), on(np.float32(len(counted))), lse, losses, dx,
            rows, V, -100, grid=rows, block=version.block, order=version.order)
        exact = x.astype(np.float64)
        expected = np.log(np.exp(exact).sum(1))
        close(lse, expected, 1e-6)
        _, lse_alone, count = cuda_fused.cross_entropy(
            be, on(x), on(targets), -100, version._replace(name="cross_entropy_vector"))
        alone = cuda_fused.cross_entropy_backward(
            be, on(np.float32(1.5)), on(x), on(targets), -100, lse_alone, count,
            version._replace(name="cross_entropy_backward_vector"))
        np.testing.assert_array_equal(lse.numpy(), lse_alone.numpy())   # the bits of two launches
        np.testing.assert_array_equal(dx.numpy(), alone.numpy())
        d = slow_ops.softmax(exact, 1)
        wanted = np.zeros(rows)
        wanted[counted] = expected[counted] - exact[counted, targets[counted]]
        np.testing.assert_allclose(losses.numpy(), wanted, rtol=1e-5, atol=1e-5)
        d[counted, targets[counted]] -= 1
        d[targets == -100] = 0
        if V > 1:
            close(dx, d * 1.5 / len(counted))
        else:
            assert np.abs(dx.numpy()).max() < 1e-5
    everywhere(run, Version("cross_entropy_fused", block), LOGITS)


@pytest.mark.parametrize("kind", ["naive", "block", "vector"])
def test_no_target_counts_and_rows_at_odd_places(kind):
    be = backend()
    (x,) = normal(0, (3, 7))
    odd = be.from_numpy(np.concatenate([[0], x.reshape(-1)]).astype(np.float32))[1:].reshape((3, 7))
    none = be.from_numpy(np.array([4, 4, 4]))
    loss, lse, count = cuda_fused.cross_entropy(be, odd, none, 4,
                                                Version(f"cross_entropy_{kind}", 64))
    assert math.isnan(loss.numpy()) and count.numpy() == 0
    dx = cuda_fused.cross_entropy_backward(be, loss, odd, none, 4, lse, count)
    np.testing.assert_array_equal(dx.numpy(), np.zeros((3, 7)))
    loss, _, _ = cuda_fused.cross_entropy(be, be.empty((0, 7)), be.empty((0,), np.int64), 4)
    assert math.isnan(loss.numpy())


def test_extreme_logits():
    be = backend()
    inf = math.inf
    x = np.array([[3e38, -3e38, 0], [-inf, 1.0, -inf], [-inf, -inf, -inf], [1, inf, 2]], np.float32)
    for kind in ("naive", "block", "vector"):
        _, lse, _ = cuda_fused.cross_entropy(be, be.from_numpy(x), be.from_numpy(np.zeros(4, int)),
                                             -100, Version(f"cross_entropy_{kind}", 32))
        np.testing.assert_array_equal(lse.numpy(), np.float32([3e38, 1, math.nan, math.nan]))


@pytest.mark.parametrize("kind", ["naive", "block", "vector"])
def test_extreme_rows(kind):
    """Long enough that a thread sees several groups of four: masked ones, equal ones, one huge."""
    be, inf = backend(), math.inf
    x = np.full((6, 1000), 1e4, np.float32)
    x[1], x[1, 500:] = -inf, 0.0
    x[2] = np.linspace(-3e4, 3e4, 1000)     # each group has a new maximum
    x[3] = np.linspace(3e4, -3e4, 1000)
    x[4], x[4, 777] = 0.0, 3e38
    x[5], x[5, 501] = -inf, math.nan
    exact = x.astype(np.float64)
    top = np.nanmax(exact, 1)
    with np.errstate(invalid="ignore"):
        expected = np.log(np.exp(exact - top[:, None]).sum(1)) + top
    _, lse, _ = cuda_fused.cross_entropy(be, be.from_numpy(x), be.from_numpy(np.zeros(6, int)),
                                         -100, Version(f"cross_entropy_{kind}", 32))
    np.testing.assert_allclose(lse.numpy(), expected, rtol=1e-6)


def test_no_second_array_as_large_as_the_logits(monkeypatch):
    be = backend()
    sizes = []
    empty = be.device.empty
    monkeypatch.setattr(be.device, "empty", lambda shape, *others: (
        sizes.append(math.prod(shape)), empty(shape, *others))[1])
    (x,) = normal(0, (20, 1000))
    on = be.from_numpy
    logits, targets, dy = on(x), on(np.arange(20)), on(np.float32(1))
    sizes.clear()
    _, lse, count = cuda_fused.cross_entropy(be, logits, targets, -100)
    assert max(sizes) == 20
    sizes.clear()
    cuda_fused.cross_entropy_backward(be, dy, logits, targets, -100, lse, count)
    assert sizes == [20_000]        # the result


@pytest.mark.parametrize("version", versions("dropout_naive", "dropout_eight"), ids=str)
def test_dropout_has_the_bits_of_the_cpu(version):
    def run(be, shape, version):
        (x,) = normal(0, shape)
        for mask in (DropoutMask(0.1, 0, 0), DropoutMask(0.5, 2**64 - 1, 2**63 + 5),
                     DropoutMask(0.999, 12345, 7)):
            y = cuda_fused.dropout(be, be.from_numpy(x), mask, version).numpy()
            kept = keep_mask(mask, 0, x.size).reshape(shape)
            np.testing.assert_array_equal(y, x * kept * np.float32(1 / (1 - mask.p)))
    everywhere(run, version, [(5, 29), (1, 1), (33, 3), (65, 1), (8, 1000), (2, 4)])


def test_dropout_keeps_everything_with_p_0_and_nan_stays_nan():
    be = backend()
    x = np.array([1, math.nan, -0.0, math.inf], np.float32)
    y = cuda_fused.dropout(be, be.from_numpy(x), DropoutMask(0.0, 1, 2))
    np.testing.assert_array_equal(y.numpy(), x)
    odd = be.from_numpy(np.arange(20, dtype=np.float32))[1:]
    kept = keep_mask(DropoutMask(0.5, 1, 2), 0, 19)
    np.testing.assert_array_equal(cuda_fused.dropout(be, odd, DropoutMask(0.5, 1, 2)).numpy(),
                                  np.arange(1, 20) * kept * 2)
