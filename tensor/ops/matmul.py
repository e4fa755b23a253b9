"""Matrix products."""

from __future__ import annotations

from tensor.backend import Array
from tensor.ops.function import Function


class MatMul(Function):
    """y = a b over the last two axes, the leading ones broadcast: da = dy b^T, db = a^T dy."""

    def forward(self, a: Array, b: Array) -> Array:
        self.a, self.b = a, b
        return self.backend.matmul(a, b, False, False)

    def backward(self, dy: Array) -> tuple[Array | None, Array | None]:
        be = self.backend
        da = be.matmul(dy, self.b, False, True) if self.needs_grad[0] else None
        if not self.needs_grad[1]:
            return da, None
        if (
            self.b.ndim == 2 and self.a.ndim > 2
        ):  # b was shared: one product over all rows, no sum afterwards
            return da, be.linear_backward_weight(self.a, dy)
        return da, be.matmul(self.a, dy, True, False)


class LinearGelu(Function):
    """y = GELU(x w + b) in GPT-2's form, where nothing is recorded: no backward."""

    def forward(self, x: Array, w: Array, b: Array) -> Array:
        return self.backend.linear_gelu(x, w, b)


class Linear(Function):
    """y = x w + b, x (..., K), w (K, N), b (N,): dx = dy w^T, dw = x^T dy, db = sum of rows of dy.

    With `transpose`, w is (N, K) and y = x w^T + b: dx = dy w, dw = dy^T x. b may be left out.
    """

    def forward(self, x: Array, w: Array, b: Array | None = None, *, transpose: bool) -> Array:
        self.x, self.w, self.transpose = x, w, transpose
        return self.backend.linear(x, w, b, transpose)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        be = self.backend
        dx = be.linear(dy, self.w, None, not self.transpose) if self.needs_grad[0] else None
        dw = None
        if self.needs_grad[1]:
            pair = (dy, self.x) if self.transpose else (self.x, dy)
            dw = be.linear_backward_weight(*pair)
        return (dx, dw, dy)[: len(self.needs_grad)]  # the walk sums dy over the rows for b
