"""The tokenizer beside tiktoken and tokenizers: `python -m tests.bench.tokenizer [CASE …]`.

    MINIGPT_TEST_DATA=FOLDER python -m tests.bench.tokenizer --rounds 5

Each case runs in turns, minigpt, then each peer, then minigpt again, each time in a fresh process
with one thread; what counts is the ratio of the medians, and the spread is the smallest and the
largest ratio of one turn. "new" text comes after a warm-up on other text of its kind; "again" is
the same text a second time. Prose is Tiny Shakespeare and the docstrings of Python's library, code
the library's sources, every second file to warm up and the others to measure. Nothing is asserted
but that all give the same ids, or merges.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from minigpt.bpe import chars_to_bytes
from minigpt.bpe_training import count_pieces, learn_merges
from minigpt.data import load_text
from minigpt.tokenizer import GPT2Tokenizer

ROOT = Path(__file__).parents[2]
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
TRAINING_BYTES, VOCAB_SIZE = 32_000_000, 32_768

# name: the libraries to compare with, and the speed of ours / theirs that is aimed at
CASES = {
    "encode prose, new": {"tiktoken": 1.0, "tokenizers": 3.0},
    "encode code, new": {"tiktoken": 1.0, "tokenizers": 3.0},
    "encode prose, again": {"tiktoken": 1.0, "tokenizers": 3.0},
    "encode code, again": {"tiktoken": 1.0, "tokenizers": 3.0},
    "decode prose": {"tiktoken": 0.5, "tokenizers": 2.0},
    "decode code": {"tiktoken": 0.5, "tokenizers": 2.0},
    "train 32k, 32 MB whole": {"tokenizers": 1.0},
    "train 32k, 32 MB in lines": {"tokenizers": 1.0},
}


def data_folder() -> Path:
    """The folder with GPT-2's official vocabulary and Tiny Shakespeare."""
    folder = os.environ.get("MINIGPT_TEST_DATA")
    if not folder or not Path(folder, "gpt2", "vocab.bpe").is_file():
        raise SystemExit("MINIGPT_TEST_DATA must name a folder with gpt2/ and tinyshakespeare.txt")
    return Path(folder)


def library_sources() -> list[str]:
    """The modules of Python's library, without what is installed beside it."""
    folder = Path(sysconfig.get_path("stdlib"))
    paths = sorted(p for p in folder.rglob("*.py") if "site-packages" not in p.parts)
    return [path.read_text("utf-8", errors="replace") for path in paths]


def docstrings(source: str) -> list[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")     # old sources have old escapes
            nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):           # the library has bad files to test with
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in nodes if isinstance(node, kinds))
    return [text for text in found if text]


def write_texts(folder: Path) -> None:
    """Put what the cases read into a folder, so that it is collected only once."""
    sources = library_sources()
    shakespeare = (data_folder() / "tinyshakespeare.txt").read_text("utf-8")
    halves = shakespeare[: len(shakespeare) // 2], shakespeare[len(shakespeare) // 2 :]
    for i, use in enumerate(("warm-up", "measured")):
        prose = "\n\n".join([halves[i], *(d for s in sources[i::2] for d in docstrings(s))])
        write(folder / f"prose-{use}", prose)
        write(folder / f"code-{use}", "\n".join(sources[i::2])[:5_000_000])
    text = "\n".join([shakespeare, load_text(), *sources])
    write(folder / "train", text.encode()[:TRAINING_BYTES].decode(errors="ignore"))


def write(path: Path, text: str) -> None:
    path.write_bytes(text.encode())


def read(path: Path) -> str:
    return path.read_bytes().decode()           # line ends as they are


# ---- one library in one process -----------------------------------------------------------------


def coder(library: str) -> tuple[Callable[[str], list[int]], Callable[[list[int]], str]]:
    """What encodes and decodes in a library, with GPT-2's vocabulary."""
    folder = data_folder() / "gpt2"
    if library == "tokenizers":
        from tokenizers import ByteLevelBPETokenizer

        files = str(folder / "encoder.json"), str(folder / "vocab.bpe")
        theirs = ByteLevelBPETokenizer(*files)
        return lambda text: theirs.encode(text).ids, theirs.decode
    ours = GPT2Tokenizer.from_pretrained(folder)
    if library == "minigpt":
        return ours.encode, ours.decode
    import tiktoken

    ranks = {chars_to_bytes(token): i for token, i in ours.get_vocab().items() if i != 50256}
    encoding = tiktoken.Encoding(
        "gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256}
    )
    return encoding.encode_ordinary, encoding.decode


def trainer(library: str, whole: str, lines: bool) -> Callable[[], list[tuple[str, str]]]:
    """What learns the merges, from one string or from the same text line by line."""
    text = whole.splitlines(keepends=True) if lines else [whole]
    if library == "minigpt":
        return lambda: learn_merges(count_pieces(text), VOCAB_SIZE - 257, 2)
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    def train() -> list[tuple[str, str]]:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.train_from_iterator(text, trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE, min_frequency=2, special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        ))
        return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]

    return train


def work(library: str, case: str, folder: Path) -> dict[str, object]:
    """Seconds, peak memory and the digest of the result of one case in this process."""
    verb, kind = case.replace(",", "").split()[:2]
    if verb == "train":
        text = read(folder / "train")
        step = trainer(library, text, lines=case.endswith("lines"))
    else:
        warm_up, text = (read(folder / f"{kind}-{use}") for use in ("warm-up", "measured"))
        encode, decode = coder(library)
        encode(warm_up)
        if not case.endswith("new"):
            ids = encode(text)
        step = (lambda: decode(ids)) if verb == "decode" else (lambda: encode(text))
    size = len(text.encode())
    start = time.perf_counter()
    result = step()
    seconds = time.perf_counter() - start
    peak = peak_bytes()
    digest = hashlib.sha256(repr(result).encode()).hexdigest()
    return {"seconds": seconds, "digest": digest, "bytes": size, "peak_bytes": peak}


def peak_bytes() -> int:
    """The most memory this process had, on Linux; getrusage would count its parent's, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


# ---- turns --------------------------------------------------------------------------------------


def run_once(library: str, case: str, folder: Path) -> dict:
    """`work` in a fresh process with one thread."""
    one = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "RAYON")}
    environment = {**os.environ, **one, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.tokenizer", "--work", library, case, str(folder)],
        env=environment, cwd=ROOT, capture_output=True, text=True,
    )
    if done.returncode:
        raise SystemExit(f"{library}, {case}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(case: str, rounds: int, folder: Path) -> list[dict]:
    """A result for each peer of a case: medians, ratio of the speeds, spread, peak memory."""
    libraries = ["minigpt", *CASES[case]]
    runs: dict[str, list[dict]] = {library: [] for library in libraries}
    for _ in range(rounds):
        for library in libraries:
            runs[library].append(run_once(library, case, folder))
    digests = {run["digest"] for library in libraries for run in runs[library]}
    if len(digests) != 1:
        raise SystemExit(f"{case}: the libraries differ in what they give")
    results = []
    for peer, aim in CASES[case].items():
        ratios = [b["seconds"] / a["seconds"] for a, b in zip(runs["minigpt"], runs[peer])]
        ours, theirs = (
            statistics.median(run["seconds"] for run in runs[library])
            for library in ("minigpt", peer)
        )
        results.append({
            "case": case, "peer": peer, "ours_s": ours, "theirs_s": theirs,
            "megabytes": runs[peer][0]["bytes"] / 1e6, "ratio": theirs / ours,
            "lowest": min(ratios), "highest": max(ratios), "aim": aim,
            "ours_peak_mb": max(run["peak_bytes"] for run in runs["minigpt"]) / 1e6,
            "theirs_peak_mb": max(run["peak_bytes"] for run in runs[peer]) / 1e6,
        })
    return results


HEAD = (
    f"{'case':26} {'beside':10} {'ours':>11} {'theirs':>11} {'speed':>6} {'spread':>11} {'aim':>5} "
    f"{'peak MB':>10}"
)


def row(result: dict) -> str:
    """A result as a line of the table; speeds in megabytes a second."""
    speeds = [result["megabytes"] / result[name] for name in ("ours_s", "theirs_s")]
    return (
        f"{result['case']:26} {result['peer']:10} {speeds[0]:>6.1f} MB/s {speeds[1]:>6.1f} MB/s "
        f"{result['ratio']:>6.2f} {result['lowest']:>5.2f}–{result['highest']:<5.2f} "
        f"{result['aim']:>5.2f} {result['ours_peak_mb']:>5.0f}/{result['theirs_peak_mb']:<5.0f}"
    )


def main() -> None:
    """Measure all cases, or those whose name contains one of the words given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help="; ".join(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        library, case, folder = arguments.cases
        print(json.dumps(work(library, case, Path(folder))))
        return
    chosen = [c for c in CASES if not arguments.cases or any(n in c for n in arguments.cases)]
    if not chosen:
        parser.error(f"no such case; there are {'; '.join(CASES)}")
    print(f"{platform.processor() or platform.machine()}, 1 thread\n{HEAD}", flush=True)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        write_texts(Path(folder))
        for case in chosen:
            for result in measure(case, arguments.rounds, Path(folder)):
                results.append(result)
                print(row(result), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
