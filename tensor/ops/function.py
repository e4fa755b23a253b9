"""What all operations share."""

from __future__ import annotations

import operator
from typing import Any

from tensor.backend import Array, Axes, Backend, Shape


class Function:
    """One use of a differentiable operation: a node of the graph.

    A subclass defines `forward(*arrays, **options)`, which returns an array or a tuple of them, and
    `backward(*output_gradients)`, which returns a gradient for each input array, in forward's order
    (alone if there is one input). Both work on raw arrays of `self.backend` and never see a Tensor.
    What backward needs, forward saves as attributes; they are dropped as soon as backward has run.

    Contract of backward: a gradient may have the shape that broadcasting gave to an input (the walk
    sums it back); it may be None where `needs_grad` says that nobody wants it, or where it is zero;
    it may be the output's gradient itself or a view of it; it is never an array that forward saved,
    nor a view of the gradient of another input, because leaves keep what they get and add to it.
    The gradient of an output that took no part in the result is None; a Function with a single
    output never sees that.

    `edges` says where each input came from: (the Function that made it, which of its outputs), or
    (a leaf Tensor, 0), or None for an input that needs no gradient.
    """

    freed = False  # whether backward has run and dropped what was saved

    def __init__(self, backend: Backend, needs_grad: tuple[bool, ...]) -> None:
        self.backend = backend
        self.needs_grad = needs_grad
        self.edges: tuple[tuple[Any, int] | None, ...] = ()
        self.input_shapes: tuple[Shape, ...] = ()
        self.outputs = 1
        self.retained: list[tuple[int, Any]] = []  # (output, Tensor whose .grad is wanted)

    def forward(self, *arrays: Any, **options: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, *grads: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    def free(self) -> None:
        """Drop the saved arrays and the way to the inputs."""
        vars(self).clear()
        self.freed = True


def normalize_axes(name: str, axis: int | tuple[int, ...] | None, ndim: int) -> Axes:
    """Non-negative, sorted axes; None means all.

    IndexError for one out of range, ValueError for one given twice, TypeError for what is no int.
    """
    if axis is None:
        return tuple(range(ndim))
    given = axis if isinstance(axis, (tuple, list)) else (axis,)
    try:
        axes = tuple(operator.index(a) for a in given)
    except TypeError:
        raise TypeError(f"{name}: axis must be an int or a tuple of ints, not {axis!r}") from None
    for a in axes:
        if not -ndim <= a < ndim:
            raise IndexError(f"{name}: axis {a} is out of range for an array of {ndim} dimensions")
    result = tuple(sorted(a % ndim for a in axes))
    if len(set(result)) != len(result):
        raise ValueError(f"{name}: an axis appears twice in {axes}")
    return result


def normalize_axis(name: str, axis: Any, ndim: int) -> int:
    """One axis, non-negative. TypeError for several, IndexError for one out of range."""
    if axis is None or isinstance(axis, (tuple, list)):
        raise TypeError(f"{name}: one axis is needed, an int, not {axis!r}")
    return normalize_axes(name, axis, ndim)[0]


def broadcast_shapes(name: str, *shapes: Shape) -> Shape:
    """The common shape of several; ValueError with all of them where there is none."""
    ndim = max(len(s) for s in shapes)
    result = [1] * ndim
    for shape in shapes:
        for i, n in enumerate(shape, ndim - len(shape)):
            if result[i] == 1:
                result[i] = n
            elif n not in (1, result[i]):
                listed = " and ".join(str(s) for s in shapes)
                raise ValueError(
                    f"{name}: shapes {listed} do not broadcast: counted from the right, sizes must "
                    "be equal or 1"
                )
    return tuple(result)


def sum_to_shape(backend: Backend, grad: Array, shape: Shape) -> Array:
    """Undo broadcasting: add up over the axes that were repeated to reach grad.shape."""
    if grad.shape == shape:
        return grad
    extra = grad.ndim - len(shape)
    axes = tuple(
        i for i in range(grad.ndim) if i < extra or (shape[i - extra] == 1 and grad.shape[i] != 1)
    )
    return backend.reshape(backend.sum(grad, axes, False), shape)
