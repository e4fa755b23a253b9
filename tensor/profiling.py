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
    launches: int = 0  # of kernels, on a device


class Profile:
    """The costs of operations, by name: "LayerNorm" for a forward pass, "LayerNorm.backward" for
    its derivative, "AdamW.step" and "clip_grad_norm" for what an optimizer does.

    Time is that of the operation's own arithmetic; `seconds`, that of the whole block, holds the
    rest, too: Python, the graph, sums of gradients. `bytes` counts each array that an operation
    takes in or gives out once: divided by the time it says how close to the memory's bandwidth an
    elementwise operation comes.

    On a device `launches` counts kernels, those of the whole block from its first operation on.
    Outside of operations are those that add up gradients.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.seconds = 0.0
        self.launches = 0
        self._device: Any = None
        self._launches_before = 0

    def launches_of(self, device: Any) -> int:
        """How many kernels the device, if there is one, has launched so far."""
        if device is None:
            return 0
        if self._device is None:
            self._device, self._launches_before = device, device.launches
        return device.launches

    def record(
        self, name: str, seconds: float, arrays: Sequence[Any], launches: int = 0
    ) -> None:
        """Add one call; None among the arrays counts nothing."""
        row = self.rows.setdefault(name, Row())
        row.calls += 1
        row.seconds += seconds
        row.bytes += sum(a.nbytes for a in arrays if a is not None)
        row.launches += launches

    def end(self, seconds: float) -> None:
        """The block is over."""
        self.seconds = seconds
        self.launches = self.launches_of(self._device) - self._launches_before

    def __str__(self) -> str:
        """A table, the most expensive operation first."""
        rest = "outside of operations"
        width = max(len(rest), *map(len, self.rows), 0)
        counted = "  launches" if self.launches else ""
        lines = [f"{'operation':{width}}   calls         ms  share        MB   GB/s{counted}"]
        inside, launched = 0.0, 0
        for name, row in sorted(self.rows.items(), key=lambda item: -item[1].seconds):
            inside, launched = inside + row.seconds, launched + row.launches
            rate = row.bytes / row.seconds / 1e9 if row.seconds else 0.0
            lines.append(
                f"{name:{width}} {row.calls:>7} {self._time(row.seconds)} "
                f"{row.bytes / 1e6:>9.1f} {rate:>6.1f}{self._count(row.launches)}"
            )
        for name, seconds, launches in (
            (rest, self.seconds - inside, self.launches - launched),
            ("together", self.seconds, self.launches),
        ):
            count = self._count(launches).rjust(27)
            lines.append(f"{name:{width}} {'':>7} {self._time(seconds)}{count}".rstrip())
        return "\n".join(lines)

    def _count(self, launches: int) -> str:
        """A column, where there are launches."""
        return f"{launches:>10,}" if self.launches else ""

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
        measured.end(time.perf_counter() - start)
        _active.profile = before


@contextmanager
def span(name: str, arrays: Sequence[Any]) -> Iterator[None]:
    """Measure a block under that name, with these arrays' bytes, if a profile is being made."""
    measured = _active.profile
    if measured is None:
        yield
        return
    device = _device_of(arrays)
    before, start = measured.launches_of(device), time.perf_counter()
    yield
    if device is not None:  # a GPU works on while the host is ahead: its time is over when it is
        device.synchronize()
    seconds = time.perf_counter() - start
    measured.record(name, seconds, arrays, measured.launches_of(device) - before)


def _device_of(arrays: Sequence[Any]) -> Any:
    """A kernels.interface.Device, or None on the CPU."""
    storages = (getattr(array, "storage", None) for array in arrays)
    return next((s.device for s in storages if s is not None), None)


def timed(name: str, function: Callable[..., Any], *arrays: Any, **options: Any) -> Any:
    """function(*arrays, **options), measured under that name if a profile is being made."""
    if _active.profile is None:
        return function(*arrays, **options)
    inputs_and_results = list(arrays)
    with span(name, inputs_and_results):
        result = function(*arrays, **options)
        inputs_and_results += result if isinstance(result, tuple) else (result,)
    return result
