"""From the settings of a run to its parts: tokenizer, tokens, model; new ones or saved ones."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigpt.bpe import CHAR_OF_BYTE
from minigpt.bpe_training import train_bpe
from minigpt.char_tokenizer import CharTokenizer
from minigpt.checkpoints.safetensors_file import read_safetensors
from minigpt.config import GPT2Config
from minigpt.data import Examples, TokenData, load_text, split_text
from minigpt.heads import GPT2LMHeadModel
from minigpt.presets import TrainConfig
from minigpt.pretrained import PreTrainedModel
from minigpt.progress import Report, tell
from minigpt.run_folder import RunFolder, checkpoint_step, read_state
from minigpt.token_files import holds_tokens, read_splits
from minigpt.tokenizer import GPT2Tokenizer, load_tokenizer
from tensor import random

Tokenizer = GPT2Tokenizer | CharTokenizer

FIXED_FIELDS = (
    "n_layer", "n_head", "n_embd", "block_size", "dropout", "model", "freeze", "tokenizer", "seed",
)  # fmt: skip
"""What a resumed run can't change: its shape, its vocabulary, its random numbers."""


@dataclass(frozen=True)
class Parts:
    """What a trainer is put together from."""

    config: TrainConfig
    model: PreTrainedModel
    tokenizer: Tokenizer
    train: Examples
    validation: Examples


def new_parts(config: TrainConfig, report: Report | None = None) -> Parts:
    """The parts of a new run. Raises as `read_data`, the tokenizers and `from_pretrained` do;
    ValueError for a model and a tokenizer that don't belong together.
    """
    config = fitted_to_model(config)
    tokenizer, train, validation = read_data(config.data, config.tokenizer, report=report)
    random.manual_seed(config.seed)
    if config.model is None:
        model = GPT2LMHeadModel(model_config(config, tokenizer))
    else:
        p = config.dropout
        model = GPT2LMHeadModel.from_pretrained(
            config.model, embd_pdrop=p, attn_pdrop=p, resid_pdrop=p
        )
        if len(tokenizer) > model.config.vocab_size:
            raise ValueError(
                f"the tokenizer {config.tokenizer} has {len(tokenizer)} tokens and the model "
                f"{config.model} only {model.config.vocab_size}: they don't belong together"
            )
    model.to(config.device).train()
    return Parts(config, model, tokenizer, train, validation)


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
    tokenizer, train, validation = read_data(
        config.data, config.tokenizer, load_tokenizer(checkpoint)
    )
    for data in (train, validation):
        if data.fingerprint() != state["data"][data.name]:
            raise ValueError(
                f"{config.data or 'the default text'} is not the text this run was started "
                f"on (its {data.name} differs): name that text with --data, or start anew in "
                "another folder"
            )
    model = GPT2LMHeadModel.from_pretrained(checkpoint).to(config.device).train()
    moments = read_safetensors(checkpoint / "optimizer.safetensors")
    return Parts(config, model, tokenizer, train, validation), state, moments


def make_tokenizer(
    name: str, text: str, report: Report | None = None
) -> GPT2Tokenizer | CharTokenizer:
    """The tokenizer that ``name`` asks for, see `tokenizer_by_name`, for a text in memory."""
    return tokenizer_by_name(name, [text], [split_text(text)[0]], report)


def tokenizer_by_name(
    name: str,
    whole: Iterable[str],
    training_part: Iterable[str],
    report: Report | None = None,
) -> GPT2Tokenizer | CharTokenizer:
    """The tokenizer that ``name`` asks for: ``byte`` (the 256 bytes), ``char`` (the characters of
    the text ``whole``), ``bpe:N`` (byte-level BPE with a vocabulary of N, trained on
    ``training_part`` alone), or the one in the folder ``name``. ValueError for any other name.

    Both texts may be in parts, of which only those that are needed are taken.
    """
    if name == "byte":
        return byte_tokenizer()
    if name == "char":
        return CharTokenizer.from_text("".join(set().union(*whole)))
    kind, colon, size = name.partition(":")
    if kind == "bpe" and colon:
        if not size.isdecimal():
            raise ValueError(f"--tokenizer {name}: expected bpe:SIZE, such as bpe:512")
        return train_bpe(training_part, int(size), report=report)
    return load_tokenizer(name)


def is_made(name: str) -> bool:
    """Whether ``name`` asks for a tokenizer to be made, rather than for one in a folder."""
    return name in ("byte", "char") or name.startswith("bpe:")


def byte_tokenizer() -> GPT2Tokenizer:
    """Byte-level BPE before its first merge: a token is a byte, or "<|endoftext|>"."""
    tokens = [*CHAR_OF_BYTE.values(), "<|endoftext|>"]
    return GPT2Tokenizer({token: token_id for token_id, token in enumerate(tokens)}, [])


def read_data(
    source: str | None,
    name: str,
    tokenizer: GPT2Tokenizer | CharTokenizer | None = None,
    report: Report | None = None,
) -> tuple[GPT2Tokenizer | CharTokenizer, TokenData, TokenData]:
    """The tokens of both splits of ``source``, a text or what `token_files.holds_tokens` knows.
    Without a ``tokenizer`` it is made as ``name`` says; tokens need a folder's. Raises as
    `load_text`, `read_splits` and the tokenizers do; ValueError for an id outside the vocabulary.
    """
    if source is None or not holds_tokens(source):
        text = load_text(source)
        what = "the help topics that Python carries" if source is None else source
        tell(report, f"text: {len(text):,} characters of {what}")
        tokenizer = tokenizer or make_tokenizer(name, text, report)
        return tokenizer, *tokenize(text, tokenizer)
    if tokenizer is None:
        if is_made(name):
            raise ValueError(
                f"{source} holds tokens, not text: --tokenizer must name the folder of the "
                f"tokenizer that made them, got {name}"
            )
        tokenizer = load_tokenizer(name)
    train, validation = read_splits(source, len(tokenizer))
    try:
        train_data = TokenData(train, len(tokenizer), "training split")
        validation_data = TokenData(validation, len(tokenizer), "validation split")
    except IndexError as error:
        raise ValueError(
            f"{source}: {error}: these are tokens of another tokenizer, or no tokens"
        ) from None
    tell(report, f"tokens: {len(train) + len(validation):,} of {source}")
    return tokenizer, train_data, validation_data


def tokenize(text: str, tokenizer: GPT2Tokenizer | CharTokenizer) -> tuple[TokenData, TokenData]:
    """The tokens of the training and of the validation part of ``text``."""
    train_text, validation_text = split_text(text)
    return (
        TokenData(tokenizer.encode(train_text), len(tokenizer), "training split"),
        TokenData(tokenizer.encode(validation_text), len(tokenizer), "validation split"),
    )


def model_config(config: TrainConfig, tokenizer: GPT2Tokenizer | CharTokenizer) -> GPT2Config:
    """The shape of the model that a run trains."""
    end = getattr(tokenizer, "eos_token_id", None)
    return GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=config.block_size,
        n_embd=config.n_embd,
        n_layer=config.n_layer,
        n_head=config.n_head,
        embd_pdrop=config.dropout,
        attn_pdrop=config.dropout,
        resid_pdrop=config.dropout,
        bos_token_id=end,
        eos_token_id=end,
    )


def resumed_config(saved: TrainConfig, changes: Mapping[str, object]) -> TrainConfig:
    """The saved settings with ``changes``; ValueError where they contradict FIXED_FIELDS."""
    require_same_shape(saved, saved.replace(**changes))
    return saved.replace(**changes)


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
