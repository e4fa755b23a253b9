"""OpenAI's own files, read and written without TensorFlow: its "tensor bundle", version 2.

    model.ckpt.index                  a table (tf_table.py): name -> dtype, shape, place, checksum
    model.ckpt.data-00000-of-00001    the tensors' bytes, one behind the other
    checkpoint                        which of several bundles in the folder is the newest
    hparams.json                      the sizes: n_vocab, n_ctx, n_embd, n_head, n_layer

The table's values are protocol buffers (tensorflow/core/protobuf/tensor_bundle.proto): of the key
"" a BundleHeaderProto {1 num_shards, 2 endianness}, of each tensor's name a BundleEntryProto {1
dtype, 2 shape {2 dim {1 size}}, 3 shard, 4 offset, 5 size, 6 masked CRC-32C, 7 slices}. A field
that is 0 is left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.checkpoints.crc32c import crc32c, masked
from minigpt.checkpoints.reader import RAW, Reader, Stored, are_counts, check_shape, fill
from minigpt.checkpoints.tf_names import from_tf, to_tf
from minigpt.checkpoints.tf_table import (
    MAX_BYTES,
    TableError,
    read_table,
    read_varint,
    write_table,
    write_varint,
)
from minigpt.files import atomic_write

INDEX_SUFFIX = ".index"
MAX_SHARDS = 500  # they are open at the same time

# TensorFlow's numbers of dtypes (types.proto) -> ours.
_DTYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 9: "int64",
    10: "bool", 14: "bfloat16", 17: "uint16", 19: "float16", 22: "uint32", 23: "uint64",
}  # fmt: skip


@dataclass(frozen=True)
class _Entry:
    """What the index says of a tensor. shape: TensorFlow's."""

    dtype: str
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int


class TFReader(Reader):
    """A tensor bundle, by the path of its index; tensors have the names and shapes of
    `tf_names.from_tf`.

    checksums: check the index's checksums, and of each tensor when it is read.

    FileNotFoundError for a data file that is not there; ValueError, naming file and fault, for
    damage, compressed indices, and bytes that belong to no tensor or to two.
    """

    kind = "TensorFlow"

    def __init__(self, index: Path, checksums: bool = True) -> None:
        super().__init__()
        self.source = str(index)
        self._checksums = checksums
        try:
            size = index.stat().st_size
            if size > MAX_BYTES:
                raise TableError(f"{size} bytes are more than the index of any GPT-2 has")
            table = read_table(index.read_bytes(), checksums)
            shards, self._byte_order = _read_bundle_header(table.pop(b"", None))
            entries = {_name(key): _read_entry(value) for key, value in table.items()}
            self._files = [self._open(path) for path in _data_files(index, shards)]
            for shard, file in enumerate(self._files):
                _check_layout(entries, shard, os.fstat(file.fileno()).st_size)
            if any(entry.shard >= shards for entry in entries.values()):
                raise TableError("a tensor is in a data file that does not exist")
        except ValueError as error:
            self.close()
            raise ValueError(f"{index}: {error}") from None
        except BaseException:
            self.close()
            raise
        self._entries: dict[str, _Entry] = {}
        self._header: dict[str, Stored] = {}
        for theirs, entry in entries.items():
            name, shape = from_tf(theirs, entry.shape)
            self._entries[name] = entry
            self._header[name] = Stored(entry.dtype, shape)

    def header(self) -> Mapping[str, Stored]:
        """In the order of the index: sorted by TensorFlow's names."""
        return self._header

    def read_raw(self, name: str, out: np.ndarray) -> None:
        """See `Reader`."""
        entry = self._entries[name]
        file = self._files[entry.shard]
        where = f"{self.source}: tensor {name!r}"
        fill(file, entry.offset, out, where)
        if self._checksums and masked(crc32c(out.reshape(-1).view(np.uint8))) != entry.crc:
            raise ValueError(f"{where}: its bytes do not have the checksum that the index has of "
                             "them: get the data file again")  # fmt: skip
        if self._byte_order == "big":
            out.byteswap(inplace=True)


def _data_files(index: Path, shards: int) -> list[Path]:
    if index.suffix != INDEX_SUFFIX:
        raise TableError(f"an index's name must end with {INDEX_SUFFIX}: its data files have the "
                         "same one before that")  # fmt: skip
    stem = index.name.removesuffix(INDEX_SUFFIX)
    files = [index.with_name(f"{stem}.data-{i:05}-of-{shards:05}") for i in range(shards)]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file, but {index.name} needs it")
    return files


def _name(key: bytes) -> str:
    try:
        return key.decode("utf-8")
    except UnicodeDecodeError:
        raise TableError(f"{key!r:.80} is not the name of a tensor") from None


def _check_layout(entries: Mapping[str, _Entry], shard: int, file_size: int) -> None:
    """Check that the tensors cover a data file exactly."""
    inside = [(e.offset, e.size, name) for name, e in entries.items() if e.shard == shard]
    position = 0
    for offset, size, name in sorted(inside):
        if offset != position:
            fault = "overlaps the one before" if offset < position else "leaves a gap before it"
            raise TableError(f"tensor {name!r:.80} starts at byte {offset} of data file {shard}, "
                             f"not at {position}: it {fault}")  # fmt: skip
        position = offset + size
    if position != file_size:
        raise TableError(f"data file {shard} has {file_size} bytes, its tensors take {position}: "
                         "it was cut off, or is another model's; get it again")  # fmt: skip


# ---- protocol buffers ---------------------------------------------------------------------------


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The numbers and values of a message's fields: int, or bytes for texts and messages."""
    position = 0
    while position < len(message):
        key, position = read_varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value: Any
            value, position = read_varint(message, position)
        elif wire in (1, 2, 5):
            size = {1: 8, 5: 4}.get(wire)
            if size is None:
                size, position = read_varint(message, position)
            if position + size > len(message):
                raise TableError("a value of the index is cut off")
            value = message[position : position + size]
            position += size
            if wire != 2:
                value = int.from_bytes(value, "little")
        else:
            raise TableError("a value of the index is damaged")
        yield number, value


def _single_fields(message: bytes, kinds: Mapping[int, type]) -> dict[int, Any]:
    """Those fields of a message that are in `kinds`, each at most once."""
    found: dict[int, Any] = {}
    for number, value in _fields(message):
        if number in kinds:
            if number in found or not isinstance(value, kinds[number]):
                raise TableError("a value of the index is damaged")
            found[number] = value
    return found


def _read_bundle_header(message: bytes | None) -> tuple[int, str]:
    """The number of data files, and the byte order."""
    if message is None:
        raise TableError("a table, but not the index of a checkpoint: the header is missing")
    found = _single_fields(message, {1: int, 2: int})
    shards = found.get(1, 0)
    if not 0 < shards <= MAX_SHARDS:
        raise TableError(f"{shards} data files, expected 1 to {MAX_SHARDS}")
    return shards, "big" if found.get(2, 0) else "little"


def _read_entry(message: bytes) -> _Entry:
    kinds = {1: int, 2: bytes, 3: int, 4: int, 5: int, 6: int}
    found = _single_fields(message, kinds)
    if any(number == 7 for number, _ in _fields(message)):
        raise TableError("a tensor is stored in slices, which GPT-2's checkpoints don't do")
    number = found.get(1, 0)
    if number not in _DTYPES:
        raise TableError(f"cannot read TensorFlow's dtype {number}; known: {sorted(_DTYPES)}")
    dtype = _DTYPES[number]
    sizes = []
    for field, dim in _fields(found.get(2, b"")):
        if field == 2 and isinstance(dim, bytes):
            sizes.append(_single_fields(dim, {1: int}).get(1, 0))
    shape = check_shape(sizes, "a tensor of the index")
    entry = _Entry(dtype, shape, found.get(3, 0), found.get(4, 0), found.get(5, 0), found.get(6, 0))
    if not are_counts([entry.offset, entry.size]) or entry.size != Stored(dtype, shape).nbytes:
        raise TableError(f"{dtype} of shape {shape} does not take {entry.size} bytes")
    return entry


def _message(fields: list[tuple[int, int | bytes]]) -> bytes:
    """A protocol buffer of these fields; those that are 0 are left out."""
    result = bytearray()
    for number, value in fields:
        if isinstance(value, bytes):
            result += write_varint(number << 3 | 2) + write_varint(len(value)) + value
        elif value:
            result += write_varint(number << 3) + write_varint(value)
    return bytes(result)


def _entry_message(entry: _Entry) -> bytes:
    number = next(n for n, dtype in _DTYPES.items() if dtype == entry.dtype)
    shape = b"".join(_message([(2, _message([(1, n)]))]) for n in entry.shape)
    fields: list[tuple[int, int | bytes]] = [
        (1, number), (2, shape), (3, entry.shard), (4, entry.offset), (5, entry.size),
    ]  # fmt: skip
    # The checksum is a fixed32, wire type 5.
    return _message(fields) + write_varint(6 << 3 | 5) + entry.crc.to_bytes(4, "little")


# ---- writing ------------------------------------------------------------------------------------


def write_tf_bundle(
    prefix: str | os.PathLike[str],
    tensors: Mapping[str, Stored],
    read_raw: Callable[[str, np.ndarray], None],
) -> None:
    """Write PREFIX.data-00000-of-00001 and PREFIX.index, one tensor at a time, as OpenAI's are.

    tensors: usual names of a GPT-2's body, without "transformer.". read_raw: fills an array of
    RAW[dtype] and the tensor's shape.

    ValueError for a tensor that OpenAI's files have no name for. Whole, or not at all.
    """
    prefix = Path(prefix)
    theirs = {}
    for name, stored in tensors.items():
        found = to_tf(name, stored.shape)
        if found is None:
            raise ValueError(f"OpenAI's format has no place for {name} {stored.shape}: it is for "
                             "the body of a GPT-2 alone")  # fmt: skip
        theirs[found[0]] = name, Stored(stored.dtype, found[1])
    table = {b"": _message([(1, 1), (3, _message([(1, 1)]))])}
    offset = 0
    with atomic_write(prefix.with_name(f"{prefix.name}.data-00000-of-00001")) as f:
        for key in sorted(theirs):
            name, stored = theirs[key]
            array = np.empty(tensors[name].shape, RAW[stored.dtype])
            read_raw(name, array)
            raw = array.reshape(-1).view(np.uint8)
            f.write(raw)
            entry = _Entry(
                stored.dtype, stored.shape, 0, offset, stored.nbytes, masked(crc32c(raw))
            )
            table[key.encode()] = _entry_message(entry)
            offset += stored.nbytes
    with atomic_write(prefix.with_name(prefix.name + INDEX_SUFFIX)) as f:
        f.write(write_table(table))
