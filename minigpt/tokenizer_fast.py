"""GPT2TokenizerFast: where transformers' two classes differ, this one does as the fast one."""

from typing import Any

from minigpt.batch_encoding import BatchEncoding
from minigpt.model_inputs import Encoded, Row, row_windows
from minigpt.offsets import Part, split_parts_fast
from minigpt.padding_truncation import Lengths
from minigpt.tokenizer import GPT2Tokenizer


class GPT2TokenizerFast(GPT2Tokenizer):
    """GPT2Tokenizer with the ways of transformers' GPT2TokenizerFast; it is no faster.

    - `add_prefix_space`: each text between added tokens gets the space, if it doesn't begin with
      one; words (`is_split_into_words`) can only be given with it.
    - Special tokens are found before longer tokens that were added; only they are split by
      `split_special_tokens`.
    - `add_bos_token` puts one token before a pair, not one before each text.
    - `return_overflowing_tokens` makes a row of each window of a text that is too long, and
      `overflow_to_sample_mapping` has the number of the text that a row is from.
    - `truncation="longest_first"`: another text of a pair keeps an odd token.
    - `length` counts padding, and is a list for one text, too.
    """

    is_fast = True

    _overflow_names = ("overflow_to_sample_mapping",)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens a text gets, or a pair of texts."""
        return super().num_special_tokens_to_add(pair=False)

    def _parts(self, text: str, prefix: bool, split: bool) -> list[Part]:
        return split_parts_fast(text, self._vocabulary, self.all_special_tokens, prefix, split)

    def _word_prefix(self, prefix: bool) -> bool:
        if not prefix:
            raise ValueError(
                "GPT2TokenizerFast takes words (is_split_into_words=True) only with "
                "add_prefix_space=True; GPT2Tokenizer puts the space before words by itself"
            )
        return True

    def _rows(
        self, sample: int, first: Encoded, second: Encoded | None, bos_token_id: int | None,
        lengths: Lengths, overflow: bool,
    ) -> list[Row]:
        side = self.truncation_side
        rows = row_windows(first, second, bos_token_id, lengths, side, overflow)
        return [row | {"overflow_to_sample_mapping": sample} for row in rows]

    def _unbatched(self, columns: dict[str, list[Any]]) -> BatchEncoding:
        return BatchEncoding({
            name: rows[0] if isinstance(rows[0], list) else rows for name, rows in columns.items()
        })
