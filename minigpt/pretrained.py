"""What every GPT-2 class has: a configuration, and folders in the Hub's layout."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from minigpt.checkpoints.formats import open_checkpoint
from minigpt.checkpoints.hub import find_folder, find_model_folder
from minigpt.checkpoints.reader import Stored
from minigpt.checkpoints.safetensors_file import write_safetensors, write_safetensors_one_by_one
from minigpt.config import CONFIG_FILE, GPT2Config
from minigpt.loading import load_model
from minigpt.lora import base_of, load_lora
from minigpt.surgery import prune_heads, resize_token_embeddings
from tensor import Tensor
from tensor.dtypes import HALVES, converted, name_of
from tensor.nn import Embedding, Module

if TYPE_CHECKING:
    from minigpt.model import GPT2Model

WEIGHTS_FILE = "model.safetensors"


class PreTrainedModel(Module):
    """The base of GPT2Model and of the classes with a head."""

    head_names: tuple[str, ...] = ()  # parameters that a file without this head may lack

    def __init__(self, config: GPT2Config) -> None:
        if not isinstance(config, GPT2Config):
            raise TypeError(f"a GPT2Config is needed, not {type(config).__name__}")
        config.validate()
        self.config = config

    @property
    def base_model(self) -> GPT2Model:
        """The GPT2Model: of a class with a head its body, and otherwise the model itself."""
        return cast("GPT2Model", getattr(self, "transformer", self))

    @property
    def dtype(self) -> np.dtype:
        """The parameters' dtype; `tensor.dtypes.name_of` gives its name, of bfloat16, too."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> str:
        """The parameters' device."""
        return next(self.parameters()).device

    def constant(self, values: Any) -> Tensor:
        """Numbers as a tensor of the model's dtype on its device."""
        return Tensor(np.asarray(values), dtype=self.dtype, device=self.device)

    def integers(self, name: str, values: Any) -> Tensor:
        """Ids as an integer tensor. TypeError for other dtypes, ValueError for ragged lists.

        It is on the CPU unless it was given as a tensor: ids are checked before they are used, and
        the operation that uses them moves them to the model's device.
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
        return values if isinstance(values, Tensor) else Tensor(array)

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many numbers the parameters hold, a tied matrix counted once.

        only_trainable: only those that require gradients. exclude_embeddings: without wte and wpe.
        """
        body = self.base_model
        embeddings = (body.wte.weight, body.wpe.weight)
        return sum(
            p.size
            for p in self.parameters()
            if (p.requires_grad or not only_trainable)
            and not (exclude_embeddings and any(p is weight for weight in embeddings))
        )

    def get_input_embeddings(self) -> Embedding:
        """The token embedding, wte."""
        return self.base_model.wte

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> Embedding:
        """Change the size of the vocabulary, see `minigpt.surgery`; returns the token embedding."""
        if new_num_tokens is None:
            new_num_tokens = self.config.vocab_size
        resize_token_embeddings(self, new_num_tokens, pad_to_multiple_of, mean_resizing)
        return self.get_input_embeddings()

    def prune_heads(self, heads_to_prune: Mapping[int, Iterable[int]]) -> None:
        """Cut attention heads away, {layer: their numbers}; see `minigpt.surgery`."""
        prune_heads(self, heads_to_prune)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether training computes each block a second time instead of keeping its insides."""
        return self.base_model.gradient_checkpointing

    def gradient_checkpointing_enable(self) -> None:
        """From now on training keeps only each block's input, see `tensor.recompute`: less memory,
        one more forward pass a step, the same bits. No cache is made then; calls that want
        attention weights or bring a cache keep everything as ever.
        """
        self.base_model.gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep everything again."""
        self.base_model.gradient_checkpointing = False

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        /,
        device: str = "cpu",
        dtype: str = "float32",
        checksums: bool = True,
        **overrides: Any,
    ) -> Self:
        """A model from a folder with its configuration and weights, in evaluation mode; or the
        model of that name on the Hub, as "gpt2" (see `checkpoints.hub.find_folder`).

        The weights are in one of the formats of `minigpt.checkpoints.formats`. They become `dtype`,
        "float32" or "float64", or on the device "cuda" or "emulator" "float16" or "bfloat16",
        whatever precision the file has; half precision is widened exactly, or kept as it is.
        checksums: whether tensors are compared with the file's checksums, where it has some.

        The folder may hold another GPT-2 class: names with and without "transformer." are
        understood, a head that the folder lacks starts anew with a warning, a head that this class
        lacks is left out.

        A folder with LoRA adapters names the model that they belong to: that is loaded, and adapted
        (`minigpt.lora`).

        overrides: configuration values that replace the folder's.

        FileNotFoundError, with what was looked for, if something is missing; ValueError naming file
        and tensors for damaged files or weights that don't fit; TypeError for an unknown override.
        """
        if "torch_dtype" in overrides:  # a key of older config.json files, where it says what is
            raise TypeError("from_pretrained: torch_dtype is called dtype, as in dtype='float64'")
        folder = find_model_folder(path)
        base = base_of(folder)
        weights = folder if base is None else find_folder(base, "model")
        has_config = base is None or (folder / CONFIG_FILE).is_file()
        with open_checkpoint(weights, checksums) as reader:
            config = GPT2Config.from_pretrained(folder if has_config else weights, **overrides)
            model = load_model(cls, config, reader, dtype, device)
        if base is not None:
            load_lora(model, folder)
        return model

    def save_pretrained(self, folder: str | os.PathLike[str], /) -> None:
        """Write config.json and model.safetensors as transformers does, whole or not at all. What
        is kept in half precision is written in it.

        ValueError for a model with LoRA adapters.
        """
        if any(name.endswith(".lora_A") for name, _ in self.named_parameters()):
            raise ValueError(
                "save_pretrained: the model has LoRA adapters: merge_lora(model) first, or write "
                "them alone with save_lora(model, folder)"
            )
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        if self.dtype in HALVES:
            self._write_halves(target / WEIGHTS_FILE)
        else:
            state = {name: p.numpy() for name, p in self.named_parameters()}
            write_safetensors(target / WEIGHTS_FILE, state, metadata={"format": "pt"})
        config = GPT2Config.from_dict(self.config.to_dict())
        config.architectures = [type(self).__name__]
        config.dtype = name_of(self.dtype)
        config.save_pretrained(target)

    def _write_halves(self, path: Path) -> None:
        """A parameter at a time, for NumPy's writer has no bfloat16."""
        own = dict(self.named_parameters())

        def read_raw(name: str, out: np.ndarray) -> None:
            out[...] = converted(own[name].numpy(), own[name].dtype).view(out.dtype)

        stored = {name: Stored(name_of(p.dtype), p.shape) for name, p in own.items()}
        write_safetensors_one_by_one(path, stored, read_raw)

