"""Rows of the table of operations: indexing, products, layer norm, attention, losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensor import (
    Tensor,
    add_layer_norm,
    attention,
    bias_gelu,
    binary_cross_entropy_with_logits,
    cross_entropy,
    embedding,
    layer_norm,
    linear,
    linear_gelu,
    mse_loss,
)
from tests.tensor import slow_ops
from tests.tensor.op_row import Op, Shapes
from tests.tensor.op_rows_basic import checkers

_rows = np.array([2, 0, 2, 2])
INDICES: list[tuple[str, Any, tuple[int, ...]]] = [
    ("int", 1, (3, 4)), ("last", -1, (3, 4)), ("element", (1, 2), (3, 4)), ("only", 0, (1,)),
    ("slice", slice(1, None), (3, 4)), ("step", slice(None, None, 2), (5,)),
    ("back", slice(None, None, -1), (3, 4)), ("back_step", (..., slice(3, None, -2)), (2, 5)),
    ("nothing", slice(2, 2), (3, 4)), ("beyond", slice(1, 99), (3, 4)),
    ("none", (None, 1, None), (3, 4)), ("ellipsis", (..., 0), (2, 3, 4)),
    ("around", (0, ..., slice(1, 3)), (2, 3, 4)), ("all", ..., (2, 3)), ("scalar", (), ()),
    ("list", [2, 0, 2, 2], (3, 4)), ("array", _rows.reshape(2, 2), (3, 4)),
    ("negative", np.array([-1, 0, -1]), (3, 4)), ("no_rows", [], (3, 4)),
    ("pairs", (_rows, np.array([1, 1, 1, 0])), (3, 4)),
    ("grid", (np.array([[0], [2]]), np.array([3, 3, 1])), (3, 4)),
    ("columns", (slice(None), [1, 1, 3]), (3, 4)),
    ("apart", (_rows, slice(None), np.array([0, 1, 0, 0])), (3, 2, 4)),
    ("int_apart", (0, slice(None), [1, 1]), (3, 2, 4)), ("int_list", (0, [1, 1]), (3, 4)),
    ("after_ellipsis", (..., [0, 0]), (2, 3, 4)), ("with_none", (_rows, None), (3, 4)),
    ("array_step", (_rows, slice(None, None, -2)), (3, 4)),
    ("mask", checkers((3, 4)), (3, 4)), ("mask_rows", np.array([True, False, True]), (3, 4)),
    ("mask_columns", (slice(None), checkers((4,))), (3, 4)),
    ("mask_none", np.zeros((3, 4), bool), (3, 4)), ("mask_all", np.ones(3, bool), (3,)),
    ("mask_and_int", (np.array([True, False, True]), 1), (3, 4)), ("true", True, (2, 3)),
]  # fmt: skip


def _gather_twin(torch: Any, x: Any, index: Any) -> Any:
    """x[index] with NumPy's meaning, which torch does not always share, by positions."""
    positions = np.array(np.arange(math.prod(x.shape)).reshape(x.shape)[index], order="C")
    return x.reshape(-1)[torch.tensor(positions)]


INDEXING = [
    Op(
        f"index_{name}", lambda x, i=index: x[i], [(shape,)],
        lambda torch, x, i=index: _gather_twin(torch, x, i), plain=lambda x, i=index: x[i],
    )
    for name, index, shape in INDICES
] + [
    Op(
        f"embedding_{name}", lambda w, ids=ids: embedding(w, ids), [((7, 3),), ((7, 1),)],
        lambda torch, w, ids=ids: torch.nn.functional.embedding(
            torch.tensor(np.asarray(ids, np.int64)), w
        ),
        plain=lambda w, ids=ids: w[np.asarray(ids)],
    )
    for name, ids in [
        ("batch", [[1, 1, 6], [0, 1, 3]]), ("one", 4), ("none", np.zeros((2, 0), np.int64)),
        ("small_type", np.array([6, 6], np.uint8)), ("all_same", [2] * 40),
    ]
]  # fmt: skip

MATMULS: list[Shapes] = [
    ((2, 3), (3, 4)), ((1, 1), (1, 1)), ((1, 5), (5, 1)), ((5, 1), (1, 5)),
    ((5, 2, 3), (3, 4)), ((2, 3), (5, 3, 4)), ((5, 2, 3), (5, 3, 4)), ((1, 2, 3), (6, 3, 1)),
    ((2, 1, 3, 4), (5, 4, 2)), ((7, 1, 3), (1, 3, 2)), ((2, 3, 4, 5), (2, 3, 5, 1)),
    ((2, 3, 4, 5), (5, 2)), ((4, 5), (2, 3, 5, 2)), ((3, 0), (0, 4)), ((0, 3), (3, 2)),
    ((2, 3, 0), (0, 2)), ((2, 2, 3, 0), (2, 1, 0, 3)), ((4, 0, 3), (3, 2)), ((0, 2, 3), (3, 2)),
    ((2, 3), (3, 0)), ((5, 2, 3), (3, 0)), ((70, 33), (33, 65)),
]  # fmt: skip
PRODUCTS = [
    Op("matmul", lambda a, b: a @ b, MATMULS, plain=np.matmul),
    Op("matmul_transposed", lambda a, b: a.transpose(-1, -2) @ b.transpose(-1, -2),
       [((3, 2), (4, 3)), ((5, 3, 2), (4, 3)), ((3, 2), (5, 4, 3))],
       plain=lambda a, b: a.swapaxes(-1, -2) @ b.swapaxes(-1, -2)),
    Op("matmul_itself", lambda a: a @ a, [((3, 3),), ((2, 3, 3),)], plain=lambda a: a @ a),
    Op("linear", linear,
       [((2, 5, 3), (3, 4), (4,)), ((5, 3), (3, 1), (1,)), ((3,), (3, 4), (4,)),
        ((0, 3), (3, 4), (4,)), ((2, 0), (0, 4), (4,)), ((2, 3), (3, 0), (0,)),
        ((2, 2, 2, 3), (3, 4), (4,))],
       lambda torch, x, w, b: torch.nn.functional.linear(x, w.T, b),
       plain=lambda x, w, b: x @ w + b),
    Op("linear_no_bias", linear, [((2, 5, 3), (3, 4)), ((3,), (3, 4)), ((2, 0), (0, 4))],
       lambda torch, x, w: x @ w, plain=lambda x, w: x @ w),
    Op("linear_transpose", lambda x, w, b: linear(x, w, b, transpose=True),
       [((2, 5, 3), (4, 3), (4,)), ((3,), (4, 3), (4,)), ((2, 0), (4, 0), (4,))],
       lambda torch, x, w, b: torch.nn.functional.linear(x, w, b),
       plain=lambda x, w, b: x @ w.T + b),
    Op("linear_transpose_no_bias", lambda x, w: linear(x, w, transpose=True),
       [((2, 5, 3), (4, 3)), ((1, 3), (1, 3))],
       lambda torch, x, w: torch.nn.functional.linear(x, w), plain=lambda x, w: x @ w.T),
]  # fmt: skip


def _layer_norm_twin(torch: Any, x: Any, w: Any, b: Any, eps: float) -> Any:
    return torch.nn.functional.layer_norm(x, w.shape, w, b, eps)


NORMS = [
    Op(f"layer_norm_{eps}", lambda x, w, b, eps=eps: layer_norm(x, w, b, eps),
       [((2, 3, 5), (5,), (5,)), ((5,), (5,), (5,)), ((0, 4), (4,), (4,)),
        ((1, 64), (64,), (64,)), ((300, 200), (200,), (200,))],
       lambda torch, x, w, b, eps=eps: _layer_norm_twin(torch, x, w, b, eps),
       plain=lambda x, w, b, eps=eps: slow_ops.layer_norm(x, w, b, eps))
    for eps in (1e-5, 0.1)
] + [
    Op("layer_norm_one_channel", lambda x, w, b: layer_norm(x, w, b, 1.0),
       [((4, 1), (1,), (1,)), ((1,), (1,), (1,))],
       lambda torch, x, w, b: _layer_norm_twin(torch, x, w, b, 1.0),
       plain=lambda x, w, b: slow_ops.layer_norm(x, w, b, 1.0)),
    *(Op(f"add_layer_norm_{name}", lambda x, r, w, b, pick=pick: pick(add_layer_norm(x, r, w, b)),
         [((2, 3, 5), (2, 3, 5), (5,), (5,)), ((0, 4), (0, 4), (4,), (4,)),
          ((33, 132), (33, 132), (132,), (132,)), ((2, 1028), (2, 1028), (1028,), (1028,))],
         lambda torch, x, r, w, b, pick=pick: pick(
             (x + r, _layer_norm_twin(torch, x + r, w, b, 1e-5))),
         plain=lambda x, r, w, b, pick=pick: pick((x + r, slow_ops.layer_norm(x + r, w, b, 1e-5))))
      for name, pick in [("sum", lambda pair: pair[0] * 2), ("norm", lambda pair: pair[1] * 2),
                         ("both", lambda pair: pair[0] * 2 + pair[1])]),
    Op("layer_norm_shifted", lambda x, w, b: layer_norm(x + 50, w, b), [((3, 40), (40,), (40,))],
       lambda torch, x, w, b: _layer_norm_twin(torch, x + 50, w, b, 1e-5),
       plain=lambda x, w, b: slow_ops.layer_norm(x + 50, w, b, 1e-5)),
]  # fmt: skip


def _gelu_form(approximate: str) -> Op:
    return Op(f"bias_gelu_{approximate}", lambda x, b: bias_gelu(x, b, approximate),
              [((2, 3, 5), (5,)), ((5,), (5,)), ((0, 4), (4,)), ((33, 132), (132,)),
               ((3, 1), (1,)), ((300, 260), (260,))],
              lambda torch, x, b: torch.nn.functional.gelu(x + b, approximate=approximate),
              plain=lambda x, b: slow_ops.gelu(x + b, approximate == "tanh"))  # fmt: skip


GELUS = [
    _gelu_form("none"), _gelu_form("tanh"),
    Op("linear_gelu", lambda x, w, b: linear_gelu(x, w, b, "tanh"),
       [((2, 3, 5), (5, 7), (7,)), ((5,), (5, 4), (4,)), ((33, 12), (12, 132), (132,)),
        ((0, 4), (4, 4), (4,))],
       lambda torch, x, w, b: torch.nn.functional.gelu(x @ w + b, approximate="tanh"),
       plain=lambda x, w, b: slow_ops.gelu(x @ w + b, True)),
]  # fmt: skip


def _attention_twin(torch: Any, q: Any, k: Any, v: Any, bias: Any, scale: Any, causal: bool) -> Any:
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + torch.tensor(bias, dtype=q.dtype)
    if causal:
        T, S = scores.shape[-2:]
        seen = torch.ones(T, S, dtype=torch.bool).tril(S - T)
        scores = scores.masked_fill(~seen, -math.inf)
    weights = scores.softmax(-1)
    return weights @ v, weights


def _attention_rows() -> list[Op]:
    rng = np.random.default_rng(1)
    low = np.finfo(np.float32).min
    padding = np.where(np.arange(5) < [[0], [1], [2]], low, 0.0)[:, None, None]  # (3, 1, 1, 5)
    options: list[tuple[str, dict[str, Any], list[tuple[int, ...]]]] = [
        # (B, H, T, S, D): one tile, T = 1, S > T, many tiles of queries, of heads, of batch rows
        ("full", {},
         [(2, 3, 4, 5, 6), (1, 1, 1, 1, 1), (2, 2, 5, 3, 4), (0, 2, 3, 3, 2), (1, 2, 0, 3, 4),
          (1, 2, 300, 131, 3), (7, 3, 64, 64, 4), (2, 5, 130, 160, 2)]),
        ("causal", {"causal": True},
         [(2, 3, 4, 4, 6), (2, 2, 1, 7, 4), (1, 2, 3, 5, 4), (1, 2, 300, 333, 3),
          (7, 3, 64, 64, 4), (2, 5, 130, 160, 2), (1, 1, 129, 129, 8)]),
        ("scale", {"scale": 0.3, "causal": True}, [(2, 3, 4, 4, 6)]),
        ("no_scale", {"scale": 1.0}, [(1, 2, 3, 3, 4)]),
        ("bias_full", {"bias": rng.standard_normal((2, 3, 4, 5))}, [(2, 3, 4, 5, 2)]),
        ("bias_head", {"bias": rng.standard_normal((1, 3, 4, 5)), "causal": True},
         [(2, 3, 4, 5, 2)]),
        ("bias_row", {"bias": rng.standard_normal((2, 1, 4, 1))}, [(2, 3, 4, 5, 2)]),
        ("bias_one", {"bias": rng.standard_normal((1, 1, 1, 1))}, [(2, 3, 4, 5, 2)]),
        ("bias_padding", {"bias": padding}, [(3, 2, 4, 5, 2)]),
        ("bias_padding_causal", {"bias": padding, "causal": True}, [(3, 2, 3, 5, 2)]),
        ("bias_minus_inf", {"bias": np.where(np.arange(5) < 2, -math.inf, 0.0)[None, None, None]},
         [(3, 2, 4, 5, 2)]),
        ("bias_many_tiles", {"bias": rng.standard_normal((2, 1, 300, 333)), "causal": True},
         [(2, 2, 300, 333, 3)]),
    ]  # fmt: skip
    rows = []
    for name, given, sizes in options:
        calls = [((B, H, T, D), (B, H, S, D), (B, H, S, D)) for B, H, T, S, D in sizes]
        for want in (False, True):

            def ours(q: Any, k: Any, v: Any, given: Any = given, want: Any = want) -> Any:
                bias = Tensor(given["bias"], q.dtype, device=q.device) if "bias" in given else None
                options = {**given, "bias": bias, "want_weights": want}
                return attention(q, k, v, **options)[: 1 + want]

            def twin(torch: Any, *qkv: Any, given: Any = given, want: Any = want) -> Any:
                options = {"bias": None, "scale": None, "causal": False, **given}
                return _attention_twin(torch, *qkv, **options)[: 1 + want]

            def plain(q: Any, k: Any, v: Any, given: Any = given, want: Any = want) -> Any:
                return slow_ops.attention(q, k, v, **given)[: 1 + want]

            rows.append(Op(f"attention_{name}{'_weights' * want}", ours, calls, twin, plain))
    return rows


def _head_mask_rows() -> list[Op]:
    """head_mask, a fourth input with a gradient of its own: of a head, of a row, of everything."""
    bias = np.where(np.arange(5) < 1, -math.inf, 0.0)[None, None, None]  # (1, 1, 1, 5)
    options: list[tuple[str, dict[str, Any]]] = [
        ("", {}), ("_causal", {"causal": True}), ("_bias", {"bias": bias, "scale": 0.3}),
    ]  # fmt: skip
    sizes = [(2, 3, 4, 5, 6), (1, 1, 1, 5, 1), (1, 2, 5, 5, 3), (0, 2, 3, 5, 2)]
    masks = [(1, "H", 1, 1), ("B", 1, "T", 1), ("B", "H", "T", "S")]
    calls = []
    for B, H, T, S, D in sizes:
        size_of = {"B": B, "H": H, "T": T, "S": S, 1: 1}
        for mask in masks:
            shape = tuple(size_of[axis] for axis in mask)
            call = ((B, H, T, D), (B, H, S, D), (B, H, S, D), shape)
            if call not in calls:  # where sizes are 1, masks of several kinds are alike
                calls.append(call)
    rows = []
    for name, given in options:

        def ours(q: Any, k: Any, v: Any, m: Any, given: Any = given) -> Any:
            bias = Tensor(given["bias"], q.dtype, device=q.device) if "bias" in given else None
            return attention(q, k, v, head_mask=m, want_weights=True, **{**given, "bias": bias})

        def twin(torch: Any, q: Any, k: Any, v: Any, m: Any, given: Any = given) -> Any:
            options = {"bias": None, "scale": None, "causal": False, **given}
            weights = _attention_twin(torch, q, k, v, **options)[1] * m
            return weights @ v, weights

        def plain(q: Any, k: Any, v: Any, m: Any, given: Any = given) -> Any:
            weights = slow_ops.attention(q, k, v, **given)[1] * m
            return weights @ v, weights

        rows.append(Op(f"attention_head_mask{name}", ours, calls, twin, plain))
    return rows


ATTENTION = _attention_rows() + _head_mask_rows()


def _cross_entropy(name: str, targets: Any, ignore: int, V: Sequence[int], domain: str) -> Op:
    targets = np.asarray(targets)
    return Op(
        f"cross_entropy_{name}", lambda x: cross_entropy(x, targets, ignore),
        [((*targets.shape, v),) for v in V],
        lambda torch, x: torch.nn.functional.cross_entropy(
            x.reshape(-1, x.shape[-1]), torch.tensor(targets.reshape(-1), dtype=torch.int64),
            ignore_index=ignore,
        ),
        plain=lambda x: slow_ops.cross_entropy(x, targets, ignore), domain=domain,
    )  # fmt: skip


LOSSES = [
    _cross_entropy("plain", [1, 0, 2, 2], -100, [3, 5], "any"),
    _cross_entropy("batch", [[1, 0, 2], [2, 2, 1]], -100, [3, 7], "any"),
    _cross_entropy("ignored", [1, -100, 0, -100], -100, [2], "any"),
    _cross_entropy("ignored_in_range", [1, 0, 0, 2], 0, [3], "any"),
    _cross_entropy("small_type", np.array([1, 0], np.uint8), -100, [2], "any"),
    _cross_entropy("extreme", [1, 0, 2, 2], -100, [3, 5], "extreme"),
    _cross_entropy("one_class", [0, 0], -100, [1], "any"),
    _cross_entropy("no_axis", 2, -100, [4], "any"),
    _cross_entropy("blocks", np.arange(300) % 7, 3, [500], "any"),
    Op("bce", lambda x: binary_cross_entropy_with_logits(x, [[0.0, 1, 0.3], [1, 0.5, 0]]),
       [((2, 3),)],
       lambda torch, x: torch.nn.functional.binary_cross_entropy_with_logits(
           x, torch.tensor([[0.0, 1, 0.3], [1, 0.5, 0]], dtype=x.dtype)),
       plain=lambda x: slow_ops.binary_cross_entropy(
           x, np.array([[0.0, 1, 0.3], [1, 0.5, 0]])), domain="wide"),
    Op("bce_targets", binary_cross_entropy_with_logits, [((2, 3), (2, 3)), ((1,), (1,)), ((), ())],
       lambda torch, x, z: torch.nn.functional.binary_cross_entropy_with_logits(x, z),
       plain=slow_ops.binary_cross_entropy, domain=("wide", "unit")),
    Op("mse", mse_loss, [((2, 3), (2, 3)), ((1,), (1,)), ((), ())],
       lambda torch, x, y: torch.nn.functional.mse_loss(x, y),
       plain=lambda x, y: np.mean((x - y) ** 2)),
]  # fmt: skip
