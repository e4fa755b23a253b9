"""`minigpt convert` and `minigpt info`: every tensor's bytes, there and back, and what headers say.
"""

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from minigpt import GPT2Config, GPT2ForTokenClassification, GPT2LMHeadModel, GPT2Model
from minigpt.bpe_training import train_bpe
from minigpt.checkpoints import tf_bundle
from minigpt.checkpoints.formats import open_checkpoint
from minigpt.checkpoints.reader import RAW, Stored
from minigpt.checkpoints.safetensors_file import (
    read_safetensors,
    write_safetensors,
    write_safetensors_one_by_one,
)
from minigpt.checkpoints.tf_bundle import write_tf_bundle
from minigpt.cli import main
from minigpt.convert import convert
from minigpt.lora import add_lora, save_lora
from minigpt.tokenizer import load_tokenizer
from minigpt.weights_tree import rows, show_bytes
from tests.minigpt.checkpoint_files import torch_legacy, torch_zip
from tests.minigpt.test_tf_bundle import FakeFiles, gpt2_shapes

CONFIG = GPT2Config(vocab_size=270, n_positions=8, n_embd=8, n_layer=2, n_head=2, resid_pdrop=0.3,
                    bos_token_id=1, eos_token_id=2)  # fmt: skip
ROOT = Path(__file__).parents[2]


@pytest.fixture
def source(tmp_path):
    """A folder with a model, a tokenizer and settings of generation."""
    GPT2LMHeadModel(CONFIG).save_pretrained(tmp_path / "a")
    train_bpe(["one two three " * 9], 260).save_pretrained(tmp_path / "a")
    return tmp_path / "a"


def raw_tensors(folder) -> dict[str, tuple[str, bytes]]:
    """Each tensor's dtype and bytes, by its name without "transformer."."""
    found = {}
    with open_checkpoint(folder) as reader:
        for name, stored in reader.header().items():
            out = np.empty(stored.shape, RAW[stored.dtype])
            reader.read_raw(name, out)
            found[name.removeprefix("transformer.")] = str(stored), out.tobytes()
    return found


def in_format(folder: Path, file: str, data: bytes) -> Path:
    """The folder, with other weights."""
    (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(data)
    return folder


def test_there_and_back(source, tmp_path):
    convert(source, tmp_path / "b", "tf")
    convert(tmp_path / "b", tmp_path / "c", "safetensors")
    assert raw_tensors(source) == raw_tensors(tmp_path / "b") == raw_tensors(tmp_path / "c")
    models = [GPT2LMHeadModel.from_pretrained(tmp_path / name) for name in "abc"]
    assert models[0].config == models[1].config == models[2].config
    assert models[1].config.resid_pdrop == 0.3 and models[1].generation_config.eos_token_id == 2
    tokenizers = [load_tokenizer(tmp_path / name) for name in "abc"]
    assert len({tuple(t.encode("one two three four")) for t in tokenizers}) == 1
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == [
        "checkpoint", "config.json", "encoder.json", "generation_config.json", "hparams.json",
        "model.ckpt.data-00000-of-00001", "model.ckpt.index", "special_tokens_map.json",
        "tokenizer_config.json", "vocab.bpe",
    ]  # fmt: skip


@pytest.mark.parametrize("make", [torch_zip, torch_legacy])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_from_torch_in_any_precision(source, tmp_path, make, dtype):
    """With masks and a tied head, as old files have them: neither is kept."""
    arrays = {k: v.astype(dtype) for k, v in read_safetensors(source / "model.safetensors").items()}
    extra = {"transformer.h.0.attn.bias": np.ones((1, 1, 8, 8), np.uint8),
             "lm_head.weight": arrays["transformer.wte.weight"]}  # fmt: skip
    in_format(source, "pytorch_model.bin", make(arrays | extra))
    for to in ("tf", "safetensors"):
        convert(source, tmp_path / to, to)
        found = raw_tensors(tmp_path / to)
        assert found == {
            name.removeprefix("transformer."): (f"{dtype} {array.shape}", array.tobytes())
            for name, array in arrays.items()
        }


def test_bfloat16_keeps_its_bits(source, tmp_path):
    with open_checkpoint(source) as reader:
        stored = {k: Stored("bfloat16", t.shape) for k, t in reader.header().items()}
    rng = np.random.default_rng(0)

    def numbers(name, out):
        out[...] = rng.integers(0, 2**16, out.shape)

    write_safetensors_one_by_one(source / "model.safetensors", stored, numbers)
    convert(source, tmp_path / "b", "tf")
    convert(tmp_path / "b", tmp_path / "c")
    assert raw_tensors(source) == raw_tensors(tmp_path / "b") == raw_tensors(tmp_path / "c")


def test_the_package_reads_what_is_written_one_by_one(tmp_path):
    arrays = {"b": np.arange(3, dtype=np.int8), "a": np.arange(4.0), "ä": np.zeros((0, 2), "f4"),
              "s": np.array(2.5, np.float32), "flag": np.array([True, False])}  # fmt: skip
    stored = {name: Stored(str(array.dtype), array.shape) for name, array in arrays.items()}

    def read(name, out):
        out[...] = arrays[name]

    write_safetensors_one_by_one(tmp_path / "f", stored, read)
    theirs = safetensors.numpy.load_file(tmp_path / "f")
    assert theirs.keys() == arrays.keys()
    for name, array in arrays.items():
        assert theirs[name].dtype == array.dtype and np.array_equal(theirs[name], array)
    write_safetensors(tmp_path / "g", arrays)
    assert (tmp_path / "f").read_bytes()[-39:] == (tmp_path / "g").read_bytes()[-39:]


def test_what_the_format_cannot_hold_is_said_before_anything_is_written(tmp_path):
    config = GPT2Config(**{**CONFIG.to_dict(), "activation_function": "relu"})
    GPT2Model(config).save_pretrained(tmp_path / "relu")
    GPT2ForTokenClassification(CONFIG).save_pretrained(tmp_path / "head")
    for name, fault in [("relu", "activation_function='relu'"), ("head", "classifier.bias")]:
        with pytest.raises(ValueError, match=fault):
            convert(tmp_path / name, tmp_path / "out", "tf")
        convert(tmp_path / name, tmp_path / f"{name} again")
        assert raw_tensors(tmp_path / name) == raw_tensors(tmp_path / f"{name} again")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "head", "head again", "relu", "relu again"
    ]


@pytest.mark.reference
def test_transformers_reads_what_came_out_of_openais_format(source, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    convert(source, tmp_path / "b", "tf")
    (tmp_path / "b" / "config.json").unlink()  # as OpenAI's own folder: hparams.json alone
    convert(tmp_path / "b", tmp_path / "c")
    theirs, info = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path / "c", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ids = [[1, 2, 3, 4]]
    ours = GPT2LMHeadModel.from_pretrained(source)(ids).logits.numpy()
    with torch.no_grad():
        np.testing.assert_allclose(theirs(torch.tensor(ids)).logits.numpy(), ours, atol=1e-5)


def test_adapters_are_not_a_model(source, tmp_path):
    model = GPT2LMHeadModel.from_pretrained(source)
    add_lora(model, rank=2)
    save_lora(model, tmp_path / "adapter", base="a")
    with pytest.raises(ValueError, match="adapter holds LoRA adapters of .*: load it"):
        convert(tmp_path / "adapter", tmp_path / "b")


def test_a_head_that_only_claims_to_be_tied_is_not_lost(source, tmp_path):
    arrays = read_safetensors(source / "model.safetensors")
    head = {"lm_head.weight": arrays["transformer.wte.weight"] + 1}
    write_safetensors(source / "model.safetensors", arrays | head)
    with pytest.raises(ValueError, match="lm_head.weight is not transformer.wte.weight"):
        convert(source, tmp_path / "b")


def test_nothing_is_left_of_what_failed(source, tmp_path, monkeypatch):
    convert(source, tmp_path / "b")
    (tmp_path / "empty").mkdir()
    for target in ("a", "b", "a/config.json"):
        with pytest.raises(FileExistsError, match="is there already: give the name of a new"):
            convert(source, tmp_path / target)
    convert(source, tmp_path / "empty", "tf")
    before = sorted(tmp_path.rglob("*"))

    def no_room(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OSError, match="No space left"):
        convert(source, tmp_path / "c" / "d")
    monkeypatch.undo()
    (tmp_path / "c").rmdir()
    arrays = read_safetensors(source / "model.safetensors")
    del arrays["transformer.ln_f.bias"]
    write_safetensors(source / "model.safetensors", arrays)
    with pytest.raises(ValueError, match="missing: ln_f.bias"):
        convert(source, tmp_path / "c")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_line(source, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "a", "b", "--to", "tf"]) == 0
    assert "b: checkpoint, config.json, encoder.json" in capsys.readouterr().out
    assert main(["convert", "b", "c", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    for arguments, fault in [
        (["convert", "a", "b"], "b is there already"),
        (["convert", "nowhere", "d"], "nowhere: there is no such folder"),
        (["convert", "a", "d", "--to", "onnx"], "invalid choice: 'onnx'"),
        (["convert", "a", ""], "is empty"),
        (["info"], "info takes one MODEL"),
        (["info", "a", "--model", "b"], "info takes one MODEL"),
        (["info", "nowhere"], "nowhere: there is no such folder"),
        (["info", "a/config.json"], "not a file of weights"),
    ]:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert fault in error and error.count("\n") == 1


# ---- info ---------------------------------------------------------------------------------------


def numbers_of(lines) -> list[int]:
    return [int(next(w for w in line.split("  ")[1:] if w.strip().replace(",", "").isdigit())
                .replace(",", "")) for line in lines]  # fmt: skip


@pytest.mark.parametrize("name", ["a", "b"])
def test_info_adds_up(source, tmp_path, capsys, name):
    convert(source, tmp_path / "b", "tf")
    assert main(["info", str(tmp_path / name)]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.endswith(", 28 tensors")
    model = GPT2Model(CONFIG)
    total = next(line for line in lines if line.startswith("total"))
    assert f" {model.num_parameters():,} " in total
    leaves = [line for line in lines if line.endswith("float32")]
    assert len(leaves) == 4 + 12  # the blocks are alike
    each = [line for line in leaves if line.startswith("      " if name == "b" else "        ")]
    assert sum(numbers_of(leaves)) + sum(numbers_of(each)) == model.num_parameters()
    assert any("0 … 1, each" in line for line in lines)
    run, run_half, train, _ = lines[-4:]
    n = model.num_parameters() / 1000
    assert f"{4 * n:.1f} kB of weights, and for each text 128 B" in run
    assert f"{2 * n:.1f} kB of weights, and for each text 64 B" in run_half
    assert f"train it, float32: {16 * n:.1f} kB" in train


def test_norms_are_those_of_the_tensors(source, capsys):
    arrays = read_safetensors(source / "model.safetensors")
    arrays["transformer.h.1.ln_1.bias"][:] = [3, 4, 0, 0, 0, 0, 0, 0]
    arrays["transformer.h.0.ln_1.bias"][3] = np.nan
    write_safetensors(source / "model.safetensors", arrays)
    assert main(["info", str(source), "--norms"]) == 0
    printed = capsys.readouterr().out
    assert "norm 5, rms 1.768, largest 4\n" in printed
    assert "1 values are NaN or infinite" in printed
    assert printed.count("norm ") == 27


def test_masks_and_a_second_head_are_no_parameters(source, capsys):
    arrays = read_safetensors(source / "model.safetensors")
    extra = {"transformer.h.0.attn.bias": np.ones((1, 1, 8, 8), np.float32),
             "lm_head.weight": arrays["transformer.wte.weight"]}  # fmt: skip
    write_safetensors(source / "model.safetensors", arrays | extra)
    assert main(["info", str(source)]) == 0
    printed = capsys.readouterr().out
    assert "not parameters, 2 tensors of 8.9 kB" in printed
    assert f"{GPT2Model(CONFIG).num_parameters():,}" in printed


def test_names_that_nobody_expects():
    stored = Stored("float32", (2,))
    names = ["a", "a.b", "a.b.c", "a.", ".a", "", "\x1b[31m", ".".join("x" * 5000),
             "h.007", "h.8"]  # fmt: skip
    table = rows(dict.fromkeys(names, stored), note=lambda name: names[names.index(name)])
    assert sorted(row[4] for row in table if row[1]) == sorted(names)
    assert all(row[0].isprintable() and row[0].count("  ") < 12 for row in table)


@pytest.mark.parametrize("count, text", [
    (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (497_759_232, "497.8 MB"),
    (6_230_444_800, "6.2 GB"), (10**16, "10000.0 TB"),
])  # fmt: skip
def test_bytes_are_shown(count, text):
    assert show_bytes(count) == text


@pytest.mark.parametrize("kind", ["safetensors", "tf"])
def test_headers_of_a_model_that_does_not_fit_are_enough(tmp_path, capsys, monkeypatch, kind):
    """1558M: the file is a hole of 6.2 GB, and info allocates none of it."""
    stored = {name: Stored("float32", shape) for name, shape in gpt2_shapes(48, 1600).items()}
    try:
        write_holes(tmp_path, stored, kind, monkeypatch)
    except OSError:
        pytest.skip("this file system has no files with holes")
    GPT2Config(n_embd=1600, n_layer=48, n_head=25).save_pretrained(tmp_path)
    tracemalloc.start()
    try:
        assert main(["info", str(tmp_path)]) == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "1,557,611,200" in capsys.readouterr().out
    assert peak < 10e6


def write_holes(folder: Path, stored: dict[str, Stored], kind: str, monkeypatch) -> None:
    """A checkpoint whose headers are right and whose tensors were never written."""
    if kind == "tf":
        monkeypatch.setattr(tf_bundle, "crc32c", lambda raw: 0)
        monkeypatch.setattr(tf_bundle, "atomic_write", fake_files := FakeFiles())
        write_tf_bundle(folder / "model.ckpt", stored, lambda name, out: None)
        monkeypatch.undo()
        (folder / "model.ckpt.index").write_bytes(fake_files.last)
        data = folder / "model.ckpt.data-00000-of-00001"
        data.touch()
        os.truncate(data, fake_files.sizes[data.name])
        return
    header, position = {}, 0
    for name, tensor in stored.items():
        end = position + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    file = folder / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(file, 8 + len(text) + position)
