"""python -m kernels.bench: what it counts, what it finds wrong, what it refuses."""

import json

import numpy as np
import pytest

from kernels import bench, bench_plot
from kernels.bench_cases import Case, precision
from kernels.bench_emulator import count
from kernels.bench_products import Matmul
from kernels.bench_rows import Softmax
from kernels.device import get_device
from kernels.launch import HERE, load
from tests.kernels.emulated import needs_compiler

SMALL = {"matmul": "33x17x40", "attention": "1x2x33x32", "attention_backward": "1x2x33x32",
         "layer_norm": "5x68", "layer_norm_backward": "5x68", "softmax": "5x65",
         "softmax_backward": "5x68", "gelu": "5x68", "cross_entropy": "5x65",
         "cross_entropy_backward": "5x65", "adamw": "1001", "copy": "33x65"}


@pytest.mark.parametrize(("words", "says"), [
    ("nonsense", "there is no family 'nonsense': use one of matmul, attention,"),
    ("softmax --shape 3", "softmax takes rowsxcols, as in 64x768"),
    ("softmax --shape 3x0", "softmax takes rowsxcols"),
    ("softmax --shape 3x-4", "softmax takes rowsxcols"),
    ("softmax --versions nave", "softmax has softmax_naive, softmax_warp"),
    ("softmax --blocks 48", "softmax_naive takes 64, 128, 256; softmax_warp takes 64, 128, 256"),
    ("softmax --blocks many", "numbers of threads"),
    ("all --shape 3x4", "for one family"),
    ("layer_norm --shape 3x33 --versions vector", "a multiple of 4, up to 1024 columns, not 33"),
    ("layer_norm --shape 3x9000 --versions long --blocks 64", "does not hold 9000"),
    ("layer_norm --versions warp,naive --blocks 512", "layer_norm_naive takes 64, 128, 256"),
])
def test_what_makes_no_sense_is_one_line(words, says, capsys):
    assert bench.main([*words.split(), "--device", "emulator"]) == 2
    out, err = capsys.readouterr()
    assert says in err and err.startswith("kernels.bench: ") and err.count("\n") == 1 and not out


def test_precision_is_in_the_name():
    names = {"matmul_mma_tf32": "tf32", "matmul_mma_3xtf32": "3xtf32", "x_bf16_y": "bf16",
             "matmul_vector": "float32"}
    assert {name: precision(name) for name in names} == names


def test_a_picture_of_measured_points(tmp_path):
    pytest.importorskip("matplotlib")
    roof = bench_plot.measured_roof("a GPU", {"bytes_per_s": 1e12, "float32": 1e13, "tf32": 0.0,
                                              "bf16": 0.0})
    points = [bench_plot.Point("softmax_naive", 0.6, 1e11), bench_plot.Point("softmax_warp", 0.6,
                                                                             5e11)]
    bench_plot.draw(tmp_path / "a.png", Softmax(5, 65), points, roof)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert set(bench_plot.DATASHEETS["H100"].flops_per_s) == {"float32", "tf32", "bf16"}


@pytest.mark.slow
@pytest.mark.parametrize("family", bench.FAMILIES)
def test_every_version_is_right_and_counted(family, tmp_path, capsys):
    needs_compiler()
    pytest.importorskip("matplotlib")
    file = tmp_path / "results.json"
    assert bench.main([family, "--device", "emulator", "--shape", SMALL[family], "--json",
                       str(file), "--out", str(tmp_path)]) == 0
    results = json.loads(file.read_text())["results"]
    case = bench.FAMILIES[family]
    sizes = tuple(map(int, SMALL[family].split("x")))
    assert [row["version"] for row in results] == [
        version for version, blocks in case.versions.items()
        if not all(case.why_not(version, sizes, block) for block in blocks)]
    for row in results:         # what every version must move at least, up to whole sectors
        assert row["bytes_least"] >= 0.99 * row["problem_bytes"], row
        assert row["bytes_without_cache"] >= row["bytes_least"]
    out = capsys.readouterr().out
    assert out == (tmp_path / f"{family}-{SMALL[family]}.md").read_text() + "\n"
    assert (tmp_path / f"{family}-{SMALL[family]}.png").exists() == (family != "copy")


@pytest.mark.slow
def test_blocks_versions_and_lines(tmp_path, capsys):
    needs_compiler()
    assert bench.main(["softmax", "--device", "emulator", "--shape", "3x40", "--versions",
                       "warp,naive", "--blocks", "64,256", "--by-line"]) == 0
    out = capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in out.splitlines()
            if line.startswith("| softmax_") and "lanes" not in line] == [
        "softmax_warp, 64", "softmax_warp, 256", "softmax_naive, 64", "softmax_naive, 256"]
    assert out.count("| softmax.cu:") > 8


@pytest.mark.slow
@pytest.mark.parametrize("version", ["attention_mma_bf16_storage_32",
                                     "attention_mma_backward_bf16_storage"])
def test_rows_of_bfloat16_that_no_16_bytes_fit(version, capsys):
    needs_compiler()
    family = "attention_backward" if "backward" in version else "attention"
    assert bench.main([family, "--device", "emulator", "--shape", "1x2x33x20", "--versions",
                       version]) == 0, capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("words", "says"), [
    ("softmax --shape 1000000000x1000000000", "too large"),
    ("softmax --shape 1000000000000000000000x3", "too large"),
    ("softmax --json /dev/null/a.json", "/dev/null"),
    ("softmax --out /dev/null/a", "/dev/null"),
    ("softmax --json /tmp", "--json /tmp is a folder"),
])
def test_what_the_machine_refuses_is_one_line(words, says, capsys):
    needs_compiler()
    assert bench.main([*words.split(), "--device", "emulator"]) == 2
    out, err = capsys.readouterr()
    assert says in err and err.startswith("kernels.bench: ") and err.count("\n") == 1 and not out


@pytest.mark.slow
def test_a_version_that_fails_leaves_the_others(monkeypatch, tmp_path, capsys):
    needs_compiler()
    launch = Softmax.launch

    def fails(self, device, version, block, arrays):
        launch(self, device, version, 2048 if version == "softmax_warp" else block, arrays)
    monkeypatch.setattr(Softmax, "launch", fails)
    file = tmp_path / "new" / "results.json"
    assert bench.main(["softmax", "--device", "emulator", "--shape", "5x33", "--json",
                       str(file)]) == 1
    assert "softmax_warp, 128: failed: softmax_warp: block" in capsys.readouterr().out
    assert [row["version"] for row in json.loads(file.read_text())["results"]] == [
        "softmax_naive", "softmax_registers", "softmax_block", "softmax_long"]


@pytest.mark.slow
def test_a_wrong_version_is_found(monkeypatch, capsys):
    needs_compiler()

    def forgets_the_last_row(self, device, version, block, arrays):
        rows, cols = self.sizes
        load("softmax.cu", device)[version](arrays["x"], arrays["y"], rows - 1, cols, grid=9,
                                            block=block)
    monkeypatch.setattr(Softmax, "launch", forgets_the_last_row)
    assert bench.main(["softmax", "--device", "emulator", "--shape", "5x33", "--versions",
                       "warp"]) == 1
    assert "softmax_warp, 128: wrong, off by nan" in capsys.readouterr().out


def test_an_error_is_relative_to_the_exact_result():
    class Off(Case):
        family, axes, versions, shapes, small = "off", (), {}, (), ()
        upload = launch = torch_step = None

        def compare(self, arrays):
            return np.array([3.0, 4.3]), np.array([3.0, 4.0])
    Off.__abstractmethods__ = frozenset()
    assert Off().error({}) == pytest.approx(0.3 / 4)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["softmax_backward", "cross_entropy_backward",
                                    "layer_norm_backward"])
def test_gradients_that_are_all_zero(family, capsys):
    needs_compiler()
    words = [family, "--device", "emulator", "--shape", "3x1"]
    assert bench.main([*words, "--versions", f"{family}_naive"]) == 0
    assert "wrong" not in capsys.readouterr().out


@pytest.mark.slow
def test_the_table_in_the_readme_is_what_is_counted(capsys):
    """But for lanes and FLOPs, which another release of g++ may see otherwise."""
    needs_compiler()
    assert bench.main(["matmul", "--device", "emulator", "--shape", "128x64x128"]) == 0
    readme = (HERE / "README.md").read_text(encoding="utf-8")

    def rows(text):
        cells = [line.split("|") for line in text.splitlines() if line.startswith("| matmul_")]
        return [(c[1], *c[3:9], c[10]) for c in cells]
    shown = capsys.readouterr().out
    assert len(rows(shown)) > 5 and rows(shown) == rows(readme)


@pytest.mark.slow
def test_matmul_by_hand():
    """16 x 16 x 16 entries, every address aligned: what one warp asks for can be counted."""
    needs_compiler()
    device, case = get_device("emulator", counted=True), Matmul(16, 16, 16)
    naive, _ = count(case, "matmul_coalesced", 32, device)
    # A warp has two rows of C. For each k: two floats of A, in a sector each, and a row of B, two
    # sectors; at the end two rows of C, four sectors.
    assert naive.total.read_sectors == 8 * 16 * (2 + 2) and naive.total.write_sectors == 8 * 4
    tiles, _ = count(case, "matmul_tiles", 256, device)
    assert tiles.total.read_sectors == 2 * 8 * 4 and tiles.total.write_sectors == 8 * 4
    assert naive.total.flops == tiles.total.flops == case.flops == 2 * 16**3
    assert naive.least_bytes == tiles.least_bytes == case.bytes == 3 * 16 * 16 * 4


@pytest.mark.slow
@pytest.mark.parametrize("checked", [True, False])
def test_what_the_limits_compute(checked):
    """limits.cu does all of the work that its time is divided by: its results show it."""
    needs_compiler()
    device = get_device("emulator", checked=checked)
    module, rounds = load("limits.cu", device), 13
    x, y = device.from_numpy(np.arange(1000, dtype=np.float32)), device.empty(1000)
    module["limit_copy"](x, y, 1000, grid=8, block=32, order="reverse")
    np.testing.assert_array_equal(y.numpy(), x.numpy())
    out = device.empty(64)
    module["limit_fma"](out, 0.5, 1.0, rounds, grid=2, block=32)
    chains = np.arange(8) * 0.5**rounds + 2 * (1 - 0.5**rounds)     # 1 + 1/2 + 1/4 + ...
    np.testing.assert_allclose(out.numpy(), chains.sum(), rtol=1e-6)
    for kind, inner in (("tf32", 8), ("bf16", 16)):
        module[f"limit_mma_{kind}"](out, rounds, grid=1, block=64, order=7)
        np.testing.assert_array_equal(out.numpy(), 8 * 4 * rounds * inner)
