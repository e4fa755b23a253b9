"""From ids back to text and to tokens: the half of GPT2Tokenizer that decodes."""

import codecs
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, overload

import numpy as np

from minigpt.decoding import StreamDecoder, TokenIds, as_id_list, clean_up_tokenization
from minigpt.special_tokens import SpecialTokens
from minigpt.vocabulary import Vocabulary


class TokenDecoder(SpecialTokens):
    """A vocabulary with its special tokens, and what decodes ids with it.

    Args:
        vocabulary: the tokens, their ids and bytes.
        errors: what is done with bytes that aren't UTF-8, as in `bytes.decode`.
        clean_up_tokenization_spaces: what `decode` does unless told otherwise.
        special_tokens: those of SpecialTokens, by role.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        errors: str,
        clean_up_tokenization_spaces: bool,
        **special_tokens: Any,
    ) -> None:
        try:
            codecs.lookup_error(errors)
        except LookupError:
            raise ValueError(f'errors={errors!r}: try "replace", "ignore" or "strict"') from None
        self.errors = errors
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces
        super().__init__(vocabulary, **special_tokens)

    def __len__(self) -> int:
        """The number of tokens, those added included: the rows of the model's embedding."""
        return len(self._vocabulary)

    @property
    def vocab_size(self) -> int:
        """The number of tokens in vocab.json, without those added since."""
        return len(self._vocabulary.base)

    def get_vocab(self) -> dict[str, int]:
        """A copy of {token: id}, added tokens included."""
        return dict(self._vocabulary.id_of)

    def decode(
        self,
        token_ids: TokenIds,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        spaces_between_special_tokens: bool = False,
    ) -> str:
        """The text of some ids: of all their bytes at once, since a character may take several.

        `spaces_between_special_tokens` puts spaces around tokens that were added, as transformers'
        slow class does unless told otherwise; without them the text is the one that was encoded.
        Raises ValueError for an id outside the vocabulary, TypeError for what is not ids.
        """
        if spaces_between_special_tokens:
            ids = self._ids(token_ids, skip_special_tokens)
            text = " ".join(run.decode("utf-8", self.errors) for run in self._runs(ids))
        else:
            text = self.decode_bytes(token_ids, skip_special_tokens).decode("utf-8", self.errors)
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        return clean_up_tokenization(text) if clean_up_tokenization_spaces else text

    def decode_bytes(self, ids: TokenIds, skip_special_tokens: bool = False) -> bytes:
        """The bytes of some ids, which needn't be whole characters. Raises as `decode` does."""
        if skip_special_tokens:
            ids = self._ids(ids, skip_special_tokens)
        return self._vocabulary.join_bytes(ids)

    def batch_decode(
        self, sequences: Iterable[TokenIds], skip_special_tokens: bool = False, **options: bool
    ) -> list[str]:
        """`decode` for each of several sequences; its options, too."""
        return [self.decode(ids, skip_special_tokens, **options) for ids in sequences]

    def stream_decoder(self, skip_special_tokens: bool = False) -> StreamDecoder:
        """A decoder for ids that come one by one, which never returns half a character."""
        return StreamDecoder(self, skip_special_tokens)

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str: ...

    @overload
    def convert_ids_to_tokens(
        self, ids: Iterable[int] | np.ndarray, skip_special_tokens: bool = False
    ) -> list[str]: ...

    def convert_ids_to_tokens(
        self, ids: TokenIds, skip_special_tokens: bool = False
    ) -> str | list[str]:
        """The token of an id, or of each of several, as the vocabulary files write them; special
        ones can be left out of several. Raises as `decode` does.
        """
        if isinstance(ids, (int, np.integer)):
            return self._vocabulary.tokens([int(ids)])[0]
        return self._vocabulary.tokens(self._ids(ids, skip_special_tokens))

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | None | list[int | None]:
        """The id of a token, or of each of several; an unknown token has that of `unk_token`."""
        id_of = self._vocabulary.id_of
        if isinstance(tokens, str):
            return id_of.get(tokens, self.unk_token_id)
        return [id_of.get(token, self.unk_token_id) for token in tokens]

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """The text of some tokens. ValueError for one that is not in the vocabulary."""
        ids = []
        for token in tokens:
            if token not in self._vocabulary.id_of:
                raise ValueError(f"the token {token!r} is not in the vocabulary")
            ids.append(self._vocabulary.id_of[token])
        return self.decode(ids)

    def _ids(self, ids: TokenIds, skip_special_tokens: bool) -> list[int]:
        if not skip_special_tokens:
            return as_id_list(ids)
        special = set(self.all_special_ids)
        return [token_id for token_id in as_id_list(ids) if token_id not in special]

    def _runs(self, ids: list[int]) -> Iterator[bytes]:
        """The bytes of each added token that a decoder sets apart, and of what lies between."""
        special = self.all_special_tokens
        apart = {
            token_id for token, token_id in self._vocabulary.added.items()
            if token not in special
            or (token in self.additional_special_tokens and token_id >= self.vocab_size)
        }
        for alone, run in groupby(ids, key=apart.__contains__):
            if alone:
                yield from (self._vocabulary.join_bytes([token_id]) for token_id in run)
            else:
                yield self._vocabulary.join_bytes(run)
