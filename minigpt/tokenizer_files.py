"""The files of a GPT-2 tokenizer, in the formats of transformers and of OpenAI's release.

vocab.json (encoder.json at OpenAI): {token: id}, tokens in the byte alphabet of `minigpt.bpe`.
merges.txt (vocab.bpe): a version line, then one merge a line, "left right", in the order learned.
tokenizer_config.json, special_tokens_map.json, added_tokens.json: settings and further tokens.

Files from outside may be damaged: what is wrong is said with the file and the line or key.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minigpt.files import atomic_write, read_json

VOCAB_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
"""The names of the two files, transformers' first."""

CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"

SPECIAL_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")

_TOKENIZER_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast", None)
_VERSION_LINE = "#version: 0.2"


def find_vocab_files(folder: Path) -> tuple[Path, Path] | None:
    """The vocabulary and merges files in a folder, or None where neither pair is whole."""
    for vocab_name, merges_name in VOCAB_FILES:
        vocab_file, merges_file = folder / vocab_name, folder / merges_name
        if vocab_file.is_file() and merges_file.is_file():
            return vocab_file, merges_file
    return None


# ---- reading ------------------------------------------------------------------------------------


def read_vocab(path: Path) -> dict[str, int]:
    """Read vocab.json or added_tokens.json: {token: id}. ValueError for ids that are not ids."""
    vocab = read_json(path)
    for token, token_id in vocab.items():
        if type(token_id) is not int or token_id < 0:
            raise ValueError(f"{path}: the id of {token!r} is {token_id!r}, not a whole number")
    return vocab


def read_merges(path: Path) -> list[tuple[str, str]]:
    """Read merges.txt. ValueError for a line that isn't two tokens with a space between.

    A first line that begins with "#version" is left out. (transformers' slow class drops any first
    line, and also a last one without a line end; its fast class reads the file as here.)
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text: byte {error.start} is damaged") from None
    if not lines[-1]:
        lines.pop()
    merges = []
    for number, line in enumerate(lines, start=1):
        if number == 1 and line.startswith("#version"):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise ValueError(
                f"{path}: line {number} is {line[:40]!r}, expected two tokens and a space between"
            )
        merges.append((parts[0], parts[1]))
    return merges


def read_settings(folder: Path) -> dict[str, Any]:
    """The arguments of GPT2Tokenizer that the folder's optional files give.

    As in transformers, `special_tokens_map.json` and `added_tokens.json` count only where
    `tokenizer_config.json` doesn't list the added tokens itself. Keys that don't concern this
    tokenizer are left out; what would give other ids than asked for is a ValueError.
    """
    config: dict[str, Any] = {}
    source = folder / CONFIG_FILE
    if source.is_file():
        config = read_json(source)
    _require_known_class(config, source)
    settings = _simple_settings(config, source)
    settings |= _special_tokens(config, source)
    added = _added_tokens(config, source)
    if "added_tokens_decoder" not in config:
        if (folder / SPECIAL_TOKENS_FILE).is_file():
            tokens_map = read_json(folder / SPECIAL_TOKENS_FILE)
            settings |= _special_tokens(tokens_map, folder / SPECIAL_TOKENS_FILE)
        if (folder / ADDED_TOKENS_FILE).is_file():
            listed = read_vocab(folder / ADDED_TOKENS_FILE)
            added = {token: (token_id, False) for token, token_id in listed.items()}
    settings["added_tokens"] = {token: token_id for token, (token_id, _) in added.items()}
    # Marked as special, but without a role of its own.
    named = [settings.get(name) for name in SPECIAL_TOKEN_NAMES]
    additional = settings.setdefault("additional_special_tokens", [])
    for token, (_, special) in added.items():
        if special and token not in named and token not in additional:
            additional.append(token)
    return settings


def _require_known_class(config: Mapping[str, Any], source: Path) -> None:
    kind = config.get("tokenizer_class")
    if kind not in _TOKENIZER_CLASSES:
        raise ValueError(
            f"{source}: this is the tokenizer of another model, {kind}; "
            "only GPT2Tokenizer and GPT2TokenizerFast can be read"
        )


def _simple_settings(config: Mapping[str, Any], source: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for key, kind in (
        ("add_prefix_space", bool), ("add_bos_token", bool), ("errors", str), ("padding_side", str),
        ("model_max_length", (int, float)),
    ):
        value = config.get(key)
        if value is None:
            continue
        if not isinstance(value, kind):
            raise ValueError(f"{source}: {key} is {value!r}, which is not of the right type")
        settings[key] = value
    length = settings.get("model_max_length", 1)
    if length > 1e20:                   # how transformers writes "no limit"
        del settings["model_max_length"]
    elif type(length) is not int or length < 1:
        raise ValueError(f"{source}: model_max_length is {length!r}, not a number of tokens")
    return settings


def _special_tokens(entries: Mapping[str, Any], source: Path) -> dict[str, Any]:
    tokens: dict[str, Any] = {}
    for name in SPECIAL_TOKEN_NAMES:
        if name in entries:
            value = entries[name]
            tokens[name] = None if value is None else _content(value, name, source)
    key = "additional_special_tokens"
    if key in entries:
        values = entries[key]
        if not isinstance(values, list):
            raise ValueError(f"{source}: {key} is {values!r}, not a list")
        tokens[key] = [_content(value, key, source) for value in values]
    return tokens


def _added_tokens(config: Mapping[str, Any], source: Path) -> dict[str, tuple[int, bool]]:
    """{token: (id, whether it is special)}"""
    key = "added_tokens_decoder"
    entries = config.get(key, {})
    if not isinstance(entries, dict):
        raise ValueError(f"{source}: {key} is {entries!r}, not an object")
    added: dict[str, tuple[int, bool]] = {}
    for token_id, value in entries.items():
        token = _content(value, f"{key}[{token_id!r}]", source)
        if not (token_id.isascii() and token_id.isdecimal() and len(token_id) < 10):
            raise ValueError(f"{source}: {key} has the key {token_id!r}, which is not an id")
        if token in added:
            raise ValueError(
                f"{source}: {key} has {token!r} twice, as {added[token][0]} and {token_id}"
            )
        added[token] = int(token_id), bool(isinstance(value, dict) and value.get("special"))
    return added


def _content(value: object, key: str, source: Path) -> str:
    """A token, which is written as a string or as an object with options."""
    if isinstance(value, dict):
        for option in ("lstrip", "rstrip", "single_word"):
            if value.get(option):
                raise ValueError(f"{source}: {key} has {option}=true, which is not supported")
        value = value.get("content")
    if not isinstance(value, str) or not value:
        raise ValueError(f"{source}: {key} is {value!r}, not a token")
    return value


# ---- writing ------------------------------------------------------------------------------------


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file as transformers does: indented, sorted, not escaped."""
    with atomic_write(path, "w") as f:
        f.write(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_merges(path: Path, merges: Sequence[tuple[str, str]]) -> None:
    """Write merges.txt."""
    with atomic_write(path, "w") as f:
        f.write("\n".join([_VERSION_LINE, *(f"{left} {right}" for left, right in merges)]) + "\n")


def config_entries(
    settings: Mapping[str, Any], added_tokens: Mapping[str, int], special_tokens: Sequence[str]
) -> dict[str, Any]:
    """What transformers' GPT2Tokenizer writes to tokenizer_config.json."""
    decoder = {
        str(token_id): {
            "content": token, "lstrip": False, "normalized": token not in special_tokens,
            "rstrip": False, "single_word": False, "special": token in special_tokens,
        }
        for token, token_id in sorted(added_tokens.items(), key=lambda item: item[1])
    }
    return {
        **settings,
        "added_tokens_decoder": decoder,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "GPT2Tokenizer",
    }
