"""`minigpt plot`: several runs together, told apart with and without colour; and a run's layers."""

import struct
import sys

import numpy as np
import pytest

from minigpt.callbacks import Callback
from minigpt.cli import main
from minigpt.live_figure import LiveFigure
from minigpt.plot_runs import COLOURS, plot_layers, plot_runs, runs_figure
from minigpt.plots import Curve, read_log
from tests.minigpt.training_helpers import (
    SMALL,
    TEXT,
    fake_notebook,
    resume,
    signal_after,
    start,
)

HEADER = "step,train_loss,val_loss,lr,grad_norm,tokens_per_s\n"


def run_of(folder, factor=1.0, steps=100):
    rows = [f"0,,{6 * factor},,,\n"]
    for step in range(1, steps + 1):
        val = f"{factor + 5 / step:.3f}" if step % 25 == 0 else ""
        rows.append(f"{step},{factor + 4 / step:.3f},{val},0.001,{1.5 * factor},{9000 * factor}\n")
    folder.mkdir(parents=True)
    (folder / "log.csv").write_text(HEADER + "".join(rows))
    return folder


def luminance(colour):
    from matplotlib.colors import to_rgb

    return float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114)))


def test_each_run_is_in_each_panel_with_its_own_style(tmp_path):
    curves = {name: read_log(run_of(tmp_path / name, factor) / "log.csv")
              for name, factor in (("a", 1.0), ("b", 2.0), ("c", 3.0))}  # fmt: skip
    figure = runs_figure(curves)
    panels = figure.axes
    assert [axes.get_title(loc="left").split()[0] for axes in panels] == [
        "loss", "learning", "norm", "tokens",
    ]  # fmt: skip
    names = [line.get_label() for line in panels[0].lines if not line.get_label().startswith("_")]
    assert names == [f"{run}: {what}" for run in "abc" for what in ("training", "validation")]
    for axes in panels[1:]:
        lines = [line for line in axes.lines if not line.get_label().startswith("_")]
        assert len({line.get_linestyle() for line in lines}) == len(lines) == 3
        assert len({line.get_color() for line in lines}) == 3
    markers = [line.get_marker() for line in panels[0].lines if "validation" in line.get_label()]
    assert len(set(markers)) == 3


def test_the_figures_are_those_of_the_log(tmp_path):
    log = read_log(run_of(tmp_path / "a", steps=20) / "log.csv")  # too few steps to be smoothed
    panels = runs_figure({"a": log}).axes
    assert panels[1].lines[0].get_xydata().tolist() == [[s, 0.001] for s in range(1, 21)]
    training, validation = panels[0].lines
    assert training.get_ydata().tolist() == log["train_loss"].values
    assert validation.get_xdata().tolist() == [0]


def test_neighbouring_colours_differ_in_grey():
    grey = [luminance(colour) for colour in COLOURS]
    assert all(abs(a - b) > 0.1 for a, b in zip(grey, grey[1:]))


def test_more_runs_than_colours(tmp_path):
    runs = [run_of(tmp_path / f"run-{n}", steps=3) for n in range(9)]
    assert plot_runs(runs, tmp_path / "all.png").stat().st_size > 10_000


def test_the_command(tmp_path, capsys):
    a, b = run_of(tmp_path / "x" / "run"), run_of(tmp_path / "y" / "run", 2.0)
    assert main(["plot", str(a), str(b)]) == 0
    assert capsys.readouterr().out == f"{a / 'runs.png'}\n"
    data = (a / "runs.png").read_bytes()
    assert data.startswith(b"\x89PNG") and struct.unpack(">I", data[16:20])[0] == 1300
    assert main(["plot", str(a / "log.csv"), "--out", str(tmp_path / "one.png")]) == 0
    assert (tmp_path / "one.png").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere"], "nowhere: no such run"),
        (["{run}", "--out", "{run}.jpg"], "the picture is a PNG file"),
        (["{run}", "{run}"], "the same run is given twice"),
        (["{run}", "--layers"], "has no layers.csv: a run writes it with --set layers_every=N"),
        (["{run}", "{run}", "--layers"], "draws the layers of one run, not of 2"),
        (["{empty}"], "log.csv"),
        ([], "arguments are required: RUN"),
    ],
)
def test_mistakes(tmp_path, capsys, arguments, complaint):
    run_of(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    names = {"{run}": str(tmp_path / "run"), "{empty}": str(tmp_path / "empty")}
    words = []
    for word in arguments:
        for name, path in names.items():
            word = word.replace(name, path)
        words.append(word)
    assert main(["plot", *words]) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1


@pytest.fixture
def config(tmp_path):
    (tmp_path / "sums.txt").write_text(TEXT)
    return SMALL.replace(data=str(tmp_path / "sums.txt"), n_layer=2, dropout=0.1)


class TestLayers:
    def test_the_sizes_are_those_of_the_tensors(self, config, tmp_path):
        trainer = start(config.replace(layers_every=2, max_steps=4), tmp_path / "run")
        seen = {}

        class Watch(Callback):
            def on_gradients(self, trainer):
                named = dict(trainer.model.named_parameters())
                block = [p.grad.numpy().ravel() for n, p in named.items() if ".h.1." in n]
                rms = np.sqrt((np.concatenate(block).astype(float) ** 2).mean())
                trainer.model.eval()
                states = trainer.model(trainer.batches[0][0], output_hidden_states=True)
                last = states.hidden_states[-1].numpy().astype(float)
                trainer.model.train()
                seen[trainer.step + 1] = (rms, np.sqrt((last**2).mean()))

        trainer.callbacks.append(Watch())
        trainer.run()
        curves = read_log(tmp_path / "run" / "layers.csv")
        assert curves["gradient h.1"].steps == [2, 4]
        assert set(curves) == {
            *(f"gradient {part}" for part in ("wte", "wpe", "h.0", "h.1", "ln_f")),
            *(f"activation {part}" for part in ("embedding", "h.0", "ln_f")),
        }
        for i, step in enumerate((2, 4)):
            assert curves["gradient h.1"].values[i] == pytest.approx(seen[step][0], rel=1e-4)
            assert curves["activation ln_f"].values[i] == pytest.approx(seen[step][1], rel=1e-4)

    def test_they_change_nothing_and_are_drawn(self, config, tmp_path):
        for name, every in (("with", 2), ("without", 0)):
            start(config.replace(layers_every=every), tmp_path / name).run()
        one, other = (tmp_path / n / "model.safetensors" for n in ("with", "without"))
        assert one.read_bytes() == other.read_bytes()
        assert plot_layers(tmp_path / "with", tmp_path / "layers.png").stat().st_size > 10_000


def test_tensorboard_files_hold_the_log(config, tmp_path):
    pytest.importorskip("tensorboard", reason="the tensorboard package is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    signal_after(start(config, tmp_path / "run"), 6).run()
    resume(tmp_path / "run").run()
    resume(tmp_path / "run").evaluate()  # by hand, which is written nowhere
    log = read_log(tmp_path / "run" / "log.csv")
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    for tag, column in (("loss/train", "train_loss"), ("loss/validation", "val_loss"),
                        ("lr", "lr"), ("grad_norm", "grad_norm")):  # fmt: skip
        events = found.Scalars(tag)
        assert [event.step for event in events] == log[column].steps
        assert [event.value for event in events] == pytest.approx(log[column].values, rel=1e-5)
    assert {event.step for event in found.Scalars("tokens_per_s")} == set(range(1, 13))


def test_no_tensorboard_files_where_they_are_not_wanted(config, tmp_path):
    start(config.replace(tensorboard=False, max_steps=1), tmp_path / "run").run()
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_the_live_figure(config, tmp_path, monkeypatch):
    shown = fake_notebook(monkeypatch)
    start(config.replace(max_steps=4), tmp_path / "run", callbacks=[LiveFigure(seconds=0)]).run()
    assert len(shown) == 5  # after each step, and at the end
    assert all(picture._repr_png_().startswith(b"\x89PNG") for picture in shown)
    assert repr(shown[0]) == "the curves of a run"  # where a picture can't be shown


def test_the_live_figure_outside_of_a_notebook(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    trainer = start(config, tmp_path / "run", callbacks=[LiveFigure()])
    with pytest.raises(RuntimeError, match="LiveFigure needs IPython, which a notebook has"):
        trainer.run()
    assert not (tmp_path / "run" / "log.csv").exists()


def test_a_curve_without_values():
    assert runs_figure({"new": {"val_loss": Curve([0], [3.0])}}).axes
