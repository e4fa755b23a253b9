"""GPT-2's tokenizer with the interface of transformers, and `load_tokenizer` for any kind."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, overload

import numpy as np

from minigpt import tokenizer_files as files
from minigpt.batch_encoding import BatchEncoding, as_arrays, as_columns, require_numpy
from minigpt.bpe import BytePairEncoder
from minigpt.char_tokenizer import CharTokenizer
from minigpt.checkpoints.hub import find_folder
from minigpt.explain import Explanation, explain_parts
from minigpt.files import read_json
from minigpt.model_inputs import Encoded, Row, row_and_rest
from minigpt.offsets import Part, Span, part_spans, split_parts
from minigpt.padding_truncation import (
    Lengths,
    Padding,
    Side,
    Truncation,
    pad_columns,
    require_side,
    resolve_lengths,
)
from minigpt.text_input import Text, TextInput, read_texts
from minigpt.token_decoder import TokenDecoder
from minigpt.vocabulary import Vocabulary


class GPT2Tokenizer(TokenDecoder):
    """Byte-level BPE: text to ids and back, for any text.

    >>> tokenizer = GPT2Tokenizer.from_pretrained(folder)
    >>> tokenizer.encode("Hello world")
    [15496, 995]
    >>> tokenizer.decode([15496, 995])
    'Hello world'

    Tokens are written as in the vocabulary files, "Ġworld" for " world". Special tokens, such as
    "<|endoftext|>", and further tokens that were added are found in the text before BPE, at each
    place the longest that fits, and are never split. docs/tokenizer.md has the whole interface, and
    what differs from transformers.

    Args:
        vocab: the id of each token, as in vocab.json; or the path of such a file.
        merges: the pairs to be merged, in the order they were learned; or the path of a merges.txt.
        errors: what `decode` does with bytes that aren't UTF-8, as in `bytes.decode`.
        unk_token, ..., additional_special_tokens: special tokens, None for one that isn't there.
            Those that the vocabulary lacks get the next free ids.
        added_tokens: tokens with ids of their own that are in the text as they are.
        add_prefix_space: put a space before the text, so that its first word is like any other.
        add_bos_token: begin with `bos_token`.
        padding_side: "right", or "left" for prompts that are to be continued.
        truncation_side: the side on which a text that is too long loses tokens.
        model_max_length: where `truncation=True` cuts; None for no limit.
        clean_up_tokenization_spaces: what `decode` does unless told otherwise.
        split_special_tokens: don't look for special and added tokens in a text: right for text from
            strangers, who could end it by writing "<|endoftext|>".

    Raises ValueError where the parts contradict each other: a byte without a token, two tokens
    with one id, ids with gaps, a merge of unknown tokens.
    """

    is_fast = False

    def __init__(
        self,
        vocab: Mapping[str, int] | str | os.PathLike[str],
        merges: Iterable[tuple[str, str]] | str | os.PathLike[str],
        *,
        errors: str = "replace",
        unk_token: str | None = "<|endoftext|>",
        bos_token: str | None = "<|endoftext|>",
        eos_token: str | None = "<|endoftext|>",
        sep_token: str | None = None,
        pad_token: str | None = None,
        cls_token: str | None = None,
        mask_token: str | None = None,
        additional_special_tokens: Iterable[str] = (),
        added_tokens: Mapping[str, int] | None = None,
        add_prefix_space: bool = False,
        add_bos_token: bool = False,
        padding_side: Side = "right",
        truncation_side: Side = "right",
        model_max_length: int | None = None,
        clean_up_tokenization_spaces: bool = False,
        split_special_tokens: bool = False,
    ) -> None:
        require_side("padding_side", padding_side)
        require_side("truncation_side", truncation_side)
        self.add_prefix_space = add_prefix_space
        self.add_bos_token = add_bos_token
        self.padding_side: Side = padding_side
        self.truncation_side: Side = truncation_side
        self.model_max_length = model_max_length
        self.split_special_tokens = split_special_tokens
        if isinstance(vocab, (str, os.PathLike)):
            vocab = files.read_vocab(Path(vocab))
        if isinstance(merges, (str, os.PathLike)):
            merges = files.read_merges(Path(merges))
        self._merges = list(merges)
        vocabulary = Vocabulary(vocab, added_tokens or {})
        self._encoder = BytePairEncoder(vocabulary.base, self._merges)
        super().__init__(
            vocabulary, errors, clean_up_tokenization_spaces,
            bos_token=bos_token, eos_token=eos_token, unk_token=unk_token, sep_token=sep_token,
            pad_token=pad_token, cls_token=cls_token, mask_token=mask_token,
            additional_special_tokens=additional_special_tokens,
        )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({len(self)} tokens, bos_token={self.bos_token!r}, "
            f"eos_token={self.eos_token!r}, pad_token={self.pad_token!r})"
        )

    # ---- text to ids ----------------------------------------------------------------------------

    @overload
    def encode(
        self, text: Text, text_pair: Text | None = None, add_special_tokens: bool = True, *,
        return_tensors: None = None, **options: Any,
    ) -> list[int]: ...

    @overload
    def encode(
        self, text: Text, text_pair: Text | None = None, add_special_tokens: bool = True, *,
        return_tensors: Literal["np"], **options: Any,
    ) -> np.ndarray: ...

    def encode(
        self, text: Text, text_pair: Text | None = None, add_special_tokens: bool = True, *,
        return_tensors: Literal["np"] | None = None, **options: Any,
    ) -> list[int] | np.ndarray:
        """The ids of a text, or of a pair of texts. Lone surrogates are encoded as U+FFFD.

        `add_special_tokens=False` leaves out what `add_bos_token` puts before the text. Special
        tokens in the text itself become their ids in either case. `return_tensors="np"` gives an
        array (1, T). The other options are those of calling the tokenizer.
        """
        if not isinstance(text, str) and not options.get("is_split_into_words"):
            raise TypeError(f"encode takes a str, got {type(text).__name__}; for several texts "
                            "call the tokenizer itself: tokenizer(texts)")
        if isinstance(text, str) and text_pair is None and return_tensors is None and not options:
            # The same, without the lists that go with the ids: for texts of megabytes.
            encoded = self._encode(text, self.add_prefix_space, self.split_special_tokens, False)
            bos = self._bos(add_special_tokens)
            return encoded.ids if bos is None else [bos, *encoded.ids]
        ids: list[int] | np.ndarray = self(
            text, text_pair, add_special_tokens=add_special_tokens, return_tensors=return_tensors,
            **options,
        )["input_ids"]
        return ids

    def tokenize(
        self, text: Text, pair: Text | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """The tokens of a text, as the vocabulary files write them; options as for `encode`."""
        return self._vocabulary.tokens(self.encode(text, pair, add_special_tokens, **options))

    def explain(self, text: str) -> Explanation:
        """How a text of some lines becomes ids: its pieces, their bytes, and each merge in order.

        It prints as text, and in a notebook as a table. ValueError for a text too long to look at.
        """
        if not isinstance(text, str):
            raise TypeError(f"explain takes a str, got {type(text).__name__}")
        parts = self._parts(text, self.add_prefix_space, self.split_special_tokens)
        shown = [(part.text, part.token_id) for part in parts]
        return explain_parts(text, shown, self._vocabulary.base, self._merges)

    def __call__(
        self,
        text: TextInput,
        text_pair: TextInput | None = None,
        *,
        add_special_tokens: bool = True,
        padding: Padding = False,
        truncation: Truncation = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: Side | None = None,
        return_tensors: Literal["np"] | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        add_prefix_space: bool | None = None,
        split_special_tokens: bool | None = None,
    ) -> BatchEncoding:
        """Encode one text or several for a model: `model(**tokenizer(texts, ...))`.

        Args:
            text: one text, or B of them; or B pairs. With `is_split_into_words` a text is a list of
                words, and each gets a space before it.
            text_pair: a second text for each, which follows the first.
            padding: True or "longest" to make all as long as the longest, "max_length" to pad to
                `max_length`, False not to pad.
            truncation: True or "longest_first" to cut at `max_length`, the longer text of a pair
                first; "only_first" or "only_second" to cut that one; False not to cut. None cuts
                where `max_length` is given without padding, as in transformers.
            max_length: in tokens; None for the tokenizer's `model_max_length`.
            stride: how many tokens what was cut off has in common with what was kept.
            pad_to_multiple_of: pad to a multiple of this length.
            padding_side, add_prefix_space, split_special_tokens: None for the tokenizer's.
            return_tensors: "np" for int64 arrays (B, T), where one text is a batch of one; None
                for lists.
            return_token_type_ids, ...: what to return beside the ids.

        Returns `input_ids`; `attention_mask` unless that is False, 1 for a token and 0 for padding;
        and where asked for `token_type_ids`, 1 for the tokens of a second text;
        `special_tokens_mask`, 1 for a token that the text doesn't have; `offset_mapping`, the
        characters (start, stop) of its text, or word, that a token covers; `length` in tokens;
        `overflowing_tokens`, which were cut off, and `num_truncated_tokens`, how many were too
        many. Raises ValueError where padding is asked for without a padding token, where
        `max_length` can't be reached, and where arrays are asked for of rows of unequal length;
        TypeError for what is no text.
        """
        require_numpy(return_tensors)
        lengths = resolve_lengths(
            padding, truncation, max_length, stride, pad_to_multiple_of, self.model_max_length
        )
        pairs, single = read_texts(text, text_pair, is_split_into_words)
        prefix = self.add_prefix_space if add_prefix_space is None else add_prefix_space
        split = self.split_special_tokens if split_special_tokens is None else split_special_tokens
        bos = self._bos(add_special_tokens)
        rows: list[Row] = []
        for sample, (one, other) in enumerate(pairs):
            first = self._encode(one, prefix, split, return_offsets_mapping)
            second = None
            if other is not None:
                second = self._encode(other, prefix, split, return_offsets_mapping)
            rows += self._rows(sample, first, second, bos, lengths, return_overflowing_tokens)
        wanted = {
            "input_ids": True,
            "token_type_ids": return_token_type_ids,
            "attention_mask": return_attention_mask in (None, True),
            "special_tokens_mask": return_special_tokens_mask,
            "offset_mapping": return_offsets_mapping,
            "length": return_length,
            **dict.fromkeys(self._overflow_names, return_overflowing_tokens),
        }
        columns = {name: [row[name] for row in rows] for name in wanted if wanted[name]}
        columns = self._pad_columns(columns, lengths, padding_side)
        if return_length and (single or self.is_fast):      # the slow class counts before padding
            columns["length"] = [len(ids) for ids in columns["input_ids"]]
        if return_tensors is not None:
            return as_arrays(columns)
        if single and not (self.is_fast and return_overflowing_tokens):
            return self._unbatched(columns)
        return BatchEncoding(columns)

    def _encode(self, text: Text, prefix: bool, split: bool, with_spans: bool) -> Encoded:
        """The ids of a text or of its words, and the characters of the text, or word, of each."""
        spans: list[Span] | None = [] if with_spans else None
        ids: list[int] = []
        texts = [text] if isinstance(text, str) else text
        if not isinstance(text, str):
            prefix = self._word_prefix(prefix)
        for one in texts:
            for part in self._parts(one, prefix, split):
                token_id = part.token_id
                found = self._encoder.encode(part.text) if token_id is None else [token_id]
                ids += found
                if spans is not None:           # in the byte alphabet a character is a byte
                    counts = list(map(len, self._vocabulary.tokens(found)))
                    spans += part_spans(part, counts, len(one))
        return Encoded(ids, spans)

    def _bos(self, add_special_tokens: bool) -> int | None:
        """The id of the token that comes before a text, None for no such token."""
        return self.bos_token_id if self.add_bos_token and add_special_tokens else None

    # What GPT2TokenizerFast does in another way:

    _overflow_names: tuple[str, ...] = ("overflowing_tokens", "num_truncated_tokens")

    def _parts(self, text: str, prefix: bool, split: bool) -> list[Part]:
        """Cut a text at its added tokens, with a space before it if `prefix`."""
        return split_parts(text, self._vocabulary, prefix, split)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens are added to a text, or to a pair of texts."""
        return (2 if pair else 1) if self.add_bos_token and self.bos_token is not None else 0

    def _word_prefix(self, prefix: bool) -> bool:
        """Whether a word gets a space before it; `prefix`: whether a text does."""
        return True

    def _rows(
        self, sample: int, first: Encoded, second: Encoded | None, bos_token_id: int | None,
        lengths: Lengths, overflow: bool,
    ) -> list[Row]:
        """The rows of a text or a pair, the batch's text number `sample`: one."""
        if overflow and second is not None and lengths.truncation == "longest_first":
            raise ValueError(
                'return_overflowing_tokens of a pair needs truncation="only_first" or '
                '"only_second": with "longest_first" tokens of both texts are cut off'
            )
        return [row_and_rest(first, second, bos_token_id, lengths, self.truncation_side)]

    def _unbatched(self, columns: dict[str, list[Any]]) -> BatchEncoding:
        """The entries of one text that was given alone."""
        return BatchEncoding({name: rows[0] for name, rows in columns.items()})

    # ---- padding --------------------------------------------------------------------------------

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: Padding = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: Side | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: Literal["np"] | None = None,
    ) -> BatchEncoding:
        """Pad what was encoded before: one text, a batch, or a list of single texts.

        Each has `input_ids`; entries that are not the tokenizer's own, such as labels, stay as they
        are. Arrays become arrays. The options are those of calling the tokenizer.
        """
        require_numpy(return_tensors)
        columns, single, arrays = as_columns(encoded_inputs)
        lengths = resolve_lengths(
            padding, False, max_length, 0, pad_to_multiple_of, self.model_max_length
        )
        if return_attention_mask in (None, True):
            columns.setdefault("attention_mask", [[1] * len(ids) for ids in columns["input_ids"]])
        columns = self._pad_columns(columns, lengths, padding_side)
        if single:
            columns = {name: rows[0] for name, rows in columns.items()}
        return as_arrays(columns) if arrays or return_tensors else BatchEncoding(columns)

    def _pad_columns(
        self, columns: dict[str, list[Any]], lengths: Lengths, side: Side | None
    ) -> dict[str, list[Any]]:
        side = self.padding_side if side is None else side
        require_side("padding_side", side)
        length = lengths.padded_length(columns["input_ids"])
        if length is None:
            return columns
        if self.pad_token_id is None:
            raise ValueError(
                "padding needs a padding token, and this tokenizer has none; set "
                "tokenizer.pad_token = tokenizer.eos_token first"
            )
        return pad_columns(columns, length, self.pad_token_id, side)

    # ---- files ----------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], /, **overrides: Any) -> Self:
        """Read a folder with vocab.json and merges.txt, OpenAI's encoder.json and vocab.bpe, or,
        without these, a tokenizer.json; or that of a model on the Hub by its name, as "gpt2" (see
        `checkpoints.hub.find_folder`).

        tokenizer_config.json, special_tokens_map.json and added_tokens.json are read where they
        are. `overrides` are arguments of the class that replace what the files say.

        Raises FileNotFoundError where a file is missing; ValueError, with the file and the line
        or key, where one is damaged or belongs to another tokenizer.
        """
        folder = find_folder(folder, "tokenizer")
        arguments, source = files.read_folder(folder)
        try:
            tokenizer = cls(**arguments | overrides)
        except ValueError as error:
            raise ValueError(
                f"{folder}: the files don't make a tokenizer ({source}): {error}"
            ) from None
        files.warn_of_other_content(folder, arguments, source)
        return tokenizer

    def save_pretrained(self, folder: str | os.PathLike[str], /) -> tuple[str, ...]:
        """Write the folder that `from_pretrained` reads, here and in transformers; return the
        paths of the files.

        The folder is made if it isn't there. A tokenizer.json and an added_tokens.json of another
        tokenizer are removed from it, as they would be believed before the files written here.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {name: getattr(self, name) for name in files.SETTINGS}
        return *self.save_vocabulary(folder), *files.write_settings(
            folder, settings, self.special_tokens_map, self._vocabulary
        )

    def save_vocabulary(
        self, folder: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, str]:
        """Write vocab.json and merges.txt alone to a folder that is there; return their paths."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        vocab_file, merges_file = (Path(folder) / (prefix + name) for name in files.VOCAB_FILES[0])
        files.write_json(vocab_file, self._vocabulary.base)
        files.write_merges(merges_file, self._merges)
        return str(vocab_file), str(merges_file)


def load_tokenizer(folder: str | os.PathLike[str], /) -> GPT2Tokenizer | CharTokenizer:
    """Read the tokenizer that a folder holds, whichever kind it is, or that of a model on the Hub.

    Raises FileNotFoundError where there is none, ValueError where it is damaged.
    """
    folder = find_folder(folder, "tokenizer")
    config_file = folder / files.CONFIG_FILE
    if config_file.is_file() and read_json(config_file).get("tokenizer_class") == "CharTokenizer":
        return CharTokenizer.from_pretrained(folder)
    return GPT2Tokenizer.from_pretrained(folder)
