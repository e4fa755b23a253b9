"""Open a folder's weights, whichever format they are in: told by their content, not their names."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from minigpt.checkpoints.hub_cache import WEIGHTS_FILES
from minigpt.checkpoints.reader import Reader
from minigpt.checkpoints.safetensors_file import MAX_HEADER_BYTES, SafetensorsReader
from minigpt.checkpoints.shards import ShardedReader
from minigpt.checkpoints.tf_bundle import INDEX_SUFFIX, TFReader
from minigpt.checkpoints.tf_table import MAGIC
from minigpt.checkpoints.torch_bin import TorchReader, is_torch


def open_checkpoint(path: str | os.PathLike[str], checksums: bool = True) -> Reader:
    """Open the weights in a folder, or in a file; every header is checked, no tensor is read yet.

    A folder may hold model.safetensors or pytorch_model.bin, or the index.json of several of
    either, or OpenAI's model.ckpt.* or the bundle that its file `checkpoint` names: the first of
    these in this order; or a single file of weights of any other name.

    checksums: compare each tensor with the checksum that torch's zip files and OpenAI's files have
    of it, when it is read.

    Raises FileNotFoundError, with what the folder holds, if there are no weights; ValueError for
    damaged files, or several files of weights with none of the usual names.
    """
    path = Path(path)
    file = path if path.is_file() else _find(path)
    return _open(file, checksums)


def _open(file: Path, checksums: bool) -> Reader:
    if _kind(file) == "index":
        return ShardedReader(file, lambda shard: _open_single(shard, checksums))
    return _open_single(file, checksums)


def _open_single(file: Path, checksums: bool) -> Reader:
    kind = _kind(file)
    if kind == "safetensors":
        return SafetensorsReader(file)
    if kind == "torch":
        return TorchReader(file, checksums)
    if kind == "tf":
        return TFReader(file, checksums)
    raise ValueError(f"{file}: not a file of weights that can be read{_what_it_is(file)}")


def _find(folder: Path) -> Path:
    """The file of weights, or the index of several, in a folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    for name in WEIGHTS_FILES:
        if (folder / name).is_file():
            return folder / name
    found = [file for file in _files(folder) if _kind(file) not in (None, "index")]
    newest = _newest_of_tensorflow(folder)
    if newest in found:
        return newest
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise ValueError(f"{folder} has several files of weights, {names}: leave one, or call it "
                         f"{WEIGHTS_FILES[0]}")  # fmt: skip
    if not found:
        names = ", ".join(file.name for file in _files(folder)) or "nothing"
        raise FileNotFoundError(
            f"{folder} has no {WEIGHTS_FILES[0]}, {WEIGHTS_FILES[2]} or OpenAI's model.ckpt.index; "
            f"it holds: {names}"
        )
    return found[0]


def _newest_of_tensorflow(folder: Path) -> Path:
    """The index of the bundle that TensorFlow's file `checkpoint` names: it may say where the
    folder was when it was written, so that only the last part of the path counts.
    """
    try:
        with open(folder / "checkpoint", encoding="utf-8") as f:
            text = f.read(10_000)
    except (OSError, UnicodeDecodeError):
        text = ""
    match = re.search(r'^model_checkpoint_path: *"([^"\n]*)"', text, re.MULTILINE)
    name = re.split(r"[/\\]", match[1])[-1] if match else "model.ckpt"
    return folder / f"{name}{INDEX_SUFFIX}"


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_file())


def _kind(file: Path) -> str | None:
    """What a file's first and last bytes say it is."""
    size = file.stat().st_size
    with open(file, "rb") as f:
        first = f.read(64)
        if is_torch(first):
            return "torch"
        if int.from_bytes(first[:8], "little") + 8 <= size and first[8:9] == b"{":
            return "safetensors"
        f.seek(max(0, size - len(MAGIC)))
        if f.read() == MAGIC:
            return "tf"
        if first.lstrip()[:1] == b"{" and size < MAX_HEADER_BYTES:
            return "index" if _is_index(file.read_bytes()) else None
    # Damaged beyond recognition: its reader says how.
    return {".safetensors": "safetensors", ".index": "tf"}.get(file.suffix)


def _is_index(data: bytes) -> bool:
    try:
        return b'"weight_map"' in data and "weight_map" in json.loads(data)
    except (ValueError, RecursionError):
        return False


def _what_it_is(file: Path) -> str:
    """A hint for what is often found in the place of weights."""
    with open(file, "rb") as f:
        first = f.read(512).lstrip().lower()
    if first.startswith(b"version https://git-lfs"):
        return ": a pointer of git-lfs, get the file itself with `git lfs pull`"
    if first.startswith((b"<!doctype html", b"<html")):
        return ": a web page, download the file itself"
    return ""
