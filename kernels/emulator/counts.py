"""What the counting mode of the emulator found: by kernel, and by line of the source.

    device = get_device("emulator", counted=True)
    load("softmax.cu", device)["softmax_warp"](x, y, 33, 65, grid=9, block=128)
    print(table(device.counts.values()))
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

from kernels.emulator import machine_code

SECTOR = 32             # bytes of global memory that are moved together
(STEPS, GLOBAL_READ, GLOBAL_WRITE, GLOBAL_ATOMIC, SHARED_READ, SHARED_WRITE, SHARED_ATOMIC,
 PRODUCT) = range(8)


class SiteCounts(ctypes.Structure):
    """SiteCounts in counts.h."""

    _fields_ = [("code", ctypes.c_size_t), ("file", ctypes.c_char_p),
                *((name, ctypes.c_uint64) for name in
                  ("line", "kind", "steps", "lanes", "bytes", "used", "sectors", "wavefronts",
                   "ideal_wavefronts", "flops"))]


@dataclass
class Tally:
    """Sums over the warps of launches, of one line or of a whole kernel.

    A step is one warp that goes once through a run of instructions without a branch; a request
    one warp that does one access to memory once.
    """

    steps: int = 0
    step_lanes: int = 0             # lanes active in the steps, added up
    flops: int = 0                  # an addition 1, a fused multiply-add 2, a function as exp 1,
                                    # a tensor core's product 2 for each of its multiply-adds
    global_requests: int = 0
    global_bytes: int = 0           # that the lanes ask for
    global_used: int = 0            # the same, a byte that several lanes of a request want once
    read_sectors: int = 0           # of 32 bytes; an atomic operation reads and writes
    write_sectors: int = 0
    shared_requests: int = 0
    shared_bytes: int = 0
    wavefronts: int = 0             # turns that shared memory took
    ideal_wavefronts: int = 0       # that it takes without a conflict

    def add(self, other: Tally) -> None:
        """Add each of another's numbers."""
        for each in fields(Tally):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    @property
    def lanes(self) -> float:
        """Active lanes a step, of 32."""
        return self.step_lanes / self.steps if self.steps else 0.0

    @property
    def sectors(self) -> int:
        """Sectors of global memory read and written, without a cache."""
        return self.read_sectors + self.write_sectors

    @property
    def moved_bytes(self) -> int:
        """What memory moves where no cache helps."""
        return SECTOR * self.sectors

    @property
    def intensity(self) -> float:
        """Operations a byte of memory, without a cache."""
        return self.flops / self.moved_bytes if self.sectors else 0.0

    @property
    def sectors_per_request(self) -> float:
        """4 is what 32 lanes with 4 bytes each need at least, 32 the most."""
        return self.sectors / self.global_requests if self.global_requests else 0.0

    @property
    def coalescing(self) -> float:
        """The share of the bytes moved that some lane wanted, without a cache: 1 at best."""
        return self.global_used / self.moved_bytes if self.sectors else 1.0

    @property
    def conflict(self) -> float:
        """How many turns shared memory takes in the place of one: 1 at best, 32 at worst."""
        return self.wavefronts / self.ideal_wavefronts if self.ideal_wavefronts else 1.0


@dataclass
class KernelCounts:
    """A kernel's launches: `lines` by "file:line", `total` of all."""

    name: str
    launches: int = 0
    total: Tally = field(default_factory=Tally)
    lines: dict[str, Tally] = field(default_factory=dict)
    first_sectors: int = 0          # each sector read, and each written, once a launch

    def add(self, other: KernelCounts) -> None:
        """Add the launches of another kernel."""
        self.launches += other.launches
        self.first_sectors += other.first_sectors
        self.total.add(other.total)
        for place, tally in other.lines.items():
            self.lines.setdefault(place, Tally()).add(tally)

    @property
    def least_bytes(self) -> int:
        """What a perfect cache still has to move from and to memory."""
        return SECTOR * self.first_sectors

    @property
    def intensity(self) -> float:
        """Operations a byte of memory, behind a perfect cache."""
        return self.total.flops / self.least_bytes if self.least_bytes else 0.0


class Counts(dict[str, KernelCounts]):
    """Kernels by name; `clear()` begins anew."""

    def together(self, name: str) -> KernelCounts:
        """All kernels as one of that name: what an operation of several launches takes."""
        whole = KernelCounts(name)
        for kernel in self.values():
            whole.add(kernel)
        return whole

    def read(self, lib: ctypes.PyDLL, name: str, library: Path, base: int) -> None:
        """Add what the last launch, of kernel `name` in a library at address `base`, has counted.

        Raises MemoryError, or OSError where there is no objdump.
        """
        n, reads, writes = ctypes.c_uint64(), ctypes.c_uint64(), ctypes.c_uint64()
        found = lib.emu_counts(ctypes.byref(n), ctypes.byref(reads), ctypes.byref(writes))
        if not found and n.value:
            raise MemoryError(f"{name}: no memory for what was counted")
        sites = list((SiteCounts * n.value).from_address(found)) if n.value else []
        flops = machine_code.arithmetic(library)
        counts = self.setdefault(name, KernelCounts(name))
        counts.launches += 1
        counts.first_sectors += reads.value + writes.value
        coded = [site.code - base for site in sites if site.code]
        places = dict(zip(coded, machine_code.places(library, [code - 1 for code in coded])))
        for site in sites:
            tally = _tally(site, flops.get(site.code - base, 0))
            place = (places[site.code - base] if site.code
                     else f"{Path(site.file.decode()).name}:{site.line}")
            if not place and site.kind == STEPS:    # the emulator's own
                tally.steps = tally.step_lanes = 0
            counts.total.add(tally)
            counts.lines.setdefault(place or "elsewhere", Tally()).add(tally)


def _tally(site: SiteCounts, flops: int) -> Tally:
    if site.kind == STEPS:
        return Tally(steps=site.steps, step_lanes=site.lanes, flops=site.lanes * flops)
    if site.kind == PRODUCT:
        return Tally(flops=site.flops)
    if site.kind >= SHARED_READ:
        return Tally(shared_requests=site.steps, shared_bytes=site.bytes,
                     wavefronts=site.wavefronts, ideal_wavefronts=site.ideal_wavefronts)
    reads, writes = site.kind != GLOBAL_WRITE, site.kind != GLOBAL_READ
    return Tally(global_requests=site.steps, global_bytes=site.bytes,
                 global_used=site.used * (reads + writes), read_sectors=site.sectors * reads,
                 write_sectors=site.sectors * writes)


HEADER = ("| {:24} | lanes | requests | sectors | a request | used | bank turns | conflict |"
          " FLOPs |")
RULE = "|--" * 9 + "|"


def table(counts: Iterable[KernelCounts]) -> str:
    """A row a kernel, in Markdown, with the bytes that memory moves and the operations a byte:
    where no cache helps, and behind a perfect one.
    """
    rows = [HEADER.format("kernel") + " bytes | FLOPs/byte | least bytes | FLOPs/byte |",
            RULE + "--|--|--|--|"]
    for kernel in counts:
        rows.append(f"{_row(kernel.name, kernel.total)} {kernel.total.moved_bytes:,} | "
                    f"{kernel.total.intensity:.2f} | {kernel.least_bytes:,} | "
                    f"{kernel.intensity:.2f} |")
    return "\n".join(rows)


def by_line(kernel: KernelCounts) -> str:
    """A row a line of the source that does anything, in Markdown."""
    def order(place: str) -> tuple[str, int]:
        file, _, number = place.rpartition(":")
        return file, int(number) if number.isdigit() else 0
    return "\n".join([HEADER.format(kernel.name), RULE,
                      *(_row(place, kernel.lines[place])
                        for place in sorted(kernel.lines, key=order)
                        if kernel.lines[place] != Tally())])


def _row(name: str, t: Tally) -> str:
    lanes = f"{t.lanes:.1f}" if t.steps else ""
    memory = (f"{t.global_requests:,} | {t.sectors:,} | {t.sectors_per_request:.1f} | "
              f"{t.coalescing:.0%}" if t.global_requests else " | | | ")
    shared = f"{t.wavefronts:,} | {t.conflict:.1f}" if t.wavefronts else " | "
    flops = f"{t.flops:,}" if t.flops else ""
    return f"| {name:24} | {lanes} | {memory} | {shared} | {flops} |"
