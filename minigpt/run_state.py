"""What a run writes to go on from later: its model, its tokenizer, its optimizer, its counters."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.checkpoints.safetensors_file import write_safetensors
from minigpt.files import atomic_write
from minigpt.presets import TrainConfig
from minigpt.pretrained import PreTrainedModel
from minigpt.run_setup import Tokenizer


def write_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    moments: Mapping[str, np.ndarray],
    state: dict[str, Any],
) -> None:
    """Fill a checkpoint's folder, see `run_folder`."""
    save_model(folder, model, tokenizer)
    write_safetensors(folder / "optimizer.safetensors", moments)
    with atomic_write(folder / "trainer_state.json", "w") as file:
        json.dump(state, file, indent=2)


def save_model(folder: Path, model: PreTrainedModel, tokenizer: Tokenizer) -> None:
    """Write what `from_pretrained` of the model and of the tokenizer read."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def saved_config(config: TrainConfig) -> dict[str, object]:
    """The settings as JSON can hold them, so that the run can be resumed from any folder."""
    values = config.to_dict()
    if config.data is not None:
        values["data"] = str(Path(config.data).absolute())
    return values
