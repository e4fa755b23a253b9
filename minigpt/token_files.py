"""Tokens in files, and how they are read without being loaded: ours, nanoGPT's and llm.c's.

A .bin file is a row of little-endian integers and nothing else, uint16 for a vocabulary of up to
65,536 and uint32 beyond: so nanoGPT's data/*/prepare.py writes them. llm.c's (its
dev/data/data_common.py) have 256 int32 before that: magic number, version, number of tokens.

A prepared folder holds train.bin and val.bin, the tokenizer that made them, and prepared.json,
which is written last. nanoGPT reads it, too. Other folders may have a split in several files with
"train" or "val" in their names, as llm.c writes them (edu_fineweb_train_000001.bin …): in the order
of their names they are one row.
"""

import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.files import read_json

TRAIN_FILE, VALIDATION_FILE, ABOUT_FILE = "train.bin", "val.bin", "prepared.json"

# magic number: (version, type), as in llm.c's HEADERS_INFO. Read as two tokens the first would be
# 55432 and 308, of which GPT-2's vocabulary has only one.
_LLM_C = {20240520: (1, "<u2"), 20240801: (7, "<u4")}
_LLM_C_HEADER = 256 * 4     # bytes


def token_type(vocab_size: int) -> str:
    """The NumPy type of a file of ids in [0, vocab_size)."""
    return "<u2" if vocab_size <= 2**16 else "<u4"


@dataclass(frozen=True)
class Prepared:
    """What prepared.json says. `text_sha256` is that of the whole text as UTF-8."""

    vocab_size: int
    train_tokens: int
    val_tokens: int
    characters: int
    val_fraction: float
    text_sha256: str
    tokenizer_sha256: str

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, as JSON can hold them."""
        return {"format": 1, **asdict(self)}

    @classmethod
    def read(cls, folder: Path) -> "Prepared":
        """The file in a folder; ValueError where it is damaged or from a later version."""
        path = folder / ABOUT_FILE
        values = read_json(path)
        if values.pop("format", None) != 1:
            raise ValueError(f"{path}: not of format 1, the only one known here")
        wanted = {name: field.type for name, field in cls.__dataclass_fields__.items()}
        types = {name: type(value) for name, value in values.items()}
        if types != wanted:
            raise ValueError(
                f"{path}: damaged: expected {', '.join(wanted)}, found {', '.join(types) or 'none'}"
                " or another type of value: prepare the text again"
            )
        return cls(**values)


class ShardedIds:
    """Several rows of ids (N_i,), mapped files above all, as one (N,) that can be cut into slices.

    A slice within a part is not copied; one across parts is.
    """

    ndim = 1

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        """Join parts of one type; ValueError where the types differ."""
        types = sorted({str(part.dtype) for part in parts})
        if len(types) != 1:
            raise ValueError(f"parts of one row must be of one type, not {', '.join(types)}")
        self.parts = list(parts)
        self.dtype = parts[0].dtype
        self._ends = list(accumulate(map(len, parts)))
        self.shape = (self._ends[-1],)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, place: slice) -> np.ndarray:
        start, stop, step = place.indices(len(self))
        if step != 1:
            raise ValueError(f"{place}: only slices of step 1")
        pieces = []
        for number in range(bisect_right(self._ends, start), len(self.parts)):
            first = self._ends[number] - len(self.parts[number])
            if first >= stop:
                break
            pieces.append(self.parts[number][max(start - first, 0) : stop - first])
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty(0, self.dtype)


Ids = np.ndarray | ShardedIds


def holds_tokens(source: str | os.PathLike[str]) -> bool:
    """Whether `source` is a .bin file, or a folder with train.bin or shards, rather than text."""
    path = Path(source)
    if path.is_dir():
        return bool(_split_files(path, "train"))
    return path.suffix == ".bin" and path.is_file()


def _split_files(folder: Path, split: str) -> list[Path]:
    """The files of a split: train.bin alone where it is, else those with its name in theirs."""
    alone = folder / f"{split}.bin"
    if alone.is_file():
        return [alone]
    return sorted(path for path in folder.glob(f"*{split}*.bin") if path.is_file())


def _map_split(folder: Path, split: str, vocab_size: int) -> Ids:
    files = _split_files(folder, split)
    if not files:
        raise FileNotFoundError(
            f"{folder}: no {split}.bin there, nor any other .bin file with {split!r} in its name"
        )
    parts = [map_tokens(path, vocab_size) for path in files]
    return parts[0] if len(parts) == 1 else ShardedIds(parts)


def read_splits(source: str | os.PathLike[str], vocab_size: int) -> tuple[Ids, Ids]:
    """The tokens to train and to validate on, mapped from a prepared folder, from another one with
    files of both, or from one .bin file, whose last tenth is for validation.

    The ids are not looked at: `data.TokenData` does that. FileNotFoundError where a file is
    missing; ValueError where one is damaged or was made for another vocabulary.
    """
    path = Path(source)
    if not path.is_dir():
        ids = map_tokens(path, vocab_size)
        boundary = len(ids) * 9 // 10
        return ids[:boundary], ids[boundary:]
    if not (path / ABOUT_FILE).exists():
        return _map_split(path, "train", vocab_size), _map_split(path, "val", vocab_size)
    about = Prepared.read(path)
    if about.vocab_size != vocab_size:
        raise ValueError(
            f"{path} was prepared with a vocabulary of {about.vocab_size} tokens, and this "
            f"tokenizer has {vocab_size}: use the tokenizer in that folder"
        )
    splits = []
    for name, count in ((TRAIN_FILE, about.train_tokens), (VALIDATION_FILE, about.val_tokens)):
        ids = _map(path / name, token_type(vocab_size), 0)
        if len(ids) != count:
            raise ValueError(
                f"{path / name}: {len(ids):,} tokens, but {ABOUT_FILE} says {count:,}: the file "
                "was cut or replaced: prepare the text again"
            )
        splits.append(ids)
    return splits[0], splits[1]


def map_tokens(path: str | os.PathLike[str], vocab_size: int) -> np.ndarray:
    """Map a .bin file into memory, read-only: an array (N,) of uint16 or uint32.

    llm.c's files are known by their header; any other is taken for a row of ids of the type that
    `vocab_size` needs. FileNotFoundError; ValueError for a size that doesn't fit.
    """
    path = Path(path)
    with open(path, "rb") as file:
        header = file.read(_LLM_C_HEADER)
    magic, version, count = np.frombuffer(header[:12].ljust(12, b"\0"), "<i4").tolist()
    if magic not in _LLM_C:
        return _map(path, token_type(vocab_size), 0)
    known_version, dtype = _LLM_C[magic]
    if version != known_version:
        raise ValueError(
            f"{path}: version {version} of llm.c's format {magic}; only {known_version} is known"
        )
    ids = _map(path, dtype, _LLM_C_HEADER)
    if len(ids) != count:
        raise ValueError(
            f"{path}: its header says {count:,} tokens, and {len(ids):,} are there: a part of the "
            "file is missing, or it is no token file"
        )
    return ids


def count_tokens(path: Path, vocab_size: int) -> int:
    """How many ids a file without a header holds."""
    return len(_map(path, token_type(vocab_size), 0))


def _map(path: Path, dtype: str, offset: int) -> np.ndarray:
    size = path.stat().st_size - offset
    width = np.dtype(dtype).itemsize
    if size < 0 or size % width:
        raise ValueError(
            f"{path}: {size + offset:,} bytes are no row of {width}-byte ids: the file was cut, or "
            "it is no token file"
        )
    if size == 0:               # which can't be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype, mode="r", offset=offset)
