"""`precision=tf32` and its like: a run's losses on the emulator stay near those in float32."""

import pytest

from minigpt.presets import TrainConfig
from tests.kernels.devices import NAME, needs_device
from tests.minigpt.training_helpers import SMALL, TEXT, start


def losses(text, out, **changes):
    """Of six steps and an evaluation after them."""
    trainer = start(SMALL.replace(data=str(text), device=NAME, **changes), out)
    return [*(trainer.train_step().loss for _ in range(6)), trainer.evaluate()]


@pytest.mark.slow
def test_losses_stay_near_those_in_float32(tmp_path):
    needs_device()
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    exact = losses(text, tmp_path / "float32")
    for precision, tolerance in [("3xtf32", 1e-5), ("tf32", 3e-3), ("bf16", 2e-2)]:
        found = losses(text, tmp_path / precision, precision=precision)
        assert found == pytest.approx(exact, rel=tolerance)
        assert precision == "3xtf32" or found != exact      # which may round to the same losses


def test_what_is_refused():
    with pytest.raises(ValueError, match="precision='fp8' is none of float32, 3xtf32, tf32, bf16"):
        TrainConfig(precision="fp8", device="cuda")
    with pytest.raises(ValueError, match="precision=tf32 changes nothing on the CPU"):
        TrainConfig(precision="tf32")
