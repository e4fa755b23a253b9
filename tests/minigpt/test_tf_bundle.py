"""OpenAI's files: what TensorFlow wrote is read, and what we write is what TensorFlow writes."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt import GPT2Config, GPT2LMHeadModel, GPT2Model
from minigpt.checkpoints import crc32c as crc
from minigpt.checkpoints import tf_bundle
from minigpt.checkpoints.formats import open_checkpoint
from minigpt.checkpoints.reader import Stored
from minigpt.checkpoints.safetensors_file import read_safetensors
from minigpt.checkpoints.tf_bundle import TFReader, write_tf_bundle
from minigpt.checkpoints.tf_names import from_tf, to_tf
from minigpt.checkpoints.tf_table import TableError, read_table, read_varint, write_table
from tests.minigpt.checkpoint_files import write_tf

WEIGHTS = Path(__file__).parents[1] / "golden" / "weights" / "tf"
INDEX, DATA = "model.ckpt.index", "model.ckpt.data-00000-of-00001"

# ---- CRC-32C ------------------------------------------------------------------------------------


def slow_crc32c(data: bytes) -> int:
    """By the definition: long division, bit by bit."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
    return remainder ^ 0xFFFFFFFF


@pytest.mark.parametrize("data, expected", [
    (b"", 0), (b"a", 0xC1D04330), (b"123456789", 0xE3069283),
    # RFC 3720, B.4
    (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C),
])  # fmt: skip
def test_published_checksums(data, expected):
    assert crc.crc32c(data) == slow_crc32c(data) == expected


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 300))
def test_checksums_of_parts_and_wholes(data, cut):
    whole = slow_crc32c(data)
    assert crc.crc32c(data) == whole
    assert crc.crc32c(data[cut:], crc.crc32c(data[:cut])) == whole


def test_checksums_of_more_than_a_block(monkeypatch):
    data = np.random.default_rng(0).integers(0, 256, 700_001).astype(np.uint8)
    whole = crc.crc32c(data)
    monkeypatch.setattr(crc, "_BLOCK", 1000)
    assert crc.crc32c(data) == whole
    assert crc.crc32c(data[:3000]) == slow_crc32c(data[:3000].tobytes())


def test_masked():
    """leveldb, util/crc32c_test.cc: the mask changes it, and again, and is a bijection."""
    value = crc.crc32c(b"foo")
    assert value != crc.masked(value) != crc.masked(crc.masked(value))
    rotated = (crc.masked(value) - 0xA282EAD8) & 0xFFFFFFFF
    assert (rotated >> 17 | rotated << 15) & 0xFFFFFFFF == value


# ---- against TensorFlow's own files -------------------------------------------------------------


def test_reads_what_tensorflow_wrote():
    expected = read_safetensors(WEIGHTS / "expected.safetensors")
    with TFReader(WEIGHTS / INDEX) as reader:
        assert len(reader.header()) == len(expected)
        for theirs, array in expected.items():
            name, shape = from_tf(f"model/{theirs}", array.shape)
            assert reader.header()[name] == Stored("float32", shape)
            assert reader.read(name).tobytes() == array.tobytes()


def test_writes_the_bytes_that_tensorflow_writes(tmp_path):
    with TFReader(WEIGHTS / INDEX) as reader:
        write_tf_bundle(tmp_path / "model.ckpt", reader.header(), reader.read_raw)
    for name in (INDEX, DATA):
        assert (tmp_path / name).read_bytes() == (WEIGHTS / name).read_bytes()


def gpt2_shapes(n_layer: int, C: int) -> dict[str, tuple[int, ...]]:
    shapes = {"wte.weight": (50257, C), "wpe.weight": (1024, C), "ln_f.weight": (C,),
              "ln_f.bias": (C,)}  # fmt: skip
    for i in range(n_layer):
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"h.{i}.{norm}.weight": (C,), f"h.{i}.{norm}.bias": (C,)}
        for name, a, b in (("attn.c_attn", C, 3 * C), ("attn.c_proj", C, C), ("mlp.c_fc", C, 4 * C),
                           ("mlp.c_proj", 4 * C, C)):  # fmt: skip
            shapes |= {f"h.{i}.{name}.weight": (a, b), f"h.{i}.{name}.bias": (b,)}
    return shapes


@pytest.mark.parametrize("n_layer, C, index_size, data_size", [
    (12, 768, 5_215, 497_759_232), (24, 1024, 10_399, 1_419_292_672),
])  # fmt: skip
def test_the_published_sizes(tmp_path, monkeypatch, n_layer, C, index_size, data_size):
    """The sizes of OpenAI's 124M and 355M, from rasbt/LLMs-from-scratch, chapter 5."""
    # Nothing is read or written: checksums have the same size whatever they are.
    written = []
    monkeypatch.setattr(tf_bundle, "crc32c", lambda raw: written.append(len(raw)) or 1 << 31)
    monkeypatch.setattr(tf_bundle, "atomic_write", fake_files := FakeFiles())
    stored = {name: Stored("float32", shape) for name, shape in gpt2_shapes(n_layer, C).items()}
    write_tf_bundle(tmp_path / "model.ckpt", stored, lambda name, out: None)
    assert sum(written) == fake_files.sizes[DATA] == data_size
    assert fake_files.sizes[INDEX] == index_size


class FakeFiles:
    """In the place of atomic_write: counts the bytes, and keeps what was written last."""

    def __init__(self):
        self.sizes: dict[str, int] = {}

    def __call__(self, path):
        self.name = path.name
        self.sizes[self.name] = 0
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def write(self, data):
        self.sizes[self.name] += len(data)
        self.last = data


# ---- names, models, tables ----------------------------------------------------------------------


def test_names_go_both_ways():
    for name, shape in gpt2_shapes(12, 8).items():
        theirs, their_shape = to_tf(name, shape)
        assert from_tf(theirs, their_shape) == (name, shape)
    assert to_tf("h.11.attn.c_attn.weight", (8, 24)) == ("model/h11/attn/c_attn/w", (1, 8, 24))
    for name in ("lm_head.weight", "h.0.attn.bias", "transformer.wte.weight", "h.01.ln_1.weight"):
        assert to_tf(name, (8,)) is None
    for name in ("global_step", "model/h01/ln_1/g", "model/h0/attn/c_fc/w", "model/wte/Adam"):
        assert from_tf(name, (1, 2)) == (name, (1, 2))


CONFIG = GPT2Config(vocab_size=30, n_positions=8, n_embd=8, n_layer=11, n_head=2)


def test_a_model_in_openais_format(tmp_path):
    model = GPT2Model(CONFIG)
    write_tf(tmp_path, model.state_dict(), CONFIG)
    for loaded in (GPT2Model.from_pretrained(tmp_path), GPT2LMHeadModel.from_pretrained(tmp_path)):
        assert loaded.config == CONFIG
        for ours, theirs in zip(model.parameters(), loaded.parameters(), strict=True):
            assert np.array_equal(ours.numpy(), theirs.numpy())
    (tmp_path / "hparams.json").write_text('{"n_vocab": 30}')
    with pytest.raises(ValueError, match="hparams.json: n_ctx, n_embd, n_head, n_layer missing"):
        GPT2Model.from_pretrained(tmp_path)


def test_what_openais_format_cannot_say(tmp_path):
    with pytest.raises(ValueError, match="no place for lm_head.weight"):
        write_tf(tmp_path, {"lm_head.weight": np.zeros((2, 2), np.float32)})
    for values in ({"activation_function": "relu"}, {"n_inner": 9}, {"tie_word_embeddings": False}):
        with pytest.raises(ValueError, match="OpenAI's format can't say that"):
            write_tf(tmp_path, {}, GPT2Config(**values))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.binary(max_size=20), st.binary(max_size=40), max_size=60))
def test_tables_of_any_size(entries):
    assert read_table(write_table(entries), checksums=True) == entries


def test_a_table_of_several_blocks():
    entries = {f"key{i:05}".encode(): bytes([i % 251]) * 900 for i in range(1500)}
    assert read_table(write_table(entries), checksums=True) == entries


@pytest.mark.parametrize("data", [b"\x80" * 10, b"\x80", b""])
def test_numbers_that_do_not_end(data):
    with pytest.raises(TableError, match="a number in the index"):
        read_varint(data, 0)


# ---- damage -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for name in (INDEX, DATA):
        (tmp_path / name).write_bytes((WEIGHTS / name).read_bytes())
    return tmp_path


def read_all(folder, checksums=True) -> dict[str, np.ndarray]:
    with open_checkpoint(folder, checksums) as reader:
        return {name: reader.read(name) for name in reader.header()}


def test_every_single_byte_is_protected(folder):
    """Whichever byte of the two files is changed: an error. (But a number may be written with one
    byte more.)
    """
    expected, same = read_all(folder), 0
    for name in (INDEX, DATA):
        good = (folder / name).read_bytes()
        for place in range(0, len(good), 1 if name == INDEX else 37):
            damaged = bytearray(good)
            damaged[place] ^= 1 << place % 8
            (folder / name).write_bytes(damaged)
            try:
                found = read_all(folder)
            except ValueError as error:
                assert INDEX in str(error)
            else:
                same += 1
                assert all(np.array_equal(found[key], expected[key]) for key in expected)
        (folder / name).write_bytes(good)
    assert same <= 1


def test_checksums_can_be_left_out(folder):
    data = bytearray((folder / DATA).read_bytes())
    data[5] ^= 1
    (folder / DATA).write_bytes(data)
    with pytest.raises(ValueError, match=r"tensor 'h.0.attn.c_attn.bias': its bytes do not have"):
        read_all(folder)
    assert len(read_all(folder, checksums=False)) == 16


def test_snappy_is_named(folder):
    """A block's type byte 1, with the right checksum for it."""
    index = bytearray((folder / INDEX).read_bytes())
    handle, _ = read_varint(index, len(index) - 48)
    start, position = read_varint(index, len(index) - 48)
    size, position = read_varint(index, position)
    start, position = read_varint(index, position)  # of the index block
    size, _ = read_varint(index, position)
    index[start + size] = 1
    checksum = crc.masked(crc.crc32c(bytes(index[start : start + size + 1])))
    index[start + size + 1 : start + size + 5] = checksum.to_bytes(4, "little")
    (folder / INDEX).write_bytes(index)
    with pytest.raises(ValueError, match=f"{INDEX}: the index is compressed with Snappy"):
        read_all(folder)


def test_files_that_do_not_belong_together(folder):
    (folder / DATA).write_bytes((folder / DATA).read_bytes()[:-4])
    with pytest.raises(ValueError, match="data file 0 has 1612 bytes, its tensors take 1616"):
        read_all(folder)
    (folder / DATA).unlink()
    with pytest.raises(FileNotFoundError, match=f"{DATA}: no such file, but {INDEX} needs it"):
        read_all(folder)


def rewritten(folder, change) -> None:
    """The index with other entries, and right checksums."""
    table = read_table((folder / INDEX).read_bytes(), checksums=True)
    change(table)
    (folder / INDEX).write_bytes(write_table(table))


KEY = b"model/h0/ln_1/b"
MESSAGE = tf_bundle._message


@pytest.mark.parametrize("value, fault", [
    (MESSAGE([(1, 1), (2, MESSAGE([(2, MESSAGE([(1, 5)]))])), (5, 16)]), "does not take 16 bytes"),
    (MESSAGE([(1, 7), (5, 16)]), "TensorFlow's dtype 7"),
    (MESSAGE([(1, 1), (1, 1)]), "a value of the index is damaged"),
    (MESSAGE([(1, b"x")]), "a value of the index is damaged"),
    (b"\x0b", "a value of the index is damaged"),
    (b"\x12\x7f", "a value of the index is cut off"),
    (b"\x0d\1", "a value of the index is cut off"),
    (MESSAGE([(1, 1), (5, 4), (4, 4)]), "overlaps the one before|leaves a gap"),
    (MESSAGE([(1, 1), (5, 4), (7, b"")]), "in slices"),
    (MESSAGE([(1, 1), (5, 4), (3, 3)]), "leaves a gap before it|does not exist"),
    (MESSAGE([(1, 1), (2, MESSAGE([(2, MESSAGE([(1, 2**62)]))] * 3))]), "too large for an array"),
    (MESSAGE([(1, 1), (2, MESSAGE([(2, MESSAGE([(1, 2**64 - 1)]))]))]), "non-negative"),
])  # fmt: skip
def test_wrong_entries_with_right_checksums(folder, value, fault):
    rewritten(folder, lambda table: table.update({KEY: value}))
    with pytest.raises(ValueError, match=fault) as caught:
        read_all(folder)
    assert INDEX in str(caught.value)


@pytest.mark.parametrize("value, fault", [
    (b"", "0 data files"), (MESSAGE([(1, 10**9)]), "1000000000 data files"),
    (b"\xff", "cut off"),
])  # fmt: skip
def test_wrong_bundle_headers(folder, value, fault):
    rewritten(folder, lambda table: table.update({b"": value}))
    with pytest.raises(ValueError, match=fault):
        read_all(folder)


def test_a_table_that_is_no_bundle(folder):
    rewritten(folder, lambda table: table.pop(b""))
    with pytest.raises(ValueError, match="the header is missing"):
        read_all(folder)


def entries_of(table) -> dict:
    return {key: tf_bundle._read_entry(value) for key, value in table.items() if key}


def test_the_other_byte_order(folder):
    """As a big-endian machine writes it: the header says so, checksums are of the bytes."""
    expected = read_all(folder)
    data = np.frombuffer((folder / DATA).read_bytes(), ">f4").astype("<f4").tobytes()
    (folder / DATA).write_bytes(data)

    def change(table):
        table[b""] = MESSAGE([(1, 1), (2, 1), (3, MESSAGE([(1, 1)]))])
        for key, entry in entries_of(table).items():
            part = data[entry.offset : entry.offset + entry.size]
            entry = dataclasses.replace(entry, crc=crc.masked(slow_crc32c(part)))
            table[key] = tf_bundle._entry_message(entry)

    rewritten(folder, change)
    found = read_all(folder)
    assert all(np.array_equal(found[key], array) for key, array in expected.items())


def test_several_data_files(folder):
    """As TensorFlow writes when several machines save together."""
    expected = read_all(folder)
    data = (folder / DATA).read_bytes()
    (folder / DATA).unlink()
    shards = [b"", b"", b""]

    def change(table):
        table[b""] = MESSAGE([(1, 3), (3, MESSAGE([(1, 1)]))])
        for number, (key, entry) in enumerate(entries_of(table).items()):
            shard = number % 2  # and nothing in the last
            part = data[entry.offset : entry.offset + entry.size]
            entry = dataclasses.replace(entry, shard=shard, offset=len(shards[shard]))
            shards[shard] += part
            table[key] = tf_bundle._entry_message(entry)

    rewritten(folder, change)
    for number, part in enumerate(shards):
        (folder / f"model.ckpt.data-0000{number}-of-00003").write_bytes(part)
    found = read_all(folder)
    assert all(np.array_equal(found[key], array) for key, array in expected.items())
    (folder / "model.ckpt.data-00001-of-00003").unlink()
    with pytest.raises(FileNotFoundError, match="data-00001-of-00003: no such file"):
        read_all(folder)


def test_the_newest_of_several_bundles(tmp_path):
    model = GPT2Model(CONFIG)
    for number in (1, 2):
        write_tf(tmp_path, model.state_dict(), CONFIG)
        for name in (INDEX, DATA):
            (tmp_path / name).rename(tmp_path / name.replace("ckpt", f"ckpt-{number}"))
        model = GPT2Model(CONFIG)
    with pytest.raises(ValueError, match="several files of weights, model.ckpt-1.index, "):
        open_checkpoint(tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/home/me/run/model.ckpt-2"\n')
    with open_checkpoint(tmp_path) as reader:
        assert reader.source.endswith("model.ckpt-2.index")
