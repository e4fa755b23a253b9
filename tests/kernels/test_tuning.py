"""Tuned choices: a file is believed only where it cannot make a result wrong."""

import functools
import json
import os
import warnings

import numpy as np
import pytest

from kernels import bench, tuning
from kernels.tuning import Choice, best, choices_from, keep, key_of, may_stand_for
from tensor.cuda_backend import CudaBackend
from tensor.cuda_launch import Version, tuned
from tests.kernels.emulated import needs_compiler

pytestmark = pytest.mark.slow       # the emulator is a device


@pytest.fixture
def device():
    needs_compiler()
    return CudaBackend("emulator").device


@pytest.fixture(autouse=True)
def _read_anew():
    tuning.forget()


VECTOR = "softmax_vector"


def test_what_was_measured_is_found_again(device, tmp_path):
    seconds = {Choice("softmax_naive", 64): 9.0, Choice("softmax_warp", 128): 3.0,
               Choice(VECTOR, 64): 2.0, Choice(VECTOR, 256): 1.0, Choice("softmax_block", 64): 4.0}
    assert best("softmax", VECTOR, (33, 64), device, tmp_path) is None      # no file yet
    path = keep("softmax", choices_from("softmax", (33, 64), seconds), device, tmp_path)
    tuning.forget()
    assert path.parent == tmp_path and path.name.startswith("emulator_cuda_softmax_")
    assert best("softmax", VECTOR, (64, 64), device, tmp_path) == Choice(VECTOR, 256)
    # Where the arrays are not aligned the rules take another version, and so does the file.
    unaligned = best("softmax", "softmax_warp", (64, 64), device, tmp_path)
    assert unaligned == Choice("softmax_warp", 128)
    for other in ((65, 64), (32, 64), (33, 68), (0, 64)):
        assert best("softmax", VECTOR, other, device, tmp_path) is None
    assert best("nothing", VECTOR, (64, 64), device, tmp_path) is None
    # Later choices are added to those that are there; this process keeps to what it has read.
    for cols in (32, 36):
        more = choices_from("softmax", (5, cols), {Choice(VECTOR, 64): 1.0})
        keep("softmax", more, device, tmp_path)
    assert best("softmax", VECTOR, (8, 32), device, tmp_path) is None
    tuning.forget()
    for cols in (32, 36):
        assert best("softmax", VECTOR, (8, cols), device, tmp_path) == Choice(VECTOR, 64)
    assert best("softmax", VECTOR, (64, 64), device, tmp_path) == Choice(VECTOR, 256)
    assert os.listdir(tmp_path) == [path.name]


def test_without_a_gpu_nothing_is_consulted(device, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGPT_TUNING", str(tmp_path))
    keep("softmax", choices_from("softmax", (33, 64), {Choice(VECTOR, 64): 1.0}), device, tmp_path)
    tuning.forget()
    assert best("softmax", VECTOR, (33, 64), device) is None
    monkeypatch.setenv("MINIGPT_TUNING", "off")
    assert tuning.usual_folder() is None and keep("softmax", {}, device) is None
    monkeypatch.delenv("MINIGPT_TUNING")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tuning.usual_folder() == tmp_path / "minigpt" / "tuning"


@pytest.mark.parametrize("content", [
    "", "{", "[]", "null", '{"choices": 3}', '{"choices": {"a": null}}', "[" * 10000,
    '{"choices": {"k": {"version": "rm", "block": 64}}}',
    '{"choices": {"k": {"version": "softmax_warp", "block": "64"}}}',
    '{"choices": {"k": {"version": ["softmax_warp"], "block": 64}}}',
    '{"choices": {}, "pad": "' + " " * (1 << 20) + '"}', "\udcff",
])
def test_a_damaged_file_is_ignored_with_one_warning(device, tmp_path, content):
    path = tmp_path / tuning._identity("softmax", device)
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.warns(UserWarning, match="no file of tuned kernels") as seen:
        assert best("softmax", VECTOR, (33, 64), device, tmp_path) is None
        assert best("softmax", VECTOR, (33, 64), device, tmp_path) is None
    assert len(seen) == 1


@pytest.mark.parametrize(("family", "usual", "choice", "sizes"), [
    ("softmax", "softmax_registers", Choice(VECTOR, 64), (33, 64)),     # x may not be aligned
    ("softmax", "softmax_long", Choice(VECTOR, 64), (33, 2048)),        # no warp holds the row
    ("softmax", VECTOR, Choice(VECTOR, 48), (33, 64)),                  # no such block
    ("layer_norm", "layer_norm_long", Choice("layer_norm_long", 64), (33, 2048)),
    ("gelu", "gelu_vector", Choice("gelu_tanh_vector", 64), (3, 32)),     # another function
    ("matmul", "matmul_vector", Choice("softmax_warp", 64), (33, 64, 5)),
    ("attention", "attention_tiles_64", Choice("attention_mma_tf32_64", 128), (1, 2, 33, 64)),
])
def test_what_would_be_wrong_is_never_taken(device, tmp_path, family, usual, choice, sizes):
    assert not may_stand_for(family, usual, choice, sizes)
    path = tmp_path / tuning._identity(family, device)
    path.write_text(json.dumps({"choices": {key_of(usual, sizes): choice._asdict()}}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert best(family, usual, sizes, device, tmp_path) is None


def test_the_primitives_take_it(tmp_path, monkeypatch):
    needs_compiler()
    be, launched = CudaBackend("emulator"), []
    for family, sizes, choice in (
            ("softmax", (5, 64), Choice("softmax_warp", 256)),
            ("layer_norm", (5, 64), Choice("layer_norm_warp", 64)),
            ("matmul", (9, 7, 70), Choice("matmul_coalesced", 128)),
            ("cross_entropy", (5, 64), Choice("cross_entropy_block", 64)),
            ("gelu", (5, 64), Choice("gelu_tanh_naive", 64))):
        seconds = dict.fromkeys([Choice(v, bench.FAMILIES[family].versions[v][0])
                                 for v in bench.FAMILIES[family].versions], 2.0) | {choice: 1.0}
        keep(family, choices_from(family, sizes, seconds), be.device, tmp_path)
    tuning.forget()
    kernel = be.kernel
    monkeypatch.setattr(
        be, "kernel", lambda file, name: launched.append(name) or kernel(file, name))
    x, w = (be.from_numpy(np.ones(shape, np.float32)) for shape in ((5, 64), 64))
    a, b = (be.from_numpy(np.ones(shape, np.float32)) for shape in ((9, 7), (7, 70)))
    targets = be.from_numpy(np.zeros(5, np.int64))

    def run(**version):
        launched.clear()
        be.softmax(x, **version)
        be.layer_norm(x, w, w, 1e-5)
        be.matmul(a, b, False, False)
        be.matmul(b, b, True, False)        # not what was measured
        be.cross_entropy(x, targets, -100)
        be.gelu(x, w, True, False)
        return [name for name in launched if name != "cross_entropy_mean"]
    before = run()
    monkeypatch.setattr(tuning, "best", functools.partial(best, folder=tmp_path))
    assert run() == ["softmax_warp", "layer_norm_warp", "matmul_coalesced", before[3],
                     "cross_entropy_block", "gelu_tanh_naive"] != before
    assert run(version=Version("softmax_block", 64))[0] == "softmax_block"
    assert tuned(be, "softmax", (5, 64), Version("softmax_vector", 64, 7)) == (
        "softmax_warp", 256, 7)


def test_tuning_needs_a_gpu(capsys):
    assert bench.main(["softmax", "--device", "emulator", "--tune"]) == 2
    assert "there is no GPU" in capsys.readouterr().err
