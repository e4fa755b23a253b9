"""train_bpe against a slow version; `tokenizers` is compared in test_tokenizer_reference.py."""

import random
import warnings
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt.bpe import CHAR_OF_BYTE, split_pieces
from minigpt.bpe_training import count_pieces, learn_merges, train_bpe

EOT = "<|endoftext|>"

repetitive = st.lists(
    st.sampled_from(["the", " the", "then", "aaa", "aaaa", "ab", "abab", " ", "\n", "日本", "==="]),
    max_size=40,
).map("".join)


def slow_merges(text: str, num_merges: int, min_frequency: int) -> list[tuple[str, str]]:
    """Algorithm 1 of Sennrich et al.: all pairs counted anew for each merge."""
    order = {char: i for i, char in enumerate(CHAR_OF_BYTE.values())}
    words = {
        piece: ([CHAR_OF_BYTE[byte] for byte in piece.encode()], count)
        for piece, count in Counter(split_pieces(text)).items()
    }
    merges = []
    while len(merges) < num_merges:
        counts: Counter[tuple[str, str]] = Counter()
        for tokens, count in words.values():
            for pair in zip(tokens, tokens[1:]):
                counts[pair] += count
        if not counts or max(counts.values()) < min_frequency:
            return merges
        best = min(counts, key=lambda pair: (-counts[pair], order[pair[0]], order[pair[1]]))
        merges.append(best)
        order[best[0] + best[1]] = len(order)
        for piece, (tokens, count) in words.items():
            words[piece] = (merge(tokens, best), count)
    return merges


def merge(tokens: list[str], pair: tuple[str, str]) -> list[str]:
    merged, i = [], 0
    while i < len(tokens):
        if tuple(tokens[i:i + 2]) == pair:
            merged.append(pair[0] + pair[1])
            i += 2
        else:
            merged.append(tokens[i])
            i += 1
    return merged


@given(repetitive | st.text(max_size=200), st.integers(0, 60), st.integers(1, 3))
def test_merges_equal_the_slow_version(text, num_merges, min_frequency):
    expected = slow_merges(text, num_merges, min_frequency)
    assert learn_merges(count_pieces([text]), num_merges, min_frequency) == expected


@pytest.mark.parametrize("seed", range(20))
def test_overlapping_pairs(seed):
    """Words of one to three letters have pairs that overlap themselves, and ties everywhere."""
    pick = random.Random(seed)
    letters = "abc"[: 1 + seed % 3]
    text = " ".join("".join(pick.choices(letters, k=pick.randint(1, 30))) for _ in range(50))
    assert learn_merges(count_pieces([text]), 80, 2) == slow_merges(text, 80, 2)


def test_no_token_is_made_twice():
    """What `_Text.merge` relies on."""
    pick = random.Random(0)
    text = " ".join("".join(pick.choices("ab", k=pick.randint(1, 60))) for _ in range(300))
    merges = learn_merges(count_pieces([text]), 10_000, 1)
    assert len(merges) > 1000
    assert len({left + right for left, right in merges}) == len(merges)


def test_one_long_piece():
    assert len(learn_merges({"ab" * 2**17: 1}, 50, 1)) == 18        # 2, 4, 8 ... 2**18 letters
    text = "".join(random.Random(0).choices("abcdefgh", k=2000))
    assert learn_merges({text: 1}, 200, 1) == slow_merges(text, 200, 1)
    # A rescan of the piece for each merge would take minutes.
    text = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=100_000))
    assert len(learn_merges({text: 1}, 5000, 1)) == 5000


def test_order_of_the_vocabulary():
    """By hand: "low" 5 times and "lower" twice; "ow" and "lo" tie at 7, and l comes before o."""
    tokenizer = train_bpe(["low " * 5 + "lower lower"], 261, ["<|end|>", "<pad>"], 2)
    vocab = tokenizer.get_vocab()
    assert [vocab[char] for char in CHAR_OF_BYTE.values()] == list(range(256))
    assert {t: i for t, i in vocab.items() if i >= 256} == {
        "lo": 256, "low": 257, "Ġlow": 258, "<|end|>": 259, "<pad>": 260,
    }
    assert tokenizer.bos_token == tokenizer.eos_token == tokenizer.unk_token == "<|end|>"
    assert tokenizer.additional_special_tokens == ["<pad>"]
    assert tokenizer.pad_token is None
    assert tokenizer.encode("low lower<|end|>") == [257, 258, vocab["e"], vocab["r"], 259]


def test_texts_in_parts():
    parts = ["the cat ", "the cat", " the dog"]
    assert count_pieces(parts) == Counter(p for part in parts for p in split_pieces(part))
    assert count_pieces(iter(parts)) == count_pieces(parts)
    whole = "the cat, the cat"
    assert train_bpe(whole, 260).get_vocab() == train_bpe([whole], 260).get_vocab()


def test_special_tokens_are_no_part_of_the_text():
    assert count_pieces([f"the cat{EOT}the cat{EOT}"], [EOT]) == {"the": 2, " cat": 2}
    tokenizer = train_bpe([f"the cat{EOT}" * 9], 262)
    assert not any("|" in token or "end" in token for token in tokenizer.get_vocab()
                   if token not in (EOT, "|"))


def test_without_special_tokens():
    tokenizer = train_bpe(["the the"], 257, special_tokens=())
    assert len(tokenizer) == 257 and tokenizer.eos_token_id is None
    assert tokenizer.decode(tokenizer.encode(EOT)) == EOT


def test_text_too_small_for_the_vocabulary():
    with pytest.warns(UserWarning, match="only 2 pairs .* has 259 tokens instead of 300"):
        tokenizer = train_bpe(["the the"], 300)
    assert len(tokenizer) == 259
    with pytest.warns(UserWarning, match="only 3 pairs"):
        assert len(train_bpe(["the the"], 300, min_frequency=1)) == 260
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(train_bpe(["the the"], 259)) == 259
        assert len(train_bpe(["x"], 257)) == 257


def test_surrogates_are_replaced():
    assert count_pieces(["a\ud800"]) == {"a": 1, "\ufffd": 1}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((["text"], 256), ValueError, "vocab_size=256 is too small: .* need 257"),
        ((["text"], 300, [EOT, "<pad>", EOT]), ValueError, "one twice"),
        ((["text"], 300, [""]), ValueError, "isn't empty"),
        ((["text"], 257, ["a"]), ValueError, "'a' is a token already"),
        ((["text"], 300, EOT), TypeError, "must be a list, got the str"),
        (([], 300), ValueError, "no text to learn from"),
        ((["", ""], 300), ValueError, "no text to learn from"),
        (([EOT], 300), ValueError, "no text to learn from"),
        (([b"text"], 300), TypeError, "texts must be str, got bytes"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        train_bpe(*arguments)


def test_progress_is_told_where_there_is_no_terminal(monkeypatch):
    clock = iter(range(0, 100_000, 4))          # seconds
    monkeypatch.setattr("minigpt.progress.time.monotonic", lambda: next(clock))
    lines = []
    train_bpe(["the cat, the cat"], 260, report=lines.append)
    assert lines == ["merges: 3 of 3 merges (100%), 0 a second, 0:00 left"]  # a merge in 5 s
