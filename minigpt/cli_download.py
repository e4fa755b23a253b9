"""`minigpt download`: a model's files from the Hub into the Hub's own cache."""

import argparse

from minigpt.checkpoints.hub import FULL_NAMES, cached_folder, download


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.set_defaults(command=download_model)
    parser.description = (
        "Fetch a model's configuration, tokenizer and weights from the Hub into its cache "
        "(HF_HOME, HF_HUB_CACHE), as far as they are not there, and print the folder: for --model, "
        "and for from_pretrained. What was interrupted goes on where it was."
    )
    parser.add_argument("model", help=f"{', '.join(FULL_NAMES)}, or ORG/NAME")
    parser.add_argument("--quiet", action="store_true", help="print the folder only")


def download_model(arguments: argparse.Namespace) -> int:
    """`minigpt download`."""
    name = arguments.model
    there = [cached_folder(name, part) for part in ("config", "tokenizer", "model")]
    if there[0] is not None and there.count(there[0]) == len(there):
        print(there[0])
        return 0
    print(download(name, report=None if arguments.quiet else _say))
    return 0


def _say(text: str) -> None:
    print(text, flush=True)
