"""Operations made of smaller ones, fused for speed, memory or exactness."""

from __future__ import annotations

from tensor.backend import Array, DropoutMask
from tensor.ops.function import Function


class Softmax(Function):
    """y = exp(x) / sum(exp(x)) over the last axis: dx = y * (dy - sum(dy * y))."""

    def forward(self, x: Array) -> Array:
        self.y = self.backend.softmax(x)
        return self.y

    def backward(self, dy: Array) -> Array:
        return self.backend.softmax_backward(dy, self.y)


class LogSoftmax(Function):
    """y = x - log(sum(exp(x))) over the last axis: dx = dy - exp(y) * sum(dy)."""

    def forward(self, x: Array) -> Array:
        self.y = self.backend.log_softmax(x)
        return self.y

    def backward(self, dy: Array) -> Array:
        return self.backend.log_softmax_backward(dy, self.y)


class LayerNorm(Function):
    """y = (x - mean) / sqrt(var + eps) * w + b over the last axis (Ba et al. 2016).

    With h = (x - mean) / sqrt(var + eps) and g = dy * w: dx = (g - mean(g) - h * mean(g * h)) /
    sqrt(var + eps), dw = sum over rows of dy * h, db = sum over rows of dy.
    """

    def forward(self, x: Array, w: Array, b: Array, eps: float) -> Array:
        self.x, self.w = x, w
        y, self.mean, self.rstd = self.backend.layer_norm(x, w, b, eps)
        return y

    def backward(self, dy: Array) -> tuple[Array, Array, Array]:
        return self.backend.layer_norm_backward(dy, self.x, self.w, self.mean, self.rstd, None)


def is_tanh(approximate: str) -> bool:
    """Is it GPT-2's form of GELU, and not the exact one? ValueError for another name."""
    if approximate not in ("none", "tanh"):
        raise ValueError(
            f"gelu: approximate={approximate!r}; choose 'none' (exact) or 'tanh' (GPT-2's)"
        )
    return approximate == "tanh"


class AddLayerNorm(Function):
    """s = x + r and y = the layer norm of s: dx = dr = ds + what LayerNorm has for its input."""

    def forward(self, x: Array, r: Array, w: Array, b: Array, eps: float) -> tuple[Array, Array]:
        self.w = w
        self.s, y, self.mean, self.rstd = self.backend.add_layer_norm(x, r, w, b, eps)
        return self.s, y

    def backward(self, ds: Array | None, dy: Array | None) -> tuple[Array | None, ...]:
        if dy is None:
            return ds, ds, None, None
        dx, dw, db = self.backend.layer_norm_backward(dy, self.s, self.w, self.mean, self.rstd, ds)
        return dx, dx, dw, db


class Gelu(Function):
    """y = GELU(x + b), x (..., C), b (C,): dx = dy * GELU'(x + b), db = sum of dx over rows. b may
    be left out.

    GELU(z) = z P(z), P the normal distribution's function; with `tanh` in the form of GPT-2,
    z (1 + tanh(c (z + 0.044715 z^3))) / 2, c = sqrt(2 / pi). Hendrycks and Gimpel 2016, section 2.
    """

    def forward(self, x: Array, b: Array | None = None, *, tanh: bool) -> Array:
        self.b, self.tanh = b, tanh
        y, self.kept = self.backend.gelu(x, b, tanh, keep=True in self.needs_grad)
        return y

    def backward(self, dy: Array) -> Array | tuple[Array, Array | None]:
        dx, db = self.backend.gelu_backward(dy, self.kept, self.b, self.tanh)
        return dx if self.b is None else (dx, db)


class CrossEntropy(Function):
    """Mean of -log softmax(logits)[target] over the targets that are not `ignore`, NaN without any.

    logits (N, V), targets (N,): dlogits = (softmax(logits) - one_hot(target)) * dy / count, 0 in
    ignored rows.
    """

    def forward(self, logits: Array, targets: Array, ignore: int) -> Array:
        self.logits, self.targets, self.ignore = logits, targets, ignore
        loss, self.lse, self.count = self.backend.cross_entropy(logits, targets, ignore)
        return loss

    def backward(self, dy: Array) -> tuple[Array, None]:
        dlogits = self.backend.cross_entropy_backward(
            dy, self.logits, self.targets, self.ignore, self.lse, self.count
        )
        return dlogits, None


class BinaryCrossEntropy(Function):
    """y = max(x, 0) - x * z + log(1 + exp(-|x|)), logits x, targets z: dx = dy * (sigmoid(x) - z).

    Not composed, because the kinks of max and |x| at 0 would give the wrong gradient there.
    """

    def forward(self, x: Array, z: Array) -> Array:
        be = self.backend
        self.x, self.z = x, z
        one = be.full((), 1, x.dtype)
        magnitude = be.maximum(x, be.neg(x))
        softplus = be.log(be.add(one, be.exp(be.neg(magnitude))))
        return be.add(be.sub(be.relu(x), be.mul(x, z)), softplus)

    def backward(self, dy: Array) -> tuple[Array, Array | None]:
        be = self.backend
        dx = be.mul(dy, be.sub(be.sigmoid(self.x), self.z))
        dz = be.neg(be.mul(dy, self.x)) if self.needs_grad[1] else None
        return dx, dz


class Dropout(Function):
    """y = x / (1 - p) where the mask keeps an element, 0 elsewhere: dx = dy treated the same way.

    The mask is not saved: it is a function of its seed and draw, made again (Srivastava et al. 2014
    for dropout).
    """

    def forward(self, x: Array, mask: DropoutMask) -> Array:
        self.mask = mask
        return self.backend.dropout(x, mask)

    def backward(self, dy: Array) -> Array:
        return self.backend.dropout(dy, self.mask)


class Attention(Function):
    """softmax(q k^T * scale + bias) v for each head (Vaswani et al. 2017, section 3.2).

    q (B, H, T, D), k and v (B, H, S, D); bias, a constant, broadcasts to (B, H, T, S). With
    `want_weights` the second output is the weights (B, H, T, S) after dropout. The derivative
    stands in `numpy_attention.py`.
    """

    def forward(
        self,
        q: Array,
        k: Array,
        v: Array,
        bias: Array | None,
        scale: float,
        causal: bool,
        dropout: DropoutMask | None,
        want_weights: bool,
    ) -> Array | tuple[Array, Array]:
        self.q, self.k, self.v = q, k, v
        self.options = (bias, scale, causal, dropout)
        self.out, weights, self.stats = self.backend.attention(q, k, v, *self.options, want_weights)
        return (self.out, weights) if want_weights else self.out

    def backward(
        self, dout: Array | None, dweights: Array | None = None
    ) -> tuple[Array, Array, Array]:
        if dout is None:
            dout = self.backend.full(self.out.shape, 0, self.out.dtype)
        return self.backend.attention_backward(
            dout, dweights, self.q, self.k, self.v, self.out, *self.options, self.stats
        )
