"""What every tokenizer needs on the way back from ids to text."""

import codecs
import operator
from collections.abc import Iterable
from typing import Protocol

import numpy as np

TokenIds = int | np.integer | Iterable[int] | np.ndarray
"""One id, or a sequence of them."""


def as_id_list(ids: TokenIds) -> list[int]:
    """One id, a sequence or a 1D integer array as a list of ints.

    Raises TypeError for anything else, such as floats, text, or several sequences at once.
    """
    if isinstance(ids, (int, np.integer)):
        return [int(ids)]
    if isinstance(ids, np.ndarray):
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise TypeError(
                f"expected ids as a 1D array of integers, got shape {ids.shape}, {ids.dtype}; "
                "decode a batch with batch_decode"
            )
        return ids.tolist()
    try:
        return list(map(operator.index, ids))
    except TypeError:
        raise TypeError(
            f"expected ids as integers, got {_shorten(ids)}; decode a batch with batch_decode"
        ) from None


class BytesDecoder(Protocol):
    """The part of a tokenizer that `StreamDecoder` uses."""

    errors: str

    def decode_bytes(self, ids: TokenIds, skip_special_tokens: bool = False) -> bytes:
        """The UTF-8 bytes of some ids."""


class StreamDecoder:
    """Turn ids into text as they come, holding back the bytes of a character that isn't whole.

    A character outside ASCII takes up to four bytes, and often several tokens. What `put` and
    `end` return, joined, is what `tokenizer.decode` makes of all ids at once.

    >>> decoder = tokenizer.stream_decoder()
    >>> for token in generated:
    ...     print(decoder.put(token), end="", flush=True)
    >>> print(decoder.end())
    """

    def __init__(self, tokenizer: BytesDecoder, skip_special_tokens: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")(tokenizer.errors)

    def put(self, ids: TokenIds) -> str:
        """Take one id or several, and return the text that is complete now; "" if none is."""
        data = self._tokenizer.decode_bytes(ids, self._skip_special_tokens)
        return self._decoder.decode(data)

    def end(self) -> str:
        """Return the rest: bytes that never became a character, treated as `errors` says."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


_CLEAN_UPS = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"),
    (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)


def clean_up_tokenization(text: str) -> str:
    """Take out the spaces before English punctuation and contractions, one kind after another.

    Meant for tokenizers that lose the white space of a text. GPT-2's doesn't, so that this changes
    the text; off by default.
    """
    for spaced, joined in _CLEAN_UPS:
        text = text.replace(spaced, joined)
    return text
