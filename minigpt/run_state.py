"""What a run writes to go on from later: its model, its tokenizer, its optimizer, its counters."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.checkpoints.safetensors_file import write_safetensors
from minigpt.files import atomic_write
from minigpt.lora import lora_layers, save_lora
from minigpt.presets import TrainConfig
from minigpt.pretrained import PreTrainedModel
from minigpt.run_parts import absolute_folder
from minigpt.run_setup import Tokenizer


def write_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    moments: Mapping[str, np.ndarray],
    state: dict[str, Any],
) -> None:
    """Fill a checkpoint's folder, see `run_folder`."""
    save_model(folder, model, tokenizer, state["config"]["model"])
    write_safetensors(folder / "optimizer.safetensors", moments)
    with atomic_write(folder / "trainer_state.json", "w") as file:
        json.dump(state, file, indent=2)


def save_model(
    folder: Path, model: PreTrainedModel, tokenizer: Tokenizer, base: str | None
) -> None:
    """Write what `from_pretrained` of the model and of the tokenizer read. Of a model with LoRA
    adapters, which started from the model ``base``, only those.
    """
    if lora_layers(model):
        save_lora(model, folder, base=base or "")
        model.config.save_pretrained(folder)
    else:
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def saved_config(config: TrainConfig) -> dict[str, object]:
    """The settings as JSON can hold them, so that the run can be resumed from any folder."""
    values = config.to_dict()
    if config.data is not None:
        values["data"] = str(Path(config.data).absolute())
    values["model"] = absolute_folder(config.model)
    return values
