"""`minigpt info`: what is in a model's file of weights, without loading the model."""

import argparse
from pathlib import Path

from minigpt.checkpoints.formats import open_checkpoint
from minigpt.checkpoints.hub import find_folder
from minigpt.cli_common import not_empty
from minigpt.config import GPT2Config
from minigpt.lora import base_of
from minigpt.weights_tree import is_parameter, memory, norms, rows, show_bytes


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.set_defaults(command=info)
    parser.description = (
        "Show a model's parameters, their shapes and sizes, and the memory that the model takes to "
        "run and to train: from the headers of its files, in any format that can be loaded. Blocks "
        "that are alike share a line."
    )
    parser.add_argument(
        "name", metavar="MODEL", nargs="?", type=not_empty,
        help="a folder with a model, a file of weights, or a name on the Hub",
    )  # fmt: skip
    parser.add_argument("--model", type=not_empty, help="the same")
    parser.add_argument(
        "--norms", action="store_true",
        help="read the tensors, one at a time, and show each one's norm, root mean square, and "
        "largest value",
    )  # fmt: skip
    parser.add_argument(
        "--no-checksums", action="store_true",
        help="with --norms, don't compare the tensors with the file's checksums",
    )  # fmt: skip


def info(arguments: argparse.Namespace) -> int:
    """`minigpt info`."""
    if (arguments.name is None) == (arguments.model is None):
        raise ValueError("info takes one MODEL")
    path = find_folder(arguments.name or arguments.model, "model")
    with open_checkpoint(path, not arguments.no_checksums) as reader:
        config, header = _config(path), reader.header()
        tied = config is None or config.tie_word_embeddings
        parameters = {name: t for name, t in header.items() if is_parameter(name, tied)}
        others = [t for name, t in header.items() if name not in parameters]
        print(f"{reader.source}: {reader.kind}, {len(header)} tensors")
        note = (lambda name: norms(reader, name)) if arguments.norms else None
        table = rows(parameters, note)
        total = sum(t.size for t in parameters.values())
        stored = show_bytes(sum(t.nbytes for t in parameters.values()))
        table.append(("total", "", f"{total:,}", stored, ""))
        widths = [max(len(row[i]) for row in table) for i in range(4)]
        for name, shape, size, count, last in table:
            line = f"{name:<{widths[0]}}  {shape:>{widths[1]}}  {size:>{widths[2]}}  "
            print(f"{line}{count:>{widths[3]}}  {last}".rstrip())
    if others:
        size = show_bytes(sum(t.nbytes for t in others))
        print(f"not parameters, {len(others)} tensors of {size}: causal masks, or a second copy of "
              "the embedding")  # fmt: skip
    base = base_of(path if path.is_dir() else path.parent)
    if base is None:
        print("\n".join(memory(total, config)))
    else:
        print(f"LoRA adapters of {base}, whose memory comes first: minigpt info {base}")
    return 0


def _config(path: Path) -> GPT2Config | None:
    """The configuration beside the weights; a file of weights need not have one."""
    try:
        return GPT2Config.from_pretrained(path if path.is_dir() else path.parent)
    except FileNotFoundError:
        if path.is_dir():
            raise
        return None
