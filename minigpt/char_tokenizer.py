"""A tokenizer whose tokens are the characters of the training text, as in nanoGPT."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from minigpt.decoding import StreamDecoder, TokenIds, as_id_list
from minigpt.files import atomic_write, read_json

CONFIG_FILE = "tokenizer_config.json"

_SURROGATE = re.compile(r"[\ud800-\udfff]")


class CharTokenizer:
    """One id a character: its place in `characters`. There are no special tokens.

    Small and easy to look into, and its sequences are three to four times as long as those of
    byte pair encoding. A character that was not in the training text can't be encoded.

    Args:
        characters: the vocabulary, in the order of the ids.

    Raises ValueError for an empty vocabulary, a character that is there twice, and a lone
    surrogate, which is not a character and can't be written to a file.
    """

    bos_token_id = None
    eos_token_id = None
    pad_token_id = None
    errors = "strict"           # a character is always whole

    def __init__(self, characters: str) -> None:
        if not isinstance(characters, str):
            raise TypeError(f"characters must be a str, got {type(characters).__name__}")
        if not characters:
            raise ValueError("the vocabulary has no characters; give some text")
        surrogate = _SURROGATE.search(characters)
        if surrogate:
            raise ValueError(
                f"{_name(surrogate.group())} is half a character; read the text with the encoding "
                "of its file, or with errors='replace'"
            )
        self.characters = characters
        self._id_of = {char: i for i, char in enumerate(characters)}
        self._char_of = dict(enumerate(characters))
        if len(self._id_of) < len(characters):
            twice = next(c for i, c in enumerate(characters) if self._id_of[c] != i)
            raise ValueError(f"the vocabulary holds the character {_name(twice)} twice")

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The vocabulary of a text: its characters, sorted by code point. ValueError if empty."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters)

    @property
    def vocab_size(self) -> int:
        """The number of characters."""
        return len(self.characters)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.characters!r})"

    # ---- text and ids ---------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """The id of each character. ValueError for a character that is not in the vocabulary."""
        if not isinstance(text, str):
            raise TypeError(f"encode takes a str, got {type(text).__name__}")
        try:
            return list(map(self._id_of.__getitem__, text))
        except KeyError as error:
            char = error.args[0]
            raise ValueError(
                f"the character {_name(char)} at position {text.index(char)} is not among the "
                f"{len(self)} characters of this tokenizer; it can only encode what was in the "
                "text that it was made from (byte pair encoding takes any text)"
            ) from None

    def decode(self, ids: TokenIds, skip_special_tokens: bool = False) -> str:
        """The characters of some ids; `skip_special_tokens` makes no difference here.

        Raises ValueError for an id outside the vocabulary, TypeError for what is not ids.
        """
        try:
            return "".join(map(self._char_of.__getitem__, as_id_list(ids)))
        except KeyError as error:
            raise ValueError(
                f"the id {error.args[0]} is not in this vocabulary of {len(self)} characters"
            ) from None

    def decode_bytes(self, ids: TokenIds, skip_special_tokens: bool = False) -> bytes:
        """What `decode` returns, as UTF-8."""
        return self.decode(ids).encode("utf-8")

    def batch_decode(
        self, sequences: Iterable[TokenIds], skip_special_tokens: bool = False
    ) -> list[str]:
        """`decode` for each of several sequences."""
        return [self.decode(ids) for ids in sequences]

    def stream_decoder(self, skip_special_tokens: bool = False) -> StreamDecoder:
        """A decoder for ids that come one by one."""
        return StreamDecoder(self, skip_special_tokens)

    # ---- files ----------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what `save_pretrained` wrote.

        Raises FileNotFoundError where it is not there, ValueError where it is damaged.
        """
        path = Path(folder) / CONFIG_FILE
        if not path.is_file():
            raise FileNotFoundError(f"no character tokenizer in {folder}: it has no {CONFIG_FILE}")
        config = read_json(path)
        kind = config.get("tokenizer_class")
        if kind != "CharTokenizer":
            raise ValueError(
                f"{path}: expected \"tokenizer_class\": \"CharTokenizer\", found {kind!r}; "
                "load_tokenizer(folder) picks the right class"
            )
        characters = config.get("characters")
        if not isinstance(characters, str):
            raise ValueError(
                f"{path}: expected all characters as one string under \"characters\", "
                f"found {type(characters).__name__}"
            )
        try:
            return cls(characters)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `tokenizer_config.json` to a folder, which is made if it isn't there."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {"tokenizer_class": "CharTokenizer", "characters": self.characters}
        with atomic_write(folder / CONFIG_FILE, "w") as f:
            f.write(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def _name(char: str) -> str:
    return f"{char!r} (U+{ord(char):04X})"
