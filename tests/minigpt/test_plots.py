"""The picture of a run, drawn from its log."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minigpt.plots import (
    MOST_POINTS,
    TRAIN_COLOUR,
    VALIDATION_COLOUR,
    Curve,
    plot_run,
    read_log,
    smooth,
    thinned,
)

HEADER = "step,train_loss,val_loss,lr,grad_norm,tokens_per_s\n"


@pytest.fixture
def log(tmp_path):
    rows = ["0,,6.2,,,\n"]
    for step in range(1, 101):
        val = f"{1 + 5 / step:.3f}" if step % 25 == 0 else ""
        rows.append(f"{step},{1 + 4 / step:.3f},{val},0.001,1.5,9000\n")
    path = tmp_path / "log.csv"
    path.write_text(HEADER + "".join(rows))
    return path


def test_read_log_leaves_empty_cells_out(log):
    curves = read_log(log)
    assert curves["val_loss"] == Curve([0, 25, 50, 75, 100], [6.2, 1.2, 1.1, 1.067, 1.05])
    assert curves["train_loss"].steps == list(range(1, 101))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not a training log"),
        ("time,loss\n1,2\n", "first column should be 'step'"),
        (HEADER + "1,2.0,,,,\n2,much,,,,\n", "line 3: .*'much'"),
    ],
)
def test_what_is_no_log(tmp_path, text, complaint):
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=complaint):
        read_log(path)


def test_a_missing_log(tmp_path):
    with pytest.raises(FileNotFoundError):
        plot_run(tmp_path / "log.csv")
    assert list(tmp_path.iterdir()) == []


def test_smooth_is_the_mean_of_the_neighbourhood():
    values = [3.0, 0.0, 6.0, 9.0, 1.0]
    assert smooth(values, 1) == pytest.approx([3, 3, 5, 16 / 3, 1])
    assert smooth(values, 0) == values
    straight = list(np.arange(50.0))
    assert smooth(straight, 7) == pytest.approx(straight)  # it neither lags nor bends


def test_the_picture_is_a_png_with_both_curves(log):
    from matplotlib.colors import to_rgb
    from matplotlib.image import imread

    picture = plot_run(log, title="a run")
    assert picture == log.with_name("loss.png")
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", data[16:24]) == (1050, 630)
    pixels = imread(picture)[..., :3]
    for colour in (TRAIN_COLOUR, VALIDATION_COLOUR):
        assert (np.abs(pixels - to_rgb(colour)).max(axis=-1) < 0.02).sum() > 500
    assert [path.name for path in sorted(log.parent.iterdir())] == ["log.csv", "loss.png"]


@pytest.mark.parametrize("rows", ["", "0,,6.2,,,\n", "0,,6.2,,,\n1,5.0,,0.001,1,9\n"])
def test_a_run_that_has_just_begun_can_be_drawn(tmp_path, rows):
    (tmp_path / "log.csv").write_text(HEADER + rows)
    assert plot_run(tmp_path / "log.csv", tmp_path / "begun.png").stat().st_size > 1000


def test_drawing_leaves_the_screen_back_end_alone(log):
    code = (
        "import sys; from minigpt.plots import plot_run; assert 'matplotlib' not in sys.modules\n"
        f"plot_run({str(log)!r}); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_long_curve_keeps_its_ends_and_its_shape():
    steps = list(range(0, 450_000, 10))
    curve = thinned(steps, [float(step) for step in steps])
    assert len(curve.steps) == MOST_POINTS and curve.values == [float(s) for s in curve.steps]
    assert (curve.steps[0], curve.steps[-1]) == (steps[0], steps[-1])
    assert max(b - a for a, b in zip(curve.steps, curve.steps[1:])) <= 460
    assert thinned(steps[:7], steps[:7]) == (steps[:7], steps[:7])


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory in /proc")
def test_pictures_of_a_long_run_do_not_pile_up_memory(tmp_path):
    rows = "".join(f"{10 * i},{3 + i % 7},,1e-3,1.0,3000\n" for i in range(45_000))
    log = tmp_path / "log.csv"
    log.write_text("step,train_loss,val_loss,lr,grad_norm,tokens_per_s\n" + rows)
    code = f"""
from pathlib import Path
from minigpt.plots import plot_run
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
plot_run({str(log)!r})
before = resident()
for _ in range(3):
    plot_run({str(log)!r})
print(resident() - before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                         env=os.environ | {"PYTHONPATH": os.getcwd()})  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 150  # MB; it was 500 when every point was drawn
