"""Text of any size to a .bin file of tokens: in parts, by several processes, resumable.

The text is read in parts that are encoded one by one and appended to a file beside the target.
From time to time the file is flushed to the disk, and then how far it goes is noted down in a
second file, so that after a power failure or `kill -9` the work goes on from there: what was
encoded since is cut off, and the text is read again up to that place, but not encoded. When all is
done the first file gets the name of the target.
"""

import copy
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from minigpt.encode_workers import Tokenizer, encode_bytes, encode_in_processes
from minigpt.files import atomic_write, read_json, sync_folder
from minigpt.progress import Meter, Report
from minigpt.text_stream import read_blocks, safe_parts
from minigpt.token_files import token_type
from minigpt.tokenizer import GPT2Tokenizer

_SAVE_EVERY = 16            # parts, each of a megabyte or so: about a second's work


@dataclass(frozen=True)
class Survey:
    """A text that was read through once: its characters, and the sha256 of it as UTF-8."""

    characters: int
    sha256: str


def survey(source: str | os.PathLike[str]) -> Survey:
    """Read a text through, so that what is wrong with it shows before anything is written.

    Raises as `text_stream.read_blocks` does, and ValueError for a text that is empty.
    """
    if Path(source).exists() and not (Path(source).is_file() or Path(source).is_dir()):
        raise ValueError(f"{source}: a pipe or device can't be read twice: save the text to a file")
    characters, blank, digest = 0, True, hashlib.sha256()
    for block in read_blocks(source):
        characters += len(block)
        blank = blank and not block.strip()
        digest.update(block.encode())
    if blank:
        raise ValueError(f"{source}: the text is empty: there is nothing to encode")
    return Survey(characters, digest.hexdigest())


def tokenizer_sha256(tokenizer: Tokenizer) -> str:
    """By which a tokenizer is known again: the digest of the files it saves."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(Path(folder).iterdir()):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def encode_file(
    source: str | os.PathLike[str],
    tokenizer: Tokenizer,
    target: str | os.PathLike[str],
    *,
    processes: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    report: Report | None = None,
) -> int:
    """Write the ids of a text file, or of all text files below a folder, to the file `target`, and
    return how many they are: those of `tokenizer.encode` for the whole text at once.

    The text may be larger than memory; what is held of it are some parts of a megabyte for each
    process (more only where a single word is longer than that). What is a text is told at
    `text_stream.read_blocks`, what is in the file at `minigpt.token_files`.

    Args:
        processes: how many encode at the same time.
        resume: go on where a call with the same text and tokenizer was stopped.
        overwrite: replace `target`, and drop what a call that was stopped left behind.

    Raises FileExistsError where the target, or a part of it, is there and neither was asked for;
    ValueError where the text or the tokenizer is not that of the call that was stopped, or the
    text is no text; OSError where a file can't be written or an encoding process was killed.
    """
    target = Path(target)
    work = Unfinished.of(target)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists: overwrite=True replaces it")
    if work.exists() and not (resume or overwrite):
        raise FileExistsError(
            f"{target}: an earlier call was stopped half way: resume=True goes on with it, "
            "overwrite=True starts anew"
        )
    if overwrite:
        work.remove()
    found = survey(source)
    with Meter("encoding", found.characters, "characters", report, scaled=True) as meter:
        return encode_range(
            source, 0, found.characters, tokenizer, target,
            origin=f"{found.sha256} {tokenizer_sha256(tokenizer)}",
            processes=processes, meter=meter,
        )


def encode_range(
    source: str | os.PathLike[str],
    start: int,
    stop: int,
    tokenizer: Tokenizer,
    target: Path,
    *,
    origin: str,
    processes: int,
    meter: Meter,
) -> int:
    """`encode_file` for the characters from `start` to `stop`; goes on with what is there.

    origin: names text and tokenizer; what was begun with another is refused with a ValueError.
    """
    if processes < 1:
        raise ValueError(f"processes={processes}: at least one is needed")
    work = Unfinished.of(target)
    done = work.read(f"{origin} {start}-{stop}")
    added = tokenizer.get_added_vocab() if isinstance(tokenizer, GPT2Tokenizer) else {}
    parts = safe_parts(cut_out(read_blocks(source), start, stop), added)
    for part in islice(parts, done.parts):
        meter.advance(len(part))
    width = np.dtype(token_type(len(tokenizer))).itemsize
    with work.open(done, width) as file:
        for i, (length, ids) in enumerate(
            _encode_parts(parts, tokenizer, processes, first=done.parts == 0), done.parts + 1
        ):
            file.write(ids)
            done = _Done(done.origin, i, done.tokens + len(ids) // width)
            if i % _SAVE_EVERY == 0:
                work.save(file, done)
            meter.advance(length)
        work.save(file, done)
    work.finish(target)
    return done.tokens


def cut_out(blocks: Iterable[str], start: int, stop: int) -> Iterator[str]:
    """The characters from `start` to `stop` of a text in blocks."""
    for block in blocks:
        if start < len(block) and stop > 0:
            yield block[max(start, 0) : stop]
        start, stop = start - len(block), stop - len(block)
        if stop <= 0:
            return


# ---- what there is of a file so far -------------------------------------------------------------


@dataclass(frozen=True)
class _Done:
    """How far an unfinished file goes; `origin` says of what."""

    origin: str
    parts: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Unfinished:
    """The two files beside a target that is not done: its data so far, and how far it goes."""

    data: Path
    progress: Path

    @classmethod
    def of(cls, target: Path) -> "Unfinished":
        """Where they are, or would be."""
        return cls(
            target.with_name(f".{target.name}.unfinished"),
            target.with_name(f".{target.name}.progress.json"),
        )

    def exists(self) -> bool:
        """Whether there is work to go on with."""
        return self.progress.exists()

    def remove(self) -> None:
        """Drop it."""
        self.progress.unlink(missing_ok=True)
        self.data.unlink(missing_ok=True)

    def read(self, origin: str) -> _Done:
        """How far the data goes, at the beginning where there is none."""
        if not self.exists():
            return _Done(origin)
        try:
            done = _Done(**read_json(self.progress))
        except TypeError:
            done = _Done("damaged")
        if done.origin != origin:
            raise ValueError(
                f"{self.progress}: what was begun is of another text, of another tokenizer, or "
                "damaged: start anew (--overwrite)"
            )
        return done

    @contextmanager
    def open(self, done: _Done, width: int) -> Iterator[IO[bytes]]:
        """The data, to be written on after `done.tokens` ids of `width` bytes."""
        if not self.data.parent.is_dir():
            raise FileNotFoundError(f"cannot write {self.data}: there is no such folder")
        size = done.tokens * width
        if done.parts and (not self.data.exists() or self.data.stat().st_size < size):
            raise ValueError(f"{self.data}: shorter than was noted: start anew (--overwrite)")
        with open(self.data, "r+b" if done.parts else "wb") as file:
            file.truncate(size)
            file.seek(size)
            yield file

    def save(self, file: IO[bytes], done: _Done) -> None:
        """Bring the data to the disk, and then note how far it goes."""
        file.flush()
        os.fsync(file.fileno())
        with atomic_write(self.progress, "w") as progress:
            json.dump(asdict(done), progress)

    def finish(self, target: Path) -> None:
        """Give the data the name of the target."""
        os.replace(self.data, target)
        self.progress.unlink()
        sync_folder(target.parent)


# ---- encoding -----------------------------------------------------------------------------------


def _encode_parts(
    parts: Iterator[str], tokenizer: Tokenizer, processes: int, first: bool
) -> Iterator[tuple[int, bytes]]:
    """For each part of a text its length and its ids, as bytes, in order; `first` says whether the
    parts are those from the beginning, before which `add_prefix_space` and the like belong.
    """
    if first:
        for part in parts:
            yield len(part), encode_bytes(tokenizer, part)
            break
    later = copy.copy(tokenizer)
    if isinstance(later, GPT2Tokenizer):
        later.add_prefix_space = later.add_bos_token = False
    if processes == 1:
        for part in parts:
            yield len(part), encode_bytes(later, part)
    else:
        yield from encode_in_processes(parts, later, processes)
