"""Where the time goes: `with tensor.profile() as p: …` and then `print(p)`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class Row:
    """What one operation cost, all of its calls together."""

    calls: int = 0
    seconds: float = 0.0
    bytes: int = 0  # of the arrays taken in and given out


class Profile:
    """The costs of operations, by name: "LayerNorm" for a forward pass, "LayerNorm.backward" for
    its derivative, "AdamW.step" and "clip_grad_norm" for what an optimizer does.

    Time is that of the operation's own arithmetic; `seconds`, that of the whole block, holds the
    rest, too: Python, the graph, sums of gradients. `bytes` counts each array that an operation
    takes in or gives out once: divided by the time it says how close to the memory's bandwidth an
    elementwise operation comes.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.seconds = 0.0

    def record(self, name: str, seconds: float, arrays: Sequence[Any]) -> None:
        """Add one call; None among the arrays counts nothing."""
        row = self.rows.setdefault(name, Row())
        row.calls += 1
        row.seconds += seconds
        row.bytes += sum(a.nbytes for a in arrays if a is not None)

    def __str__(self) -> str:
        """A table, the most expensive operation first."""
        rest = "outside of operations"
        width = max(len(rest), *map(len, self.rows), 0)
        lines = [f"{'operation':{width}}   calls         ms  share        MB   GB/s"]
        inside = 0.0
        for name, row in sorted(self.rows.items(), key=lambda item: -item[1].seconds):
            inside += row.seconds
            rate = row.bytes / row.seconds / 1e9 if row.seconds else 0.0
            lines.append(
                f"{name:{width}} {row.calls:>7} {self._time(row.seconds)} "
                f"{row.bytes / 1e6:>9.1f} {rate:>6.1f}"
            )
        lines.append(f"{rest:{width}} {'':>7} {self._time(self.seconds - inside)}")
        lines.append(f"{'together':{width}} {'':>7} {self._time(self.seconds)}")
        return "\n".join(lines)

    def _time(self, seconds: float) -> str:
        """Milliseconds and the share of the whole block."""
        share = seconds / self.seconds if self.seconds else 0.0
        return f"{seconds * 1e3:>10.2f} {share:>6.1%}"


class _Active(threading.local):
    profile: Profile | None = None


_active = _Active()


@contextmanager
def profile() -> Iterator[Profile]:
    """Measure every operation of this thread inside the block.

    with tensor.profile() as p:
        model(ids, labels=ids).loss.backward()
    print(p)

    A block inside another one takes over until it ends.
    """
    before = _active.profile
    measured = Profile()
    _active.profile = measured
    start = time.perf_counter()
    try:
        yield measured
    finally:
        measured.seconds = time.perf_counter() - start
        _active.profile = before


@contextmanager
def span(name: str, arrays: Sequence[Any]) -> Iterator[None]:
    """Measure a block under that name, with these arrays' bytes, if a profile is being made."""
    measured = _active.profile
    start = time.perf_counter()
    yield
    if measured is not None:
        _wait_for(arrays)
        measured.record(name, time.perf_counter() - start, arrays)


def _wait_for(arrays: Sequence[Any]) -> None:
    """A GPU works on while the host is far ahead: its time is over when it has done its work."""
    storages = (getattr(array, "storage", None) for array in arrays)
    storage = next((s for s in storages if s is not None), None)
    if storage is not None:
        storage.device.synchronize()


def timed(name: str, function: Callable[..., Any], *arrays: Any, **options: Any) -> Any:
    """function(*arrays, **options), measured under that name if a profile is being made."""
    if _active.profile is None:
        return function(*arrays, **options)
    inputs_and_results = list(arrays)
    with span(name, inputs_and_results):
        result = function(*arrays, **options)
        inputs_and_results += result if isinstance(result, tuple) else (result,)
    return result
