"""tokenizer.json, the one file of transformers' fast tokenizers: vocabulary, merges and settings.

Only a tokenizer that does what GPT-2's does is read; a part that would give other ids (a
normalizer, another pre-tokenizer, dropout) is an error that names the part.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt.files import read_json

FILE = "tokenizer.json"

# What GPT-2's tokenizer has under "model", beside the vocabulary and the merges; where a key is
# not there, it is as the first of these.
_MODEL: dict[str, tuple[Any, ...]] = {
    "type": ("BPE",), "dropout": (None, 0.0), "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""), "byte_fallback": (False,), "ignore_merges": (False,),
}


@dataclass(frozen=True)
class TokenizerJson:
    """The parts of a tokenizer.json: added is {token: (id, whether it is special)}."""

    vocab: dict[str, int]
    merges: list[tuple[str, str]]
    added: dict[str, tuple[int, bool]]
    add_prefix_space: bool
    add_bos_token: bool


def read_tokenizer_json(path: Path) -> TokenizerJson:
    """Read the file. ValueError, with the key, where it is damaged or of another kind."""
    content = read_json(path)
    model = _object(content, "model", path)
    for key, allowed in _MODEL.items():
        value = model.get(key, allowed[0])
        if value not in allowed or type(value) not in map(type, allowed):
            raise _other_kind(path, f"model.{key}", value, allowed[0])
    pre_tokenizer = _object(content, "pre_tokenizer", path)
    if pre_tokenizer.get("type") != "ByteLevel" or pre_tokenizer.get("use_regex") is False:
        raise _other_kind(path, "pre_tokenizer", pre_tokenizer, "ByteLevel with its own pattern")
    if content.get("normalizer") is not None:
        raise _other_kind(path, "normalizer", content["normalizer"], None)
    return TokenizerJson(
        vocab=_vocab(model, path),
        merges=_merges(model, path),
        added=_added(content, path),
        add_prefix_space=pre_tokenizer.get("add_prefix_space") is True,
        add_bos_token=_begins_with_a_token(content, path),
    )


def _vocab(model: Mapping[str, Any], path: Path) -> dict[str, int]:
    vocab = _object(model, "vocab", path)
    for token, token_id in vocab.items():
        if type(token_id) is not int or token_id < 0:
            raise ValueError(f"{path}: the id of {token!r} is {token_id!r}, not a whole number")
    return vocab


def _merges(model: Mapping[str, Any], path: Path) -> list[tuple[str, str]]:
    """Each merge is "left right" in older files, ["left", "right"] in newer ones."""
    listed = model.get("merges")
    if not isinstance(listed, list):
        raise ValueError(f"{path}: model.merges is not a list")
    merges = []
    for number, merge in enumerate(listed, start=1):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(parts, list) and len(parts) == 2
                and all(isinstance(part, str) and part for part in parts)):
            raise ValueError(f"{path}: merge {number} is {str(merge)[:40]!r}, expected two tokens")
        merges.append((parts[0], parts[1]))
    return merges


def _added(content: Mapping[str, Any], path: Path) -> dict[str, tuple[int, bool]]:
    listed = content.get("added_tokens", [])
    if not isinstance(listed, list):
        raise ValueError(f"{path}: added_tokens is {listed!r}, not a list")
    added: dict[str, tuple[int, bool]] = {}
    for entry in listed:
        token, token_id = (entry.get("content"), entry.get("id")) if isinstance(entry, dict) else (
            None, None)
        if not isinstance(token, str) or not token or type(token_id) is not int or token_id < 0:
            raise ValueError(f"{path}: added_tokens has {entry!r}, which is no token with an id")
        for option in ("lstrip", "rstrip", "single_word"):
            if entry.get(option):
                raise ValueError(f"{path}: {token!r} has {option}=true, which is not supported")
        added[token] = token_id, entry.get("special") is True
    return added


def _begins_with_a_token(content: Mapping[str, Any], path: Path) -> bool:
    """Whether a special token is put before the text, as add_bos_token=True does."""
    processor = content.get("post_processor")
    if processor is None:
        return False
    kind, pieces = None, None
    if isinstance(processor, dict):
        kind, pieces = processor.get("type"), processor.get("single")
    if kind == "ByteLevel":
        return False
    if kind == "TemplateProcessing" and isinstance(pieces, list):
        names = [next(iter(piece), None) for piece in pieces if isinstance(piece, dict)]
        if names == ["SpecialToken", "Sequence"]:
            return True
    raise _other_kind(path, "post_processor", processor, "ByteLevel")


def _object(content: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    value = content.get(key)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: {key} is {str(value)[:40]!r}, not an object")
    return value


def _other_kind(path: Path, key: str, value: object, expected: object) -> ValueError:
    return ValueError(
        f"{path}: this is not the tokenizer of a GPT-2: {key} is {str(value)[:60]}, expected "
        f"{expected}"
    )
