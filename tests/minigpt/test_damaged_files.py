"""Thousands of damaged files of weights in every format: each is refused with its name, or read as
what it says; never a hang, a crash, or more memory than the file is worth.

MINIGPT_MUTATIONS says how many a format (2000).
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import tracemalloc
import warnings
from collections import Counter
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from minigpt import GPT2Config, GPT2Model
from minigpt.checkpoints import crc32c
from minigpt.checkpoints.formats import open_checkpoint
from minigpt.checkpoints.tf_table import read_table, write_table
from tests.minigpt.checkpoint_files import (
    legacy_bytes,
    pickled,
    torch_legacy,
    torch_zip,
    write_tf,
    zip_bytes,
)

COUNT = int(os.environ.get("MINIGPT_MUTATIONS", 2000))
SECONDS = 20  # for one file: far more than any takes, also on a busy machine

CONFIG = GPT2Config(vocab_size=7, n_positions=3, n_embd=4, n_layer=1, n_head=2)
ARRAYS = {name: p.numpy() for name, p in GPT2Model(CONFIG).named_parameters()}
ARRAYS["wpe.weight"] = ARRAYS["wpe.weight"].astype(np.float16)
RAW = {str(i): array.tobytes() for i, array in enumerate(ARRAYS.values())}
SIZES = {str(i): array.size for i, array in enumerate(ARRAYS.values())}

# ---- damage -------------------------------------------------------------------------------------


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One to three accidents or attacks on a run of bytes."""
    result = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 3])):
        if not result:
            break
        place = rng.randrange(len(result))
        length = min(rng.choice([1, 2, 4, 8, 30]), len(result) - place)
        kind = rng.randrange(9)
        if kind <= 1:
            result[place] ^= 1 << rng.randrange(8)
        elif kind == 2:
            result[place] = rng.choice([0, 1, 127, 128, 255, *b".()[]{}QRbcjrtuX"])
        elif kind == 3:
            result[place : place + length] = rng.randbytes(length)
        elif kind == 4:
            result[place : place + length] = rng.choice([b"\0", b"\xff", b"9"]) * length
        elif kind == 5:
            del result[place : place + length]
        elif kind == 6:
            result[place:place] = rng.randbytes(length)
        elif kind == 7:
            result[place:place] = result[place : place + length]  # twice
        else:
            other = rng.randrange(len(result))
            result[place : place + length] = result[other : other + length]
    if rng.random() < 0.08:
        del result[rng.randrange(len(result) + 1) :]
    return bytes(result)


# ---- the formats: each writes a folder with a damaged file --------------------------------------


def write_safetensors_files(folder: Path, rng: random.Random) -> None:
    good = safetensors.numpy.save(ARRAYS)
    length = int.from_bytes(good[:8], "little")
    kind = rng.randrange(4)
    if kind == 0:
        bad = damaged(good, rng)
    elif kind == 1:
        bad = damaged(good[: 8 + length], rng) + good[8 + length :]
    else:  # the length fits again
        header = json.loads(good[8 : 8 + length])
        name = rng.choice(sorted(header))
        field = rng.choice(["dtype", "shape", "data_offsets"])
        numbers = [0, 1, 3, 4, -1, 64, 2**31, 2**62, 2**63, 10**30, 1.5, "F16", "F64", None]
        if field == "dtype":
            header[name][field] = rng.choice(["F16", "F64", "BF16", "I8", "BOOL", "X", 1, None])
        elif rng.random() < 0.5:
            header[name][field][rng.randrange(len(header[name][field]))] = rng.choice(numbers)
        else:
            header[name][field] = [rng.choice(numbers) for _ in range(rng.randrange(5))]
        text = json.dumps(header).encode() if kind == 2 else damaged(good[8 : 8 + length], rng)
        bad = len(text).to_bytes(8, "little") + text + good[8 + length :]
    (folder / "model.safetensors").write_bytes(bad)


def write_sharded_files(folder: Path, rng: random.Random) -> None:
    names = sorted(ARRAYS)
    parts = {"a.safetensors": names[::2], "b.bin": names[1::2]}
    (folder / "a.safetensors").write_bytes(
        safetensors.numpy.save({name: ARRAYS[name] for name in parts["a.safetensors"]})
    )
    (folder / "b.bin").write_bytes(torch_zip({name: ARRAYS[name] for name in parts["b.bin"]}))
    weight_map = {name: file for file, inside in parts.items() for name in inside}
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}).encode()
    kind = rng.randrange(4)
    if kind == 0:
        weight_map[rng.choice(names)] = rng.choice(["b.bin", "a.safetensors", "../a.bin", "", 3])
        text = json.dumps({"weight_map": weight_map}).encode()
    elif kind == 1:
        file = folder / rng.choice(sorted(parts))
        file.write_bytes(damaged(file.read_bytes(), rng))
    else:
        text = damaged(text, rng)
    (folder / "model.safetensors.index.json").write_bytes(text)


def write_zip_files(folder: Path, rng: random.Random) -> None:
    if rng.random() < 0.4:
        data = damaged(torch_zip(ARRAYS), rng)
    else:  # a damaged pickle whose checksum is right
        data = zip_bytes(damaged(pickled(ARRAYS, legacy=False), rng), RAW)
    (folder / "pytorch_model.bin").write_bytes(data)


def write_legacy_files(folder: Path, rng: random.Random) -> None:
    if rng.random() < 0.4:
        data = damaged(torch_legacy(ARRAYS), rng)
    else:
        data = legacy_bytes(damaged(pickled(ARRAYS, legacy=True), rng), RAW, SIZES)
    (folder / "pytorch_model.bin").write_bytes(data)


@cache
def good_tf_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        write_tf(Path(folder), ARRAYS)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def write_tf_files(folder: Path, rng: random.Random) -> None:
    for name, content in good_tf_files().items():
        (folder / name).write_bytes(content)
    index, data = folder / "model.ckpt.index", folder / "model.ckpt.data-00000-of-00001"
    kind = rng.randrange(5)
    if kind == 0:
        data.write_bytes(damaged(data.read_bytes(), rng))
    elif kind == 1:
        index.write_bytes(damaged(index.read_bytes(), rng))
    elif kind == 2:  # damaged entries with right checksums
        table = read_table(index.read_bytes(), checksums=True)
        key = rng.choice(sorted(table))
        table[key] = damaged(table[key], rng)
        if rng.random() < 0.2:
            table[damaged(key, rng)] = table.pop(key)
        index.write_bytes(write_table(table))
    else:  # a damaged block with the right checksum
        good = index.read_bytes()
        size = len(good) - 48 - 13 - 5 - 15 - 5  # the data block; nothing is as long
        cut = good.index(bytes(4) + b"\1\0\0\0", size - 40) if kind == 3 else size
        block = damaged(good[:cut], rng)
        block += rng.choice([b"\0", b"\0", b"\0", b"\1", b"\2"])
        block += crc32c.masked(crc32c.crc32c(block)).to_bytes(4, "little")
        index.write_bytes(block + good[len(block) :])
    if rng.random() < 0.02:
        data.unlink()


WRITERS = {
    "safetensors": write_safetensors_files, "sharded": write_sharded_files,
    "torch zip": write_zip_files, "torch legacy": write_legacy_files, "tf": write_tf_files,
}  # fmt: skip

NUMPY = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "u2", "I64": "i8", "I32": "i4", "I16": "i2",
         "I8": "i1", "U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "?"}  # fmt: skip

# ---- what must hold -----------------------------------------------------------------------------


@contextmanager
def limited_time():
    """An exception where a file takes too long; where the system has no alarm, no limit."""
    if sys.platform == "win32":
        yield
        return

    def stop(number, frame):
        raise TimeoutError(f"more than {SECONDS} s for one file")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read_or_refuse(folder: Path) -> dict[str, np.ndarray] | Exception:
    """All tensors, or the error; checked, as is the memory that it took."""
    size = sum(path.stat().st_size for path in folder.iterdir())
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    with limited_time():
        try:
            with open_checkpoint(folder) as reader:
                found = {name: reader.read(name) for name in reader.header()}
        except (ValueError, FileNotFoundError) as error:
            assert str(folder) in str(error), error
            assert len(str(error)) < 2000, error
            return error
        finally:
            peak = tracemalloc.get_traced_memory()[1] - before
            assert peak < 1_000_000 + 40 * size
    for name, stored in open_checkpoint(folder).header().items():
        assert found[name].shape == stored.shape
    return found


def check_answer(kind: str, folder: Path, found: dict[str, np.ndarray]) -> str:
    """That what was read is what the file says, by another reader where there is one."""
    if kind == "safetensors":
        theirs = dict(safetensors.deserialize((folder / "model.safetensors").read_bytes()))
        assert found.keys() == theirs.keys()
        for name, tensor in theirs.items():
            wanted = np.frombuffer(tensor["data"], NUMPY[tensor["dtype"]])
            if tensor["dtype"] == "BF16":
                wanted = (wanted.astype(np.uint32) << 16).view(np.float32)
            assert list(found[name].shape) == tensor["shape"]
            np.testing.assert_array_equal(found[name].ravel(), wanted)
        return "as the package reads it"
    if kind in ("torch zip", "torch legacy"):
        try:
            import torch
        except ImportError:
            return "read"
        try:
            theirs = torch.load(folder / "pytorch_model.bin", weights_only=True)
        except Exception:  # of any kind, for damage in what we don't look at
            return "read, but not by torch"
        assert found.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert tensor.shape == found[name].shape
            np.testing.assert_array_equal(found[name], tensor.detach().double().numpy())
        return "as torch reads it"
    return "read"


def run(kind: str, count: int, seed: int, tmp_path: Path) -> Counter:
    """Outcomes of many damaged files of one kind."""
    outcomes: Counter = Counter()
    rng = random.Random(f"{kind} {seed}")
    with open_checkpoint(good_folder(kind, tmp_path)) as reader:  # makes the tables of checksums
        assert all(reader.read(name) is not None for name in reader.header())
    tracemalloc.start()
    try:
        for number in range(count):
            folder = tmp_path / f"{number}"
            folder.mkdir()
            WRITERS[kind](folder, rng)
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = read_or_refuse(folder)
                if isinstance(found, Exception):
                    outcomes["refused"] += 1
                else:
                    outcomes[check_answer(kind, folder, found)] += 1
                if number % 10 == 0:  # and through the front door
                    (folder / "config.json").write_text(CONFIG.to_json_string())
                    try:
                        GPT2Model.from_pretrained(folder)
                    except (ValueError, FileNotFoundError) as error:
                        assert str(folder) in str(error)
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
    finally:
        tracemalloc.stop()
    return outcomes


def good_folder(kind: str, tmp_path: Path) -> Path:
    folder = tmp_path / "good"
    folder.mkdir()
    if kind == "tf":
        write_tf(folder, ARRAYS)
    elif kind.startswith("torch"):
        make = torch_zip if kind == "torch zip" else torch_legacy
        (folder / "pytorch_model.bin").write_bytes(make(ARRAYS))
    else:
        (folder / "model.safetensors").write_bytes(safetensors.numpy.save(ARRAYS))
    return folder


@pytest.mark.parametrize("kind", WRITERS)
def test_some_damaged_files(kind, tmp_path):
    outcomes = run(kind, 60, 0, tmp_path)
    assert outcomes["refused"] > 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
def test_many_damaged_files(kind, tmp_path):
    outcomes = run(kind, COUNT, int(os.environ.get("MINIGPT_MUTATION_SEED", 1)), tmp_path)
    print(f"{kind}: {dict(outcomes)}")
    assert outcomes["refused"] > 0.4 * COUNT
