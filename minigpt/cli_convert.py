"""`minigpt convert`: a model in another format."""

import argparse
from pathlib import Path

from minigpt.checkpoints.hub import find_folder
from minigpt.cli_common import not_empty, print_line
from minigpt.convert import FORMATS, convert


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.set_defaults(command=convert_model)
    parser.description = (
        "Write a model to a new folder in another format, every tensor byte for byte: from "
        "safetensors, torch's .bin or OpenAI's TensorFlow files, to safetensors or OpenAI's."
    )
    parser.add_argument("source", metavar="MODEL", type=not_empty,
                        help="a folder with a model, or its name on the Hub")  # fmt: skip
    parser.add_argument("target", metavar="FOLDER", type=not_empty, help="a new folder")
    parser.add_argument("--to", choices=FORMATS, default=FORMATS[0],
                        help=f"the format ({FORMATS[0]})")  # fmt: skip
    parser.add_argument("--no-checksums", action="store_true",
                        help="don't compare the tensors with the checksums that files have of "
                        "them")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="print nothing")


def convert_model(arguments: argparse.Namespace) -> int:
    """`minigpt convert`."""
    source, target = find_folder(arguments.source, "model"), Path(arguments.target)
    report = None if arguments.quiet else print_line
    convert(source, target, arguments.to, not arguments.no_checksums, report)
    if report is not None:
        report(f"{target}: {', '.join(sorted(path.name for path in target.iterdir()))}")
    return 0
