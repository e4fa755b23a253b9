"""Every row of the table of operations beside torch: outputs and gradients, float32 and float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from minigpt import tolerances
from tensor import Tensor, attention, cross_entropy, nn
from tests.tensor.op_row import Case, as_tuple
from tests.tensor.op_table import CASES
from tests.tensor.reference import reference_only, to_torch

pytestmark = reference_only

DTYPES = [np.float32, np.float64]


def assert_outputs(name: str, ours: Any, theirs: Any) -> None:
    """Equal where the results are integers or booleans, else within the tolerance of the dtype."""
    ours = ours.numpy() if isinstance(ours, Tensor) else np.asarray(ours)
    theirs = theirs.detach().numpy()
    assert ours.dtype == theirs.dtype, name
    if ours.dtype.kind == "f":
        result = tolerances.compare_output(name, ours, theirs)
        assert result.ok, str(result)
    else:
        np.testing.assert_array_equal(ours, theirs)


def assert_gradients(ours: list[Tensor], theirs: list[Any]) -> None:
    """Each input's gradient within the tolerance of its dtype; a missing one counts as zeros.

    The scale is the largest entry, as in `tolerances`, but not below 1e-2: a gradient that is zero,
    such as the one of a layer norm over one channel, comes out as rounding of numbers of size 1.
    """
    expected = [np.zeros(tuple(x.shape)) if x.grad is None else x.grad.numpy() for x in theirs]
    largest = max(float(np.abs(g).max(initial=0.0)) for g in expected)
    for i, (x, want) in enumerate(zip(ours, expected, strict=True)):
        got = _gradient(x)
        assert got.dtype == x.dtype
        per_unit = (
            tolerances.GRADIENT_FLOAT64 if got.dtype == np.float64 else tolerances.GRADIENT_FLOAT32
        )
        own = float(np.abs(want).max(initial=0.0))
        allowed = per_unit * max(own, tolerances.GRADIENT_FLOOR * max(largest, 1.0))
        result = tolerances.compare(f"gradient of input {i}", got, want, allowed)
        assert result.ok, str(result)


def _gradient(x: Tensor) -> np.ndarray:
    return np.zeros(x.shape, x.dtype) if x.grad is None else x.grad.numpy()


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_row(case: Case, dtype: Any) -> None:
    import torch

    values = case.draw(dtype)
    ours_in = [Tensor(x, requires_grad=True) for x in values]
    theirs_in = [to_torch(x) for x in values]
    ours, theirs = as_tuple(case.op.ours(*ours_in)), case.torch(torch, theirs_in)
    assert len(ours) == len(theirs)
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert_outputs(f"output {i}", a, b)
    if not case.op.gradient:
        return
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(y.shape).astype(dtype) for y in ours]
    sum_ours: Any = sum((y * Tensor(w)).sum() for y, w in zip(ours, weights, strict=True))
    sum_ours.backward()
    sum_theirs: Any = sum((y * torch.tensor(w)).sum() for y, w in zip(theirs, weights, strict=True))
    sum_theirs.backward()
    assert_gradients(ours_in, theirs_in)


# --- corners where a definition, not arithmetic, decides


def _beside_torch(ours: Any, theirs: Any, *values: np.ndarray) -> None:
    """Run both on the same values, and compare the results and the gradients of their sums."""
    a, b = [Tensor(x, requires_grad=True) for x in values], [to_torch(x) for x in values]
    y, z = ours(*a), theirs(*b)
    assert_outputs("output", y, z)
    y.sum().backward()
    z.sum().backward()
    assert_gradients(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
def test_equal_elements_share_a_gradient_as_in_torch(dtype: Any) -> None:
    x = np.array([[1, 3, 3, 0], [2, 2, 2, 2]], dtype)
    y = np.array([[1, 2, 3, 0], [2, 5, 2, 1]], dtype)
    for ours, theirs in [
        (lambda a: a.max(1), lambda a: a.amax(1)),
        (lambda a: a.max((0, 1)), lambda a: a.amax((0, 1))),
        (lambda a: a.min(0), lambda a: a.amin(0)),
        (lambda a: a.min(), lambda a: a.amin((0, 1))),
    ]:
        _beside_torch(ours, theirs, x)
    _beside_torch(lambda a, b: a.maximum(b), lambda a, b: a.maximum(b), x, y)
    _beside_torch(lambda a, b: a.minimum(b), lambda a, b: a.minimum(b), x, y)


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
def test_kinks_and_ends_of_the_domain_are_as_in_torch(dtype: Any) -> None:
    import torch

    inf, nan = math.inf, math.nan
    ends = np.array([-inf, -1e30, -100, -1, -0.0, 0.0, 1, 100, 1e30, inf, nan], dtype)
    finite = ends[1:-2]
    for name in ("relu", "abs", "exp", "tanh", "sigmoid", "erf"):
        _beside_torch(lambda a, f=name: getattr(a, f)(), lambda a, f=name: getattr(a, f)(), finite)
        _same_values(getattr(Tensor(ends), name)(), getattr(torch.tensor(ends), name)())
    for name in ("log", "sqrt"):
        positive = np.array([0.0, 1e-30, 1, 1e30, inf], dtype)
        _beside_torch(
            lambda a, f=name: getattr(a, f)(), lambda a, f=name: getattr(a, f)(), positive[1:]
        )
        _same_values(getattr(Tensor(ends), name)(), getattr(torch.tensor(ends), name)())
    clipped = np.array([-1, -0.5, 0, 0.5, 1], dtype)
    _beside_torch(lambda a: a.clip(-0.5, 0.5), lambda a: a.clip(-0.5, 0.5), clipped)
    for n in (0, 1, 2, 3, 0.5, 1.5):
        zeros = np.array([0.0, 0.25, 4.0], dtype)[1 if 0 < n < 1 else 0 :]
        _beside_torch(lambda a, n=n: a**n, lambda a, n=n: a**n, zeros)
    base, exponent = np.array([0, 0, 0, 2, 2], dtype), np.array([0, 1, 2, 0, -1], dtype)
    _beside_torch(lambda a, b: a**b, lambda a, b: a**b, base, exponent)
    _same_values(Tensor(ends) ** 2, torch.tensor(ends) ** 2)
    _same_values(Tensor(ends).softmax(), torch.tensor(ends).softmax(-1))
    _same_values(Tensor(ends[:-1]).logsumexp(), torch.tensor(ends[:-1]).logsumexp(0))
    low = np.full((2, 3), -inf, dtype)
    low[1, 1] = 5
    _same_values(Tensor(low).logsumexp(1), torch.tensor(low).logsumexp(1))
    _same_values(Tensor(low).log_softmax()[1], torch.tensor(low).log_softmax(1)[1])


def _same_values(ours: Tensor, theirs: Any) -> None:
    result = tolerances.compare_output("values", ours.numpy(), theirs.numpy())
    assert result.ok, str(result)


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
def test_a_query_with_every_key_masked_is_as_in_torch(dtype: Any) -> None:
    """Left padding makes such rows: all scores are the lowest number, and all weights are equal."""
    import torch

    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 1, 4, 3)).astype(dtype) for _ in range(3))
    bias = np.where(np.arange(4) < [[4], [2]], np.finfo(dtype).min, 0)[:, None, None].astype(dtype)

    def theirs(q: Any, k: Any, v: Any) -> Any:
        # As transformers' eager attention: the causal mask replaces scores, then the bias is added.
        scores = q @ k.transpose(-1, -2) / math.sqrt(3)
        seen = torch.ones(4, 4, dtype=torch.bool).tril()
        scores = scores.masked_fill(~seen, -math.inf) + torch.tensor(bias)
        return scores.softmax(-1) @ v

    _beside_torch(
        lambda q, k, v: attention(q, k, v, bias=Tensor(bias), causal=True)[0], theirs, q, k, v
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
def test_cross_entropy_where_every_target_is_ignored(dtype: Any) -> None:
    import torch

    x = np.ones((2, 3), dtype)
    ours, theirs = Tensor(x, requires_grad=True), to_torch(x)
    loss = cross_entropy(ours, [-100, -100])
    other = torch.nn.functional.cross_entropy(theirs, torch.tensor([-100, -100]))
    assert math.isnan(loss.item()) and math.isnan(other.item())
    loss.backward()
    other.backward()
    assert_gradients([ours], [theirs])


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_a_small_network_has_torchs_loss_and_gradients(approximate: str) -> None:
    """Layers joined: what the rows test one by one, with weights used twice."""
    import torch

    rng = np.random.default_rng(0)
    values = [rng.standard_normal(s) for s in [(11, 8), (8,), (8,), (8, 16), (16,), (16, 8), (8,)]]
    ids = rng.integers(0, 11, (3, 5))

    def network(f: Any, wte: Any, w: Any, b: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
        x = f.embedding(wte, ids)
        for _ in range(2):
            x = x + f.gelu(f.norm(x, w, b) @ w1 + b1) @ w2 + b2
        return f.loss(f.norm(x, w, b) @ wte.T, np.roll(ids, -1, 1))

    class Ours:
        embedding = staticmethod(nn.functional.embedding)
        norm = staticmethod(nn.functional.layer_norm)
        loss = staticmethod(cross_entropy)
        gelu = staticmethod(lambda x: x.gelu(approximate))

    class Theirs:
        embedding = staticmethod(lambda w, ids: w[torch.tensor(ids)])
        norm = staticmethod(
            lambda x, w, b: torch.nn.functional.layer_norm(x, x.shape[-1:], w, b, 1e-5)
        )
        loss = staticmethod(
            lambda x, t: torch.nn.functional.cross_entropy(
                x.reshape(-1, 11), torch.tensor(t.reshape(-1))
            )
        )
        gelu = staticmethod(lambda x: torch.nn.functional.gelu(x, approximate=approximate))

    for dtype in DTYPES:
        cast = [x.astype(dtype) for x in values]
        _beside_torch(lambda *p: network(Ours, *p), lambda *p: network(Theirs, *p), *cast)
