"""AdamW whose moments are divided among the ranks: ZeRO's first stage.

Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
section 5.1. AdamW keeps two numbers a parameter. Here each rank keeps them for 1 / size of the
parameters only, updates those, and then all exchange what they have updated. AdamW works element by
element, so the weights are, bit for bit, those of every rank doing everything.

The mean of the gradients is still taken in whole on every rank (the paper adds them up only where
they are needed): the norm that clips them comes out the same to the last bit that way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigpt.distributed import Group
from tensor import Tensor, optim
from tensor.dtypes import HALVES


@dataclass(frozen=True)
class _Piece:
    """Rows of a parameter, counted through all of the optimizer's, and who updates them."""

    parameter: int
    start: int
    stop: int
    owner: int

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)


class ShardedAdamW:
    """AdamW, with the arguments of `tensor.optim.AdamW` and the ranks that share the work.

    Every rank makes the same calls: `step` and `state_dict` exchange arrays.
    """

    def __init__(
        self,
        params: Iterable[Any],
        group: Group,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        self.ranks = group
        self.groups = optim.read_groups(params, {"lr": lr, "weight_decay": weight_decay})
        self.params: list[Tensor] = [p for g in self.groups for p in g["params"]]
        if any(p.dtype in HALVES for p in self.params):
            raise ValueError("ShardedAdamW has no float32 masters of weights in half precision")
        self.data = [p.data for p in self.params]
        self.pieces = _divide([p.shape for p in self.params], group.size)
        self.views = {p: self._view(self.params[p.parameter], p.rows) for p in self.pieces}
        self.mine = [piece for piece in self.pieces if piece.owner == group.rank]
        own_groups, number = [], 0
        for g in self.groups:
            numbers = range(number, number + len(g["params"]))
            number = numbers.stop
            own = [self.views[piece] for piece in self.mine if piece.parameter in numbers]
            own_groups.append({**g, "params": own})
        self.inner = optim.AdamW(own_groups, lr, betas, eps, weight_decay)

    @staticmethod
    def _view(tensor: Tensor, rows: slice) -> Tensor:
        view = Tensor.wrap(tensor.backend.slice(tensor.data, (rows,)), tensor.backend)
        view.requires_grad = True
        return view

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for p in self.params:
            p.grad = None

    def set_lr(self, lr: float) -> None:
        """Use one learning rate in all groups from now on."""
        self.inner.set_lr(lr)

    def step(self) -> None:
        """Update this rank's pieces, then take over the others'.

        ValueError, and no change, if the model was resized, pruned or moved since.
        """
        if any(p.data is not data for p, data in zip(self.params, self.data)):
            raise ValueError(
                "ShardedAdamW: the model was resized, pruned or moved since; make a new optimizer"
            )
        for piece in self.mine:
            grad = self.params[piece.parameter].grad
            self.views[piece].grad = None if grad is None else self._view(grad, piece.rows)
        self.inner.step()
        self.inner.zero_grad()
        for owner in range(self.ranks.size):
            theirs = [self.views[piece] for piece in self.pieces if piece.owner == owner]
            self.ranks.broadcast(theirs, owner)

    def state_bytes(self) -> int:
        """How much memory this rank's moments take."""
        return sum(t.data.nbytes for buffer in self.inner.buffers().values() for t in buffer)

    def state_dict(self) -> dict[str, np.ndarray]:
        """On rank 0 the whole state, as `tensor.optim.AdamW` has it, so that a run can go on with
        another number of ranks, or without dividing. On the others nothing.
        """
        state = {"step": np.asarray(self.inner.steps, np.int64)}
        for name, tensors in self.inner.buffers().items():
            own = dict(zip(self.mine, tensors))
            for number, p in enumerate(self.params):
                parts = [
                    self.ranks.fetch(piece.owner, self.views[piece].shape, p.dtype, own.get(piece))
                    for piece in self.pieces
                    if piece.parameter == number
                ]
                if self.ranks.rank == 0:
                    state[f"{name}.{number}"] = np.concatenate(parts)
        return state if self.ranks.rank == 0 else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a whole state; each rank takes its part. ValueError if it doesn't fit."""
        names = ["step", *(f"{b}.{i}" for b in self.inner.buffers() for i in range(len(self.data)))]
        shapes = [(), *[p.shape for p in self.params] * len(self.inner.buffers())]
        if {n: np.shape(v) for n, v in state.items()} != dict(zip(names, shapes)):
            raise ValueError("the optimizer's state does not fit its parameters")
        parts = {"step": state["step"]}
        for name in self.inner.buffers():
            for i, piece in enumerate(self.mine):
                parts[f"{name}.{i}"] = state[f"{name}.{piece.parameter}"][piece.rows]
        self.inner.load_state_dict(parts)


def _divide(shapes: list[tuple[int, ...]], ranks: int) -> list[_Piece]:
    """Every row of every array, in order, to ranks of about the same number of elements."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    total, before = sum(sizes), 0
    pieces = []
    for number, (shape, size) in enumerate(zip(shapes, sizes)):
        row = size // shape[0]
        # Rank r takes the elements r total / ranks to (r + 1) total / ranks, rounded to rows.
        ends = [min(max(round((total * r / ranks - before) / row), 0), shape[0])
                for r in range(ranks + 1)]  # fmt: skip
        ends[0], ends[-1] = 0, shape[0]
        pieces += [
            _Piece(number, start, stop, owner)
            for owner, (start, stop) in enumerate(zip(ends, ends[1:]))
            if start < stop
        ]
        before += size
    return pieces
