"""The launches of a step, recorded once and replayed: without Python's work for each of them.

    recording = Recording(device)
    with recording.take(length=5):      # the step runs as ever, and what it launches is noted
        step()
    with recording.take(length=6):      # the next step: it must launch the same, which is checked
        step()
    recording.replay(length=7)          # all of it again, as one call

A launch is its kernel, its arguments as bytes, and its geometry. In the next step all three are the
same, if each array lies where it lay; so the arrays of a recorded step have memory of their own,
which is laid out by the first take and kept for as long as the recording, or one of them, lives.

What does change is marked where it is launched, `Changing(length, "length")`, and moves by as much
as the counter of that name does between the first take and the replay. What changes without a mark
is found by the second take, whose launches are compared, byte for byte, with what a replay would
have made of the first. What depends on the host cannot be replayed: a copy to the host is refused
in a take; a copy from the host is a constant of the step, and one that changes is refused, too.

Two takes show what changes between two steps. They do not show what changes later for another
reason, say a step that does something else every 100th time: such a step is not to be recorded.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kernels.array import DeviceArray, Storage, Strided

if TYPE_CHECKING:
    from kernels.interface import Device, Sizes
    from kernels.launch import Kernel


class RecordingError(RuntimeError):
    """A step cannot be recorded, or does not repeat itself."""


class Changing(int):
    """A whole number, as an argument of a launch, that in another step is as much larger as the
    counter is.
    """

    counter: str

    def __new__(cls, value: int, counter: str) -> Changing:
        self = super().__new__(cls, value)
        self.counter = counter
        return self


class Change(NamedTuple):
    """Where in a launch's bytes a changing number stands, and how `struct` packs it."""

    place: int
    format: str
    value: int
    counter: str


@dataclass(frozen=True)
class Launch:
    """One launch: what `Device.launch` takes."""

    kernel: Kernel
    packed: bytes
    grid: Sizes
    block: Sizes
    shared: int
    order: str | int | None
    changes: tuple[Change, ...]

    def packed_after(self, moved: dict[str, int]) -> bytes:
        """The arguments when the counters have moved by so much."""
        if not self.changes:
            return self.packed
        changed = bytearray(self.packed)
        for change in self.changes:
            struct.pack_into(change.format, changed, change.place,
                             change.value + moved[change.counter])
        return bytes(changed)

    def difference(self, other: Part, moved: dict[str, int]) -> str:
        """What the same part of a later step does that a replay of this one would not, or ""."""
        name = self.kernel.name
        if not isinstance(other, Launch):
            return f"makes a {type(other).__name__} where it launched {name}"
        if other.kernel is not self.kernel:
            return f"launches {other.kernel.name} where it launched {name}"
        for what in ("grid", "block", "shared", "order"):
            before, now = getattr(self, what), getattr(other, what)
            if before != now:
                return f"launches {name} with {what} {now} where it had {before}"
        expected = self.packed_after(moved)
        if expected == other.packed:
            return ""
        return f"launches {name} with {self.kernel.differing(expected, other.packed)}"

    def run(self, device: Device, moved: dict[str, int]) -> None:
        device.launch(self.kernel.entry, self.packed_after(moved), self.grid, self.block,
                      self.shared, self.order)


@dataclass(frozen=True)
class Copy:
    """A copy of `nbytes` bytes from one address of the device to another."""

    to: int
    source: int
    nbytes: int

    def difference(self, other: Part, moved: dict[str, int]) -> str:
        return "" if other == self else f"makes a copy, {other}, where it made {self}"

    def run(self, device: Device, moved: dict[str, int]) -> None:
        device.copy_bytes(self.to, self.source, self.nbytes)


@dataclass(frozen=True)
class Constant:
    """An array that the step copies from the host: it stays where it is, and is not copied again.
    """

    array: DeviceArray
    host: np.ndarray

    def difference(self, other: Part, moved: dict[str, int]) -> str:
        if not isinstance(other, Constant):
            return f"makes a {type(other).__name__} where it copied an array from the host"
        same = (self.array.pointer == other.array.pointer and self.host.dtype == other.host.dtype
                and self.host.shape == other.host.shape
                and self.host.tobytes() == other.host.tobytes())
        return "" if same else (
            f"copies another array from the host, {other.host.dtype} {other.host.shape}: make it "
            "before the step, and overwrite it before each replay")

    def run(self, device: Device, moved: dict[str, int]) -> None:
        """Nothing: it is there."""


Part = Launch | Copy | Constant
Runner = Callable[[dict[str, int]], None]


class PrivateMemory:
    """The memory of a recorded step's arrays: none of it goes to anybody else.

    In the first take an array may get what an earlier one of its size has given back, since a
    replay does everything in the same order; `reuse` says so. In later takes the n-th array gets
    what the n-th of the first take got. It all goes back to the device when nobody refers to it any
    more: neither the recording nor an array.
    """

    def __init__(self, device: Device, reuse: bool) -> None:
        self._device, self._reuse = device, reuse
        self._taken: list[tuple[int, int]] = []         # (bytes, address), in order
        self._given_back: dict[int, list[int]] = {}     # bytes: addresses
        self._sizes: dict[int, int] = {}                # address: bytes
        self._next: int | None = None                   # in _taken, where there is a later take
        self.is_laid_out = False

    def begin(self) -> None:
        self._next = 0 if self.is_laid_out else None

    def end(self) -> None:
        self.is_laid_out = True

    def allocate(self, nbytes: int) -> int:
        if self._next is not None:
            return self._again(nbytes)
        spare = self._given_back.get(nbytes)
        if spare:
            address = spare.pop()
        else:
            address = self._device.allocate(nbytes)
            self._sizes[address] = nbytes
        self._taken.append((nbytes, address))
        return address

    def _again(self, nbytes: int) -> int:
        assert self._next is not None
        if self._next == len(self._taken):
            raise RecordingError(f"the next step makes more arrays: one of {nbytes:,} bytes after "
                                 f"the {len(self._taken)} of the step before")
        size, address = self._taken[self._next]
        if size != nbytes:
            raise RecordingError(f"the next step makes other arrays: number {self._next + 1} has "
                                 f"{nbytes:,} bytes, and had {size:,}")
        self._next += 1
        return address

    def free(self, address: int) -> None:
        if self._reuse and not self.is_laid_out:
            self._given_back.setdefault(self._sizes[address], []).append(address)

    @property
    def nbytes(self) -> int:
        return sum(self._sizes.values())

    def __del__(self) -> None:
        for address in self._sizes:
            self._device.free(address)


class Recording:
    """A step's launches; see the top of this file. Results of a replay are in the arrays that the
    last take made: each replay overwrites them.

    Raises RecordingError for what cannot be replayed; then the recording is of no more use.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.memory = PrivateMemory(device, reuse=True)
        self.constants = PrivateMemory(device, reuse=False)     # written once, and not by replays
        self.parts: list[Part] = []
        self._kept: dict[int, Storage] = {}             # what the step touches of others' memory
        self._counters: dict[str, int] = {}             # in the first take
        self._runner: Runner | None = None
        self._failed = False

    @property
    def is_ready(self) -> bool:
        """Are there two takes, so that it can be replayed?"""
        return self._runner is not None

    @property
    def launches(self) -> int:
        return sum(isinstance(part, Launch) for part in self.parts)

    # --- making it

    @contextmanager
    def take(self, **counters: int) -> Iterator[None]:
        """The step inside of the block is recorded; the second time, compared with the first."""
        self._require_usable()
        if self.device.recording is not None:
            raise RecordingError("a step is being recorded already: takes do not nest")
        if not self.memory.is_laid_out:
            self._counters = counters
        moved = self._moved(counters)
        first, self.parts = self.parts, []
        for memory in (self.memory, self.constants):
            memory.begin()
        self.device.recording, self._failed = self, True
        try:
            yield
        finally:
            self.device.recording = None
        if self.memory.is_laid_out:
            self._compare(first, moved)
            self.parts = first
            self._runner = self.device.runner(first)
        for memory in (self.memory, self.constants):
            memory.end()
        self._failed = False

    def add_launch(self, kernel: Kernel, arguments: tuple[Any, ...], packed: bytes, grid: Sizes,
                   block: Sizes, shared: int, order: str | int | None) -> None:
        """`Kernel.__call__` tells of a launch."""
        changes = []
        for parameter, place, argument in zip(kernel.parameters, kernel.places, arguments):
            if type(argument) is Changing:
                if argument.counter in self._counters:      # else it is a number as any other
                    changes.append(Change(place, parameter.format, int(argument), argument.counter))
            elif type(argument) is tuple:
                for item in argument:
                    self.keep(item)
            else:
                self.keep(argument)
        self.parts.append(Launch(kernel, packed, grid, block, shared, order, tuple(changes)))

    def add_copy(self, into: DeviceArray, source: DeviceArray) -> None:
        """`Device.copy` tells of a copy."""
        self.keep(into)
        self.keep(source)
        self.parts.append(Copy(into.pointer, source.pointer, into.nbytes))

    def add_constant(self, array: DeviceArray, host: np.ndarray) -> None:
        """`Device.write` tells of a copy from the host."""
        if array.storage.memory is not self.constants:
            raise RecordingError(
                f"a step that is recorded overwrites an array from the host, {host.dtype} "
                f"{host.shape}, which a replay would not do: overwrite it before the step")
        self.parts.append(Constant(array, host.copy()))

    def refuse_read(self, host: np.ndarray) -> None:
        """`Device.read` tells of a copy to the host."""
        last = next((p.kernel.name for p in reversed(self.parts) if isinstance(p, Launch)), "none")
        raise RecordingError(
            f"a step that is recorded copies an array to the host, {host.dtype} {host.shape}, "
            f"after {self.launches} launches, of which the last is {last}: what Python makes of "
            "it could not be replayed. Take .item() and .numpy() after the step")

    def keep(self, argument: Any) -> None:
        """Let an array that is not the step's own live as long as the recording."""
        array = argument.array if isinstance(argument, Strided) else argument
        if isinstance(array, DeviceArray) and array.storage.memory is not self.memory:
            self._kept[id(array.storage)] = array.storage

    def _compare(self, first: list[Part], moved: dict[str, int]) -> None:
        for number, (before, now) in enumerate(zip_longest(first, self.parts), 1):
            if before is None or now is None:
                raise RecordingError(f"the next step does not repeat this one: it has "
                                     f"{len(self.parts)} launches and copies, and had {len(first)}")
            different = before.difference(now, moved)
            if different:
                raise RecordingError(f"the next step does not repeat this one: as number {number} "
                                     f"it {different}")
        for part in first:
            if isinstance(part, Constant) and part.array.numpy().tobytes() != part.host.tobytes():
                raise RecordingError("the step changes an array that it copies from the host, "
                                     f"{part.host.dtype} {part.host.shape}: a replay would not "
                                     "copy it again; make it by a kernel, or before the step")

    # --- using it

    def replay(self, **counters: int) -> None:
        """Run the step again. The counters are those of the takes, with their values now.

        RecordingError before there are two takes, TypeError for other counters.
        """
        self._require_usable()
        if self._runner is None:
            raise RecordingError("a recording is replayed after two takes: what changes from step "
                                 "to step shows in the second")
        self.device.launches += 1
        self._runner(self._moved(counters))

    def _moved(self, counters: dict[str, int]) -> dict[str, int]:
        if counters.keys() != self._counters.keys():
            raise TypeError(f"the counters of this recording are {sorted(self._counters)}, not "
                            f"{sorted(counters)}")
        return {name: now - self._counters[name] for name, now in counters.items()}

    def _require_usable(self) -> None:
        if self._failed:
            raise RecordingError("this recording has failed, or is being made: make a new one")
