"""Files of tokens: whole or not there, the same ids as of the whole text, and gone on with."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from minigpt import encode_file as module
from minigpt import encode_workers, text_stream
from minigpt.bpe_training import train_bpe
from minigpt.char_tokenizer import CharTokenizer
from minigpt.encode_file import encode_file, survey

WORDS = ["the", "of", "it's", "new", "words", "日本", "12", "naïve", "=", "<|endoftext|>", "\n"]


@pytest.fixture(scope="module")
def text():
    pick = random.Random(0)
    return "".join(pick.choice(WORDS) + pick.choice([" ", "", "\n\n"]) for _ in range(4000))


@pytest.fixture(scope="module")
def tokenizer(text):
    made = train_bpe([text[:5000]], 300)
    made.add_tokens(["new words"])
    return made


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Parts of 100 characters, noted down every third."""
    parts = text_stream.safe_parts
    monkeypatch.setattr(module, "safe_parts", lambda blocks, whole: parts(blocks, whole, 100))
    monkeypatch.setattr(module, "_SAVE_EVERY", 3)
    monkeypatch.setattr(text_stream, "_BLOCK", 333)


@pytest.fixture
def source(tmp_path, text):
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode())
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("prefix", [False, True])
def test_ids_are_those_of_the_whole_text(source, tmp_path, text, tokenizer, processes, prefix):
    tokenizer.add_prefix_space = tokenizer.add_bos_token = prefix
    try:
        count = encode_file(source, tokenizer, tmp_path / "ids.bin", processes=processes)
        expected = tokenizer.encode(text)
    finally:
        tokenizer.add_prefix_space = tokenizer.add_bos_token = False
    assert np.fromfile(tmp_path / "ids.bin", "<u2").tolist() == expected
    assert count == len(expected)
    assert names(tmp_path) == ["ids.bin", "text.txt"]


def test_a_character_tokenizer_and_a_folder(tmp_path, text):
    (tmp_path / "in").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "in" / name).write_text(text, encoding="utf-8")
    whole = text + "\n\n" + text
    tokenizer = CharTokenizer.from_text(whole)
    encode_file(tmp_path / "in", tokenizer, tmp_path / "ids.bin")
    assert np.fromfile(tmp_path / "ids.bin", "<u2").tolist() == tokenizer.encode(whole)


def test_a_large_vocabulary_takes_four_bytes(source, tmp_path, text):
    tokenizer = CharTokenizer("".join(map(chr, [*range(0xD800), *range(0xE000, 0x14000)])))
    encode_file(source, tokenizer, tmp_path / "ids.bin")
    assert np.fromfile(tmp_path / "ids.bin", "<u4").tolist() == tokenizer.encode(text)


class StopError(Exception):
    pass


def stop_after(monkeypatch, parts):
    encode, left = encode_workers.encode_bytes, iter(range(parts))

    def stopping(tokenizer, text):
        if next(left, None) is None:
            raise StopError
        return encode(tokenizer, text)

    monkeypatch.setattr(module, "encode_bytes", stopping)


@pytest.mark.parametrize("parts", [0, 1, 2, 3, 4, 50])
@pytest.mark.parametrize("processes", [1, 2])
def test_resume_after_any_part(
    source, tmp_path, text, tokenizer, monkeypatch, parts, processes
):
    target = tmp_path / "ids.bin"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, parts)
        with pytest.raises(StopError):
            encode_file(source, tokenizer, target)
    assert not target.exists()
    if parts >= 3:
        with pytest.raises(FileExistsError, match="stopped half way: resume=True"):
            encode_file(source, tokenizer, target)
        # What was written after the last note is not believed.
        unfinished = tmp_path / ".ids.bin.unfinished"
        unfinished.write_bytes(unfinished.read_bytes() + b"torn")
        stop_after(monkeypatch, 200 - parts // 3 * 3)   # and what was noted is not encoded again
    encode_file(source, tokenizer, target, resume=True, processes=processes)
    assert np.fromfile(target, "<u2").tolist() == tokenizer.encode(text)
    assert names(tmp_path) == ["ids.bin", "text.txt"]


@pytest.fixture
def stopped(source, tmp_path, tokenizer):
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 20)
        with pytest.raises(StopError):
            encode_file(source, tokenizer, tmp_path / "ids.bin")
    return tmp_path / "ids.bin"


def test_another_text_or_tokenizer_is_refused(source, stopped, text, tokenizer):
    with pytest.raises(ValueError, match="of another text, of another tokenizer"):
        encode_file(source, train_bpe([text[:3000]], 300), stopped, resume=True)
    source.write_text(text + ".", encoding="utf-8")
    with pytest.raises(ValueError, match="of another text, of another tokenizer"):
        encode_file(source, tokenizer, stopped, resume=True)
    encode_file(source, tokenizer, stopped, overwrite=True)
    assert np.fromfile(stopped, "<u2").tolist() == tokenizer.encode(text + ".")


@pytest.mark.parametrize("content", ["{}", "[]", "", '{"origin": "x", "parts": 3}', "\x00"])
def test_damaged_notes(source, stopped, tokenizer, content):
    stopped.with_name(".ids.bin.progress.json").write_text(content)
    with pytest.raises(ValueError, match=r"progress\.json"):
        encode_file(source, tokenizer, stopped, resume=True)


def test_lost_data(source, stopped, tokenizer):
    os.truncate(stopped.with_name(".ids.bin.unfinished"), 10)
    with pytest.raises(ValueError, match="shorter than was noted"):
        encode_file(source, tokenizer, stopped, resume=True)


def test_nothing_is_overwritten_unasked(source, tmp_path, tokenizer):
    (tmp_path / "ids.bin").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        encode_file(source, tokenizer, tmp_path / "ids.bin", resume=True)
    assert (tmp_path / "ids.bin").read_bytes() == b"precious"


@pytest.mark.parametrize(
    "content", [b"", b" \n ", b"caf\xe9", b"x" * 500 + b"\0", b"y" * 999 + b"\xc3"]
)
def test_what_is_no_text_leaves_nothing_behind(tmp_path, tokenizer, content):
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(ValueError, match="text.txt"):
        encode_file(tmp_path / "text.txt", tokenizer, tmp_path / "ids.bin")
    assert names(tmp_path) == ["text.txt"]


def test_bad_arguments(source, tmp_path, tokenizer):
    with pytest.raises(ValueError, match="processes=0"):
        encode_file(source, tokenizer, tmp_path / "ids.bin", processes=0)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        encode_file(source, tokenizer, tmp_path / "nowhere" / "ids.bin")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        encode_file(tmp_path / "none.txt", tokenizer, tmp_path / "ids.bin")


def test_the_survey(source, text):
    found = survey(source)
    assert found.characters == len(text)


def test_a_killed_worker_is_told(text, tokenizer):
    """The second answer can't come, because the worker gets the signal before the question."""
    started = []
    start = encode_workers._start

    def starting(file):
        started.append(start(file))
        return started[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode_workers, "_start", starting)
        answers = encode_workers.encode_in_processes([text] * 3, tokenizer, 1)
        assert next(answers)[0] == len(text)
        started[0].kill()
        with pytest.raises(ChildProcessError, match=f"ended with code -{signal.SIGKILL}"):
            list(answers)


PROGRAM = """
import sys
from minigpt import encode_file
from minigpt.tokenizer import load_tokenizer
encode_file._SAVE_EVERY = 1
source, folder, target = sys.argv[1:]
encode_file.encode_file(source, load_tokenizer(folder), target, processes=2)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_kill_and_resume(tmp_path, text, tokenizer):
    """`kill -9` of a program that encodes: no worker stays, and the file is as if it had not been.

    Its main module has no guard against being imported again, and need not have one.
    """
    source, target = tmp_path / "text.txt", tmp_path / "ids.bin"
    long = text * 1000
    source.write_bytes(long.encode())
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "program.py").write_text(PROGRAM)
    words = [sys.executable, "program.py", "text.txt", "tokenizer", "ids.bin"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with open(tmp_path / "errors", "wb") as errors:
        run = subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=errors)
    progress = tmp_path / ".ids.bin.progress.json"
    deadline = time.monotonic() + 60

    def parts_done():
        return json.loads(progress.read_text())["parts"] if progress.exists() else 0

    while parts_done() < 3 and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    run.kill()
    assert run.wait() == -signal.SIGKILL and len(children) == 2
    assert progress.exists() and not target.exists()
    while any(Path(f"/proc/{pid}/cmdline").exists() for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert (tmp_path / "errors").read_bytes() == b""        # no traceback of theirs
    parts = text_stream.safe_parts
    with pytest.MonkeyPatch.context() as patch:     # parts as long as the program's
        patch.setattr(module, "safe_parts", parts)
        encode_file(source, tokenizer, target, resume=True)
    ids = np.fromfile(target, "<u2")
    once = np.array(tokenizer.encode(text))
    assert np.array_equal(ids, np.tile(once, 1000)) or ids.tolist() == tokenizer.encode(long)
