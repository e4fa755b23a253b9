"""kernels/elementwise.cu: each version, block size and order of threads against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kernels.launch import load
from tensor import cuda_elementwise
from tensor.cuda_layout import SUFFIX, join_axes, strides_in
from tests.kernels.devices import ORDERS, SIZES, device, needs_device

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_device")]
BLOCKS = [1, 32, 100, 256, 1024]
# Shapes that broadcast, one of the sizes on one axis at a time.
PAIRS = [((n,), (n,)) for n in SIZES] + [
    ((33, 65), (65,)), ((65, 1), (1, 33)), ((1000,), ()), ((), ()), ((3, 1, 5, 33), (4, 1, 33)),
    ((2, 1, 3, 1, 2, 1, 3, 1), (1, 2, 1, 3, 1, 2, 1, 3)),
]  # fmt: skip
_erf = np.vectorize(math.erf)
FUNCTIONS = {
    "neg": np.negative, "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "tanh": np.tanh,
    "erf": _erf, "relu": lambda x: np.maximum(x, 0), "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "pow_scalar": lambda x: x**2.5,
}  # fmt: skip
SIGNS = {
    "==": np.equal, "!=": np.not_equal, "<": np.less, "<=": np.less_equal, ">": np.greater,
    ">=": np.greater_equal,
}  # fmt: skip
ARITHMETIC = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "pow": np.power,
    "maximum": np.maximum,
}  # fmt: skip


@pytest.fixture
def _device():
    needs_device()


def kernel(name, checked=False):
    return load("elementwise.cu", device(checked))[name]


def drawn(shape, seed, dtype=np.float32):
    """Positive numbers."""
    rng = np.random.default_rng(seed)
    if dtype != np.float32:
        return rng.integers(0, 7, shape).astype(dtype)
    return rng.uniform(0.1, 3, shape).astype(np.float32)


def check(got, expected):
    got = got.numpy()
    if got.dtype == np.float32:
        np.testing.assert_allclose(got, expected, rtol=3e-6, atol=1e-7)
    else:
        np.testing.assert_array_equal(got, expected)


def on(x, checked, transposed=False):
    """x on the device; transposed, it lies there with its axes reversed."""
    if not transposed:
        return device(checked).from_numpy(x)
    return device(checked).from_numpy(x.T).permute(tuple(reversed(range(x.ndim))))


def run_binary(op, a, b, block, order, *, grid=3, join=True, transposed=False, checked=False):
    """The strided version. join: with axes joined, as the backend does it, or as they are."""
    x, y = on(a, checked, transposed), on(b, checked, transposed)
    shape = np.broadcast_shapes(a.shape, b.shape)
    out = device(checked).empty(shape, a.dtype)
    axes = (shape or (1,), strides_in(x, shape) or (0,), strides_in(y, shape) or (0,))
    sizes, (xs, ys) = join_axes(*axes) if join else (axes[0], axes[1:])
    kernel(f"binary_strided_{SUFFIX[a.dtype]}", checked)(
        cuda_elementwise.BINARY.index(op), x.strided, y.strided, out, out.size, len(sizes), sizes,
        xs, ys, grid=grid, block=block, order=order,
    )  # fmt: skip
    with np.errstate(all="ignore"):
        wide = [v.astype(np.float64) if v.dtype == np.float32 else v for v in (a, b)]
        check(out, ARITHMETIC[op](*wide))


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def test_binary_strided(block, order):
    for number, (a, b) in enumerate(PAIRS):
        op = cuda_elementwise.BINARY[number % 6]
        for transposed in (False, True):
            run_binary(op, drawn(a, 0), drawn(b, 1), block, order, transposed=transposed)
        run_binary(op, drawn(a, 0), drawn(b, 1), block, order, join=False)


@pytest.mark.parametrize("op", cuda_elementwise.BINARY)
def test_every_operation_and_type(op):
    a, b = (65, 33), (33,)
    run_binary(op, drawn(a, 0), drawn(b, 1), 64, None)
    if op != "div":
        run_binary(op, drawn(a, 0, np.int64), drawn(b, 1, np.int64), 64, None)
    if op in ("mul", "maximum"):
        run_binary(op, drawn(a, 0, np.int64) > 3, drawn(b, 1, np.int64) > 3, 64, None)


def run_float4(op, a, b, block, order, *, grid=3, checked=False):
    x, y = on(a, checked), on(b, checked)
    out = device(checked).empty(max(a.shape, b.shape))
    kernel("binary_float4", checked)(
        cuda_elementwise.BINARY.index(op), x, y, out, out.size, int(a.size > 1), int(b.size > 1),
        grid=grid, block=block, order=order,
    )  # fmt: skip
    check(out, ARITHMETIC[op](a.astype(np.float64), b.astype(np.float64)))


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def test_binary_float4(block, order):
    for number, n in enumerate([*SIZES, 2, 3, 4, 7]):
        op = cuda_elementwise.BINARY[number % 6]
        run_float4(op, drawn(n, 0), drawn(n, 1), block, order)
        run_float4(op, drawn(n, 0), drawn((), 1), block, order)
        run_float4(op, drawn((), 0), drawn(n, 1), block, order)


def run_unary(op, shape, block, order, version, checked=False):
    x = drawn(shape, 2)
    if op not in ("log", "sqrt", "pow_scalar"):
        x -= 1.5
    out = device(checked).empty(shape)
    code = cuda_elementwise.UNARY.index(op)
    if version == "unary_float4":
        there, described = on(x, checked), ()
    else:
        there = on(x, checked, transposed=True)
        sizes, (xs,) = join_axes(there.shape, there.strides)
        described = (len(sizes), sizes, xs)
    kernel(version, checked)(code, there.strided, out, 2.5, out.size, *described, grid=2,
                             block=block, order=order)
    check(out, FUNCTIONS[op](x.astype(np.float64)))


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("version", ["unary_strided_float", "unary_float4"])
def test_unary(version, block, order):
    for number, n in enumerate([*SIZES, 3, 5]):
        run_unary(cuda_elementwise.UNARY[number % 9], (n,), block, order, version)
    for op in cuda_elementwise.UNARY:
        run_unary(op, (33, 5), block, order, version)


def run_comparisons(x, y, block, order, checked=False):
    """All six of x, transposed in memory, with y, which is repeated."""
    left, right = on(x, checked, transposed=True), on(y, checked)
    sizes, (xs, ys) = join_axes(x.shape, left.strides, strides_in(right, x.shape))
    holds = device(checked).empty(x.shape, bool)
    for number, sign in enumerate(cuda_elementwise.COMPARISONS):
        kernel(f"compare_strided_{SUFFIX[x.dtype]}", checked)(
            number, left.strided, right, holds, x.size, len(sizes), sizes, xs, ys, grid=3,
            block=block, order=order,
        )  # fmt: skip
        check(holds, SIGNS[sign](x, y))


def run_choices(x, y, block, order, checked=False):
    """where, clip, and for integers the negative."""
    left, right, condition = on(x, checked, True), on(y, checked), on(x > 3, checked)
    strides = (condition.strides, left.strides, strides_in(right, x.shape))
    sizes, steps = join_axes(x.shape, *strides)
    out = device(checked).empty(x.shape, x.dtype)
    options = {"grid": 3, "block": block, "order": order}
    suffix = SUFFIX[x.dtype]
    kernel(f"where_strided_{suffix}", checked)(
        condition, left.strided, right, out, x.size, len(sizes), sizes, *steps, **options)
    check(out, np.where(x > 3, x, y))
    sizes, (xs,) = join_axes(x.shape, left.strides)
    described = (x.size, len(sizes), sizes, xs)
    kernel(f"clip_strided_{suffix}", checked)(left.strided, out, 2, 4, *described, **options)
    check(out, np.clip(x, 2, 4))
    if suffix == "long":
        kernel("neg_strided_long", checked)(left.strided, out, *described, **options)
        check(out, -x)
        bits = device(checked).empty(x.shape, bool)
        there = on(x > 3, checked, transposed=True)
        kernel("not_strided_bool", checked)(there.strided, bits, *described, **options)
        check(bits, x <= 3)


def run_all_choices(shape, block, order, checked=False):
    a, b = drawn(shape, 0, np.int64), drawn(shape[-1:], 1, np.int64)
    for x, y in ((a, b), (a.astype(np.float32), b.astype(np.float32))):
        run_comparisons(x, y, block, order, checked)
        run_choices(x, y, block, order, checked)


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def test_comparisons_and_choices(block, order):
    for n in SIZES:
        run_all_choices((3, n), block, order)


def run_accumulate(shape, block, order, checked=False):
    x, y = drawn(shape, 0), drawn(shape, 1)
    options = {"grid": 3, "block": block, "order": order}
    into, other = on(x, checked, True), on(y, checked)
    kernel("accumulate_strided", checked)(into.strided, other, x.size, x.ndim, shape, into.strides,
                                          other.strides, **options)
    check(into, x.astype(np.float64) + y)
    into = on(x, checked)
    kernel("accumulate_float4", checked)(into, other, x.size, 1, **options)
    kernel("accumulate_float4", checked)(into, on(np.float32(2), checked), x.size, 0, **options)
    check(into, x.astype(np.float64) + y + 2)


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def test_accumulate(block, order):
    for n in SIZES:
        run_accumulate((3, n), block, order)


def test_checked():
    for number, (a, b) in enumerate(PAIRS[1:3] + PAIRS[-2:]):
        run_binary(cuda_elementwise.BINARY[number % 6], drawn(a, 0), drawn(b, 1), 64, ORDERS[-1],
                   checked=True, transposed=True)
    run_float4("add", drawn(65, 0), drawn(65, 1), 64, ORDERS[-1], checked=True)
    for version in ("unary_strided_float", "unary_float4"):
        run_unary("exp", (33, 5), 64, ORDERS[-1], version, checked=True)
    run_all_choices((3, 33), 64, ORDERS[-1], checked=True)
    run_accumulate((3, 33), 64, ORDERS[-1], checked=True)


def test_what_is_not_finite_goes_as_in_numpy():
    """NaN wins a maximum and stays what it is in a clip and in relu; 1 / 0 and log(0) are infinite.
    """
    ends = np.array([-np.inf, -1, -0.0, 0.0, 1, np.inf, np.nan], np.float32)
    a, b = np.repeat(ends, len(ends)), np.tile(ends, len(ends))
    for op in cuda_elementwise.BINARY:
        run_binary(op, a, b, 32, None)
        with np.errstate(all="ignore"):
            run_float4(op, a, b, 32, None)
    out = device().empty(ends.shape)
    for code, op in enumerate(cuda_elementwise.UNARY[:-1]):
        kernel("unary_float4")(code, on(ends, False), out, 0.0, ends.size, grid=1, block=32)
        with np.errstate(all="ignore"):
            check(out, FUNCTIONS[op](ends.astype(np.float64)))
    kernel("clip_strided_float")(on(ends, False), out, -0.5, 0.5, ends.size, 1, (7,), (1,), grid=1,
                                 block=32)
    check(out, np.clip(ends, -0.5, 0.5))
