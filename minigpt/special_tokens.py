"""Special tokens by their role: `tokenizer.pad_token`, `tokenizer.pad_token_id`; added tokens."""

from collections.abc import Iterable, Mapping

from minigpt.vocabulary import Vocabulary

ROLES = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)
"""The roles of a single token, in the order in which new ones get their ids. GPT-2 itself has one
special token, in the first three; the others are there for models that are trained further."""

DEFAULTS = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
"""The roles that have a token unless told otherwise."""


def _id_of(role: str) -> property:
    def get(tokenizer: "SpecialTokens") -> int | None:
        return tokenizer._id_of_role(role)

    def put(tokenizer: "SpecialTokens", token_id: int | None) -> None:
        token = None if token_id is None else tokenizer._vocabulary.tokens([token_id])[0]
        setattr(tokenizer, role, token)

    return property(get, put, doc=f"The id of `{role}`, None without one; can be set, too.")


class SpecialTokens:
    """The special and the added tokens of a vocabulary: the base of GPT2Tokenizer.

    Each role is an attribute that holds a token or None, and has its id beside it. An id is an
    error while the vocabulary lacks the token.
    """

    bos_token_id = _id_of("bos_token")
    eos_token_id = _id_of("eos_token")
    unk_token_id = _id_of("unk_token")
    sep_token_id = _id_of("sep_token")
    pad_token_id = _id_of("pad_token")
    cls_token_id = _id_of("cls_token")
    mask_token_id = _id_of("mask_token")

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        bos_token: str | None,
        eos_token: str | None,
        unk_token: str | None,
        sep_token: str | None,
        pad_token: str | None,
        cls_token: str | None,
        mask_token: str | None,
        additional_special_tokens: Iterable[str],
    ) -> None:
        self._vocabulary = vocabulary
        self.bos_token = bos_token
        self.eos_token = eos_token
        self.unk_token = unk_token
        self.sep_token = sep_token
        self.pad_token = pad_token
        self.cls_token = cls_token
        self.mask_token = mask_token
        self.additional_special_tokens: list[str] = []
        self.add_tokens(self._tokens_with_a_role())
        self.add_special_tokens({"additional_special_tokens": additional_special_tokens})

    def _tokens_with_a_role(self) -> list[str]:
        tokens = (getattr(self, role) for role in ROLES)
        return [token for token in tokens if token is not None]

    def _id_of_role(self, role: str) -> int | None:
        token = getattr(self, role)
        if token is None:
            return None
        if token not in self._vocabulary.id_of:
            raise ValueError(
                f"{role} {token!r} is not in the vocabulary; add it with "
                f"add_special_tokens({{{role!r}: {token!r}}}), which makes the vocabulary longer "
                "than the model's, or use a token that is there"
            )
        return self._vocabulary.id_of[token]

    @property
    def special_tokens_map(self) -> dict[str, str | list[str]]:
        """{role: token} of the special tokens that there are."""
        found = {role: getattr(self, role) for role in ROLES}
        found["additional_special_tokens"] = list(self.additional_special_tokens) or None
        return {role: tokens for role, tokens in found.items() if tokens is not None}

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens, each once."""
        return list(dict.fromkeys(self._tokens_with_a_role() + self.additional_special_tokens))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`."""
        id_of = self._vocabulary.id_of
        return [id_of[token] for token in self.all_special_tokens if token in id_of]

    @property
    def additional_special_tokens_ids(self) -> list[int]:
        """The ids of `additional_special_tokens`."""
        return [self._vocabulary.id_of[token] for token in self.additional_special_tokens]

    def get_added_vocab(self) -> dict[str, int]:
        """{token: id} of the tokens that are found in a text before BPE, special ones included."""
        return dict(sorted(self._vocabulary.added.items(), key=lambda item: item[1]))

    def add_tokens(self, new_tokens: str | Iterable[str], special_tokens: bool = False) -> int:
        """Find these tokens in the text before BPE from now on, and return how many are new.

        New ones get the next free ids: the model's embedding must be as long as `len(tokenizer)`.
        With `special_tokens` they become `additional_special_tokens`, too.
        """
        listed = [new_tokens] if isinstance(new_tokens, str) else list(new_tokens)
        new = sum(map(self._vocabulary.add, listed))
        if special_tokens:
            known = self.all_special_tokens
            self.additional_special_tokens += [t for t in dict.fromkeys(listed) if t not in known]
        return new

    def add_special_tokens(
        self,
        special_tokens_dict: Mapping[str, str | Iterable[str]],
        replace_additional_special_tokens: bool = True,
    ) -> int:
        """Add special tokens by role, {"pad_token": "<pad>"}, and return how many are new.

        Roles are those in ROLES, with a token each, and additional_special_tokens, with several.
        These replace those there were, which remain tokens but are special no more;
        `replace_additional_special_tokens=False` keeps them.
        """
        new = 0
        for role, value in special_tokens_dict.items():
            if role == "additional_special_tokens":
                listed = [value] if isinstance(value, str) else list(value)
                new += self.add_tokens(listed)
                if not (listed and replace_additional_special_tokens):
                    listed = self.additional_special_tokens + listed
                self.additional_special_tokens = list(dict.fromkeys(listed))
            elif role in ROLES and isinstance(value, str):
                new += self.add_tokens(value)
                setattr(self, role, value)
            else:
                raise ValueError(
                    f"special tokens are {', '.join(ROLES)} (a str each) and "
                    f"additional_special_tokens (several), got {role!r}: {value!r}"
                )
        return new
