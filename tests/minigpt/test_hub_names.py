"""Names of the Hub wherever a folder may stand: from_pretrained of every class, and --model."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from minigpt import GenerationConfig, GPT2Config, GPT2LMHeadModel, GPT2Model, GPT2Tokenizer
from minigpt.bpe_training import train_bpe
from minigpt.checkpoints import hub
from minigpt.checkpoints.safetensors_file import read_safetensors, write_safetensors
from minigpt.cli import main
from minigpt.tokenizer import load_tokenizer
from tests.minigpt.checkpoint_files import torch_zip

CONFIG = dict(vocab_size=270, n_positions=16, n_embd=8, n_layer=2, n_head=2)


@pytest.fixture
def tiny(hub_server, tmp_path, monkeypatch):
    """The server has a whole tiny model; and its folder, to compare with."""
    folder = tmp_path / "original"
    tokenizer = train_bpe("to be or not to be, that is the question " * 20, 270)
    tokenizer.save_pretrained(folder)
    GPT2LMHeadModel(GPT2Config(**CONFIG)).save_pretrained(folder)
    hub_server.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    return folder


def fetched(server):
    return {request[2] for request in server.requests if request[1] == "GET"}


def test_each_class_fetches_what_it_needs_and_nothing_else(hub_server, tiny):
    assert GPT2Config.from_pretrained("org/name") == GPT2Config.from_pretrained(tiny)
    assert fetched(hub_server) == {"config.json", "generation_config.json"}
    assert GenerationConfig.from_pretrained("org/name").eos_token_id == 50256
    tokenizer = GPT2Tokenizer.from_pretrained("org/name")
    assert tokenizer.encode("to be") == GPT2Tokenizer.from_pretrained(tiny).encode("to be")
    assert load_tokenizer("org/name").vocab_size == tokenizer.vocab_size
    assert "model.safetensors" not in fetched(hub_server)
    ours, original = (GPT2Model.from_pretrained(name) for name in ("org/name", tiny))
    for name, values in original.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[name], values)
    asked = len(hub_server.requests)
    model = GPT2LMHeadModel.from_pretrained("org/name", n_positions=16)
    assert model.generation_config.eos_token_id == 50256 and len(hub_server.requests) == asked


def test_an_official_name(hub_server, tiny, monkeypatch):
    assert GPT2LMHeadModel.from_pretrained("distilgpt2").config.n_layer == 2
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert GPT2Config.from_pretrained("distilbert/distilgpt2").n_layer == 2
    with warnings.catch_warnings(), pytest.raises(FileNotFoundError, match="unset HF_HUB_OFFLINE"):
        warnings.simplefilter("error")
        GPT2Tokenizer.from_pretrained("gpt2")


def test_a_folder_of_the_same_name_wins(hub_server, tiny):
    GPT2LMHeadModel(GPT2Config(**CONFIG | {"n_layer": 1})).save_pretrained("gpt2")
    assert GPT2LMHeadModel.from_pretrained("gpt2").config.n_layer == 1
    assert hub_server.requests == []


def test_a_mistyped_folder_is_no_question_for_the_hub(hub_server, tiny):
    Path("runs").mkdir()
    with pytest.raises(FileNotFoundError, match="'runs/tinny' is neither a folder"):
        GPT2LMHeadModel.from_pretrained("runs/tinny")
    with pytest.raises(FileNotFoundError, match="no tokenizer in runs"):
        load_tokenizer("runs/tinny")
    assert hub_server.requests == []
    Path("distilbert").mkdir()                  # but of an official name there is no doubt
    assert GPT2Config.from_pretrained("distilbert/distilgpt2").n_layer == 2


def test_the_command_line_takes_names(hub_server, tiny, capsys):
    assert main(["generate", "--model", "org/name", "--greedy", "--max-new-tokens", "3", "to"]) == 0
    assert capsys.readouterr().out.startswith("to")
    assert main(["info", "--model", "org/name"]) == 0
    assert "wte.weight" in capsys.readouterr().out
    assert main(["tokenize", "to be", "--tokenizer", "org/name"]) == 0
    assert main(["generate", "--model", "org/other", "to"]) == 0       # the server has one model


@pytest.mark.parametrize("name", ["org/none", "gpt2"])
def test_a_name_that_cannot_be_had_is_one_line(hub_server, tiny, capsys, name):
    hub_server.refuse = (404, "RepoNotFound")
    assert main(["generate", "--model", name, "to"]) == 2
    err = capsys.readouterr().err
    assert "put these files into a folder" in err and err.count("\n") == 1


def test_shards_are_fetched_by_their_index(hub_server, tiny, tmp_path):
    weights = read_safetensors(tiny / "model.safetensors")
    names = sorted(weights)
    files = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
    for file, part in files.items():
        write_safetensors(tmp_path / file, {name: weights[name] for name in part})
        hub_server.files[file] = (tmp_path / file).read_bytes()
    weight_map = {name: file for file, part in files.items() for name in part}
    del hub_server.files["model.safetensors"]
    index = json.dumps({"weight_map": weight_map}).encode()
    hub_server.files["model.safetensors.index.json"] = index
    model = GPT2LMHeadModel.from_pretrained("org/name")
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(values, weights[name])


def test_a_torch_file_is_fetched_where_there_is_no_safetensors(hub_server, tiny):
    weights = read_safetensors(tiny / "model.safetensors")
    hub_server.files["pytorch_model.bin"] = torch_zip(weights)
    assert (hub.download("org/both") / "model.safetensors").is_file()
    assert "pytorch_model.bin" not in fetched(hub_server)
    del hub_server.files["model.safetensors"]
    for name in ("org/one", "org/shards"):
        model = GPT2LMHeadModel.from_pretrained(name)
        for parameter, values in model.state_dict().items():
            np.testing.assert_array_equal(values, weights[parameter])
        shard = hub_server.files.pop("pytorch_model.bin", b"")
        hub_server.files["pytorch_model-00001-of-00001.bin"] = shard
        weight_map = dict.fromkeys(weights, "pytorch_model-00001-of-00001.bin")
        index = json.dumps({"weight_map": weight_map}).encode()
        hub_server.files["pytorch_model.bin.index.json"] = index
    assert {p.name for p in hub.cached_folder("org/shards", "model").iterdir()} >= {
        "pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"}
