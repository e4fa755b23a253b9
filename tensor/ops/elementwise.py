"""Elementwise operations; y is the result, dy its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensor.backend import Array
from tensor.ops.function import Function


class Add(Function):
    """y = a + b: da = dy, db = dy."""

    def forward(self, a: Array, b: Array) -> Array:
        return self.backend.add(a, b)

    def backward(self, dy: Array) -> tuple[Array, Array]:
        return dy, dy


class Sub(Function):
    """y = a - b: da = dy, db = -dy."""

    def forward(self, a: Array, b: Array) -> Array:
        return self.backend.sub(a, b)

    def backward(self, dy: Array) -> tuple[Array, Array | None]:
        return dy, self.backend.neg(dy) if self.needs_grad[1] else None


class Mul(Function):
    """y = a * b: da = dy * b, db = dy * a."""

    def forward(self, a: Array, b: Array) -> Array:
        self.a, self.b = a, b
        return self.backend.mul(a, b)

    def backward(self, dy: Array) -> tuple[Array | None, Array | None]:
        da = self.backend.mul(dy, self.b) if self.needs_grad[0] else None
        db = self.backend.mul(dy, self.a) if self.needs_grad[1] else None
        return da, db


class Div(Function):
    """y = a / b: da = dy / b, db = -dy * y / b."""

    def forward(self, a: Array, b: Array) -> Array:
        self.b = b
        self.y = self.backend.div(a, b)
        return self.y

    def backward(self, dy: Array) -> tuple[Array, Array | None]:
        da = self.backend.div(dy, self.b)
        db = self.backend.neg(self.backend.mul(da, self.y)) if self.needs_grad[1] else None
        return da, db


class Pow(Function):
    """y = a ** b: da = dy * b * a ** (b - 1), db = dy * y * log(a), or 0 where a = 0 <= b."""

    def forward(self, a: Array, b: Array) -> Array:
        self.a, self.b = a, b
        self.y = self.backend.pow(a, b)
        return self.y

    def backward(self, dy: Array) -> tuple[Array | None, Array | None]:
        be = self.backend
        da = db = None
        zero = be.full((), 0, dy.dtype)
        if self.needs_grad[0]:
            slope = be.mul(self.b, be.pow(self.a, be.sub(self.b, be.full((), 1, dy.dtype))))
            slope = be.where(
                be.compare(self.b, zero, "=="), zero, slope
            )  # 0 * 0 ** -1 would be NaN
            da = be.mul(dy, slope)
        if self.needs_grad[1]:
            flat = be.logical_and(be.compare(self.a, zero, "=="), be.compare(self.b, zero, ">="))
            db = be.mul(dy, be.where(flat, zero, be.mul(self.y, be.log(self.a))))
        return da, db


class PowScalar(Function):
    """y = x ** n for a number n: dx = dy * n * x ** (n - 1)."""

    def forward(self, x: Array, exponent: float) -> Array:
        self.x, self.exponent = x, exponent
        return self.backend.pow_scalar(x, exponent)

    def backward(self, dy: Array) -> Array | None:
        n, be = self.exponent, self.backend
        if n == 0:
            return None
        slope = self.x if n == 2 else be.pow_scalar(self.x, n - 1)
        return be.mul(be.mul(dy, slope), be.full((), n, dy.dtype))


class Neg(Function):
    """y = -x: dx = -dy."""

    def forward(self, x: Array) -> Array:
        return self.backend.neg(x)

    def backward(self, dy: Array) -> Array:
        return self.backend.neg(dy)


class Exp(Function):
    """y = exp(x): dx = dy * y."""

    def forward(self, x: Array) -> Array:
        self.y = self.backend.exp(x)
        return self.y

    def backward(self, dy: Array) -> Array:
        return self.backend.mul(dy, self.y)


class Log(Function):
    """y = log(x): dx = dy / x."""

    def forward(self, x: Array) -> Array:
        self.x = x
        return self.backend.log(x)

    def backward(self, dy: Array) -> Array:
        return self.backend.div(dy, self.x)


class Sqrt(Function):
    """y = sqrt(x): dx = dy / (2 y)."""

    def forward(self, x: Array) -> Array:
        self.y = self.backend.sqrt(x)
        return self.y

    def backward(self, dy: Array) -> Array:
        return self.backend.div(dy, self.backend.add(self.y, self.y))


class Tanh(Function):
    """y = tanh(x): dx = dy * (1 - y^2)."""

    def forward(self, x: Array) -> Array:
        self.y = self.backend.tanh(x)
        return self.y

    def backward(self, dy: Array) -> Array:
        be = self.backend
        return be.mul(dy, be.sub(be.full((), 1, dy.dtype), be.mul(self.y, self.y)))


class Erf(Function):
    """y = erf(x): dx = dy * 2 / sqrt(pi) * exp(-x^2)."""

    def forward(self, x: Array) -> Array:
        self.x = x
        return self.backend.erf(x)

    def backward(self, dy: Array) -> Array:
        be = self.backend
        slope = be.exp(be.neg(be.mul(self.x, self.x)))
        return be.mul(be.mul(dy, slope), be.full((), 2 / np.sqrt(np.pi), dy.dtype))


class Relu(Function):
    """y = max(x, 0): dx = dy where x > 0, else 0."""

    def forward(self, x: Array) -> Array:
        self.y = self.backend.relu(x)
        return self.y

    def backward(self, dy: Array) -> Array:
        be = self.backend
        zero = be.full((), 0, dy.dtype)
        return be.where(be.compare(self.y, zero, ">"), dy, zero)


class Sigmoid(Function):
    """y = 1 / (1 + exp(-x)): dx = dy * y * (1 - y)."""

    def forward(self, x: Array) -> Array:
        self.y = self.backend.sigmoid(x)
        return self.y

    def backward(self, dy: Array) -> Array:
        be = self.backend
        return be.mul(dy, be.mul(self.y, be.sub(be.full((), 1, dy.dtype), self.y)))


class Silu(Function):
    """y = x * s with s = sigmoid(x): dx = dy * (s + y * (1 - s)). Elfwing et al. 2017."""

    def forward(self, x: Array) -> Array:
        self.s = self.backend.sigmoid(x)
        self.y = self.backend.mul(x, self.s)
        return self.y

    def backward(self, dy: Array) -> Array:
        be = self.backend
        rest = be.mul(self.y, be.sub(be.full((), 1, dy.dtype), self.s))
        return be.mul(dy, be.add(self.s, rest))


class Maximum(Function):
    """y = max(a, b): the larger one gets dy; where both are equal, each gets half."""

    def forward(self, a: Array, b: Array) -> Array:
        self.a, self.b = a, b
        return self.backend.maximum(a, b)

    def backward(self, dy: Array) -> tuple[Array, Array]:
        be = self.backend
        zero = be.full((), 0, dy.dtype)
        half = be.mul(dy, be.full((), 0.5, dy.dtype))
        tied = be.where(be.compare(self.a, self.b, "=="), half, zero)
        da = be.where(be.compare(self.a, self.b, ">"), dy, tied)
        db = be.where(be.compare(self.b, self.a, ">"), dy, tied)
        return da, db


class Clip(Function):
    """y = min(max(x, low), high): dx = dy where low <= x <= high, else 0."""

    def forward(self, x: Array, low: float | None, high: float | None) -> Array:
        self.x, self.low, self.high = x, low, high
        return self.backend.clip(x, low, high)

    def backward(self, dy: Array) -> Array:
        be = self.backend
        zero = be.full((), 0, dy.dtype)
        if self.low is not None:
            inside = be.compare(self.x, be.full((), self.low, self.x.dtype), ">=")
            dy = be.where(inside, dy, zero)
        if self.high is not None:
            inside = be.compare(self.x, be.full((), self.high, self.x.dtype), "<=")
            dy = be.where(inside, dy, zero)
        return dy


class Where(Function):
    """y = a where the condition holds, else b: each gets dy at its places, 0 elsewhere."""

    def forward(self, condition: Array, a: Array, b: Array) -> Array:
        self.condition = condition
        return self.backend.where(condition, a, b)

    def backward(self, dy: Array) -> tuple[None, Array | None, Array | None]:
        zero = self.backend.full((), 0, dy.dtype)
        da = self.backend.where(self.condition, dy, zero) if self.needs_grad[1] else None
        db = self.backend.where(self.condition, zero, dy) if self.needs_grad[2] else None
        return None, da, db


class Cast(Function):
    """y = x in another dtype: dx = dy in x's dtype."""

    def forward(self, x: Array, dtype: Any) -> Array:
        self.dtype = x.dtype
        return self.backend.cast(x, dtype)

    def backward(self, dy: Array) -> Array:
        return self.backend.cast(dy, self.dtype)
