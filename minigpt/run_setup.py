"""From the settings of a run to its tokenizer, its tokens and the shape of its model."""

import os
from collections.abc import Iterable
from typing import Any

from minigpt.bpe import CHAR_OF_BYTE
from minigpt.bpe_training import train_bpe
from minigpt.char_tokenizer import CharTokenizer
from minigpt.config import GPT2Config
from minigpt.data import TokenData, load_text, split_text
from minigpt.presets import TrainConfig
from minigpt.progress import Report, tell
from minigpt.text_stream import DOCUMENT, has_documents
from minigpt.token_files import holds_tokens, read_splits
from minigpt.tokenizer import GPT2Tokenizer, load_tokenizer

Tokenizer = GPT2Tokenizer | CharTokenizer


def make_tokenizer(
    name: str, text: str, report: Report | None = None
) -> Tokenizer:
    """The tokenizer that ``name`` asks for, see `tokenizer_by_name`, for a text in memory."""
    return tokenizer_by_name(name, [text], [split_text(text)[0]], report)


def tokenizer_by_name(
    name: str,
    whole: Iterable[str],
    training_part: Iterable[str],
    report: Report | None = None,
) -> Tokenizer:
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


def require_document_token(source: str | os.PathLike[str], tokenizer: Tokenizer) -> None:
    """Raise ValueError where ``source`` has documents and the tokenizer no token to begin one."""
    known = isinstance(tokenizer, GPT2Tokenizer) and DOCUMENT in tokenizer.get_vocab()
    if not known and has_documents(source):
        raise ValueError(
            f"{source} has documents, and this tokenizer no {DOCUMENT} to begin one: use byte, "
            "bpe:SIZE or that of a GPT-2"
        )


def byte_tokenizer() -> GPT2Tokenizer:
    """Byte-level BPE before its first merge: a token is a byte, or "<|endoftext|>"."""
    tokens = [*CHAR_OF_BYTE.values(), "<|endoftext|>"]
    return GPT2Tokenizer({token: token_id for token_id, token in enumerate(tokens)}, [])


def read_data(
    source: str | None,
    name: str,
    tokenizer: Tokenizer | None = None,
    report: Report | None = None,
) -> tuple[Tokenizer, TokenData, TokenData]:
    """The tokens of both splits of ``source``, a text or what `token_files.holds_tokens` knows.
    Without a ``tokenizer`` it is made as ``name`` says; tokens need a folder's. Raises as
    `load_text`, `read_splits` and the tokenizers do; ValueError for an id outside the vocabulary.
    """
    if source is None or not holds_tokens(source):
        text = load_text(source)
        what = "the help topics that Python carries" if source is None else source
        tell(report, f"text: {len(text):,} characters of {what}")
        tokenizer = tokenizer or make_tokenizer(name, text, report)
        if source is not None:
            require_document_token(source, tokenizer)
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


def tokenize(text: str, tokenizer: Tokenizer) -> tuple[TokenData, TokenData]:
    """The tokens of the training and of the validation part of ``text``."""
    train_text, validation_text = split_text(text)
    return (
        TokenData(tokenizer.encode(train_text), len(tokenizer), "training split"),
        TokenData(tokenizer.encode(validation_text), len(tokenizer), "validation split"),
    )


def model_config(config: TrainConfig, tokenizer: Tokenizer, **head: Any) -> GPT2Config:
    """The shape of the model that a run trains; ``head`` is what concerns its head alone."""
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
        **head,
    )
