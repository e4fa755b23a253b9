"""What the bench says of a version without a GPU: not its time, but what it does, counted."""

from __future__ import annotations

from typing import Any

from kernels.bench_cases import Case
from kernels.device import get_device
from kernels.emulator.counts import KernelCounts
from kernels.emulator.device import EmulatorDevice
from kernels.interface import Device


def counting_device() -> Device:
    """The emulator that counts. Raises what `get_device` raises where it cannot run here."""
    return get_device("emulator", counted=True)


def count(case: Case, version: str, block: int, device: Device) -> tuple[KernelCounts, float]:
    """What one launch of a version does, all its kernels together, and its error."""
    assert isinstance(device, EmulatorDevice)
    arrays = case.upload(device, version)
    device.counts.clear()
    case.launch(device, version, block, arrays)
    together = device.counts.together(f"{version}, {block}")
    return together, case.error(arrays)


def as_json(counts: KernelCounts) -> dict[str, Any]:
    """The counts of a version for the file of --json."""
    total = counts.total
    return {
        "launches": counts.launches, "active_lanes": total.lanes,
        "requests": total.global_requests, "sectors_read": total.read_sectors,
        "sectors_written": total.write_sectors, "bytes_used_share": total.coalescing,
        "bank_turns": total.wavefronts, "bank_conflict": total.conflict, "flops": total.flops,
        "bytes_without_cache": total.moved_bytes, "bytes_least": counts.least_bytes,
        "flops_per_byte_without_cache": total.intensity, "flops_per_byte": counts.intensity,
    }  # fmt: skip

