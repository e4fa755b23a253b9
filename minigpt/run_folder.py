"""The folder of a training run: its checkpoints, and its log.

    runs/tiny/
        config.json  model.safetensors  ...   the newest model, in the Hub's layout
        log.csv  loss.png  layers.csv  samples/  tensorboard/
        checkpoints/step-000500/              all that is needed to go on from step 500
            config.json  model.safetensors  ...   the model and its tokenizer
            optimizer.safetensors                 AdamW's moments
            trainer_state.json                    step, settings, random state
            SHA256SUMS                            what `sha256sum -c` checks

A checkpoint is written under a name that starts with a dot, and renamed when its last byte is on
the disk: whatever moment the process dies at, each folder named ``step-*`` is whole. One that was
damaged later is told by its sums.
"""

import csv
import hashlib
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from minigpt.files import atomic_write, read_json, sync_folder

SUMS = "SHA256SUMS"
STATE_KEYS = (
    "step", "rows", "config", "data", "random_state", "first_validation_loss", "validation_loss",
    "best_step", "best_validation_loss",
)  # fmt: skip
COLUMNS = ("step", "train_loss", "val_loss", "lr", "grad_norm", "tokens_per_s")

# What a run writes at the top of its folder beside the log and its picture: see save_pretrained of
# the model and of the tokenizers.
_MODEL_FILES = (
    "model.safetensors", "config.json", "generation_config.json", "vocab.json", "merges.txt",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "pytorch_model.bin",
    "adapter_config.json", "adapter_model.safetensors",
)  # fmt: skip
_STEP_FOLDER = re.compile(r"step-(\d{6,})")
_SUM_LINE = re.compile(r"([0-9a-f]{64})  ([^/\\]+)")


class DamagedCheckpointError(ValueError):
    """A checkpoint folder whose files are not those that were written."""


class RunFolder:
    """Paths and files of one run; holds no state but its path."""

    def __init__(self, path: str | os.PathLike[str]):
        """Name a folder, which need not exist yet."""
        self.path = Path(path)
        self.log_path = self.path / "log.csv"
        self.checkpoints_path = self.path / "checkpoints"
        self.samples_path = self.path / "samples"

    def checkpoints(self) -> list[Path]:
        """All checkpoint folders, oldest step first, unchecked."""
        if not self.checkpoints_path.is_dir():
            return []
        folders = [p for p in self.checkpoints_path.iterdir() if p.is_dir()]
        found = [p for p in folders if _STEP_FOLDER.fullmatch(p.name)]
        return sorted(found, key=checkpoint_step)

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self.checkpoints_path / f"step-{step:06d}"

    def newest_good_checkpoint(self, report: Callable[[str], None]) -> Path | None:
        """The newest checkpoint whose sums are right, or None where there is none at all.

        Each damaged one is reported in a line and passed over; ValueError if all are damaged.
        """
        checkpoints = self.checkpoints()
        for checkpoint in reversed(checkpoints):
            try:
                verify_checkpoint(checkpoint)
                return checkpoint
            except DamagedCheckpointError as error:
                report(f"passing over a damaged checkpoint: {error}")
        if checkpoints:
            raise ValueError(
                f"{self.path}: all of its {len(checkpoints)} checkpoints are damaged: "
                "start anew with --overwrite, or in another folder"
            )
        return None

    def in_the_way(self) -> list[str]:
        """The names of what a new run would overwrite: checkpoints, models, another's log."""
        names = [name for name in _MODEL_FILES if (self.path / name).exists()]
        if self.log_path.exists() and not _is_log(self.log_path):
            names.append(self.log_path.name)
        return (["checkpoints"] if self.checkpoints() else []) + names

    @contextmanager
    def new_checkpoint(self, step: int, keep: int, best: int | None = None) -> Iterator[Path]:
        """Give a folder to write the checkpoint of ``step`` into; it counts when the block ends
        well. Then only the newest ``keep`` checkpoints stay, and that of the step ``best``.
        """
        final = self.checkpoint(step)
        unfinished = self.checkpoints_path / f".unfinished-{final.name}"
        self.remove_unfinished()
        unfinished.mkdir(parents=True)
        try:
            yield unfinished
            _write_sums(unfinished)
            if self.log_path.exists():  # the rows up to here must outlive a power cut, too
                with open(self.log_path, "r+b") as log:
                    os.fsync(log.fileno())
            if final.exists():  # a damaged one that this run passed over
                shutil.rmtree(final)
            unfinished.rename(final)
            sync_folder(self.checkpoints_path)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        older = [p for p in self.checkpoints() if checkpoint_step(p) < step]
        outdated = older[: max(0, len(older) - (keep - 1))]
        for checkpoint in (p for p in outdated if checkpoint_step(p) != best):
            # The dot first: a removal that is cut short must not leave half a checkpoint.
            doomed = checkpoint.with_name(f".unfinished-{checkpoint.name}")
            checkpoint.rename(doomed)
            shutil.rmtree(doomed)

    def remove_unfinished(self) -> None:
        """Delete what killed runs left half-written."""
        if self.checkpoints_path.is_dir():
            for leftover in self.checkpoints_path.glob(".unfinished-*"):
                shutil.rmtree(leftover)

    def clear(self) -> None:
        """Delete the checkpoints, models, log and picture of earlier runs, and nothing else."""
        for checkpoint in self.checkpoints():
            shutil.rmtree(checkpoint)
        self.remove_unfinished()
        for sample in self.samples_path.glob("step-*.txt"):
            sample.unlink()
        for name in (*_MODEL_FILES, "log.csv", "loss.png", "layers.csv"):
            (self.path / name).unlink(missing_ok=True)
        for events in (self.path / "tensorboard").glob("events.out.tfevents.*"):
            events.unlink()


def checkpoint_step(checkpoint: Path) -> int:
    """The step that a folder named ``step-000500`` was saved after."""
    match = _STEP_FOLDER.fullmatch(checkpoint.name)
    if match is None:
        raise ValueError(f"{checkpoint}: not a checkpoint folder (named like step-000500)")
    return int(match[1])


def verify_checkpoint(checkpoint: Path) -> None:
    """Raise DamagedCheckpointError unless every file is there with the content that was written."""
    try:
        lines = (checkpoint / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedCheckpointError(f"{checkpoint}: {SUMS} can't be read ({error})") from None
    names = set()
    for line in lines:
        match = _SUM_LINE.fullmatch(line)
        if match is None:
            raise DamagedCheckpointError(f"{checkpoint}: {SUMS} is garbled")
        expected, name = match.groups()
        try:
            found = _sha256(checkpoint / name)
        except OSError as error:
            raise DamagedCheckpointError(f"{checkpoint}: {name}: {error.strerror}") from None
        if found != expected:
            raise DamagedCheckpointError(f"{checkpoint}: {name} is not what was written")
        names.add(name)
    # What from_pretrained reads: a model, or adapters beside one.
    weights = "adapter_model" if "adapter_model.safetensors" in names else "model"
    for required in (f"{weights}.safetensors", "optimizer.safetensors", "trainer_state.json"):
        if required not in names:
            raise DamagedCheckpointError(f"{checkpoint}: {SUMS} has no line for {required}")


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What ``trainer_state.json`` holds; ValueError if it is not that of a checkpoint."""
    state = read_json(checkpoint / "trainer_state.json")
    for key in STATE_KEYS:
        if key not in state:
            raise ValueError(f"{checkpoint}: trainer_state.json has no {key!r}: another version's?")
    return state


def _write_sums(folder: Path) -> None:
    lines = [f"{_sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
    with atomic_write(folder / SUMS, "wb") as file:
        file.write("".join(lines).encode())


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class RunLog:
    """``log.csv``: one row a step, each step once, in order. A context manager."""

    def __init__(self, path: Path, step: int, columns: Sequence[str] = COLUMNS):
        """Open the log to go on after ``step``: later rows, which a killed run left behind, are
        dropped, and so is a row that is cut short. A run at step 0 begins with an empty log.

        columns: their names, "step" first.
        """
        self.path = path
        self.columns = columns
        rows = [row for row in _rows(path, len(columns)) if 0 < step and int(row[0]) <= step]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([columns, *rows])
        with atomic_write(path, "wb") as file:
            file.write(text.getvalue().encode())
        self.last_step = int(rows[-1][0]) if rows else -1
        self._file: IO[str] = open(path, "a", newline="", encoding="utf-8")

    def write(self, step: int, **values: float | None) -> None:
        """Append a row; what is None or left out stays an empty cell."""
        if step <= self.last_step:
            return
        cells = [str(step)]
        for column in self.columns[1:]:
            value = values.get(column)
            cells.append("" if value is None else f"{value:.7g}")
        self._file.write(",".join(cells) + "\n")
        self._file.flush()
        self.last_step = step

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class NoLog:
    """The log of a process that writes none."""

    def write(self, step: int, **values: float | None) -> None:
        """Write nothing."""

    def __enter__(self) -> "NoLog":
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def _is_log(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.readline(1000) == (",".join(COLUMNS) + "\n").encode()


def _rows(path: Path, columns: int) -> list[list[str]]:
    """The whole rows of a log, in order of their steps; none where there is no log."""
    rows: list[list[str]] = []
    if not path.exists():
        return rows
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        for line in file:
            row = line.removesuffix("\n").split(",")
            whole = line.endswith("\n") and len(row) == columns and row[0].isdecimal()
            if whole and (not rows or int(row[0]) > int(rows[-1][0])):
                rows.append(row)
    return rows
