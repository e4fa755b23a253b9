"""Which version of a kernel was measured to be the fastest here, kept on disk.

    python -m kernels.bench softmax --tune          on a GPU: measure, and keep what was best

The file is known by the GPU's name, the CUDA release and the text of the kernels, so that a choice
ends with what it was measured on. It lies in `~/.cache/minigpt/tuning`; MINIGPT_TUNING names
another folder, and "off" has no file read. Each is read once in a process: the same call takes the
same version, and gives the same bits, to its end. Without a file, or without a GPU, there is no
choice here, and the written rules of `tensor/cuda_*.py` hold.

A file from outside is checked before it is believed: only a version that solves the very problem,
in the arithmetic of the one that it stands for, is ever taken.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import secrets
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from kernels.bench_cases import in_halves, precision
from kernels.bench_families import FAMILIES
from kernels.cuda import CudaDevice
from kernels.cuda_compile import find_nvcc, included_files
from kernels.interface import Device
from kernels.launch import HERE

LARGEST_FILE = 1 << 20  # bytes; a family of a few hundred choices has a tenth of that
Sizes = tuple[int, ...]


class Choice(NamedTuple):
    """A kernel's name, and the threads of its blocks."""

    version: str
    block: int


def best(
    family: str, usual: str, sizes: Sizes, device: Device, folder: Path | None = None
) -> Choice | None:
    """What was measured to be the fastest for a problem where the rules would take `usual`; None
    where nothing was, or there is no GPU, or no such family or size. sizes: those of --shape.

    folder: where to look in the place of the usual one; with it, the emulator has a file, too.
    """
    if family not in FAMILIES or 0 in sizes:
        return None
    if folder is None and not isinstance(device, CudaDevice):
        return None
    return _best(family, usual, sizes, device, folder)


@functools.lru_cache(maxsize=4096)  # a launch asks each time, and takes little longer itself
def _best(
    family: str, usual: str, sizes: Sizes, device: Device, folder: Path | None
) -> Choice | None:
    choice = _choices(family, device, folder).get(key_of(usual, sizes))
    return choice if choice and may_stand_for(family, usual, choice, sizes) else None


def forget() -> None:
    """Have the files read anew."""
    _choices.cache_clear()
    _best.cache_clear()


def key_of(usual: str, sizes: Sizes) -> str:
    """By what a choice is known: the first size, of rows or elements, up to the next power of two,
    because that of a batch changes; the others, of a model, as they are.
    """
    first = 1 << (sizes[0] - 1).bit_length()
    return f"{usual} {'x'.join(map(str, (first, *sizes[1:])))}"


def may_stand_for(family: str, usual: str, choice: Choice, sizes: Sizes) -> bool:
    """Does it solve whatever the usual version solves, of these sizes, in the same arithmetic?"""
    case = FAMILIES[family]
    nothing = frozenset[str]()
    return (
        usual in case.versions
        and choice.block in case.versions.get(choice.version, ())
        and precision(choice.version) == precision(usual)
        and in_halves(choice.version) == in_halves(usual)
        and case.needs.get(choice.version, nothing) <= case.needs.get(usual, nothing)
        and not case.why_not(choice.version, sizes, choice.block)
    )


def choices_from(
    family: str, sizes: Sizes, seconds: dict[Choice, float]
) -> dict[str, dict[str, Any]]:
    """For `keep`: of what was measured for one problem, the fastest to stand for each version."""
    found = {}
    for usual in {choice.version for choice in seconds}:
        fits = [c for c in seconds if may_stand_for(family, usual, c, sizes)]
        fastest = min(fits, key=lambda choice: (seconds[choice], choice))
        found[key_of(usual, sizes)] = {**fastest._asdict(), "seconds": seconds[fastest]}
    return found


# --- the file


def usual_folder() -> Path | None:
    """MINIGPT_TUNING, or one in the user's cache; None where it is "off"."""
    named = os.environ.get("MINIGPT_TUNING")
    if named:
        return None if named == "off" else Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minigpt" / "tuning"


@functools.cache
def _identity(family: str, device: Device) -> str:
    """The name of the file of a family on a device."""
    gpu, release = device.name, ""
    if isinstance(device, CudaDevice):
        gpu, release = device.context.name, find_nvcc().release
    sources = [HERE / name for name in FAMILIES[family].files]
    texts = {path for source in sources for path in (source, *included_files(source))}
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(texts))).hexdigest()
    parts = [re.sub(r"[^A-Za-z0-9.]+", "-", part) for part in (gpu, f"cuda{release}", family)]
    return "_".join([*parts, digest[:16]]) + ".json"


@functools.cache
def _choices(family: str, device: Device, folder: Path | None) -> dict[str, Choice]:
    """What the file in a folder, or in the usual one, holds: read once in a process."""
    folder = folder or usual_folder()
    return _read(family, folder / _identity(family, device)) if folder else {}


def _read(family: str, path: Path) -> dict[str, Choice]:
    """The choices of a file. With a warning, none from one that is damaged or foreign."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"it has more than {LARGEST_FILE:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        return {key: _choice_of(family, value) for key, value in content["choices"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        warnings.warn(f"{path} is no file of tuned kernels, and is ignored: {error!r}; delete it, "
                      "or make it anew: python -m kernels.bench " + family + " --tune",
                      stacklevel=2)  # fmt: skip
        return {}


def _choice_of(family: str, value: Any) -> Choice:
    version, block = value["version"], value["block"]
    if version not in FAMILIES[family].versions or type(block) is not int:
        raise ValueError(f"{family} has no {version!r} with a block of {block!r}")
    return Choice(version, block)


def keep(
    family: str, found: dict[str, dict[str, Any]], device: Device, folder: Path | None = None
) -> Path | None:
    """Write choices, {key: {"version", "block", and what else is worth knowing}}, beside those
    that the file has for other keys. Where it is; None where tuning is off. Raises OSError.
    """
    folder = folder or usual_folder()
    if folder is None:
        return None
    path = folder / _identity(family, device)
    before = _read(family, path)
    kept = {key: choice._asdict() for key, choice in before.items()} | found
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"family": family, "choices": kept}, indent=1) + "\n")
    return path


def write_whole(path: Path, text: str) -> None:
    """A file that appears whole or not at all."""
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
