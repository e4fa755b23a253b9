"""Tensor as its users meet it: made from what they have, looked at, overwritten, and what they are
told when they get something wrong."""

from __future__ import annotations

import copy
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tensor
from tensor import (
    Tensor,
    add_layer_norm,
    attention,
    bias_gelu,
    binary_cross_entropy_with_logits,
    cat,
    cross_entropy,
    devices,
    dropout,
    embedding,
    layer_norm,
    linear,
    linear_gelu,
    mse_loss,
    stack,
    where,
)

# --- made from what people have


@pytest.mark.parametrize(
    ("values", "dtype", "shape"),
    [
        (1.5, "float32", ()),
        (2, "int64", ()),
        (True, "bool", ()),
        ([1.0, 2.0], "float32", (2,)),
        ([1, 2.5, True], "float32", (3,)),
        ([[1, 2], [3, 4]], "int64", (2, 2)),
        ([True, False], "bool", (2,)),
        ((1.0, 2.0), "float32", (2,)),
        ([], "float32", (0,)),
        ([[], []], "float32", (2, 0)),
        (range(3), "int64", (3,)),
        (np.float64(1.0), "float64", ()),
        (np.float32(1.0), "float32", ()),
        (np.int8(1), "int8", ()),
        (np.bool_(True), "bool", ()),
        (np.zeros((2, 3)), "float64", (2, 3)),
        (np.zeros((2, 3), np.float32), "float32", (2, 3)),
        (np.arange(3, dtype=np.uint16), "uint16", (3,)),
        (np.array(1.0), "float64", ()),
        (np.zeros((2, 0, 3)), "float64", (2, 0, 3)),
    ],
)
def test_values_become_a_tensor(values: Any, dtype: str, shape: tuple[int, ...]) -> None:
    t = Tensor(values)
    assert t.dtype == dtype and t.shape == shape
    assert t.ndim == len(shape) and t.size == math.prod(shape)
    assert t.device == "cpu" and not t.requires_grad and t.grad is None
    np.testing.assert_array_equal(t.numpy(), np.asarray(values))


def test_a_dtype_can_be_asked_for() -> None:
    assert Tensor([1, 2], dtype="float64").dtype == np.float64
    assert Tensor([1, 2], dtype=np.float32, requires_grad=True).requires_grad
    assert Tensor([1.7, -1.7], dtype=int).tolist() == [1, -1]
    assert Tensor(np.zeros(2, np.float16), dtype="float32").dtype == np.float32
    assert Tensor([0.1], dtype="float64").item() == 0.1
    for dtype in ("float16", "complex64", "str", object):
        with pytest.raises(TypeError, match="not supported|numbers"):
            Tensor([1.0], dtype=dtype)


def test_a_tensor_copies_what_it_is_made_of() -> None:
    values = np.array([1.0, 2.0])
    t = Tensor(values)
    values[0] = 9
    assert t.tolist() == [1, 2]
    other = Tensor(t)
    t.copy_([3.0, 4.0])
    assert other.tolist() == [1, 2]
    transposed = Tensor(np.arange(6.0).reshape(2, 3).T)
    assert transposed.tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        (np.zeros(2, np.float16), TypeError, "float16 is not supported on the CPU: NumPy"),
        ([1j], TypeError, "complex128 is not supported"),
        ("abc", TypeError, "numbers"),
        (None, TypeError, "numbers"),
        ({"a": 1}, TypeError, "numbers"),
        ([1, None], TypeError, "numbers"),
        ([2**70], TypeError, "numbers"),
        ([[1], [1, 2]], ValueError, "equal lengths"),
        ([[1, 2], 3], ValueError, "equal lengths"),
        ([Tensor(1.0), Tensor(2.0)], ValueError, "stack"),
    ],
)
def test_other_values_are_refused(values: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Tensor(values)


# --- given back


def test_numpy_gives_a_copy_of_ones_own() -> None:
    t = Tensor([1.0, 2.0], requires_grad=True)
    for made in (t.numpy(), np.asarray(t), np.array(t), (t * 1).numpy(), t.expand(3, 2).numpy()):
        made[...] = 9
    assert t.tolist() == [1, 2]
    assert np.asarray(t, dtype=np.float64).dtype == np.float64
    assert t.permute(0).numpy().flags.c_contiguous and t.numpy().flags.writeable
    with pytest.raises(ValueError, match="copy"):
        np.array(t, copy=False)


def test_item_tolist_len_and_iteration() -> None:
    assert Tensor([[2.5]]).item() == 2.5 and isinstance(Tensor(1).item(), int)
    assert isinstance(Tensor(1.0).item(), float) and Tensor(True).item() is True
    t = Tensor([[1, 2], [3, 4], [5, 6]])
    assert t.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert len(t) == 3 and [row.tolist() for row in t] == [[1, 2], [3, 4], [5, 6]]
    first, *_ = t
    assert first.tolist() == [1, 2]
    assert 4 in Tensor([3, 4]) and 5 not in Tensor([3, 4])
    assert bool(Tensor([[1]])) and not bool(Tensor(0.0))
    assert np.arange(5)[Tensor([3, 1])].tolist() == [3, 1]


def test_repr_shows_values_dtype_and_graph() -> None:
    assert repr(Tensor([1.0, 2.5])) == "Tensor([1. , 2.5])"
    assert repr(Tensor(3)) == "Tensor(3, dtype=int64)"
    x = Tensor([1.0], requires_grad=True)
    assert repr(x) == "Tensor([1.], requires_grad=True)"
    assert repr(x * 2) == "Tensor([2.], made by Mul)"
    assert f"{Tensor(3)}" == str(Tensor(3)) == "Tensor(3, dtype=int64)"
    assert len(repr(Tensor(np.zeros((1000, 1000))))) < 2000
    assert "[]" in repr(Tensor([]))


def test_tensors_are_keys_and_members_by_identity() -> None:
    a, b = Tensor([1.0, 2.0]), Tensor([1.0, 2.0])
    assert len({a, b, a}) == 2
    assert {a: "a", b: "b"}[b] == "b"


def test_comparisons_are_elementwise_and_boolean() -> None:
    a, b = Tensor([1.0, 2.0, 3.0], requires_grad=True), Tensor([3.0, 2.0, 1.0])
    assert (a == b).tolist() == [False, True, False]
    assert (a != b).tolist() == [True, False, True]
    assert (a < b).tolist() == [True, False, False] and (a <= 2).tolist() == [True, True, False]
    assert (a > b).tolist() == [False, False, True] and (2 <= a).tolist() == [False, True, True]
    assert (a >= np.array([1, 3, 3])).tolist() == [True, False, True]
    assert (a == b).dtype == bool and not (a == b).requires_grad
    assert ((a > 1) & (a < 3)).tolist() == [False, True, False]
    assert ((a < 2) | (a > 2)).tolist() == [True, False, True] and (~(a > 1)).tolist()[0] is True
    assert (np.array([True, False, True]) & (a > 1)).tolist() == [False, False, True]
    assert (np.array([True, False, False]) | (a > 2)).tolist() == [True, False, True]


def test_numpy_arrays_and_numbers_on_the_left() -> None:
    x = np.array([1.0, 2.0], np.float32)
    t = Tensor([3.0, 4.0], requires_grad=True)
    for result, expected in [
        (x + t, [4, 6]), (x - t, [-2, -2]), (x * t, [3, 8]), (x / t, [1 / 3, 0.5]),
        (2 ** Tensor([1.0, 2.0]), [2, 4]),
        (np.float32(2) * t, [6, 8]), (np.int64(2) * t, [6, 8]), (1 - t, [-2, -3]),
        (x == t, [False, False]), (x < t, [True, True]),
    ]:  # fmt: skip
        assert isinstance(result, Tensor)
        np.testing.assert_allclose(result.numpy(), expected, rtol=1e-6)
    product = np.ones((3, 2), np.float32) @ Tensor([[1.0], [2.0]], requires_grad=True)
    assert isinstance(product, Tensor) and product.requires_grad and product.tolist() == [[3]] * 3
    assert (Tensor([1.0, 2.0]) + [1, 1]).tolist() == [2, 3]


# --- in place


def test_copy_overwrites_a_leaf() -> None:
    t = Tensor([1.0, 2.0], requires_grad=True)
    data = t.data
    assert t.copy_([3, 4]) is t and t.tolist() == [3, 4] and t.data is data
    t.copy_(Tensor([5.0, 6.0], "float64"))
    assert t.tolist() == [5, 6] and t.dtype == np.float32
    t.copy_(np.array([True, False]))
    assert t.tolist() == [1, 0]
    scalar = Tensor(1.0)
    assert scalar.copy_(2.5).item() == 2.5
    with pytest.raises(ValueError, match=r"copy_: values of shape \(1,\) .* shape \(2,\)"):
        t.copy_([1.0])
    with pytest.raises(RuntimeError, match="only a leaf"):
        (t * 1).copy_([1.0, 2.0])
    with pytest.raises(TypeError, match="copy_: <U1 values"):
        t.copy_(["a", "b"])
    with pytest.raises(TypeError, match="copy_: float64 values for a tensor of int64"):
        Tensor([1, 2]).copy_([1.5, 2.5])
    assert t.tolist() == [1, 0]


def test_elements_are_not_assigned() -> None:
    t = Tensor([1.0, 2.0])
    with pytest.raises(TypeError, match=r"masked_fill|where"):
        t[0] = 5.0
    before = t
    t += 1  # makes a new tensor, and leaves the old one alone
    assert before.tolist() == [1, 2] and t.tolist() == [2, 3]


def test_copies_and_pickles_are_independent_leaves() -> None:
    t = Tensor([1.0, 2.0], requires_grad=True)
    (t * t).sum().backward()
    for other in (copy.deepcopy(t), copy.copy(t), pickle.loads(pickle.dumps(t))):
        assert other.requires_grad and other.grad is None and other.tolist() == [1, 2]
        other.copy_([5.0, 6.0])
        assert (other + t).tolist() == [6, 8]
    with pytest.raises(RuntimeError, match="detach"):
        copy.deepcopy(t * 2)
    assert copy.deepcopy((t * 2).detach()).tolist() == [2, 4]


def test_devices() -> None:
    t = Tensor([1.0])
    assert t.device == "cpu" and t.to("cpu") is t
    for name in ("gpu", "", "CPU"):
        with pytest.raises(ValueError, match=f"device '{name}' is not known"):
            Tensor([1.0], device=name)
        with pytest.raises(ValueError, match="'cpu'"):
            t.to(name)


def test_auto_takes_a_gpu_or_says_once_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    make = devices._make

    def without_gpu(name: str) -> Any:
        if name == "cuda":
            raise OSError("the driver sees no GPU\n  looked at: everything")
        return make(name)

    monkeypatch.setattr(devices, "_make", without_gpu)
    devices.choose.cache_clear()
    try:
        with pytest.warns(UserWarning, match="'auto' computes on the CPU: the driver sees no GPU$"):
            t = Tensor([1.0], device="auto")
        assert t.device == "cpu" and t.to("auto") is t  # without a second warning
        with pytest.raises(OSError, match="the driver sees no GPU"):
            Tensor([1.0], device="cuda")
    finally:
        devices.choose.cache_clear()


# --- what a beginner gets wrong, and what the answer must say

X = Tensor(np.arange(6.0, dtype=np.float32).reshape(2, 3), requires_grad=True)
IDS = [[0, 1]]
Q, K = Tensor(np.ones((1, 2, 3, 4))), Tensor(np.ones((1, 2, 5, 4)))

MISTAKES: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    # arithmetic
    ("add_shapes", lambda: X + Tensor([1.0, 2.0]), ValueError,
     r"add: shapes (2, 3) and (2,) do not broadcast"),
    ("compare_shapes", lambda: X > Tensor([1.0, 2.0]), ValueError, r"(2, 3) and (2,)"),
    ("add_text", lambda: X + "1", TypeError, "numbers"),
    ("add_none", lambda: X + None, TypeError, "numbers"),
    ("equal_none", lambda: X == None, TypeError, "numbers"),  # noqa: E711
    ("precision", lambda: X * np.ones(3), TypeError, "multiply: float32 and float64 differ"),
    ("inner", lambda: X @ X, ValueError, "matmul: (2, 3) @ (2, 3): inner sizes 3 and 2 differ"),
    ("leading", lambda: Tensor(np.ones((2, 3, 4))) @ Tensor(np.ones((3, 4, 5))), ValueError,
     "matmul, leading axes: shapes (2,) and (3,)"),
    ("vector", lambda: X @ Tensor([1.0, 2.0, 3.0]), ValueError, "two axes or more"),
    ("number", lambda: X @ 3.0, ValueError, "(2, 3) @ ()"),
    ("and_of_floats", lambda: X & (X > 0), TypeError, "and: a boolean tensor is needed"),
    ("not_of_floats", lambda: ~X, TypeError, "compare first"),
    ("chained", lambda: 0 < X < 1, ValueError, "shape (2, 3) is neither true nor false"),
    ("if", lambda: bool(X), ValueError, "(2, 3)"),
    ("if_empty", lambda: bool(Tensor([])), ValueError, "(0,)"),
    ("gelu_name", lambda: X.gelu("new"), ValueError, "'new'; choose 'none' (exact) or 'tanh'"),
    ("clip_nothing", lambda: X.clip(), ValueError, "give a low limit"),
    ("clip_array", lambda: X.clip(np.zeros(3)), TypeError, "maximum and minimum"),
    # Python numbers
    ("float", lambda: float(X.sum()), TypeError, ".item()"),
    ("int", lambda: int(Tensor(1)), TypeError, ".item()"),
    ("index_of_list", lambda: [1, 2][Tensor(1)], TypeError, ".item()"),
    ("format", lambda: f"{X.sum():.3f}", TypeError, ".item()"),
    ("item", lambda: X.item(), ValueError, "shape (2, 3) has 6 elements, not 1"),
    ("len", lambda: len(Tensor(1.0)), TypeError, "without dimensions"),
    ("numpy_function", lambda: np.exp(X), TypeError, "Tensor"),
    # axes
    ("axis", lambda: X.sum(2), IndexError, "sum: axis 2 is out of range for an array of 2"),
    ("axis_negative", lambda: X.mean(-3), IndexError, "mean: axis -3"),
    ("axis_twice", lambda: X.max((0, -2)), ValueError, "max: an axis appears twice in (0, -2)"),
    ("axis_float", lambda: X.sum(1.0), TypeError, "sum: axis must be an int"),
    ("axis_text", lambda: X.var("rows"), TypeError, "'rows'"),
    ("argmax_axes", lambda: X.argmax((0, 1)), TypeError, "argmax: one axis is needed"),
    ("softmax_axes", lambda: X.softmax((0, 1)), TypeError, "softmax: one axis is needed"),
    ("softmax_axis", lambda: X.softmax(2), IndexError, "softmax: axis 2"),
    ("softmax_scalar", lambda: Tensor(1.0).softmax(), IndexError, "0 dimensions"),
    ("logsumexp_axis", lambda: X.logsumexp(5), IndexError, "logsumexp: axis 5"),
    ("max_of_nothing", lambda: Tensor(np.zeros((2, 0))).max(1), ValueError, "(2, 0)"),
    ("min_of_nothing", lambda: Tensor([]).min(), ValueError, "no element"),
    ("argmax_of_nothing", lambda: Tensor([]).argmax(), ValueError, "no element"),
    # shapes
    ("reshape", lambda: X.reshape(4, 2), ValueError,
     "reshape: (2, 3) has 6 elements, which do not fit (4, 2)"),
    ("reshape_two_free", lambda: X.reshape(-1, -1), ValueError, "(-1, -1)"),
    ("reshape_indivisible", lambda: X.reshape(4, -1), ValueError, "(4, -1)"),
    ("reshape_negative", lambda: X.reshape(-2, -3), ValueError, "(-2, -3)"),
    ("reshape_float", lambda: X.reshape(6 / 2, 2), TypeError, "sizes must be integers"),
    ("reshape_none", lambda: X.reshape(None), TypeError, "sizes must be integers"),
    ("permute", lambda: X.permute(1), ValueError, "permute: (1,) does not name each of 2 axes"),
    ("permute_twice", lambda: X.permute(0, 0), ValueError, "(0, 0)"),
    ("permute_far", lambda: X.permute(0, 2), ValueError, "(0, 2)"),
    ("transpose", lambda: X.transpose(0, 2), IndexError, "transpose: axis 2"),
    ("T", lambda: Tensor(np.ones((2, 2, 2))).T, ValueError, "use transpose"),
    ("expand", lambda: X.expand(4, 3), ValueError, "expand: shapes (2, 3) and (4, 3)"),
    ("expand_fewer", lambda: X.expand(3), ValueError, "expand"),
    ("expand_minus", lambda: X.expand(5, -1, -1), ValueError, "expand: (2, 3) can't become"),
    ("squeeze", lambda: X.squeeze(0), ValueError, "axes (0,) of shape (2, 3)"),
    ("unsqueeze", lambda: X.unsqueeze(4), IndexError, "unsqueeze: axis 4"),
    ("split_sum", lambda: X.split([1, 1], 1), ValueError,
     "sizes [1, 1] do not add up to 3, the size of axis 1 of (2, 3)"),
    ("split_zero", lambda: X.split(0), ValueError, "size 0 is not positive"),
    ("split_float", lambda: X.split(1.5), TypeError, "integers"),
    ("split_axis", lambda: X.split(1, axis=2), IndexError, "split: axis 2"),
    ("pad", lambda: X.pad([(1, 1)]), ValueError, "one (before, after) >= 0 for each axis"),
    ("pad_flat", lambda: X.pad((1, 1)), ValueError, "pad: (1, 1)"),
    ("pad_negative", lambda: X.pad([(0, 0), (-1, 0)]), ValueError, "pad"),
    ("cat_shapes", lambda: cat([X, Tensor(np.ones((2, 2), np.float32))]), ValueError,
     "cat along axis 0: shapes (2, 3) and (2, 2)"),
    ("cat_nothing", lambda: cat([]), ValueError, "nothing to join"),
    ("cat_scalars", lambda: cat([Tensor(1.0)]), ValueError, "stack"),
    ("cat_arrays", lambda: cat([np.ones(2)]), TypeError, "cat: a Tensor is needed, not ndarray"),
    ("cat_dtypes", lambda: cat([Tensor([1.0]), Tensor([1])]), TypeError, "astype"),
    ("stack_shapes", lambda: stack([X, X[0]]), ValueError, "stack: shapes (2, 3) and (3,)"),
    ("stack_nothing", lambda: stack([]), ValueError, "stack"),
    ("stack_axis", lambda: stack([X], 4), IndexError, "stack: axis 4"),
    ("where_condition", lambda: where(X, X, X), TypeError, "must be boolean, not float32"),
    ("where_shapes", lambda: where(X > 0, X, Tensor([1.0, 2.0])), ValueError, "(2,)"),
    ("fill_mask", lambda: X.masked_fill(X, 0.0), TypeError, "masked_fill: a boolean"),
    ("fill_shape", lambda: X.masked_fill([True, False], 0.0), ValueError, "(2,)"),
    # indices
    ("row", lambda: X[2], IndexError, "index 2 is out of bounds for axis 0 with size 2"),
    ("too_many", lambda: X[0, 0, 0], IndexError, "too many indices"),
    ("float_index", lambda: X[1.0], IndexError, "only integers and booleans"),
    ("text_index", lambda: X["a"], IndexError, "only integers and booleans"),
    ("float_tensor_index", lambda: X[X], IndexError, "float32"),
    ("mask_shape", lambda: X[np.ones((3, 3), bool)], IndexError, "boolean index"),
    ("array_range", lambda: X[[0, 7]], IndexError, "index 7"),
    # layers
    ("linear_input", lambda: linear(X, Tensor(np.ones((4, 5), np.float32))), ValueError,
     "linear: input (2, 3) and weight (4, 5)"),
    ("linear_bias", lambda: linear(X, X.T, Tensor([1.0, 2.0, 3.0])), ValueError, "bias (3,)"),
    ("linear_dtype", lambda: linear(X, Tensor(np.ones((3, 5)))), TypeError, "float32, float64"),
    ("linear_array", lambda: linear(X, np.ones((3, 5))), TypeError, "not ndarray"),
    ("linear_gelu_bias", lambda: linear_gelu(X, X.T, Tensor([1.0])), ValueError,
     "linear_gelu: bias (1,)"),
    ("linear_gelu_integers", lambda: linear_gelu(Tensor([[1]]), Tensor([[1]]), Tensor([0]), "tanh"),
     TypeError, "linear_gelu: floats"),
    ("linear_gelu_form", lambda: linear_gelu(X, X.T, Tensor([1.0, 2.0]), "new"), ValueError,
     "'new'; choose"),
    ("bias_gelu_bias", lambda: bias_gelu(X, Tensor([1.0, 2.0])), ValueError,
     "bias_gelu: bias (2,)"),
    ("bias_gelu_number", lambda: bias_gelu(Tensor(1.0), Tensor(1.0)), ValueError, "input ()"),
    ("add_norm_shapes", lambda: add_layer_norm(X, X.T, X[0], X[0]), ValueError,
     "add_layer_norm: inputs (2, 3) and (3, 2)"),
    ("add_norm_weight", lambda: add_layer_norm(X, X, X[:, 0], X[0]), ValueError,
     "add_layer_norm: weight (2,)"),
    ("linear_number", lambda: linear(X, Tensor(1.0)), ValueError, "weight ()"),
    ("embedding_high", lambda: embedding(X, [0, 2]), IndexError,
     "id 2 is outside 0 … 1 (the weight has 2 rows)"),
    ("embedding_low", lambda: embedding(X, [-1]), IndexError, "id -1"),
    ("embedding_float", lambda: embedding(X, [0.0]), TypeError, "ids must be integers"),
    ("embedding_swapped", lambda: embedding(IDS, X), TypeError, "embedding: a Tensor is needed"),
    ("embedding_weight", lambda: embedding(X[0], [0]), ValueError, "(V, C), not (3,)"),
    ("norm_weight", lambda: layer_norm(X, Tensor([1.0, 1.0]), Tensor([0.0, 0.0])), ValueError,
     "weight (2,) and bias (2,)"),
    ("norm_integers", lambda: layer_norm(Tensor([[1]]), Tensor([1]), Tensor([0])), TypeError,
     "layer_norm: floats"),
    ("norm_nothing", lambda: layer_norm(*[Tensor(np.ones(n)) for n in ((2, 0), 0, 0)]),
     ValueError, "(2, 0)"),
    ("dropout_p", lambda: dropout(X, 1.5), ValueError, "p = 1.5 is not a probability"),
    ("dropout_integers", lambda: dropout(Tensor([1, 2]), 0.5), TypeError, "floats are needed"),
    # attention
    ("attention_axes", lambda: attention(Q[0], K[0], K[0]), ValueError, "(2, 3, 4)"),
    ("attention_heads", lambda: attention(Q, K[:, :1], K[:, :1]), ValueError, "k (1, 1, 5, 4)"),
    ("attention_values", lambda: attention(Q, K, K[:, :, 1:]), ValueError, "v (1, 2, 4, 4)"),
    ("attention_causal", lambda: attention(K, Q, Q, causal=True), ValueError,
     "5 queries but only 3 keys"),
    ("attention_no_keys", lambda: attention(Q, K[:, :, :0], K[:, :, :0]), ValueError, "no key"),
    ("attention_bias", lambda: attention(Q, K, K, bias=Tensor(np.ones((1, 1, 3, 4)))), ValueError,
     "(1, 1, 3, 4)"),
    ("attention_bias_axes", lambda: attention(Q, K, K, bias=Tensor(np.ones((3, 5)))), ValueError,
     "bias (3, 5) does not broadcast to (B, H, T, S) = (1, 2, 3, 5)"),
    ("attention_mask", lambda: attention(Q, K, K, bias=Tensor(np.ones((1, 1, 3, 5), bool))),
     TypeError, "the bias is bool"),
    ("attention_learned", lambda: attention(
        Q, K, K, bias=Tensor(np.ones((1, 1, 3, 5)), requires_grad=True)), TypeError, "detach"),
    ("attention_dropout", lambda: attention(Q, K, K, dropout=1.0), ValueError, "dropout = 1.0"),
    ("attention_dtype", lambda: attention(Q.astype("float32"), K, K), TypeError, "float64"),
    ("attention_arrays", lambda: attention(Q.numpy(), K, K), TypeError, "not ndarray"),
    # losses
    ("target_high", lambda: cross_entropy(X, [0, 3]), IndexError,
     "target 3 is neither in 0 … 2 nor -100 (ignored)"),
    ("target_low", lambda: cross_entropy(X, [0, -1]), IndexError, "target -1"),
    ("target_float", lambda: cross_entropy(X, [0.0, 1.0]), TypeError, "must be integers"),
    ("target_one_hot", lambda: cross_entropy(X, [[0, 1, 0], [1, 0, 0]]), ValueError,
     "logits (2, 3) need targets (2,), got (2, 3)"),
    ("target_count", lambda: cross_entropy(X, [0]), ValueError, "got (1,)"),
    ("logits_integers", lambda: cross_entropy(Tensor([[1, 2]]), [0]), TypeError, "floats"),
    ("logits_swapped", lambda: cross_entropy([0, 1], X), TypeError, "not list"),
    ("bce_shapes", lambda: binary_cross_entropy_with_logits(X, [1.0]), ValueError, "(1,)"),
    ("mse_shapes", lambda: mse_loss(X, X[0]), ValueError, "(2, 3) and (3,)"),
    ("mse_integers", lambda: mse_loss(Tensor([1]), [0.5]), TypeError, "floats"),
    ("functional_array", lambda: tensor.functional.apply(
        tensor.functional.elementwise.Exp, np.ones(3)), TypeError, "not ndarray"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("mistake", "error", "text"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES]
)
def test_a_mistake_is_named(mistake: Callable[[], Any], error: type, text: str) -> None:
    with pytest.raises(error, match=re.escape(text)) as caught:
        mistake()
    assert type(caught.value) is error, "a subclass, whose text is not ours"
    assert "Traceback" not in str(caught.value) and len(str(caught.value)) < 250


@settings(max_examples=100, deadline=None)
@given(
    hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4),
    st.sampled_from(["+", "-", "*"]),
)
def test_any_two_shapes_broadcast_as_in_numpy(shapes: hnp.BroadcastableShapes, op: str) -> None:
    a, b = (np.random.default_rng(i).standard_normal(s) for i, s in enumerate(shapes.input_shapes))
    function = {"+": lambda x, y: x + y, "-": lambda x, y: x - y, "*": lambda x, y: x * y}[op]
    x, y = Tensor(a, requires_grad=True), Tensor(b, requires_grad=True)
    z = function(x, y)
    assert z.shape == shapes.result_shape
    np.testing.assert_array_equal(z.numpy(), function(a, b))
    z.sum().backward()
    assert x.grad is not None and y.grad is not None
    assert x.grad.shape == a.shape and y.grad.shape == b.shape


@pytest.mark.parametrize("change", ["x += 1", "x -= 1", "x *= 2", "x /= 2"])
def test_a_trained_tensor_is_not_changed_by_augmented_assignment(change):
    """`p -= lr * p.grad` would give the name p another tensor and leave the model's as it is."""
    with pytest.raises(TypeError, match="copy_"):
        exec(change, {"x": Tensor([1.0], requires_grad=True)})
    names = {"x": Tensor([1.0], requires_grad=True) * 4}
    exec(change, names)
    assert names["x"].creator is not None


def test_an_integer_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="300 does not fit uint8"):
        Tensor([300], dtype=np.uint8)
