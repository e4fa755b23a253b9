"""Attention on NumPy arrays, tile by tile, forward and backward.

The (T, S) matrix of scores is never held whole: a tile is some rows of queries with the keys that
they may see, in as many heads as fit the cache. Tiles leave out the keys that lie after their last
query, which is nearly half of the work of causal attention. The backward pass computes each tile's
probabilities again from the row's maximum and sum, the idea of FlashAttention (Dao et al. 2022), so
memory grows with T and not with T * S.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tensor.backend import DropoutMask
from tensor.random import keep_mask

TILE_BYTES = 1 << 19  # of one tile's scores: half of a usual second-level cache
# Queries in a tile: few enough to skip most of the future, enough for an efficient product. A short
# sequence is cut in two: T = 64 in tiles of 32 takes 0.91 of the time of one tile (Zen 5).
QUERY_ROWS = 128
FEWEST_ROWS = 32


class Tile(NamedTuple):
    """Batch rows, heads and queries of a tile, and how many keys these may see."""

    batch: slice
    heads: slice
    queries: slice
    keys: int

    def part(self, x: np.ndarray) -> np.ndarray:
        """This tile's rows of x (B, H, T, …)."""
        return x[self.batch, self.heads, self.queries]

    def keyed(self, x: np.ndarray) -> np.ndarray:
        """The keys' or values' rows that this tile sees, of x (B, H, S, D)."""
        return x[self.batch, self.heads, : self.keys]


def _tile_rows(t: int) -> int:
    """How many queries of a sequence of t are in a tile."""
    return min(t, QUERY_ROWS, max(FEWEST_ROWS, (t + 1) // 2))


def _tiles(shape: tuple[int, int, int], size: int, itemsize: int, causal: bool) -> Iterator[Tile]:
    """All tiles; those of the last queries, which see every key, come first."""
    b, h, t = shape
    if b * h * t == 0:
        return
    rows = _tile_rows(t)
    matrices = max(1, TILE_BYTES // max(1, rows * size * itemsize))  # (rows, S) matrices in a tile
    heads = min(h, matrices)
    batch = max(1, matrices // h) if heads == h else 1
    for b0 in range(0, b, batch):
        for h0 in range(0, h, heads):
            for stop in range(t, 0, -rows):
                start = max(0, stop - rows)
                keys = size - t + stop if causal else size
                yield Tile(slice(b0, b0 + batch), slice(h0, h0 + heads), slice(start, stop), keys)


def _bias_part(bias: np.ndarray, tile: Tile) -> np.ndarray:
    """The tile's part of a bias whose axes may have size 1."""
    own = (tile.batch, tile.heads, tile.queries, slice(0, tile.keys))
    return bias[tuple(s if n > 1 else slice(None) for s, n in zip(own, bias.shape, strict=True))]


def _future(rows: int, causal: bool, dtype: np.dtype) -> np.ndarray | None:
    """What is added to the scores of the last `rows` keys of a tile: -inf where a key lies after
    its query. The mask counts from the lower right corner: the last query sees the last key.
    """
    if not causal or rows == 1:
        return None
    return np.triu(np.full((rows, rows), -np.inf, dtype), 1)


def _scores(
    scaled_q: np.ndarray,
    k: np.ndarray,
    bias: np.ndarray | None,
    future: np.ndarray | None,
    tile: Tile,
) -> np.ndarray:
    """scaled_q k^T + bias of a tile (b, h, rows, keys), -inf in the future."""
    s = np.matmul(scaled_q, tile.keyed(k).swapaxes(-1, -2))
    if bias is not None:
        s += _bias_part(bias, tile)
    if future is not None:
        rows, keys = s.shape[-2:]
        s[..., keys - rows :] += future[:rows, :rows]
    return s


def _kept(
    mask: DropoutMask, tile: Tile, shape: tuple[int, int, int, int], dtype: np.dtype
) -> np.ndarray:
    """A tile's dropout factors, 0 or 1 / (1 - p), cut from the mask over the whole (B, H, T, S)."""
    b, h, t, s = shape
    factors = np.empty(
        (*(len(range(*x.indices(n))) for x, n in zip(tile[:3], shape, strict=False)), tile.keys),
        dtype,
    )
    rows = factors.shape[2]
    for i in range(factors.shape[0]):
        for j in range(factors.shape[1]):
            first_row = ((tile.batch.start + i) * h + tile.heads.start + j) * t + tile.queries.start
            factors[i, j] = keep_mask(mask, first_row * s, rows * s).reshape(rows, s)[
                :, : tile.keys
            ]
    factors *= dtype.type(1 / (1 - mask.p))
    return factors


def _empty_heads(b: int, h: int, t: int, d: int, dtype: np.dtype) -> np.ndarray:
    """(B, H, T, D) that lies in memory as (B, T, H, D): merging the heads copies nothing."""
    return np.empty((b, t, h, d), dtype).transpose(0, 2, 1, 3)


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    bias: np.ndarray | None,
    scale: float,
    causal: bool,
    dropout: DropoutMask | None,
    want_weights: bool,
) -> tuple[np.ndarray, np.ndarray | None, Any]:
    """softmax(q k^T * scale + bias) v. Returns the output, the weights after dropout where wanted,
    and the statistics that the backward pass needs: each row's maximum and 1 / sum, (B, H, T, 1)
    each.

    q is scaled instead of the scores, and the output by 1 / sum instead of the weights: passes over
    D columns in place of S. With the same in the backward pass both take 0.87 to 0.93 of the time.
    """
    b, h, t, d = q.shape
    size = k.shape[2]
    out = _empty_heads(b, h, t, d, q.dtype)
    top = np.empty((b, h, t, 1), q.dtype)
    inverse = np.empty((b, h, t, 1), q.dtype)
    weights = np.zeros((b, h, t, size), q.dtype) if want_weights else None
    future = _future(_tile_rows(t), causal, q.dtype)
    with np.errstate(all="ignore"):
        for tile in _tiles((b, h, t), size, q.itemsize, causal):
            p = _scores(tile.part(q) * q.dtype.type(scale), k, bias, future, tile)
            np.max(p, axis=-1, keepdims=True, out=tile.part(top))
            p -= tile.part(top)
            np.exp(p, out=p)
            np.reciprocal(p.sum(axis=-1, keepdims=True), out=tile.part(inverse))
            if dropout is not None:
                p *= _kept(dropout, tile, (b, h, t, size), p.dtype)
            out_part = tile.part(out)
            np.matmul(p, tile.keyed(v), out=out_part)
            out_part *= tile.part(inverse)
            if weights is not None:
                np.multiply(p, tile.part(inverse), out=tile.part(weights)[..., : tile.keys])
    return out, weights, (top, inverse)


def attention_backward(
    dout: np.ndarray,
    dweights: np.ndarray | None,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    out: np.ndarray,
    bias: np.ndarray | None,
    scale: float,
    causal: bool,
    dropout: DropoutMask | None,
    stats: Any,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """With p the softmax, m the dropout's factors and a = p * m the weights:

    dv = a^T dout,  da = dout v^T (+ dweights),  ds = p * (m * da - r) with r = sum over keys of a *
    da, dq = scale * ds k,  dk = ds^T (scale * q).  Without dweights r = sum over D of dout * out,
    which is cheaper.

    p is e * inverse, e being what exp gives. Each product above takes one p for each row, so e is
    used in its place and dout, dweights and r are multiplied by inverse beforehand.
    """
    b, h, t, d = q.shape
    size = k.shape[2]
    factor = q.dtype.type(scale)
    top, inverse = stats
    future = _future(_tile_rows(t), causal, q.dtype)
    dq = _empty_heads(b, h, t, d, q.dtype)
    dk = _empty_heads(b, h, size, d, q.dtype)
    dv = _empty_heads(b, h, size, d, q.dtype)
    if t == 0:  # no tile will assign them
        dk[...] = dv[...] = 0
    with np.errstate(all="ignore"):
        r = np.einsum("bhtd,bhtd->bht", dout, out)[..., None]
        for tile in _tiles((b, h, t), size, q.itemsize, causal):
            scaled_q = tile.part(q) * factor
            e = _scores(scaled_q, k, bias, future, tile)
            e -= tile.part(top)
            np.exp(e, out=e)
            dout_part = tile.part(dout) * tile.part(inverse)
            row_sum = tile.part(r) * tile.part(inverse)
            ds = np.matmul(dout_part, tile.keyed(v).swapaxes(-1, -2))
            if dweights is not None:
                extra = tile.part(dweights)[..., : tile.keys] * tile.part(inverse)
                ds += extra
            a = e
            if dropout is not None:
                m = _kept(dropout, tile, (b, h, t, size), e.dtype)
                a = e * m
                ds *= m
            if dweights is not None:
                row_sum += (a * extra).sum(axis=-1, keepdims=True) * tile.part(inverse)
            first = tile.queries.stop == t
            _add_product(a.swapaxes(-1, -2), dout_part, tile.keyed(dv), first)
            ds -= row_sum
            ds *= e
            np.matmul(ds, tile.keyed(k), out=tile.part(dq))
            _add_product(ds.swapaxes(-1, -2), scaled_q, tile.keyed(dk), first)
        dq *= factor
    return dq, dk, dv


def _add_product(a: np.ndarray, b: np.ndarray, into: np.ndarray, first: bool) -> None:
    """into = a @ b for the first tile of a sequence, into += a @ b for the others."""
    if first:
        np.matmul(a, b, out=into)
    else:
        into += np.matmul(a, b)
