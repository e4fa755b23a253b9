"""GPT-2's tokenizer with the interface of transformers, and `load_tokenizer` for any kind."""

import codecs
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from minigpt import tokenizer_files as files
from minigpt.batch_encoding import BatchEncoding, Padding, Side, Truncation, make_batch
from minigpt.bpe import BytePairEncoder
from minigpt.char_tokenizer import CharTokenizer
from minigpt.decoding import StreamDecoder, TokenIds, as_id_list
from minigpt.files import read_json
from minigpt.vocabulary import Vocabulary


class GPT2Tokenizer:
    """Byte-level BPE: text to ids and back, for any text.

    >>> tokenizer = GPT2Tokenizer.from_pretrained(folder)
    >>> tokenizer.encode("Hello world")
    [15496, 995]
    >>> tokenizer.decode([15496, 995])
    'Hello world'

    Tokens are written as in the vocabulary files, "Ġworld" for " world". Special tokens, such as
    "<|endoftext|>", and further tokens that were added are found in the text before BPE, at each
    place the longest that fits, and are never split.

    Args:
        vocab: the id of each token, as in vocab.json.
        merges: the pairs to be merged, in the order they were learned, as in merges.txt.
        errors: what `decode` does with bytes that aren't UTF-8, as in `bytes.decode`.
        unk_token, bos_token, eos_token, pad_token, additional_special_tokens: special tokens, None
            for one that isn't there. Those that the vocabulary lacks get the next free ids.
        added_tokens: tokens with ids of their own that are in the text as they are.
        add_prefix_space: put a space before the text, so that its first word is like any other.
        add_bos_token: begin with `bos_token`.
        padding_side: "right", or "left" for prompts that are to be continued.
        model_max_length: where `truncation=True` cuts; None for no limit.

    Raises ValueError where the parts contradict each other: a byte without a token, two tokens
    with one id, ids with gaps, a merge of unknown tokens.
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Iterable[tuple[str, str]],
        *,
        errors: str = "replace",
        unk_token: str | None = "<|endoftext|>",
        bos_token: str | None = "<|endoftext|>",
        eos_token: str | None = "<|endoftext|>",
        pad_token: str | None = None,
        additional_special_tokens: Iterable[str] = (),
        added_tokens: Mapping[str, int] | None = None,
        add_prefix_space: bool = False,
        add_bos_token: bool = False,
        padding_side: Side = "right",
        model_max_length: int | None = None,
    ) -> None:
        try:
            codecs.lookup_error(errors)
        except LookupError:
            raise ValueError(f'errors={errors!r}: try "replace", "ignore" or "strict"') from None
        if padding_side not in ("right", "left"):
            raise ValueError(f'padding_side must be "right" or "left", got {padding_side!r}')
        self.errors = errors
        self.bos_token = bos_token
        self.eos_token = eos_token
        self.unk_token = unk_token
        self.pad_token = pad_token
        self.additional_special_tokens: list[str] = []
        self.add_prefix_space = add_prefix_space
        self.add_bos_token = add_bos_token
        self.padding_side = padding_side
        self.model_max_length = model_max_length

        self._vocabulary = Vocabulary(vocab, added_tokens or {})
        self._merges = list(merges)
        self._encoder = BytePairEncoder(self._vocabulary.base, self._merges)
        for token in (bos_token, eos_token, unk_token, pad_token):
            if token is not None:
                self.add_tokens(token)
        self.add_special_tokens({"additional_special_tokens": additional_special_tokens})

    # ---- the vocabulary -------------------------------------------------------------------------

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

    def get_added_vocab(self) -> dict[str, int]:
        """{token: id} of the tokens that are found in a text before BPE, special ones included."""
        return dict(sorted(self._vocabulary.added.items(), key=lambda item: item[1]))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({len(self)} tokens, bos_token={self.bos_token!r}, "
            f"eos_token={self.eos_token!r}, pad_token={self.pad_token!r})"
        )

    @property
    def bos_token_id(self) -> int | None:
        """The id of `bos_token`, None without one."""
        return self._special_id("bos_token", self.bos_token)

    @property
    def eos_token_id(self) -> int | None:
        """The id of `eos_token`, None without one."""
        return self._special_id("eos_token", self.eos_token)

    @property
    def unk_token_id(self) -> int | None:
        """The id of `unk_token`, None without one."""
        return self._special_id("unk_token", self.unk_token)

    @property
    def pad_token_id(self) -> int | None:
        """The id of `pad_token`, None without one."""
        return self._special_id("pad_token", self.pad_token)

    def _special_id(self, name: str, token: str | None) -> int | None:
        if token is None:
            return None
        if token not in self._vocabulary.id_of:
            raise ValueError(
                f"{name} {token!r} is not in the vocabulary; add it with "
                f"add_special_tokens({{{name!r}: {token!r}}}), which makes the vocabulary longer "
                "than the model's, or use a token that is there"
            )
        return self._vocabulary.id_of[token]

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens, each once."""
        named = (self.bos_token, self.eos_token, self.unk_token, self.pad_token)
        tokens = [token for token in named if token is not None]
        return list(dict.fromkeys([*tokens, *self.additional_special_tokens]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`."""
        id_of = self._vocabulary.id_of
        return [id_of[token] for token in self.all_special_tokens if token in id_of]

    def add_tokens(self, tokens: str | Iterable[str]) -> int:
        """Find these tokens in the text before BPE from now on, and return how many are new.

        New ones get the next free ids: the model's embedding must be as long as `len(tokenizer)`.
        """
        listed = [tokens] if isinstance(tokens, str) else list(tokens)
        return sum(map(self._vocabulary.add, listed))

    def add_special_tokens(self, tokens: Mapping[str, str | Iterable[str]]) -> int:
        """Add special tokens by role, {"pad_token": "<pad>"}, and return how many are new.

        Roles are bos_token, eos_token, unk_token, pad_token, and additional_special_tokens, which
        takes several and keeps those it had.
        """
        new = 0
        for role, value in tokens.items():
            if role == "additional_special_tokens":
                listed = [value] if isinstance(value, str) else list(value)
                new += self.add_tokens(listed)
                known = self.additional_special_tokens
                known.extend(token for token in dict.fromkeys(listed) if token not in known)
            elif role in files.SPECIAL_TOKEN_NAMES and isinstance(value, str):
                new += self.add_tokens(value)
                setattr(self, role, value)
            else:
                raise ValueError(
                    f"special tokens are {', '.join(files.SPECIAL_TOKEN_NAMES)} (a str each) and "
                    f"additional_special_tokens (several), got {role!r}: {value!r}"
                )
        return new

    # ---- text to ids ----------------------------------------------------------------------------

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text. Lone surrogates are encoded as U+FFFD.

        `add_special_tokens=False` leaves out what `add_bos_token` puts before the text. Special
        tokens in the text itself become their ids in either case.
        """
        if not isinstance(text, str):
            raise TypeError(f"encode takes a str, got {type(text).__name__}; for several texts "
                            "call the tokenizer itself: tokenizer(texts)")
        ids: list[int] = []
        if self.add_bos_token and add_special_tokens and self.bos_token_id is not None:
            ids.append(self.bos_token_id)
        if self.add_prefix_space:
            text = " " + text
        for i, part in enumerate(self._vocabulary.split(text)):
            if i % 2:                   # texts and added tokens in turn
                ids.append(self._vocabulary.added[part])
            else:
                ids.extend(self._encoder.encode(part))
        return ids

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text, as the vocabulary files write them."""
        return self.convert_ids_to_tokens(self.encode(text, add_special_tokens=False))

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        padding: Padding = False,
        truncation: Truncation = None,
        max_length: int | None = None,
        padding_side: Side | None = None,
        return_tensors: str | None = None,
        add_special_tokens: bool = True,
    ) -> BatchEncoding:
        """Encode one text or several for a model: `model(**tokenizer(texts, ...))`.

        Args:
            text: one text, or B of them.
            padding: True or "longest" to make all as long as the longest, "max_length" to pad to
                `max_length`, False not to pad.
            truncation: True to cut at `max_length`, False not to; None cuts where `max_length` is
                given without padding, as in transformers.
            max_length: in tokens; None for the tokenizer's `model_max_length`.
            padding_side: "right" or "left"; None for the tokenizer's.
            return_tensors: "np" for int64 arrays (B, T), where one text is a batch of one; None
                for lists.

        Returns `input_ids`, and `attention_mask`: 1 for a token, 0 for padding. Raises ValueError
        where padding is asked for without a padding token, and where arrays are asked for of texts
        of unequal length.
        """
        single = isinstance(text, str)
        texts = [text] if isinstance(text, str) else list(text)
        batch = make_batch(
            [self.encode(t, add_special_tokens) for t in texts],
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            model_max_length=self.model_max_length,
            padding_side=self.padding_side if padding_side is None else padding_side,
            pad_token_id=self.pad_token_id,
            return_tensors=return_tensors,
        )
        if single and return_tensors is None:
            return BatchEncoding({name: rows[0] for name, rows in batch.items()})
        return batch

    # ---- ids to text ----------------------------------------------------------------------------

    def decode(self, ids: TokenIds, skip_special_tokens: bool = False) -> str:
        """The text of some ids: of all their bytes at once, since a character may take several.

        Raises ValueError for an id outside the vocabulary, TypeError for what is not ids.
        """
        return self.decode_bytes(ids, skip_special_tokens).decode("utf-8", self.errors)

    def decode_bytes(self, ids: TokenIds, skip_special_tokens: bool = False) -> bytes:
        """The bytes of some ids, which needn't be whole characters. Raises as `decode` does."""
        if skip_special_tokens:
            ids = self._ids(ids, skip_special_tokens)
        return self._vocabulary.join_bytes(ids)

    def batch_decode(
        self, sequences: Iterable[TokenIds], skip_special_tokens: bool = False
    ) -> list[str]:
        """`decode` for each of several sequences."""
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def stream_decoder(self, skip_special_tokens: bool = False) -> StreamDecoder:
        """A decoder for ids that come one by one, which never returns half a character."""
        return StreamDecoder(self, skip_special_tokens)

    def convert_ids_to_tokens(
        self, ids: TokenIds, skip_special_tokens: bool = False
    ) -> list[str]:
        """The tokens of some ids, as the vocabulary files write them. Raises as `decode` does."""
        return self._vocabulary.tokens(self._ids(ids, skip_special_tokens))

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | None | list[int | None]:
        """The id of a token, or of each of several; an unknown token has that of `unk_token`."""
        id_of = self._vocabulary.id_of
        if isinstance(tokens, str):
            return id_of.get(tokens, self.unk_token_id)
        return [id_of.get(token, self.unk_token_id) for token in tokens]

    def _ids(self, ids: TokenIds, skip_special_tokens: bool) -> list[int]:
        if not skip_special_tokens:
            return as_id_list(ids)
        special = set(self.all_special_ids)
        return [token_id for token_id in as_id_list(ids) if token_id not in special]

    # ---- files ----------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], /, **overrides: Any) -> Self:
        """Read a folder with vocab.json and merges.txt, or OpenAI's encoder.json and vocab.bpe.

        tokenizer_config.json, special_tokens_map.json and added_tokens.json are read where they
        are. `overrides` are arguments of the class that replace what the files say.

        Raises FileNotFoundError where a file is missing; ValueError, with the file and the line
        or key, where one is damaged or belongs to another tokenizer.
        """
        folder = Path(folder)
        found = files.find_vocab_files(folder)
        if found is None:
            raise _no_tokenizer(folder)
        vocab_file, merges_file = found
        vocab, merges = files.read_vocab(vocab_file), files.read_merges(merges_file)
        arguments = files.read_settings(folder) | overrides
        try:
            return cls(vocab, merges, **arguments)
        except ValueError as error:
            raise ValueError(
                f"{folder}: the files don't make a tokenizer ({vocab_file.name}, "
                f"{merges_file.name}): {error}"
            ) from None

    def save_pretrained(self, folder: str | os.PathLike[str], /) -> None:
        """Write the folder that `from_pretrained` reads, here and in transformers.

        The folder is made if it isn't there. A tokenizer.json and an added_tokens.json of another
        tokenizer are removed from it, as they would be believed before the files written here.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("tokenizer.json", files.ADDED_TOKENS_FILE):
            (folder / name).unlink(missing_ok=True)
        self.save_vocabulary(folder)
        added, base = self._vocabulary.added, self._vocabulary.base
        beyond = {token: token_id for token, token_id in added.items() if token not in base}
        if beyond:
            files.write_json(folder / files.ADDED_TOKENS_FILE, beyond)
        special: dict[str, Any] = {name: getattr(self, name) for name in files.SPECIAL_TOKEN_NAMES}
        if self.additional_special_tokens:
            special["additional_special_tokens"] = self.additional_special_tokens
        settings = special | {
            "add_bos_token": self.add_bos_token,
            "add_prefix_space": self.add_prefix_space,
            "errors": self.errors,
            "padding_side": self.padding_side,
        }
        if self.model_max_length is not None:
            settings["model_max_length"] = self.model_max_length
        files.write_json(
            folder / files.SPECIAL_TOKENS_FILE,
            {name: token for name, token in special.items() if token is not None},
        )
        files.write_json(
            folder / files.CONFIG_FILE,
            files.config_entries(settings, added, self.all_special_tokens),
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
    """Read the tokenizer that a folder holds, whichever kind it is.

    Raises FileNotFoundError where there is none, ValueError where it is damaged.
    """
    folder = Path(folder)
    config_file = folder / files.CONFIG_FILE
    if config_file.is_file() and read_json(config_file).get("tokenizer_class") == "CharTokenizer":
        return CharTokenizer.from_pretrained(folder)
    return GPT2Tokenizer.from_pretrained(folder)


def _no_tokenizer(folder: Path) -> FileNotFoundError:
    if not folder.is_dir():
        return FileNotFoundError(f"no tokenizer in {folder}: there is no such folder")
    wanted = " or ".join(f"{vocab} with {merges}" for vocab, merges in files.VOCAB_FILES)
    names = sorted(path.name for path in folder.iterdir())
    found = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "nothing"
    advice = ""
    if "tokenizer.json" in names:
        advice = "; tokenizer.json alone can't be read yet: save the two files beside it"
    return FileNotFoundError(
        f"no tokenizer in {folder}: looked for {wanted}, or a {files.CONFIG_FILE} of a "
        f"CharTokenizer; the folder holds {found}{advice}"
    )
