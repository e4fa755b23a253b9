"""A model's folder in another format: safetensors as transformers has it, or OpenAI's own.

Tensors go through one at a time, byte for byte, in whatever precision they are stored.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from minigpt.checkpoints.formats import open_checkpoint
from minigpt.checkpoints.hparams import HPARAMS_FILE, to_hparams
from minigpt.checkpoints.reader import Reader, Stored
from minigpt.checkpoints.safetensors_file import write_safetensors_one_by_one
from minigpt.checkpoints.tf_bundle import write_tf_bundle
from minigpt.config import CONFIG_FILE, GPT2Config
from minigpt.files import atomic_write, sync_folder
from minigpt.generation_config import GENERATION_CONFIG_FILE
from minigpt.loading import BODY, MASKS, match_names, model_of_shapes
from minigpt.lora import require_whole_model
from minigpt.model import GPT2Model
from minigpt.progress import Meter, Report
from minigpt.tokenizer_files import (
    ADDED_TOKENS_FILE,
    SPECIAL_TOKENS_FILE,
    TOKENIZER_FILE,
    VOCAB_FILES,
)
from minigpt.tokenizer_files import CONFIG_FILE as TOKENIZER_CONFIG_FILE

FORMATS = ("safetensors", "tf")
_SETTINGS = (GENERATION_CONFIG_FILE, TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE,
             TOKENIZER_FILE)  # fmt: skip


def convert(
    source: Path,
    target: Path,
    to: str = "safetensors",
    checksums: bool = True,
    report: Report | None = None,
) -> None:
    """Write the model in the folder `source` to a new folder `target`.

    to: "safetensors", with config.json; or "tf", OpenAI's model.ckpt.* with hparams.json. The
    tokenizer and the settings of generation go along. "tf" has config.json, too, for what
    hparams.json can't say.

    The folder appears when it is whole. FileExistsError where there is something already;
    ValueError for damaged files, weights that don't fit their configuration, and what the format
    has no place for: then there is no folder.
    """
    if to not in FORMATS:
        raise ValueError(f"cannot write {to!r}; the formats are {', '.join(FORMATS)}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} is there already: give the name of a new folder")
    require_whole_model(source, "convert")
    with open_checkpoint(source, checksums) as reader:
        config = GPT2Config.from_pretrained(source)
        hparams = to_hparams(config) if to == "tf" else None
        match_names(model_of_shapes(GPT2Model, config, reader), reader)
        tensors = _tensors_to_keep(reader, config)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}.partial")
        temporary.mkdir()
        try:
            with Meter(
                f"to {to}", sum(t.nbytes for t in tensors.values()), "B", report, scaled=True
            ) as meter:

                def read(name: str, out: np.ndarray) -> None:
                    reader.read_raw(name, out)
                    meter.advance(out.nbytes)

                _write_weights(temporary, tensors, read, to)
            if hparams is not None:
                with atomic_write(temporary / HPARAMS_FILE, "w") as f:
                    f.write(json.dumps(hparams, indent=2) + "\n")
            _write_config(source, temporary, config, tensors)
            _copy_settings(source, temporary, to)
            if target.exists():  # an empty folder, which Windows would not replace
                target.rmdir()
            os.replace(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    sync_folder(target.parent)


def _tensors_to_keep(reader: Reader, config: GPT2Config) -> dict[str, Stored]:
    """All but causal masks, and a tied head that repeats the token embedding."""
    kept = {name: t for name, t in reader.header().items() if not name.endswith(MASKS)}
    head = kept.get("lm_head.weight")
    if head is not None and config.tie_word_embeddings:
        wte = next(name for name in kept if name.removeprefix(BODY) == "wte.weight")
        if head != kept[wte] or not np.array_equal(
            reader.read("lm_head.weight").view(np.uint8), reader.read(wte).view(np.uint8)
        ):
            raise ValueError(
                f"{reader.source}: lm_head.weight is not {wte}, but {CONFIG_FILE} says that they "
                "are one: set tie_word_embeddings to false there, or remove one"
            )
        del kept["lm_head.weight"]
    return kept


def _write_weights(
    folder: Path, tensors: dict[str, Stored], read: Callable[[str, np.ndarray], None], to: str
) -> None:
    if to == "safetensors":
        write_safetensors_one_by_one(folder / "model.safetensors", tensors, read)
        return
    names = {name.removeprefix(BODY): name for name in tensors}
    body = {bare: tensors[name] for bare, name in names.items()}
    write_tf_bundle(folder / "model.ckpt", body, lambda bare, out: read(names[bare], out))
    with atomic_write(folder / "checkpoint", "w") as f:
        for key in ("model_checkpoint_path", "all_model_checkpoint_paths"):
            f.write(f'{key}: "model.ckpt"\n')


def _write_config(
    source: Path, folder: Path, config: GPT2Config, tensors: dict[str, Stored]
) -> None:
    if (source / CONFIG_FILE).is_file():
        shutil.copyfile(source / CONFIG_FILE, folder / CONFIG_FILE)
    else:
        config.architectures = ["GPT2LMHeadModel"]
        config.dtype = next(t.dtype for name, t in tensors.items() if name.endswith("wte.weight"))
        config.save_pretrained(folder)


def _copy_settings(source: Path, folder: Path, to: str) -> None:
    """The tokenizer's files, under the names that belong to the format, and what is beside them."""
    usual, openai = VOCAB_FILES
    new_names = openai if to == "tf" else usual
    for names in VOCAB_FILES:
        if all((source / name).is_file() for name in names):
            for name, new_name in zip(names, new_names):
                shutil.copyfile(source / name, folder / new_name)
            break
    for name in _SETTINGS:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
