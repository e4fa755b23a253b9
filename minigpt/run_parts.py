"""The parts that a trainer is put together from: those of a new run, or those of a saved one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minigpt import tensorboard
from minigpt.callbacks import Callback, Samples
from minigpt.checkpoints.safetensors_file import read_safetensors
from minigpt.config import GPT2Config
from minigpt.data import Examples
from minigpt.layer_statistics import LayerStatistics
from minigpt.loading import checked_weights_dtype
from minigpt.lora import add_lora
from minigpt.presets import TrainConfig
from minigpt.pretrained import PreTrainedModel
from minigpt.progress import Report, tell
from minigpt.run_folder import RunFolder, checkpoint_step, read_state
from minigpt.run_setup import Tokenizer, is_made, model_config
from minigpt.tasks import MODELS, read_task
from minigpt.tokenizer import load_tokenizer
from tensor import random
from tensor.devices import get_backend

FIXED_FIELDS = (
    "task", "n_layer", "n_head", "n_embd", "block_size", "dropout", "model", "freeze", "tokenizer",
    "seed", "dtype", "lora_rank", "lora_alpha", "lora_dropout", "lora_targets",
)  # fmt: skip
"""What a resumed run can't change: its shape, its vocabulary, its numbers."""


@dataclass(frozen=True)
class Parts:
    """What a trainer is put together from."""

    config: TrainConfig
    model: PreTrainedModel
    tokenizer: Tokenizer
    train: Examples
    validation: Examples


def _checked_dtype(config: TrainConfig) -> np.dtype:
    """The parameters' dtype. A device that can't be had, or not do what is asked of it, is told
    before the text is read.
    """
    device = get_backend(config.device).name
    if config.cuda_graph and device == "cpu":
        raise ValueError(
            "cuda_graph=true on device 'cpu', which launches no kernels: set cuda_graph=false, or "
            "name the device cuda or emulator"
        )
    return checked_weights_dtype(config.dtype, device)


def new_parts(config: TrainConfig, report: Report | None = None) -> Parts:
    """The parts of a new run. Raises as `get_backend`, `read_data`, the tokenizers and
    `from_pretrained` do; ValueError for a model and a tokenizer that don't belong together.
    """
    dtype = _checked_dtype(config)
    config = fitted_to_model(config)
    task = read_task(config, report=report)
    random.manual_seed(config.seed)
    model_class, tokenizer = MODELS[config.task], task.tokenizer
    if config.model is None:
        model = model_class(model_config(config, tokenizer, **task.head))
    else:
        names = ("embd_pdrop", "attn_pdrop", "resid_pdrop")
        values = dict.fromkeys(names, config.dropout) | task.head
        model = model_class.from_pretrained(config.model, **values)
        if len(tokenizer) > model.config.vocab_size:
            raise ValueError(
                f"the tokenizer {config.tokenizer} has {len(tokenizer)} tokens and the model "
                f"{config.model} only {model.config.vocab_size}: they don't belong together"
            )
    model.to(config.device, dtype).train()
    if config.lora_rank:
        targets = [name.strip() for name in config.lora_targets.split(",")]
        add_lora(model, config.lora_rank, config.lora_alpha, config.lora_dropout, targets)
    return Parts(config, model, tokenizer, task.train, task.validation)


def fitted_to_model(config: TrainConfig, given: Iterable[str] = ()) -> TrainConfig:
    """The settings with the shape of the model in the folder ``config.model``, if there is one, a
    context that it has room for, and its tokenizer where none in a folder is named.

    given: settings that somebody asked for; ValueError where the model contradicts them.
    """
    if config.model is None:
        return config
    shape = GPT2Config.from_pretrained(config.model)
    fitted = config.replace(
        n_layer=shape.n_layer, n_head=shape.n_head, n_embd=shape.n_embd,
        block_size=min(config.block_size, shape.n_positions),
        tokenizer=config.model if is_made(config.tokenizer) else config.tokenizer,
    )  # fmt: skip
    for name in ("n_layer", "n_head", "n_embd", "block_size"):
        asked, has = getattr(config, name), getattr(fitted, name)
        if name in given and asked != has:
            raise ValueError(
                f"{name}={asked} was asked for, but the model {config.model} has {has}: leave it "
                "out, the model's shape counts"
            )
    return fitted


def saved_parts(
    folder: RunFolder, changes: Mapping[str, object], report: Report | None = None
) -> tuple[Parts, dict[str, Any], dict[str, np.ndarray]]:
    """The parts of the run in a folder as its newest good checkpoint has them, with ``changes``;
    and the trainer's counters, and the optimizer's state.

    Raises as told at `Trainer.resume`.
    """
    checkpoint = folder.newest_good_checkpoint(lambda text: tell(report, text))
    if checkpoint is None:
        raise FileNotFoundError(f"{folder.path}: no checkpoint to go on from")
    state = read_state(checkpoint)
    config = resumed_config(TrainConfig.from_dict(state["config"]), changes)
    if config.max_steps < state["step"]:
        raise ValueError(
            f"step {state['step']} of this run is past max_steps={config.max_steps}: raise it"
        )
    _checked_dtype(config)
    tokenizer = load_tokenizer(checkpoint)
    task = read_task(config, tokenizer)
    for data in (task.train, task.validation):
        if data.fingerprint() != state["data"][data.name]:
            raise ValueError(
                f"{config.data or 'the default text'} is not the text this run was started "
                f"on (its {data.name} differs): name that text with --data, or start anew in "
                "another folder"
            )
    model = MODELS[config.task].from_pretrained(checkpoint, config.device, config.dtype).train()
    moments = read_safetensors(checkpoint / "optimizer.safetensors")
    return Parts(config, model, tokenizer, task.train, task.validation), state, moments


def resumed_config(saved: TrainConfig, changes: Mapping[str, object]) -> TrainConfig:
    """The saved settings with ``changes``; ValueError where they contradict FIXED_FIELDS."""
    wanted = saved.replace(**changes)
    wanted = wanted.replace(model=absolute_folder(wanted.model))
    require_same_shape(saved, wanted)
    return wanted


def absolute_folder(name: str | None) -> str | None:
    """The folder ``name`` from anywhere; None, or a name of the Hub, as it is."""
    return str(Path(name).absolute()) if name is not None and Path(name).is_dir() else name


def require_same_shape(saved: TrainConfig, wanted: TrainConfig) -> None:
    """Raise ValueError if a run saved with one configuration can't go on with the other."""
    for name in FIXED_FIELDS:
        was, is_now = getattr(saved, name), getattr(wanted, name)
        if was != is_now:
            raise ValueError(
                f"this run was started with {name}={was} and can't be resumed with {is_now}: "
                "leave that out, or start a new run in another folder"
            )


def refuse_to_overwrite(folder: RunFolder, overwrite: bool) -> None:
    """Raise FileExistsError if a new run would overwrite something and that was not asked for."""
    if folder.path.exists() and not folder.path.is_dir():
        raise NotADirectoryError(f"{folder.path} is a file: a run needs a folder (--out)")
    names = folder.in_the_way()
    if not names or overwrite:
        return
    if folder.checkpoints():
        saved = checkpoint_step(folder.checkpoints()[-1])
        found = f"a run already, saved at step {saved}: --resume goes on with it, "
    else:
        found = f"{', '.join(names)} already: "
    raise FileExistsError(
        f"{folder.path} holds {found}--overwrite replaces what is there, --out names another folder"
    )


def callbacks_for(config: TrainConfig) -> list[Callback]:
    """What is to look on at a run, according to its settings."""
    wanted: list[Callback] = []
    if config.sample_every:
        wanted.append(Samples(config.sample_every))
    if config.layers_every:
        wanted.append(LayerStatistics(config.layers_every))
    if config.tensorboard and tensorboard.is_installed():
        wanted.append(tensorboard.TensorBoard())
    return wanted
