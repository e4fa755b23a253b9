"""Encoding in several processes: `python -m minigpt.encode_workers TOKENIZER` is one of them.

A worker reads texts from its standard input and answers each with its ids on its standard output,
both as the number of bytes (uint64) and the bytes. It ends with its input, also when the parent was
killed. That is all there is to agree on, so that no module of the parent is imported again, as
`multiprocessing` does.
"""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np

from minigpt.char_tokenizer import CharTokenizer
from minigpt.token_files import token_type
from minigpt.tokenizer import GPT2Tokenizer

Tokenizer = GPT2Tokenizer | CharTokenizer

_LENGTH_BYTES = 8


def encode_bytes(tokenizer: Tokenizer, text: str) -> bytes:
    """The ids of a text as they are in a file of tokens."""
    return np.array(tokenizer.encode(text), token_type(len(tokenizer))).tobytes()


def encode_in_processes(
    texts: Iterable[str], tokenizer: Tokenizer, processes: int
) -> Iterator[tuple[int, bytes]]:
    """For each text, in order, its length in characters and what `encode_bytes` gives.

    Each worker has one text at a time, in turn: before it gets the next, its answer is taken, so
    that neither side waits for the other to read. ChildProcessError where a worker was killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "tokenizer.pickle")
        file.write_bytes(pickle.dumps(tokenizer))
        workers = [_start(file) for _ in range(processes)]
        try:
            waiting: deque[tuple[subprocess.Popen[bytes], int]] = deque()
            for text in texts:
                if len(waiting) < processes:
                    worker = workers[len(waiting)]
                else:
                    worker, length = waiting.popleft()
                    yield length, _receive(worker)
                _send(worker, text.encode())
                waiting.append((worker, len(text)))
            for worker, length in waiting:
                yield length, _receive(worker)
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()        # waits for its end and closes the pipes


def _start(tokenizer: Path) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "minigpt.encode_workers", str(tokenizer)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


def _send(worker: subprocess.Popen[bytes], data: bytes) -> None:
    assert worker.stdin is not None
    try:
        _write(worker.stdin, data)
    except BrokenPipeError:
        raise _killed(worker) from None


def _receive(worker: subprocess.Popen[bytes]) -> bytes:
    assert worker.stdout is not None
    data = _read(worker.stdout)
    if data is None:
        raise _killed(worker)
    return data


def _killed(worker: subprocess.Popen[bytes]) -> ChildProcessError:
    return ChildProcessError(
        f"an encoding process ended with code {worker.wait()}, perhaps for want of memory: use "
        "fewer processes; what was done before is kept (--resume)"
    )


def _write(pipe: IO[bytes], data: bytes) -> None:
    view = memoryview(len(data).to_bytes(_LENGTH_BYTES, "little") + data)
    while view:                     # a pipe without a buffer takes what it has room for
        view = view[pipe.write(view) :]


def _read(pipe: IO[bytes]) -> bytes | None:
    """The next message; None where the other side has ended."""
    header = _read_exactly(pipe, _LENGTH_BYTES)
    return None if header is None else _read_exactly(pipe, int.from_bytes(header, "little"))


def _read_exactly(pipe: IO[bytes], count: int) -> bytes | None:
    parts = []
    while count:
        part = pipe.read(min(count, 1 << 20))
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def main() -> None:
    """Answer until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # Ctrl-C is the parent's affair
    tokenizer: Tokenizer = pickle.loads(Path(sys.argv[1]).read_bytes())     # our parent wrote it
    with open(0, "rb", buffering=0) as texts, open(1, "wb", buffering=0) as answers:
        while (text := _read(texts)) is not None:
            _write(answers, encode_bytes(tokenizer, text.decode()))


if __name__ == "__main__":
    with suppress(BrokenPipeError):     # the parent was killed: there is no one to answer
        main()
