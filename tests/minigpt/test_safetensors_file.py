"""safetensors files: both ways against the package, and damaged files."""

import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minigpt.checkpoints.safetensors_file import (
    TensorInfo,
    iter_safetensors,
    read_header,
    read_safetensors,
    write_safetensors,
)

ROOT = Path(__file__).parents[2]
KEPT = ["float32", "float64", "bool", "int8", "int16", "int32", "int64",
        "uint8", "uint16", "uint32", "uint64"]


def assert_same(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype and ours[name].shape == array.shape
        assert ours[name].tobytes() == array.tobytes()      # to the bit, NaNs included


def build(entries: dict, data: bytes) -> bytes:
    """A file from what its header is to say, right or wrong."""
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + data


def entry(dtype: str, shape: list, start: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


arrays = st.sampled_from(KEPT).flatmap(lambda dtype: hnp.arrays(
    dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)))
tensor_dicts = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=8).filter(lambda name: name != "__metadata__"),
    arrays, max_size=5)


@settings(max_examples=100, deadline=None)
@given(tensor_dicts)
def test_reads_what_the_package_writes(tmp_path_factory, tensors):
    file = tmp_path_factory.getbasetemp() / "theirs.safetensors"
    safetensors.numpy.save_file(tensors, file, metadata={"format": "pt"})
    assert_same(read_safetensors(file), tensors)
    header = read_header(file)
    assert {name: info.shape for name, info in header.items()} == {
        name: array.shape for name, array in tensors.items()}


@settings(max_examples=100, deadline=None)
@given(tensor_dicts)
def test_the_package_reads_what_we_write(tmp_path_factory, tensors):
    file = tmp_path_factory.getbasetemp() / "ours.safetensors"
    write_safetensors(file, tensors)
    assert_same(safetensors.numpy.load_file(file), tensors)
    assert_same(read_safetensors(file), tensors)


@pytest.mark.parametrize("layout", [
    lambda a: a.T, lambda a: a[::-1], lambda a: a[:, ::2], lambda a: np.broadcast_to(a[:1], (3, 8)),
    lambda a: np.asfortranarray(a), lambda a: a.astype(a.dtype.newbyteorder(">")),
    lambda a: a[1, 2], lambda a: np.array(a[1, 2]), lambda a: a.view(np.matrix),
], ids=["transposed", "reversed", "strided", "broadcast", "fortran", "big-endian", "scalar", "0-d",
        "subclass"])
def test_any_memory_layout_is_written_by_value(tmp_path, layout):
    array = layout(np.arange(24, dtype=np.float32).reshape(3, 8))
    if not isinstance(array, np.ndarray):
        with pytest.raises(TypeError, match="'w' is a float32, not a NumPy array"):
            write_safetensors(tmp_path / "f", {"w": array})
        return
    write_safetensors(tmp_path / "f", {"w": array})
    (read,) = read_safetensors(tmp_path / "f").values()
    assert read.dtype == np.float32 and read.shape == array.shape
    assert read.tolist() == array.tolist()


def test_metadata(tmp_path):
    write_safetensors(tmp_path / "a", {"w": np.zeros(1)})
    write_safetensors(tmp_path / "b", {"w": np.zeros(1)}, metadata={"step": "3"})
    with safetensors.safe_open(tmp_path / "a", "np") as f:
        assert f.metadata() == {"format": "pt"}
    with safetensors.safe_open(tmp_path / "b", "np") as f:
        assert f.metadata() == {"step": "3"}


def test_every_half_precision_value_is_widened_exactly(tmp_path):
    bits = np.arange(65536, dtype="<u2")
    data = bits.tobytes()
    (tmp_path / "f").write_bytes(build(
        {"h": entry("F16", [2, 32768], 0, 131072), "b": entry("BF16", [65536], 131072, 262144)},
        data + data))
    tensors = read_safetensors(tmp_path / "f")
    assert tensors["h"].dtype == tensors["b"].dtype == np.float32
    # float16, by the definition of IEEE 754: struct unpacks it into a Python float.
    wanted = np.array(struct.unpack("<65536e", data)).reshape(2, 32768)
    assert np.array_equal(tensors["h"], wanted.astype(np.float32), equal_nan=True)
    # bfloat16, by its definition: 8 bits of exponent, 7 of fraction.
    for code in (0, 1, 0x7F, 0x80, 0x3F80, 0x3F81, 0x4049, 0x7F7F, 0xBF80, 0x8001, 0xC2F7):
        sign, exponent, fraction = code >> 15, code >> 7 & 255, code & 127
        size = math.ldexp(fraction + (128 if exponent else 0), (exponent or 1) - 134)
        assert tensors["b"][code] == (-size if sign else size)
    assert tensors["b"][0x7F80] == math.inf and tensors["b"][0xFF80] == -math.inf
    assert np.isnan(tensors["b"][0x7FC0]) and np.isnan(tensors["b"][0xFFFF])


def test_tensors_come_one_by_one_in_the_files_order(tmp_path):
    tensors = {f"h.{i}": np.full((2, i), i, np.float32) for i in range(12)}
    write_safetensors(tmp_path / "f", tensors)
    header = read_header(tmp_path / "f")
    starts = [info.start for info in header.values()]
    assert starts == sorted(starts)
    assert [name for name, _ in iter_safetensors(tmp_path / "f")] == list(header)
    assert_same(read_safetensors(tmp_path / "f", names={"h.3", "h.7"}),
                {name: tensors[name] for name in ("h.3", "h.7")})
    with pytest.raises(ValueError, match="there is no tensor 'h.99'"):
        read_safetensors(tmp_path / "f", names=["h.3", "h.99"])


def test_arrays_are_the_callers_own(tmp_path):
    write_safetensors(tmp_path / "f", {"a": np.zeros(3), "b": np.zeros(3)})
    first = read_safetensors(tmp_path / "f")
    first["a"] += 1
    (tmp_path / "f").write_bytes(b"")           # nothing is mapped from the file
    assert first["a"].tolist() == [1, 1, 1] and first["b"].tolist() == [0, 0, 0]


def test_header_gives_places_in_the_file(tmp_path):
    data = build({"w": entry("F32", [2], 0, 8), "__metadata__": {"a": "b"}}, b"12345678")
    (tmp_path / "f").write_bytes(data)
    info = read_header(tmp_path / "f")["w"]
    assert info == TensorInfo("F32", (2,), len(data) - 8, len(data))
    assert data[info.start: info.end] == b"12345678"


def test_what_cannot_be_written_is_named_and_the_old_file_stays(tmp_path):
    write_safetensors(tmp_path / "f", {"w": np.ones(2)})
    before = (tmp_path / "f").read_bytes()
    for bad, message in [
        ({"w": np.zeros(2, np.complex64)}, "'w' has dtype complex64"),
        ({"w": np.array([None])}, "'w' has dtype object"),
        ({"w": np.array(["a"])}, "'w' has dtype <U1"),
        ({"w": [1.0, 2.0]}, "'w' is a list, not a NumPy array"),
        ({1: np.zeros(2)}, "name must be a string, got 1"),
    ]:
        with pytest.raises(TypeError, match=message):
            write_safetensors(tmp_path / "f", bad)
    with pytest.raises(ValueError, match="__metadata__"):
        write_safetensors(tmp_path / "f", {"__metadata__": np.zeros(2)})
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_safetensors(tmp_path / "nowhere" / "f", {"w": np.ones(2)})
    assert (tmp_path / "f").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes on Windows")
def test_no_room_on_the_disk_is_an_os_error_and_leaves_nothing(tmp_path):
    code = (
        "import resource, sys, numpy as np\n"
        "from minigpt.checkpoints.safetensors_file import write_safetensors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try: write_safetensors(sys.argv[1], {'w': np.ones(100_000)})\n"
        "except OSError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-B", "-c", code, str(tmp_path / "f")], text=True,
                         capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert run.returncode == 0, run.stderr
    assert f"cannot write {tmp_path / 'f'}: " in run.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no umask on Windows")
def test_the_file_can_be_read_by_whom_the_umask_says(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_safetensors(tmp_path / "f", {"w": np.ones(2)})
    assert (tmp_path / "f").stat().st_mode == (tmp_path / "plain").stat().st_mode


# ---- damaged files -----------------------------------------------------------------------------

ONE = {"w": entry("F32", [2], 0, 8)}
DAMAGED = [
    (b"", "0 bytes are too few"),
    (b"1234567", "7 bytes are too few"),
    (struct.pack("<Q", 100) + b"{}", "header is said to have 100 bytes, in a file of 10"),
    (struct.pack("<Q", 2**63) + b"{}", "this is no safetensors file"),
    (b"version https://git-lfs.github.com/spec/v1\n", "this is no safetensors file"),
    (build(ONE, b"12345678")[:-1], "cut off"),
    (build(ONE, b"12345678" + b"9"), "1 bytes at the end belong to no tensor"),
    (struct.pack("<Q", 4) + b'{"a"', "header: not valid JSON"),
    (struct.pack("<Q", 2) + b"[]", "header: expected a JSON object"),
    (struct.pack("<Q", 2) + b'"\xff', "header: not UTF-8"),
    (struct.pack("<Q", 0), "header: not valid JSON"),
    (struct.pack("<Q", 200_005) + b'{"a":' + b"[" * 200_000, "nested too deeply"),
    (build(ONE, b"12345678").replace(b"}}", b"},"), "header: not valid JSON"),
    (struct.pack("<Q", 15) + b'{"w":{},"w":{}}', "'w' occurs twice"),
    (build({"w": [1]}, b""), "'w': expected dtype, shape and data_offsets"),
    (build({"w": {"dtype": "F32", "shape": [0]}}, b""), "'w': expected dtype, shape and"),
    (build({"w": entry("F8_E4M3", [2], 0, 2)}, b"12"), "'w': cannot read dtype 'F8_E4M3'"),
    (build({"w": entry(["F32"], [2], 0, 8)}, b"12345678"), "'w': cannot read dtype"),
    (build({"w": entry("F32", [-2], 0, 8)}, b"12345678"), "'w': shape must be"),
    (build({"w": entry("F32", [2.0], 0, 8)}, b"12345678"), "'w': shape must be"),
    (build({"w": entry("F32", [True, 2], 0, 8)}, b"12345678"), "'w': shape must be"),
    (build({"w": entry("F32", "2", 0, 8)}, b"12345678"), "'w': shape must be"),
    (build({"w": entry("F32", [1] * 65 + [2], 0, 8)}, b"12345678"), "at most 64"),
    (build({"w": entry("F32", [2**62, 0, 2**62], 0, 0)}, b""), "too large for an array"),
    (build({"w": entry("F32", [2**63, 0], 0, 0)}, b""), "'w': shape must be"),
    (build({"w": entry("F32", [10**4000] * 9, 0, 8)}, b"12345678"), "'w': shape must be"),
    (build({"w": entry("F32", [2**62] * 64, 0, 8)}, b"12345678"), "too large for an array"),
    (build({"w": entry("F32", [3], 0, 8)}, b"12345678"), r"F32 of shape \[3\] takes 12 bytes"),
    (build({"w": entry("F64", [2], 0, 8)}, b"12345678"), "takes 16 bytes"),
    (build({"w": entry("F32", [2], 8, 0)}, b"12345678"), "data_offsets must be"),
    (build({"w": entry("F32", [2], -8, 0)}, b"12345678"), "data_offsets must be"),
    (build({"w": {**ONE["w"], "data_offsets": [0, 4, 8]}}, b"12345678"), "data_offsets must be"),
    (build({"w": entry("F32", [2], 0, 8)}, b""), "ends at byte .* cut off"),
    (build({"w": entry("F32", [2], 2**61, 2**61 + 8)}, b"12345678"), "ends at byte"),
    (build({"w": entry("F32", [1], 4, 8)}, b"12345678"), "'w' starts at byte .* leaves a gap"),
    (build({**ONE, "x": entry("F32", [2], 4, 12)}, b"123456789012"), "'x' .* overlaps"),
    (build({**ONE, "x": entry("F32", [2], 0, 8)}, b"12345678"), "'x' .* overlaps"),
    (build({**ONE, "x": entry("F32", [0], 4, 4)}, b"12345678"), "'x' .* overlaps"),
    (build({**ONE, "__metadata__": {"a": 1}}, b"12345678"), "__metadata__ must be"),
    (build({**ONE, "__metadata__": "a"}, b"12345678"), "__metadata__ must be"),
    (build({"w": entry("BOOL", [2], 0, 2)}, b"\x01\x02"), "neither 0 nor 1"),
]


@pytest.mark.parametrize(("data", "fault"), DAMAGED, ids=[fault[:30] for _, fault in DAMAGED])
def test_a_damaged_file_is_named_with_its_fault(tmp_path, data, fault):
    file = tmp_path / "model.safetensors"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=fault) as caught:
        read_safetensors(file)
    assert str(file) in str(caught.value) and len(str(caught.value)) < 1000


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    file = tmp_path / "f"
    file.write_bytes(build({"a": entry("F32", [100_000], 0, 400_000),
                            "b": entry("F32", [100_000], 400_000, 800_000)}, bytes(800_000)))
    reader = iter_safetensors(file)
    assert next(reader)[0] == "a"
    os.truncate(file, 500_000)
    with pytest.raises(ValueError, match="tensor 'b': the file ended while it was read"):
        next(reader)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.safetensors"):
        read_safetensors(tmp_path / "nothing.safetensors")


@settings(max_examples=150, deadline=None)
@given(tensor_dicts, st.data())
def test_a_mutated_file_is_read_as_the_package_reads_it_or_refused(tmp_path_factory, tensors, data):
    original = safetensors.numpy.save(tensors)
    length = struct.unpack("<Q", original[:8])[0]
    damaged = bytearray(original)
    kind = data.draw(st.sampled_from(["cut", "longer", "header bytes", "length", "other offsets"]))
    if kind == "cut":
        damaged = damaged[: data.draw(st.integers(0, len(damaged) - 1))]
    elif kind == "longer":
        damaged += data.draw(st.binary(min_size=1, max_size=9))
    elif kind == "header bytes":
        for _ in range(data.draw(st.integers(1, 3))):
            damaged[data.draw(st.integers(8, 7 + length))] = data.draw(st.integers(0, 255))
    elif kind == "length":
        lengths = st.integers(0, 2 * length) | st.integers(0, 2**64 - 1)
        damaged[:8] = struct.pack("<Q", data.draw(lengths))
    else:
        assume(tensors)
        header = json.loads(original[8: 8 + length])
        name = data.draw(st.sampled_from(sorted(tensors)))
        field = data.draw(st.sampled_from(["shape", "data_offsets"]))
        header[name][field] = data.draw(st.lists(st.integers(-1, 40), max_size=3))
        damaged = bytearray(build(header, original[8 + length:]))
    file = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    file.write_bytes(damaged)
    try:
        ours = read_safetensors(file)
    except ValueError as error:
        assert str(file) in str(error)
    else:
        theirs = safetensors.numpy.load(bytes(damaged))     # which must not refuse it, then
        assert ours.keys() == theirs.keys()
        for name, array in theirs.items():
            wanted = array.astype(np.float32) if array.dtype == np.float16 else array
            assert ours[name].shape == array.shape
            np.testing.assert_array_equal(ours[name], wanted)


# ---- against torch -----------------------------------------------------------------------------


@pytest.mark.reference
def test_half_precision_as_torch_widens_it(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    bits = torch.arange(-32768, 32768).to(torch.int16)
    save_file({"h": bits.view(torch.float16), "b": bits.clone().view(torch.bfloat16)},
              tmp_path / "f")
    ours = read_safetensors(tmp_path / "f")
    for name, dtype in (("h", torch.float16), ("b", torch.bfloat16)):
        np.testing.assert_array_equal(ours[name], bits.view(dtype).float().numpy())
