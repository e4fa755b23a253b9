"""From a file of weights into a model: names and shapes compared first, then one tensor at a time.

The model is made with shapes only, so nothing is drawn at random that a file then replaces, and
each parameter's memory is the array that its tensor is read into.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from minigpt.checkpoints.reader import FLOATS, Reader
from minigpt.config import GPT2Config
from minigpt.warn import warn_user
from tensor.devices import get_backend
from tensor.dtypes import named
from tensor.nn import deferred_values

if TYPE_CHECKING:
    from minigpt.pretrained import PreTrainedModel

BODY = "transformer."  # the prefix of the body's names in a class with a head; GPT2Model has none
HEADS = ("lm_head.", "multiple_choice_head.", "score.", "classifier.", "qa_outputs.")
MASKS = (".attn.bias", ".attn.masked_bias", ".crossattention.bias", ".crossattention.masked_bias")
"""Causal masks, which old files carry along."""

Model = TypeVar("Model", bound="PreTrainedModel")

_SHOWN = 40  # problems of one kind, in a message


def load_model(
    model_class: type[Model], config: GPT2Config, reader: Reader, dtype: str, device: str
) -> Model:
    """A model with the weights of an open checkpoint, in evaluation mode.

    What may be new is initialised, with a warning. ValueError as `match_names`.
    """
    wanted = checked_weights_dtype(dtype, device)
    model = model_of_shapes(model_class, config, reader)
    targets = match_names(model, reader)
    own = dict(model.named_parameters())
    for name, target in targets.items():
        values = np.empty(own[target].shape, wanted)
        reader.read_into(name, values)
        own[target].take(values, device)
    new = [name for name in own if name not in targets.values()]
    for name in new:
        own[name].initialise(wanted, device)
    if new:
        warn_user(f"{reader.source} has no {', '.join(new)}: newly initialised, to be trained")
    return model.eval()


def model_of_shapes(model_class: type[Model], config: GPT2Config, reader: Reader) -> Model:
    """A model whose parameters have shapes and no values yet. ValueError for a configuration that
    can't be that of these weights, or of any.
    """
    if config.n_layer > len(reader.header()):  # or making the model could take for ever
        raise ValueError(f"{reader.source} does not fit {model_class.__name__} with this "
                         f"configuration: {len(reader.header())} tensors for n_layer="
                         f"{config.n_layer}")  # fmt: skip
    with deferred_values():
        return model_class(config)


def checked_weights_dtype(dtype: str, device: str) -> np.dtype:
    """The dtype that parameters are to have. TypeError for one that they can't have at all,
    ValueError for half precision on the CPU.
    """
    if dtype in ("float16", "bfloat16"):
        if get_backend(device).name != "cpu":
            return named(dtype)
        raise ValueError(
            f"dtype={dtype!r} on device {device!r}: NumPy has no bfloat16, and computes float16 a "
            "number at a time, many times slower than float32. Files in half precision load as "
            "float32, every value exactly: leave dtype out, or name the device cuda or emulator"
        )
    try:
        wanted = np.dtype(dtype if dtype is not None else object)  # NumPy's default is float64
    except TypeError:
        wanted = np.dtype(object)
    if wanted not in (np.dtype("float32"), np.dtype("float64")):
        raise TypeError(
            f"parameters are float32 or float64, or on a device float16 or bfloat16, not {dtype!r}"
        )
    return wanted


def match_names(model: PreTrainedModel, reader: Reader) -> dict[str, str]:
    """The file's names of tensors -> the model's names of parameters, for all that are to be read.

    ValueError with all problems at once.
    """
    own = {name: parameter.shape for name, parameter in model.named_parameters()}
    targets: dict[str, str] = {}
    problems: dict[str, list[str]] = {
        kind: [] for kind in ("twice", "unexpected", "misshapen", "not floats", "missing")
    }
    taken = set()
    for name, stored in reader.header().items():
        target = own_name(model, name)
        if target is None:
            continue
        if target in taken:
            problems["twice"].append(f"{name} and the same with or without {BODY!r}")
        taken.add(target)
        targets[name] = target
        if target not in own:
            problems["unexpected"].append(f"{name} {stored.shape}")
        elif stored.shape != own[target]:
            problems["misshapen"].append(
                f"{name} is {stored.shape}, the model's is {own[target]}"
            )
        elif stored.dtype not in FLOATS:
            problems["not floats"].append(f"{name} is {stored.dtype}")
    for name, shape in own.items():
        if name not in taken and not may_be_new(model, name):
            problems["missing"].append(f"{name} {shape}")
    lines = [line for kind, found in problems.items() for line in _listed(kind, found)]
    if lines:
        raise ValueError(
            f"{reader.source} does not fit {type(model).__name__} with this configuration:\n  "
            + "\n  ".join(lines)
        )
    return targets


def _listed(kind: str, found: list[str]) -> list[str]:
    more = [f"{kind}: and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return [f"{kind}: {text}" for text in found[:_SHOWN]] + more


def may_be_new(model: PreTrainedModel, name: str) -> bool:
    """Whether a file may lack this parameter: one of a head, or of cross-attention."""
    return name in model.head_names or ".crossattention." in name or ".ln_cross_attn." in name


def own_name(model: PreTrainedModel, name: str) -> str | None:
    """A class's name for a file's tensor, or None for one that it leaves out."""
    if name.endswith(MASKS):
        return None
    bare = name.removeprefix(BODY)
    in_body = name != bare or name.startswith(("wte.", "wpe.", "h.", "ln_f."))
    if in_body:
        return BODY + bare if hasattr(model, BODY.rstrip(".")) else bare
    if name == "lm_head.weight" and model.config.tie_word_embeddings:
        return None  # the token embedding again
    return None if name.startswith(HEADS) and name not in model.head_names else name
