"""The command line: what it prints, what it leaves, and one line for every mistake of the user."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from minigpt import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel
from minigpt.char_tokenizer import CharTokenizer
from minigpt.cli import main
from minigpt.files import FolderLock
from minigpt.run_folder import RunFolder, checkpoint_step
from minigpt.run_setup import make_tokenizer

SMALL = [
    "--tokenizer", "char", "--set", "n_layer=1", "--set", "n_head=2", "--set", "n_embd=16",
    "--set", "block_size=16", "--set", "max_steps=6", "--set", "batch_size=2",
    "--set", "eval_every=3", "--set", "eval_batches=1", "--set", "checkpoint_every=3",
    "--set", "log_every=2", "--set", "sample_tokens=30",
]  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Each test in a folder of its own, with a small text in it; pictures take too long."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minigpt.training.plot_run", lambda log, title: None)
    Path("text.txt").write_text("".join(f"{n} times 3 is {3 * n}.\n" for n in range(60)))


@pytest.fixture
def run_folder(elsewhere):
    assert main(["train", "--data", "text.txt", "--out", "run", "--quiet", *SMALL]) == 0
    return Path("run")


def train(*arguments):
    return main(["train", "--data", "text.txt", *SMALL, *arguments])


def command(*arguments, stderr=subprocess.PIPE):
    """The same in a process of its own; always a new session, so that signals reach it alone. A
    shell has what it starts by `&` ignore Ctrl-C, pytest too: this process does not inherit that.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "minigpt", *arguments], stdout=subprocess.PIPE, stderr=stderr,
            text=True, env=environment, start_new_session=True,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, ours)


class TestTrain:
    def test_what_it_prints_and_leaves(self, capsys):
        assert train() == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert "text: 1,092 characters of text.txt" in out
        assert "n_layer 1, n_head 2, n_embd 16, context 16: 3,856 parameters" in out
        lines = [line.split()[1] for line in out.splitlines() if line.startswith("step")]
        assert lines == ["0/6", "2/6", "3/6", "4/6", "6/6"]
        assert "before the first step" in out and "over the whole split" in out
        assert "runs/tiny" in out and "more text: minigpt generate --model runs/tiny" in out
        assert {path.name for path in Path("runs/tiny").iterdir()} >= {
            "config.json", "model.safetensors", "tokenizer_config.json", "log.csv", "checkpoints",
        }  # fmt: skip

    def test_quiet_prints_the_results_alone(self, capsys):
        assert train("--quiet") == 0
        out, err = capsys.readouterr()
        assert err == "" and "step " not in out.partition("validation loss:")[0]
        assert out.splitlines()[0] == "--- sample ---"

    def test_the_same_command_again_is_refused_with_the_way_on(self, run_folder, capsys):
        before = (run_folder / "model.safetensors").read_bytes()
        assert train("--out", "run") == 2
        assert one_line(capsys) == (
            "minigpt: error: run holds a run already, saved at step 6: --resume goes on with it, "
            "--overwrite replaces what is there, --out names another folder"
        )
        assert (run_folder / "model.safetensors").read_bytes() == before

    def test_resume_with_the_same_command_or_with_less(self, run_folder, capsys):
        assert train("--out", "run", "--resume", "--preset", "tiny") == 0
        assert main(["train", "--out", "run", "--resume", "--set", "max_steps=8"]) == 0
        assert "run: step 6 to 8" in capsys.readouterr().out
        steps = [checkpoint_step(path) for path in RunFolder(run_folder).checkpoints()]
        assert steps == [6, 8]

    def test_resume_where_there_is_nothing_starts_anew(self, capsys):
        assert train("--out", "run", "--resume") == 0
        assert "run: step 0 to 6" in capsys.readouterr().out

    def test_overwrite(self, run_folder, capsys):
        assert main(["train", "--data", "text.txt", *SMALL, "--out", "run", "--overwrite",
                     "--tokenizer", "bpe:270"]) == 0
        assert not (run_folder / "tokenizer_config.json").read_text().count("CharTokenizer")
        assert "a vocabulary of 270" in capsys.readouterr().out

    def test_a_tokenizer_from_a_folder(self, run_folder, capsys):
        assert train("--tokenizer", "run", "--out", "other") == 0
        names = [folder / "tokenizer_config.json" for folder in (run_folder, Path("other"))]
        assert names[0].read_text() == names[1].read_text()

    def test_a_small_text_for_a_large_vocabulary_is_a_warning_in_one_line(self):
        process = command(
            "train", "--data", "text.txt", *SMALL, "--tokenizer", "bpe:5000", "--out", "run"
        )
        _, err = process.communicate()
        assert process.returncode == 0
        assert err.startswith("minigpt: warning: the text has only ") and err.count("\n") == 1

    def test_settings_from_a_file(self, capsys):
        """The file counts more than its preset, and --set more than the file."""
        Path("run.toml").write_text('preset = "nano-cpu"\ndata = "text.txt"\nmax_steps = 9\n')
        assert main(["train", "--config", "run.toml", *SMALL, "--set", "max_steps=4"]) == 0
        out = capsys.readouterr().out
        assert "run: step 0 to 4" in out and "in runs/nano-cpu" in out

    def test_the_seed_decides(self):
        for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
            assert train("--out", name, "--seed", seed, "--quiet") == 0
        a, b, c = (Path(name, "model.safetensors").read_bytes() for name in "abc")
        assert a == b != c


def one_line(capsys_or_text):
    """The only line on stderr."""
    text = capsys_or_text if isinstance(capsys_or_text, str) else capsys_or_text.readouterr().err
    assert text.endswith("\n") and text.count("\n") == 1, text
    assert text.startswith("minigpt: error: "), text
    return text[:-1]


# (arguments, what the line must say). {run} is a folder with a trained model.
MISTAKES = [
    ([], "arguments are required: VERB"),
    (["dance"], "invalid choice: 'dance'"),
    (["train", "--fast"], "unrecognized arguments: --fast"),
    (["train", "--preset", "huge"], "invalid choice: 'huge'"),
    (["train", "--set", "max_step=3"], "did you mean max_steps"),
    (["train", "--set", "max_steps"], "expected KEY=VALUE"),
    (["train", "--set", "lr=-1"], "lr=-1.0 should be at least 0"),
    (["train", "--set", "n_embd=30"], "n_embd=30 can't be divided among n_head=4"),
    (["train", "--seed", "x"], "argument --seed: invalid int value: 'x'"),
    (["train", "--seed", "-1"], "seed=-1 should be at least 0"),
    (["train", "--seed", "1", "--set", "seed=2"], "--seed and --set seed=... are both given"),
    (["train", "--config", "absent.toml"], "absent.toml: No such file"),
    (["train", "--config", "text.txt"], "text.txt: settings are read from a file that ends in"),
    (["train", "--data", "absent.txt"], "absent.txt: no such file or folder"),
    (["train", "--data", "empty.txt"], "empty.txt: the text is empty"),
    (["train", "--data", "latin.txt"], "latin.txt: not UTF-8 text"),
    (["train", "--data", "binary"], "binary: a binary file"),
    (["train", "--data", "folder"], "folder: no text file in this folder"),
    (["train", "--data", "text.txt", "--tokenizer", "char", "--set", "block_size=500"],
     "validation split: 110 tokens, and a context of 500 needs at least 501"),
    (["train", "--data", "text.txt", "--tokenizer", "bpe:many"], "expected bpe:SIZE"),
    (["train", "--data", "text.txt", "--tokenizer", "bpe:10"], "too small"),
    (["train", "--data", "text.txt", "--tokenizer", "nowhere"], "nowhere"),
    (["train", "--data", "text.txt", "--device", "abacus", *SMALL], "device 'abacus'"),
    (["train", "--data", "text.txt", "--out", "text.txt", *SMALL], "text.txt is a file"),
    (["train", "--data", "text.txt", "--out", "text.txt/x", *SMALL], "text.txt"),
    (["train", "--data", "text.txt", *SMALL, "--set", "lr=1e30", "--set", "grad_clip=0"],
     "lower the learning rate"),
    (["train", "--resume", "--out", "{run}", "--set", "n_layer=3"], "started with n_layer=1"),
    (["train", "--resume", "--overwrite", "--out", "{run}"], "give one of them"),
    (["train", "--resume", "--out", "{run}", "--set", "max_steps=2"], "step 6 of this run is past"),
    (["train", "--data", "", "--out", "new"], "argument --data: is empty"),
    (["train", "--out", ""], "argument --out: is empty"),
    (["generate", "--model", "", "1"], "argument --model: is empty"),
    (["train", "--resume", "--out", "{run}", "--data", "other.txt"], "not the text this run"),
    (["generate", "prompt"], "arguments are required: --model"),
    (["generate", "--model", "{run}"], "arguments are required: prompt"),
    (["generate", "--model", "nowhere", "1"], "nowhere"),
    (["generate", "--model", "folder", "1"], "folder"),
    (["generate", "--model", "{run}", ""], "the prompt has 0 tokens"),
    (["generate", "--model", "{run}", "1" * 40], "the prompt has 40 tokens"),
    (["generate", "--model", "{run}", "Ünknown"], "the character 'Ü'"),
    (["generate", "--model", "{run}", "1", "--temperature", "0"], "temperature"),
    (["generate", "--model", "{run}", "1", "--top-p", "0"], "--top-p 0.0 must be above 0"),
    (["generate", "--model", "{run}", "1", "--top-p", "2"], "--top-p 2.0 must be"),
    (["generate", "--model", "{run}", "1", "--top-p", "nan"], "--top-p nan must be"),
    (["generate", "--model", "nope", "1"], "'nope' is neither a folder with a model ("),
    (["generate", "--model", "{run}", "1", "--top-k", "-5"], "top_k"),
    (["generate", "--model", "{run}", "1", "--max-new-tokens", "0"], "max_new_tokens=0"),
    (["generate", "--model", "{run}", "1", "--num-beams", "0"], "num_beams = 0"),
    (["generate", "--model", "{run}", "1", "--repetition-penalty", "0"], "repetition_penalty"),
    (["generate", "--model", "{run}", "1", "--seed", "-2"], "seed"),
    (["generate", "--model", "{run}", "1", "--device", "abacus"], "device 'abacus'"),
    (["info", "--model", "nowhere"], "nowhere"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "complaint"), MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, complaint, run_folder, capsys):
    Path("empty.txt").write_text("\n")
    Path("latin.txt").write_bytes(b"caf\xe9")
    Path("binary").write_bytes(b"\0\1")
    Path("folder").mkdir()
    Path("other.txt").write_text("1 times 3 is 4. " * 60)
    capsys.readouterr()
    before = (run_folder / "model.safetensors").read_bytes()
    assert main([argument.replace("{run}", str(run_folder)) for argument in arguments]) == 2
    assert complaint in one_line(capsys)
    assert (run_folder / "model.safetensors").read_bytes() == before


DAMAGE = {
    "config.json": [b"", b"{", b"[]", b'{"n_layer": "many"}', b'{"n_embd": -4}', b"\xff", None],
    "model.safetensors": [b"", b"\x00" * 8, b"\xff" * 100, None],
    "tokenizer_config.json": [b"", b"{", b'{"tokenizer_class": "CharTokenizer"}', b"[1]", None],
}


@pytest.mark.parametrize(
    ("name", "content"), [(name, content) for name, all_ in DAMAGE.items() for content in all_]
)
def test_damaged_model_folders(name, content, run_folder, capsys):
    (run_folder / name).unlink()
    if content is not None:
        (run_folder / name).write_bytes(content)
    verbs = [["generate", "1"]] if name.startswith("tokenizer") else [["generate", "1"], ["info"]]
    for verb in verbs:
        capsys.readouterr()
        assert main([*verb, "--model", str(run_folder)]) == 2
        one_line(capsys)


def test_a_model_for_another_tokenizer(run_folder, capsys):
    """Ids that the model has no row for: an error, and never a wrong row."""
    characters = "".join(chr(i) for i in range(33, 200))
    CharTokenizer(characters).save_pretrained(run_folder)
    capsys.readouterr()
    assert main(["generate", "--model", str(run_folder), "~~~"]) == 2
    assert "vocabulary" in one_line(capsys)


def test_a_folder_in_use_by_another_run(capsys):
    Path("run").mkdir()
    with FolderLock("run"):
        assert train("--out", "run", "--quiet") == 2
    assert "in use by another run" in one_line(capsys)


def test_mistakes_of_ours_keep_their_traceback(monkeypatch):
    monkeypatch.setattr("minigpt.cli_info.info", lambda arguments: {}["a bug"])
    with pytest.raises(KeyError):
        main(["info", "--model", "x"])


class TestGenerate:
    def test_greedy_is_what_the_model_says(self, run_folder, capsys):
        capsys.readouterr()
        arguments = ["generate", "--model", "run", "1 times", "--max-new-tokens", "9", "--greedy"]
        assert main(arguments) == 0
        model = GPT2LMHeadModel.from_pretrained("run")
        tokenizer = CharTokenizer.from_pretrained("run")
        ids = model.generate(np.array([tokenizer.encode("1 times")]), max_new_tokens=9)
        assert capsys.readouterr().out == tokenizer.decode(ids[0]) + "\n"

    def test_beams_and_penalty(self, run_folder, capsys):
        capsys.readouterr()
        arguments = ["generate", "--model", "run", "1 times", "--max-new-tokens", "9", "--greedy"]
        assert main([*arguments, "--num-beams", "3", "--repetition-penalty", "1.3"]) == 0
        model = GPT2LMHeadModel.from_pretrained("run")
        tokenizer = CharTokenizer.from_pretrained("run")
        prompt = np.array([tokenizer.encode("1 times")])
        ids = model.generate(prompt, max_new_tokens=9, num_beams=3, repetition_penalty=1.3)
        assert capsys.readouterr().out == tokenizer.decode(ids[0]) + "\n"

    def test_it_may_be_longer_than_the_context(self, run_folder, capsys):
        capsys.readouterr()
        assert main(["generate", "--model", "run", "1", "--max-new-tokens", "50", "--quiet"]) == 0
        assert len(capsys.readouterr().out) == 51

    def test_a_seed_repeats_the_text(self, run_folder, capsys):
        texts = []
        for seed in ("5", "5", "6"):
            capsys.readouterr()
            assert main(["generate", "--model", "run", "1", "--seed", seed]) == 0
            texts.append(capsys.readouterr().out)
        assert texts[0] == texts[1] != texts[2]

    def test_a_model_that_answers_is_warned_of(self, tmp_path, capsys):
        config = GPT2Config(vocab_size=256, n_positions=8, n_embd=4, n_layer=1, n_head=1)
        GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
        make_tokenizer("byte", "").save_pretrained(tmp_path)
        assert main(["generate", "--model", str(tmp_path), "1", "--max-new-tokens", "2"]) == 0
        assert "was trained as a GPT2ForSequenceClassification" in capsys.readouterr().err



@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["train", "--help"]])
def test_help_and_version(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    assert "minigpt" in capsys.readouterr().out


def read_terminal(descriptor):
    """What is there; nothing at the end, which Linux reports as an error."""
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""


class TestProcess:
    """What only a process of its own can show."""

    LONG = ["train", "--data", "text.txt", *SMALL, "--set", "max_steps=1000000", "--out", "run"]

    def wait_for_steps(self, process):
        for line in process.stdout:
            if line.startswith("step") and line.split()[1].startswith("2/"):
                return
        pytest.fail(f"no step: {process.stderr.read()}")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_saves_and_exits(self, number):
        process = command(*self.LONG, "--set", "checkpoint_every=0")
        self.wait_for_steps(process)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130 and err == ""
        (checkpoint,) = RunFolder("run").checkpoints()
        step = checkpoint_step(checkpoint)
        assert out.splitlines()[-1] == (
            f"stopped and saved at step {step}: --resume goes on from there"
        )

    def test_a_signal_before_training_is_one_line(self):
        # Random letters make for a tokenizer that takes far longer than any wait for a turn.
        letters = np.random.default_rng(0).integers(ord("a"), ord("z"), 4_000_000, dtype=np.uint8)
        Path("letters.txt").write_bytes(np.where(letters == ord("q"), ord(" "), letters).tobytes())
        process = command(
            "train", "--data", "letters.txt", "--tokenizer", "bpe:60000", "--out", "run"
        )
        assert process.stdout.readline().startswith("text: ")  # now it makes the tokenizer
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (130, "minigpt: interrupted\n")

    def test_a_reader_that_leaves_stops_the_run_and_the_exit_code_says_so(self):
        process = command(*self.LONG)
        self.wait_for_steps(process)
        process.stdout.close()
        assert process.wait(timeout=60) == 130
        (checkpoint,) = RunFolder("run").checkpoints()[-1:]
        step = int(checkpoint.name.removeprefix("step-"))
        said = f"minigpt: output closed: stopped and saved at step {step}\n"
        assert process.stderr.read() == said

    def test_a_stop_during_the_first_evaluation_is_saved_too(self):
        Path("text.txt").write_text(Path("text.txt").read_text() * 100)
        many = ["--set", "eval_batches=3000"]
        process = command(*self.LONG, *many)
        for line in process.stdout:
            if line.startswith("run:"):
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 130 and "saved at step 0" in out
        assert [p.name for p in RunFolder("run").checkpoints()] == ["step-000000"]
        assert main(["train", "--out", "run", "--resume", "--set", "max_steps=1", "--quiet"]) == 0

    def test_closed_streams_are_no_mistake(self):
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        words = [sys.executable, "-m", "minigpt", "train", "--data", "text.txt", *SMALL]
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *words], env=environment, timeout=60
        )
        assert done.returncode == 0
        assert RunFolder("runs/tiny").checkpoints()

    @pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
    def test_a_terminal_shows_a_bar_and_keeps_the_evaluations(self):
        import pty

        ours, terminal = pty.openpty()
        process = command("train", "--data", "text.txt", *SMALL, stderr=terminal)
        os.close(terminal)
        shown = b""
        while chunk := read_terminal(ours):
            shown += chunk
        out, _ = process.communicate()
        os.close(ours)
        assert process.returncode == 0
        assert "6/6" in shown.decode() and "tokens/s]" in shown.decode()
        lines = [line.split()[1] for line in out.splitlines() if line.startswith("step")]
        assert lines == ["0/6", "3/6", "6/6"]

    def test_text_that_the_terminal_can_not_show(self):
        Path("text.txt").write_text("Ünïcödé – “text” 日本\n" * 60, encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]),
                       "PYTHONIOENCODING": "ascii"}
        done = subprocess.run(
            [sys.executable, "-m", "minigpt", "train", "--data", "text.txt", *SMALL],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
