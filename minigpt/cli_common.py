"""What several verbs of the command line share."""

import argparse
import os
import sys

INTERRUPTED = 130  # what shells give for a program that Ctrl-C ended


def print_line(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def not_empty(text: str) -> str:
    """The type of an option that takes a path or a name."""
    if not text:
        raise argparse.ArgumentTypeError("is empty: is a shell variable unset?")
    return text


def discard_output() -> None:
    """Whoever read our output has had enough (`| head`): Python would complain when it flushes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
