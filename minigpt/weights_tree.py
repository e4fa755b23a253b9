"""What is in a model's file of weights, as a tree, and what memory the model takes: from the header
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np

from minigpt.checkpoints.reader import FLOATS, Reader, Stored
from minigpt.config import GPT2Config
from minigpt.loading import MASKS


@dataclass(frozen=True)
class Leaf:
    """A tensor of the file, by its full name."""

    name: str
    stored: Stored


Tree = dict[str, "Tree | Leaf"]
"""Modules by name, and in them the tensors."""

MAX_DEPTH = 9
_ORDER = (
    "transformer", "wte", "wpe", "h", "ln_1", "attn", "ln_cross_attn", "crossattention", "ln_2",
    "mlp", "ln_f", "c_attn", "q_attn", "c_fc", "c_proj", "weight", "bias",
)  # fmt: skip
"""As the numbers pass through them; other names come after these, in the file's order."""

Row = tuple[str, str, str, str, str]
"""A line of the table: name, shape, numbers, bytes, dtype."""


def is_parameter(name: str, tied: bool) -> bool:
    """Whether a tensor in a file is a parameter: no causal mask, no copy of the embedding."""
    return not name.endswith(MASKS) and not (tied and name == "lm_head.weight")


def tree_of(header: Mapping[str, Stored]) -> Tree:
    """Tensors by the parts of their names, in the order of the file."""
    root: Tree = {}
    for name, stored in header.items():
        *path, last = name.split(".", MAX_DEPTH)
        place = root
        for part in path:
            while isinstance(place.get(part), Leaf):  # a tensor "a", and another "a.b"
                part += " "
            place = cast(Tree, place.setdefault(part, {}))
        while last in place:
            last += " "
        place[last] = Leaf(name, stored)
    return root


def rows(header: Mapping[str, Stored], note: Callable[[str], str] | None = None) -> list[Row]:
    """The tree as lines. Blocks that are alike share one line, "0 … 11", unless there is a `note`,
    which is called with each tensor's name and takes the place of its dtype.
    """
    return list(_rows(tree_of(header), 0, note))


def _rows(tree: Tree, depth: int, note: Callable[[str], str] | None) -> Iterator[Row]:
    for keys in _groups(tree, together=note is None):
        node = tree[keys[0]]
        shown = keys[0] if len(keys) == 1 else f"{keys[0]} … {keys[-1]}, each"
        while isinstance(node, dict) and len(node) == len(keys) == 1:  # in one line: wte.weight
            key, node = next(iter(node.items()))
            shown = f"{shown}.{key}"
        name = "  " * depth + (shown if shown.isprintable() else ascii(shown))
        inside = [leaf.stored for leaf in _leaves(node)]
        size, count = sum(t.size for t in inside), show_bytes(sum(t.nbytes for t in inside))
        if isinstance(node, Leaf):
            shape = " x ".join(map(str, node.stored.shape)) or "1"
            last = node.stored.dtype if note is None else note(node.name)
            yield name, shape, f"{size:,}", count, last
        else:
            yield name, "", f"{size:,}", count, ""
            yield from _rows(node, depth + 1, note)


def _groups(tree: Tree, together: bool) -> list[list[str]]:
    """The names in a tree, numbers in their order, and if `together` runs of numbers whose blocks
    are alike in one group.
    """
    numbers = sorted((key for key in tree if key.isdecimal() and len(key) < 10), key=int)
    names = [key for key in tree if key not in numbers]
    names.sort(key=lambda key: _ORDER.index(key) if key in _ORDER else len(_ORDER))
    groups = [[key] for key in names]
    last = None
    for key in numbers:
        block = [(leaf.name.partition(f".{key}.")[2], leaf.stored) for leaf in _leaves(tree[key])]
        if together and groups and block == last and int(groups[-1][-1]) + 1 == int(key):
            groups[-1].append(key)
        else:
            groups.append([key])
        last = block
    return groups


def _leaves(node: Tree | Leaf) -> Iterator[Leaf]:
    if isinstance(node, Leaf):
        yield node
    else:
        for below in node.values():
            yield from _leaves(below)


def memory(parameters: int, config: GPT2Config | None) -> list[str]:
    """What the model takes, in a sentence for each way to run and to train it."""
    return [
        "to run it, float32: " + _running(parameters, config, 4),
        "to run it, float16 or bfloat16, on a GPU: " + _running(parameters, config, 2),
        f"to train it, float32: {show_bytes(16 * parameters)} of weights, gradients and AdamW's "
        "two averages, and what the forward pass of a batch leaves for the backward pass",
        f"to train it, bfloat16, on a GPU: {show_bytes(16 * parameters)} of these and of a float32 "
        "master of each weight, and half of what the forward pass leaves",
    ]


def _running(parameters: int, config: GPT2Config | None, itemsize: int) -> str:
    """Weights, and where the shape is known, keys and values."""
    weights = f"{show_bytes(itemsize * parameters)} of weights"
    if config is None:
        return weights
    pruned = sum(map(len, (config.pruned_heads or {}).values()))
    heads = config.n_layer * config.n_head - pruned
    per_token = 2 * heads * (config.n_embd // config.n_head) * itemsize  # k and v of each head
    context = show_bytes(per_token * config.n_positions)
    return (
        f"{weights}, and for each text {show_bytes(per_token)} a token of keys and values, "
        f"{context} for {config.n_positions:,}"
    )


def show_bytes(count: int) -> str:
    """A number of bytes to three or four digits, in powers of 1000."""
    size, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.95 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def norms(reader: Reader, name: str) -> str:
    """Facts of a tensor's values, which are read for it: norm, root mean square, largest."""
    if reader.header()[name].dtype not in FLOATS:
        return reader.header()[name].dtype
    values = reader.read(name)
    if not values.size:
        return "empty"
    if not np.isfinite(values).all():
        return f"{np.count_nonzero(~np.isfinite(values)):,} values are NaN or infinite"
    norm = float(np.sqrt(np.sum(np.square(values, dtype=np.float64))))
    largest = float(np.abs(values).max())
    return f"norm {norm:.6g}, rms {norm / values.size**0.5:.4g}, largest {largest:.4g}"
