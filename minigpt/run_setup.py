"""From the settings of a run to its parts: tokenizer, tokens, the model's shape."""

from collections.abc import Mapping

from minigpt.bpe import CHAR_OF_BYTE
from minigpt.bpe_training import train_bpe
from minigpt.char_tokenizer import CharTokenizer
from minigpt.config import GPT2Config
from minigpt.data import TokenData, split_text
from minigpt.presets import TrainConfig
from minigpt.run_folder import RunFolder, checkpoint_step
from minigpt.tokenizer import GPT2Tokenizer, load_tokenizer

FIXED_FIELDS = ("n_layer", "n_head", "n_embd", "block_size", "dropout", "tokenizer", "seed")
"""What a resumed run can't change: its shape, its vocabulary, its random numbers."""


def make_tokenizer(name: str, text: str) -> GPT2Tokenizer | CharTokenizer:
    """The tokenizer that ``name`` asks for: ``byte`` (the 256 bytes), ``char`` (the characters of
    ``text``), ``bpe:N`` (byte-level BPE with a vocabulary of N, trained on the training part of
    ``text`` alone), or the one in the folder ``name``. ValueError for any other name.
    """
    if name == "byte":
        return byte_tokenizer()
    if name == "char":
        return CharTokenizer.from_text(text)
    kind, colon, size = name.partition(":")
    if kind == "bpe" and colon:
        if not size.isdecimal():
            raise ValueError(f"--tokenizer {name}: expected bpe:SIZE, such as bpe:512")
        train_text, _ = split_text(text)
        return train_bpe([train_text], int(size))
    return load_tokenizer(name)


def byte_tokenizer() -> GPT2Tokenizer:
    """Byte-level BPE before its first merge: a token is a byte, or "<|endoftext|>"."""
    tokens = [*CHAR_OF_BYTE.values(), "<|endoftext|>"]
    return GPT2Tokenizer({token: token_id for token_id, token in enumerate(tokens)}, [])


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
