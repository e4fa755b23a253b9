"""Weights in safetensors files: a checked reader of our own, and a writer through the package.

The format (huggingface/safetensors, README): 8 bytes, the header's length as a little-endian
unsigned integer; the header, a JSON object of name -> {dtype, shape, data_offsets}, with an
optional `__metadata__` of strings; then the tensors' little-endian bytes, in C order, without a
gap.

The reader checks all of this before it reads a tensor, and then reads each straight into an array
of its own, so that a loader which copies tensor by tensor into a model never holds two of them.
"""

import json
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from minigpt.checkpoints.reader import RAW, Reader, Stored, are_counts, check_shape, fill
from minigpt.files import atomic_path, atomic_write, parse_json_object

MAX_HEADER_BYTES = 1 << 24
"""GPT-2 XL's has 60 kB, and JSON can take twenty times its length in memory."""

# The format's name of a dtype -> ours.
DTYPES = {
    "BOOL": "bool", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
}  # fmt: skip
_WRITABLE = frozenset(dtype for name, dtype in RAW.items() if name != "bfloat16")


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


class SafetensorsReader(Reader):
    """One safetensors file. Raises what `read_header` does."""

    kind = "safetensors"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = str(path)
        self._file = self._open(path)
        try:
            self._places = _read_header(self._file, path)
        except BaseException:
            self.close()
            raise
        self._header = {
            name: Stored(DTYPES[info.dtype], info.shape) for name, info in self._places.items()
        }

    def header(self) -> Mapping[str, Stored]:
        """In the order of their bytes in the file."""
        return self._header

    def read_raw(self, name: str, out: np.ndarray) -> None:
        """See `Reader`."""
        fill(self._file, self._places[name].start, out, f"{self.source}: tensor {name!r}")


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
    with SafetensorsReader(Path(path)) as reader:
        missing = sorted(set(names or ()) - set(reader.header()))
        if missing:
            raise ValueError(f"{path}: there is no tensor {', '.join(map(repr, missing))}")
        for name in reader.header():
            if names is None or name in names:
                yield name, reader.read(name)


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


def write_safetensors_one_by_one(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Stored],
    read_raw: Callable[[str, np.ndarray], None],
) -> None:
    """Write tensors of any dtype, bfloat16 too, holding one at a time. Whole, or not at all.

    read_raw: fills an array of RAW[dtype] and the tensor's shape, as `Reader.read_raw` does.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    # Wide ones first, as the package does, so that each starts at a multiple of its itemsize.
    order = sorted(tensors, key=lambda name: (-RAW[tensors[name].dtype].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name in order:
        stored = tensors[name]
        end = position + stored.nbytes
        header[name] = {"dtype": names[stored.dtype], "shape": stored.shape,
                        "data_offsets": [position, end]}  # fmt: skip
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that they start at a multiple of eight
    with atomic_write(path) as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            array = np.empty(tensors[name].shape, RAW[tensors[name].dtype])
            read_raw(name, array)
            f.write(array.reshape(-1).view(np.uint8))


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
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{where}: cannot read dtype {dtype!r:.80}; known: {', '.join(DTYPES)}")
    check_shape(shape, where)
    if not are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{where}: data_offsets must be [start, end], found {offsets!r:.80}")
    start, end = offsets
    expected = math.prod(shape) * RAW[DTYPES[dtype]].itemsize
    if end - start != expected:
        raise ValueError(f"{where}: {dtype} of shape {shape!r:.80} takes {expected} bytes, but "
                         f"data_offsets [{start}, {end}] span {end - start}")
    return TensorInfo(dtype, tuple(shape), data_start + start, data_start + end)


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
