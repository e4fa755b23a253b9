"""`minigpt train`: a new run, or one that is taken up again."""

import argparse
import shlex
import sys
import time
from pathlib import Path

from minigpt.cli_common import INTERRUPTED, discard_output, not_empty, print_line
from minigpt.distributed import Group, world
from minigpt.presets import PRESETS, TASKS, parse_settings, read_settings
from minigpt.progress import tell
from minigpt.run_folder import RunFolder
from minigpt.run_parts import fitted_to_model
from minigpt.token_files import holds_tokens
from minigpt.training import Trainer, TrainResult
from tensor.blas import kernel_advice


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.set_defaults(command=train)
    parser.description = (
        "Train a GPT-2 from scratch. Without any option: a tiny one, on the English prose that "
        "Python carries, in a minute or two."
    )
    parser.epilog = "Settings: " + ", ".join(PRESETS["tiny"].to_dict()) + "."
    parser.add_argument("--preset", choices=list(PRESETS), help="tiny unless given")
    parser.add_argument(
        "--config", metavar="FILE", type=not_empty,
        help="settings from a .json or .toml file, which may name a preset; --set counts more",
    )  # fmt: skip
    parser.add_argument(
        "--data", metavar="PATH", type=not_empty,
        help="a UTF-8 text file, a .jsonl file of documents, a folder of them, or tokens: of "
        "`minigpt prepare`, or a .bin file",
    )
    parser.add_argument(
        "--task", choices=TASKS,
        help="text unless given; complete, classify, tag, answer, choose: --data is a .jsonl or "
        ".csv file of labelled examples; addition makes its own",
    )
    parser.add_argument(
        "--model", metavar="FOLDER", type=not_empty,
        help="start from the weights there instead of fresh ones: fine-tuning",
    )
    parser.add_argument(
        "--tokenizer", metavar="KIND", type=not_empty,
        help="byte, char, bpe:SIZE, or a folder with one",
    )
    parser.add_argument("--out", metavar="FOLDER", type=not_empty, help="runs/PRESET unless given")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the newest good checkpoint, if any"
    )
    parser.add_argument("--overwrite", action="store_true", help="delete an earlier run in --out")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[],
        help="change a setting of the preset, or of the run that is resumed; may be repeated",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, metavar="N", help="of weights, batches and dropout")
    parser.add_argument("--device", help="cpu, cuda, emulator or auto; cpu unless given")
    parser.add_argument("--quiet", action="store_true", help="print only the results")


def train(arguments: argparse.Namespace) -> int:
    """`minigpt train`: a new run, or one taken up again; in all processes that mpiexec started."""
    processes = world()
    try:
        return _train(arguments, processes)
    except BaseException as error:
        if processes.size > 1:
            _end_all(processes, error)
        raise


def _end_all(processes: Group, error: BaseException) -> None:
    """Say why one process can't go on, and end the others, which would wait for it for ever."""
    if processes.rank:
        time.sleep(1)  # what went wrong everywhere is told, and ended, by rank 0
    line = " ".join(str(error).split()) or type(error).__name__
    print(f"minigpt: error: rank {processes.rank}: {line}", file=sys.stderr, flush=True)
    print(
        "minigpt: all ranks end; --resume goes on from the newest checkpoint, with any number of "
        "ranks", file=sys.stderr, flush=True,
    )  # fmt: skip
    processes.abort()


def _train(arguments: argparse.Namespace, processes: Group) -> int:
    if arguments.resume and arguments.overwrite:
        raise ValueError("--resume goes on with a run and --overwrite deletes it: give one of them")
    preset, changes = _settings(arguments)
    out = Path(arguments.out or f"runs/{preset or 'tiny'}")
    report = None if arguments.quiet or processes.rank else print_line
    folder = RunFolder(out)
    if arguments.resume and folder.checkpoints():
        if preset:
            tell(report, "resuming: the settings are those of the run, not those of --preset")
        trainer = Trainer.resume(out, changes, report=report, processes=processes)
    else:
        if arguments.resume:
            tell(report, f"no checkpoint in {out}: starting anew")
        config = fitted_to_model(PRESETS[preset or "tiny"].replace(**changes), given=changes)
        trainer = Trainer.start(
            config, out, report=report, overwrite=arguments.overwrite, processes=processes
        )
    if report is not None:
        report(trainer.describe())
        if processes.size > 1:
            report(f"ranks: {processes.size}, which share each batch")
        advice = kernel_advice()
        if advice:
            report(f"hint: {advice}")
    try:
        result = trainer.run()
    except BrokenPipeError:
        discard_output()
        print(f"minigpt: output closed: stopped and saved at step {trainer.step}", file=sys.stderr)
        return INTERRUPTED
    if processes.rank:
        return INTERRUPTED if result.interrupted else 0
    if result.interrupted:
        print(f"stopped and saved at step {result.step}: --resume goes on from there")
        return INTERRUPTED
    _print_result(result, trainer, out)
    return 0


def _settings(arguments: argparse.Namespace) -> tuple[str | None, dict[str, object]]:
    """The preset, if one was named, and the settings given on top: those of --config, then those
    of the command line, in whatever way.
    """
    preset: str | None = None
    given: dict[str, object] = {}
    if arguments.config is not None:
        preset, given = read_settings(arguments.config)
    changes = parse_settings(arguments.set)
    for name in ("data", "task", "model", "tokenizer", "device", "seed"):
        value = getattr(arguments, name)
        if value is not None:
            if name in changes:
                raise ValueError(f"--{name} and --set {name}=... are both given: drop one")
            changes[name] = value
    changes = given | changes
    data = changes.get("data")
    if isinstance(data, str) and holds_tokens(data) and Path(data).is_dir():
        changes.setdefault("tokenizer", data)  # a prepared folder has the one that made it
    return arguments.preset or preset, changes


def _print_result(result: TrainResult, trainer: Trainer, out: Path) -> None:
    if result.sample is not None:
        print(f"--- sample ---\n{result.sample}\n--------------")
    print(
        f"validation loss: {result.first_validation_loss:.4f} before the first step, "
        f"{result.last_validation_loss:.4f} after step {result.step}; "
        f"{result.whole_validation_loss:.4f} over the whole split"
    )
    if result.stopped_early:
        best = trainer.folder.checkpoint(result.best_step)
        print(
            f"stopped early: {trainer.config.patience} evaluations without a better one than "
            f"{result.best_validation_loss:.4f} after step {result.best_step}: {best}"
        )
    if result.score is not None:
        print(result.score)
    print(f"model, log.csv and loss.png: {out}")
    if not trainer.prompt_ids():  # its model writes no text
        return
    command = ["minigpt", "generate", "--model", str(out)]
    prompt = trainer.tokenizer.decode(trainer.prompt_ids())
    command += ["--", prompt] if prompt.startswith("-") else [prompt]
    print(f"more text: {shlex.join(command)}")
