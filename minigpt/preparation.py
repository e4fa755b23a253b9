"""`minigpt prepare`: from a text to a folder of tokens to train on, see `token_files`."""

import json
import os
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

from minigpt.encode_file import (
    Survey,
    Unfinished,
    cut_out,
    encode_range,
    survey,
    tokenizer_sha256,
)
from minigpt.encode_workers import Tokenizer
from minigpt.files import FolderLock, atomic_write, read_json, remove_leftovers
from minigpt.progress import Meter, Report, tell
from minigpt.run_setup import require_document_token, tokenizer_by_name
from minigpt.text_stream import Documents, document_boundary, read_blocks, safe_parts
from minigpt.token_files import ABOUT_FILE, TRAIN_FILE, VALIDATION_FILE, Prepared, count_tokens
from minigpt.tokenizer import load_tokenizer

_PLAN_FILE = ".preparing.json"


def prepare(
    source: str | os.PathLike[str],
    tokenizer_name: str,
    out: str | os.PathLike[str],
    *,
    val_fraction: float = 0.1,
    processes: int = 1,
    documents: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    report: Report | None = print,
) -> Prepared:
    """Encode a text file, or all text files below a folder, into the folder `out`.

    The last `val_fraction` of the characters is for validation, the rest for training, each
    encoded on its own: the tokens are those that training on the text itself would make. Where
    there are documents (see `text_stream`) the split is between two of them. Neither text nor
    tokens need fit into memory.

    Args:
        tokenizer_name: "char", "bpe:N" (trained on the training part), or a tokenizer's folder.
        processes: how many encode at the same time.
        documents: each text file is a document, and "<|endoftext|>" stands before it.
        resume: go on where a call with the same arguments was stopped, or start.
        overwrite: replace what an earlier call left in `out`.

    Raises FileExistsError where `out` holds tokens already and neither was asked for, ValueError
    where the text or an argument is not that of the call that is resumed, and what reading,
    writing, and making the tokenizer raise.
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction={val_fraction} should be from 0 up to, but not, 1")
    if processes < 1:
        raise ValueError(f"processes={processes}: at least one is needed")
    out = Path(out)
    _refuse_to_overwrite(out, resume, overwrite)
    source = Documents(source) if documents else source
    found = survey(source)
    tell(report, f"text: {found.characters:,} characters of {source}")
    out.mkdir(parents=True, exist_ok=True)
    with FolderLock(out):
        remove_leftovers(out)
        if overwrite:
            _clear(out)
        if (out / ABOUT_FILE).exists():
            return _same(Prepared.read(out), found, val_fraction, out)
        boundary = int(found.characters * (1 - Fraction(str(val_fraction))))
        if 0 < boundary < found.characters:
            boundary = document_boundary(read_blocks(source), boundary)
        asked = {"tokenizer": tokenizer_name, "val_fraction": val_fraction, **asdict(found)}
        tokenizer = _make_tokenizer(source, boundary, asked, out, report)
        require_document_token(source, tokenizer)
        identity = tokenizer_sha256(tokenizer)
        origin = f"{found.sha256} {identity}"
        with Meter("encoding", found.characters, "characters", report, scaled=True) as meter:
            tokens = [
                _encode(source, start, stop, tokenizer, out / name, origin, processes, meter)
                for name, start, stop in (
                    (TRAIN_FILE, 0, boundary), (VALIDATION_FILE, boundary, found.characters),
                )
            ]  # fmt: skip
        about = Prepared(
            vocab_size=len(tokenizer), train_tokens=tokens[0], val_tokens=tokens[1],
            characters=found.characters, val_fraction=float(val_fraction),
            text_sha256=found.sha256, tokenizer_sha256=identity,
        )  # fmt: skip
        with atomic_write(out / ABOUT_FILE, "w") as file:
            json.dump(about.to_dict(), file, indent=2)
        (out / _PLAN_FILE).unlink()
        return about


def _encode(
    source: str | os.PathLike[str],
    start: int,
    stop: int,
    tokenizer: Tokenizer,
    target: Path,
    origin: str,
    processes: int,
    meter: Meter,
) -> int:
    if target.exists():             # done before an earlier call was stopped
        meter.advance(stop - start)
        return count_tokens(target, len(tokenizer))
    return encode_range(
        source, start, stop, tokenizer, target, origin=origin, processes=processes, meter=meter
    )


def _make_tokenizer(
    source: str | os.PathLike[str],
    boundary: int,
    asked: dict[str, object],
    out: Path,
    report: Report | None,
) -> Tokenizer:
    """The tokenizer asked for, saved in `out`; or the one there, if the same call made it.

    The plan is written before the tokenizer, and again when that is whole.
    """
    plan_file = out / _PLAN_FILE
    plan = read_json(plan_file) if plan_file.exists() else {}
    saved = plan.pop("saved", False)
    if plan and plan != asked:
        was, now = next((plan.get(key), asked[key]) for key in asked if plan.get(key) != asked[key])
        raise ValueError(
            f"{out}: what was begun there was begun with {was} and can't be gone on with with "
            f"{now}: --overwrite starts anew"
        )
    if saved:
        return load_tokenizer(out)
    _write_plan(plan_file, {**asked, "saved": False})
    try:
        tokenizer = tokenizer_by_name(
            str(asked["tokenizer"]),
            read_blocks(source),
            safe_parts(cut_out(read_blocks(source), 0, boundary)),
            report,
        )
    except Exception:
        if not plan:    # nothing was begun that another call could go on with
            plan_file.unlink()
        raise
    tokenizer.save_pretrained(out)
    _write_plan(plan_file, {**asked, "saved": True})
    return tokenizer


def _write_plan(path: Path, plan: dict[str, object]) -> None:
    with atomic_write(path, "w") as file:
        json.dump(plan, file)


def _refuse_to_overwrite(out: Path, resume: bool, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file: the tokens need a folder (--out)")
    if overwrite or not out.exists():
        return
    names = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    begun = (out / _PLAN_FILE).exists()
    if resume and (begun or not names or ABOUT_FILE in names):
        return
    if begun:
        raise FileExistsError(
            f"{out}: an earlier call was stopped half way: --resume goes on with it, --overwrite "
            "starts anew"
        )
    if names:
        raise FileExistsError(
            f"{out} holds {', '.join(names[:5])} already: --overwrite replaces what is there, "
            "--out names another folder"
        )


def _same(about: Prepared, found: Survey, val_fraction: float, out: Path) -> Prepared:
    """What is there, if it is what was asked for."""
    if (about.text_sha256, about.val_fraction) != (found.sha256, val_fraction):
        raise ValueError(
            f"{out} holds the tokens of another text, or of another split: --overwrite replaces it"
        )
    return about


def _clear(out: Path) -> None:
    """Remove what an earlier call made; what says that it is whole, first."""
    (out / ABOUT_FILE).unlink(missing_ok=True)
    for name in (TRAIN_FILE, VALIDATION_FILE):
        (out / name).unlink(missing_ok=True)
        Unfinished.of(out / name).remove()
    (out / _PLAN_FILE).unlink(missing_ok=True)
