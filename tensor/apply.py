"""What every operation goes through: operands are made alike, then it is run and recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensor.backend import Backend
from tensor.convert import NUMBERS, to_array
from tensor.dtypes import FLOAT32, is_float, name_of
from tensor.graph import is_grad_enabled
from tensor.ops.function import Function, broadcast_shapes
from tensor.profiling import timed

if TYPE_CHECKING:
    from tensor.tensor import Tensor


class TensorLike:
    """The base of Tensor, by which this file, on which Tensor builds, knows one."""

    __slots__ = ()


def apply(function: type[Function], *inputs: Tensor, **options: Any) -> Any:
    """Run an operation forward on tensors and record it where a gradient may be wanted.

    Returns a Tensor, or a tuple of them where forward gives a tuple. ValueError if the inputs are
    on different devices.
    """
    backend = _common_backend(function, inputs)
    recording = is_grad_enabled()
    needs_grad = tuple([recording and t.requires_grad for t in inputs])
    node = function(backend, needs_grad)
    result = timed(function.__name__, node.forward, *[t.data for t in inputs], **options)
    arrays = result if isinstance(result, tuple) else (result,)
    outputs = tuple([inputs[0].wrap(array, backend) for array in arrays])
    if True in needs_grad:
        node.edges = tuple(
            ((t, 0) if t.creator is None else (t.creator, t.output)) if need else None
            for t, need in zip(inputs, needs_grad, strict=True)
        )
        node.input_shapes = tuple(t.data.shape for t in inputs)
        node.outputs = len(outputs)
        for i, t in enumerate(outputs):
            t.requires_grad, t.creator, t.output = True, node, i
    return outputs if isinstance(result, tuple) else outputs[0]


def _common_backend(function: type[Function], inputs: tuple[Tensor, ...]) -> Backend:
    """The backend that all inputs are on. TypeError for what is no Tensor, ValueError for two."""
    for t in inputs:
        if not isinstance(t, TensorLike):
            raise TypeError(f"{function.__name__}: a Tensor is needed, not {type(t).__name__}")
    backend = inputs[0].backend
    for t in inputs:
        if t.backend is not backend:
            names = ", ".join(t.device for t in inputs)
            raise ValueError(
                f"{function.__name__}: inputs on different devices ({names}); use .to(device)"
            )
    return backend


def floating(x: Tensor) -> Tensor:
    """The tensor if it is a float one, otherwise its values as float32."""
    return x if is_float(x.dtype) else x.astype(FLOAT32)


def as_tensor(x: Any, like: Tensor) -> Tensor:
    """An operand as a tensor on `like`'s device; numbers take its dtype if that can hold them."""
    if isinstance(x, TensorLike):
        return x  # type: ignore[return-value]
    if isinstance(x, NUMBERS):
        dtype = like.dtype
        if dtype.kind == "b" and not isinstance(x, (bool, np.bool_)):
            dtype = np.dtype("int64")
        if isinstance(x, (float, np.floating)) and not is_float(dtype):
            dtype = FLOAT32
        return like.wrap(like.backend.full((), x, dtype), like.backend)  # type: ignore[arg-type]
    return like.wrap(like.backend.from_numpy(to_array(x, device=like.device)), like.backend)


def operands(name: str, a: Tensor, other: Any, broadcast: bool = True) -> tuple[Tensor, Tensor]:
    """Two operands of one dtype, with shapes that broadcast.

    Integers and booleans meet floats as floats; floats of different precision meet in a TypeError,
    because a silent change of precision is nearly always a mistake.
    """
    b = as_tensor(other, a)
    if a.dtype != b.dtype:
        if is_float(a.dtype) and is_float(b.dtype):
            raise TypeError(
                f"{name}: {name_of(a.dtype)} and {name_of(b.dtype)} differ; convert one with "
                ".astype(…)"
            )
        common = a.dtype if is_float(a.dtype) else b.dtype
        if not is_float(common):
            common = np.result_type(a.dtype, b.dtype)
        a, b = a.astype(common), b.astype(common)
    if broadcast and a.data.shape != b.data.shape:
        broadcast_shapes(name, a.shape, b.shape)
    return a, b


def booleans(name: str, a: Tensor, *others: Any) -> tuple[Tensor, ...]:
    """Boolean operands with shapes that broadcast; TypeError for other dtypes."""
    tensors = (a, *(as_tensor(x, a) for x in others))
    for t in tensors:
        if t.dtype.kind != "b":
            raise TypeError(
                f"{name}: a boolean tensor is needed, not {name_of(t.dtype)}; compare first, as in "
                "x != 0"
            )
    broadcast_shapes(name, *(t.shape for t in tensors))
    return tensors
