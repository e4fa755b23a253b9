"""OpenAI's own files of GPT-2, for TensorFlow, from the bucket where they were released.

Seven files a model (openai/gpt-2, download_model.py), in a folder of their own:

    MINIGPT_CACHE or ~/.cache/minigpt      (XDG_CACHE_HOME is honoured)
        openai-gpt-2/124M/hparams.json, model.ckpt.index, model.ckpt.data-00000-of-00001, …

They are not part of the Hub's cache, which has no place for files that are on no Hub. The server
may be another one, MINIGPT_OPENAI_ENDPOINT; HF_HUB_OFFLINE forbids this download, too.
"""

from __future__ import annotations

import base64
import binascii
import os
from email.message import Message
from pathlib import Path

from minigpt.checkpoints.hub import FULL_NAMES, is_offline
from minigpt.files import wait_for_lock
from minigpt.official_vocabulary import MERGES_SHA256, VOCAB_SHA256
from minigpt.progress import Report, tell

DEFAULT_ENDPOINT = "https://openaipublic.blob.core.windows.net/gpt-2/models"

DATA_FILE = "model.ckpt.data-00000-of-00001"
FILES = ("checkpoint", "hparams.json", "encoder.json", "vocab.bpe", "model.ckpt.index",
         "model.ckpt.meta", DATA_FILE)

OPENAI_NAMES = {
    "gpt2": "124M", "gpt2-medium": "355M", "gpt2-large": "774M", "gpt2-xl": "1558M",
}
"""OpenAI's names are the numbers of parameters, of the same four models."""

SIZES = {
    "124M": {"checkpoint": 77, "hparams.json": 90, DATA_FILE: 497_759_232,
             "model.ckpt.index": 5_215, "model.ckpt.meta": 471_155},
    "355M": {"checkpoint": 77, "hparams.json": 91, DATA_FILE: 1_419_292_672,
             "model.ckpt.index": 10_399, "model.ckpt.meta": 926_519},
    "774M": {DATA_FILE: 3_096_120_320},
    "1558M": {DATA_FILE: 6_230_444_800},
}
"""Bytes, as far as they are known: from the tests of rasbt/LLMs-from-scratch, chapter 5, and the
data files as four bytes a parameter. Other sizes are those that the server tells."""

SHA256 = {"encoder.json": VOCAB_SHA256, "vocab.bpe": MERGES_SHA256}


def openai_name(name: str) -> str:
    """OpenAI's name of a model, "124M", from that or from one of the Hub's. ValueError for others.
    """
    short = {full: short for short, full in FULL_NAMES.items()}.get(name, name)
    size = OPENAI_NAMES.get(short, short)
    if size not in SIZES:
        raise ValueError(
            f"{name!r} is not among the models that OpenAI released for TensorFlow: "
            f"{', '.join(OPENAI_NAMES)}"
        )
    return size


def openai_folder(name: str) -> Path:
    """Where a model's files are kept, whether they are there or not."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    cache = os.environ.get("MINIGPT_CACHE") or os.path.join(base, "minigpt")
    folder = Path(os.path.expandvars(os.path.expanduser(cache)))
    return folder / "openai-gpt-2" / openai_name(name)


def download_openai(name: str, report: Report | None = None) -> Path:
    """Fetch the files of a model as far as they are not there, and return their folder.

    FileNotFoundError, with what was tried and what to do, where they can't be had; OSError for a
    disk without room.
    """
    from minigpt.checkpoints.http_download import DownloadError

    folder = openai_folder(name)
    if all((folder / file).is_file() for file in FILES):
        return folder
    if is_offline():
        raise _not_found(name, "HF_HUB_OFFLINE is set: nothing is downloaded",
                         "unset HF_HUB_OFFLINE")
    folder.mkdir(parents=True, exist_ok=True)

    def waiting() -> None:
        tell(report, f"{name}: another process is downloading it; waiting for that")

    try:
        with wait_for_lock(folder / ".lock", waiting):
            for file in FILES:
                if not (folder / file).is_file():
                    _fetch(openai_name(name), file, folder, report)
    except DownloadError as error:
        advice = "check the network, the proxy (HTTPS_PROXY) or MINIGPT_OPENAI_ENDPOINT"
        raise _not_found(name, str(error), advice) from error
    except ValueError as error:         # a server's answer that must not be believed
        raise _not_found(name, str(error), "check MINIGPT_OPENAI_ENDPOINT and the proxy") from error
    return folder


def _fetch(size: str, file: str, folder: Path, report: Report | None) -> None:
    """Download one file. What is known of it beforehand counts before what the server says."""
    from minigpt.checkpoints.http_download import ask, fetch, shown

    url = f"{_endpoint()}/{size}/{file}"
    headers = ask(url, report=report)[-1]
    length = headers.get("Content-Length", "")
    if not (length.isascii() and length.isdecimal() and len(length) < 16):
        raise ValueError(f"{shown(url)} gives the size {length[:40]!r}, which is not one")
    known = SIZES[size].get(file)
    if known is not None and known != int(length):
        raise ValueError(f"{shown(url)} has {int(length):,} bytes, but OpenAI's file {known:,}")
    fetch(
        url, folder / file, size=int(length), digest=SHA256.get(file) or _md5(headers),
        part=folder / f".{file}.incomplete", report=report, name=file,
    )


def _md5(headers: Message) -> str | None:
    """The hash that the bucket sends, in hexadecimal digits; None without one."""
    try:
        digest = base64.b64decode(headers.get("Content-MD5", ""), validate=True)
    except (binascii.Error, ValueError):
        return None
    return digest.hex() if len(digest) == 16 else None


def _endpoint() -> str:
    return (os.environ.get("MINIGPT_OPENAI_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def _not_found(name: str, reason: str, advice: str) -> FileNotFoundError:
    """What was tried for a model, and what to do about it."""
    folder = openai_folder(name)
    missing = ", ".join(file for file in FILES if not (folder / file).is_file())
    return FileNotFoundError(
        f"{name!r}: OpenAI's files are not here and could not be downloaded. Tried: {folder}; "
        f"{_endpoint()}: {reason}. To do: {advice}; or put these files into {folder}: {missing}"
    )
