"""Weights in several files, as transformers splits large models: which tensor is in which file
stands in an index, `model.safetensors.index.json` or `pytorch_model.bin.index.json`,
{"weight_map": {tensor: file}}.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from minigpt.checkpoints.reader import Reader, Stored
from minigpt.files import read_json

MAX_SHARDS = 500  # they are open at the same time


class ShardedReader(Reader):
    """The tensors of all files that an index names.

    FileNotFoundError for a file that is not there; ValueError for an index that is none, a name
    that leads elsewhere, or a tensor that is not in the file named, or in another one, too.
    """

    def __init__(self, index: Path, open_shard: Callable[[Path], Reader]) -> None:
        super().__init__()
        weight_map = read_weight_map(index)
        files = sorted(set(weight_map.values()))
        self._reader_of: dict[str, Reader] = {}
        self._header: dict[str, Stored] = {}
        try:
            for name in files:
                path = index.parent / name
                if not path.is_file():
                    raise FileNotFoundError(f"{path}: no such file, but {index.name} names it")
                reader = self._open_files.enter_context(open_shard(path))
                for tensor, stored in reader.header().items():
                    if weight_map.get(tensor) != name:
                        raise ValueError(f"{path} holds {tensor!r}, which {index.name} has in "
                                         f"{weight_map.get(tensor)!r}")  # fmt: skip
                    self._reader_of[tensor], self._header[tensor] = reader, stored
                self.kind = f"{reader.kind}, {len(files)} files"
            for tensor, name in weight_map.items():
                if tensor not in self._header:
                    raise ValueError(f"{index}: {name!r} does not hold {tensor!r}")
        except BaseException:
            self.close()
            raise
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        self.source = f"{index.parent / files[0]}{more}"

    def header(self) -> Mapping[str, Stored]:
        """Those of all files together."""
        return self._header

    def read_raw(self, name: str, out: np.ndarray) -> None:
        """See `Reader`."""
        self._reader_of[name].read_raw(name, out)


def read_weight_map(index: Path) -> dict[str, str]:
    """Tensor -> file. ValueError for an index that is none, and for names that lead elsewhere."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{index}: weight_map must be an object of tensor names and file names")
    for name in weight_map.values():
        if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*\.(safetensors|bin)", name):
            raise ValueError(f"{index}: {name!r} is not the name of a file of weights beside it")
    files = set(weight_map.values())
    if not 0 < len(files) <= MAX_SHARDS:
        raise ValueError(f"{index}: names {len(files)} files of weights, not 1 to {MAX_SHARDS}")
    return weight_map
