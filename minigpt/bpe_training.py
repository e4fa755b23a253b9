"""Learning the merges of byte-level BPE from text.

All pieces of the text begin as bytes. Again and again, the pair of neighbouring tokens that occurs
most often becomes a new token, everywhere (Sennrich, Haddow and Birch 2016, algorithm 1). Counting
all pairs anew for each merge would be quadratic. Here a merge touches only the places where its
pair stands, and the next pair comes from a heap.

The merges, and their order, are those of the `tokenizers` library (BpeTrainer with ByteLevel).
"""

import heapq
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from minigpt.bpe import CHAR_OF_BYTE, split_pieces, stretches_in_blocks
from minigpt.progress import Meter, Report
from minigpt.tokenizer import GPT2Tokenizer
from minigpt.vocabulary import pattern_of_tokens

Pair = tuple[int, int]

_NOTHING = -1       # the border of two pieces, and a token merged into the one before it


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    special_tokens: Sequence[str] = ("<|endoftext|>",),
    min_frequency: int = 2,
    report: Report | None = None,
) -> GPT2Tokenizer:
    """Make a tokenizer whose tokens are the 256 bytes, the merges of most use, special tokens.

    The ids are in GPT-2's order: bytes in the order of the byte alphabet, merges in the order they
    were learned, special tokens at the end.

    Args:
        texts: the training text, in parts of any size; `text_stream.read_parts` has those of
            files that don't fit into memory. A word is not joined across parts.
        vocab_size: the number of tokens, all included: `len` of the tokenizer. When no pair is
            left that occurs `min_frequency` times, the vocabulary stays smaller and a UserWarning
            says so.
        special_tokens: the first is bos_token, eos_token and unk_token. They are no part of the
            text that is learned from.
        min_frequency: a pair that occurs less often is not merged (2, the default, is that of
            `tokenizers.ByteLevelBPETokenizer`).
        report: takes a line now and then on how far the merges are; on a terminal there is a bar
            instead. None for neither.

    Raises ValueError for a vocabulary too small for bytes and special tokens, for texts without
    any text, and for a special token that is there twice or is a token already.
    """
    if isinstance(texts, str):
        texts = [texts]
    _check_special_tokens(special_tokens)
    least = len(CHAR_OF_BYTE) + len(special_tokens)
    if vocab_size < least:
        raise ValueError(
            f"vocab_size={vocab_size} is too small: the {len(CHAR_OF_BYTE)} bytes and "
            f"{len(special_tokens)} special tokens need {least}"
        )
    pieces = count_pieces(texts, special_tokens)
    if not pieces:
        raise ValueError("there is no text to learn from")
    merges = learn_merges(pieces, vocab_size - least, min_frequency, report)
    if len(merges) < vocab_size - least:
        warnings.warn(
            f"the text has only {len(merges)} pairs to merge that occur {min_frequency} times or "
            f"more: the vocabulary has {least + len(merges)} tokens instead of {vocab_size}; "
            "give more text, or ask for fewer tokens",
            stacklevel=2,
        )
    tokens = [*CHAR_OF_BYTE.values(), *(left + right for left, right in merges), *special_tokens]
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    if len(vocab) < len(tokens):
        clash = next(token for token in special_tokens if tokens.count(token) > 1)
        raise ValueError(f"the special token {clash!r} is a token already; choose another")
    main = special_tokens[0] if special_tokens else None
    return GPT2Tokenizer(
        vocab, merges, bos_token=main, eos_token=main, unk_token=main,
        additional_special_tokens=special_tokens[1:],
    )


def _check_special_tokens(special_tokens: Sequence[str]) -> None:
    if isinstance(special_tokens, str):
        raise TypeError(f"special_tokens must be a list, got the str {special_tokens!r}")
    for token in special_tokens:
        if not isinstance(token, str) or not token:
            raise ValueError(f"a special token must be a str that isn't empty, got {token!r}")
    if len(set(special_tokens)) < len(special_tokens):
        raise ValueError(f"special_tokens has one twice: {list(special_tokens)}")


def count_pieces(texts: Iterable[str], special_tokens: Sequence[str] = ()) -> Counter[str]:
    """How often each piece of the pattern occurs; special tokens end a text and don't count."""
    find_special = pattern_of_tokens(special_tokens)
    stretches: Counter[str] = Counter()
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"texts must be str, got {type(text).__name__}")
        for part in find_special.split(text)[::2]:
            for block in stretches_in_blocks(part):
                stretches.update(block)
    for stretch in [stretch for stretch in stretches if not stretch.isascii()]:
        count = stretches.pop(stretch)
        for piece in split_pieces(stretch):
            stretches[piece] += count
    return stretches


def learn_merges(
    pieces: Mapping[str, int],
    num_merges: int,
    min_frequency: int = 2,
    report: Report | None = None,
) -> list[tuple[str, str]]:
    """The first `num_merges` merges, each a pair of tokens in the byte alphabet, or fewer.

    The most frequent pair comes first; of several, the one with the smaller ids (left, then right).

    Args:
        pieces: how often each piece occurs, see `count_pieces`.
    """
    tokens = list(CHAR_OF_BYTE.values())
    text = _Text(pieces)
    heap = [(-count, pair, text.places[pair]) for pair, count in text.counts.items()]
    heapq.heapify(heap)
    merges: list[tuple[str, str]] = []
    with Meter("merges", num_merges, "merges", report) as meter:
        while heap and len(merges) < num_merges:
            count, pair, places = heapq.heappop(heap)
            if -count != text.counts[pair]:     # other merges have used it up in part: wait longer
                heapq.heappush(heap, (-text.counts[pair], pair, places))
                continue
            if -count < max(min_frequency, 1):
                break
            left, right = pair
            merges.append((tokens[left], tokens[right]))
            for new_pair, new_places in text.merge(pair, places, new=len(tokens)).items():
                heapq.heappush(heap, (-text.counts[new_pair], new_pair, new_places))
            tokens.append(tokens[left] + tokens[right])
            meter.advance(1)
    return merges


class _Text:
    """The pieces, each once, end to end as one linked list of tokens, with an index of the pairs.

    token[i]    the id of the token at place i, or _NOTHING
    weight[i]   how often its piece occurs
    after[i], before[i]     the places of the neighbours of a token
    counts[pair], places[pair]      how often a pair occurs, weights included, and where it stands
    """

    def __init__(self, pieces: Mapping[str, int]) -> None:
        id_of_byte = [0] * 256
        for token_id, byte in enumerate(CHAR_OF_BYTE):
            id_of_byte[byte] = token_id
        self.token = [_NOTHING]
        self.weight = [0]
        for piece, count in pieces.items():
            data = piece.encode()
            self.token += [*(id_of_byte[byte] for byte in data), _NOTHING]
            self.weight += [count] * (len(data) + 1)
        self.after = list(range(1, len(self.token) + 1))
        self.before = list(range(-1, len(self.token) - 1))
        self.counts: dict[Pair, int] = {}
        self.places: dict[Pair, list[int]] = {}
        for i, pair in enumerate(zip(self.token, self.token[1:])):
            if _NOTHING not in pair:
                self.counts[pair] = self.counts.get(pair, 0) + self.weight[i]
                self.places.setdefault(pair, []).append(i)

    def merge(self, pair: Pair, places: list[int], new: int) -> dict[Pair, list[int]]:
        """Put the token `new` wherever `pair` stands, and return the pairs that arise, with their
        places.

        The tokens beside `new` are in a new pair now, and the pair they were in occurs less often.
        A pair arises in one merge alone, that which makes the younger of its two tokens, so its
        places are complete. Some may no longer hold it, which is found out when its turn comes.
        """
        left, right = pair
        token, weight, before, after = self.token, self.weight, self.before, self.after
        counts = self.counts
        arising: dict[Pair, list[int]] = {}

        def arise(first: int, second: int, place: int, times: int) -> None:
            neighbours = first, second
            counts[neighbours] = counts.get(neighbours, 0) + times
            arising.setdefault(neighbours, []).append(place)

        for i in places:
            j = after[i]
            if token[i] != left or token[j] != right:
                continue
            k = after[j]
            token[i], token[j] = new, _NOTHING
            after[i], before[k] = k, i
            times = weight[i]
            previous, following = token[before[i]], token[k]
            if previous != _NOTHING:
                counts[previous, left] -= times
                arise(previous, new, before[i], times)
            if following != _NOTHING:
                counts[right, following] -= times
                arise(new, following, i, times)
        return arising
