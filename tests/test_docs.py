"""Every example of docs/transformers.md runs, as it stands there, on a tiny folder "gpt2"; and the
page names every class and argument."""

from __future__ import annotations

import dataclasses
import inspect
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

import minigpt
from minigpt import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer
from minigpt.bpe_training import train_bpe

PAGE = (Path(__file__).parent.parent / "docs" / "transformers.md").read_text("utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
OTHERS = ("GPT2Config", "GPT2Tokenizer", "GPT2TokenizerFast", "GenerationConfig", "TextStreamer")
CLASSES = [name for name in minigpt.__all__ if name not in OTHERS]  # the models


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder that holds "gpt2": a tokenizer and an untrained model of one layer."""
    folder = tmp_path_factory.mktemp("docs")
    text = "Hello, my dog is cute [CLS] Hello, my cat is cute [CLS] "  # "dog" as long as "cat"
    tokenizer = train_bpe([text] * 3, 278)
    tokenizer.save_pretrained(folder / "gpt2")
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder / "gpt2")
    return folder


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example(number, checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint)
    names: dict = {"__name__": "example"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*newly initialised, to be trained")
        warnings.filterwarnings("ignore", message=".*has the name of an official GPT-2")
        exec(EXAMPLES[number], names)
    if "loss" in names:
        assert np.isfinite(names["loss"].item())


def test_there_is_an_example_of_every_class():
    assert {name for name in CLASSES if f"model = {name}." in PAGE} == set(CLASSES)


@pytest.mark.filterwarnings("ignore:.*has the name of an official GPT-2")
def test_torch_tensors_are_refused(checkpoint):
    tokenizer = GPT2Tokenizer.from_pretrained(checkpoint / "gpt2")
    with pytest.raises(ValueError, match='return_tensors.*"np"'):
        tokenizer("Hello, my dog is cute", return_tensors="pt")


@pytest.mark.parametrize("name", CLASSES)
def test_every_argument_has_a_row(name):
    table = PAGE[PAGE.index("## Classes and arguments") : PAGE.index("| configuration |")]
    for argument in inspect.signature(getattr(minigpt, name).forward).parameters:
        assert argument == "self" or f"`{argument}`" in table, argument


def test_rows_that_are_referred_to_exist():
    rows = set(re.findall(r"^\| (\d+) \|", PAGE, re.M))
    tables = PAGE[PAGE.index("## Classes and arguments") : PAGE.index("## Differences")]
    referred = {n for group in re.findall(r"\[([\d, ]+)\]", tables) for n in group.split(", ")}
    assert referred <= rows
    assert sorted(map(int, rows)) == list(range(1, len(rows) + 1))


def test_every_option_of_generate_is_on_the_page():
    listed = PAGE[PAGE.index("## generate") :]
    for field in dataclasses.fields(minigpt.GenerationConfig):
        known = f"`{field.name}`" in listed or field.name.startswith("output_")
        assert known or field.name in ("from_model_config", "extra"), field.name


def test_the_profile_on_the_page_about_speed(capsys):
    page = (Path(__file__).parent.parent / "docs" / "speed.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(example, {})
    printed = capsys.readouterr().out
    for line in ("operation", "Linear.backward", "Attention", "together"):
        assert re.search(f"^{line} ", printed, re.M)
