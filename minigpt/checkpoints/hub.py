"""Models by name: a folder, what the Hub's cache has, or a download into that cache.

`minigpt download` and every `from_pretrained("gpt2")` come through here. Settings are those of
huggingface_hub, read from the environment at each call: HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE,
HF_TOKEN (and the file that `hf auth login` writes), HF_ENDPOINT.
"""

from __future__ import annotations

import os
import sys
from email.message import Message
from pathlib import Path
from typing import NamedTuple

from minigpt.checkpoints.hub_cache import (
    CONFIG_FILE,
    TOKENIZER_FILES,
    WEIGHTS_FILES,
    add_to_snapshot,
    blob_path,
    cache_folder,
    cached_snapshot,
    check_commit,
    holds,
    is_repository,
    lock_path,
    set_newest,
    shard_names,
    snapshot_path,
    token_file,
)
from minigpt.files import wait_for_lock
from minigpt.progress import Report, tell

FULL_NAMES = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distilgpt2": "distilbert/distilgpt2",
}
"""The official models, by the short names that the Hub redirects; both are found in a cache."""

DEFAULT_ENDPOINT = "https://huggingface.co"
PARTS = ("config", "tokenizer", "model")
_GENERATION_FILE = "generation_config.json"
_TRUE = {"1", "ON", "YES", "TRUE"}


def find_folder(name: str | os.PathLike[str], part: str) -> Path:
    """The folder that holds the "config", "tokenizer" or "model" of `name`.

    A file or folder of that name on disk comes first. Otherwise a str that is the name of a model
    on the Hub ("gpt2" and the other official ones, or ORG/NAME) is looked up in the Hub's cache,
    without a network, and only then downloaded. Any other path is returned as it is, and so is
    ORG/NAME where there is a folder ORG: its reader says that it is not there.

    FileNotFoundError, with all that was tried and what to do, where a model can't be had; OSError
    for a disk without room.
    """
    path = Path(name)
    if not isinstance(name, str) or not is_hub_name(name) or path.exists():
        return path
    found = cached_folder(name, part)
    official = name in FULL_NAMES or name in FULL_NAMES.values()
    if found is not None or (path.parent.is_dir() and not official):
        return found or path        # "runs/tinny", mistyped, is nobody else's business
    return download(name, (part,), _say)


def find_model_folder(name: str | os.PathLike[str]) -> Path:
    """`find_folder` of a "model", where only a folder will do. FileNotFoundError otherwise."""
    folder = find_folder(name, "model")
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{str(name)!r} is neither a folder with a model (config.json and model.safetensors) "
            f"nor the name of one on the Hub: {', '.join(FULL_NAMES)}, or ORG/NAME"
        )
    return folder


def is_hub_name(name: str) -> bool:
    """Whether a name means a model on the Hub, if there is no folder of that name. Beside the
    official ones these have an organisation; "runs/tiny" may be one, "tiny" is not.
    """
    return name in FULL_NAMES or ("/" in name and is_repository(name))


def cached_folder(name: str, part: str) -> Path | None:
    """The snapshot in the Hub's cache that has this part of a model, by either of its names."""
    for repository in _names(name):
        snapshot = cached_snapshot(repository)
        if snapshot is not None and holds(snapshot, part):
            return snapshot
    return None


def _names(name: str) -> list[str]:
    other = {**FULL_NAMES, **{full: short for short, full in FULL_NAMES.items()}}.get(name)
    return [name, other] if other else [name]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- download -----------------------------------------------------------------------------------


class _Remote(NamedTuple):
    """A file on the Hub: where, in which commit, its hash and its size in bytes."""

    url: str
    commit: str
    etag: str
    size: int


def download(
    name: str, parts: tuple[str, ...] = PARTS, report: Report | None = None
) -> Path:
    """Fetch the files of a model's parts into the Hub's cache, as far as it lacks them; return
    their folder.

    All files are of one commit, and the cache calls it the newest only when they are there. Raises
    as `find_folder`.
    """
    # ssl and http take long to import, and most calls never come here.
    from minigpt.checkpoints.http_download import DownloadError

    if not is_hub_name(name):
        raise ValueError(
            f"{name!r} is not the name of a model on the Hub: one of {', '.join(FULL_NAMES)}, or "
            "ORG/NAME"
        )
    if is_offline():
        raise _not_found(name, "HF_HUB_OFFLINE is set: nothing is downloaded",
                         "unset HF_HUB_OFFLINE")
    try:
        return _download(name, parts, report)
    except DownloadError as error:
        raise _not_found(name, str(error), _advice(error)) from error
    except ValueError as error:         # a server's answer that must not be believed
        raise _not_found(name, str(error), "check HF_ENDPOINT and the proxy") from error


def _download(name: str, parts: tuple[str, ...], report: Report | None) -> Path:
    first = _look_up(name, "main", CONFIG_FILE, report, required=True)
    assert first is not None
    snapshot = _place(name, first, CONFIG_FILE, report).parent

    def add(file: str) -> Path | None:
        remote = _look_up(name, first.commit, file, report)
        return None if remote is None else _place(name, remote, file, report)

    if "config" in parts or "model" in parts:
        add(_GENERATION_FILE)
    if "tokenizer" in parts:
        for file in TOKENIZER_FILES:
            add(file)
    if "model" in parts:
        weights = next((path for path in map(add, WEIGHTS_FILES) if path is not None), None)
        if weights is not None and weights.suffix == ".json":
            for shard in shard_names(weights):
                add(shard)
    for part in parts:
        if not holds(snapshot, part):
            tell(report, f"{name}: the repository has not all files of a {part}")
    set_newest(name, first.commit)
    return snapshot


def _look_up(
    name: str, revision: str, file: str, report: Report | None, required: bool = False
) -> _Remote | None:
    """Ask the Hub for a file's commit, hash and size; None where the repository has no such file.

    They stand in the first answer that has them, before a redirect to where large files are.
    """
    from minigpt.checkpoints.http_download import DownloadError, ask, shown

    url = f"{_endpoint()}/{name}/resolve/{revision}/{file}"
    try:
        passed = ask(url, _token(), report)
    except DownloadError as error:
        if error.status == 404 and not required and error.code in ("", "EntryNotFound"):
            return None
        raise
    commit = _first(passed, "X-Repo-Commit")
    etag = _first(passed, "X-Linked-Etag") or passed[-1].get("ETag")
    size = _first(passed, "X-Linked-Size") or passed[-1].get("Content-Length")
    if not commit or not etag or not size:
        raise ValueError(f"{shown(url)} answers without commit, hash or size: it is not a Hub")
    if not (size.isascii() and size.isdecimal() and len(size) < 16):
        raise ValueError(f"{shown(url)} gives the size {size[:40]!r}, which is not one")
    return _Remote(url, check_commit(commit), etag, int(size))


def _first(passed: list[Message], name: str) -> str | None:
    return next((headers[name] for headers in passed if name in headers), None)


def _place(name: str, remote: _Remote, file: str, report: Report | None) -> Path:
    """Have the file's bytes among the blobs, and a link to them in the snapshot; its path."""
    from minigpt.checkpoints.http_download import digest_of, fetch

    blob = blob_path(name, remote.etag)
    is_hash = len(blob.name) in (40, 64) and set(blob.name) <= set("0123456789abcdef")
    target = snapshot_path(name, remote.commit, file)

    def waiting() -> None:
        tell(report, f"{file}: another process is downloading it; waiting for that")

    with wait_for_lock(lock_path(name, blob), waiting):
        if not _has_size(blob, remote.size):
            # Where links aren't allowed huggingface_hub has the file in the snapshot alone.
            whole = is_hash and not target.is_symlink() and _has_size(target, remote.size)
            if whole and digest_of(target, blob.name) == blob.name:
                return target
            fetch(
                remote.url, blob, size=remote.size, digest=blob.name if is_hash else None,
                part=blob.with_name(f"{blob.name}.incomplete"), token=_token(), report=report,
                name=file,
            )
        return add_to_snapshot(name, remote.commit, file, blob)


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


# ---- settings and advice ------------------------------------------------------------------------


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids every download."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE


def _token() -> str | None:
    token, source = _token_and_source()
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise ValueError(f"{source} holds characters that no token has (it is not shown here)")
    return token or None


def _token_and_source() -> tuple[str, str]:
    """The token, "" without one, and where it is from."""
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := os.environ.get(variable, "").strip():
            return token, variable
    try:
        return token_file().read_text("utf-8", "replace").strip(), str(token_file())
    except OSError:
        return "", ""


def _advice(error: OSError) -> str:
    """What to do about a DownloadError."""
    status = getattr(error, "status", None)
    if status in (401, 403):
        source = _token_and_source()[1]
        has = f"the token of {source} was sent, but" if source else "HF_TOKEN is not set:"
        return (
            f"check the name; if the model is private or asks for consent, {has} a token of an "
            "account that may read it is needed"
        )
    if status == 404:
        return "check the name"
    if status is None and getattr(error, "again", False):
        return "check the network, the proxy (HTTPS_PROXY) or HF_ENDPOINT"
    return "try again later"


def _not_found(name: str, reason: str, advice: str) -> FileNotFoundError:
    """What was tried for a name, and what to do about it."""
    folders = " or ".join(f"models--{each.replace('/', '--')}" for each in _names(name))
    return FileNotFoundError(
        f"{name!r} is not here and could not be downloaded. Tried: a folder {name!r} in "
        f"{Path.cwd()}; {folders} in the Hub's cache {cache_folder()}; {_endpoint()}: {reason}. "
        f"To do: {advice}; or put these files into a folder {name!r} here: config.json and "
        "model.safetensors, and for its tokenizer vocab.json and merges.txt"
    )
