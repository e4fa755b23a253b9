"""Every block of docs/training.md runs, as it stands there, with models that take no time."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from minigpt.cli import main
from minigpt.data import load_text
from minigpt.presets import PRESETS, TrainConfig
from tests.minigpt.training_helpers import fake_notebook

PAGE = (Path(__file__).parent.parent / "docs" / "training.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.M | re.S)
SMALL = {"n_embd": 16, "n_layer": 1, "n_head": 2, "eval_batches": 1, "sample_tokens": 5}


def run(line):
    """A `minigpt …` line with a small model, and 3 steps at most for each 100."""
    words = shlex.split(line)
    assert words[0] == "minigpt"
    words = [re.sub(r"max_steps=(\d)00", r"max_steps=\1", word) for word in words[1:]]
    small = [f"--set={key}={value}" for key, value in SMALL.items()]
    fresh = words[0] == "train" and "--resume" not in words and "--model" not in words
    assert main([*words, *(small if fresh else [])]) == 0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my-text.txt").write_text(load_text()[:20_000], encoding="utf-8")
    return tmp_path


@pytest.mark.filterwarnings("ignore:the text has only")
def test_every_block_in_its_order(folder, monkeypatch, capsys):
    tiny = PRESETS["tiny"].replace(max_steps=2, **SMALL)
    monkeypatch.setitem(PRESETS, "tiny", tiny)
    monkeypatch.setattr(TrainConfig, "replace", limited(TrainConfig.replace))
    shown = fake_notebook(monkeypatch)
    names = {}
    for language, code in BLOCKS:
        if language == "sh":
            for line in code.splitlines():
                if "--preset" not in line:  # those take minutes, or a text that is not there
                    run(line)
        elif language == "python":
            exec(code, names)
        else:
            preset = tomllib.loads(code)
            TrainConfig.from_dict(tiny.to_dict() | {k: v for k, v in preset.items()
                                                    if k != "preset"})  # fmt: skip
    printed = capsys.readouterr().out
    assert shown  # in the notebook
    assert re.search(r"^return self.name -> (code|prose)$", printed, re.M)
    assert {path.name for path in Path("runs").iterdir()} == {
        "mine", "code-or-prose", "fine", "notebook",
    }  # fmt: skip


def limited(replace):
    """`replace` that makes no long run of a block in Python."""

    def small(self, **changes):
        if changes.get("max_steps") == 100:
            changes["max_steps"] = 2
        return replace(self, **changes)

    return small


def test_every_setting_that_is_named_exists():
    fields = set(TrainConfig().to_dict())
    for name in re.findall(r"`(\w+)=\w+`", PAGE) + re.findall(r"--set ([a-z_]+)=", PAGE):
        assert name in fields, name


def test_every_preset_has_its_row():
    for name in PRESETS:
        assert f"`{name}`" in PAGE, name
