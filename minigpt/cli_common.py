"""What several verbs of the command line share."""

import argparse
import os
import sys

INTERRUPTED = 130  # what shells give for a program that Ctrl-C ended


def print_line(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """The option --dtype of a verb that runs a model."""
    parser.add_argument(
        "--dtype", choices=["float32", "float16", "bfloat16"], default="float32",
        help="of weights and activations; the halves need --device cuda or emulator (float32)",
    )  # fmt: skip


def not_empty(text: str) -> str:
    """The type of an option that takes a path or a name."""
    if not text:
        raise argparse.ArgumentTypeError("is empty: is a shell variable unset?")
    return text


def discard_output() -> None:
    """Whoever read our output has had enough (`| head`): Python would complain when it flushes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
