"""The command line: `minigpt train`, `generate`, `tokenize`, `prepare`, `download`, `info`.

Exit codes: 0, 2 for a user's error with one line on stderr, 130 when a signal stopped the work
(training saves a checkpoint first).
"""

import argparse
import math
import os
import secrets
import shlex
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

from minigpt import cli_download, cli_tokenize
from minigpt.heads import GPT2LMHeadModel
from minigpt.preparation import prepare
from minigpt.presets import PRESETS, parse_settings
from minigpt.progress import tell
from minigpt.run_folder import RunFolder
from minigpt.sampling import generate_beyond_context
from minigpt.token_files import holds_tokens
from minigpt.tokenizer import load_tokenizer
from minigpt.training import Trainer, TrainResult
from tensor.blas import kernel_advice

INTERRUPTED = 130  # what shells give for a program that Ctrl-C ended

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
        _discard_output()
        return 0
    except KeyboardInterrupt:
        print("minigpt: interrupted", file=sys.stderr)
        return INTERRUPTED
    except USER_ERRORS as error:
        if sys.flags.dev_mode:
            raise
        print(f"minigpt: error: {_one_line(error)}", file=sys.stderr)
        return 2


def _discard_output() -> None:
    """Whoever read our output has had enough (`| head`): Python would complain when it flushes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(message: Warning | str, *where: object) -> None:
    print(f"minigpt: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _one_line(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        text = f"out of memory: {error}: lower batch_size, block_size or the size of the model"
    elif isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


# ---- train --------------------------------------------------------------------------------------


def train(arguments: argparse.Namespace) -> int:
    """`minigpt train`: a new run, or one taken up again."""
    out = Path(arguments.out or f"runs/{arguments.preset or 'tiny'}")
    if arguments.resume and arguments.overwrite:
        raise ValueError("--resume goes on with a run and --overwrite deletes it: give one of them")
    changes = _changes(arguments)
    report = None if arguments.quiet else _print_line
    folder = RunFolder(out)
    if arguments.resume and folder.checkpoints():
        if arguments.preset:
            tell(report, "resuming: the settings are those of the run, not those of --preset")
        trainer = Trainer.resume(out, changes, report=report)
    else:
        if arguments.resume:
            tell(report, f"no checkpoint in {out}: starting anew")
        config = PRESETS[arguments.preset or "tiny"].replace(**changes)
        trainer = Trainer.start(config, out, report=report, overwrite=arguments.overwrite)
    if report is not None:
        report(trainer.describe())
        advice = kernel_advice()
        if advice:
            report(f"hint: {advice}")
    try:
        result = trainer.run()
    except BrokenPipeError:
        _discard_output()
        print(f"minigpt: output closed: stopped and saved at step {trainer.step}", file=sys.stderr)
        return INTERRUPTED
    if result.interrupted:
        print(f"stopped and saved at step {result.step}: --resume goes on from there")
        return INTERRUPTED
    _print_result(result, trainer, out)
    return 0


def _changes(arguments: argparse.Namespace) -> dict[str, object]:
    """The settings that were given on the command line, in whatever way."""
    changes = parse_settings(arguments.set)
    for name in ("data", "tokenizer", "device", "seed"):
        value = getattr(arguments, name)
        if value is not None:
            if name in changes:
                raise ValueError(f"--{name} and --set {name}=... are both given: drop one")
            changes[name] = value
    data = changes.get("data")
    if isinstance(data, str) and holds_tokens(data) and Path(data).is_dir():
        changes.setdefault("tokenizer", data)  # a prepared folder has the one that made it
    return changes


def _print_result(result: TrainResult, trainer: Trainer, out: Path) -> None:
    if result.sample is not None:
        print(f"--- sample ---\n{result.sample}\n--------------")
    print(
        f"validation loss: {result.first_validation_loss:.4f} before the first step, "
        f"{result.last_validation_loss:.4f} after step {result.step}; "
        f"{result.whole_validation_loss:.4f} over the whole split"
    )
    print(f"model, log.csv and loss.png: {out}")
    command = ["minigpt", "generate", "--model", str(out)]
    prompt = trainer.tokenizer.decode(trainer.prompt_ids())
    command += ["--", prompt] if prompt.startswith("-") else [prompt]
    print(f"more text: {shlex.join(command)}")


def _print_line(text: str) -> None:
    print(text, flush=True)


# ---- generate -----------------------------------------------------------------------------------


def generate(arguments: argparse.Namespace) -> int:
    """`minigpt generate`: continue a prompt, printing each piece as soon as it is there."""
    tokenizer = load_tokenizer(arguments.model)
    model = GPT2LMHeadModel.from_pretrained(arguments.model).to(arguments.device)
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
            resume=arguments.resume,
            overwrite=arguments.overwrite,
            report=None if arguments.quiet else _print_line,
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


# ---- info ---------------------------------------------------------------------------------------


def info(arguments: argparse.Namespace) -> int:
    """`minigpt info`: the parameters of a model, by name."""
    model = GPT2LMHeadModel.from_pretrained(arguments.model)
    rows = [(name, parameter.shape) for name, parameter in model.named_parameters()]
    width = max(len(name) for name, _ in rows)
    for name, shape in rows:
        print(f"{name:<{width}}  {' x '.join(map(str, shape)):>15}  {math.prod(shape):>13,}")
    total = sum(math.prod(shape) for _, shape in rows)
    print(f"{'total':<{width}}  {'':>15}  {total:>13,}")
    return 0


# ---- the options --------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """argparse that leaves the one line of an error to ``main``."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def _not_empty(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("is empty: is a shell variable unset?")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="minigpt",
        description="Train a GPT-2, and write with it.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"minigpt {_version()}")
    verbs = parser.add_subparsers(title="what to do", metavar="VERB", required=True)
    _add_train(verbs.add_parser("train", help="train a model on a text", allow_abbrev=False))
    _add_generate(verbs.add_parser("generate", help="continue a prompt", allow_abbrev=False))
    cli_tokenize.add_options(
        verbs.add_parser("tokenize", help="show the tokens of a text", allow_abbrev=False)
    )
    _add_prepare(verbs.add_parser("prepare", help="turn text into tokens", allow_abbrev=False))
    cli_download.add_options(
        verbs.add_parser("download", help="fetch a model from the Hub", allow_abbrev=False)
    )
    _add_info(verbs.add_parser("info", help="list a model's parameters", allow_abbrev=False))
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=train)
    parser.description = (
        "Train a GPT-2 from scratch. Without any option: a tiny one, on the English prose that "
        "Python carries, in a minute or two."
    )
    parser.epilog = "Settings: " + ", ".join(PRESETS["tiny"].to_dict()) + "."
    parser.add_argument("--preset", choices=list(PRESETS), help="tiny unless given")
    parser.add_argument(
        "--data", metavar="PATH", type=_not_empty,
        help="a UTF-8 text file, a folder of them, or tokens: of `minigpt prepare`, or a .bin file",
    )
    parser.add_argument(
        "--tokenizer", metavar="KIND", type=_not_empty,
        help="byte, char, bpe:SIZE, or a folder with one",
    )
    parser.add_argument("--out", metavar="FOLDER", type=_not_empty, help="runs/PRESET unless given")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the newest good checkpoint, if any"
    )
    parser.add_argument("--overwrite", action="store_true", help="delete an earlier run in --out")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[],
        help="change a setting of the preset, or of the run that is resumed; may be repeated",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, metavar="N", help="of weights, batches and dropout")
    parser.add_argument("--device", help="cpu unless given")
    parser.add_argument("--quiet", action="store_true", help="print only the results")


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=generate)
    parser.description = "Continue a prompt with a model from a folder, and print what it writes."
    parser.add_argument("prompt", help="the text to go on from")
    parser.add_argument(
        "--model", metavar="FOLDER", required=True, type=_not_empty, help="a folder with a model"
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
    parser.add_argument("--device", default="cpu", help="where to compute (cpu)")
    parser.add_argument("--quiet", action="store_true", help="print the new text only")


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=prepare_data)
    parser.description = (
        "Turn text of any size into files of tokens, which `minigpt train --data FOLDER` and "
        "nanoGPT read without loading them: train.bin and val.bin."
    )
    parser.add_argument(
        "--data", metavar="PATH", required=True, type=_not_empty,
        help="a UTF-8 text file, or a folder of them",
    )
    parser.add_argument(
        "--tokenizer", metavar="KIND", required=True, type=_not_empty,
        help="byte, char, bpe:SIZE, or a folder with one",
    )
    parser.add_argument(
        "--out", metavar="FOLDER", required=True, type=_not_empty, help="made if it isn't there"
    )
    parser.add_argument(
        "--val-fraction", type=float, default=0.1, metavar="X",
        help="how much of the text, at its end, is for validation (0.1)",
    )
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="how many encode at a time (1)"
    )
    parser.add_argument("--resume", action="store_true", help="go on where it was stopped")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in --out")
    parser.add_argument("--quiet", action="store_true", help="print only the results")


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=info)
    parser.description = "List the parameters of a model: names, shapes, sizes."
    parser.add_argument(
        "--model", metavar="FOLDER", required=True, type=_not_empty, help="a folder with a model"
    )


def _version() -> str:
    try:
        return version("minigpt")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "(not installed)"
