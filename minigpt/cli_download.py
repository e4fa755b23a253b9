"""`minigpt download`: a model's files from the Hub, or OpenAI's own, into a cache."""

import argparse

from minigpt.checkpoints.hub import FULL_NAMES, PARTS, cached_folder, download
from minigpt.checkpoints.openai_bucket import download_openai


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.set_defaults(command=download_model)
    parser.description = (
        "Fetch a model's configuration, tokenizer and weights from the Hub into its cache "
        "(HF_HOME, HF_HUB_CACHE), as far as they are not there, and print the folder: for --model, "
        "and for from_pretrained, which also take the name itself. What was interrupted goes on "
        "where it was."
    )
    parser.add_argument("model", help=f"{', '.join(FULL_NAMES)}, or ORG/NAME")
    parser.add_argument(
        "--tf", action="store_true",
        help="OpenAI's own TensorFlow files, of one of the four sizes, from its bucket into "
        "MINIGPT_CACHE (~/.cache/minigpt)",
    )
    parser.add_argument("--quiet", action="store_true", help="print the folder only")


def download_model(arguments: argparse.Namespace) -> int:
    """`minigpt download`."""
    report = None if arguments.quiet else _say
    if arguments.tf:
        print(download_openai(arguments.model, report))
        return 0
    there = [cached_folder(arguments.model, part) for part in PARTS]
    if there[0] is not None and there.count(there[0]) == len(there):
        print(there[0])
        return 0
    print(download(arguments.model, report=report))
    return 0


def _say(text: str) -> None:
    print(text, flush=True)
