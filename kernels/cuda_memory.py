"""A caching pool of GPU memory: what an array gives back is kept for the next one of its size.

cuMemAlloc and cuMemFree are slow beside a launch, and cuMemFree waits for the GPU; a training step
makes and drops thousands of arrays, and the next step wants the same sizes again.

Memory may be handed to its next user while the GPU still works for the last one: all work is on
one stream, so the next user's comes after it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

SMALL = 512                 # bytes; cuMemAlloc's own alignment is 256


def block_size(nbytes: int) -> int:
    """`nbytes` rounded up to eighths of a power of two, and to 512: sizes that are alike share.

    At most an eighth is lost, and a size that grows a little with each call (a text that gets
    longer) finds the blocks of the calls before.
    """
    step = max(SMALL, 1 << (max(nbytes, 1) - 1).bit_length() >> 4)
    return max(-(-nbytes // step), 1) * step


class MemoryPool:
    """Blocks of memory by size. `exact` keeps none and asks for the very size, so that a tool like
    compute-sanitizer sees the first byte past the end.

    `allocate(nbytes)` gives an address or raises an error for which `is_full` is true; `free`
    gives the address back to the driver.
    """

    def __init__(self, allocate: Callable[[int], int], free: Callable[[int], None],
                 is_full: Callable[[BaseException], bool], exact: bool = False) -> None:
        self._allocate, self._free, self._is_full, self.exact = allocate, free, is_full, exact
        self._kept: dict[int, list[int]] = {}       # size: addresses
        self._sizes: dict[int, int] = {}            # address: size, of what is in use
        self.bytes_in_use = self.bytes_kept = 0

    def take(self, nbytes: int) -> int:
        """The address of `nbytes` that nobody uses. Raises MemoryError."""
        size = max(nbytes, 1) if self.exact else block_size(nbytes)
        address = self._reuse(size) or self._fresh(size, nbytes)
        self._sizes[address] = size
        self.bytes_in_use += size
        return address

    def _reuse(self, size: int) -> int | None:
        try:
            address = self._kept[size].pop()
        except (KeyError, IndexError):
            return None
        self.bytes_kept -= size
        return address

    def _fresh(self, size: int, nbytes: int) -> int:
        """From the driver; where it has none left, after giving back all that is not in use."""
        for attempt in range(2):
            try:
                return self._allocate(size)
            except Exception as error:
                if not self._is_full(error):
                    raise
            if attempt == 0:
                gc.collect()            # arrays in reference cycles
                self.release()
        raise MemoryError(
            f"the GPU has no {nbytes:,} bytes left; the arrays of this process have "
            f"{self.bytes_in_use:,} there"
        )

    def give(self, address: int) -> None:
        """Take back what `take` gave."""
        size = self._sizes.pop(address)
        self.bytes_in_use -= size
        if self.exact:
            self._free(address)
        else:
            self._kept.setdefault(size, []).append(address)
            self.bytes_kept += size

    def release(self) -> None:
        """Give all that is not in use back to the driver."""
        while self._kept:
            _, addresses = self._kept.popitem()
            for address in addresses:
                self._free(address)
        self.bytes_kept = 0
