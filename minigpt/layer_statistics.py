"""How large gradients and activations are, layer by layer, in a file of their own."""

import math
from typing import TYPE_CHECKING

import numpy as np

from minigpt.callbacks import Callback
from minigpt.evaluation import evaluation_mode
from minigpt.run_folder import RunLog
from tensor.nn import Module

if TYPE_CHECKING:
    from minigpt.training import StepStats, Trainer, TrainResult

LAYERS_FILE = "layers.csv"


class LayerStatistics(Callback):
    """Every so many steps a row of layers.csv in the run's folder: of each part of the model (wte,
    wpe, h.0, h.1, …, ln_f, and the head where it has one) the root mean square of its gradient
    before clipping, and of each layer the root mean square of what leaves it.
    """

    def __init__(self, every: int):
        self.every = every
        self._values: dict[str, float] = {}
        self._log: RunLog | None = None

    def on_start(self, trainer: "Trainer") -> None:
        columns = ["step", *(f"gradient {part}" for part in _parts(trainer.model))]
        columns += [f"activation {name}" for name in _stages(trainer.model.config.n_layer)]
        self._log = RunLog(trainer.folder.path / LAYERS_FILE, trainer.step, tuple(columns))

    def on_gradients(self, trainer: "Trainer") -> None:
        if (trainer.step + 1) % self.every == 0:
            self._values = gradient_sizes(trainer.model) | activation_sizes(trainer)

    def on_step(self, trainer: "Trainer", stats: "StepStats") -> None:
        if trainer.step % self.every == 0 and self._log is not None:
            self._log.write(trainer.step, **self._values)

    def on_end(self, trainer: "Trainer", result: "TrainResult | None") -> None:
        if self._log is not None:
            self._log.close()


def _part_of(name: str) -> str:
    """The part that a parameter belongs to: "h.0" of transformer.h.0.attn.c_attn.weight."""
    words = name.removeprefix("transformer.").split(".")
    return ".".join(words[:2]) if words[0] == "h" else words[0]


def _parts(model: Module) -> list[str]:
    return list(dict.fromkeys(_part_of(name) for name, _ in model.named_parameters()))


def _stages(n_layer: int) -> list[str]:
    """What the hidden states of `output_hidden_states` are of: after the embeddings, after each
    block, the last one's after ln_f.
    """
    return ["embedding", *(f"h.{i}" for i in range(n_layer - 1)), "ln_f"]


def gradient_sizes(model: Module) -> dict[str, float]:
    """The root mean square of each part's gradient; none for a part without one."""
    squares: dict[str, float] = {}
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            part = f"gradient {_part_of(name)}"
            total = float(np.square(parameter.grad.numpy(), dtype=np.float64).sum())
            squares[part] = squares.get(part, 0.0) + total
            counts[part] = counts.get(part, 0) + parameter.size
    return {part: math.sqrt(squares[part] / counts[part]) for part in squares}


def activation_sizes(trainer: "Trainer") -> dict[str, float]:
    """The root mean square of the hidden states, for the first micro-batch without dropout."""
    batch = trainer.batches[0]
    inputs = batch[0] if isinstance(batch, tuple) else batch["input_ids"]
    model = trainer.model.base_model
    with evaluation_mode(trainer.model):
        states = model(inputs, output_hidden_states=True, use_cache=False).hidden_states
    sizes = [float(np.sqrt(np.square(x.numpy(), dtype=np.float64).mean())) for x in states]
    names = _stages(trainer.model.config.n_layer)
    return {f"activation {name}": size for name, size in zip(names, sizes)}
