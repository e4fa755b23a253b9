"""Where kernels run: `get_device("emulator")`, on any CPU, or `get_device("cuda")`, on a GPU."""

from __future__ import annotations

import functools

from kernels.emulator.device import EmulatorDevice
from kernels.interface import Device


@functools.cache
def get_device(name: str, checked: bool = False) -> Device:
    """The device of that name, the same object each time.

    checked: look at every access of a kernel to memory; the emulator alone can. The two modes have
    memory of their own: an array belongs to the one that made it.

    Raises ValueError for another name, and what each device raises where it cannot run here.
    """
    if name == "emulator":
        return EmulatorDevice(checked)
    if name == "cuda":
        if checked:
            raise ValueError("only the emulator has a checked mode: "
                             "get_device('emulator', checked=True)")
        raise NotImplementedError("there is no path to a GPU yet: use the device 'emulator'")
    raise ValueError(f"there is no device {name!r}: use 'emulator' or 'cuda'")
