"""Files of weights in every format, made without torch or TensorFlow, for tests to read and damage.

The pickles are put together opcode by opcode, so that a test can also write what torch never would.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np

from minigpt.checkpoints.hparams import to_hparams
from minigpt.checkpoints.reader import Stored
from minigpt.checkpoints.tf_bundle import write_tf_bundle

STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage",
            "int64": "LongStorage", "uint8": "ByteStorage", "bool": "BoolStorage"}  # fmt: skip
MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def integers(values) -> bytes:
    return b"(" + b"".join(map(integer, values)) + b"t"


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def storage(key: str, dtype: str, size: int, legacy: bool) -> bytes:
    """A persistent id, and the instruction to look it up."""
    values = [text("storage"), name("torch", STORAGES[dtype]), text(key), text("cpu"),
              integer(size)] + [b"N"] * legacy  # fmt: skip
    return b"(" + b"".join(values) + b"tQ"


def tensor(storage_: bytes, offset: int, shape, strides) -> bytes:
    arguments = [storage_, integer(offset), integers(shape), integers(strides), b"\x89",
                 name("collections", "OrderedDict") + b")R"]  # fmt: skip
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + b"".join(arguments) + b"tR"


def strides_of(shape) -> list[int]:
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def state_dict(items: dict[str, bytes]) -> bytes:
    """The pickle of a dict whose values are given as instructions."""
    body = b"".join(text(key) + value for key, value in items.items())
    return b"\x80\x02" + name("collections", "OrderedDict") + b")R(" + body + b"u."


def pickled(arrays: dict[str, np.ndarray], legacy: bool) -> bytes:
    return state_dict({
        key: tensor(storage(str(i), str(array.dtype), array.size, legacy), 0, array.shape,
                    strides_of(array.shape))
        for i, (key, array) in enumerate(arrays.items())
    })  # fmt: skip


def zip_bytes(data_pickle: bytes, storages: dict[str, bytes], **options) -> bytes:
    """A zip as torch's, around any pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        archive.writestr("archive/data.pkl", data_pickle)
        archive.writestr("archive/byteorder", b"little")
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", b"3\n")
    return file.getvalue()


def legacy_bytes(state_pickle: bytes, storages: dict[str, bytes], sizes: dict[str, int]) -> bytes:
    """A file in torch's older format, around any pickle."""
    facts = {"protocol_version": 1001, "little_endian": True,
             "type_sizes": {"short": 2, "int": 4, "long": 4}}  # fmt: skip
    parts = [b"\x80\x02" + MAGIC + b".", pickle.dumps(1001, 2), pickle.dumps(facts, 2),
             state_pickle, pickle.dumps(sorted(storages), 2)]  # fmt: skip
    for key in sorted(storages):
        parts += [struct.pack("<q", sizes[key]), storages[key]]
    return b"".join(parts)


def torch_zip(arrays: dict[str, np.ndarray]) -> bytes:
    """arrays as torch.save writes them."""
    data = {str(i): array.tobytes() for i, array in enumerate(arrays.values())}
    return zip_bytes(pickled(arrays, legacy=False), data)


def torch_legacy(arrays: dict[str, np.ndarray]) -> bytes:
    """arrays as torch.save wrote them before version 1.6."""
    data = {str(i): array.tobytes() for i, array in enumerate(arrays.values())}
    sizes = {str(i): array.size for i, array in enumerate(arrays.values())}
    return legacy_bytes(pickled(arrays, legacy=True), data, sizes)


def write_tf(folder: Path, arrays: dict[str, np.ndarray], config=None) -> None:
    """arrays, of a body, in OpenAI's format."""
    folder.mkdir(parents=True, exist_ok=True)

    def read(key: str, out: np.ndarray) -> None:
        out[...] = arrays[key]

    stored = {key: Stored(str(array.dtype), array.shape) for key, array in arrays.items()}
    write_tf_bundle(folder / "model.ckpt", stored, read)
    if config is not None:
        (folder / "hparams.json").write_text(json.dumps(to_hparams(config)))
