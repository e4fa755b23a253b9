"""What every GPT-2 class has: a configuration, and folders in the Hub's layout."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Self

import numpy as np

from minigpt.checkpoints.safetensors_file import (
    iter_safetensors,
    read_header,
    write_safetensors,
)
from minigpt.config import GPT2Config
from tensor import Tensor
from tensor.nn import Module

WEIGHTS_FILE = "model.safetensors"
HEADS = ("lm_head.", "multiple_choice_head.", "score.", "classifier.", "qa_outputs.")
BODY = "transformer."  # the prefix of the body's names in a class with a head; GPT2Model has none


class PreTrainedModel(Module):
    """The base of GPT2Model and of the classes with a head."""

    head_names: tuple[str, ...] = ()  # parameters that a file without this head may lack

    def __init__(self, config: GPT2Config) -> None:
        if not isinstance(config, GPT2Config):
            raise TypeError(f"a GPT2Config is needed, not {type(config).__name__}")
        config.validate()
        self.config = config

    @property
    def base_model(self) -> PreTrainedModel:
        """The GPT2Model: of a class with a head its body, and otherwise the model itself."""
        return getattr(self, "transformer", self)

    @property
    def dtype(self) -> np.dtype:
        """The parameters' dtype."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> str:
        """The parameters' device."""
        return next(self.parameters()).device

    def constant(self, values: Any) -> Tensor:
        """Numbers as a tensor of the model's dtype on its device."""
        return Tensor(np.asarray(values), dtype=self.dtype, device=self.device)

    def integers(self, name: str, values: Any) -> Tensor:
        """Ids as an integer tensor on the model's device. TypeError for other dtypes, ValueError
        for ragged lists.
        """
        if isinstance(values, Tensor):
            array = values.data
        else:
            try:
                array = np.asarray(values)
            except ValueError:
                lengths = [len(row) for row in values]
                raise ValueError(
                    f"{name}: rows of lengths {lengths}; pad them to one length and pass an "
                    "attention_mask"
                ) from None
        if array.size == 0 and array.dtype.kind == "f":
            array = array.astype(np.int64)  # an empty list
        if array.dtype.kind not in "iu":
            raise TypeError(f"{name} must be integers, not {array.dtype}")
        return values if isinstance(values, Tensor) else Tensor(array, device=self.device)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        /,
        device: str = "cpu",
        dtype: str = "float32",
        **overrides: Any,
    ) -> Self:
        """A model from a folder with config.json and model.safetensors, in evaluation mode.

        The folder may hold another GPT-2 class: names with and without "transformer." are
        understood, a head that the folder lacks starts anew with a warning, a head that this class
        lacks is left out.

        overrides: configuration values that replace the folder's.

        FileNotFoundError, with what was looked for, if something is missing; ValueError naming file
        and tensors for damaged files or weights that don't fit; TypeError for an unknown override.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{str(path)!r} is not a folder; give one that holds config.json and {WEIGHTS_FILE}"
            )
        file = folder / WEIGHTS_FILE
        if not file.is_file():
            found = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
            advice = ""
            if list(folder.glob("*.index.json")) or list(folder.glob("*.bin")):
                advice = (
                    ". Sharded and torch files are not read yet: load them with transformers and "
                    "call save_pretrained(folder, max_shard_size='100GB')"
                )
            raise FileNotFoundError(f"{folder} has no {WEIGHTS_FILE}; it holds: {found}{advice}")
        model = cls(GPT2Config.from_pretrained(folder, **overrides)).astype(dtype)
        model.load_file(file)
        return model.to(device).eval()

    def load_file(self, file: Path) -> None:
        """Copy a safetensors file's weights into the parameters, one tensor at a time."""
        own = dict(self.named_parameters())
        targets: dict[str, str] = {}
        problems = []
        for name, array in read_header(file).items():
            target = self._own_name(name)
            if target is None:
                continue
            targets[name] = target
            if target not in own:
                problems.append(f"unexpected: {name} {array.shape}")
            elif array.shape != own[target].shape:
                problems.append(
                    f"misshapen: {name} is {array.shape}, the model's is {own[target].shape}"
                )
        missing = [name for name in own if name not in targets.values()]
        problems += [f"missing: {n} {own[n].shape}" for n in missing if not self._may_be_new(n)]
        if problems:
            raise ValueError(
                f"{file} does not fit {type(self).__name__} with this configuration:\n  "
                + "\n  ".join(problems)
            )
        for name, values in iter_safetensors(file, list(targets)):
            own[targets[name]].copy_(values)
        if missing:
            warnings.warn(
                f"{file} has no {', '.join(missing)}: newly initialised, to be trained",
                stacklevel=3,
            )

    def _may_be_new(self, name: str) -> bool:
        """Whether a file may lack this parameter: one of a head, or of cross-attention."""
        return name in self.head_names or ".crossattention." in name or ".ln_cross_attn." in name

    def _own_name(self, name: str) -> str | None:
        """This class's name for a file's tensor, or None for one that it leaves out."""
        if name.endswith((".attn.bias", ".attn.masked_bias", ".crossattention.bias",
                          ".crossattention.masked_bias")):  # fmt: skip
            return None  # causal masks, which old files carry along
        bare = name.removeprefix(BODY)
        in_body = name != bare or name.startswith(("wte.", "wpe.", "h.", "ln_f."))
        has_body = hasattr(self, BODY.rstrip("."))
        if in_body:
            return BODY + bare if has_body else bare
        if name == "lm_head.weight" and self.config.tie_word_embeddings:
            return None  # the token embedding again
        return None if name.startswith(HEADS) and name not in self.head_names else name

    def save_pretrained(self, folder: str | os.PathLike[str], /) -> None:
        """Write config.json and model.safetensors as transformers does, whole or not at all."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        state = {name: p.numpy() for name, p in self.named_parameters()}
        write_safetensors(target / WEIGHTS_FILE, state, metadata={"format": "pt"})
        config = GPT2Config.from_dict(self.config.to_dict())
        config.architectures = [type(self).__name__]
        config.dtype = str(self.dtype)
        config.save_pretrained(target)
