"""Softmax and layer norm: each version on the backend, against NumPy in float64."""

import math

import numpy as np
import pytest

from tensor import cuda_fused
from tensor.cuda_launch import Version
from tests.kernels.devices import ORDERS, backend, close, needs_device, normal
from tests.tensor import slow_ops

pytestmark = pytest.mark.slow
SMALL = [(1, 1), (33, 65), (2, 1000), (3, 4100), (5, 64)]
SHAPES = [*SMALL, (65, 33), (1000, 2)]


@pytest.fixture(autouse=True)
def _compiler():
    needs_device()


def versions(name, kinds, blocks):
    return [Version(f"{name}_{kind}", block) for kind in kinds for block in blocks]


def everywhere(run, version):
    """run(be, shape, version) for each shape in each order, and once checked."""
    for order in ORDERS:
        for shape in SHAPES if version.block < 1024 else SMALL:     # or it takes a minute
            run(backend(), shape, version._replace(order=order))
    run(backend(checked=True), (5, 132), version._replace(order=ORDERS[-1]))


def names_of_kernels(be, monkeypatch):
    """A list that the names of all kernels will be added to that this backend launches."""
    used = []
    kernel = be.kernel
    monkeypatch.setattr(be, "kernel", lambda file, name: (used.append(name), kernel(file, name))[1])
    return used


BACKWARD = {
    "softmax": lambda dy, y: y * (dy - (dy * y).sum(1, keepdims=True)),
    "log_softmax": lambda dy, y: dy - np.exp(y) * dy.sum(1, keepdims=True),
}


SOFTMAXES = versions("", ["naive", "warp", "block"], [32, 64, 256, 1024]) + versions(
    "", ["registers", "vector"], [32, 256]) + versions("", ["long"], [32, 64, 256])
# How many columns a version is tested with that does not take any number of them.
WIDE = {"registers": lambda C: min(C, 1024), "vector": lambda C: min(4 * C + 8, 1024)}


@pytest.mark.parametrize("version", SOFTMAXES, ids=str)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(name, version):
    def run(be, shape, version):
        shape = (shape[0], WIDE.get(version.name[1:], int)(shape[1]))
        x, dy = normal(0, shape, shape)
        x *= 5
        expected = getattr(slow_ops, name)(x.astype(np.float64), 1)
        on, kind = be.from_numpy, version.name
        y = getattr(cuda_fused, name)(be, on(x), version._replace(name=name + kind))
        close(y, expected)
        dx = getattr(cuda_fused, f"{name}_backward")(
            be, on(dy), y, version._replace(name=f"{name}_backward{kind}"))
        close(dx, BACKWARD[name](dy.astype(np.float64), expected))
    everywhere(run, version)


@pytest.mark.parametrize("kind", ["naive", "warp", "registers", "vector", "block", "long"])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_rows_with_infinities(name, kind):
    inf, nan = math.inf, math.nan
    x = np.array([[-inf] * 72, [-inf, 1.0] * 36, [1.0, inf] * 36, [nan] + [1.0] * 71,
                  [-inf] * 71 + [3e38], [-inf, -inf, nan, -inf] * 18, [7e37] * 72,
                  [-3e38] * 40 + [3e38] + [0.0] * 31], np.float32)
    be = backend()
    y = getattr(cuda_fused, name)(be, be.from_numpy(x), Version(f"{name}_{kind}", 64))
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = getattr(slow_ops, name)(x.astype(np.float64), 1)
    if name == "log_softmax":
        with np.errstate(over="ignore"):
            expected = expected.astype(np.float32)      # -6e38 is -inf there
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-6)
    else:
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-6, atol=1e-38)


@pytest.mark.parametrize("cols", [64, 66, 1024, 1028, 1030])
def test_the_model_gets_the_version_that_reads_rows_once(cols, monkeypatch):
    """And where it cannot be had, the one that reads them twice; the same call, the same bits."""
    be = backend()
    used = names_of_kernels(be, monkeypatch)
    (x,) = normal(0, (3, cols))
    flat = be.from_numpy(np.concatenate([x.reshape(-1), x.reshape(-1)]))
    aligned, odd = flat[:x.size].reshape((3, cols)), flat[x.size - 3:-3].reshape((3, cols))
    results = [cuda_fused.softmax(be, x).numpy() for x in (aligned, aligned, odd)]
    long, fours = cols > 1024, cols % 4 == 0
    assert used == 2 * ["softmax_long" if long else "softmax_vector" if fours else
                        "softmax_registers"] + ["softmax_block" if long else "softmax_registers"]
    np.testing.assert_array_equal(results[0], results[1])
    close(results[2], slow_ops.softmax(odd.numpy().astype(np.float64), 1))


LAYER_NORMS = versions("layer_norm", ["naive", "warp", "block"], [32, 256, 1024]) + versions(
    "layer_norm", ["registers", "vector"], [32, 256]) + versions("layer_norm", ["long"], [64, 288])


def layer_norm_columns(C, version):
    """How many columns a version of the layer norm is tested with."""
    kind = version.name.removeprefix("layer_norm_")
    most = {"long": 16 * version.block, "backward_vector": 8 * version.block}.get(kind)
    return min(4 * C, most) if most else WIDE.get(kind, int)(C)


@pytest.mark.parametrize("version", LAYER_NORMS, ids=str)
def test_layer_norm(version):
    def run(be, shape, version):
        C = layer_norm_columns(shape[1], version)
        x, w, b = normal(0, (shape[0], C), (C,), (C,))
        x = x * 3 + (50 if C > 32 else 0)   # of two numbers, the rounding alone would count
        on = be.from_numpy
        y, mean, rstd = cuda_fused.layer_norm(be, on(x), on(w), on(b), 1e-5, version)
        exact = x.astype(np.float64)
        close(mean, exact.mean(1))
        close(rstd, 1 / np.sqrt(exact.var(1) + 1e-5))
        close(y, slow_ops.layer_norm(exact, w.astype(np.float64), b.astype(np.float64), 1e-5))
        if version.name in ("layer_norm_vector", "layer_norm_long"):
            (r,) = normal(5, x.shape)
            total, y, mean, rstd = cuda_fused.add_layer_norm(
                be, on(x - r), on(r), on(w), on(b), 1e-5, version)
            np.testing.assert_array_equal(total.numpy(), (x - r) + r)
            for got, again in zip(cuda_fused.layer_norm(be, total, on(w), on(b), 1e-5, version),
                                  (y, mean, rstd), strict=True):
                np.testing.assert_array_equal(got.numpy(), again.numpy())
    everywhere(run, version)


@pytest.mark.parametrize("version", LAYER_NORMS, ids=str)
def test_layer_norm_of_extreme_rows(version):
    """Equal numbers, however large, give b; one huge channel leaves the others their digits."""
    be, C = backend(), 768
    x, w, b = normal(3, (5, C), (C,), (C,))
    x[0] = 12345.678
    x[1] = -1e-20
    x[2, 5] = 1e4
    x[3] += 10_000
    y, _, rstd = cuda_fused.layer_norm(be, *map(be.from_numpy, (x, w, b)), 1e-5, version)
    y, exact = y.numpy(), slow_ops.layer_norm(*(a.astype(np.float64) for a in (x, w, b)), 1e-5)
    np.testing.assert_allclose(y[0], b, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(y[1], b)
    np.testing.assert_allclose(rstd.numpy()[:2], 1e-5**-0.5, rtol=1e-6)
    for row in (2, 3, 4):
        close(y[row], exact[row], 1e-6)
    close(np.delete(y[2] - b, 5), np.delete(exact[2] - b, 5), 1e-5)


@pytest.mark.parametrize(
    "version", versions("layer_norm_backward", ["naive", "rows", "block"], [32, 256, 1024])
    + versions("layer_norm_backward", ["vector"], [32, 160]), ids=str)
def test_layer_norm_backward(version):
    def run(be, shape, version):
        rows, C = shape[0], layer_norm_columns(shape[1], version)
        x, dy, w = normal(0, (rows, C), (rows, C), (C,))
        exact = x.astype(np.float64)
        mean, rstd = exact.mean(1), 1 / np.sqrt(exact.var(1) + 0.1)
        h, g = (exact - mean[:, None]) * rstd[:, None], dy * w.astype(np.float64)
        dx = (g - g.mean(1)[:, None] - h * (g * h).mean(1)[:, None]) * rstd[:, None]
        on = be.from_numpy
        arrays = [on(np.asarray(a, np.float32)) for a in (dy, x, w, mean, rstd)]
        got = cuda_fused.layer_norm_backward(be, *arrays, None, version)
        (plus,) = normal(4, (rows, C))
        both = cuda_fused.layer_norm_backward(be, *arrays, on(plus), version)
        np.testing.assert_array_equal(both[0].numpy(), got[0].numpy() + plus)
        for one, other in zip(got[1:], both[1:], strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy())
        scale = 1e-4 if C > 1 else math.inf     # dx of one column is 0 but for rounding
        for a, e in zip(got, (dx, (dy * h).sum(0), dy.sum(0, dtype=np.float64)), strict=True):
            if scale < math.inf:
                close(a, e)
            else:
                assert np.abs(a.numpy() - e).max() < 1e-5
    everywhere(run, version)


@pytest.mark.parametrize(("C", "forward", "backward"), [
    (768, "vector", "vector"), (770, "registers", "block"), (1600, "long", "vector"),
    (1601, "block", "block"), (2052, "long", "block"), (7000, "long", "rows")])
def test_the_model_gets_the_layer_norm_that_reads_least(C, forward, backward, monkeypatch):
    be = backend()
    used = names_of_kernels(be, monkeypatch)
    x, dy, w = (be.from_numpy(a) for a in normal(0, (3, C), (3, C), (C,)))

    def both_ways():
        y, mean, rstd = cuda_fused.layer_norm(be, x, w, w, 1e-5)
        return [y, mean, rstd, *cuda_fused.layer_norm_backward(be, dy, x, w, mean, rstd, x)]

    first, second = both_ways(), both_ways()    # the same call, the same bits
    total, y, _, _ = cuda_fused.add_layer_norm(be, x, dy, w, w, 1e-5)
    sums = x.numpy() + dy.numpy()
    np.testing.assert_array_equal(total.numpy(), sums)
    close(y, slow_ops.layer_norm(sums.astype(np.float64), w.numpy(), w.numpy(), 1e-5))
    assert used[:2] == [f"layer_norm_{forward}", f"layer_norm_backward_{backward}"]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


# 6112 just fit, beside what the sums over a block take of shared memory.
@pytest.mark.parametrize("C", [6112, 6144, 7000])
def test_more_columns_than_shared_memory_holds(C):
    x, dy, w = normal(0, (2, C), (2, C), (C,))
    be = backend()
    on = be.from_numpy
    y, mean, rstd = cuda_fused.layer_norm(be, on(x), on(w), on(w), 1e-5)
    close(y, slow_ops.layer_norm(x.astype(np.float64), w, w, 1e-5))
    _, _, db = cuda_fused.layer_norm_backward(be, on(dy), on(x), on(w), mean, rstd, None)
    close(db, dy.sum(0, dtype=np.float64))


def test_views_whose_elements_lie_apart_or_at_odd_places():
    be = backend()
    (x,) = normal(0, (6, 4, 8))
    view = be.from_numpy(x).permute((1, 0, 2))[:, 1:]
    close(cuda_fused.softmax(be, view), slow_ops.softmax(x.swapaxes(0, 1)[:, 1:], 2))
    ones = be.from_numpy(np.ones(8, np.float32))
    close(cuda_fused.layer_norm(be, view, ones, ones, 0.1)[0],
          slow_ops.layer_norm(x.swapaxes(0, 1)[:, 1:].astype(np.float64), np.ones(8), np.ones(8),
                              0.1))


def test_empty_ones():
    be = backend()
    x, w = be.empty((0, 4)), be.from_numpy(np.ones(4, np.float32))
    assert cuda_fused.softmax(be, x).shape == (0, 4)
    y, mean, rstd = cuda_fused.layer_norm(be, x, w, w, 0.1)
    got = cuda_fused.layer_norm_backward(be, y, x, w, mean, rstd, None)
    total, *_ = cuda_fused.add_layer_norm(be, x, x, w, w, 0.1)
    assert total.shape == (0, 4)
    assert got[1].numpy().tolist() == got[2].numpy().tolist() == [0] * 4
