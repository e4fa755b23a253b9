"""GELU with and without a bias: each version on the backend, against NumPy in float64."""

import math

import numpy as np
import pytest

from tensor import Tensor, cuda_gelu, linear_gelu
from tensor.cuda_launch import Version
from tests.kernels.devices import NAME, ORDERS, backend, close, needs_device, normal
from tests.tensor import slow_ops

pytestmark = pytest.mark.slow
SHAPES = [(1, 1), (33, 65), (65, 33), (3, 1000), (1000, 2), (2, 5, 64), (3, 2052)]
NAMES = [("gelu", False), ("gelu_tanh", True)]


@pytest.fixture(autouse=True)
def _compiler():
    needs_device()


def exact_slope(z):
    p = (1 + slow_ops.erf(z / math.sqrt(2))) / 2
    return p + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def tanh_slope(z):
    c, a = math.sqrt(2 / math.pi), 0.044715
    t = np.tanh(c * (z + a * z**3))
    return (1 + t) / 2 + z * (1 - t * t) / 2 * c * (1 + 3 * a * z * z)


def check(be, shape, name, tanh, kind, backward, bias, block, order):
    x, dy = normal(0, shape, shape)
    (b,) = normal(1, shape[-1:])
    x *= 3
    on = be.from_numpy
    given = on(b) if bias else None
    y, kept = cuda_gelu.gelu(be, on(x), given, tanh, True, Version(f"{name}_{kind}", block, order))
    z = x + b.astype(np.float64) if bias else x.astype(np.float64)
    close(y, slow_ops.gelu(z, tanh))
    dx, db = cuda_gelu.gelu_backward(be, on(dy), kept, given, tanh,
                                     Version(f"{name}_backward_{backward}", block, order))
    exact = dy * (tanh_slope(z) if tanh else exact_slope(z))
    close(dx, exact)
    if bias:
        close(db, exact.sum(tuple(range(len(shape) - 1))))
    else:
        assert db is None


@pytest.mark.parametrize("block", [32, 256, 1024])
@pytest.mark.parametrize(("kind", "backward", "bias"), [
    ("naive", "naive", False), ("vector", "vector", False), ("naive", "naive", True),
    ("vector", "vector", True), ("vector", "bias", True)])
@pytest.mark.parametrize(("name", "tanh"), NAMES)
def test_gelu(name, tanh, kind, backward, bias, block):
    in_fours = kind == "vector" and bias
    for order in ORDERS:
        for shape in SHAPES if block < 1024 else SHAPES[:4]:
            shape = (*shape[:-1], 4 * shape[-1]) if in_fours else shape
            check(backend(), shape, name, tanh, kind, backward, bias, block, order)
    check(backend(checked=True), (5, 132), name, tanh, kind, backward, bias, block, ORDERS[-1])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["naive", "vector"])
@pytest.mark.parametrize(("name", "tanh"), NAMES)
def test_far_out(name, tanh, kind, bias):
    x = np.array([-math.inf, -3e38, -100, -0.0, 100, 3e38, math.inf, math.nan], np.float32)
    be = backend()
    b = be.from_numpy(np.zeros(8, np.float32)) if bias else None
    y, kept = cuda_gelu.gelu(be, be.from_numpy(x), b, tanh, True, Version(f"{name}_{kind}", 32))
    np.testing.assert_array_equal(y.numpy()[1:], [0, 0, 0, 100, x[5], math.inf, math.nan])
    dx, _ = cuda_gelu.gelu_backward(be, be.from_numpy(np.ones(8, np.float32)), kept, b, tanh)
    np.testing.assert_array_equal(dx.numpy()[[2, 4]], [0, 1])


@pytest.mark.parametrize(("C", "offset", "names"), [
    (768, 0, ["gelu_tanh_vector", "gelu_tanh_backward_bias"]),
    (770, 0, ["gelu_tanh_naive", "gelu_tanh_backward_naive"]),
    (768, 1, ["gelu_tanh_naive", "gelu_tanh_backward_naive"])])
def test_the_model_gets_four_at_a_time_and_the_bias_gradient_in_the_same_walk(
        C, offset, names, monkeypatch):
    be = backend()
    used = []
    kernel = be.kernel
    monkeypatch.setattr(be, "kernel", lambda file, name: (used.append(name), kernel(file, name))[1])
    flat, dy, b = (be.from_numpy(a) for a in normal(2, (70 * C + 1,), (70, C), (C,)))
    x = flat[offset:70 * C + offset].reshape((70, C))
    y, kept = cuda_gelu.gelu(be, x, b, True, True)
    assert kept is x        # nothing is stored for the backward pass
    first, second = (cuda_gelu.gelu_backward(be, dy, x, b, True) for _ in range(2))
    assert [name for name in used if name.startswith("gelu")] == [*names, names[1]]
    for a, again in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.numpy(), again.numpy())     # the same bits
    z = x.numpy() + b.numpy().astype(np.float64)
    close(y, slow_ops.gelu(z, True))
    close(first[1], (dy.numpy() * tanh_slope(z)).sum(0), 1e-5)


def test_without_a_gradient_the_product_computes_it():
    """One launch in the place of two, and the same numbers as with a gradient."""
    given = normal(4, (2, 33, 36), (36, 132), (132,))
    for tanh, launches in (("tanh", 1), ("none", 2)):
        x, w, b = (Tensor(a, device=NAME) for a in given)
        device = x.backend.device
        device.launches = 0
        y = linear_gelu(x, w, b, tanh)
        assert device.launches == launches
        w.requires_grad = True
        close(y, slow_ops.gelu(given[0] @ given[1].astype(np.float64) + given[2], tanh == "tanh"))
        close(linear_gelu(x, w, b, tanh), y.numpy(), 1e-6)


def test_nothing_and_no_rows():
    be = backend()
    empty, b = be.empty((0, 4)), be.from_numpy(np.ones(4, np.float32))
    y, kept = cuda_gelu.gelu(be, empty, b, True, False)
    assert y.shape == (0, 4) and kept is None
    dx, db = cuda_gelu.gelu_backward(be, empty, empty, b, True)
    assert dx.shape == (0, 4)
    assert db.numpy().tolist() == [0] * 4
