"""Atomic writing, the folder lock, and JSON files that are damaged."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt.files import (
    FolderInUseError,
    FolderLock,
    atomic_path,
    atomic_write,
    parse_json_object,
    read_json,
    remove_leftovers,
)

ROOT = Path(__file__).parents[2]


def start_python(code: str, *args: object) -> subprocess.Popen[str]:
    """Run code in another process, and wait until it prints a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str], *, kill: bool = False) -> None:
    if kill:
        process.kill()
    process.communicate("", timeout=30)
    assert process.returncode == (-signal.SIGKILL if kill else 0)


# ---- atomic_write ------------------------------------------------------------------------------


def test_writes_bytes_and_text_as_given(tmp_path):
    with atomic_write(tmp_path / "a") as f:
        f.write(b"\x00\xff\r\n")
    with atomic_write(str(tmp_path / "b"), "w") as f:
        f.write("naïve\n日本\r\n")
    assert (tmp_path / "a").read_bytes() == b"\x00\xff\r\n"
    assert (tmp_path / "b").read_bytes() == "naïve\n日本\r\n".encode()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(error), atomic_write(tmp_path / "f") as f:
        f.write(b"half of the new")
        raise error
    assert (tmp_path / "f").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_the_old_file_is_there_until_the_end(tmp_path):
    (tmp_path / "f").write_bytes(b"old")
    with atomic_write(tmp_path / "f") as f:
        f.write(b"new")
        f.flush()
        assert (tmp_path / "f").read_bytes() == b"old"
    assert (tmp_path / "f").read_bytes() == b"new"


def test_bytes_are_on_the_disk_before_the_name_changes(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    with atomic_write(tmp_path / "f") as f:
        f.write(b"new")
    assert calls[:2] == ["fsync", "replace"]
    if sys.platform != "win32":
        assert calls == ["fsync", "replace", "fsync"]       # the last: of the folder


@pytest.mark.skipif(sys.platform == "win32", reason="no umask on Windows")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_any_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        (tmp_path / "plain").write_bytes(b"")
        with atomic_write(tmp_path / "ours") as f:
            f.write(b"x")
        with atomic_path(tmp_path / "theirs") as temporary:
            temporary.unlink()          # as a library does that writes in its own way
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    wanted = (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "ours").stat().st_mode == wanted
    assert (tmp_path / "theirs").stat().st_mode == wanted


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need rights on Windows")
def test_a_symbolic_link_is_replaced_not_followed(tmp_path):
    (tmp_path / "blob").write_bytes(b"shared")
    (tmp_path / "link").symlink_to("blob")
    with atomic_write(tmp_path / "link") as f:
        f.write(b"own")
    assert (tmp_path / "blob").read_bytes() == b"shared"
    assert (tmp_path / "link").read_bytes() == b"own"
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127])
def test_the_longest_names_work(tmp_path, name):
    with atomic_write(tmp_path / name) as f:
        f.write(b"x")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_impossible_targets_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.*does not exist"):
        with atomic_write(tmp_path / "nowhere" / "f"):
            raise AssertionError("the block must not run")
    with pytest.raises(IsADirectoryError, match="is a folder"), atomic_write(tmp_path):
        raise AssertionError("the block must not run")
    with pytest.raises(ValueError, match="mode must be"), atomic_write(tmp_path / "f", "a"):
        raise AssertionError("the block must not run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_killed_writer_leaves_the_old_file(tmp_path):
    (tmp_path / "f").write_bytes(b"old")
    (tmp_path / ".hidden.tmp").write_bytes(b"someone else's")
    writer = start_python(
        "import sys; from minigpt.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as f:\n"
        "    f.write(b'half'); f.flush(); print('ready', flush=True); sys.stdin.read()",
        tmp_path / "f",
    )
    end(writer, kill=True)
    assert (tmp_path / "f").read_bytes() == b"old"
    (leftover,) = set(tmp_path.iterdir()) - {tmp_path / "f", tmp_path / ".hidden.tmp"}
    assert leftover.read_bytes() == b"half"
    assert remove_leftovers(tmp_path) == [leftover]
    assert {p.name for p in tmp_path.iterdir()} == {"f", ".hidden.tmp"}


# ---- FolderLock --------------------------------------------------------------------------------

HOLD = (
    "import sys; from minigpt.files import FolderLock\n"
    "with FolderLock(sys.argv[1]):\n"
    "    print('ready', flush=True); sys.stdin.read()"
)


def test_a_second_process_is_refused_until_the_first_ends(tmp_path):
    holder = start_python(HOLD, tmp_path)
    with pytest.raises(FolderInUseError) as caught, FolderLock(tmp_path):
        raise AssertionError("the block must not run")
    assert str(tmp_path) in str(caught.value) and str(holder.pid) in str(caught.value)
    end(holder)
    with FolderLock(tmp_path):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_killed_process_leaves_no_lock(tmp_path):
    holder = start_python(HOLD, tmp_path)
    end(holder, kill=True)
    with FolderLock(tmp_path):
        pass


def test_the_lock_holds_within_one_process_and_ends_with_its_block(tmp_path):
    lock = FolderLock(tmp_path)
    with lock:
        with pytest.raises(FolderInUseError, match=str(os.getpid())), FolderLock(tmp_path):
            raise AssertionError("the block must not run")
        with pytest.raises(FolderInUseError, match="by this object"), lock:
            raise AssertionError("the block must not run")
        with pytest.raises(FolderInUseError), FolderLock(tmp_path):     # still held
            raise AssertionError("the block must not run")
    with pytest.raises(ZeroDivisionError), lock:
        raise ZeroDivisionError
    with lock:
        pass


def test_what_cannot_be_locked_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), FolderLock(tmp_path / "nowhere"):
        raise AssertionError("the block must not run")
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="not a folder"), FolderLock(tmp_path / "f"):
        raise AssertionError("the block must not run")


# ---- JSON --------------------------------------------------------------------------------------


def test_read_json(tmp_path):
    (tmp_path / "f.json").write_text('{"a": [1, 2.5, null], "é": {"b": NaN}}', encoding="utf-8")
    value = read_json(tmp_path / "f.json")
    assert value["a"] == [1, 2.5, None]
    assert value["é"]["b"] != value["é"]["b"]


@pytest.mark.parametrize(("data", "fault"), [
    (b"", "line 1, column 1"),
    (b'{\n  "a": 1,\n  "b" 2}', "line 3, column 7"),
    (b'{"a": 1', "line 1, column 8"),
    (b'{"a": 1} x', "line 1, column 10"),
    (b'{"a": "\xff"}', "byte 7"),
    (b'\xef\xbb\xbf{}', "BOM"),
    (b"[1, 2]", "found a list"),
    (b'"text"', "found a string"),
    (b"3", "found a number"),
    (b"true", "found a truth value"),
    (b"null", "found a null"),
    (b'{"a": {"b": 1, "c": 2, "b": 1}}', "'b' occurs twice"),
    (b'{"a": ' + b"[" * 200_000, "nested too deeply"),
    (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
])
def test_damaged_json_is_named_with_the_position(tmp_path, data, fault):
    file = tmp_path / "vocab.json"
    file.write_bytes(data)
    with pytest.raises(ValueError) as caught:
        read_json(file)
    assert str(file) in str(caught.value) and fault in str(caught.value)


def test_a_missing_json_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.json"):
        read_json(tmp_path / "nothing.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(), JSON, max_size=4), st.data())
def test_any_bytes_give_an_object_or_a_value_error(value, data):
    text = json.dumps(value).encode()
    assert parse_json_object(text, "f") == value
    damaged = bytearray(text)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(text)))])
    try:
        result = parse_json_object(cut, "the file")
    except ValueError as error:
        assert str(error).startswith("the file: ")
    else:
        assert json.dumps(result) == json.dumps(json.loads(cut))     # NaN differs from itself
