"""Text files of any size, a part at a time, cut where it changes no token.

Documents are told apart by "<|endoftext|>" before each of them, as GPT-2 was trained: in a file of
JSON-lines each line is one, and in a text that has this mark they are what stands between two.
"""

import codecs
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from minigpt.bpe import safe_cut
from minigpt.labelled import read_json_lines

TEXT_SUFFIXES = (".txt", ".text", ".md", ".markdown", ".rst", ".jsonl")
"""What counts as a text file in a folder. A single file may have any suffix."""

DOCUMENT = "<|endoftext|>"      # stands before each document

PART = 1 << 20              # characters
_BLOCK = 1 << 20            # bytes


class Documents:
    """A text file, or a folder of them, of which each is a document: a source of `read_blocks`."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)


def read_blocks(source: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the text of a UTF-8 file, or of all text files below a folder joined by blank lines,
    in blocks of about a megabyte that end anywhere.

    Files of a folder are those that end in ``TEXT_SUFFIXES``, in the order of their paths; what
    starts with a dot is left out. A byte order mark is dropped and Windows line ends become
    newlines. Where the source is `Documents`, ``DOCUMENT`` stands before each file instead of a
    blank line between them. Of a file that ends in .jsonl each line holds a document, {"text":
    ...}, and is given as ``DOCUMENT`` and its text; empty ones are left out.

    Raises:
        FileNotFoundError: no such path, or no text file in the folder.
        ValueError: not UTF-8 (with the byte offset), or binary; or, with the line, not a document.
    """
    path = Path(source)
    if path.is_dir():
        files = _text_files(path)
        if not files:
            kinds = " ".join(TEXT_SUFFIXES)
            raise FileNotFoundError(f"{path}: no text file in this folder (looked for {kinds})")
        for i, file in enumerate(files):
            if i > 0 and not isinstance(source, Documents):
                yield "\n\n"
            yield from _read_source(file, isinstance(source, Documents))
    elif path.exists():
        yield from _read_source(path, isinstance(source, Documents))
    else:
        raise FileNotFoundError(f"{path}: no such file or folder")


def read_parts(
    source: str | os.PathLike[str], whole: Iterable[str] = (), size: int = PART
) -> Iterator[str]:
    """Yield the same text in parts of ``size`` characters or a little more, to be encoded one by
    one: see `safe_parts`. Raises as `read_blocks` does.
    """
    return safe_parts(read_blocks(source), whole, size)


def safe_parts(blocks: Iterable[str], whole: Iterable[str] = (), size: int = PART) -> Iterator[str]:
    """Join blocks of text and cut them again, where `minigpt.bpe.safe_cut` says that no piece
    reaches across, and where none of the strings ``whole`` does: the tokens that are found in a
    text before BPE. So the tokens of the parts, joined, are the tokens of the text.

    The parts depend on the text alone, not on its blocks. Text without such a place, a megabyte of
    the letter a, stays in one part.
    """
    tokens = list(whole)
    margin = max(map(len, tokens), default=1)
    pending = ""
    start = size
    for block in blocks:
        pending += block
        while len(pending) >= start + margin:
            end = _cut(pending, start, tokens)
            if end + margin > len(pending):         # what comes next may change this
                start = max(size, len(pending) - margin)
                break
            yield pending[:end]
            pending = pending[end:]
            start = size
    while pending:
        end = _cut(pending, size, tokens)
        yield pending[:end]
        pending = pending[end:]


def _cut(text: str, start: int, tokens: list[str]) -> int:
    """The first safe cut from `start` on that is inside no token."""
    end = safe_cut(text, start)
    while end < len(text) and any(_reaches_across(token, text, end) for token in tokens):
        end = safe_cut(text, end + 1)
    return end


def _reaches_across(token: str, text: str, place: int) -> bool:
    return text.find(token, max(place - len(token) + 1, 0), place + len(token) - 1) >= 0


def _text_files(folder: Path) -> list[Path]:
    files = []
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in TEXT_SUFFIXES and path.is_file() and not hidden:
            files.append(path)
    return sorted(files, key=lambda path: path.relative_to(folder).parts)


def _read_source(path: Path, document: bool) -> Iterator[str]:
    if document and path.suffix.lower() != ".jsonl":  # which has marks of its own
        yield DOCUMENT
    yield from _read_file(path)


def has_documents(source: str | os.PathLike[str]) -> bool:
    """Whether there are documents, in files of JSON-lines or by name, which need a mark."""
    if isinstance(source, Documents):
        return True
    path = Path(source)
    files = _text_files(path) if path.is_dir() else [path]
    return any(file.suffix.lower() == ".jsonl" for file in files)


def document_boundary(blocks: Iterable[str], boundary: int) -> int:
    """Where to cut a text in two so that no document is: at the first one that begins at
    ``boundary`` or after it; else at the last one, if there are two; else at ``boundary``.
    """
    place, tail, last = 0, "", 0
    for block in blocks:
        text, offset = tail + block, place - len(tail)
        found = text.find(DOCUMENT, max(0, boundary - offset))
        if found >= 0:
            return offset + found
        before = text.rfind(DOCUMENT)
        last = offset + before if before >= 0 else last
        place += len(block)
        tail = text[-(len(DOCUMENT) - 1) :]
    return last or boundary


def _read_documents(path: Path) -> Iterator[str]:
    for line, record in read_json_lines(path):
        text = record.get("text")
        if not isinstance(text, str):
            has = ", ".join(map(repr, record)) or "nothing"
            raise ValueError(f"{path}, line {line}: no 'text' there that is a text; it has {has}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{path}, line {line}: half a character: {error.reason}") from None
        if text:
            yield DOCUMENT + text


def _read_file(path: Path) -> Iterator[str]:
    if path.suffix.lower() == ".jsonl":
        yield from _read_documents(path)
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    kept = ""                       # a carriage return whose newline may come with the next block
    with open(path, "rb") as file:
        raw = b"-"
        while raw:
            raw = file.read(_BLOCK)
            text = kept + _decode(decoder, raw, path, offset)
            if offset == 0:
                text = text.removeprefix("\ufeff")
            offset += len(raw)
            kept = "\r" if raw and text.endswith("\r") else ""
            text = text.removesuffix(kept).replace("\r\n", "\n")
            if text:
                yield text


def _decode(decoder: codecs.IncrementalDecoder, raw: bytes, path: Path, offset: int) -> str:
    """The text of the bytes `raw` at `offset`, and of those that the decoder has held back."""
    nul = raw.find(b"\0")
    if nul >= 0:
        raise ValueError(
            f"{path}: a binary file (NUL at byte {offset + nul}): UTF-8 text is needed"
        )
    held = decoder.getstate()[0]
    try:
        return decoder.decode(raw, final=not raw)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 text: {error.reason} at byte {offset - len(held) + error.start} "
            f"(0x{(held + raw)[error.start]:02x}): convert the file to UTF-8"
        ) from None
