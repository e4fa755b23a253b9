"""`minigpt download --tf`, from a local server in place of OpenAI's bucket."""

import base64
import hashlib

import numpy as np
import pytest

from minigpt import GPT2Config, GPT2LMHeadModel
from minigpt.bpe_training import train_bpe
from minigpt.checkpoints import openai_bucket
from minigpt.checkpoints.openai_bucket import FILES, download_openai, openai_folder, openai_name
from minigpt.cli import main
from minigpt.convert import convert


@pytest.fixture
def bucket(hub_server, tmp_path, monkeypatch):
    """The files, small; what is known of OpenAI's is made known of these."""
    hub_server.files = {file: f"the content of {file}".encode() * 50 for file in FILES}
    sizes = {file: len(data) for file, data in hub_server.files.items()}
    vocabulary = {file: hub_server.files[file] for file in ("encoder.json", "vocab.bpe")}
    monkeypatch.setitem(openai_bucket.SIZES, "124M", sizes)
    for file, data in vocabulary.items():
        monkeypatch.setitem(openai_bucket.SHA256, file, hashlib.sha256(data).hexdigest())
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(
        "MINIGPT_OPENAI_ENDPOINT", f"{hub_server.url(hub_server.other)}/gpt-2/models"
    )
    return hub_server


def test_seven_files_in_a_folder_of_their_own(bucket, tmp_path, capsys, monkeypatch):
    assert main(["download", "gpt2", "--tf"]) == 0
    folder = tmp_path / "cache" / "openai-gpt-2" / "124M"
    assert capsys.readouterr().out.splitlines()[-1] == str(folder)
    there = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}
    assert there == bucket.files
    bucket.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["download", "openai-community/gpt2", "--tf", "--quiet"]) == 0
    assert capsys.readouterr().out == f"{folder}\n" and bucket.requests == []


def test_the_folder_is_a_model_with_its_tokenizer(bucket, tmp_path, monkeypatch, capsys):
    source, target = tmp_path / "source", tmp_path / "tf"
    train_bpe(["to be or not to be " * 9], 260).save_pretrained(source)
    config = dict(vocab_size=260, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    model = GPT2LMHeadModel(GPT2Config(**config, bos_token_id=0, eos_token_id=0))
    model.save_pretrained(source)
    convert(source, target, "tf")
    for ours, theirs in (("vocab.json", "encoder.json"), ("merges.txt", "vocab.bpe")):
        (target / theirs).write_bytes((source / ours).read_bytes())
        data = (target / theirs).read_bytes()
        monkeypatch.setitem(openai_bucket.SHA256, theirs, hashlib.sha256(data).hexdigest())
    (target / "model.ckpt.meta").write_bytes(b"TensorFlow's graph")
    bucket.files = {file: (target / file).read_bytes() for file in FILES}
    monkeypatch.setitem(openai_bucket.SIZES, "124M", {})
    folder = download_openai("gpt2")
    loaded = GPT2LMHeadModel.from_pretrained(folder).state_dict()
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(loaded[name], values)
    assert main(["verify", str(folder), "--quiet"]) == 0


def test_what_was_interrupted_goes_on(bucket):
    folder = openai_folder("124M")
    folder.mkdir(parents=True)
    name = "model.ckpt.data-00000-of-00001"
    (folder / f".{name}.incomplete").write_bytes(bucket.files[name][:100])
    assert (download_openai("124M") / name).read_bytes() == bucket.files[name]
    assert [r[3] for r in bucket.requests if r[1] == "GET" and r[2] == name] == ["bytes=100-"]


@pytest.mark.parametrize(
    ("file", "changed", "said"),
    [
        ("vocab.bpe", b"x", "has not the hash"),
        ("model.ckpt.index", b"too short", "has 9 bytes, but OpenAI's file 1,550"),
    ],
)
def test_other_content_than_openais_is_refused(bucket, file, changed, said):
    size = len(bucket.files[file])
    bucket.files[file] = changed * size if len(changed) == 1 else changed
    with pytest.raises(FileNotFoundError, match=said):
        download_openai("gpt2")
    assert not (openai_folder("gpt2") / file).exists()


def test_the_hash_that_the_bucket_sends(bucket):
    right = base64.b64encode(hashlib.md5(bucket.files["checkpoint"]).digest()).decode()
    bucket.md5 = right
    with pytest.raises(FileNotFoundError, match=r"hparams\.json.* has not the hash"):
        download_openai("gpt2")             # the second file is not the one of that hash
    assert (openai_folder("gpt2") / "checkpoint").is_file()


@pytest.mark.parametrize(
    ("name", "said"),
    [("distilgpt2", "not among the models that OpenAI released"), ("../etc", "not among")],
)
def test_models_that_openai_has_not(bucket, capsys, name, said):
    assert main(["download", name, "--tf"]) == 2
    assert said in capsys.readouterr().err and bucket.requests == []


def test_what_to_do_without_a_network(bucket, monkeypatch, capsys):
    bucket.refuse = (404, "")
    assert main(["download", "gpt2-xl", "--tf"]) == 2
    err = capsys.readouterr().err
    assert "answers 404" in err and "1558M: checkpoint, hparams.json" in err
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["download", "gpt2", "--tf"]) == 2
    assert "unset HF_HUB_OFFLINE; or put these files into" in capsys.readouterr().err


def test_each_name_of_a_model():
    names = ("gpt2", "gpt2-medium", "openai-community/gpt2-large", "1558M")
    assert [openai_name(name) for name in names] == ["124M", "355M", "774M", "1558M"]
