"""Byte-level byte pair encoding, as GPT-2 does it: text to pieces, pieces to bytes, bytes to ids.

1. A pattern cuts the text into pieces: words with the space before them, numbers, punctuation,
   white space. No token crosses the border of a piece.
2. The UTF-8 bytes of a piece are its first tokens, so that any text can be encoded.
3. Of all neighbouring pairs of tokens, the one that was learned first (the lowest rank) is merged
   into one token, again and again, until no pair is left that was ever learned.

Sources: Sennrich, Haddow and Birch 2016, "Neural Machine Translation of Rare Words with Subword
Units", section 3.2; Radford et al. 2019, "Language Models are Unsupervised Multitask Learners",
section 2.2; the pattern and the byte alphabet are those of openai/gpt-2's encoder.py.
"""

import heapq
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain

import regex

# ---- the byte alphabet --------------------------------------------------------------------------

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]

CHAR_OF_BYTE = {byte: chr(byte) for byte in _PRINTABLE} | {
    byte: chr(256 + n) for n, byte in enumerate(_OTHERS)
}
"""How a byte is written in the vocabulary files: every byte as one visible character, so that a
token is a plain word in them. The space is "Ġ", the newline "Ċ". In the order of GPT-2's ids."""

BYTE_OF_CHAR = {char: byte for byte, char in CHAR_OF_BYTE.items()}


def chars_to_bytes(token: str) -> bytes:
    """The bytes of a token: "Ġthe" is b" the". KeyError for a character outside the alphabet."""
    return bytes([BYTE_OF_CHAR[char] for char in token])


# ---- text to pieces -----------------------------------------------------------------------------

# GPT-2's pattern. The second but last line leaves the last white space of a run to what follows: a
# space goes to the word. `regex` knows the classes of Unicode and agrees with tiktoken on \s, which
# `re` does not: there U+001C to U+001F are white space, too.
_PIECES = regex.compile(
    r"'(?:[sdmt]|ll|ve|re)"
    r"| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++"
    r"|\s+(?!\S)"
    r"|\s"
)

# The same on ASCII in `re`, which takes 0.10 us a piece and `regex` 0.22. ASCII that touches other
# characters is left to `regex`, with all there is up to the next white space. The likeliest
# alternatives come first: a tenth faster.
_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_OTHER = r"\x00-\x08\x0e-\x1f!-/:-@\[-`{-\x7f"
_ALONE = r"(?![^\x00-\x7f])"
_STRETCHES = re.compile(
    rf" ?[A-Za-z]++{_ALONE}"
    r"|'(?:[sdmt]|ll|ve|re)"
    rf"| ?[{_OTHER}]++{_ALONE}"
    rf"|[{_SPACE}]+(?![^{_SPACE}])"
    rf"| ?[0-9]++{_ALONE}"
    rf"| ?[^{_SPACE}]++"
    rf"|[{_SPACE}]"
)
_SAFE_CUT = re.compile(f"[^{_SPACE}](?=[{_SPACE}])|[A-Za-z](?=[0-9{_OTHER}])")

# Characters. All stretches of a text at once take ten times its memory, and counting those of 32 MB
# took twice the time that it takes in blocks.
_BLOCK = 1 << 16


def split_pieces(text: str) -> list[str]:
    """Cut a text into the pieces that are encoded one by one. Joined, they are the text again.

    >>> split_pieces("I don't  know 1 thing\\n")
    ['I', ' don', "'t", ' ', ' know', ' 1', ' thing', '\\n']
    """
    return _PIECES.findall(text)


def split_stretches(text: str) -> list[str]:
    """Cut a text into stretches, in half the time of `split_pieces`: an ASCII stretch is one piece,
    any other is one or several.

    A stretch begins where a piece does. An ASCII one ends where the piece does, because the next
    character is ASCII, too, and of another class; any other ends at white space, which no piece
    goes on into. How the text on one side of such a place is cut doesn't depend on the other side:
    so the pieces of the stretches are the pieces of the text.

    >>> split_stretches("It's naïve—or not")
    ['It', "'s", ' naïve—or', ' not']
    """
    return _STRETCHES.findall(text)


def stretches_in_blocks(text: str) -> Iterator[list[str]]:
    """The stretches of a text of any length, some thousands at a time. Lone surrogates in it are
    replaced as `replace_surrogates` does.
    """
    text = replace_surrogates(text)
    start = 0
    while start < len(text):
        end = safe_cut(text, start + _BLOCK)
        yield _STRETCHES.findall(text, start, end)
        start = end


def safe_cut(text: str, start: int) -> int:
    """The first place from `start` on where a text may be cut and encoded in parts: white space
    after something else, or ASCII other than a letter after an ASCII letter. The end of the text
    where there is none.

    There a piece ends and another begins, whatever stands around: none holds white space behind
    anything else, and none goes on from a letter to another class. The pattern never looks back;
    and it looks ahead from white space only, to the end of its run. So each part is cut into
    pieces as it is in the whole.
    """
    found = _SAFE_CUT.search(text, max(start - 1, 0))
    return found.end() if found else len(text)


def replace_surrogates(text: str) -> str:
    """Make a `str` valid Unicode: surrogates in pairs become the character that they stand for,
    each other one U+FFFD. Text that is valid already comes back unchanged.
    """
    try:
        text.encode()                       # a seventh of the time of the way there and back
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


# ---- pieces to ids ------------------------------------------------------------------------------

_NO_RANK = 1 << 60
_LONG_PIECE = 64            # tokens, where the heap overtakes the plain search for the minimum
_CACHE_ENTRIES = 1 << 17    # stretches and pieces; 23 MB when full of words of 8 letters
_CACHED_LENGTH = 64         # characters


class BytePairEncoder:
    """The merge loop, and a cache of the stretches and pieces it has seen.

    Args:
        vocab: the id of each token, tokens written in the byte alphabet; the 256 single bytes must
            be among them.
        merges: the pairs of tokens in the order they were learned; a pair's place is its rank.

    Raises ValueError where a byte has no token, where a merge has a part or a result that is not
    in `vocab`, and where a merge occurs twice.
    """

    def __init__(self, vocab: Mapping[str, int], merges: Iterable[tuple[str, str]]) -> None:
        for byte, char in CHAR_OF_BYTE.items():
            if char not in vocab:
                raise ValueError(f"the vocabulary has no token for the byte {byte}, {char!r}")
        self._id_of_byte = [vocab[CHAR_OF_BYTE[byte]] for byte in range(256)]
        # rank = self._ranks[left].get(right): a sixth faster than with pairs as the keys.
        no_ranks: dict[int, int] = {}
        self._ranks = [no_ranks] * (max(vocab.values()) + 1)
        self._merged_id: list[int] = []         # by rank
        for rank, (left, right) in enumerate(merges):
            for token in (left, right, left + right):
                if token not in vocab:
                    raise ValueError(
                        f"merge {rank + 1}, '{left} {right}', needs {token!r}, which is not in the "
                        "vocabulary"
                    )
            left_id, right_id = vocab[left], vocab[right]
            if self._ranks[left_id] is no_ranks:
                self._ranks[left_id] = {}
            first_rank = self._ranks[left_id].setdefault(right_id, rank)
            if first_rank != rank:
                raise ValueError(
                    f"merge {rank + 1}, '{left} {right}', is merge {first_rank + 1} again"
                )
            self._merged_id.append(vocab[left + right])
        self._cache = _Cache(self._encode_stretch)

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Lone surrogates are encoded as U+FFFD."""
        ids: list[int] = []
        for stretches in stretches_in_blocks(text):
            ids += chain.from_iterable(map(self._cache.__getitem__, stretches))
        return ids

    def _encode_stretch(self, stretch: str) -> tuple[int, ...]:
        if not stretch.isascii():
            pieces = split_pieces(stretch)
            if len(pieces) > 1:
                return tuple(chain.from_iterable(map(self._cache.__getitem__, pieces)))
        ids = [self._id_of_byte[byte] for byte in stretch.encode()]
        merge = self._merge if len(ids) < _LONG_PIECE else self._merge_long
        return tuple(merge(ids))

    def _merge(self, ids: list[int]) -> list[int]:
        """Merge the tokens of one piece, in place: the lowest rank first, from the left.

        Each step looks through all ranks and closes a gap in the list, which is O(n) but very
        fast on the few tokens of a word.
        """
        ranks_of, merged_id = self._ranks, self._merged_id
        ranks = [ranks_of[left].get(right, _NO_RANK) for left, right in zip(ids, ids[1:])]
        while ranks:
            rank = min(ranks)
            if rank == _NO_RANK:
                break
            i = ranks.index(rank)
            merged = ids[i] = merged_id[rank]
            del ids[i + 1], ranks[i]
            if i > 0:
                ranks[i - 1] = ranks_of[ids[i - 1]].get(merged, _NO_RANK)
            if i < len(ranks):
                ranks[i] = ranks_of[merged].get(ids[i + 1], _NO_RANK)
        return ids

    def _merge_long(self, ids: list[int]) -> list[int]:
        """The same result as `_merge` in O(n log n), for a piece of a million bytes.

        The pairs wait in a heap, and the tokens are a linked list: a token that is merged into the
        one before it is skipped by the links and becomes -1.
        """
        ranks_of = self._ranks
        n = len(ids)
        before = list(range(-1, n - 1))
        after = list(range(1, n + 1))
        ranks = [ranks_of[x].get(y, _NO_RANK) for x, y in zip(ids, ids[1:])] + [_NO_RANK]
        # (rank, place) as one number, which is compared faster than a tuple.
        heap = [rank * n + i for i, rank in enumerate(ranks) if rank != _NO_RANK]
        heapq.heapify(heap)

        def update(left: int, right: int) -> None:
            rank = ranks[left] = ranks_of[ids[left]].get(ids[right], _NO_RANK)
            if rank != _NO_RANK:
                heapq.heappush(heap, rank * n + left)

        while heap:
            rank, i = divmod(heapq.heappop(heap), n)
            if ranks[i] != rank:            # one of the two was merged with another token since
                continue
            j = after[i]
            ids[i], ids[j] = self._merged_id[rank], -1
            ranks[i] = ranks[j] = _NO_RANK
            after[i] = after[j]
            if after[i] < n:
                before[after[i]] = i
                update(i, after[i])
            if before[i] >= 0:
                update(before[i], i)
        return [token for token in ids if token >= 0]


class _Cache(dict[str, tuple[int, ...]]):
    """The ids of the stretches seen so far; a new one is encoded by the function given.

    A dictionary, because the loop over a text is then `map` over its lookups, without a line of
    Python for what is known. When it is full it starts anew, which suits a change of topic.
    """

    def __init__(self, encode: Callable[[str], tuple[int, ...]]) -> None:
        self._encode = encode

    def __missing__(self, stretch: str) -> tuple[int, ...]:
        ids = self._encode(stretch)
        if len(stretch) <= _CACHED_LENGTH:
            if len(self) >= _CACHE_ENTRIES:
                self.clear()
            self[stretch] = ids
        return ids
