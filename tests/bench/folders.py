"""A folder with a random model, written a tensor at a time: the peak memory of a case that loads it
is then that of loading.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from tests.bench.cases import Case, model_arguments


def model_folder(case: Case) -> tempfile.TemporaryDirectory:
    """config.json and model.safetensors of a case's model; gone when the object is."""
    from minigpt import GPT2Config, GPT2LMHeadModel
    from minigpt.checkpoints.reader import Stored
    from minigpt.checkpoints.safetensors_file import write_safetensors_one_by_one
    from tensor.nn import deferred_values

    folder = tempfile.TemporaryDirectory()
    config = GPT2Config(**model_arguments(case))
    config.save_pretrained(folder.name)
    with deferred_values():
        model = GPT2LMHeadModel(config)
    stored = {name: Stored("float32", p.shape) for name, p in model.named_parameters()}
    rng = np.random.default_rng(0)
    write_safetensors_one_by_one(
        Path(folder.name) / "model.safetensors", stored,
        lambda name, out: rng.standard_normal(dtype=np.float32, out=out),
    )  # fmt: skip
    return folder
