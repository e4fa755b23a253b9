"""LoRA: fine-tune a few thousand numbers beside frozen weights (Hu et al. 2021, section 4).

A matrix W (n_in, n_out) that is adapted stays as it is; y = x W + b gets a second path of a low
rank r, y + (alpha / r) dropout(x) A B, with A (n_in, r) random and B (r, n_out) zero, so that
training starts from the model as it was. Only A and B are trained: no gradients and no moments of
AdamW for W, and a file of a few hundred kilobytes.

    add_lora(model, rank=8, targets=["c_attn"])
    optimizer = optim.AdamW(p for p in model.parameters() if p.requires_grad)
    ...
    save_lora(model, "adapter")         # in the layout of the package peft, which reads it, too
    merge_lora(model)                   # W + (alpha / r) A B: an ordinary model again
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minigpt.checkpoints.safetensors_file import read_safetensors, write_safetensors
from minigpt.files import atomic_write, read_json
from tensor import Tensor, functional
from tensor.nn import Conv1D, Module, Parameter
from tensor.random import default_generator

if TYPE_CHECKING:
    from minigpt.pretrained import PreTrainedModel

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every name in peft's files
PARTS = ("lora_A", "lora_B")
TASKS = {
    "GPT2LMHeadModel": "CAUSAL_LM",
    "GPT2ForSequenceClassification": "SEQ_CLS",
    "GPT2ForTokenClassification": "TOKEN_CLS",
    "GPT2ForQuestionAnswering": "QUESTION_ANS",
}  # peft's names
# Options of peft that change what A and B mean.
VARIANTS = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "layers_to_transform",
            "lora_bias", "use_qalora", "trainable_token_indices", "target_parameters")  # fmt: skip


@dataclass(frozen=True)
class LoRAConfig:
    """rank: r, columns of A and rows of B. alpha: the second path counts alpha / r times. dropout:
    of the second path's input, in training. targets: names of Conv1D layers, as "c_attn" or
    "attn.c_proj".

    ValueError for what makes no sense.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: Sequence[str] = ("c_attn",)

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"LoRA: rank = {self.rank!r} must be a whole number of at least 1")
        if not (isinstance(self.alpha, (int, float)) and 0 < self.alpha < math.inf):
            raise ValueError(f"LoRA: alpha = {self.alpha!r} must be a positive number")
        if not (isinstance(self.dropout, (int, float)) and 0 <= self.dropout < 1):
            raise ValueError(f"LoRA: dropout = {self.dropout!r} must be at least 0 and below 1")
        if isinstance(self.targets, str) or not all(isinstance(t, str) for t in self.targets):
            raise ValueError(f"LoRA: targets = {self.targets!r} must be a list of layers' names")
        object.__setattr__(self, "targets", tuple(self.targets))

    @property
    def scale(self) -> float:
        """What the second path is multiplied by."""
        return self.alpha / self.rank


class LoRAConv1D(Module):
    """A Conv1D with a trainable second path: y = base(x) + (alpha / r) dropout(x) A B.

    The base is frozen by `add_lora`. A starts uniform within 1 / sqrt(n_in), as in the authors'
    code (microsoft/LoRA, loralib/layers.py), B as zeros.
    """

    def __init__(self, base: Conv1D, config: LoRAConfig) -> None:
        (n_in, n_out), dtype, device = base.weight.shape, base.weight.dtype, base.weight.device
        self.base, self.config, self.training = base, config, base.training
        uniform = (default_generator().uniform((n_in, config.rank)) * 2 - 1) / math.sqrt(n_in)
        self.lora_A = Parameter(uniform, device, dtype)
        self.lora_B = Parameter(np.zeros((config.rank, n_out)), device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        dropped = functional.dropout(x, self.config.dropout, self.training)
        low = functional.linear(dropped, self.lora_A)  # (..., n_in) -> (..., r)
        return self.base(x) + functional.linear(low * self.config.scale, self.lora_B)

    def merge(self) -> Conv1D:
        """The base, its weight now W + (alpha / r) A B."""
        delta = (self.lora_A.numpy() @ self.lora_B.numpy()) * self.config.scale  # (n_in, n_out)
        self.base.weight.copy_(self.base.weight.numpy() + delta)
        return self.base


class _Place(NamedTuple):
    """Where in a model a layer is: getattr(parent, name) is the layer."""

    parent: Module
    name: str
    layer: Any

    def put(self, layer: Module) -> None:
        setattr(self.parent, self.name, layer)


def _places(module: Module, prefix: str = "") -> Iterator[tuple[str, _Place]]:
    """(path, place) of every module below this one."""
    for name, child in module.children():
        yield prefix + name, _Place(module, name, child)
        yield from _places(child, f"{prefix}{name}.")


def _targets(model: PreTrainedModel, config: LoRAConfig) -> dict[str, _Place]:
    """The layers to adapt, by path. ValueError for a name that none has, or for adapters."""
    if lora_layers(model):
        raise ValueError("the model has adapters already: merge_lora(model) first")
    layers = {path: place for path, place in _places(model) if isinstance(place.layer, Conv1D)}
    endings = tuple(f".{target}" for target in config.targets)
    unknown = [e[1:] for e in endings if not any(f".{path}".endswith(e) for path in layers)]
    if unknown or not endings:
        known = sorted({".".join(path.split(".")[-2:]) for path in layers})
        raise ValueError(
            f"LoRA: no layer is called {', '.join(map(repr, unknown)) or '(no target given)'}; the "
            f"layers are {', '.join(known)}"
        )
    return {path: place for path, place in layers.items() if f".{path}".endswith(endings)}


def _own_heads(model: PreTrainedModel) -> dict[str, Parameter]:
    """The parameters of a head that is trained whole: a language model's is as large as wte."""
    names = [name for name in model.head_names if not name.startswith("lm_head.")]
    return {name: p for name, p in model.named_parameters() if name in names}


def add_lora(
    model: PreTrainedModel,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    targets: Sequence[str] = ("c_attn",),
) -> LoRAConfig:
    """Freeze a model and give each Conv1D that `targets` names a trainable second path.

    A classifier's own head stays trainable as it is. Layers of GPT-2: "attn.c_attn", "attn.c_proj",
    "mlp.c_fc", "mlp.c_proj"; "c_proj" means both. An optimizer made before holds frozen weights:
    make a new one of the parameters that require gradients.

    ValueError, and no change, for options that make no sense, a name that no layer has, or a model
    that has adapters already.
    """
    config = LoRAConfig(rank, alpha, dropout, targets)
    _adapt(model, config)
    return config


def _adapt(model: PreTrainedModel, config: LoRAConfig) -> None:
    targets, heads = _targets(model, config), _own_heads(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad, parameter.grad = name in heads, None
    for place in targets.values():
        place.put(LoRAConv1D(place.layer, config))


def lora_layers(model: Module) -> dict[str, LoRAConv1D]:
    """The adapted layers by name, as "transformer.h.0.attn.c_attn"."""
    return {path: p.layer for path, p in _places(model) if isinstance(p.layer, LoRAConv1D)}


def merge_lora(model: PreTrainedModel) -> None:
    """Add the second paths to the weights: an ordinary model, all of it trainable again.

    ValueError for a model without adapters.
    """
    if not lora_layers(model):
        raise ValueError("merge_lora: the model has no adapters")
    for _, place in list(_places(model)):
        if isinstance(place.layer, LoRAConv1D):
            place.put(place.layer.merge())
    for parameter in model.parameters():
        parameter.requires_grad = True


def save_lora(model: PreTrainedModel, folder: str | os.PathLike[str], /, base: str = "") -> None:
    """Write the adapters, and a classifier's head that was trained with them, in peft's layout.

    base: the name or folder of the model that was adapted, which `from_pretrained` of this folder
        begins with.

    ValueError for a model without adapters.
    """
    layers = lora_layers(model)
    if not layers:
        raise ValueError("save_lora: the model has no adapters; add_lora gives it some")
    config, heads = next(iter(layers.values())).config, _own_heads(model)
    state = {f"{PREFIX}{name}": parameter.numpy() for name, parameter in heads.items()}
    for path, layer in layers.items():
        for part in PARTS:  # peft's are (n_out, n_in), as torch's Linear
            state[f"{PREFIX}{path}.{part}.weight"] = getattr(layer, part).numpy().T
    about = {
        "peft_type": "LORA",
        "task_type": TASKS.get(type(model).__name__),
        "base_model_name_or_path": base or None,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": list(config.targets),
        "modules_to_save": sorted({name.partition(".")[0] for name in heads}) or None,
        "fan_in_fan_out": True,  # the base's weight is (n_in, n_out)
        "bias": "none",
        "inference_mode": True,
    }
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    write_safetensors(target / WEIGHTS_FILE, state)
    with atomic_write(target / CONFIG_FILE, "w") as file:
        json.dump(about, file, indent=2)


def load_lora(model: PreTrainedModel, folder: str | os.PathLike[str], /) -> LoRAConfig:
    """Give a model the adapters of a folder that `save_lora`, or peft for a GPT-2, has written.

    FileNotFoundError for what is not there; ValueError for adapters of another kind, or of another
    model: then nothing is changed.
    """
    source = Path(folder)
    config = _read_config(source / CONFIG_FILE)
    state = read_safetensors(source / WEIGHTS_FILE)
    wanted = {f"{PREFIX}{name}": parameter.shape for name, parameter in _own_heads(model).items()}
    for path, place in _targets(model, config).items():
        n_in, n_out = place.layer.weight.shape
        wanted[f"{PREFIX}{path}.lora_A.weight"] = (config.rank, n_in)
        wanted[f"{PREFIX}{path}.lora_B.weight"] = (n_out, config.rank)
    found = {name: array.shape for name, array in state.items()}
    if found != wanted:
        wrong = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
        lines = [f"{n}: needed {wanted.get(n)}, found {found.get(n)}" for n in wrong[:10]]
        raise ValueError(
            f"{source / WEIGHTS_FILE} does not fit this {type(model).__name__}:\n  "
            + "\n  ".join(lines)
        )
    _adapt(model, config)
    for path, layer in lora_layers(model).items():
        for part in PARTS:
            getattr(layer, part).copy_(state[f"{PREFIX}{path}.{part}.weight"].T)
    for name, parameter in _own_heads(model).items():
        parameter.copy_(state[f"{PREFIX}{name}"])
    return config


def base_of(folder: Path) -> str | None:
    """The name or folder of the model that a folder's adapters belong to; None for a folder without
    adapters. ValueError where it is not said.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        return None
    base = read_json(file).get("base_model_name_or_path")
    if not isinstance(base, str):
        raise ValueError(
            f"{file} does not say which model these adapters belong to: load that model, then "
            "load_lora(model, folder)"
        )
    return base


def require_whole_model(folder: Path, verb: str) -> None:
    """ValueError, which says how to `verb` it all the same, for a folder of adapters alone."""
    base = base_of(folder)
    if base is not None:
        raise ValueError(
            f"{folder} holds LoRA adapters of {base}: load it, call merge_lora and "
            f"save_pretrained, and {verb} that"
        )


def _read_config(file: Path) -> LoRAConfig:
    """The options in a file of peft's. ValueError naming what is not LoRA as it is here."""
    about = read_json(file)
    plain = {"peft_type": "LORA", "bias": "none"}
    other = [f"{key} = {about.get(key)!r}" for key, value in plain.items()
             if about.get(key, value) != value]  # fmt: skip
    other += [f"{key} = {about[key]!r}" for key in VARIANTS if about.get(key)]
    if not isinstance(about.get("target_modules"), list):
        other.append(f"target_modules = {about.get('target_modules')!r}")
    if other:
        raise ValueError(f"{file}: adapters with {', '.join(other)} are not supported")
    try:
        return LoRAConfig(
            about.get("r", 8), about.get("lora_alpha", 8), about.get("lora_dropout", 0.0),
            about["target_modules"],
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
