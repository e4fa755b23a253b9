"""Where kernels run: `get_device("emulator")`, on any CPU, or `get_device("cuda")`, on a GPU."""

from __future__ import annotations

import functools

from kernels.cuda import CudaDevice
from kernels.emulator.device import EmulatorDevice
from kernels.interface import Device


def get_device(name: str, checked: bool = False, counted: bool = False) -> Device:
    """The device of that name, the same object each time.

    checked: the emulator looks at every access of a kernel to memory; on a GPU each launch is
    waited for, and `compute-sanitizer` can look at each array. counted: the emulator counts
    traffic, bank conflicts, active lanes and arithmetic (`device.counts`). Each mode has memory of
    its own: an array belongs to the one that made it.

    Raises ValueError for another name, and what each device raises where it cannot run here.
    """
    return _make(name, bool(checked), bool(counted))


@functools.cache
def _make(name: str, checked: bool, counted: bool) -> Device:
    # Not get_device itself, which would be two devices for f("emulator") and f("emulator", False).
    if name == "emulator":
        return EmulatorDevice(checked, counted)
    if counted and name == "cuda":
        raise ValueError("only the emulator counts: get_device('emulator', counted=True); on a GPU "
                         "use Nsight Compute")
    if name == "cuda":
        return CudaDevice(checked)
    raise ValueError(f"there is no device {name!r}: use 'emulator' or 'cuda'")
