"""Files of torch.save: those that torch wrote, and those that nobody should have written."""

import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from minigpt.checkpoints import torch_pickle
from minigpt.checkpoints.formats import open_checkpoint
from minigpt.checkpoints.reader import Stored
from minigpt.checkpoints.safetensors_file import read_safetensors
from minigpt.checkpoints.torch_bin import TorchReader
from tests.minigpt.checkpoint_files import (
    integer,
    integers,
    legacy_bytes,
    name,
    pickled,
    state_dict,
    storage,
    tensor,
    text,
    torch_legacy,
    torch_zip,
    zip_bytes,
)

WEIGHTS = Path(__file__).parents[1] / "golden" / "weights"
ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.float16)}


def read_all(path) -> dict[str, np.ndarray]:
    with TorchReader(Path(path)) as reader:
        return {key: reader.read(key) for key in reader.header()}


def write(tmp_path, data: bytes) -> Path:
    file = tmp_path / "weights.bin"
    file.write_bytes(data)
    return file


@pytest.mark.parametrize("file", ["zip", "legacy", "legacy_protocol_4", "big_endian"])
def test_reads_what_torch_wrote(file):
    expected = read_safetensors(WEIGHTS / "expected.safetensors")
    found = read_all(WEIGHTS / f"{file}.bin")
    assert len(found) == (6 if file == "big_endian" else len(expected))
    for key, array in found.items():
        wanted = expected[key]
        assert array.dtype == wanted.dtype and array.shape == wanted.shape, key
        assert array.tobytes() == wanted.tobytes(), key


@pytest.mark.reference
def test_the_golden_files_are_what_their_script_makes(tmp_path):
    torch = pytest.importorskip("torch")
    script = WEIGHTS.parent / "make_weights.py"
    subprocess.run([sys.executable, script, "torch", tmp_path], check=True, timeout=120)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == sorted(path.name for path in WEIGHTS.iterdir() if path.is_file())
    for file in files:
        if file.endswith(".bin"):
            # torch's own reader of weights alone does not know protocol 4.
            new, old = (torch.load(d / file, weights_only=False) for d in (tmp_path, WEIGHTS))
            assert new.keys() == old.keys()
            assert all(torch.equal(new[key], old[key]) for key in new)


def test_the_header_alone():
    with open_checkpoint(WEIGHTS / "zip.bin") as reader:
        assert reader.kind == "torch, zip"
        assert reader.header()["every_second"] == Stored("float32", (3, 4))
        assert reader.header()["brain"] == Stored("bfloat16", (7,))
    with open_checkpoint(WEIGHTS / "legacy.bin") as reader:
        assert reader.kind == "torch, legacy"


@pytest.mark.parametrize("make", [torch_zip, torch_legacy])
def test_files_of_the_helper_are_read(tmp_path, make):
    found = read_all(write(tmp_path, make(ARRAYS)))
    assert found.keys() == ARRAYS.keys()
    assert np.array_equal(found["a"], ARRAYS["a"]) and found["b"].dtype == np.float32


@pytest.mark.reference
@pytest.mark.parametrize("make", [torch_zip, torch_legacy])
def test_torch_reads_the_files_of_the_helper(tmp_path, make):
    torch = pytest.importorskip("torch")
    found = torch.load(write(tmp_path, make(ARRAYS)))
    assert all(np.array_equal(found[key].numpy(), array) for key, array in ARRAYS.items())


def test_a_large_transposed_tensor_is_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("minigpt.checkpoints.torch_bin._BLOCK_BYTES", 64)
    base = np.arange(5 * 6 * 7, dtype=np.float32)
    items = {
        "permuted": tensor(storage("0", "float32", 210, False), 0, (7, 1, 5, 6), (1, 9, 42, 7)),
        "gaps": tensor(storage("0", "float32", 210, False), 3, (3, 4), (50, 2)),
        "overlap": tensor(storage("0", "float32", 210, False), 1, (9, 5), (2, 3)),
    }
    found = read_all(write(tmp_path, zip_bytes(state_dict(items), {"0": base.tobytes()})))
    assert np.array_equal(found["permuted"], base.reshape(5, 6, 7).transpose(2, 0, 1)[:, None])
    assert found["gaps"].tolist() == [[3 + 50 * i + 2 * j for j in range(4)] for i in range(3)]
    assert found["overlap"].tolist() == [[1 + 2 * i + 3 * j for j in range(5)] for i in range(9)]


# ---- pickles that want more than tensors --------------------------------------------------------


class Bomb:
    """Unpickled by Python, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_bomb_does_not_go_off(tmp_path, protocol, legacy):
    proof = tmp_path / "proof"
    bomb = pickle.dumps({"w": Bomb(proof)}, protocol)
    file = write(tmp_path, legacy_bytes(bomb, {}, {}) if legacy else zip_bytes(bomb, {}))
    with pytest.raises(ValueError, match=r"asks for '(posix|nt)\.mkdir'. Only tensors are read"):
        read_all(file)
    assert not proof.exists()
    pickle.loads(bomb)  # and it was a live one
    assert proof.exists()


@pytest.mark.parametrize("module, attribute", [
    ("builtins", "eval"), ("os", "system"), ("torch", "load"),
    ("torch._utils", "_import_dotted_name"), ("torch", "FloatStorage.__class__"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("collections", "defaultdict"),
])  # fmt: skip
@pytest.mark.parametrize("stack", [False, True])
def test_only_names_of_tensors_are_known(tmp_path, module, attribute, stack):
    asked = text(module) + text(attribute) + b"\x93" if stack else name(module, attribute)
    data = b"\x80\x04" + asked + b")R."
    with pytest.raises(ValueError, match=rf"asks for '{module}\.{attribute}'"):
        read_all(write(tmp_path, zip_bytes(data, {})))


FLOAT = storage("0", "float32", 6, False)
DEEP = b")" + b"\x85" * 100_000  # a tuple in a tuple in a tuple
WRONG = {
    "too many instructions": (b"N0" * 1_100_000 + b"}.", "more than 2,097,152 instructions"),
    "deep key": (b"}" + DEEP + b"Ns.", "a tuple as a key"),
    "deep value": (state_dict({"w": DEEP}), "'w' is a tuple, not a tensor"),
    "deep storage": (state_dict({"w": tensor(DEEP, 0, (1,), (1,))}), "has no storage"),
    "unknown instruction": (b"\x80\x02\x82\x01.", r"instruction b'\\x82' of the pickle is none"),
    "memo": (b"}r\xff\xff\xff\xff.", "place 4294967295 of the memo is not the next"),
    "recall": (b"h\x05.", "recalls from place 5"),
    "long text": (b"X\xff\xff\xff\xffabc.", "ends in the middle"),
    "not UTF-8": (b"X\x01\0\0\0\xff.", "not UTF-8"),
    "empty stack": (b".", "more from its stack"),
    "no mark": (b"}u.", "lacks the beginning"),
    "pop mark": (b"(0.", "more from its stack"),
    "odd items": (b"}(Nu.", "a key without a value"),
    "append to dict": (b"}Na.", "fills a dict"),
    "no stop": (b"}", "ends in the middle"),
    "name without end": (b"ctorch", "does not end"),
    "call a text": (text("x") + b")R.", "calls what is no function"),
    "call a storage class": (name("torch", "FloatStorage") + b")R.", "calls what is no function"),
    "filled OrderedDict": (name("collections", "OrderedDict") + b"]\x85R.", "not start empty"),
    "foreign reference": (text("x") + b"Q.", "no storage"),
    "name of numbers": (b"K\x01K\x02\x93.", "is no text"),
    "a list": (b"].", "holds a list, not a dict of tensors"),
    "an epoch": (state_dict({"epoch": b"K\x03"}), "'epoch' is a int, not a tensor"),
    "a storage": (state_dict({"w": FLOAT}), "'w' is a Storage, not a tensor"),
    "number as name": (b"}K\x01" + tensor(FLOAT, 0, (2,), (1,)) + b"s.", "with a name"),
    "trailing bytes": (state_dict({}) + b"xyz", "3 bytes follow its end"),
    "negative offset": (state_dict({"w": tensor(FLOAT, -1, (2,), (1,))}), "impossible offset"),
    "negative stride": (state_dict({"w": tensor(FLOAT, 5, (2,), (-1,))}), "impossible offset"),
    "negative size": (state_dict({"w": tensor(FLOAT, 0, (-2,), (1,))}), "impossible offset"),
    "other ranks": (state_dict({"w": tensor(FLOAT, 0, (2,), (1, 1))}), "more axes than strides"),
    "beyond": (state_dict({"w": tensor(FLOAT, 3, (4,), (1,))}), "beyond its storage of 6"),
    "far beyond": (state_dict({"w": tensor(FLOAT, 0, (2,), (2**62,))}), "beyond its storage"),
    "huge": (state_dict({"w": tensor(FLOAT, 0, (2**40, 2**40), (0, 0))}), "too large"),
    "unfolded": (state_dict({"w": tensor(FLOAT, 0, (2**30,), (0,))}), "1073741824 elements, more"),
    "missing storage": (state_dict({"w": tensor(storage("7", "float32", 6, False), 0, (2,), (1,))}),
                        "storage '7' is missing"),
    "other size": (state_dict({"w": tensor(storage("0", "float32", 5, False), 0, (2,), (1,))}),
                   "should have 20 bytes, but the file has 24"),
    "two dtypes": (state_dict({"w": tensor(FLOAT, 0, (2,), (1,)),
                               "v": tensor(storage("0", "float64", 3, False), 0, (2,), (1,))}),
                   "two sizes or dtypes"),
    "unknown class": (state_dict({"w": tensor(
        FLOAT.replace(b"FloatStorage", b"FooStorage"), 0, (2,), (1,))}), "asks for 'torch.FooSt"),
    "function as class": (state_dict({"w": tensor(FLOAT.replace(
        b"ctorch\nFloatStorage", b"ctorch._utils\n_rebuild_tensor"), 0, (2,), (1,))}), "no class"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_pickle_is_refused_with_its_fault(tmp_path, case):
    data, fault = WRONG[case]
    file = write(tmp_path, zip_bytes(data, {"0": bytes(24)}))
    with pytest.raises(ValueError, match=fault) as caught:
        read_all(file)
    assert str(file) in str(caught.value) and len(str(caught.value)) < 600


def test_a_negated_view_is_refused(tmp_path):
    """torch's negative bit: the storage holds the opposite of the values."""
    arguments = [FLOAT, integer(0), integers((2,)), integers((1,)), b"\x89", b"}",
                 b"}" + text("neg") + b"\x88s"]  # fmt: skip
    bad = name("torch._utils", "_rebuild_tensor_v2") + b"(" + b"".join(arguments) + b"tR"
    with pytest.raises(ValueError, match="negated or conjugated"):
        read_all(write(tmp_path, zip_bytes(state_dict({"w": bad}), {"0": bytes(24)})))


def test_an_old_parameter_and_tensor(tmp_path):
    inner = name("torch._utils", "_rebuild_tensor") + b"(" + FLOAT + integer(1) + integers((2,))
    inner += integers((2,)) + b"tR"
    outer = name("torch._utils", "_rebuild_parameter") + b"(" + inner + b"\x88}tR"
    data = np.arange(6, dtype=np.float32).tobytes()
    found = read_all(write(tmp_path, zip_bytes(state_dict({"w": outer}), {"0": data})))
    assert found["w"].tolist() == [1, 3]


# ---- zip files ----------------------------------------------------------------------------------


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    data = zip_bytes(pickled(ARRAYS, False), {"0": bytes(10**8)}, compression=zipfile.ZIP_DEFLATED)
    assert len(data) < 200_000
    with pytest.raises(ValueError, match="is compressed or encrypted, which torch.save never does"):
        read_all(write(tmp_path, data))


def test_members_that_share_bytes_are_refused(tmp_path):
    """As in the zip bomb of Fifield 2019, where members are parts of others."""
    data = bytearray(torch_zip({"a": np.ones(4, np.float32), "b": np.ones(4, np.float32)}))
    first = data.rindex(b"archive/data/0") - 46  # entries of the directory
    second = data.rindex(b"archive/data/1") - 46
    assert data[first : first + 4] == data[second : second + 4] == b"PK\1\2"
    same_place = data.copy()
    same_place[second + 42 : second + 46] = data[first + 42 : first + 46]
    with pytest.raises(ValueError, match="the header of member 'archive/data/1' is damaged"):
        read_all(write(tmp_path, bytes(same_place)))
    longer = data.copy()
    longer[first + 20 : first + 28] = struct.pack("<2I", 40, 40)
    with pytest.raises(ValueError, match="'archive/data/0' and 'archive/data/1' overlap"):
        read_all(write(tmp_path, bytes(longer)))


@pytest.mark.parametrize("damage, fault", [
    (lambda d: d[:-1], "directory is missing"),
    (lambda d: d[: len(d) // 2], "directory is missing"),
    (lambda d: d + b"x", "directory is missing"),
    (lambda d: d[:4], "too short for a zip file"),
    (lambda d: d.replace(b"archive/data/0", b"archive/data/9"), "storage '0' is missing"),
    (lambda d: d.replace(b"archive/version", b"archive/data/55"), "storage '55' belongs to no"),
    (lambda d: d.replace(b"archive/data/1", b"archive/data/0"), "occurs twice"),
    (lambda d: d.replace(b"data.pkl", b"data.pky"), "without the data.pkl of torch.save"),
    (lambda d: d.replace(b"archive/version", b"archive/unheard"), None),
    (lambda d: d.replace(b"little", b"middle"), "byteorder: its bytes do not have the checksum"),
    (lambda d: d.replace(b"PK\1\2", b"PK\1\3", 1), "directory is damaged"),
    (lambda d: d[:4] + d[4:].replace(b"PK\3\4", b"PK\3\5"), "header of member"),
])  # fmt: skip
def test_a_damaged_zip_is_refused(tmp_path, damage, fault):
    file = write(tmp_path, damage(torch_zip(ARRAYS)))
    if fault is None:  # a member that torch does not know of is none of our business
        read_all(file)
        return
    with pytest.raises(ValueError, match=fault) as caught:
        read_all(file)
    assert str(file) in str(caught.value)


def test_numbers_beyond_32_bits(tmp_path, monkeypatch):
    """The entries of files above 4 GiB, which Python's zipfile writes here for small ones, too."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    data = torch_zip(ARRAYS)
    assert data.count(b"\xff" * 8) >= 4 and b"PK\6\6" in data
    found = read_all(write(tmp_path, data))
    assert found.keys() == ARRAYS.keys() and np.array_equal(found["a"], ARRAYS["a"])
    place = data.rindex(b"archive/data/0") + len("archive/data/0")
    assert data[place : place + 2] == b"\1\0"
    with pytest.raises(ValueError, match="a member's size is missing"):
        read_all(write(tmp_path, data[: place + 2] + b"\4" + data[place + 3 :]))


def test_checksums_of_tensors_are_checked_unless_not_wanted(tmp_path):
    data = torch_zip({"w": np.full(50, 7, np.float32)})
    place = data.index(np.full(50, 7, np.float32).tobytes())
    damaged = data[: place + 9] + bytes([data[place + 9] ^ 1]) + data[place + 10 :]
    file = write(tmp_path, damaged)
    with pytest.raises(ValueError, match="tensor 'w': its bytes do not have the checksum"):
        read_all(file)
    with open_checkpoint(file, checksums=False) as reader:
        assert (reader.read("w") != 7).sum() == 1


# ---- the older format ---------------------------------------------------------------------------


@pytest.mark.parametrize("damage, fault", [
    (lambda d: d[:-1], "ends at byte .* cut off"),
    (lambda d: d[:-10], "storage '1': the file ended"),
    (lambda d: d + b"x", "1 bytes at the end belong to no tensor"),
    (lambda d: d[:40], "ends in the middle"),
    (lambda d: d.replace(b"FloatStorage", b"ShortStorage"), "beyond|elements|cut off|belong"),
    (lambda d: d.replace(struct.pack("<q", 6), struct.pack("<q", 7)), "not have 6 elements"),
    (lambda d: d.replace(struct.pack("<q", 6), struct.pack("<q", -6)), "not have 6 elements"),
    (lambda d: d.replace(pickle.dumps(1001, 2), pickle.dumps(1002, 2)), "not version 1001"),
    (lambda d: d.replace(pickle.dumps(["0", "1"], 2), pickle.dumps(["0", "0"], 2)), "twice"),
    (lambda d: d.replace(pickle.dumps(["0", "1"], 2), pickle.dumps(["0"], 2)), "'1' is missing"),
    (lambda d: d.replace(pickle.dumps(["0", "1"], 2), pickle.dumps([0], 2)), "not a list of texts"),
    (lambda d: d.replace(pickle.dumps(["0", "1"], 2), pickle.dumps(["0", "1", "2"], 2)),
     "'2' belongs to no tensor"),
])  # fmt: skip
def test_a_damaged_older_file_is_refused(tmp_path, damage, fault):
    data = torch_legacy(ARRAYS)
    assert damage(data) != data
    file = write(tmp_path, damage(data))
    with pytest.raises(ValueError, match=fault) as caught:
        read_all(file)
    assert str(file) in str(caught.value)


def test_a_view_of_another_storage_is_refused(tmp_path):
    part = storage("0", "float32", 2, True).replace(b"NtQ", text("1") + b"tQ")
    data = legacy_bytes(state_dict({"w": tensor(part, 0, (2,), (1,))}), {"0": bytes(8)}, {"0": 2})
    with pytest.raises(ValueError, match="is a part of another"):
        read_all(write(tmp_path, data))


def test_pickles_are_read_up_to_a_limit(tmp_path, monkeypatch):
    assert torch_pickle.MAX_BYTES == 1 << 24
    monkeypatch.setattr("minigpt.checkpoints.torch_bin.MAX_BYTES", 100)
    for data in (torch_zip(ARRAYS), torch_legacy(ARRAYS)):
        with pytest.raises(ValueError, match="more than any model needs|ends in the middle"):
            read_all(write(tmp_path, data))
