"""from_pretrained: every format gives the same model, exactly, in the memory of the model."""

import json
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import tensor
from minigpt import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, GPT2Model
from minigpt.checkpoints.formats import open_checkpoint
from minigpt.checkpoints.reader import Stored, widened
from minigpt.checkpoints.safetensors_file import write_safetensors_one_by_one
from minigpt.loading import checked_weights_dtype
from tensor import dtypes, nn
from tensor.dtypes import converted, named
from tests.minigpt.checkpoint_files import torch_legacy, torch_zip, write_tf

CONFIG = GPT2Config(vocab_size=40, n_positions=8, n_embd=16, n_layer=2, n_head=2)


def body_of(model) -> dict[str, np.ndarray]:
    """The body's parameters under the names of the Hub's official files."""
    return {name.removeprefix("transformer."): p.numpy() for name, p in model.named_parameters()}


@pytest.fixture
def model():
    tensor.manual_seed(1)
    return GPT2LMHeadModel(CONFIG)


def write_format(folder: Path, name: str, arrays: dict[str, np.ndarray], config=CONFIG) -> None:
    """A folder with config.json and weights in one of the formats."""
    folder.mkdir(exist_ok=True)
    config.save_pretrained(folder)
    halves = [dict(list(arrays.items())[i::2]) for i in (0, 1)]
    if name == "safetensors":
        safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    elif name == "torch zip":
        (folder / "pytorch_model.bin").write_bytes(torch_zip(arrays))
    elif name == "torch legacy":
        (folder / "pytorch_model.bin").write_bytes(torch_legacy(arrays))
    elif name == "tf":
        write_tf(folder, arrays)
    elif name == "safetensors, sharded":
        for i, half in enumerate(halves):
            safetensors.numpy.save_file(half, folder / f"part-{i}.safetensors")
        write_index(folder / "model.safetensors.index.json", halves, "part-{}.safetensors")
    elif name == "torch, sharded":
        (folder / "part-0.bin").write_bytes(torch_zip(halves[0]))
        (folder / "part-1.bin").write_bytes(torch_legacy(halves[1]))
        write_index(folder / "pytorch_model.bin.index.json", halves, "part-{}.bin")


def write_index(path: Path, halves, pattern: str) -> None:
    weight_map = {name: pattern.format(i) for i, half in enumerate(halves) for name in half}
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


FORMATS = ["safetensors", "torch zip", "torch legacy", "tf", "safetensors, sharded",
           "torch, sharded"]  # fmt: skip


def assert_same(model, arrays: dict[str, np.ndarray], dtype="float32") -> None:
    found = body_of(model)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == dtype
        assert np.array_equal(found[name], array.astype(dtype)), name


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_model(model, tmp_path, name):
    arrays = body_of(model)
    write_format(tmp_path, name, arrays)
    for dtype in ("float32", "float64"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = GPT2LMHeadModel.from_pretrained(tmp_path, dtype=dtype)
        assert_same(loaded, arrays, dtype)
        assert not loaded.training and loaded.config == CONFIG
    logits = GPT2LMHeadModel.from_pretrained(tmp_path)([[1, 2, 3]]).logits.numpy()
    assert np.array_equal(logits, model.eval()([[1, 2, 3]]).logits.numpy())


@pytest.mark.parametrize("name", FORMATS)
def test_the_format_is_told_by_content(model, tmp_path, name):
    """Files under the names of another format."""
    write_format(tmp_path, name, body_of(model))
    if "sharded" in name or name == "tf":
        for old, new in (("part-0.safetensors", "part-0.bin"), ("checkpoint", "x")):
            if (tmp_path / old).exists():
                (tmp_path / old).rename(tmp_path / new)
                index = tmp_path / "model.safetensors.index.json"
                index.write_text(index.read_text().replace(old, new))
    else:
        file = next(p for p in tmp_path.iterdir() if p.suffix != ".json")
        wrong = "pytorch_model.bin" if name == "safetensors" else "model.safetensors"
        file.rename(tmp_path / wrong)
        assert_same(GPT2LMHeadModel.from_pretrained(tmp_path), body_of(model))
        (tmp_path / wrong).rename(tmp_path / "some weights")
    assert_same(GPT2LMHeadModel.from_pretrained(tmp_path), body_of(model))


@pytest.mark.parametrize("name", [n for n in FORMATS if n != "torch, sharded"])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_precisions_load_as_float32(model, tmp_path, name, dtype):
    arrays = {key: array.astype(dtype) for key, array in body_of(model).items()}
    write_format(tmp_path, name, arrays)
    assert_same(GPT2LMHeadModel.from_pretrained(tmp_path), arrays)
    assert_same(GPT2LMHeadModel.from_pretrained(tmp_path, dtype="float64"), arrays, "float64")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("wanted", ["float32", "float64"])
def test_every_half_is_widened_exactly_in_its_own_memory(tmp_path, monkeypatch, dtype, wanted):
    """All 65,536 of them, in blocks of any size; `widened` itself is tested with the readers."""
    bits = np.arange(65536, dtype="<u2")
    raw = bits.view("<f2") if dtype == "float16" else bits
    write_safetensors_one_by_one(
        tmp_path / "f", {"w": Stored(dtype, (65536,))}, lambda name, out: np.copyto(out, raw)
    )
    with np.errstate(invalid="ignore"):
        expected = widened(raw, dtype).astype(wanted)
    for block in (1, 7, 1000, 1 << 18):
        monkeypatch.setattr("minigpt.checkpoints.reader._BLOCK", block)
        with open_checkpoint(tmp_path / "f") as reader:
            out = np.full(65536, -1, wanted)
            reader.read_into("w", out)
        assert np.array_equal(out, expected, equal_nan=True)


@pytest.mark.parametrize("stored", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("wanted", ["float16", "bfloat16"])
def test_files_are_read_into_halves(tmp_path, stored, wanted):
    """The same bits where the file has that type, and otherwise rounded once."""
    numbers = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
    raw = converted(numbers, named(stored))
    write_safetensors_one_by_one(
        tmp_path / "f", {"w": Stored(stored, raw.shape)},
        lambda name, out: np.copyto(out, raw.view(out.dtype)),
    )  # fmt: skip
    out = np.empty(raw.shape, named(wanted))
    with open_checkpoint(tmp_path / "f") as reader:
        reader.read_into("w", out)
    if stored == wanted:
        np.testing.assert_array_equal(out.view(np.uint16), raw.view(np.uint16))
    else:
        expected = dtypes.widened(converted(dtypes.widened(raw), named(wanted)))
        np.testing.assert_array_equal(dtypes.widened(out), expected)


def test_half_precision_on_a_cpu_is_refused_with_the_reason(model, tmp_path):
    model.save_pretrained(tmp_path)
    for dtype in ("float16", "bfloat16"):
        with pytest.raises(ValueError, match=f"dtype='{dtype}' on device 'cpu': NumPy has no bf"):
            GPT2LMHeadModel.from_pretrained(tmp_path, dtype=dtype)
    for dtype in ("int32", "nonsense", None, 5):
        with pytest.raises(TypeError, match="parameters are float32 or float64"):
            checked_weights_dtype(dtype, "cpu")


# ---- what does not fit --------------------------------------------------------------------------


def test_missing_unexpected_misshapen_and_not_floats(model, tmp_path):
    arrays = body_of(model)
    del arrays["ln_f.bias"]
    arrays["wpe.weight"] = np.zeros((9, 16), np.float32)
    arrays["h.0.adapter.weight"] = np.zeros(3, np.float32)
    arrays["h.1.ln_1.bias"] = np.zeros(16, np.uint8)
    arrays["h.0.attn.bias"] = np.ones((1, 1, 8, 8), np.uint8)  # a mask
    arrays["h.0.attn.masked_bias"] = np.array(-1e4, np.float32)
    for name in FORMATS:
        if name == "tf":
            continue
        folder = tmp_path / name.replace(" ", "")
        write_format(folder, name, arrays)
        with pytest.raises(ValueError) as caught:
            GPT2LMHeadModel.from_pretrained(folder)
        assert str(caught.value).split("configuration:")[1].split("\n  ")[1:] == [
            "unexpected: h.0.adapter.weight (3,)",
            "misshapen: wpe.weight is (9, 16), the model's is (8, 16)",
            "not floats: h.1.ln_1.bias is uint8",
            "missing: transformer.ln_f.bias (16,)",
        ]


def test_only_a_head_may_be_new(model, tmp_path):
    write_format(tmp_path, "torch zip", body_of(model))
    with pytest.warns(UserWarning, match=r"pytorch_model.bin has no score.weight: newly") as caught:
        tensor.manual_seed(5)
        loaded = GPT2ForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    assert caught[0].filename == __file__
    tensor.manual_seed(5)
    fresh = nn.Linear(16, 3, bias=False, std=CONFIG.initializer_range)
    assert np.array_equal(loaded.score.weight.numpy(), fresh.weight.numpy())


def test_a_configuration_that_asks_for_too_much(model, tmp_path):
    model.save_pretrained(tmp_path)
    for values, fault in [
        ({"n_layer": 10**9}, "28 tensors for n_layer=1000000000"),
        ({"vocab_size": 10**12}, r"misshapen: transformer.wte.weight is \(40, 16\), the"),
        ({"vocab_size": 2**62}, "a parameter of shape .* is too large for an array"),
        ({"n_embd": 2**70}, "a parameter of shape .* is too large for an array"),
        ({"n_inner": 2**40}, "misshapen: transformer.h.0.mlp.c_fc.weight"),
    ]:
        with pytest.raises(ValueError, match=fault):
            GPT2LMHeadModel.from_pretrained(tmp_path, **values)


def test_what_is_often_found_in_the_place_of_weights(tmp_path):
    CONFIG.save_pretrained(tmp_path)
    for data, fault in [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "a pointer of git-lfs"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"", "not a file of weights"),
        (b"\x80\x04]q\x00.", "not a file of weights"),
    ]:
        (tmp_path / "pytorch_model.bin").write_bytes(data)
        with pytest.raises(ValueError, match=f"pytorch_model.bin: .*{fault}"):
            GPT2LMHeadModel.from_pretrained(tmp_path)


def test_several_files_without_a_usual_name(model, tmp_path):
    arrays = body_of(model)
    write_format(tmp_path, "torch zip", arrays)
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "one.pt")
    assert_same(GPT2LMHeadModel.from_pretrained(tmp_path), arrays)
    safetensors.numpy.save_file(arrays, tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match="several files of weights, one.pt, two.safetensors: "):
        GPT2LMHeadModel.from_pretrained(tmp_path)
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    assert_same(GPT2LMHeadModel.from_pretrained(tmp_path), arrays)


@pytest.mark.parametrize("name", ["../x.bin", "/x.bin", "a/b.bin", "C:x.bin", "a\\b.bin", "..", "",
                                  "a\0.bin", "model.safetensors.index.json"])  # fmt: skip
def test_an_index_that_leads_elsewhere(model, tmp_path, name):
    arrays = body_of(model)
    write_format(tmp_path, "torch, sharded", arrays)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(arrays, name)}))
    with pytest.raises(ValueError, match="is not the name of a file of weights beside it"):
        GPT2LMHeadModel.from_pretrained(tmp_path)


def test_an_index_that_names_itself_or_too_many(model, tmp_path):
    arrays = body_of(model)
    write_format(tmp_path, "torch, sharded", arrays)
    index = tmp_path / "pytorch_model.bin.index.json"
    (tmp_path / "loop.bin").write_text(json.dumps({"weight_map": {"w": "loop.bin"}}))
    index.write_text(json.dumps({"weight_map": dict.fromkeys(arrays, "loop.bin")}))
    with pytest.raises(ValueError, match="loop.bin: not a file of weights"):
        GPT2LMHeadModel.from_pretrained(tmp_path)
    for count in (0, 501):
        index.write_text(json.dumps({"weight_map": {f"w{i}": f"{i}.bin" for i in range(count)}}))
        with pytest.raises(ValueError, match=f"names {count} files of weights, not 1 to 500"):
            GPT2LMHeadModel.from_pretrained(tmp_path)


# ---- no more memory or work than the model ------------------------------------------------------


def test_nothing_is_drawn_that_a_file_replaces(model, tmp_path):
    model.save_pretrained(tmp_path)
    generator = tensor.random.default_generator()
    before = generator.get_state()
    GPT2LMHeadModel.from_pretrained(tmp_path)
    assert generator.get_state() == before


def test_deferred_parameters():
    with nn.deferred_values():
        layer, huge = nn.Linear(3, 2), nn.Embedding(10**9, 10**6)
    assert huge.weight.shape == (10**9, 10**6) and np.isnan(layer.weight.numpy()).all()
    tensor.manual_seed(0)
    layer.weight.initialise()
    layer.bias.initialise(np.float64)
    tensor.manual_seed(0)
    assert np.array_equal(layer.weight.numpy(), nn.Linear(3, 2).weight.numpy())
    assert layer.bias.dtype == np.float64 and not layer.bias.numpy().any()
    with pytest.raises(RuntimeError, match="has its values already"):
        layer.weight.initialise()
    with pytest.raises(ValueError, match=r"an array \(3, 2\) for a parameter \(2, 3\)"):
        layer.weight.take(np.zeros((3, 2), np.float32))
    values = np.ones((2, 3), np.float32)
    layer.weight.take(values)
    assert layer.weight.data is values and layer.weight.requires_grad
    assert nn.Linear(3, 2).weight.first_values is None  # the block has ended


def test_the_older_name_of_dtype_is_refused_rather_than_passed_over(tmp_path):
    tiny = GPT2Config(vocab_size=5, n_positions=4, n_embd=4, n_layer=1, n_head=1)
    GPT2Model(tiny).save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="torch_dtype is called dtype"):
        GPT2Model.from_pretrained(tmp_path, torch_dtype="float64")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_loading_takes_the_memory_of_the_model(tmp_path, monkeypatch, name, dtype):
    """The peak of all of NumPy's and Python's memory, less than 10 % above the weights."""
    monkeypatch.setattr("minigpt.checkpoints.torch_bin._BLOCK_BYTES", 1 << 18)
    config = GPT2Config(vocab_size=9000, n_positions=64, n_embd=256, n_layer=6, n_head=4)
    model = GPT2Model(config)
    write_format(tmp_path, name, {k: v.astype(dtype) for k, v in body_of(model).items()}, config)
    weights = 4 * model.num_parameters()
    del model
    GPT2Model.from_pretrained(tmp_path)  # tables of checksums, the imports
    tracemalloc.start()
    try:
        loaded = GPT2Model.from_pretrained(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 20e6 < weights == 4 * loaded.num_parameters()
    assert peak < 1.1 * weights


def test_files_are_closed(model, tmp_path):
    if not Path("/proc/self/fd").exists():
        pytest.skip("no list of open files on this system")
    for name in FORMATS:
        write_format(tmp_path / name.replace(" ", ""), name, body_of(model))
        GPT2LMHeadModel.from_pretrained(tmp_path / name.replace(" ", ""))
    open_files = {str(p.resolve()) for p in Path("/proc/self/fd").iterdir()}
    assert not any(str(tmp_path) in file for file in open_files)


def test_no_mapping_is_kept(model, tmp_path):
    """A file may be overwritten after it was loaded."""
    for name in FORMATS:
        folder = tmp_path / name.replace(" ", "")
        write_format(folder, name, body_of(model))
        loaded = GPT2LMHeadModel.from_pretrained(folder)
        for file in folder.iterdir():
            file.write_bytes(b"\xff" * file.stat().st_size)
        assert_same(loaded, body_of(model))
    if sys.platform == "linux":
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()
