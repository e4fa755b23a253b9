"""The Hub's cache: where it is, what is in it, and how a file is added; no network.

    models--org--name/blobs/<hash>                 the bytes
                      snapshots/<commit>/<file>    a link to them
                      refs/main                    the newest commit

It is shared with huggingface_hub: what one of the two has put there, the other finds (layout:
huggingface_hub's guide "Understand caching").
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from pathlib import Path

from minigpt.checkpoints.shards import read_weight_map
from minigpt.files import atomic_write

CONFIG_FILE = "config.json"
TOKENIZER_FILES = (
    "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json",
)
WEIGHTS_FILES = (
    "model.safetensors", "model.safetensors.index.json",
    "pytorch_model.bin", "pytorch_model.bin.index.json",
)
"""The first that a repository has is the one to take."""

_PART_OF_A_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BLOB = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{7,127}")


def cache_folder() -> Path:
    """HF_HUB_CACHE, or `hub` in HF_HOME, or ~/.cache/huggingface/hub, as the environment is now."""
    variables = os.environ
    direct = variables.get("HF_HUB_CACHE") or variables.get("HUGGINGFACE_HUB_CACHE")
    return _expanded(direct) if direct else _home() / "hub"


def token_file() -> Path:
    """Where `hf auth login` leaves its token: HF_TOKEN_PATH, or `token` in HF_HOME."""
    path = os.environ.get("HF_TOKEN_PATH")
    return _expanded(path) if path else _home() / "token"


def _home() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return _expanded(os.environ.get("HF_HOME") or os.path.join(base, "huggingface"))


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(path)))


def is_repository(name: str) -> bool:
    """Whether this is a name ORG/NAME, or NAME, as the Hub allows it."""
    parts = name.split("/")
    return (
        len(parts) <= 2 and len(name) <= 96 and all(map(_PART_OF_A_NAME.fullmatch, parts))
        and "--" not in name and ".." not in name and not name.endswith(".git")
    )


def repository_folder(repository: str) -> Path:
    """Its place in the cache: models--org--name. ValueError for what is no name of one."""
    if not is_repository(repository):
        raise ValueError(f"{repository!r} is not the name of a model on the Hub: ORG/NAME")
    return cache_folder() / f"models--{repository.replace('/', '--')}"


def cached_snapshot(repository: str) -> Path | None:
    """The folder of the newest commit that the cache has, with or without all files; or None."""
    folder = repository_folder(repository)
    try:
        commit = (folder / "refs" / "main").read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    snapshot = folder / "snapshots" / commit
    return snapshot if _COMMIT.fullmatch(commit) and snapshot.is_dir() else None


def holds(folder: Path, part: str) -> bool:
    """Whether a folder has a "config", "tokenizer" or "model", as far as names tell."""
    if part == "config":
        return (folder / CONFIG_FILE).is_file()
    if part == "tokenizer":
        vocabulary, merges, whole = (folder / name for name in TOKENIZER_FILES[:3])
        return whole.is_file() or (vocabulary.is_file() and merges.is_file())
    weights = [folder / name for name in WEIGHTS_FILES if (folder / name).is_file()]
    if not (folder / CONFIG_FILE).is_file() or not weights:
        return False
    if weights[0].suffix != ".json":
        return True
    return all((folder / name).is_file() for name in shard_names(weights[0]))


def shard_names(index: Path) -> list[str]:
    """The files that an index of weights names. ValueError for names that lead elsewhere."""
    return sorted(set(read_weight_map(index).values()))


# ---- writing ------------------------------------------------------------------------------------


def check_commit(commit: str) -> str:
    """The commit, if it is one: a server that sends "../.." must not choose our folders."""
    if not _COMMIT.fullmatch(commit):
        raise ValueError(f"the server names the commit {commit!r}, expected 40 hexadecimal digits")
    return commit


def blob_path(repository: str, etag: str) -> Path:
    """Where a file's bytes go, by the ETag that the server gave; the folder is made."""
    name = etag.removeprefix("W/").strip('"')
    if not _BLOB.fullmatch(name):
        raise ValueError(f"the server sends the ETag {etag!r}, which is not a hash")
    blobs = repository_folder(repository) / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    return blobs / name


def lock_path(repository: str, blob: Path) -> Path:
    """The file that huggingface_hub locks, too, while it fetches this blob."""
    folder = cache_folder() / ".locks" / repository_folder(repository).name
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{blob.name}.lock"


def snapshot_path(repository: str, commit: str, file: str) -> Path:
    """Where a file of a commit stands."""
    return repository_folder(repository) / "snapshots" / check_commit(commit) / file


def add_to_snapshot(repository: str, commit: str, file: str, blob: Path) -> Path:
    """Make `file` of a commit a link to the blob; where symbolic links aren't allowed, as on
    Windows, a second name of the same bytes, or else a copy. Whatever stood there is replaced, in
    one step.
    """
    target = snapshot_path(repository, commit, file)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{file[:40]}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            # Relative, so that the cache can be moved.
            os.symlink(os.path.relpath(blob, target.parent), temporary)
        except OSError:
            try:
                os.link(blob, temporary)
            except OSError:
                shutil.copyfile(blob, temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return target


def set_newest(repository: str, commit: str) -> None:
    """Write refs/main: from now on this is the snapshot that is found."""
    refs = repository_folder(repository) / "refs"
    refs.mkdir(parents=True, exist_ok=True)
    with atomic_write(refs / "main", "w") as f:
        f.write(check_commit(commit))
