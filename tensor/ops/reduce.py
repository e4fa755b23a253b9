"""Reductions over axes. Mean, variance and log-sum-exp are compositions, on Tensor."""

from __future__ import annotations

from tensor.backend import Array, Axes, Backend, Shape
from tensor.ops.function import Function


def _repeat(backend: Backend, reduced: Array, shape: Shape, axes: Axes) -> Array:
    """A reduced array at the shape it was reduced from: a view."""
    kept = tuple(1 if i in axes else n for i, n in enumerate(shape))
    return backend.expand(backend.reshape(reduced, kept), shape)


class Sum(Function):
    """y = sum of x over axes: dx = dy at every element of its sum."""

    def forward(self, x: Array, axes: Axes, keepdims: bool) -> Array:
        self.shape, self.axes = x.shape, axes
        return self.backend.sum(x, axes, keepdims)

    def backward(self, dy: Array) -> Array:
        return _repeat(self.backend, dy, self.shape, self.axes)


class Max(Function):
    """y = largest x over axes: dx = dy for the largest, shared equally where several are."""

    def forward(self, x: Array, axes: Axes, keepdims: bool) -> Array:
        self.x, self.axes = x, axes
        self.y = self.backend.max(x, axes, keepdims)
        return self.y

    def backward(self, dy: Array) -> Array:
        be, shape, axes = self.backend, self.x.shape, self.axes
        largest = be.compare(self.x, _repeat(be, self.y, shape, axes), "==")
        share = be.cast(largest, dy.dtype)
        count = be.sum(share, axes, True)
        return be.mul(be.div(share, count), _repeat(be, dy, shape, axes))
