"""Tensor: an array on a device that remembers how it was computed.

Everything a Tensor can do is a method here, mostly of one line: `apply` (apply.py) runs an
operation and records it, `Tensor.backward` walks what was recorded (graph.py). Operations that take
several tensors on an equal footing or have options worth a page (attention, cross_entropy …) are in
`functional.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tensor import reductions, shaping
from tensor.apply import TensorLike, apply, as_tensor, booleans, floating, operands
from tensor.backend import Array, Backend
from tensor.convert import NUMBERS, Axis, checked_dtype, to_array
from tensor.devices import get_backend
from tensor.dtypes import FLOAT32, converted, is_float, name_of, named
from tensor.graph import walk
from tensor.ops import elementwise as ew
from tensor.ops import fused, matmul, reduce
from tensor.ops.function import Function, broadcast_shapes, normalize_axes, normalize_axis
from tensor.reductions import mirror


class Tensor(TensorLike):
    """An n-dimensional array with a gradient.

    values: a number, nested lists or a NumPy array; it is copied. Python floats become float32,
    ints int64; arrays keep their dtype (float32, float64, integers, bool). TypeError for other
    dtypes, or if an integer or boolean tensor is asked to require gradients. On "cuda" and
    "emulator", where there is no float64, dtype may be "float16" or "bfloat16" (`tensor.dtypes`).

    `data` is the backend's raw array. `grad`, a Tensor without a graph, adds up what each
    `backward` brings until it is set to None. `creator` is the Function that made this tensor; a
    leaf has none.
    """

    __slots__ = ("__weakref__", "backend", "creator", "data", "grad", "output", "requires_grad")
    __array_ufunc__ = None  # numpy_array * tensor calls Tensor.__rmul__, not NumPy's multiply

    def __init__(
        self, values: Any, dtype: Any = None, requires_grad: bool = False, device: str = "cpu"
    ) -> None:
        self.backend: Backend = get_backend(device)
        array = to_array(values, dtype, self.backend.name)
        if requires_grad and not is_float(array.dtype):
            raise TypeError(
                f"only float tensors can require gradients, not {array.dtype}; write 1.0 for 1, or "
                "give dtype='float32'"
            )
        self.data: Array = self.backend.from_numpy(array)
        self.requires_grad = requires_grad
        self.grad: Tensor | None = None
        self.creator: Function | None = None
        self.output = 0

    @classmethod
    def wrap(cls, array: Array, backend: Backend) -> Tensor:
        """A tensor around a raw array, without a copy or a graph."""
        t = object.__new__(Tensor)
        t.backend, t.data = backend, array
        t.requires_grad, t.grad, t.creator, t.output = False, None, None, 0
        return t

    # --- pickle and copy.deepcopy: values, without the gradient

    def __getstate__(self) -> dict[str, Any]:
        if self.creator is not None:
            raise RuntimeError(
                "only a leaf can be pickled or copied; take .detach() of a tensor with a graph"
            )
        return {
            "values": self.numpy(),
            "dtype": name_of(self.dtype),
            "requires_grad": self.requires_grad,
            "device": self.device,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        Tensor.__init__(self, **state)

    # --- looking at it

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.data.size

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def device(self) -> str:
        return self.backend.name

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array of one's own: a copy. Half precision becomes float32, which
        holds each of its values exactly.
        """
        return self.backend.to_numpy(self.data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a tensor gives its values to NumPy as a copy only")
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def item(self) -> Any:
        """The value of the only element, as a Python number. ValueError if there are more."""
        if self.size != 1:
            raise ValueError(
                f"item: a tensor of shape {self.shape} has {self.size} elements, not 1"
            )
        return self.numpy().item()

    def tolist(self) -> Any:
        """The values as nested Python lists."""
        return self.numpy().tolist()

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len of a tensor without dimensions")
        return self.shape[0]

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(
                f"a tensor of shape {self.shape} is neither true nor false; compare its elements"
            )
        return bool(self.item())

    def _not_a_number(self, *_: Any) -> Any:
        raise TypeError("a tensor is not a Python number; take its value with .item()")

    __float__ = __int__ = __index__ = _not_a_number

    def __format__(self, spec: str) -> str:
        return self._not_a_number() if spec else str(self)

    def __repr__(self) -> str:
        values = np.array2string(
            self.numpy(), separator=", ", prefix="Tensor(", threshold=100, precision=4
        )
        extras = [] if self.dtype == FLOAT32 else [f"dtype={name_of(self.dtype)}"]
        if self.device != "cpu":
            extras.append(f"device={self.device!r}")
        if self.creator is not None:
            extras.append(f"made by {type(self.creator).__name__}")
        elif self.requires_grad:
            extras.append("requires_grad=True")
        return f"Tensor({', '.join([values, *extras])})"

    # --- the graph

    def backward(self, grad: Any = None, retain_graph: bool = False) -> None:
        """Add the derivative of this tensor to `.grad` of every leaf it was computed from.

        grad: the gradient of this tensor, of its shape; 1 for a tensor with one element, where it
        may be left out.
        retain_graph: keep what the operations saved, so that backward can be called again.

        RuntimeError if there is no graph or it was freed; ValueError for a missing or misshapen
        grad.
        """
        if not self.requires_grad:
            raise RuntimeError(
                "backward: nothing here requires a gradient (no_grad, or no input with "
                "requires_grad)"
            )
        if grad is None:
            if self.size != 1:
                raise ValueError(
                    f"backward: a tensor of shape {self.shape} needs a gradient of that shape; "
                    "only one with a single element, like a loss, can do without"
                )
            start = self.backend.full(self.shape, 1, self.dtype)
        else:
            given = grad
            if not isinstance(grad, Tensor):
                given = Tensor(grad, self.dtype, device=self.device)
            if given.shape != self.shape:
                raise ValueError(
                    f"backward: the gradient has shape {given.shape}, the tensor {self.shape}"
                )
            given = given.detach().to(self.device, self.dtype)
            start = self.backend.copy(given.data)
        if self.creator is None:
            self.accumulate_grad(start, fresh=True)
        else:
            walk(self.creator, self.output, start, retain_graph)

    def accumulate_grad(self, array: Array, fresh: bool) -> None:
        """Add an array to `.grad`; a fresh one, which nobody else holds, without a copy."""
        if self.grad is None:
            self.grad = Tensor.wrap(array if fresh else self.backend.copy(array), self.backend)
        else:
            self.backend.accumulate(self.grad.data, array)

    def retain_grad(self) -> Tensor:
        """Ask for `.grad` of a tensor that is not a leaf. Returns the tensor.

        RuntimeError if it requires no gradient, or if its graph was freed.
        """
        if not self.requires_grad:
            raise RuntimeError("retain_grad: this tensor requires no gradient")
        if self.creator is not None:
            if self.creator.freed:
                raise RuntimeError("retain_grad: backward has run already; ask before it")
            if all(t is not self for _, t in self.creator.retained):
                self.creator.retained.append((self.output, self))
        return self

    def detach(self) -> Tensor:
        """The same values, without a graph: a constant. No copy."""
        return Tensor.wrap(self.data, self.backend)

    def copy_(self, values: Any) -> Tensor:
        """Overwrite the values in place, keeping shape, dtype and device: how weights are loaded.

        A graph that was recorded with the old values must not be walked afterwards: its operations
        refer to this array and don't notice the change. (An optimizer's step is the same.)

        ValueError if the shape differs, TypeError for values that are no numbers or fractions for
        an integer tensor, RuntimeError for a tensor that has a graph.
        """
        if self.creator is not None:
            raise RuntimeError(
                "copy_: only a leaf can be overwritten; this tensor was computed from others"
            )
        array: Any = values
        if isinstance(values, Tensor):
            array = values.data if values.backend is self.backend else values.numpy()
        elif not isinstance(values, np.ndarray):
            array = np.asarray(values)
        if array.shape != self.shape:
            raise ValueError(
                f"copy_: values of shape {array.shape} for a tensor of shape {self.shape}"
            )
        if array.dtype.kind not in "iub" and not (is_float(array.dtype) and is_float(self.dtype)):
            raise TypeError(
                f"copy_: {name_of(array.dtype)} values for a tensor of {name_of(self.dtype)}"
            )
        if self.device != "cpu" and isinstance(array, np.ndarray):
            array = self.backend.from_numpy(converted(array, self.dtype))
        self.backend.assign(self.data, array)
        return self

    def astype(self, dtype: Any) -> Tensor:
        """The values in another dtype; the tensor itself if it has that dtype."""
        wanted = checked_dtype(named(dtype), self.device)
        if wanted == self.dtype:
            return self
        if is_float(self.dtype) and is_float(wanted):
            return apply(ew.Cast, self, dtype=wanted)
        return Tensor.wrap(self.backend.cast(self.data, wanted), self.backend)

    def to(self, device: str, dtype: Any = None) -> Tensor:
        """The tensor on another device, as a leaf, and in another dtype if one is given; there is
        no copy of what is there already.

        TypeError for float64 on another device than the CPU; small integers become int64 there.
        Half precision becomes float32 on the CPU.
        """
        target = get_backend(device)
        if target is self.backend:
            return self if dtype is None else self.astype(dtype)
        keeps = dtype is None and target.name != "cpu"
        wanted = self.dtype if keeps else dtype
        return Tensor(self.numpy(), wanted, self.requires_grad, device)

    # --- arithmetic; operands broadcast

    def __add__(self, other: Any) -> Tensor:
        return apply(ew.Add, *operands("add", self, other))

    def __sub__(self, other: Any) -> Tensor:
        return apply(ew.Sub, *operands("subtract", self, other))

    def __mul__(self, other: Any) -> Tensor:
        return apply(ew.Mul, *operands("multiply", self, other))

    def __truediv__(self, other: Any) -> Tensor:
        a, b = operands("divide", self, other)
        return apply(ew.Div, floating(a), floating(b))

    def __pow__(self, other: Any) -> Tensor:
        if isinstance(other, (int, float)):
            base = floating(self) if isinstance(other, float) or other < 0 else self
            return apply(ew.PowScalar, base, exponent=other)
        return apply(ew.Pow, *operands("power", self, other))

    def __radd__(self, other: Any) -> Tensor:
        return self + other

    def __rsub__(self, other: Any) -> Tensor:
        b, a = operands("subtract", self, other)
        return apply(ew.Sub, a, b)

    def __rmul__(self, other: Any) -> Tensor:
        return self * other

    def __rtruediv__(self, other: Any) -> Tensor:
        b, a = operands("divide", self, other)
        return apply(ew.Div, floating(a), floating(b))

    def __rpow__(self, other: Any) -> Tensor:
        b, a = operands("power", self, other)
        return apply(ew.Pow, a, b)

    def __neg__(self) -> Tensor:
        return apply(ew.Neg, self)

    def __matmul__(self, other: Any) -> Tensor:
        """(..., M, K) @ (..., K, N) -> (..., M, N); the leading axes broadcast."""
        a, b = operands("matmul", self, other, broadcast=False)
        if a.ndim < 2 or b.ndim < 2:
            raise ValueError(
                f"matmul: {a.shape} @ {b.shape}: each needs two axes or more; reshape a vector "
                "first"
            )
        if a.shape[-1] != b.shape[-2]:
            raise ValueError(
                f"matmul: {a.shape} @ {b.shape}: inner sizes {a.shape[-1]} and {b.shape[-2]} differ"
            )
        broadcast_shapes("matmul, leading axes", a.shape[:-2], b.shape[:-2])
        return apply(matmul.MatMul, a, b)

    def __rmatmul__(self, other: Any) -> Tensor:
        return as_tensor(other, self) @ self

    # --- comparisons and logic: boolean tensors, without a gradient

    def _compare(self, other: Any, how: str) -> Tensor:
        a, b = operands(f"compare ({how})", self, other)
        return Tensor.wrap(self.backend.compare(a.data, b.data, how), self.backend)

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        return self._compare(other, "==")

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        return self._compare(other, "!=")

    def __lt__(self, other: Any) -> Tensor:
        return self._compare(other, "<")

    def __le__(self, other: Any) -> Tensor:
        return self._compare(other, "<=")

    def __gt__(self, other: Any) -> Tensor:
        return self._compare(other, ">")

    def __ge__(self, other: Any) -> Tensor:
        return self._compare(other, ">=")

    __hash__ = object.__hash__  # == compares elements, so a dictionary of tensors goes by identity

    def __and__(self, other: Any) -> Tensor:
        a, b = booleans("and", self, other)
        return Tensor.wrap(self.backend.logical_and(a.data, b.data), self.backend)

    def __rand__(self, other: Any) -> Tensor:
        return self & other

    def __or__(self, other: Any) -> Tensor:
        a, b = booleans("or", self, other)
        return Tensor.wrap(self.backend.logical_or(a.data, b.data), self.backend)

    def __ror__(self, other: Any) -> Tensor:
        return self | other

    def __invert__(self) -> Tensor:
        (a,) = booleans("not", self)
        return Tensor.wrap(self.backend.logical_not(a.data), self.backend)

    # --- elementwise functions; integers are taken as float32

    def exp(self) -> Tensor:
        return apply(ew.Exp, floating(self))

    def log(self) -> Tensor:
        """The natural logarithm."""
        return apply(ew.Log, floating(self))

    def sqrt(self) -> Tensor:
        return apply(ew.Sqrt, floating(self))

    def tanh(self) -> Tensor:
        return apply(ew.Tanh, floating(self))

    def erf(self) -> Tensor:
        """2/sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
        return apply(ew.Erf, floating(self))

    def relu(self) -> Tensor:
        return apply(ew.Relu, floating(self))

    def sigmoid(self) -> Tensor:
        return apply(ew.Sigmoid, floating(self))

    def silu(self) -> Tensor:
        """x * sigmoid(x)."""
        return apply(ew.Silu, floating(self))

    def gelu(self, approximate: str = "none") -> Tensor:
        """x times the normal distribution function, exact ("none") or GPT-2's "tanh" form."""
        return apply(fused.Gelu, floating(self), tanh=fused.is_tanh(approximate))

    def __abs__(self) -> Tensor:
        return self.abs()

    def abs(self) -> Tensor:
        if self.dtype.kind in "ub":
            return self
        return self.maximum(-self) + 0  # of the two zeros maximum gives either: -0 + 0 is 0

    def maximum(self, other: Any) -> Tensor:
        return apply(ew.Maximum, *operands("maximum", self, other))

    def minimum(self, other: Any) -> Tensor:
        a, b = operands("minimum", self, other)
        return mirror(mirror(a).maximum(mirror(b)))

    def clip(self, low: float | None = None, high: float | None = None) -> Tensor:
        """Values below low become low, above high become high; None leaves a side open."""
        if low is None and high is None:
            raise ValueError("clip: give a low limit, a high one, or both")
        x = self
        for limit in (low, high):
            if limit is not None and not isinstance(limit, NUMBERS):
                raise TypeError("clip: the limits are numbers; for arrays see maximum and minimum")
            if limit is not None:
                x, _ = operands("clip", x, limit)  # integers become floats where a limit is one
        number = float if is_float(x.dtype) else int
        low, high = (None if limit is None else number(limit) for limit in (low, high))
        return apply(ew.Clip, x, low=low, high=high)

    def masked_fill(self, mask: Any, value: float) -> Tensor:
        """A constant where the boolean mask holds, this tensor's values elsewhere."""
        condition = as_tensor(mask, self)
        booleans("masked_fill", condition)
        x, filling = operands("masked_fill", self, value)
        broadcast_shapes("masked_fill", condition.shape, x.shape, filling.shape)
        return apply(ew.Where, condition, filling, x)

    # --- reductions; axis is an int, a tuple of ints, or None for all

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        axes = normalize_axes("sum", axis, self.ndim)
        return apply(reduce.Sum, self, axes=axes, keepdims=keepdims)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return reductions.mean(self, axis, keepdims)

    def var(self, axis: Axis = None, keepdims: bool = False, correction: int = 1) -> Tensor:
        """Mean squared distance from the mean, over n - correction."""
        return reductions.var(self, axis, keepdims, correction)

    def max(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The largest element. The gradient is shared equally where several are largest."""
        return reductions.largest(self, axis, keepdims)

    def min(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The smallest element. The gradient is shared equally where several are smallest."""
        return mirror(mirror(self).max(axis, keepdims))

    def argmax(self, axis: int | None = None) -> np.ndarray:
        """Where the first largest element stands: int64, NumPy. None: in the flattened tensor."""
        return reductions.argmax(self, axis)

    def logsumexp(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """log(sum(exp(x))), exact also where exp(x) would overflow."""
        return reductions.logsumexp(self, axis, keepdims)

    def softmax(self, axis: int = -1) -> Tensor:
        """exp(x) / sum(exp(x)) along an axis."""
        return reductions.along_last(fused.Softmax, "softmax", self, axis)

    def log_softmax(self, axis: int = -1) -> Tensor:
        """x - log(sum(exp(x))) along an axis."""
        return reductions.along_last(fused.LogSoftmax, "log_softmax", self, axis)

    # --- shapes

    def reshape(self, *sizes: Any) -> Tensor:
        """The same elements in another shape; one size may be -1, and is worked out."""
        return shaping.reshape(self, sizes)

    def permute(self, *axes: Any) -> Tensor:
        """The axes in another order."""
        return shaping.permute(self, axes)

    def transpose(self, a: int, b: int) -> Tensor:
        """Two axes exchanged."""
        return shaping.transpose(self, a, b)

    @property
    def T(self) -> Tensor:  # noqa: N802 - the name that NumPy and torch use
        """A matrix with its axes exchanged."""
        if self.ndim != 2:
            raise ValueError(
                f"T: a matrix has two axes, not shape {self.shape}; use transpose(a, b)"
            )
        return self.transpose(0, 1)

    def expand(self, *sizes: Any) -> Tensor:
        """Axes of size 1 repeated, and new ones in front, to reach a shape."""
        return shaping.expand(self, sizes)

    def squeeze(self, axis: Axis = None) -> Tensor:
        """Without the named axes of size 1; None drops all of size 1."""
        return shaping.squeeze(self, axis)

    def unsqueeze(self, axis: int) -> Tensor:
        """With a new axis of size 1 at this place of the result."""
        a = normalize_axis("unsqueeze", axis, self.ndim + 1)
        return self.reshape((*self.shape[:a], 1, *self.shape[a:]))

    def split(self, size: int | Sequence[int], axis: int = 0) -> tuple[Tensor, ...]:
        """Parts along an axis: all of one size (the last may be smaller), or of given sizes."""
        return shaping.split(self, size, axis)

    def pad(self, widths: Sequence[tuple[int, int]], value: float = 0) -> Tensor:
        """A constant border: (before, after) for each axis."""
        return shaping.pad(self, widths, value)

    def __getitem__(self, index: Any) -> Tensor:
        """Indices as NumPy's: integers, slices, None, Ellipsis, integer or boolean arrays."""
        return shaping.index(self, index)

    def _refuse_if_trained(self) -> None:
        if self.requires_grad and self.creator is None:
            raise TypeError(
                "a tensor that requires gradients is not changed by += and the like; overwrite it "
                "with copy_(values), or let an optimizer step"
            )

    def __iadd__(self, other: Any) -> Tensor:
        self._refuse_if_trained()
        return self + other

    def __isub__(self, other: Any) -> Tensor:
        self._refuse_if_trained()
        return self - other

    def __imul__(self, other: Any) -> Tensor:
        self._refuse_if_trained()
        return self * other

    def __itruediv__(self, other: Any) -> Tensor:
        self._refuse_if_trained()
        return self / other

    def __setitem__(self, index: Any, values: Any) -> None:
        raise TypeError(
            "a tensor's elements are not assigned one by one: make a new tensor with where() or "
            "masked_fill(), or overwrite a leaf with copy_()"
        )

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))
