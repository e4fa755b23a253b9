"""Tensors, modules and optimizers on a device: types, moves, copies, and what goes over the bus.

The device is the emulator; with MINIGPT_TEST_DEVICE=cuda in the environment, a GPU.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.device import get_device
from tensor import Tensor, cat, cross_entropy, embedding, linear, mse_loss, nn, no_grad, where
from tensor.backend import Backend
from tensor.cuda_backend import CudaBackend
from tensor.devices import get_backend
from tensor.optim import SGD, AdamW, clip_grad_norm
from tests.kernels.devices import NAME, needs_device


@pytest.fixture
def _device():
    needs_device()


@pytest.fixture
def transfers(_device):
    """The count of copies between host and device, from 0."""
    counted = get_device(NAME).transfers
    counted.reset()
    return counted


def there(values: Any, **options: Any) -> Tensor:
    return Tensor(values, device=NAME, **options)


def test_every_primitive_has_a_kernel():
    primitives = {name for name in vars(Backend) if not name.startswith("_")}
    assert primitives <= {*dir(CudaBackend), "name"}


@pytest.mark.slow
def test_a_device_is_one_however_it_is_asked_for(_device):
    assert get_device(NAME) is get_device(NAME, False) is get_device(NAME, checked=False)
    assert get_backend(NAME) is get_backend(NAME) and get_backend(NAME).device is get_device(NAME)


# --- types

INTEGERS: list[tuple[str, Callable[..., Any]]] = [
    ("add", lambda a, b: a + b), ("sub", lambda a, b: a - b), ("mul", lambda a, b: a * b),
    ("power", lambda a, b: a ** abs(b)), ("square", lambda a, b: a**2), ("neg", lambda a, b: -a),
    ("equal", lambda a, b: a == b), ("less", lambda a, b: a < b), ("sum", lambda a, b: a.sum(0)),
    ("max", lambda a, b: a.max(1)), ("argmax", lambda a, b: a.argmax(1)),
    ("mean", lambda a, b: a.mean()), ("clip", lambda a, b: a.clip(-2, 3)),
    ("row", lambda a, b: a[1]), ("picked", lambda a, b: a[[2, 0, 2]]),
    ("mixed", lambda a, b: a * 2.5), ("cast", lambda a, b: a.astype("float32")),
    ("to_bool", lambda a, b: a.astype("bool")), ("back", lambda a, b: (a > b).astype("int64")),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int64", "int32"])
@pytest.mark.parametrize(("name", "function"), INTEGERS, ids=[name for name, _ in INTEGERS])
def test_integers_are_computed_as_in_numpy(_device, name, function, dtype):
    rng = np.random.default_rng(0)
    a, b = rng.integers(-5, 6, (3, 5)).astype(dtype), rng.integers(-3, 4, (3, 5)).astype(dtype)
    ours, numpys = function(there(a), there(b)), function(Tensor(a), Tensor(b))
    if isinstance(ours, Tensor):
        assert ours.device == NAME
        ours, numpys = ours.numpy(), numpys.numpy()
    assert ours.dtype == numpys.dtype
    np.testing.assert_array_equal(ours, numpys)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(70_001,), (3000, 40), (40, 3000), (9, 700, 33)], ids=str)
def test_long_reductions_in_chunks_are_exact_to_rounding(_device, shape):
    """So few results of so many elements that each is cut into parts: two launches."""
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    whole = np.arange(x.size).reshape(shape)
    for axes in {(0,), (len(shape) - 1,), tuple(range(len(shape)))}:
        exact = x.astype(np.float64).sum(axes)
        error = np.abs(there(x).sum(axes).numpy() - exact)
        assert (error <= 1e-6 * np.abs(x).sum(axes)).all()
        np.testing.assert_array_equal(there(x).max(axes).numpy(), x.max(axes))
        np.testing.assert_array_equal(there(whole).sum(axes).numpy(), whole.sum(axes))
        np.testing.assert_array_equal(there(-whole).max(axes).numpy(), (-whole).max(axes))


@pytest.mark.slow
def test_booleans_are_computed_as_in_numpy(_device):
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    for function in [
        lambda x, y: x & y, lambda x, y: x | y, lambda x, y: ~x, lambda x, y: x == y,
        lambda x, y: x + y, lambda x, y: x * y, lambda x, y: x.maximum(y), lambda x, y: x.sum(),
        lambda x, y: x.max(), lambda x, y: where(x, y, False), lambda x, y: x[[0, 3]],
        lambda x, y: cat([x, y]), lambda x, y: x.pad([(1, 2)]), lambda x, y: x < y,
        lambda x, y: where(x, 1, 2), lambda x, y: x.reshape(2, 2).T,
    ]:  # fmt: skip
        ours, numpys = function(there(a), there(b)).numpy(), function(Tensor(a), Tensor(b)).numpy()
        assert ours.dtype == numpys.dtype
        np.testing.assert_array_equal(ours, numpys)
    with pytest.raises(TypeError, match="can't be subtracted"):
        there(a) - there(b)


@pytest.mark.slow
def test_what_a_device_has_no_kernels_for_is_refused(_device):
    text = f"the device '{NAME}' computes with float32, float16, .* and bool, not float64"
    model = nn.Linear(2, 2)
    double = nn.Linear(2, 2).astype("float64")
    for call in (
        lambda: there(np.zeros(3)), lambda: there([1.0]).astype("float64"),
        lambda: double.to(NAME), lambda: model.to(NAME).astype("float64"),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=text):
            call()
    assert double.weight.device == "cpu"
    small = there(np.array([1, 200], np.uint8))
    assert small.dtype == np.int64 and small.tolist() == [1, 200]
    with pytest.raises(ValueError, match="18446744073709551615 does not fit the int64"):
        there(np.array([2**64 - 1], np.uint64))
    with pytest.raises(ValueError, match="9 axes that can't be joined"):
        there(np.zeros((2,) * 9, np.float32)).permute(8, 7, 6, 5, 4, 3, 2, 1, 0) + 1
    for message, call in [
        ("different devices", lambda: there([1.0]) + Tensor([1.0])),
        ("outside axis 0", lambda: there([1.0])[[3]]),
        ("boolean index", lambda: there([1.0])[np.array([True, False])]),
    ]:  # fmt: skip
        with pytest.raises((ValueError, IndexError), match=message):
            call()


# --- moves and copies


@pytest.mark.slow
def test_a_tensor_moves_and_is_itself_where_it_is(_device):
    x = Tensor(np.arange(6, dtype=np.float32).reshape(2, 3), requires_grad=True)
    y = x.to(NAME)
    assert y.device == NAME and y.requires_grad and y.creator is None and y.to(NAME) is y
    np.testing.assert_array_equal(y.to("cpu").numpy(), x.numpy())
    (y.T * 2).sum().backward()
    assert y.grad is not None and y.grad.device == NAME and x.grad is None
    assert repr(y).endswith(f"device={NAME!r}, requires_grad=True)")
    for other in (pickle.loads(pickle.dumps(y)), copy.deepcopy(y)):
        assert other.device == NAME and other.requires_grad
        np.testing.assert_array_equal(other.numpy(), y.numpy())
    for empty in (np.zeros((0, 3), np.float32), np.zeros((2, 0), np.int64)):
        assert there(empty).T.numpy().shape == empty.T.shape


@pytest.mark.slow
def test_a_module_moves_whole_and_keeps_ties(_device, transfers):
    model = nn.Module()
    model.a, model.b = nn.Linear(3, 2), nn.Embedding(2, 3)
    model.tied = model.a.weight
    weight = model.a.weight
    assert model.to(NAME) is model
    assert model.tied is model.a.weight is weight and weight.device == NAME
    assert transfers.to_device == 3  # weight, bias, embedding: the tied matrix once
    model.b(np.array([1, 1])).sum().backward()
    assert model.b.weight.grad.device == NAME
    state = model.state_dict()
    model.to("cpu")
    assert weight.device == "cpu" and model.b.weight.grad is None
    np.testing.assert_array_equal(weight.numpy(), state["tied"])
    model.to(NAME).load_state_dict({name: value * 2 for name, value in state.items()})
    np.testing.assert_array_equal(weight.numpy(), 2 * state["tied"])


@pytest.mark.slow
def test_copies_between_tensors_of_a_device_stay_there(_device, transfers):
    a, b = there([1.0, 2.0]), there([[3.0, 4.0]])
    before = transfers.to_device
    a.copy_(b[0])
    y = (a * b).sum()
    y.requires_grad = False
    with no_grad():
        c = cat([a, a * 2])
        c = where(c > 1, c, -c).reshape(2, 2).T[:, ::-1].exp().softmax()
        c = (c - c.mean(0)).max(axis=1, keepdims=True).pad([(1, 1), (0, 2)])
        c = c.astype("int32").astype("bool").astype("float32").expand(2, *c.shape).sum((0, 1))
    assert (transfers.to_device, transfers.from_device) == (before, 0)
    assert c.shape == (3,) and a.tolist() == [3, 4]
    assert (transfers.to_device, transfers.from_device) == (before, 1)


@pytest.mark.slow
def test_a_copy_from_itself_reads_before_it_writes(_device):
    a = there(np.arange(3000, dtype=np.float32))
    a.copy_(a[::-1])
    np.testing.assert_array_equal(a.numpy(), np.arange(3000)[::-1])
    a.backend.accumulate(a.data, a[::-1].data)
    np.testing.assert_array_equal(a.numpy(), np.full(3000, 2999))


@pytest.mark.slow
def test_ids_and_targets_may_be_anywhere_and_move_once(_device, transfers):
    weight = there(np.eye(4, dtype=np.float32), requires_grad=True)
    transfers.reset()
    for ids in ([1, 2], np.array([1, 2]), Tensor([1, 2])):
        loss = cross_entropy(linear(embedding(weight, ids), weight, transpose=True), ids)
        assert (transfers.to_device, transfers.from_device) == (2, 0)
        loss.backward()
        assert (transfers.to_device, transfers.from_device) == (2, 0)
        transfers.reset()
    embedding(weight, there([1, 2]))  # looked at through the host: it has to be known to be valid
    assert (transfers.to_device, transfers.from_device) == (1, 1)
    with pytest.raises(IndexError, match="id 4 is outside 0 … 3"):
        embedding(weight, [4])
    with pytest.raises(IndexError, match="id 4 is outside 0 … 3"):
        embedding(weight, there([4]))


@pytest.mark.slow
def test_indexing_moves_its_table_and_nothing_else(_device, transfers):
    x = there(np.arange(12, dtype=np.float32).reshape(3, 4), requires_grad=True)
    transfers.reset()
    y = x[[2, 0, 2]]
    assert (transfers.to_device, transfers.from_device) == (1, 0)
    y.sum().backward()
    assert (transfers.to_device, transfers.from_device) == (2, 0)
    assert x.grad.tolist() == [[1] * 4, [0] * 4, [2] * 4]
    transfers.reset()
    x[1:, None, ::-2].sum().backward()
    assert (transfers.to_device, transfers.from_device) == (0, 0)


# --- a graph of many small operations, and optimizers


def chain(x: Tensor, steps: list[int]) -> Tensor:
    """Operations on a (3, 4) chosen by number, which shuffle axes, repeat and cut."""
    y = x
    for step in steps:
        y = [
            lambda y: y.T.reshape(3, 4), lambda y: y * x, lambda y: cat([y[1:], y[:1]]) + y,
            lambda y: y[:, ::-1] - y.mean(1, keepdims=True), lambda y: y.tanh() * y.T.mean(),
            lambda y: where(x > 0, y, x), lambda y: y[[2, 0, 2]], lambda y: y.maximum(x.T[0]
            .reshape(3, 1)), lambda y: (y / (y * y + 1)).permute(1, 0).expand(1, 4, 3)[0].T,
        ][step](y)  # fmt: skip
    return y


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=8))
def test_graphs_of_operations_give_numpys_gradients(steps):
    needs_device()
    values = np.random.default_rng(len(steps)).uniform(-1, 1, (3, 4)).astype(np.float32)
    x, z = there(values, requires_grad=True), Tensor(values, "float64", requires_grad=True)
    for leaf in (x, z):
        for _ in range(2):  # gradients add up
            chain(leaf, steps).tanh().mean().backward()  # bounded, whatever the steps
    expected = z.grad.numpy()
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(x.grad.numpy(), expected, atol=1e-4 * scale)


def train(device: str, make: Callable[..., Any], steps: int = 5) -> tuple[Any, Any, list[float]]:
    rng = np.random.default_rng(0)
    w = Tensor(rng.standard_normal((3, 5), dtype=np.float32), device=device, requires_grad=True)
    b = Tensor(np.zeros(3, np.float32), device=device, requires_grad=True)
    optimizer = make([w, b])
    norms = []
    for _ in range(steps):
        optimizer.zero_grad()
        x = Tensor(rng.standard_normal((8, 5), dtype=np.float32), device=device)
        mse_loss(linear(x, w, b, transpose=True), rng.standard_normal((8, 3))).backward()
        norms.append(clip_grad_norm([w, b], 0.5))
        optimizer.step()
    return (w, b), optimizer, norms


OPTIMIZERS = {
    "adamw": lambda p: AdamW(p, lr=0.1, weight_decay=0.1),
    "sgd": lambda p: SGD(p, lr=0.1), "momentum": lambda p: SGD(p, 0.1, 0.9, 0.01),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_step_as_numpys_and_save_their_state(_device, name, transfers):
    ours, optimizer, norms = train(NAME, OPTIMIZERS[name])
    numpys, other, expected = train("cpu", OPTIMIZERS[name])
    np.testing.assert_allclose(norms, expected, rtol=1e-5)
    for a, b in zip(ours, numpys, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5)
    state, wanted = optimizer.state_dict(), other.state_dict()
    assert state.keys() == wanted.keys()
    for key in wanted:
        np.testing.assert_allclose(state[key], wanted[key], atol=1e-5)
    other.load_state_dict(state)  # from a device to the CPU, and back
    optimizer.load_state_dict(other.state_dict())
    for key, array in optimizer.state_dict().items():
        np.testing.assert_array_equal(array, state[key])
    for p in ours:
        p.grad = there(np.ones(p.shape, np.float32))
    transfers.reset()
    optimizer.step()
    assert (transfers.to_device, transfers.from_device) == (0, 0)
    clip_grad_norm(ours, 1.0)
    assert (transfers.to_device, transfers.from_device) == (0, 1)  # the norm, a Python number
