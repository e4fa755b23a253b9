"""Operations that move elements and compute nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensor.backend import Array, Shape
from tensor.ops.function import Function


class Reshape(Function):
    """The same elements in another shape: dx = dy in x's shape."""

    def forward(self, x: Array, shape: Shape) -> Array:
        self.shape = x.shape
        return self.backend.reshape(x, shape)

    def backward(self, dy: Array) -> Array:
        return self.backend.reshape(dy, self.shape)


class Permute(Function):
    """Axes in another order: dx = dy with the order undone."""

    def forward(self, x: Array, axes: tuple[int, ...]) -> Array:
        self.axes = axes
        return self.backend.permute(x, axes)

    def backward(self, dy: Array) -> Array:
        inverse = tuple(self.axes.index(i) for i in range(len(self.axes)))
        return self.backend.permute(dy, inverse)


class Expand(Function):
    """Size-1 axes repeated: dx = dy summed over them, which the walk does."""

    def forward(self, x: Array, shape: Shape) -> Array:
        return self.backend.expand(x, shape)

    def backward(self, dy: Array) -> Array:
        return dy


class Slice(Function):
    """y = x[index] for integers, slices, None and Ellipsis: dx = dy at those places, 0
    elsewhere.
    """

    def forward(self, x: Array, index: Any) -> Array:
        self.index, self.shape = index, x.shape
        return self.backend.slice(x, index)

    def backward(self, dy: Array) -> Array:
        return self.backend.slice_backward(dy, self.index, self.shape)


class Split(Function):
    """Parts of x along an axis, given their sizes: dx = the parts' gradients, joined."""

    def forward(self, x: Array, sizes: Sequence[int], axis: int) -> tuple[Array, ...]:
        self.axis, self.dtype = axis, x.dtype
        parts = []
        start = 0
        for size in sizes:
            index = (slice(None),) * axis + (slice(start, start + size),)
            parts.append(self.backend.slice(x, index))
            start += size
        self.shapes = [p.shape for p in parts]
        return tuple(parts)

    def backward(self, *grads: Array | None) -> Array:
        parts = [
            self.backend.full(shape, 0, self.dtype) if g is None else g
            for g, shape in zip(grads, self.shapes, strict=True)
        ]
        return self.backend.concatenate(parts, self.axis)


class Concatenate(Function):
    """Arrays joined along an axis: each gets its part of dy."""

    def forward(self, *xs: Array, axis: int) -> Array:
        self.axis, self.sizes = axis, [x.shape[axis] for x in xs]
        return self.backend.concatenate(xs, axis)

    def backward(self, dy: Array) -> tuple[Array, ...]:
        parts = []
        start = 0
        for size in self.sizes:
            index = (slice(None),) * self.axis + (slice(start, start + size),)
            parts.append(self.backend.slice(dy, index))
            start += size
        return tuple(parts)


class Pad(Function):
    """A constant border around x, (before, after) for each axis: dx = dy without the border."""

    def forward(self, x: Array, widths: Sequence[tuple[int, int]], value: float) -> Array:
        self.index = tuple(slice(a, a + n) for (a, _), n in zip(widths, x.shape, strict=True))
        return self.backend.pad(x, widths, value)

    def backward(self, dy: Array) -> Array:
        return self.backend.slice(dy, self.index)


class Gather(Function):
    """y = x[index] with integer or boolean arrays: dx = dy, added up where elements repeat."""

    def forward(self, x: Array, index: Any) -> Array:
        self.index, self.shape = index, x.shape
        return self.backend.gather(x, index)

    def backward(self, dy: Array) -> Array:
        return self.backend.gather_backward(dy, self.index, self.shape)


class Embedding(Function):
    """Row ids[i] of the weight (V, C) for each id: dw adds up the rows of dy that share an id."""

    def forward(self, weight: Array, ids: Array) -> Array:
        self.ids, self.rows = ids, weight.shape[0]
        return self.backend.embedding(weight, ids)

    def backward(self, dy: Array) -> tuple[Array, None]:
        return self.backend.embedding_backward(dy, self.ids, self.rows), None
