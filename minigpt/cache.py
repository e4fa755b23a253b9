"""The KV cache: keys and values of the tokens a model has already seen."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

from tensor import Tensor, cat, is_grad_enabled
from tensor.dtypes import name_of

SPARE = 8  # positions of room that selected rows get


class _Layer:
    """One layer's keys and values: `length` positions are valid of what the arrays have room
    for.
    """

    def __init__(self, k: Tensor, v: Tensor) -> None:
        self.k, self.v = k, v  # (B, H, room, D)
        self.length = k.shape[2]

    def valid(self) -> tuple[Tensor, Tensor]:
        """The valid part, (B, H, length, D) each: views."""
        rows = (slice(None), slice(None), slice(0, self.length))
        return (
            Tensor.wrap(self.k.backend.slice(self.k.data, rows), self.k.backend),
            Tensor.wrap(self.v.backend.slice(self.v.data, rows), self.v.backend),
        )

    def append(self, k: Tensor, v: Tensor) -> None:
        """Write after the valid part; without room for it, move to arrays twice as long first."""
        length = self.length + k.shape[2]
        if length > self.k.shape[2]:
            self.reserve(max(2 * self.length, length))
        k.backend.cache_append(self.k.data, self.v.data, k.data, v.data, self.length)
        self.length = length

    def reserve(self, room: int) -> None:
        """Move to arrays with room for so many positions, unless there is enough."""
        if self.k.shape[2] < room:
            self.k, self.v = self._grown(self.k, room), self._grown(self.v, room)

    def select(self, rows: list[int]) -> None:
        """Batch rows by their indices, in new arrays: who holds the old ones keeps what they saw.

        With a little room, so that the next append copies nothing; beams are selected after each
        token, so that more would be made for nothing.
        """
        if rows == list(range(self.k.shape[0])):
            return
        room = self.length + SPARE
        self.k, self.v = (self._selected(old, rows, room) for old in (self.k, self.v))

    def _grown(self, old: Tensor, room: int) -> Tensor:
        new = self._empty(old, old.shape[0], room)
        self._copy(old, slice(None), new, slice(None))
        return new

    def _selected(self, old: Tensor, rows: list[int], room: int) -> Tensor:
        new = self._empty(old, len(rows), room)
        for to, row in enumerate(rows):  # one by one: an array of indices would copy twice
            self._copy(old, row, new, to)
        return new

    def _empty(self, like: Tensor, b: int, room: int) -> Tensor:
        _, h, _, d = like.shape
        return Tensor.wrap(like.backend.full((b, h, room, d), 0, like.dtype), like.backend)

    def _copy(self, old: Tensor, rows: int | slice, new: Tensor, to: int | slice) -> None:
        """The valid part of some rows."""
        backend, valid = new.backend, (slice(None), slice(0, self.length))
        place = backend.slice(new.data, (to, *valid))
        backend.assign(place, backend.slice(old.data, (rows, *valid)))


class KVCache:
    """Keys and values by layer, (B, H, S, D) each, appended to by every forward call.

    The model makes one when `use_cache` is on and none is given. The first call only refers to its
    keys and values, so that a training step, which never makes a second call, pays nothing; the
    first append makes room, and more than is needed, so that n appends copy O(n) and not O(n^2).

    Cached keys and values are constants: no gradient flows into earlier calls.

    Iterating gives (k, v) a layer, cut to the valid length; with cross-attention (k, v, cross_k,
    cross_v), where the latter are those of the encoder's positions, computed once.
    """

    def __init__(
        self, layers: Sequence[Sequence[Any]] = (), device: str = "cpu", dtype: Any = None
    ) -> None:
        """device, dtype: of arrays that are no tensors yet."""
        tensors = [
            [x if isinstance(x, Tensor) else Tensor(x, dtype, device=device) for x in layer]
            for layer in layers
        ]
        self._layers = [_Layer(k, v) for k, v, *_ in tensors]
        self._cross = {i: (x[2], x[3]) for i, x in enumerate(tensors) if len(x) == 4}

    def get_seq_length(self) -> int:
        """How many positions the cache holds."""
        return self._layers[0].length if self._layers else 0

    def lengths(self) -> set[int]:
        """How many positions the layers hold: one number, unless a call was interrupted."""
        return {layer.length for layer in self._layers}

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append a layer's new keys and values (B, H, T, D); return all of them, (B, H, S, D).

        ValueError if the new ones don't fit the cached ones' shape.
        """
        if layer == len(self._layers):
            self._layers.append(_Layer(k.detach(), v.detach()))
            return k, v
        cached = self._layers[layer]
        b, h, _, d = cached.k.shape
        if k.dtype != cached.k.dtype:
            raise TypeError(
                f"past_key_values holds {name_of(cached.k.dtype)}, the new keys are "
                f"{name_of(k.dtype)}"
            )
        if (b, h, d) != (k.shape[0], k.shape[1], k.shape[3]):
            raise ValueError(
                f"past_key_values: layer {layer} holds {(b, h, cached.length, d)}, the new keys "
                f"are {k.shape}: batch, heads and head size must agree (B, H, S, D)"
            )
        if is_grad_enabled() and k.requires_grad:
            past_k, past_v = cached.valid()
            cached.append(k, v)
            return cat([past_k, k], axis=2), cat([past_v, v], axis=2)  # (B, H, S, D)
        cached.append(k, v)
        return cached.valid()

    def reserve(self, room: int) -> None:
        """Make room for so many positions now, so that no append up to there moves the cache."""
        for layer in self._layers:
            layer.reserve(room)

    def set_length(self, length: int) -> None:
        """So many positions are valid: a replayed step has written them."""
        for layer in self._layers:
            layer.length = length

    def get_cross(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """A layer's cross-attention keys and values, (B, H, S, D) each, or None before the first
        call.
        """
        return self._cross.get(layer)

    def set_cross(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keep a layer's cross-attention keys and values for the calls to come."""
        self._cross[layer] = k.detach(), v.detach()

    def select(self, rows: Any) -> None:
        """Keep, repeat or reorder batch rows, by their indices (one dimension)."""
        index = [operator.index(row) for row in rows]
        for layer in self._layers:
            layer.select(index)
        self._cross = {i: (k[index], v[index]) for i, (k, v) in self._cross.items()}

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return (self[i] for i in range(len(self)))

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, layer: int) -> tuple[Tensor, ...]:
        i = range(len(self))[layer]  # negative ones, too
        return *self._layers[i].valid(), *self._cross.get(i, ())

    def __repr__(self) -> str:
        return f"KVCache({len(self)} layers, {self.get_seq_length()} positions)"
