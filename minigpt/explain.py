"""How a text becomes ids, step by step: `tokenizer.explain(text)`, to be looked at.

The merge loop here is the definition, one merge at a time: of all pairs of neighbours the one with
the lowest rank is merged, the leftmost of several. `minigpt.bpe` does the same faster.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from minigpt.bpe import CHAR_OF_BYTE, replace_surrogates, split_pieces
from minigpt.token_display import visible

LONGEST = 2000
"""Characters: a longer text would make a picture that nobody looks at."""


@dataclass(frozen=True)
class MergeStep:
    """One merge: the pair, its rank (0 was learned first), and all tokens of the piece after it."""

    rank: int
    left: str
    right: str
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class Piece:
    """A piece of the text: its bytes, which are its first tokens, the merges, and the ids.

    An added token is a piece that has neither bytes of its own nor merges: added says so.
    """

    text: str
    data: bytes
    first_tokens: tuple[str, ...]
    steps: tuple[MergeStep, ...]
    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    added: bool = False


@dataclass(frozen=True)
class Explanation:
    """The pieces of a text, in order. It prints as text, in a notebook as a table."""

    text: str
    pieces: tuple[Piece, ...]

    @property
    def ids(self) -> list[int]:
        """The ids of the whole text: what `encode` gives, but for the token before it."""
        return [token_id for piece in self.pieces for token_id in piece.ids]

    def __str__(self) -> str:
        lines = [
            f"{visible(self.text)}: {_count(len(self.pieces), 'piece')}, "
            f"{_count(len(self.ids), 'token')}"
        ]
        for piece in self.pieces:
            lines += ["", *_lines(piece)]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(_html_rows(piece) for piece in self.pieces)
        return (
            "<table style='text-align:left'><tr><th>piece</th><th>rank</th><th>pair</th>"
            f"<th>tokens</th><th>ids</th></tr>{rows}</table>"
        )


def explain_parts(
    text: str,
    parts: Iterable[tuple[str, int | None]],
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
) -> Explanation:
    """Explain a text, cut into parts: an added token with its id, or text with None.

    vocab: the id of each token; merges: the pairs in the order they were learned. ValueError for a
    text of more than LONGEST characters.
    """
    if len(text) > LONGEST:
        raise ValueError(
            f"explain shows every step, for texts of up to {LONGEST} characters; this one has "
            f"{len(text)}: give a part of it"
        )
    rank_of = {pair: rank for rank, pair in enumerate(merges)}
    pieces: list[Piece] = []
    for part, token_id in parts:
        if token_id is not None:
            pieces.append(Piece(part, part.encode(), (), (), (part,), (token_id,), added=True))
        else:
            valid = replace_surrogates(part)
            pieces += (_explain_piece(piece, vocab, rank_of) for piece in split_pieces(valid))
    return Explanation(text, tuple(pieces))


def _explain_piece(
    text: str, vocab: Mapping[str, int], rank_of: Mapping[tuple[str, str], int]
) -> Piece:
    data = text.encode()
    first = tokens = tuple(CHAR_OF_BYTE[byte] for byte in data)
    steps = []
    while True:
        known = [(rank_of[pair], i) for i, pair in enumerate(zip(tokens, tokens[1:]))
                 if pair in rank_of]
        if not known:
            break
        rank, i = min(known)
        left, right = tokens[i : i + 2]
        tokens = (*tokens[:i], left + right, *tokens[i + 2 :])
        steps.append(MergeStep(rank, left, right, tokens))
    return Piece(text, data, first, tuple(steps), tokens, tuple(vocab[token] for token in tokens))


# ---- how it looks -------------------------------------------------------------------------------


def _lines(piece: Piece) -> list[str]:
    if piece.added:
        return [f"{visible(piece.text)}  an added token, found before BPE: id {piece.ids[0]}"]
    pairs = ["", *(f"{step.left} {step.right}" for step in piece.steps)]
    ranks = ["rank", *(str(step.rank) for step in piece.steps)]
    pair_width, rank_width = max(map(len, [*pairs, "pair"])), max(map(len, ranks))
    shown = [piece.first_tokens, *(step.tokens for step in piece.steps)]
    lines = [
        f"{visible(piece.text)}  bytes {piece.data.hex(' ')}",
        f"  {'rank':>{rank_width}}  {'pair':<{pair_width}}  tokens",
    ]
    for rank, pair, tokens in zip(["", *ranks[1:]], pairs, shown):
        lines.append(f"  {rank:>{rank_width}}  {pair:<{pair_width}}  {' '.join(tokens)}")
    ids = " ".join(map(str, piece.ids))
    return [*lines, f"  {'ids':>{rank_width}}  {'':<{pair_width}}  {ids}"]


def _html_rows(piece: Piece) -> str:
    steps = [("", "", piece.first_tokens or piece.tokens)]
    steps += [(str(step.rank), f"{step.left} {step.right}", step.tokens) for step in piece.steps]
    title = visible(piece.text)
    subtitle = "added token" if piece.added else piece.data.hex(" ")
    rows = []
    for i, (rank, pair, tokens) in enumerate(steps):
        boxes = " ".join(
            "<code style='border:1px solid #8888;padding:0 2px'>"
            f"{html.escape(token)}</code>"
            for token in tokens
        )
        head = ""
        if i == 0:
            head = (
                f"<td rowspan='{len(steps)}'><b>{html.escape(title)}</b><br>"
                f"<small>{html.escape(subtitle)}</small></td>"
            )
        ids = " ".join(map(str, piece.ids)) if i == len(steps) - 1 else ""
        rows.append(
            f"<tr>{head}<td>{rank}</td><td>{html.escape(pair)}</td><td>{boxes}</td>"
            f"<td>{ids}</td></tr>"
        )
    return "".join(rows)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
