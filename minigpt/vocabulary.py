"""Tokens, their ids and their bytes, for GPT2Tokenizer."""

import re
from collections.abc import Iterable, Mapping

from minigpt.bpe import chars_to_bytes
from minigpt.decoding import TokenIds, as_id_list


class Vocabulary:
    """The tokens of a vocabulary file, and those added to them.

    base: {token: id} as in vocab.json, tokens in the byte alphabet.
    added: {token: id} of the tokens that are found in a text as they are, before BPE. They may be
        in `base`, as "<|endoftext|>" is, or have ids of their own.
    id_of, token_of: both together, in both directions.

    Raises ValueError where the parts contradict each other: two tokens with one id, ids with gaps,
    a token that stands for no bytes.
    """

    def __init__(self, base: Mapping[str, int], added: Mapping[str, int]) -> None:
        self.base = dict(base)
        self.added = dict(added)
        for token in self.added:
            _check(token)
        self.id_of = self.base | self.added
        self.token_of = _invert(self.base, self.added)
        self._text_of: list[str | None] = []
        for token_id in range(len(self.token_of)):
            token = self.token_of[token_id]
            data = token.encode() if token in self.added else _bytes(token, token_id)
            self._text_of.append(data.decode("latin-1"))
        self._end_of_texts()
        self._find_added: re.Pattern[str] | None = None     # made when first needed

    def __len__(self) -> int:
        return len(self.id_of)

    def add(self, token: str) -> bool:
        """Find a token in the text before BPE from now on; True if it is new and got a new id."""
        _check(token)
        new = token not in self.id_of
        token_id = self.id_of.setdefault(token, len(self.id_of))
        self.added[token] = token_id
        self.token_of[token_id] = token
        del self._text_of[len(self.id_of) - new :]
        self._text_of[token_id : token_id + 1] = [token.encode().decode("latin-1")]
        self._end_of_texts()
        self._find_added = None
        return new

    def split(self, text: str) -> list[str]:
        """Cut a text at its added tokens, the longest first: text, token, text, ..., text."""
        if self._find_added is None:
            self._find_added = pattern_of_tokens(self.added)
        return self._find_added.split(text)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The token of each id. ValueError for an unknown id."""
        try:
            return [self.token_of[token_id] for token_id in ids]
        except KeyError as error:
            raise self._unknown(error.args[0]) from None

    def join_bytes(self, ids: TokenIds) -> bytes:
        """The bytes of all ids, joined. ValueError for an unknown id, TypeError for what is no id.
        """
        if not isinstance(ids, list):
            ids = as_id_list(ids)
        try:
            # As text of one character a byte, because `bytes.join` sets up a buffer for each part:
            # that takes twice the time. Nor is any id looked at here: a wrong one finds no text.
            return "".join(map(self._text_of.__getitem__, ids)).encode("latin-1")  # type: ignore
        except (IndexError, TypeError):
            self.tokens(as_id_list(ids))    # says which id it was
            raise

    def _end_of_texts(self) -> None:
        """Let negative ids, which count from the end of the list, find None instead of a token."""
        self._text_of += [None] * len(self._text_of)

    def _unknown(self, token_id: int) -> ValueError:
        return ValueError(f"the id {token_id} is not in this vocabulary of {len(self)} tokens")


def pattern_of_tokens(tokens: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds the longest of some tokens, whose `split` keeps what it finds."""
    longest_first = sorted(tokens, key=len, reverse=True)
    if not longest_first:
        return re.compile(r"((?!))")    # finds nothing
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})")


def _check(token: str) -> None:
    if not isinstance(token, str) or not token:
        raise ValueError(f"a token must be a str of at least one character, got {token!r}")
    try:
        token.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the token {token!r} has a lone surrogate, half a character") from None


def _invert(base: Mapping[str, int], added: Mapping[str, int]) -> dict[int, str]:
    token_of: dict[int, str] = {}
    for token, token_id in [*base.items(), *added.items()]:
        if base.get(token, token_id) != token_id:
            raise ValueError(
                f"the added token {token!r} has the id {token_id}, but {base[token]} in the "
                "vocabulary"
            )
        if token_of.setdefault(token_id, token) != token:
            raise ValueError(f"{token_of[token_id]!r} and {token!r} have the same id, {token_id}")
    missing = next((i for i in range(len(token_of)) if i not in token_of), None)
    if missing is not None:
        raise ValueError(
            f"no token has the id {missing}, though the largest id is {max(token_of)}; ids must "
            "be without gaps from 0"
        )
    return token_of


def _bytes(token: str, token_id: int) -> bytes:
    try:
        return chars_to_bytes(token)
    except KeyError as error:
        raise ValueError(
            f"the token {token!r} (id {token_id}) has the character {error.args[0]!r}, which "
            "stands for no byte; only added tokens may have such characters"
        ) from None
