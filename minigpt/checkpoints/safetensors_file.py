"""Weights in safetensors files: a checked reader of our own, and a writer through the package.

The format (huggingface/safetensors, README): 8 bytes, the header's length as a little-endian
unsigned integer; the header, a JSON object of name -> {dtype, shape, data_offsets}, with an
optional `__metadata__` of strings; then the tensors' little-endian bytes, in C order, without a
gap.

The reader checks all of this before it reads a tensor, and then reads each straight into an array
of its own, so that a loader which copies tensor by tensor into a model never holds two of them.
"""

import math
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from minigpt.files import atomic_path, parse_json_object

# As in the package: a longer header is an attack, not a model.
MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 64     # NumPy's

# The format's name of a dtype -> how its bytes are read. NumPy has no bfloat16: these are the upper
# halves of float32 numbers.
_STORED: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype("<u1"), "U16": np.dtype("<u2"), "U32": np.dtype("<u4"), "U64": np.dtype("<u8"),
    "I8": np.dtype("<i1"), "I16": np.dtype("<i2"), "I32": np.dtype("<i4"), "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"),
    "F32": np.dtype("<f4"), "F64": np.dtype("<f8"),
}
_WRITABLE = frozenset(dtype for name, dtype in _STORED.items() if name != "BF16")


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of one tensor.

    dtype: the format's name, such as "F32" or "BF16". start, end: the tensor's bytes in the file,
    counted from its beginning.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: str | os.PathLike[str]) -> dict[str, TensorInfo]:
    """Read and check a file's header; tensors come in the order of their bytes in the file.

    Raises FileNotFoundError, or ValueError naming the file and the fault: a length that does not
    fit the file, broken JSON, an unknown dtype, a bad shape, byte counts that differ from shape and
    dtype, bytes claimed twice, by none, or beyond the end.
    """
    with open(path, "rb") as f:
        return _read_header(f, Path(path))


def iter_safetensors(
    path: str | os.PathLike[str], names: Collection[str] | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, array) for each tensor of a file, or for those in `names`, in the file's order.

    Each array is new and the caller's. float64, float32, integers and booleans keep their dtype;
    float16 and bfloat16 are widened to float32, which holds each of their values exactly.

    Raises what `read_header` does, before the first tensor is read; ValueError, too, for a
    name that the file does not have, or a boolean that is neither 0 nor 1.
    """
    with open(path, "rb") as f:
        header = _read_header(f, Path(path))
        missing = sorted(set(names or ()) - set(header))
        if missing:
            raise ValueError(f"{path}: there is no tensor {', '.join(map(repr, missing))}")
        for name, info in header.items():
            if names is None or name in names:
                yield name, _read_tensor(f, info, f"{path}: tensor {name!r}")


def read_safetensors(
    path: str | os.PathLike[str], names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """Read all tensors of a file, or those in `names`, at once; see `iter_safetensors`."""
    return dict(iter_safetensors(path, names))


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors to a file, which appears only when it is whole.

    tensors: any shape and memory layout; float16, float32, float64, integers or bool.
    metadata: text for the header; None means {"format": "pt"}, which transformers insists on.

    Raises TypeError naming a tensor that is no array, or of another dtype, ValueError for a name
    that the format reserves, OSError when the file cannot be written.
    """
    ready: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"a tensor's name must be a string, got {name!r}")
        if name == "__metadata__":
            raise ValueError("a tensor cannot be called '__metadata__': give `metadata` instead")
        if not isinstance(array, np.ndarray):
            raise TypeError(f"tensor {name!r} is a {type(array).__name__}, not a NumPy array")
        dtype = array.dtype.newbyteorder("<")
        if dtype not in _WRITABLE:
            raise TypeError(f"tensor {name!r} has dtype {array.dtype}, which cannot be written: "
                            "use float16, float32, float64, an integer dtype or bool")
        # The package copies memory as it lies, so a transposed view would come out scrambled.
        ready[name] = np.asarray(array, dtype=dtype, order="C")
    text = {"format": "pt"} if metadata is None else dict(metadata)
    with atomic_path(path) as temporary:
        try:
            save_file(ready, temporary, metadata=text)
        except SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}") from error


def _read_header(f: BinaryIO, path: Path) -> dict[str, TensorInfo]:
    """Read and check the header, see `read_header`."""
    size = os.fstat(f.fileno()).st_size
    if size < 8:
        raise ValueError(f"{path}: {size} bytes are too few for a safetensors file")
    length = int.from_bytes(f.read(8), "little")
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise ValueError(
            f"{path}: the header is said to have {length} bytes, in a file of {size}: "
            "this is no safetensors file, or it was cut off; get it again"
        )
    entries = parse_json_object(f.read(length), f"{path}: header")
    _check_metadata(entries.pop("__metadata__", None), path)
    data_start = 8 + length
    header = {
        name: _tensor_info(entry, data_start, f"{path}: tensor {name!r}")
        for name, entry in entries.items()
    }
    return _check_layout(header, data_start, size, path)


def _check_metadata(metadata: Any, path: Path) -> None:
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    ):
        raise ValueError(f"{path}: header: __metadata__ must be an object of strings")


def _tensor_info(entry: Any, data_start: int, where: str) -> TensorInfo:
    """Check what the header says of one tensor, taken by itself."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise ValueError(f"{where}: expected dtype, shape and data_offsets, found {entry!r:.80}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _STORED:
        raise ValueError(f"{where}: cannot read dtype {dtype!r:.80}; known: {', '.join(_STORED)}")
    if not _are_counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{where}: shape must be a list of at most {MAX_DIMENSIONS} "
                         f"non-negative integers, found {shape!r:.80}")
    if math.prod(max(n, 1) for n in shape) * 8 >= 2**63:    # NumPy's limit, even for empty arrays
        raise ValueError(f"{where}: shape {shape!r:.80} is too large for an array")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{where}: data_offsets must be [start, end], found {offsets!r:.80}")
    start, end = offsets
    expected = math.prod(shape) * _STORED[dtype].itemsize
    if end - start != expected:
        raise ValueError(f"{where}: {dtype} of shape {shape!r:.80} takes {expected} bytes, but "
                         f"data_offsets [{start}, {end}] span {end - start}")
    return TensorInfo(dtype, tuple(shape), data_start + start, data_start + end)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(n) is int and 0 <= n < 2**63 for n in values)


def _check_layout(
    header: dict[str, TensorInfo], data_start: int, size: int, path: Path
) -> dict[str, TensorInfo]:
    """Check that the tensors cover the file's bytes exactly, and return them in that order."""
    ordered = sorted(header.items(), key=lambda item: (item[1].start, item[1].end))
    position = data_start
    for name, info in ordered:
        if info.end > size:
            raise ValueError(f"{path}: tensor {name!r} ends at byte {info.end}, but the file at "
                             f"{size}: it was cut off, or is damaged; get it again")
        if info.start != position:
            fault = "overlaps the one before" if info.start < position else "leaves a gap before it"
            raise ValueError(f"{path}: tensor {name!r} starts at byte {info.start}, not at "
                             f"{position}: it {fault}")
        position = info.end
    if position != size:
        raise ValueError(f"{path}: {size - position} bytes at the end belong to no tensor")
    return dict(ordered)


def _read_tensor(f: BinaryIO, info: TensorInfo, where: str) -> np.ndarray:
    """Read one tensor into a new array; half precision becomes float32."""
    array = np.empty(info.shape, _STORED[info.dtype])
    raw = array.reshape(-1).view(np.uint8)                      # (bytes,), the same memory
    f.seek(info.start)
    if f.readinto(raw) != raw.size:                             # type: ignore[attr-defined]
        raise ValueError(f"{where}: the file ended while it was read")
    if info.dtype == "BOOL" and raw.size and raw.max() > 1:
        raise ValueError(f"{where}: a boolean is neither 0 nor 1")
    if info.dtype == "F16":
        with np.errstate(invalid="ignore"):                     # some processors flag NaNs
            return array.astype(np.float32)
    if info.dtype == "BF16":
        bits = array.astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    return array
