"""The command line: `minigpt train`, `generate`, `eval`, `verify`, `tokenize`, `prepare`,
`plot`, `download`, `doctor`, `convert`, `info`.

Exit codes: 0, 1 when a model that is verified fails, 2 for a user's error with one line on stderr,
130 when a signal stopped the work (training saves a checkpoint first).
"""

import argparse
import os
import secrets
import shlex
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

from minigpt import (
    cli_convert,
    cli_doctor,
    cli_download,
    cli_eval,
    cli_info,
    cli_plot,
    cli_tokenize,
    cli_train,
    cli_verify,
)
from minigpt.cli_common import INTERRUPTED, add_dtype, discard_output, not_empty, print_line
from minigpt.heads import GPT2LMHeadModel
from minigpt.preparation import prepare
from minigpt.sampling import generate_beyond_context
from minigpt.tokenizer import load_tokenizer
from minigpt.warn import warn_user

USER_ERRORS = (
    ValueError,  # a setting, a text, a file's content, a shape
    OSError,  # a path, a permission, a full disk, a folder in use
    FloatingPointError,  # training that diverged
    MemoryError,  # a model or batch too large for the machine
)
"""What becomes one line. Everything else is a mistake in this program and keeps its traceback;
`python -X dev -m minigpt ...` shows the traceback of these, too.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (``sys.argv[1:]`` by default) and return its exit code."""
    if sys.stdout is None:  # a daemon may have closed them
        sys.stdout = open(os.devnull, "w")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that can't show a character shows a `?`
            stream.reconfigure(errors="replace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            arguments = _parser().parse_args(argv)
            code = arguments.command(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        discard_output()
        return 0
    except KeyboardInterrupt:
        print("minigpt: interrupted", file=sys.stderr)
        return INTERRUPTED
    except USER_ERRORS as error:
        if sys.flags.dev_mode:
            raise
        print(f"minigpt: error: {_one_line(error)}", file=sys.stderr)
        return 2


def _show_warning(message: Warning | str, *where: object) -> None:
    print(f"minigpt: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _one_line(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        text = f"out of memory: {error}"
    elif isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


# ---- generate -----------------------------------------------------------------------------------


def generate(arguments: argparse.Namespace) -> int:
    """`minigpt generate`: continue a prompt, printing each piece as soon as it is there."""
    if not 0 < arguments.top_p <= 1:  # above 1 the library, like transformers, takes it as off
        raise ValueError(f"--top-p {arguments.top_p} must be above 0 and at most 1, 1 for off")
    model = GPT2LMHeadModel.from_pretrained(
        arguments.model, arguments.device, arguments.dtype
    )
    tokenizer = load_tokenizer(arguments.model)
    made_as = (model.config.architectures or [GPT2LMHeadModel.__name__])[0]
    if made_as.startswith("GPT2For"):
        warn_user(
            f"{arguments.model} was trained as a {made_as}, which answers and does not write: what "
            "follows may be noise"
        )
    prompt = tokenizer.encode(arguments.prompt)
    if max(prompt, default=0) >= model.config.vocab_size:
        raise ValueError(
            f"{arguments.model}: the tokenizer's id {max(prompt)} is outside the model's "
            f"vocabulary of {model.config.vocab_size}: the two don't belong together"
        )
    decoder = tokenizer.stream_decoder(skip_special_tokens=True)

    unwritten = [] if arguments.quiet else [arguments.prompt]  # until the options have proved good

    def show(token: int) -> None:
        while unwritten:
            sys.stdout.write(unwritten.pop())
        sys.stdout.write(decoder.put(token))
        sys.stdout.flush()

    generate_beyond_context(
        model,
        prompt,
        arguments.max_new_tokens,
        on_token=show,
        do_sample=not arguments.greedy,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        num_beams=arguments.num_beams,
        repetition_penalty=arguments.repetition_penalty,
        tokenizer=tokenizer,
        seed=secrets.randbits(32) if arguments.seed is None else arguments.seed,
        cuda_graph=arguments.cuda_graph,
    )
    sys.stdout.write(decoder.end() + "\n")
    return 0


# ---- prepare ------------------------------------------------------------------------------------


def prepare_data(arguments: argparse.Namespace) -> int:
    """`minigpt prepare`: a text of any size becomes a folder of tokens."""
    if arguments.resume and arguments.overwrite:
        raise ValueError("--resume goes on and --overwrite starts anew: give one of them")
    try:
        about = prepare(
            arguments.data,
            arguments.tokenizer,
            arguments.out,
            val_fraction=arguments.val_fraction,
            processes=arguments.processes,
            documents=arguments.documents,
            resume=arguments.resume,
            overwrite=arguments.overwrite,
            report=None if arguments.quiet else print_line,
        )
    except KeyboardInterrupt:
        print(f"minigpt: stopped; --resume goes on with {arguments.out}", file=sys.stderr)
        return INTERRUPTED
    print(
        f"{about.train_tokens:,} tokens to train on, {about.val_tokens:,} to validate, a "
        f"vocabulary of {about.vocab_size:,}: {arguments.out}"
    )
    if not arguments.quiet:
        print(f"to train on them: {shlex.join(['minigpt', 'train', '--data', arguments.out])}")
    return 0


# ---- the options --------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """argparse that leaves the one line of an error to ``main``."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="minigpt",
        description="Train a GPT-2, and write with it.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"minigpt {_version()}")
    verbs = parser.add_subparsers(title="what to do", metavar="VERB", required=True)
    cli_train.add_options(
        verbs.add_parser("train", help="train a model on a text", allow_abbrev=False)
    )
    _add_generate(verbs.add_parser("generate", help="continue a prompt", allow_abbrev=False))
    cli_tokenize.add_options(
        verbs.add_parser("tokenize", help="show the tokens of a text", allow_abbrev=False)
    )
    cli_eval.add_options(
        verbs.add_parser("eval", help="measure a model on a text", allow_abbrev=False)
    )
    cli_verify.add_options(
        verbs.add_parser("verify", help="check a model, and us with it", allow_abbrev=False)
    )
    _add_prepare(verbs.add_parser("prepare", help="turn text into tokens", allow_abbrev=False))
    cli_plot.add_options(verbs.add_parser("plot", help="draw runs together", allow_abbrev=False))
    cli_download.add_options(
        verbs.add_parser("download", help="fetch a model from the Hub", allow_abbrev=False)
    )
    cli_doctor.add_options(
        verbs.add_parser("doctor", help="what works here, and what to do", allow_abbrev=False)
    )
    cli_convert.add_options(
        verbs.add_parser("convert", help="write a model in another format", allow_abbrev=False)
    )
    cli_info.add_options(
        verbs.add_parser("info", help="show a model's parameters", allow_abbrev=False)
    )
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=generate)
    parser.description = "Continue a prompt with a model, and print what it writes."
    parser.add_argument("prompt", help="the text to go on from")
    parser.add_argument(
        "--model", required=True, type=not_empty,
        help="a folder with a model, or its name on the Hub, such as gpt2",
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=100, metavar="N",
        help="how many to add (100)",
    )
    parser.add_argument(
        "--temperature", type=float, default=1.0, metavar="X",
        help="below 1: closer to greedy (1.0)",
    )
    parser.add_argument(
        "--top-k", type=int, default=50, metavar="N",
        help="only the N likeliest tokens; 0 is off (50)",
    )
    parser.add_argument(
        "--top-p", type=float, default=1.0, metavar="X",
        help="only the likeliest up to this probability; 1 is off (1.0)",
    )
    parser.add_argument(
        "--repetition-penalty", type=float, default=1.0, metavar="X",
        help="above 1: what was there before is less likely (1.0)",
    )
    parser.add_argument(
        "--num-beams", type=int, default=1, metavar="N",
        help="search among N continuations at once; with --greedy for the likeliest text (1)",
    )
    parser.add_argument("--greedy", action="store_true", help="always the likeliest token")
    parser.add_argument(
        "--seed", type=int, metavar="N", help="the same text again; another each time unless given"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, emulator or auto (cpu)")
    add_dtype(parser)
    parser.add_argument(
        "--cuda-graph", action="store_true",
        help="with --device cuda: a token's kernels as one launch, recorded and replayed",
    )
    parser.add_argument("--quiet", action="store_true", help="print the new text only")


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=prepare_data)
    parser.description = (
        "Turn text of any size into files of tokens, which `minigpt train --data FOLDER` and "
        "nanoGPT read without loading them: train.bin and val.bin."
    )
    parser.add_argument(
        "--data", metavar="PATH", required=True, type=not_empty,
        help="a UTF-8 text file, a .jsonl file of documents, or a folder of them",
    )
    parser.add_argument(
        "--tokenizer", metavar="KIND", required=True, type=not_empty,
        help="byte, char, bpe:SIZE, or a folder with one",
    )
    parser.add_argument(
        "--out", metavar="FOLDER", required=True, type=not_empty, help="made if it isn't there"
    )
    parser.add_argument(
        "--val-fraction", type=float, default=0.1, metavar="X",
        help="how much of the text, at its end, is for validation (0.1)",
    )
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="how many encode at a time (1)"
    )
    parser.add_argument(
        "--documents", action="store_true",
        help="each text file is a document: <|endoftext|> before it, and no split within one",
    )
    parser.add_argument("--resume", action="store_true", help="go on where it was stopped")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in --out")
    parser.add_argument("--quiet", action="store_true", help="print only the results")


def _version() -> str:
    try:
        return version("minigpt")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "(not installed)"
