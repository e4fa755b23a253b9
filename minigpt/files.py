"""Files that are whole or untouched, a lock on a folder, and JSON that says where it is damaged."""

import json
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# Ours, and those that the safetensors package makes beside the file it was told to write.
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp|\.tmp[0-9A-Za-z]{6}")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give an empty temporary file beside `path` to write to; rename it to `path` when done.

    A reader sees the old file or the whole new one, never a part, even when the process or the
    machine stops half way: the bytes are on the disk before the name changes. When the block
    raises, the old file stays and the temporary one is removed. The new file has the
    permissions of any newly made file (the umask); a symbolic link at `path` is replaced, and
    what it points to is left alone.

    Raises FileNotFoundError where the folder does not exist, IsADirectoryError where `path` is a
    folder.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"cannot write {path}: the folder {path.parent} does not exist; make it first"
        )
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder; name a file in it")
    # Beside the target, because a rename across file systems would be a copy. Cut, because names
    # longer than 255 bytes are refused.
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        with open(temporary, "r+b") as f:
            os.fsync(f.fileno())
        # A library may have put a file of its own in our file's place, readable by no one else.
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:       # Ctrl-C, too
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def atomic_write(
    path: str | os.PathLike[str], mode: Literal["w", "wb"] = "wb"
) -> Iterator[IO[Any]]:
    """Open `path` for writing, as `open` does, but let the file appear only when it is whole.

    `mode` is "wb" for bytes or "w" for text (UTF-8, line ends as given). What happens on an error,
    and what is raised, is told at `atomic_path`.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f'atomic_write: mode must be "w" or "wb", got {mode!r}')
    with atomic_path(path) as temporary:
        if mode == "wb":
            with open(temporary, "wb") as f:
                yield f
        else:
            with open(temporary, "w", encoding="utf-8", newline="") as f:
                yield f


def remove_leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove the temporary files of writers that were killed in `folder`, and return their paths.

    Only for the holder of the folder's lock: another writer's file may still be in the making.
    """
    leftovers = sorted(p for p in Path(folder).iterdir() if _TEMPORARY.fullmatch(p.name))
    for path in leftovers:
        path.unlink(missing_ok=True)
    return leftovers


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power failure, where the system can."""
    if sys.platform != "win32":     # where folders cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError:             # some network file systems refuse; the file itself is safe
            pass
        finally:
            os.close(descriptor)


class FolderInUseError(OSError):
    """Another process, or another lock in this one, holds the folder."""


class FolderLock:
    """Hold a folder for one writer: `with FolderLock(folder): ...`

    The lock is the operating system's (flock; a locked byte on Windows) on the file `.lock` in the
    folder, so it ends with the process, however that ends: a killed run leaves none behind. The
    file itself stays, and holds the number of the last process for the message to others. The
    lock is advisory: it binds only those who ask for it.

    Raises FolderInUseError when the folder is held, FileNotFoundError or NotADirectoryError when
    there is no such folder, OSError when its file system has no locks.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        if self._file is not None:
            raise FolderInUseError(f"the folder {self.folder} is already locked by this object")
        if not self.folder.exists():
            raise FileNotFoundError(f"cannot lock {self.folder}: there is no such folder")
        if not self.folder.is_dir():
            raise NotADirectoryError(f"cannot lock {self.folder}: it is a file, not a folder")
        file = open(self.folder / ".lock", "a+b", buffering=0)
        try:
            _lock(file)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            owner = file.read(20).decode("ascii", "replace").strip() or "unknown"
            file.close()
            raise FolderInUseError(
                f"the folder {self.folder} is in use by another run (process {owner}); "
                "wait for it to end, or use another folder"
            ) from None
        except OSError as error:
            file.close()
            raise OSError(
                f"cannot lock the folder {self.folder}: {error.strerror}; "
                "its file system may have no locks: use a folder on a local disk"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n".encode())
        self._file = file
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()      # which gives the lock back
            self._file = None


@contextmanager
def wait_for_lock(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the operating system's lock on the file `path`, which is made if need be; while another
    process holds it, call `waiting` once and wait. The file stays.
    """
    told = False
    while True:
        with open(path, "a+b", buffering=0) as file:
            if _lock_of(path, file):
                yield
                return
        if not told:
            waiting()
            told = True
        time.sleep(0.1)


def _lock_of(path: Path, file: IO[bytes]) -> bool:
    """Try to lock an open file; whether that worked and it is still the one that `path` names."""
    try:
        _lock(file)
        # Its last holder may have removed it meanwhile: the next comer would lock a new one.
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, PermissionError, FileNotFoundError):
        return False


def _lock(file: IO[bytes]) -> None:
    """Lock an open file without waiting; BlockingIOError or PermissionError when it is held."""
    if sys.platform == "win32":
        # Locked bytes cannot be read there: lock one far behind the process number.
        file.seek(1 << 30)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)
    else:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises FileNotFoundError, or ValueError with the file's name and the position of the fault:
    bytes that are not UTF-8, broken JSON, a key given twice in one object, or something other
    than an object at the top. NaN and Infinity are accepted, as Python writes them.
    """
    return parse_json_object(Path(path).read_bytes(), str(path))


def parse_json_object(data: bytes, source: str) -> dict[str, Any]:
    """Parse the UTF-8 bytes of one JSON object; `source` names them in the ValueError."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: not UTF-8 text: byte {error.start} is damaged") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{source}: not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise ValueError(f"{source}: JSON nested too deeply to be read") from None
    except ValueError as error:     # a duplicate key; an integer of thousands of digits
        raise ValueError(f"{source}: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{source}: expected a JSON object {{...}}, found a {_kind(value)}")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r} occurs twice in one JSON object")
            seen.add(key)
    return result


def _kind(value: object) -> str:
    names = {list: "list", str: "string", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number")
