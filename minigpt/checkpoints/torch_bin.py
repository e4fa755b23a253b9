"""Weights that torch.save wrote, `pytorch_model.bin`, without torch: its zip and its older format.

Both hold a pickle, of a dict of tensors that say which part of which storage they are, and the
storages' bytes. (torch/serialization.py, `_save` and `_legacy_save`.)

zip (since torch 1.6): members NAME/data.pkl, NAME/data/KEY for each storage, NAME/byteorder and a
few others, none of them compressed.
older: five pickles in a row, a magic number, a version, facts about the machine, the dict, and the
list of the storages' keys; then for each key, in this order, a 64-bit count and the elements.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from minigpt.checkpoints.reader import RAW, Reader, Stored, check_shape, fill
from minigpt.checkpoints.stored_zip import Member, read_members
from minigpt.checkpoints.torch_pickle import MAX_BYTES, Storage, Strided, read_pickle

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001

_BLOCK_BYTES = 1 << 22


@dataclass
class _Place:
    """Where a storage's bytes are, and their CRC-32 if it is known and still to be checked."""

    start: int
    crc: int | None = None


def is_torch(first: bytes) -> bool:
    """Whether a file that begins with these bytes, at least 32, is for TorchReader."""
    pickled = b"\x8a\x0a" + MAGIC.to_bytes(10, "little")  # as a pickle has it
    return first[:4] == b"PK\3\4" or (first[:1] == b"\x80" and pickled in first[:32])


class TorchReader(Reader):
    """A file of torch.save with a dict of tensors.

    checksums: compare each storage with the CRC-32 that a zip file has of it, when it is first
    read.

    ValueError, naming the file and the fault, for anything that is not such a file, whole.
    """

    def __init__(self, path: Path, checksums: bool = True) -> None:
        super().__init__()
        self.source = str(path)
        self._file = self._open(path)
        try:
            is_zip = self._file.read(4) == b"PK\3\4"
            self.kind = "torch, zip" if is_zip else "torch, legacy"
            read = _read_zip if is_zip else _read_legacy
            self._tensors, self._places, self._byte_order = read(self._file, self.source)
        except BaseException:
            self.close()
            raise
        if not checksums:
            for place in self._places.values():
                place.crc = None
        self._header = {
            name: Stored(tensor.storage.dtype, tensor.shape)
            for name, tensor in self._tensors.items()
        }

    def header(self) -> Mapping[str, Stored]:
        """In the order of the dict."""
        return self._header

    def read_raw(self, name: str, out: np.ndarray) -> None:
        """See `Reader`."""
        tensor = self._tensors[name]
        place = self._places[tensor.storage.key]
        where = f"{self.source}: tensor {name!r}"
        size = tensor.storage.size * out.itemsize
        if place.crc is not None and _crc32(self._file, place.start, size, where) != place.crc:
            raise ValueError(f"{where}: its bytes do not have the checksum that the file has of "
                             "them: get it again")  # fmt: skip
        place.crc = None  # checked
        if out.size:
            start = place.start + tensor.offset * out.itemsize
            _read_strided(self._file, start, tensor.strides, out, where)
        if self._byte_order == "big":
            out.byteswap(inplace=True)


def _read_strided(
    f: BinaryIO, start: int, strides: tuple[int, ...], out: np.ndarray, where: str
) -> None:
    """Read a tensor of any strides, in elements, whose first element is at `start`.

    What lies in the file as a whole, if with its axes in another order, is read a block at a time.
    """
    axes = [axis for axis in range(out.ndim) if out.shape[axis] > 1]
    axes.sort(key=lambda axis: -strides[axis])
    rest = [axis for axis in range(out.ndim) if out.shape[axis] == 1]
    target = out.transpose(axes + rest)  # the axes as they lie in the file
    lengths = [out.shape[axis] for axis in axes]
    whole = [math.prod(lengths[i + 1 :]) for i in range(len(lengths))]
    if [strides[axis] for axis in axes] != whole:
        span = 1 + sum((out.shape[axis] - 1) * strides[axis] for axis in axes)
        flat = np.empty(span, out.dtype)
        fill(f, start, flat, where)
        out[...] = np.lib.stride_tricks.as_strided(
            flat, out.shape, [n * out.itemsize for n in strides], writeable=False
        )
    elif axes == sorted(axes):
        fill(f, start, out, where)
    else:
        rows = max(1, _BLOCK_BYTES // (whole[0] * out.itemsize))
        for row in range(0, lengths[0], rows):
            part = target[row : row + rows]
            block = np.empty(part.shape, out.dtype)
            fill(f, start + row * whole[0] * out.itemsize, block, where)
            part[...] = block


def _crc32(f: BinaryIO, start: int, size: int, where: str) -> int:
    buffer, crc = np.empty(min(size, _BLOCK_BYTES), np.uint8), 0
    for done in range(0, size, _BLOCK_BYTES):
        part = buffer[: size - done]
        fill(f, start + done, part, where)
        crc = zlib.crc32(part.data, crc)
    return crc


# ---- the two formats ----------------------------------------------------------------------------

_Contents = tuple[dict[str, Strided], dict[str, _Place], str]
"""Tensors by name, storages by key, byte order."""


def _read_zip(f: BinaryIO, source: str) -> _Contents:
    members = read_members(f, source)
    found = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(found) != 1:
        raise ValueError(f"{source}: a zip file, but without the data.pkl of torch.save")
    folder = found[0].removesuffix("data.pkl")
    if folder + "constants.pkl" in members:
        raise ValueError(f"{source}: TorchScript, which holds a program; in torch, save "
                         "model.state_dict()")  # fmt: skip
    pickled = _read_member(f, members[found[0]], f"{source}: data.pkl")
    value, end = read_pickle(pickled, 0, f"{source}: data.pkl")
    if end != len(pickled):
        raise ValueError(f"{source}: data.pkl: {len(pickled) - end} bytes follow its end")
    tensors = _check_tensors(value, source)
    byte_order = "little"
    if folder + "byteorder" in members:
        text = _read_member(f, members[folder + "byteorder"], f"{source}: byteorder")
        byte_order = text.decode("latin-1")
        if byte_order not in ("little", "big"):
            raise ValueError(f"{source}: the byte order is {byte_order!r:.40}, not little or big")
    places = {
        name.removeprefix(folder + "data/"): member
        for name, member in members.items() if name.startswith(folder + "data/")
    }  # fmt: skip
    storages = _storages(tensors, source)
    _check_keys(storages, places.keys(), source)
    for key, storage in storages.items():
        expected = storage.size * RAW[storage.dtype].itemsize
        if places[key].size != expected:
            raise ValueError(f"{source}: storage {key!r} should have {expected} bytes, but the "
                             f"file has {places[key].size} of it")  # fmt: skip
    return tensors, {key: _Place(m.start, m.crc) for key, m in places.items()}, byte_order


def _read_member(f: BinaryIO, member: Member, where: str) -> bytes:
    """A small member, checked."""
    if member.size > MAX_BYTES:
        raise ValueError(f"{where}: {member.size} bytes are more than any model needs")
    data = np.empty(member.size, np.uint8)
    fill(f, member.start, data, where)
    if zlib.crc32(data.data) != member.crc:
        raise ValueError(f"{where}: its bytes do not have the checksum that the file has of them")
    return data.tobytes()


def _read_legacy(f: BinaryIO, source: str) -> _Contents:
    size = os.fstat(f.fileno()).st_size
    f.seek(0)
    data = f.read(min(size, MAX_BYTES))
    values: list[Any] = []
    position = 0
    for what in ("magic number", "version", "facts", "dict", "keys"):
        value, position = read_pickle(data, position, f"{source}: {what}")
        values.append(value)
        if what == "magic number" and value != MAGIC:
            raise ValueError(f"{source}: this is a pickle, but not one of torch.save")
    _, version, facts, state, keys = values
    if version != VERSION or not isinstance(facts, dict):
        raise ValueError(f"{source}: not version {VERSION} of torch's older format")
    byte_order = "big" if facts.get("little_endian") is False else "little"
    tensors = _check_tensors(state, source)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError(f"{source}: the storages' keys are not a list of texts")
    if len(set(keys)) < len(keys):
        raise ValueError(f"{source}: a storage occurs twice")
    storages = _storages(tensors, source)
    _check_keys(storages, keys, source)
    places = {}
    for key in keys:
        storage = storages[key]
        count = np.empty(8, np.uint8)
        fill(f, position, count, f"{source}: storage {key!r}")
        if int.from_bytes(count.tobytes(), byte_order) != storage.size:  # type: ignore[arg-type]
            raise ValueError(f"{source}: storage {key!r} does not have {storage.size} elements")
        places[key] = _Place(position + 8)
        position += 8 + storage.size * RAW[storage.dtype].itemsize
        if position > size:
            raise ValueError(f"{source}: storage {key!r} ends at byte {position}, but the file at "
                             f"{size}: it was cut off; get it again")  # fmt: skip
    if position != size:
        raise ValueError(f"{source}: {size - position} bytes at the end belong to no tensor")
    return tensors, places, byte_order


# ---- checks -------------------------------------------------------------------------------------


def _check_tensors(value: Any, source: str) -> dict[str, Strided]:
    """The pickle's value, if it is a dict of tensors that lie within their storages."""
    if not isinstance(value, dict):
        raise ValueError(f"{source}: holds a {type(value).__name__}, not a dict of tensors; in "
                         "torch, save model.state_dict()")  # fmt: skip
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, Strided):
            raise ValueError(
                f"{source}: {name!r:.80} is a {type(tensor).__name__}, not a tensor with a name; "
                "in torch, save model.state_dict() alone"
            )
        where = f"{source}: tensor {name!r:.80}"
        check_shape(tensor.shape, where)
        size, storage = math.prod(tensor.shape), tensor.storage
        last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides))
        if size and tensor.offset + last >= storage.size:
            raise ValueError(f"{where} reaches beyond its storage of {storage.size} elements")
        if size > storage.size:
            raise ValueError(f"{where} has {size} elements, more than the {storage.size} of its "
                             "storage; in torch, save tensor.contiguous()")  # fmt: skip
    return value


def _storages(tensors: dict[str, Strided], source: str) -> dict[str, Storage]:
    """The storages by key, each of one size and dtype."""
    storages: dict[str, Storage] = {}
    for tensor in tensors.values():
        storage = tensor.storage
        if storages.setdefault(storage.key, storage) != storage:
            raise ValueError(f"{source}: storage {storage.key!r:.80} has two sizes or dtypes")
    return storages


def _check_keys(storages: dict[str, Storage], keys: Any, source: str) -> None:
    """Each storage must be in the file, and each that is in the file belong to a tensor."""
    for key in storages:
        if key not in keys:
            raise ValueError(f"{source}: storage {key!r:.80} is missing: the file was cut off")
    for key in keys:
        if key not in storages:
            raise ValueError(f"{source}: storage {key!r:.80} belongs to no tensor")
