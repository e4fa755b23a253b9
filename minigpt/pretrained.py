"""What every GPT-2 class has: a configuration, and folders in the Hub's layout."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from minigpt.checkpoints.hub import find_folder
from minigpt.checkpoints.safetensors_file import (
    iter_safetensors,
    read_header,
    write_safetensors,
)
from minigpt.checkpoints.safetensors_index import read_index
from minigpt.config import GPT2Config
from minigpt.surgery import prune_heads, resize_token_embeddings
from tensor import Tensor
from tensor.nn import Embedding, Module

if TYPE_CHECKING:
    from minigpt.model import GPT2Model

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
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
    def base_model(self) -> GPT2Model:
        """The GPT2Model: of a class with a head its body, and otherwise the model itself."""
        return cast("GPT2Model", getattr(self, "transformer", self))

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
        **overrides: Any,
    ) -> Self:
        """A model from a folder with config.json and model.safetensors, or the files that
        model.safetensors.index.json names, in evaluation mode; or the model of that name on the
        Hub, as "gpt2" (see `checkpoints.hub.find_folder`).

        The folder may hold another GPT-2 class: names with and without "transformer." are
        understood, a head that the folder lacks starts anew with a warning, a head that this class
        lacks is left out.

        overrides: configuration values that replace the folder's.

        FileNotFoundError, with what was looked for, if something is missing; ValueError naming file
        and tensors for damaged files or weights that don't fit; TypeError for an unknown override.
        """
        folder = find_folder(path, "model")
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{str(path)!r} is not a folder; give one that holds config.json and {WEIGHTS_FILE}"
            )
        files = _weights_files(folder)
        model = cls(GPT2Config.from_pretrained(folder, **overrides)).astype(dtype)
        model.load_files(files)
        return model.to(device).eval()

    def load_files(self, files: Sequence[Path]) -> None:
        """Copy the weights of safetensors files into the parameters, one tensor at a time."""
        own = dict(self.named_parameters())
        targets: dict[str, str] = {}
        problems = []
        for name, array in (item for file in files for item in read_header(file).items()):
            target = self._own_name(name)
            if target is None:
                continue
            if target in targets.values():
                problems.append(f"twice: {name} and the same with or without {BODY!r}")
            targets[name] = target
            if target not in own:
                problems.append(f"unexpected: {name} {array.shape}")
            elif array.shape != own[target].shape:
                problems.append(
                    f"misshapen: {name} is {array.shape}, the model's is {own[target].shape}"
                )
        missing = [name for name in own if name not in targets.values()]
        problems += [f"missing: {n} {own[n].shape}" for n in missing if not self._may_be_new(n)]
        where = files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
        if problems:
            raise ValueError(
                f"{where} does not fit {type(self).__name__} with this configuration:\n  "
                + "\n  ".join(problems)
            )
        for file in files:
            names = [name for name in read_header(file) if name in targets]
            for name, values in iter_safetensors(file, names):
                own[targets[name]].copy_(values)
        if missing:
            warnings.warn(
                f"{where} has no {', '.join(missing)}: newly initialised, to be trained",
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


def _weights_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: one, or those that an index names."""
    file, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
    if file.is_file():
        return [file]
    if index.is_file():
        return read_index(index)
    found = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
    advice = ""
    if list(folder.glob("*.bin")):
        advice = (
            ". torch files are not read yet: load them with transformers and call "
            "save_pretrained(folder)"
        )
    raise FileNotFoundError(f"{folder} has no {WEIGHTS_FILE}; it holds: {found}{advice}")
