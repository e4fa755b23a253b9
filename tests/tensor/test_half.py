"""Half precision on a device: every row of the table of operations beside float64; what moves bits
moves all of them; and what is refused.

The device is the emulator; with MINIGPT_TEST_DEVICE=cuda in the environment, a GPU.
"""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from tensor import Tensor, cat, cross_entropy
from tensor.dtypes import BFLOAT16, named, widened
from tests.kernels.devices import NAME, check_every_access, needs_device
from tests.tensor.halves import HALF_CASES, TOLERANCE, assert_near, rounded, run
from tests.tensor.op_row import Case

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_device")]


@pytest.fixture
def _device():
    needs_device()


# The gradient of a head mask is a sum of halves that cancel; torch's is as far from exact.
EXACT_CASES = [case for case in HALF_CASES if case.op.name != "attention_head_mask"]


def check(case: Case, dtype: str) -> None:
    values = [rounded(x, dtype) for x in case.draw(np.float32)]
    ours, exact = run(case, dtype, NAME, values), run(case, "float64", "cpu", values)
    for got, wanted in zip(ours, exact, strict=True):
        assert_near(got, wanted, TOLERANCE[dtype])


@pytest.mark.parametrize("case", EXACT_CASES, ids=str)
def test_row(case: Case) -> None:
    check(case, "bfloat16")


def test_rows_of_float16_and_where_every_access_is_checked(monkeypatch):
    for case in EXACT_CASES[::5]:
        check(case, "float16")
    check_every_access(monkeypatch)
    for case in EXACT_CASES[::15]:
        check(case, "bfloat16")


def half(shape: tuple[int, ...], dtype: str, seed: int = 0) -> tuple[Tensor, np.ndarray]:
    x = rounded(np.random.default_rng(seed).standard_normal(shape), dtype)
    return Tensor(x, dtype, device=NAME), x


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("columns", [1, 5, 6, 16])
def test_views_copies_and_joins_move_the_bits(dtype, columns):
    t, x = half((4, 6, columns), dtype)
    assert t.data.nbytes == 2 * x.size and t.numpy().dtype == np.float32
    pairs = [
        (t.transpose(0, 2), x.transpose(2, 1, 0)),
        (t[:, 1:5:3], x[:, 1:5:3]),
        (t[..., ::-1], x[..., ::-1]),
        (t[1, :, 1:], x[1, :, 1:]),
        (t.permute(1, 0, 2).reshape(3, -1), x.transpose(1, 0, 2).reshape(3, -1)),
        (t[:, :1].expand(4, 6, columns), np.broadcast_to(x[:, :1], x.shape)),
        (cat([t, t[:, :3]], axis=1), np.concatenate([x, x[:, :3]], axis=1)),
        (t[[3, 1], :, [0, -1]], x[[3, 1], :, [0, -1]]),
        (t.pad([(1, 0), (0, 2), (2, 1)]), np.pad(x, [(1, 0), (0, 2), (2, 1)])),
    ]
    for got, wanted in pairs:
        assert got.dtype == named(dtype)
        np.testing.assert_array_equal(got.numpy(), wanted)
        again = Tensor.wrap(got.backend.copy(got.data), got.backend)
        np.testing.assert_array_equal(again.numpy(), wanted)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_pattern_of_bits_goes_there_and_back(dtype):
    bits = np.arange(2**16, dtype=np.uint16).view(named(dtype))
    t = Tensor(bits, device=NAME)
    np.testing.assert_array_equal(t.data.numpy().view(np.uint16), bits.view(np.uint16))
    np.testing.assert_array_equal(t.numpy(), widened(bits))
    wide = t.astype("float32")
    np.testing.assert_array_equal(wide.numpy(), widened(bits))
    back = wide.astype(dtype).data.numpy()
    is_number = ~np.isnan(widened(bits))
    np.testing.assert_array_equal(back.view(np.uint16)[is_number], bits.view(np.uint16)[is_number])
    assert np.isnan(widened(back)[~is_number]).all()


def test_numbers_and_other_types():
    t, x = half((3, 4), "bfloat16")
    assert (t + 1).dtype == (2.5 * t).dtype == (t > 0).astype("bfloat16").dtype == BFLOAT16
    np.testing.assert_array_equal((t + 1).numpy(), rounded(x + 1, "bfloat16"))
    np.testing.assert_array_equal(t.astype("int64").numpy(), x.astype(np.int64))
    ones = Tensor([1, 0, 3], device=NAME)
    np.testing.assert_array_equal(ones.astype("bfloat16").numpy(), [1, 0, 3])
    assert (t[0, :3] + ones).dtype == BFLOAT16
    assert t.astype("float16").dtype == np.float16
    assert Tensor(7.0, "bfloat16", device=NAME).item() == 7.0
    with pytest.raises(TypeError, match="add: bfloat16 and float32 differ"):
        t + t.astype("float32")
    with pytest.raises(TypeError, match="multiply: bfloat16 and float16 differ"):
        t * t.astype("float16")
    assert "dtype=bfloat16" in repr(t) and "bfloat16" in repr(t.data)


def test_float16_overflows_where_float32_does_not_and_a_mean_does_not():
    t = Tensor(np.full(1000, 300.0), "float16", device=NAME)
    assert t.sum().item() == np.inf and t.mean().item() == 300.0
    assert t.var().item() == 0.0 and np.isfinite(t.logsumexp().item())


def test_copies_through_the_host_keep_type_and_values():
    t, x = half((3, 5), "bfloat16")
    t.requires_grad = True
    for again in (copy.deepcopy(t), pickle.loads(pickle.dumps(t))):
        assert again.dtype == BFLOAT16 and again.device == NAME and again.requires_grad
        np.testing.assert_array_equal(again.numpy(), x)
    there = t.to("cpu")
    assert there.dtype == np.float32 and there.to(NAME, "bfloat16").dtype == BFLOAT16
    t.copy_(x + 1 / 3)
    np.testing.assert_array_equal(t.numpy(), rounded(x + 1 / 3, "bfloat16"))
    t.copy_(there.to(NAME))
    np.testing.assert_array_equal(t.numpy(), x)


def test_gradients_add_up_in_the_parameters_type():
    t, x = half((70, 3), "bfloat16")
    t.requires_grad = True
    for factor in (1.0, 1 / 512):
        (t * t).backward(np.full(x.shape, factor))
    first = rounded(2 * x, "bfloat16")
    second = rounded(2 * rounded(x / 512, "bfloat16"), "bfloat16")
    assert t.grad.dtype == BFLOAT16
    np.testing.assert_array_equal(t.grad.numpy(), rounded(first + second, "bfloat16"))


def test_a_loss_is_float32():
    t, x = half((5, 7), "bfloat16")
    t.requires_grad = True
    loss = cross_entropy(t, np.arange(5))
    exact = Tensor(x, "float64", requires_grad=True)
    cross_entropy(exact, np.arange(5)).backward()
    loss.backward()
    assert loss.dtype == np.float32 and t.grad.dtype == BFLOAT16
    assert abs(loss.item() - cross_entropy(exact, np.arange(5)).item()) < 1e-6
    np.testing.assert_allclose(t.grad.numpy(), exact.grad.numpy(), rtol=2**-8)
