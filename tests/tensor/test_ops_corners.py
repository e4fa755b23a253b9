"""Operations where a definition decides rather than arithmetic: ties, infinities, integers,
indices, dropout, and numbers that a careless formula would lose."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tensor import (
    Tensor,
    attention,
    binary_cross_entropy_with_logits,
    cat,
    cross_entropy,
    dropout,
    embedding,
    gradcheck,
    layer_norm,
    linear,
    no_grad,
    where,
)
from tensor.random import Generator
from tests.tensor import slow_ops


def leaf(values: object, dtype: str = "float64") -> Tensor:
    return Tensor(values, dtype=dtype, requires_grad=True)


def gradient(y: Tensor, x: Tensor) -> list:
    x.grad = None
    y.sum().backward()
    assert x.grad is not None
    return x.grad.tolist()


# --- ties and kinks


def test_equal_largest_elements_share_the_gradient() -> None:
    x = leaf([[1, 3, 3], [2, 2, 2]])
    third = 1 / 3
    assert gradient(x.max(1), x) == [[0, 0.5, 0.5], [third, third, third]]
    assert gradient(x.max(), x) == [[0, 0.5, 0.5], [0, 0, 0]]
    assert gradient(x.min(0), x) == [[1, 0, 0], [0, 1, 1]]
    a, b = leaf([1, 2, 3]), leaf([3, 2, 1])
    assert gradient(a.maximum(b), a) == [0, 0.5, 1]
    assert gradient(a.minimum(b), b) == [0, 0.5, 1]
    assert gradient(a.maximum(a), a) == [1, 1, 1]


def test_the_gradient_at_a_kink_is_torchs_choice() -> None:
    x = leaf([-1, 0, 1])
    assert gradient(x.relu(), x) == [0, 0, 1]
    assert gradient(x.abs(), x) == [-1, 0, 1]
    assert gradient(x.clip(0, 1), x) == [0, 1, 1]
    assert gradient(x**1, x) == [1, 1, 1]
    assert gradient(x**2, x) == [-2, 0, 2]
    base, exponent = leaf([0, 0, 2]), leaf([0, 2, 0])
    assert gradient(base**exponent, base) == [0, 0, 0]
    assert gradient(base**exponent, exponent) == [0, 0, math.log(2)]


def test_argmax_takes_the_first_of_equal_ones() -> None:
    assert Tensor([[1, 3, 3], [2, 2, 2]]).argmax(-1).tolist() == [1, 0]
    assert Tensor([[1, 3, 3], [4, 4, 2]]).argmax() == 3
    assert Tensor([0.0, math.nan, 9.0]).argmax() == 1


# --- infinities, NaN, and numbers far apart


def test_overflow_and_undefined_values_are_ieees_without_a_warning() -> None:
    big = Tensor([3e38, 3e38])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert big.sum().item() == math.inf
        assert (big * 2).tolist() == [math.inf, math.inf]
        assert (big + big).tolist() == [math.inf, math.inf]
        assert math.isnan((big.sum() - big.sum()).item())
        assert (Tensor([1.0, -1.0]) / Tensor([0.0, 0.0])).tolist() == [math.inf, -math.inf]
        assert Tensor([0.0]).log().item() == -math.inf
        assert math.isnan(Tensor([-1.0]).sqrt().item())
        assert math.isnan(Tensor(np.zeros((2, 0))).mean().item())
        assert Tensor([800.0]).exp().item() == math.inf
        assert Tensor([-800.0, 800.0]).sigmoid().tolist() == [0, 1]
        assert math.isnan(Tensor([1.0, math.nan]).max().item())
        assert Tensor([1e300], dtype="float64").astype("float32").item() == math.inf
        x = leaf([0.0, 800.0], "float32")
        (x.exp() * x.sqrt()).sum().backward()


def test_logsumexp_and_softmax_hold_where_exp_would_overflow() -> None:
    x = leaf([[1000, 1000], [-1000, -1001]])
    expected = [1000 + math.log(2), -1000 + math.log1p(math.exp(-1))]
    np.testing.assert_allclose(x.logsumexp(1).numpy(), expected, rtol=1e-15)
    np.testing.assert_allclose(x.softmax().numpy()[0], [0.5, 0.5])
    np.testing.assert_allclose(x.log_softmax().numpy()[0], [-math.log(2)] * 2, rtol=1e-12)
    gradcheck(lambda x: x.logsumexp(), leaf([1000, 999, -1000]))
    inf = math.inf
    assert Tensor([-inf, -inf]).logsumexp().item() == -inf
    assert Tensor([inf, 1.0]).logsumexp().item() == inf
    assert Tensor([-inf, 2.0]).logsumexp().item() == 2
    assert Tensor([-inf, 2.0, 2.0]).softmax().tolist() == [0, 0.5, 0.5]


def test_sigmoid_and_erf_keep_their_digits_in_the_tails() -> None:
    x = np.linspace(-80, 80, 321)
    exact = np.array([1 / (1 + math.exp(-v)) for v in x])
    np.testing.assert_allclose(Tensor(x).sigmoid().numpy(), exact, rtol=1e-14)
    single = Tensor(x.astype(np.float32)).sigmoid().numpy()
    np.testing.assert_allclose(single, exact, rtol=1e-6, atol=1e-38)
    x = np.concatenate([np.linspace(-7, 7, 4001), [0, -0.0, 1e-300, 30, -30, 0.84375, 1.25, 6]])
    np.testing.assert_allclose(Tensor(x).erf().numpy(), slow_ops.erf(x), rtol=4e-16)
    np.testing.assert_allclose(
        Tensor(x.astype(np.float32)).erf().numpy(), slow_ops.erf(x), rtol=1e-6, atol=1e-45
    )
    ends = Tensor([math.inf, -math.inf, math.nan]).erf().tolist()
    assert ends[:2] == [1, -1] and math.isnan(ends[2])


@pytest.mark.parametrize("channels", [64, 768])
def test_layer_norm_of_large_numbers_does_not_lose_the_spread(channels: int) -> None:
    x = np.random.default_rng(0).standard_normal((5, channels)).astype(np.float32)
    x[0] += 10_000
    x[1, 3] = 1e4  # one huge channel
    x[2] = 12345.678
    x[3] = 0.1
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    y = layer_norm(Tensor(x), Tensor(ones), Tensor(zeros)).numpy()
    exact = slow_ops.layer_norm(x.astype(np.float64), ones, zeros, 1e-5)
    np.testing.assert_allclose(y, exact, rtol=2e-6, atol=5e-6)


def test_losses_hold_for_logits_of_any_size() -> None:
    logits = leaf([[1e4, 0.0, -1e4], [1e4, 0.0, -1e4]], "float32")
    loss = cross_entropy(logits, [0, 2])
    assert loss.item() == 1e4
    loss.backward()
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), [[0, 0, 0], [0.5, 0, -0.5]], atol=1e-12)
    x = leaf([1e4, -1e4, 0.0], "float32")
    loss = binary_cross_entropy_with_logits(x, [1, 1, 0.5])
    np.testing.assert_allclose(loss.item(), (1e4 + math.log(2)) / 3, rtol=1e-6)
    loss.backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), [0, -1 / 3, 0], atol=1e-7)


def test_cross_entropy_without_a_target_is_nan_with_zero_gradient() -> None:
    logits = leaf(np.ones((2, 3)))
    loss = cross_entropy(logits, [-100, -100])
    assert math.isnan(loss.item())
    loss.backward()
    assert logits.grad is not None and logits.grad.tolist() == [[0] * 3] * 2
    assert math.isnan(cross_entropy(Tensor(np.zeros((0, 3))), np.zeros(0, int)).item())


def test_cross_entropy_and_attention_leave_what_the_user_sees_alone() -> None:
    """Their backward passes reuse arrays; the logits and the inputs must not be among them."""
    rng = np.random.default_rng(0)
    x = leaf(rng.standard_normal((3, 5)))
    logits = x * 1.0
    before = logits.numpy()
    cross_entropy(logits, [0, 1, 2]).backward()
    np.testing.assert_array_equal(logits.numpy(), before)
    q, k, v = (leaf(rng.standard_normal((1, 2, 3, 4))) for _ in range(3))
    out, weights = attention(q, k, v, want_weights=True)
    assert weights is not None
    before_out, before_weights = out.numpy(), weights.numpy()
    (out.sum() + (weights * weights).sum()).backward()
    np.testing.assert_array_equal(out.numpy(), before_out)
    np.testing.assert_array_equal(weights.numpy(), before_weights)


# --- integers and booleans


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "uint64", "bool"])
def test_smallest_largest_and_absolute_of_integers(dtype: str) -> None:
    """Without wrap-around: -x does not exist for unsigned numbers and for the lowest signed one."""
    info = None if dtype == "bool" else np.iinfo(dtype)
    low, high = (False, True) if info is None else (int(info.min), int(info.max))
    x = np.array([[low, high, 1], [1, 0, high]], dtype)
    t = Tensor(x)
    assert t.min().item() == low and t.max().item() == high
    np.testing.assert_array_equal(t.min(0).numpy(), x.min(0))
    np.testing.assert_array_equal(t.max(1, keepdims=True).numpy(), x.max(1, keepdims=True))
    np.testing.assert_array_equal(t.minimum(Tensor(x[::-1])).numpy(), np.minimum(x, x[::-1]))
    np.testing.assert_array_equal(t.maximum(Tensor(x[::-1])).numpy(), np.maximum(x, x[::-1]))
    np.testing.assert_array_equal(t.argmax(1), x.argmax(1))
    if low >= 0:
        np.testing.assert_array_equal(t.abs().numpy(), x)


def test_integers_keep_their_type_or_become_float32() -> None:
    x = Tensor([3, -4])
    assert (x + 1).dtype == np.int64 and (x * x).dtype == np.int64 and x.sum().dtype == np.int64
    assert (x**2).tolist() == [9, 16] and (x**2).dtype == np.int64
    assert (x / 2).tolist() == [1.5, -2] and (x / 2).dtype == np.float32
    assert (x + 0.5).dtype == np.float32
    assert (2.0**x).dtype == np.float32 and (x**-1).dtype == np.float32
    assert x.mean().item() == -0.5 and x.mean().dtype == np.float32
    assert x.exp().dtype == np.float32 and x.relu().dtype == np.float32
    assert x.clip(low=0).tolist() == [3, 0] and x.clip(low=0).dtype == np.int64
    assert x.clip(low=0.5).tolist() == [3, 0.5] and x.clip(low=0.5).dtype == np.float32
    assert x.masked_fill([True, False], 0.5).tolist() == [0.5, -4]
    assert where([True, False], x, 0.5).tolist() == [3, 0.5]
    assert x.pad([(0, 1)], 0.5).tolist() == [3, -4, 0.5]
    assert (Tensor([True, False]) + 2).tolist() == [3, 2]
    assert (Tensor([True, True]) * Tensor([2.0, 3.0])).tolist() == [2, 3]
    assert Tensor([True, True, False]).sum().item() == 2
    assert (Tensor([[1, 2]]) @ Tensor([[3], [4]])).tolist() == [[11]]
    assert linear(Tensor([[1, 2]]), Tensor([[3], [4]])).tolist() == [[11]]
    assert (Tensor(np.array([7], np.int8)) + Tensor([1])).dtype == np.int64
    assert embedding(Tensor([[1], [2]]), [1, 0]).tolist() == [[2], [1]]


def test_limits_of_clip_do_not_change_the_precision() -> None:
    assert Tensor([1.0]).clip(np.float64(0.1), np.float64(2)).dtype == np.float32
    assert Tensor([1.0]).masked_fill([True], np.float64(2)).dtype == np.float32
    assert (Tensor([1.0]) * np.float64(2)).dtype == np.float32
    assert (np.float64(2) * Tensor([1.0])).dtype == np.float32
    assert (Tensor([1.0]) ** np.float32(2)).dtype == np.float32


def test_casts() -> None:
    x = leaf([1.5, -2.5], "float32")
    y = x.astype("float64")
    assert y.dtype == np.float64
    (y * Tensor([3.0, 4.0], "float64")).sum().backward()
    assert x.grad is not None and x.grad.dtype == np.float32 and x.grad.tolist() == [3, 4]
    assert x.astype("float32") is x
    integers = x.astype(np.int64)
    assert integers.tolist() == [1, -2] and not integers.requires_grad
    assert x.astype(bool).tolist() == [True, True]
    with pytest.raises(TypeError, match="float16"):
        x.astype("float16")


# --- indices of every kind

SIZES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)


@st.composite
def indexed_shapes(draw: st.DrawFn) -> tuple[tuple[int, ...], object]:
    shape = draw(SIZES)
    kind = draw(st.sampled_from(["basic", "integers", "mixed", "mask"]))
    if kind == "basic":
        return shape, draw(hnp.basic_indices(shape, allow_newaxis=True))
    if kind == "integers":
        return shape, draw(hnp.integer_array_indices(shape))
    if kind == "mask":
        dims = draw(st.integers(1, len(shape)))
        return shape, draw(hnp.arrays(bool, shape[:dims]))
    arrays = draw(hnp.integer_array_indices(shape))
    parts = [
        draw(st.sampled_from([array, array.tolist(), slice(None), slice(None, None, -1), 0]))
        for array in arrays
    ]
    return shape, tuple(parts)


@settings(max_examples=300, deadline=None)
@given(indexed_shapes())
def test_any_index_takes_what_numpy_takes_and_gives_the_gradient_back(drawn: tuple) -> None:
    """Each element's gradient is the sum over the places that it was copied to."""
    shape, index = drawn
    x = np.random.default_rng(0).standard_normal(shape)
    t = Tensor(x, requires_grad=True)
    y = t[index]
    np.testing.assert_array_equal(y.numpy(), x[index])
    weight = np.random.default_rng(1).standard_normal(y.shape)
    y.backward(weight)
    places = np.arange(x.size).reshape(shape)[index]
    expected = np.bincount(places.ravel(), weight.ravel(), minlength=x.size).reshape(shape)
    assert t.grad is not None
    np.testing.assert_allclose(t.grad.numpy(), expected, atol=1e-12)


def test_an_index_that_changes_after_the_forward_pass_changes_nothing() -> None:
    x = leaf([1.0, 2.0, 3.0])
    index = np.array([0, 0])
    y = x[index]
    index[:] = 2
    assert gradient(y, x) == [2, 0, 0]


def test_tensors_and_lists_are_indices() -> None:
    x = Tensor([[1, 2], [3, 4], [5, 6]])
    assert x[Tensor([2, 0])].tolist() == [[5, 6], [1, 2]]
    assert x[Tensor([True, False, True])].tolist() == [[1, 2], [5, 6]]
    assert x[x > 3].tolist() == [4, 5, 6]
    assert x[np.int64(1), np.uint8(0)].item() == 3
    assert x[[0, 1], [1, 0]].tolist() == [2, 3]
    assert [row.tolist() for row in x] == [[1, 2], [3, 4], [5, 6]]
    assert x[[]].shape == (0, 2)
    assert x[True].shape == (1, 3, 2) and x[np.False_].shape == (0, 3, 2)


# --- dropout


def test_dropout_keeps_the_mean_and_drops_the_right_part() -> None:
    x = Tensor(np.ones(400_000, np.float32))
    for p in (0.1, 0.5, 0.9):
        y = dropout(x, p, generator=Generator(3)).numpy()
        kept = 1 - p
        assert set(np.unique(y)) == {np.float32(0), np.float32(1 / kept)}
        spread = math.sqrt(p * kept / y.size)
        assert abs((y != 0).mean() - kept) < 5 * spread
        assert abs(y.mean() - 1) < 5 * spread / kept
        # Neighbours are independent: products of the centred mask average to nothing.
        z = (y != 0) - kept
        assert abs(np.mean(z[1:] * z[:-1])) < 5 * p * kept / math.sqrt(y.size)


def test_the_gradient_of_dropout_goes_through_the_same_mask() -> None:
    x = leaf(np.ones((50, 4)))
    y = dropout(x, 0.3, generator=Generator(1))
    y.sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())
    gradcheck(lambda x: dropout(x * x, 0.3, generator=Generator(1)), leaf(np.ones((5, 3)) * 0.7))


def test_dropout_is_off_in_evaluation_and_at_its_ends() -> None:
    x = leaf([1.0, 2.0])
    generator = Generator(0)
    assert dropout(x, 0.5, training=False, generator=generator) is x
    assert dropout(x, 0.0, generator=generator) is x
    assert generator.draws == 0
    assert dropout(x, 1.0).tolist() == [0, 0]
    assert dropout(x, 1 - 1e-12, generator=generator).tolist() == [0, 0]
    first, second = (dropout(Tensor(np.ones(64)), 0.5, generator=generator) for _ in range(2))
    assert first.tolist() != second.tolist()
    scalar = leaf(1.0, "float32")
    for _ in range(2):  # the gradient of a tensor without dimensions can be added to
        dropout(scalar, 0.5, generator=Generator(3)).backward()
    assert scalar.grad is not None and scalar.grad.item() in (0, 4)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "sizes", [(2, 3, 4, 5, 2), (1, 2, 300, 333, 3), (7, 3, 64, 64, 2)], ids=str
)
def test_attention_dropout_is_one_mask_whatever_the_tiles(
    sizes: tuple[int, ...], causal: bool
) -> None:
    """The mask over (B, H, T, S) is that of `dropout` on the weights: same seed, draw, index."""
    B, H, T, S, D = sizes
    rng = np.random.default_rng(0)
    q, k, v = (leaf(rng.standard_normal((B, H, n, D))) for n in (T, S, S))
    options = {"causal": causal, "want_weights": True}
    out, weights = attention(q, k, v, dropout=0.3, generator=Generator(5), **options)
    with no_grad():
        _, before = attention(q, k, v, **options)
    assert weights is not None and before is not None
    expected = dropout(before, 0.3, generator=Generator(5))
    np.testing.assert_allclose(weights.numpy(), expected.numpy(), rtol=1e-12)
    np.testing.assert_allclose(out.numpy(), (expected @ v).numpy(), rtol=1e-9, atol=1e-12)

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = attention(q, k, v, dropout=0.3, generator=Generator(5), **options)
        return cat([part.reshape(-1) for part in parts if part is not None])

    gradcheck(function, q, k, v, directions=1)


def test_attention_dropout_drops_the_right_part() -> None:
    q, k, v = (Tensor(np.ones((4, 4, 64, 8), np.float32)) for _ in range(3))
    _, weights = attention(q, k, v, dropout=0.25, want_weights=True, generator=Generator(0))
    assert weights is not None
    w = weights.numpy()
    np.testing.assert_allclose(w[w > 0], 1 / 64 / 0.75, rtol=1e-5)
    assert abs((w > 0).mean() - 0.75) < 5 * math.sqrt(0.25 * 0.75 / w.size)


def test_attention_dropout_is_the_same_with_a_head_mask() -> None:
    q, k, v = (Tensor(np.random.default_rng(i).standard_normal((2, 3, 5, 4))) for i in range(3))
    ones = Tensor(np.ones((1, 3, 1, 1)))
    with_mask = attention(
        q, k, v, dropout=0.4, head_mask=ones, want_weights=True, generator=Generator(3)
    )
    without = attention(q, k, v, dropout=0.4, want_weights=True, generator=Generator(3))
    for a, b in zip(with_mask, without, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-14)


def test_a_head_mask_that_does_not_fit_is_refused() -> None:
    q = Tensor(np.ones((2, 3, 5, 4)))
    with pytest.raises(ValueError, match=r"head_mask \(3,\) does not broadcast to"):
        attention(q, q, q, head_mask=Tensor(np.ones(3)))
    with pytest.raises(ValueError, match=r"\(1, 2, 1, 1\) and \(2, 3, 5, 5\)"):
        attention(q, q, q, head_mask=Tensor(np.ones((1, 2, 1, 1))))
    with pytest.raises(TypeError, match="float64, float32 differ"):
        attention(q, q, q, head_mask=Tensor(np.ones((1, 3, 1, 1), np.float32)))


# --- attention as its users see it


def test_causal_attention_sees_no_later_key_and_every_earlier_one() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 1, n, 4)) for n in (5, 7, 7))
    out, weights = attention(Tensor(q), Tensor(k), Tensor(v), causal=True, want_weights=True)
    assert weights is not None
    seen = np.tri(5, 7, 2) == 1
    assert (weights.numpy()[0, 0] > 0).tolist() == seen.tolist()
    np.testing.assert_allclose(weights.numpy().sum(-1), 1, rtol=1e-12)
    k[:, :, 4:] = v[:, :, 4:] = 1e9  # queries 0 and 1 see keys 0 … 2 and 0 … 3
    other, _ = attention(Tensor(q), Tensor(k), Tensor(v), causal=True)
    np.testing.assert_array_equal(other.numpy()[0, 0, :2], out.numpy()[0, 0, :2])


def test_cached_attention_is_the_end_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (Tensor(rng.standard_normal((2, 3, 200, 4))) for _ in range(3))
    whole, _ = attention(q, k, v, causal=True)
    for start in (199, 150, 1):
        part, _ = attention(q[:, :, start:], k, v, causal=True)
        np.testing.assert_allclose(
            part.numpy(), whole.numpy()[:, :, start:], rtol=1e-10, atol=1e-12
        )


def test_attention_weights_do_not_change_the_output() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (Tensor(rng.standard_normal((2, 3, 150, 4)).astype(np.float32)) for _ in range(3))
    alone, nothing = attention(q, k, v, causal=True)
    out, weights = attention(q, k, v, causal=True, want_weights=True)
    assert nothing is None and weights is not None
    np.testing.assert_allclose(alone.numpy(), out.numpy(), rtol=1e-5, atol=1e-6)


def test_attention_scores_of_any_size() -> None:
    """The largest score is subtracted before the exponential."""
    q = Tensor(np.full((1, 1, 1, 1), 1e4, np.float32))
    k = Tensor(np.array([1.0, 0.5, -1.0], np.float32).reshape(1, 1, 3, 1))
    v = Tensor(np.array([1.0, 2.0, 3.0], np.float32).reshape(1, 1, 3, 1))
    out, _ = attention(q, k, v)
    assert out.item() == 1
