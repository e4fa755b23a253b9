"""What all files of weights have in common: a header, and tensors that are read one at a time.

A reader checks a file's whole header before it reads a tensor, and then reads each tensor straight
into an array that the caller has made, so that loading a model takes the memory of the model.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from tensor import dtypes
from tensor.dtypes import BFLOAT16, converted

# The name of a stored dtype -> its bytes, as NumPy reads them. NumPy has no bfloat16: these are the
# upper halves of float32 numbers.
RAW: dict[str, np.dtype] = {
    "float64": np.dtype("<f8"), "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"), "bfloat16": np.dtype("<u2"),
    "int64": np.dtype("<i8"), "int32": np.dtype("<i4"), "int16": np.dtype("<i2"),
    "int8": np.dtype("i1"),
    "uint64": np.dtype("<u8"), "uint32": np.dtype("<u4"), "uint16": np.dtype("<u2"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype(np.bool_),
}  # fmt: skip
FLOATS = ("float64", "float32", "float16", "bfloat16")

MAX_DIMENSIONS = 64  # NumPy's
_BLOCK = 1 << 18  # elements that are widened at a time


@dataclass(frozen=True)
class Stored:
    """What a header says of a tensor: the name of its dtype (of RAW), and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The number of bytes in the file."""
        return self.size * RAW[self.dtype].itemsize

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


class Reader(ABC):
    """An open file, or several, with the tensors of a model. A context manager: it closes them.

    source: the file, for messages. kind: the name of the format.
    """

    source: str
    kind: str

    def __init__(self) -> None:
        self._open_files = ExitStack()

    @abstractmethod
    def header(self) -> Mapping[str, Stored]:
        """Every tensor, by name; checked, and known without reading one."""

    @abstractmethod
    def read_raw(self, name: str, out: np.ndarray) -> None:
        """Read a tensor into a C-contiguous array of its shape and of dtype RAW[its dtype].

        ValueError where the file is damaged or has changed since it was opened.
        """

    def read_into(self, name: str, out: np.ndarray) -> None:
        """Read a tensor into a C-contiguous array of its shape, of any float dtype, bfloat16 too
        (`tensor.dtypes`), or its own.

        A wider dtype holds every value exactly; a narrower one rounds.

        KeyError for an unknown name, ValueError for another shape or a damaged file.
        """
        stored = self.header()[name]
        raw = RAW[stored.dtype]
        if out.shape != stored.shape or not out.flags.c_contiguous:
            raise ValueError(f"{name} is {stored.shape}, the array for it {out.shape}")
        if out.dtype == BFLOAT16 and stored.dtype == "bfloat16":
            self.read_raw(name, out.view(np.uint16))
        elif out.dtype == BFLOAT16:
            wide = np.empty(out.shape, np.float32)
            self.read_into(name, wide)
            out[...] = converted(wide, BFLOAT16)
        elif out.dtype == raw and stored.dtype != "bfloat16":
            self.read_raw(name, out)
            if stored.dtype == "bool" and out.size and out.view(np.uint8).max() > 1:
                raise ValueError(f"{self.source}: tensor {name!r}: a boolean is neither 0 nor 1")
        elif out.itemsize > raw.itemsize and out.size:
            # The bytes land at the end of the array's own memory and are widened from the front,
            # which never overtakes what is still to be widened: no second array is needed.
            flat = out.reshape(-1)  # (size,)
            narrow = flat.view(raw)[-out.size :]  # (size,), the last bytes
            self.read_raw(name, narrow.reshape(out.shape))
            with np.errstate(invalid="ignore"):  # some processors flag NaNs
                for start in range(0, out.size, _BLOCK):
                    block = slice(start, start + _BLOCK)
                    flat[block] = widened(narrow[block], stored.dtype)
        else:
            array = np.empty(out.shape, raw)
            self.read_raw(name, array)
            with np.errstate(over="ignore", invalid="ignore"):
                out[...] = widened(array, stored.dtype)

    def read(self, name: str) -> np.ndarray:
        """A tensor as a new array: of its own dtype, or float32 where that is half precision."""
        stored = self.header()[name]
        half = stored.dtype in ("float16", "bfloat16")
        out = np.empty(stored.shape, np.float32 if half else RAW[stored.dtype])
        self.read_into(name, out)
        return out

    def close(self) -> None:
        """Close the files."""
        self._open_files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self, path: Path) -> BinaryIO:
        """Open a file until the reader is closed."""
        return self._open_files.enter_context(open(path, "rb"))


def widened(raw: np.ndarray, dtype: str) -> np.ndarray:
    """float16 and bfloat16, stored as `dtype`, as float32; other arrays as they are."""
    return dtypes.widened(raw.view(BFLOAT16) if dtype == "bfloat16" else raw)


def fill(f: BinaryIO, start: int, out: np.ndarray, where: str) -> None:
    """Read the file's bytes from `start` on into a C-contiguous array. ValueError at its end."""
    f.seek(start)
    raw = out.reshape(-1).view(np.uint8)  # (bytes,), the same memory
    if f.readinto(raw) != raw.size:  # type: ignore[attr-defined]
        raise ValueError(f"{where}: the file ended while it was read")


def are_counts(values: Any) -> bool:
    """Whether this is a list or tuple of whole numbers from 0 that fit 64 bits."""
    return isinstance(values, (list, tuple)) and all(
        type(n) is int and 0 <= n < 2**63 for n in values
    )


def check_shape(shape: Any, where: str) -> tuple[int, ...]:
    """The shape, if NumPy can have an array of it. ValueError otherwise."""
    if not are_counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{where}: shape must be a list of at most {MAX_DIMENSIONS} "
                         f"non-negative integers, found {shape!r:.80}")  # fmt: skip
    if math.prod(max(n, 1) for n in shape) * 8 >= 2**63:  # NumPy's limit, even for empty arrays
        raise ValueError(f"{where}: shape {shape!r:.80} is too large for an array")
    return tuple(shape)
