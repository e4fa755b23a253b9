"""What a row of the table of operations is, and how its inputs are drawn."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Shapes = tuple[tuple[int, ...], ...]  # of the inputs of one call


@dataclass(frozen=True)
class Op:
    """A row. `ours` gets a Tensor for each shape and returns one, or a tuple of them."""

    name: str
    ours: Callable[..., Any]
    calls: Sequence[Shapes]  # one entry for each call to try
    twin: Callable[..., Any] | None = None  # twin(torch, *xs); None: `ours` works on torch's, too
    plain: Callable[..., Any] | None = None  # on NumPy's arrays, where there is an easy form
    domain: str | tuple[str, ...] = "any"  # of the values drawn, for all inputs or for each
    gradient: bool = True


@dataclass(frozen=True)
class Case:
    """One call of one row."""

    op: Op
    shapes: Shapes

    def __str__(self) -> str:
        return "-".join([self.op.name, *("x".join(map(str, s)) or "scalar" for s in self.shapes)])

    def draw(self, dtype: Any = np.float64) -> list[np.ndarray]:
        """Inputs, the same ones each time: the case's name is the seed."""
        rng = np.random.default_rng(zlib.crc32(str(self).encode()))
        domains = self.op.domain
        if isinstance(domains, str):
            domains = (domains,) * len(self.shapes)
        return [DOMAINS[d](rng, s).astype(dtype) for d, s in zip(domains, self.shapes, strict=True)]

    def torch(self, torch: Any, xs: Sequence[Any]) -> tuple[Any, ...]:
        """What torch gives on its tensors xs, always as a tuple."""
        twin = self.op.twin
        return as_tuple(self.op.ours(*xs) if twin is None else twin(torch, *xs))


def as_tuple(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


DOMAINS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "any": lambda rng, shape: np.asarray(rng.standard_normal(shape)),
    "positive": lambda rng, shape: np.asarray(rng.uniform(0.2, 3.0, shape)),
    "nonzero": lambda rng, shape: np.asarray(
        rng.uniform(0.3, 3.0, shape) * rng.choice([-1.0, 1.0], shape)
    ),
    "unit": lambda rng, shape: np.asarray(rng.uniform(0.05, 0.95, shape)),
    "wide": lambda rng, shape: np.asarray(rng.uniform(-6.0, 6.0, shape)),
    "extreme": lambda rng, shape: (
        np.asarray(rng.choice([-3e3, 0.0, 3e3], shape)) + rng.standard_normal(shape)
    ),
}
