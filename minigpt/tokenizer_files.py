"""The files of a GPT-2 tokenizer, in the formats of transformers and of OpenAI's release.

tokenizer.json, where these two are absent, is read by `minigpt.tokenizer_json`.
vocab.json (encoder.json at OpenAI): {token: id}, tokens in the byte alphabet of `minigpt.bpe`.
merges.txt (vocab.bpe): a version line, then one merge a line, "left right", in the order learned.
tokenizer_config.json, special_tokens_map.json, added_tokens.json: settings and further tokens.

Files from outside may be damaged: what is wrong is said with the file and the line or key.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minigpt import official_vocabulary
from minigpt.files import atomic_write, read_json
from minigpt.special_tokens import DEFAULTS, ROLES
from minigpt.tokenizer_json import FILE as TOKENIZER_FILE
from minigpt.tokenizer_json import TokenizerJson, read_tokenizer_json
from minigpt.vocabulary import Vocabulary
from minigpt.warn import warn_user

VOCAB_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
"""The names of the two files, transformers' first."""

CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"

SETTINGS = (
    "add_bos_token", "add_prefix_space", "errors", "padding_side", "truncation_side",
    "model_max_length", "clean_up_tokenization_spaces", "split_special_tokens",
)
"""The arguments of GPT2Tokenizer, beside the tokens, that tokenizer_config.json keeps."""

_TOKENIZER_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast", None)
_VERSION_LINE = "#version: 0.2"



# ---- reading ------------------------------------------------------------------------------------


def read_folder(folder: Path) -> tuple[dict[str, Any], str]:
    """The arguments of GPT2Tokenizer that a folder's files give, and the names of those with the
    vocabulary. Raises FileNotFoundError without a vocabulary, ValueError where a file is damaged.
    """
    found = _find_vocab_files(folder)
    if found is not None:
        vocab_file, merges_file = found
        vocab, merges = read_vocab(vocab_file), read_merges(merges_file)
        settings = read_settings(folder)
        source = f"{vocab_file.name}, {merges_file.name}"
    elif (folder / TOKENIZER_FILE).is_file():
        content = read_tokenizer_json(folder / TOKENIZER_FILE)
        vocab, merges = content.vocab, content.merges
        settings = read_settings(folder, content)
        source = TOKENIZER_FILE
    else:
        raise _no_tokenizer(folder)
    return {"vocab": vocab, "merges": merges, **settings}, source


def _find_vocab_files(folder: Path) -> tuple[Path, Path] | None:
    """The vocabulary and merges files in a folder, or None where neither pair is whole."""
    for vocab_name, merges_name in VOCAB_FILES:
        vocab_file, merges_file = folder / vocab_name, folder / merges_name
        if vocab_file.is_file() and merges_file.is_file():
            return vocab_file, merges_file
    return None


def warn_of_other_content(folder: Path, arguments: Mapping[str, Any], source: str) -> None:
    """Warn of files that make a tokenizer, but hardly the one that was meant: where merges are
    missing, or where a folder with the name of an official model has another vocabulary.

    arguments, source: what `read_folder` returned.
    """
    vocab, merges = arguments["vocab"], arguments["merges"]
    # A file that was cut off between two lines looks whole; but then tokens can't be reached.
    known = {left + right for left, right in merges} | arguments["added_tokens"].keys()
    unreachable = [
        token for token in vocab if len(token) > 1 and token not in known
        and not (token[0] == "<" and token[-1] == ">")      # a special token without a role
    ]
    if unreachable:
        shown = ", ".join(map(repr, unreachable[:3])) + (", ..." if len(unreachable) > 3 else "")
        warn_user(
            f"{folder}: no merge makes {len(unreachable)} of the {len(vocab)} tokens ({shown}), so "
            f"no text will be encoded with them: is the list of merges cut off? ({source})"
        )
    if official_vocabulary.claims_to_be_official(folder):
        different = official_vocabulary.differences(vocab, merges)
        if different:
            warn_user(
                f"{folder} has the name of an official GPT-2, but in {source} the "
                f"{' and the '.join(different)} are not OpenAI's: ids and text will not be those "
                "of the official model; fetch the files again, or rename the folder"
            )


def _no_tokenizer(folder: Path) -> FileNotFoundError:
    if folder.exists() and not folder.is_dir():
        return FileNotFoundError(f"no tokenizer in {folder}: it is a file; name its folder")
    if not folder.is_dir():
        return FileNotFoundError(f"no tokenizer in {folder}: there is no such folder")
    wanted = " or ".join(f"{vocab} with {merges}" for vocab, merges in VOCAB_FILES)
    names = sorted(path.name for path in folder.iterdir())
    found = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "nothing"
    return FileNotFoundError(
        f"no tokenizer in {folder}: looked for {wanted}, a {TOKENIZER_FILE}, or a {CONFIG_FILE} of "
        f"a CharTokenizer; the folder holds {found}"
    )


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


def read_settings(folder: Path, content: TokenizerJson | None = None) -> dict[str, Any]:
    """The arguments of GPT2Tokenizer that the folder's optional files give.

    As in transformers, `special_tokens_map.json` and `added_tokens.json` count only where
    `tokenizer_config.json` doesn't list the added tokens itself. What tokenizer.json says
    (`content`) counts where the others are silent. Keys that don't concern this tokenizer are left
    out; what would give other ids than asked for is a ValueError.
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
    if content is not None:
        added = content.added | added
        settings.setdefault("add_prefix_space", content.add_prefix_space)
        settings.setdefault("add_bos_token", content.add_bos_token)
    settings["added_tokens"] = {token: token_id for token, (token_id, _) in added.items()}
    # Marked as special, but without a role of its own.
    named = [settings.get(role, DEFAULTS.get(role)) for role in ROLES]
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
        ("truncation_side", str), ("split_special_tokens", bool),
        ("clean_up_tokenization_spaces", bool), ("model_max_length", (int, float)),
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
    for name in ROLES:
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


def write_settings(
    folder: Path,
    settings: Mapping[str, Any],
    special_tokens: Mapping[str, str | list[str]],
    vocabulary: Vocabulary,
) -> list[str]:
    """Write tokenizer_config.json, special_tokens_map.json and, for tokens beyond vocab.json,
    added_tokens.json, with what transformers' GPT2Tokenizer writes; return their paths.

    settings: values for SETTINGS. special_tokens: tokens by role.
    """
    for name in (TOKENIZER_FILE, ADDED_TOKENS_FILE):        # of a tokenizer that was here before
        (folder / name).unlink(missing_ok=True)
    additional = special_tokens.get("additional_special_tokens", [])
    special = [*(special_tokens.get(role) for role in ROLES), *additional]
    by_id = sorted(vocabulary.added.items(), key=lambda item: item[1])
    config = {name: value for name, value in settings.items() if value is not None}
    config |= dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"))
    config |= special_tokens
    config["tokenizer_class"] = "GPT2Tokenizer"
    config["added_tokens_decoder"] = {
        str(token_id): {
            "content": token, "lstrip": False, "normalized": token not in special,
            "rstrip": False, "single_word": False, "special": token in special,
        }
        for token, token_id in by_id
    }
    contents = {SPECIAL_TOKENS_FILE: special_tokens, CONFIG_FILE: config}
    beyond = {token: token_id for token, token_id in by_id if token not in vocabulary.base}
    if beyond:
        contents[ADDED_TOKENS_FILE] = beyond
    for name, content in contents.items():
        write_json(folder / name, content)
    return [str(folder / name) for name in contents]
