"""Weights in several safetensors files, as transformers splits large models: which files there
are stands in `model.safetensors.index.json`, {"weight_map": {tensor: file}}.
"""

from __future__ import annotations

from pathlib import Path

from minigpt.checkpoints.safetensors_file import read_header
from minigpt.files import read_json


def read_index(index: Path) -> list[Path]:
    """The files that an index names, each once, beside it.

    FileNotFoundError for a file that is not there; ValueError for an index that is none, a name
    that leads elsewhere, or a tensor that is not in the file named, or in another one, too.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(text, str) for text in weight_map.values()
    ):
        raise ValueError(f"{index}: weight_map must be an object of tensor names and file names")
    files = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise ValueError(f"{index}: {name!r} is not the name of a safetensors file beside it")
        files[name] = index.parent / name
        if not files[name].is_file():
            raise FileNotFoundError(f"{files[name]}: no such file, but {index.name} names it")
    found = [(tensor, name) for name, file in files.items() for tensor in read_header(file)]
    for tensor, name in found:
        if weight_map.get(tensor) != name:
            raise ValueError(
                f"{files[name]} holds {tensor!r}, which {index.name} has in "
                f"{weight_map.get(tensor)!r}"
            )
    missing = sorted(weight_map.keys() - {tensor for tensor, _ in found})
    if missing:
        raise ValueError(f"{index}: {weight_map[missing[0]]!r} does not hold {missing[0]!r}")
    return list(files.values())
