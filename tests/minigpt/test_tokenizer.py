"""GPT2Tokenizer: ids, text, batches, files. Peers are compared in test_tokenizer_reference.py."""

import itertools
import json
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

import minigpt.bpe as bpe
from minigpt.batch_encoding import BatchEncoding
from minigpt.bpe_training import train_bpe
from minigpt.char_tokenizer import CharTokenizer
from minigpt.decoding import as_id_list
from minigpt.run_setup import byte_tokenizer
from minigpt.tokenizer import GPT2Tokenizer, load_tokenizer
from minigpt.tokenizer_fast import GPT2TokenizerFast

EOT = "<|endoftext|>"

STORY = (
    "The cat sat on the mat, and the other cat didn't. They're cats: what they'll do, they do.\n"
    "  In 1984 and in 2024 there were 1984 cats; thousands of them sang \"mew, mew, mew\"!\n\n"
    "\tWhile the rain is raining, the naïve café 日本語 日本 is singing ....... ======== \n"
) * 3


@pytest.fixture(scope="module")
def tokenizer() -> GPT2Tokenizer:
    return train_bpe([STORY], 350)


@pytest.fixture(scope="module")
def official() -> GPT2Tokenizer:
    return GPT2Tokenizer.from_pretrained(data_folder() / "gpt2")


def data_folder() -> Path:
    folder = os.environ.get("MINIGPT_TEST_DATA")
    if not folder or not (Path(folder) / "gpt2" / "vocab.bpe").is_file():
        pytest.skip("MINIGPT_TEST_DATA names no folder with gpt2/encoder.json and gpt2/vocab.bpe")
    return Path(folder)


def parts(tokenizer: GPT2Tokenizer, tmp_path: Path) -> tuple[dict[str, int], list[str]]:
    """The vocabulary and the lines of merges.txt."""
    tokenizer.save_vocabulary(tmp_path)
    vocab = json.loads((tmp_path / "vocab.json").read_text("utf-8"))
    return vocab, (tmp_path / "merges.txt").read_text("utf-8").split("\n")


# Text in which merges, runs of white space and contractions are likely, and any text at all.
likely = st.lists(
    st.sampled_from(["the", " the", "cat", "'s", "'ll", " ", "\n", "\t", "1984", "...", "日本", "é",
                     "\x1c", "\x85", "\xa0", "​", "\x00", "a", "T", "́", "🤗"]),
    max_size=30,
).map("".join)
any_text = likely | st.text(st.characters(exclude_categories=[]), max_size=60)
valid_text = likely | st.text(max_size=60)


# ---- independent, slow versions -----------------------------------------------------------------

# As published in openai/gpt-2, encoder.py.
PUBLISHED = regex.compile(
    r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
)


def slow_merge(tokens: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Section 3.2 of Sennrich et al.: while a pair can be merged, merge the best one."""
    while True:
        pairs = [(ranks[p], i) for i, p in enumerate(zip(tokens, tokens[1:])) if p in ranks]
        if not pairs:
            return tokens
        _, i = min(pairs)
        tokens = [*tokens[:i], tokens[i] + tokens[i + 1], *tokens[i + 2:]]


def slow_encode(text: str, vocab: dict[str, int], merges: list[str]) -> list[int]:
    ranks = {tuple(line.split(" ")): rank for rank, line in enumerate(merges)}
    ids = []
    for piece in PUBLISHED.findall(text):
        tokens = slow_merge([bpe.CHAR_OF_BYTE[byte] for byte in piece.encode()], ranks)
        ids += [vocab[token] for token in tokens]
    return ids


# ---- bytes and pieces ---------------------------------------------------------------------------


def test_byte_alphabet():
    chars = bpe.CHAR_OF_BYTE
    assert sorted(chars) == list(range(256)) and len(set(chars.values())) == 256
    assert chars[ord("A")] == "A" and chars[ord(" ")] == "Ġ" and chars[ord("\n")] == "Ċ"
    # Dumped from the ids 0, 93, 94, 187, 188, 220 and 255 of GPT-2's vocabulary.
    order = list(chars.values())
    assert [order[i] for i in (0, 93, 94, 187, 188, 220, 255)] == list("!~¡ÿĀĠŃ")
    assert bpe.chars_to_bytes("ĠcafÃ©") == " café".encode()


@given(any_text)
def test_pieces_are_those_of_the_published_pattern(text):
    expected = PUBLISHED.findall(text)
    assert bpe.split_pieces(text) == expected
    assert "".join(expected) == text
    stretches = bpe.split_stretches(text)
    assert all(len(bpe.split_pieces(s)) == 1 for s in stretches if s.isascii())
    assert [p for stretch in stretches for p in bpe.split_pieces(stretch)] == expected


@given(any_text, st.data())
def test_a_text_may_be_cut_where_safe_cut_says(text, data):
    start = data.draw(st.integers(0, len(text)))
    end = bpe.safe_cut(text, start)
    assert start <= end <= len(text)
    assert bpe.split_pieces(text[:end]) + bpe.split_pieces(text[end:]) == bpe.split_pieces(text)


def test_where_a_text_may_be_cut():
    text = "It's naïve—or\u3000 not:x1é2"
    places = {bpe.safe_cut(text, start) for start in range(1, len(text) + 1)}
    assert [text[a:b] for a, b in itertools.pairwise([0, *sorted(places)])] == [
        "It", "'s", " naïve—or", "\u3000 not", ":x", "1é2"]


@pytest.mark.parametrize("block", [1, 2, 7])
@given(text=any_text)
def test_blocks_change_nothing(tokenizer, block, text):
    whole = tokenizer.encode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpe, "_BLOCK", block)
        assert tokenizer.encode(text) == whole


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("I don't  know 1 thing\n", ["I", " don", "'t", " ", " know", " 1", " thing", "\n"]),
        ("DON'T we'LL", ["DON", "'", "T", " we", "'", "LL"]),       # contractions: lower case only
        ("a\x1cb", ["a", "\x1c", "b"]),         # no white space, though str.isspace says so
        ("a \x1c\n", ["a", " \x1c", "\n"]),
        ("a\x85b\xa0\u3000c", ["a", "\x85", "b", "\xa0", "\u3000", "c"]),
        ("a\u200bb\ufeff\u180e", ["a", "\u200b", "b", "\ufeff\u180e"]),     # not white space
        ("cafe\u0301s", ["cafe", "\u0301", "s"]),       # a combining mark is no letter
        ("½x²", ["½", "x", "²"]),
        ("", []),
    ],
)
def test_pieces(text, pieces):
    assert bpe.split_pieces(text) == pieces


# ---- ids ----------------------------------------------------------------------------------------


@given(text=valid_text)
def test_encode_equals_the_slow_version(tokenizer, tmp_path_factory, text):
    vocab, lines = parts(tokenizer, tmp_path_factory.getbasetemp())
    assert tokenizer.encode(text) == slow_encode(text, vocab, lines[1:-1])


@pytest.mark.parametrize("letters", ["a", "ab", "the ", "0123456789", "=", "日本", "etaoin"])
def test_long_pieces_equal_the_slow_version(tokenizer, tmp_path, letters):
    """Lengths around the one where the other merge loop takes over."""
    vocab, lines = parts(tokenizer, tmp_path)
    pick = random.Random(0)
    for length in (1, 2, bpe._LONG_PIECE - 1, bpe._LONG_PIECE, bpe._LONG_PIECE + 1, 300):
        text = "".join(pick.choices(letters, k=length))
        assert tokenizer.encode(text) == slow_encode(text, vocab, lines[1:-1])


@given(text=any_text)
def test_round_trip(tokenizer, text):
    """Surrogates are the one thing that can't be encoded."""
    expected = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert tokenizer.decode(tokenizer.encode(text)) == expected


def test_surrogates(tokenizer):
    assert tokenizer.encode("a\ud800b\udc00") == tokenizer.encode("a\ufffdb\ufffd")
    assert tokenizer.encode("\ud83e\udd17") == tokenizer.encode("🤗")


@pytest.mark.parametrize("unit", [" ", "a", "=", "\n", "ab", "日", " \n", "0"])
def test_long_runs(tokenizer, unit):
    """Quadratic time would take hours here."""
    text = unit * (300_000 // len(unit))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_cache_is_bounded_and_changes_nothing(monkeypatch):
    tokenizer = train_bpe([STORY], 350)
    expected = tokenizer.encode(STORY)
    monkeypatch.setattr(bpe, "_CACHE_ENTRIES", 7)
    small = train_bpe([STORY], 350)
    assert small.encode(STORY) == expected
    assert small.encode(STORY * 2) == tokenizer.encode(STORY * 2)
    assert len(small._encoder._cache) <= 7
    tokenizer.encode("x" * 10_000)
    assert max(map(len, tokenizer._encoder._cache)) <= bpe._CACHED_LENGTH


def test_ids_are_plain_ints_and_tokens_are_shown(tokenizer):
    ids = tokenizer.encode("the cat")
    assert isinstance(ids, list) and all(type(i) is int for i in ids)
    assert tokenizer.tokenize("the cat") == ["the", "Ġcat"]
    assert tokenizer.convert_tokens_to_ids(["the", "Ġcat"]) == ids
    assert tokenizer.convert_tokens_to_ids("the") == ids[0]
    assert tokenizer.convert_tokens_to_ids("no such token") == tokenizer.eos_token_id
    assert tokenizer.convert_ids_to_tokens(ids) == ["the", "Ġcat"]
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""
    assert tokenizer.encode("cat", add_special_tokens=False) == tokenizer.encode("cat")


def test_pickled(tokenizer):
    assert pickle.loads(pickle.dumps(tokenizer)).encode(STORY) == tokenizer.encode(STORY)


@pytest.mark.parametrize("text", [None, b"the", ["the"], 5])
def test_encode_takes_text_only(tokenizer, text):
    with pytest.raises(TypeError, match="encode takes a str"):
        tokenizer.encode(text)


# ---- the official vocabulary --------------------------------------------------------------------

KNOWN_IDS = {
    "Hello world": [15496, 995],
    " Hello world": [18435, 995],
    "don't DON'T": [9099, 470, 23917, 6, 51],
    "1234567890": [10163, 2231, 30924, 3829],
    "    return x": [220, 220, 220, 1441, 2124],
    "naïve café": [2616, 38776, 40304],
    "日本語": [33768, 98, 17312, 105, 45739, 252],
    "Hello!!!!!!!!!? 🤗, my dog is a little": [
        15496, 13896, 50184, 30, 12520, 97, 245, 11, 616, 3290, 318, 257, 1310,
    ],
    "<|endoftext|>First Citizen:\nBefore we": [50256, 5962, 22307, 25, 198, 8421, 356],
}


@pytest.mark.parametrize("text", KNOWN_IDS)
def test_known_ids(official, text):
    assert official.encode(text) == KNOWN_IDS[text]
    assert official.decode(KNOWN_IDS[text]) == text


def test_known_counts(official):
    """nanoGPT's data/shakespeare/prepare.py prints them."""
    text = (data_folder() / "tinyshakespeare.txt").read_text("utf-8")
    cut = int(len(text) * 0.9)
    train, validation = official.encode(text[:cut]), official.encode(text[cut:])
    assert (len(train), len(validation)) == (301_966, 36_059)
    assert official.decode(train) + official.decode(validation) == text


def test_official_vocabulary(official):
    assert len(official) == official.vocab_size == 50257
    assert official.eos_token_id == official.bos_token_id == official.unk_token_id == 50256
    assert official.pad_token is None and official.pad_token_id is None
    assert official.encode(" " * 1_000_000) == [220] * 1_000_000


# ---- special and added tokens -------------------------------------------------------------------


def test_special_tokens_are_found_in_the_text(tokenizer):
    end = tokenizer.eos_token_id
    the = tokenizer.encode("the")
    assert tokenizer.encode(f"the{EOT}{EOT}the") == [*the, end, end, *the]
    assert tokenizer.encode("<|endof") == tokenizer.encode("<|") + tokenizer.encode("endof")
    ids = [*the, end, *the]
    assert tokenizer.decode(ids) == f"the{EOT}the"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "thethe"
    assert tokenizer.convert_ids_to_tokens(ids, skip_special_tokens=True) == ["the", "the"]
    assert tokenizer.batch_decode([ids, the], skip_special_tokens=True) == ["thethe", "the"]


def test_longest_added_token_wins():
    tokenizer = train_bpe([STORY], 300)
    assert tokenizer.add_tokens(["<a>", "<a><b>", "a b"]) == 3
    assert tokenizer.add_tokens("<a>") == 0
    assert (len(tokenizer), tokenizer.vocab_size) == (303, 300)
    assert tokenizer.encode("<a><b><a>a b") == [301, 300, 302]
    assert tokenizer.decode([301, 300, 302]) == "<a><b><a>a b"
    assert tokenizer.decode([301], skip_special_tokens=True) == "<a><b>"     # added, not special
    assert tokenizer.get_vocab()["a b"] == 302


def test_add_special_tokens():
    tokenizer = train_bpe([STORY], 300)
    assert tokenizer.add_special_tokens({"pad_token": "<pad>"}) == 1
    assert tokenizer.add_special_tokens({"additional_special_tokens": ["<x>", "<y>", "<x>"]}) == 2
    assert tokenizer.pad_token_id == 300
    assert tokenizer.all_special_tokens == [EOT, "<pad>", "<x>", "<y>"]
    assert tokenizer.all_special_ids == [299, 300, 301, 302]
    assert tokenizer.decode(tokenizer.encode("<x>the<pad>"), skip_special_tokens=True) == "the"
    for wrong in ({"end_token": "<s>"}, {"pad_token": ["<pad>"]}, {"pad_token": None}):
        with pytest.raises(ValueError, match="special tokens are bos_token"):
            tokenizer.add_special_tokens(wrong)
    for wrong_token in ("", 5, "\ud800"):
        with pytest.raises(ValueError):
            tokenizer.add_tokens([wrong_token])
    assert len(tokenizer) == 303


def test_missing_special_tokens_get_the_next_ids(tokenizer, tmp_path):
    vocab, lines = parts(tokenizer, tmp_path)
    merges = [tuple(line.split(" ")) for line in lines[1:-1]]
    del vocab[EOT]
    other = GPT2Tokenizer(vocab, merges, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    assert (other.bos_token_id, other.eos_token_id, other.unk_token_id) == (349, 350, 351)
    assert other.pad_token_id == 352 and len(other) == 353
    bare = GPT2Tokenizer(vocab, merges, bos_token=None, eos_token=None, unk_token=None)
    assert bare.eos_token_id is None and len(bare) == 349 and bare.all_special_tokens == []
    assert bare.convert_tokens_to_ids("no such token") is None
    assert bare.decode(bare.encode(EOT)) == EOT


def test_unknown_special_token_is_an_error(tokenizer):
    tokenizer = pickle.loads(pickle.dumps(tokenizer))
    tokenizer.pad_token = "<pad>"
    with pytest.raises(ValueError, match="pad_token '<pad>' is not in the vocabulary; add it with"):
        _ = tokenizer.pad_token_id


def test_prefix_space_and_bos(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    other = GPT2Tokenizer.from_pretrained(tmp_path, add_prefix_space=True, add_bos_token=True)
    assert other.encode("cat") == [tokenizer.eos_token_id, *tokenizer.encode(" cat")]
    assert other.encode("cat", add_special_tokens=False) == tokenizer.encode(" cat")


# ---- batches ------------------------------------------------------------------------------------


@pytest.fixture
def padding(tokenizer) -> GPT2Tokenizer:
    other = pickle.loads(pickle.dumps(tokenizer))
    other.pad_token = other.eos_token
    return other


def test_call_without_options(tokenizer):
    one = tokenizer("the cat")
    assert isinstance(one, BatchEncoding) and isinstance(one, dict)
    assert one.input_ids == one["input_ids"] == tokenizer.encode("the cat")
    assert one.attention_mask == [1, 1]
    assert (lambda **inputs: sorted(inputs))(**one) == ["attention_mask", "input_ids"]
    several = tokenizer(["the cat", "the"])
    assert several.input_ids == [tokenizer.encode("the cat"), tokenizer.encode("the")]
    with pytest.raises(AttributeError, match="no 'labels'"):
        _ = several.labels
    arrays = tokenizer("the cat", return_tensors="np")
    assert arrays.input_ids.shape == (1, 2) and arrays.input_ids.dtype == np.int64
    assert tokenizer([]).input_ids == []
    assert tokenizer([], return_tensors="np").input_ids.shape == (0, 0)
    assert tokenizer(["", ""], return_tensors="np").attention_mask.shape == (2, 0)


def test_padding(padding):
    the, cat, pad = *padding.encode("the cat"), padding.pad_token_id
    texts = ["the cat", "the"]
    right = padding(texts, padding=True, return_tensors="np")
    np.testing.assert_array_equal(right.input_ids, [[the, cat], [the, pad]])
    np.testing.assert_array_equal(right.attention_mask, [[1, 1], [1, 0]])
    left = padding(texts, padding="longest", padding_side="left")
    assert left.input_ids == [[the, cat], [pad, the]] and left.attention_mask == [[1, 1], [0, 1]]
    padding.padding_side = "left"
    assert padding(texts, padding=True).input_ids == left.input_ids
    fixed = padding(texts, padding="max_length", max_length=3, padding_side="right")
    assert fixed.input_ids == [[the, cat, pad], [the, pad, pad]]
    assert padding("the", padding="max_length", max_length=2, padding_side="right") == {
        "input_ids": [the, pad], "attention_mask": [1, 0],
    }


def test_truncation(padding):
    the, cat, pad = *padding.encode("the cat"), padding.pad_token_id
    texts = ["the cat", "the"]
    assert padding(texts, truncation=True, max_length=1).input_ids == [[the], [the]]
    assert padding(texts, max_length=1).input_ids == [[the], [the]]
    assert padding(texts, truncation=False, max_length=1).input_ids == [[the, cat], [the]]
    # As in transformers, padding with a max_length alone cuts nothing.
    assert padding(texts, padding=True, max_length=1).input_ids == [[the, cat], [the, pad]]
    assert padding(texts, padding="max_length", max_length=1).input_ids == [[the, cat], [the]]
    padding.model_max_length = 1
    assert padding(texts, truncation=True).input_ids == [[the], [the]]
    assert padding("the cat").input_ids == [the, cat]
    assert padding("the cat", truncation=True, max_length=0).input_ids == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": True}, "tokenizer.pad_token = tokenizer.eos_token"),
        ({"return_tensors": "np"}, "input_ids: rows of 1 to 2 tokens .* padding=True"),
        ({"return_tensors": "pt"}, 'return_tensors="pt" is not supported: .*"np"'),
        ({"return_tensors": "tf"}, 'return_tensors="tf" is not supported: .*"np"'),
        ({"return_tensors": "list"}, "return_tensors must be"),
        ({"padding": "left"}, "padding must be"),
        ({"padding_side": "both"}, "padding_side must be"),
        ({"truncation": "second"}, "truncation must be"),
        ({"truncation": "only_second", "max_length": 1}, "only_second.*one text, 2 tokens"),
        ({"truncation": "only_first", "max_length": 0}, "can't shorten 2 tokens to max_length=0"),
        ({"max_length": -1}, "max_length must not be negative, got -1"),
        ({"max_length": 5, "stride": -1}, "stride must not be negative"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of must be at least 1, got 0"),
        ({"padding": True, "truncation": True, "max_length": 5, "pad_to_multiple_of": 2},
         "max_length=5 .* a multiple of 2"),
    ],
)
def test_bad_options(tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        tokenizer(["the cat", "the"], **options)


@pytest.mark.parametrize(("option", "value"), [
    ("max_length", 1.5), ("max_length", True), ("stride", "1"), ("pad_to_multiple_of", 2.0),
])
def test_options_of_another_type(tokenizer, option, value):
    with pytest.raises(TypeError, match=f"{option} must be a "):
        tokenizer("the cat", **{option: value})


def test_an_unknown_option_is_named(tokenizer):
    for call in (tokenizer, tokenizer.encode, tokenizer.tokenize):
        with pytest.raises(TypeError, match="text_target"):
            call("the cat", text_target="le chat")


@pytest.mark.parametrize("options", [{"truncation": True}, {"padding": "max_length"}])
def test_no_length_is_a_warning(padding, options):
    """As in transformers, which says so in its log."""
    with pytest.warns(UserWarning, match="have no effect: give max_length, or set") as caught:
        assert padding("the cat", **options) == padding("the cat")
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((None,), {}, "text: expected a str, .*got NoneType None"),
        ((b"the",), {}, "text: expected a str, .*got bytes b'the'"),
        ((["the", 5],), {}, r"text\[1\]: expected .*got int 5"),
        (([["the", "cat", "sat"]],), {}, r"text\[0\]: expected .*is_split_into_words=True"),
        (("the", ["cat"]), {}, "text_pair: expected a str, .*got list"),
        ((["the"], "cat"), {}, "text is a batch of 1, so text_pair must be a list .* got str"),
        ((["the"], [None]), {}, r"text_pair\[0\]: expected"),
        (([("the", "cat")], ["sat"]), {}, r"text\[0\]: expected"),
        (("the cat",), {"is_split_into_words": True}, "text: expected with .* a list of words"),
        (([["the"], "cat"],), {"is_split_into_words": True}, r"text\[1\]: .* got str 'cat'"),
    ],
)
def test_what_is_no_text(tokenizer, arguments, options, message):
    with pytest.raises(TypeError, match=message):
        tokenizer(*arguments, **options)


def test_what_the_fast_class_refuses(tokenizer):
    fast = GPT2TokenizerFast(tokenizer.get_vocab(), tokenizer._merges)
    with pytest.raises(ValueError, match="only with add_prefix_space=True"):
        fast(["the", "cat"], is_split_into_words=True)
    overflow = dict(truncation=True, max_length=2, return_overflowing_tokens=True)
    with pytest.raises(ValueError, match="stride=2 must be less than the 2 tokens"):
        fast("the cat the cat", stride=2, **overflow)
    fast.add_bos_token = True
    with pytest.raises(ValueError, match="max_length=0 leaves no room for the 1 special tokens"):
        fast("the cat", truncation=True, max_length=0)
    assert fast("the cat", truncation=True, max_length=1).input_ids == [fast.bos_token_id]
    assert fast.num_special_tokens_to_add(pair=True) == 1
    tokenizer = pickle.loads(pickle.dumps(tokenizer))
    tokenizer.add_bos_token = True
    assert tokenizer.num_special_tokens_to_add(pair=True) == 2
    with pytest.raises(ValueError, match='"only_first" or "only_second"'):
        tokenizer("the", "cat", **overflow)
    assert tokenizer("the cat", return_overflowing_tokens=True).num_truncated_tokens == 0


def slow_split(text: str, tokens: list[str]) -> list[str]:
    """At each place the longest token that fits, else one byte."""
    found = []
    while text:
        fits = [token for token in tokens if text.startswith(token)]
        best = max(fits, key=len) if fits else text[0]
        found.append(best)
        text = text[len(best):]
    return found


@given(tokens=st.lists(st.text("ab <>", min_size=2, max_size=4), max_size=6),
       text=st.text("ab <>", max_size=20))
def test_added_tokens_equal_the_slow_version(tokens, text):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(tokens)
    assert [tokenizer.decode(i) for i in tokenizer.encode(text)] == slow_split(text, tokens)


def test_thousands_of_added_tokens():
    """One pattern, made once: with a pattern for each this would take minutes."""
    tokenizer = byte_tokenizer()
    assert tokenizer.add_tokens([f"<extra_{i}>" for i in range(5000)]) == 5000
    assert tokenizer.encode("<extra_7><extra_4999>") == [257 + 7, 257 + 4999]


@pytest.mark.parametrize("bad", [
    5, {"labels": [1]}, {"input_ids": 5}, [{"input_ids": [1]}, {"labels": [1]}],
    {"input_ids": [[1], [2]], "labels": 5}, {"input_ids": [[1], [2]], "labels": [1]},
])
def test_what_can_not_be_padded(padding, bad):
    with pytest.raises(ValueError, match="pad takes"):
        padding.pad(bad)


def test_pad(padding):
    """Beside transformers in test_tokenizer_grid.py."""
    padded = padding.pad([{"input_ids": [1, 2], "labels": 5}, {"input_ids": [3], "labels": 6}])
    assert padded.attention_mask == [[1, 1], [1, 0]] and padded.labels == [5, 6]
    assert padding.pad([]).input_ids == []
    one = padding.pad({"input_ids": np.array([1, 2])}, padding="max_length", max_length=3,
                      padding_side="left")
    assert one.input_ids.tolist() == [padding.pad_token_id, 1, 2]


def test_batches_of_unequal_size(tokenizer):
    with pytest.raises(ValueError, match="text has 2 texts, but text_pair has 1"):
        tokenizer(["the", "cat"], ["the"])


# ---- ids to text --------------------------------------------------------------------------------


def test_decode_takes_ids_in_any_form(tokenizer):
    ids = tokenizer.encode("the cat")
    assert tokenizer.decode(np.array(ids)) == tokenizer.decode(tuple(ids)) == "the cat"
    assert tokenizer.decode(np.array(ids, dtype=np.uint16)) == "the cat"
    assert tokenizer.decode(ids[0]) == tokenizer.decode(np.int64(ids[0])) == "the"
    assert as_id_list(iter(ids)) == ids


@pytest.mark.parametrize("bad", [[350], [-1], [10**30], np.array([-1])])
def test_unknown_ids(tokenizer, bad):
    with pytest.raises(ValueError, match=r"the id -?\d+ is not in this vocabulary of 350 tokens"):
        tokenizer.decode(bad)
    with pytest.raises(ValueError, match="is not in this vocabulary"):
        tokenizer.convert_ids_to_tokens(bad)


@pytest.mark.parametrize(
    "bad", [[1.0], "12", [[1, 2]], np.array([[1]]), np.array([1.0]), np.array(1), None, ["a"]]
)
def test_not_ids(tokenizer, bad):
    with pytest.raises(TypeError, match="expected ids as"):
        tokenizer.decode(bad)


def test_errors_of_decoding(tokenizer, tmp_path):
    half = tokenizer.encode("é")[:1]
    if tokenizer.decode(half) == "é":
        half = [tokenizer.convert_tokens_to_ids("Ã")]
    assert tokenizer.decode(half) == "\ufffd"
    tokenizer.save_pretrained(tmp_path)
    strict = GPT2Tokenizer.from_pretrained(tmp_path, errors="strict")
    with pytest.raises(UnicodeDecodeError):
        strict.decode(half)
    with pytest.raises(ValueError, match="errors='bogus'"):
        GPT2Tokenizer.from_pretrained(tmp_path, errors="bogus")


@given(ids=st.lists(st.integers(0, 349), max_size=40), cuts=st.lists(st.integers(1, 5)))
def test_streaming_equals_decoding_at_once(tokenizer, ids, cuts):
    decoder = tokenizer.stream_decoder()
    text, rest = "", list(ids)
    for cut in [*cuts, len(ids)]:
        text += decoder.put(rest[:cut])
        rest = rest[cut:]
    assert text + decoder.end() == tokenizer.decode(ids)


def test_streaming_holds_back_half_a_character(tokenizer):
    ids = [tokenizer.convert_tokens_to_ids(bpe.CHAR_OF_BYTE[byte]) for byte in "a🤗".encode()]
    decoder = tokenizer.stream_decoder()
    assert [decoder.put(i) for i in ids] == ["a", "", "", "", "🤗"]
    assert decoder.end() == ""
    assert decoder.put(ids[1:3]) == "" and decoder.end() == "\ufffd" and decoder.end() == ""
    assert decoder.put(np.array(ids)) == "a🤗"
    skipping = tokenizer.stream_decoder(skip_special_tokens=True)
    assert skipping.put([tokenizer.eos_token_id, ids[0]]) == "a"


# ---- files --------------------------------------------------------------------------------------


def same(one: GPT2Tokenizer, other: GPT2Tokenizer) -> None:
    text = STORY + EOT + "<x> <y>  new words\n"
    assert one.get_vocab() == other.get_vocab() and len(one) == len(other)
    assert one.encode(text) == other.encode(text)
    assert one.all_special_tokens == other.all_special_tokens
    assert (one.bos_token, one.eos_token, one.unk_token, one.pad_token) == (
        other.bos_token, other.eos_token, other.unk_token, other.pad_token)


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "new" / "folder")
    loaded = GPT2Tokenizer.from_pretrained(tmp_path / "new" / "folder")
    same(tokenizer, loaded)
    assert isinstance(load_tokenizer(str(tmp_path / "new" / "folder")), GPT2Tokenizer)
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == [
        "merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json",
    ]


def test_save_and_load_with_everything(tmp_path):
    tokenizer = train_bpe([STORY], 300, special_tokens=["<|end|>", "<y>"])
    tokenizer.add_special_tokens(
        {"pad_token": "<pad>", "cls_token": "[CLS]", "additional_special_tokens": ["<x>"]},
        replace_additional_special_tokens=False,
    )
    tokenizer.add_tokens(["new words"])
    tokenizer.truncation_side, tokenizer.split_special_tokens = "left", False
    tokenizer.clean_up_tokenization_spaces = True
    tokenizer.padding_side, tokenizer.model_max_length = "left", 77
    tokenizer.save_pretrained(tmp_path)
    loaded = GPT2Tokenizer.from_pretrained(tmp_path)
    same(tokenizer, loaded)
    assert loaded.padding_side == "left" and loaded.model_max_length == 77
    assert loaded.truncation_side == "left" and loaded.clean_up_tokenization_spaces
    assert loaded.pad_token == "<pad>" and loaded.cls_token == "[CLS]"
    assert loaded.additional_special_tokens == ["<y>", "<x>"]
    # transformers' older files, without the list of added tokens in tokenizer_config.json
    (tmp_path / "tokenizer_config.json").unlink()
    same(tokenizer, GPT2Tokenizer.from_pretrained(tmp_path))
    overridden = GPT2Tokenizer.from_pretrained(tmp_path, pad_token="<y>", bos_token=None)
    assert overridden.pad_token == "<y>" and overridden.bos_token_id is None
    with pytest.raises(TypeError, match="pad_tokn"):
        GPT2Tokenizer.from_pretrained(tmp_path, pad_tokn="<y>")


def test_settings_as_transformers_writes_them(tokenizer, tmp_path):
    tokenizer.save_vocabulary(tmp_path)
    token = {"content": EOT, "lstrip": False, "normalized": True, "rstrip": False,
             "single_word": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True, "errors": "ignore",
        "model_max_length": 1000000000000000019884624838656,
        "added_tokens_decoder": {
            "349": {**token, "special": True},
            "350": {**token, "content": "<x>", "special": True},
            "351": {**token, "content": "<y>", "special": False},
        },
        "bos_token": {"__type": "AddedToken", **token}, "eos_token": EOT, "unk_token": None,
        "pad_token": None, "extra_special_tokens": {}, "clean_up_tokenization_spaces": False,
    }))
    loaded = GPT2Tokenizer.from_pretrained(tmp_path)
    assert loaded.bos_token == loaded.eos_token == EOT and loaded.unk_token is None
    assert loaded.add_prefix_space and loaded.errors == "ignore"
    assert loaded.model_max_length is None
    assert loaded.additional_special_tokens == ["<x>"]
    assert loaded.encode("the<y>") == [*tokenizer.encode(" the"), 351]


def test_openai_names_prefixes_and_line_ends(tokenizer, tmp_path):
    vocab_file, merges_file = map(Path, tokenizer.save_vocabulary(tmp_path, "small"))
    assert (vocab_file.name, merges_file.name) == ("small-vocab.json", "small-merges.txt")
    merges = merges_file.read_bytes()
    vocab_file.rename(tmp_path / "encoder.json")
    for content in (
        merges,
        merges.replace(b"\n", b"\r\n"),
        merges.removesuffix(b"\n"),                     # no merge is lost
        merges.removeprefix(b"#version: 0.2\n"),        # nor here
    ):
        (tmp_path / "vocab.bpe").write_bytes(content)
        same(tokenizer, GPT2Tokenizer.from_pretrained(tmp_path))


def test_files_of_another_tokenizer_do_not_stay(tokenizer, tmp_path):
    for name in ("added_tokens.json", "tokenizer.json"):
        (tmp_path / name).write_text('{"<old>": 350}')
    tokenizer.save_pretrained(tmp_path)
    same(tokenizer, GPT2Tokenizer.from_pretrained(tmp_path))
    assert not (tmp_path / "tokenizer.json").exists()


def test_written_files_have_the_published_bytes(official, tmp_path):
    official.save_vocabulary(tmp_path)
    folder = data_folder() / "gpt2"
    assert (tmp_path / "merges.txt").read_bytes() == (folder / "vocab.bpe").read_bytes()
    written = json.loads((tmp_path / "vocab.json").read_text("utf-8"))
    assert written == json.loads((folder / "encoder.json").read_text("utf-8"))


def test_no_tokenizer(tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "text.txt").write_text("text")
    with pytest.raises(FileNotFoundError, match="text.txt: it is a file; name its folder"):
        load_tokenizer(tmp_path / "text.txt")
    (tmp_path / "text.txt").unlink()
    looked_for = r"looked for vocab.json with merges.txt or encoder.json with vocab.bpe.*nothing"
    with pytest.raises(FileNotFoundError, match=looked_for):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="the folder holds vocab.json"):
        GPT2Tokenizer.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError):
        tokenizer.save_vocabulary(tmp_path / "nowhere")


def test_load_tokenizer_picks_the_class(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    CharTokenizer.from_text("abc").save_pretrained(tmp_path)
    assert isinstance(load_tokenizer(tmp_path), CharTokenizer)
    tokenizer.save_pretrained(tmp_path)
    assert isinstance(load_tokenizer(tmp_path), GPT2Tokenizer)


def remove(key):
    return lambda vocab: vocab.pop(key)


def put(key, value):
    return lambda vocab: vocab.__setitem__(key, value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("Ġ"), "no token has the id 220"),
        (lambda v: v.__setitem__("new", v.pop("Ġ")), "no token for the byte 32, 'Ġ'"),
        (put("the", 5), "'&' and 'the' have the same id, 5"),
        (put("new", 500), "no token has the id 350, though the largest id is 500"),
        (put("the", "5"), "vocab.json: the id of 'the' is '5', not a whole number"),
        (put("the", -5), "vocab.json: the id of 'the' is -5"),
        (put("the", 5.0), "vocab.json: the id of 'the' is 5.0"),
        (put("the", True), "vocab.json: the id of 'the' is True"),
        (lambda v: v.__setitem__("new", v.pop("the")), "needs 'the', which is not in the voc"),
        (lambda v: v.__setitem__("a b", 350), "the token 'a b' .id 350. has the character ' '"),
    ],
)
def test_damaged_vocabulary(tokenizer, tmp_path, damage, message):
    vocab, _ = parts(tokenizer, tmp_path)
    damage(vocab)
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    with pytest.raises(ValueError, match=message) as error:
        load_tokenizer(tmp_path)
    assert "vocab.json" in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"a": 0', b"[]", b"null", b"\xff\xfe", b'{"a": 0, "a": 1}', b"[" * 100_000],
)
def test_vocabulary_that_is_not_json(tokenizer, tmp_path, content):
    tokenizer.save_vocabulary(tmp_path)
    (tmp_path / "vocab.json").write_bytes(content)
    with pytest.raises(ValueError, match="vocab.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: lines[:2] + ["alone"] + lines[2:], "merges.txt: line 3 is 'alone'"),
        (lambda lines: lines[:2] + [""] + lines[2:], "merges.txt: line 3 is ''"),
        (lambda lines: lines[:2] + ["a b c"] + lines[2:], "merges.txt: line 3 is 'a b c'"),
        (lambda lines: lines[:2] + ["a "] + lines[2:], "merges.txt: line 3 is 'a '"),
        (lambda lines: lines[:2] + ["q x"] + lines[2:], "merge 2, 'q x', needs 'qx'"),
        (lambda lines: lines[:2] + ["qq x"] + lines[2:], "merge 2, 'qq x', needs 'qq'"),
        (lambda lines: lines[:2] + lines[1:], "merge 2, .* is merge 1 again"),
        (lambda lines: lines[:-2] + [lines[-2][:2]], "merges.txt: line 94|merge 93"),
    ],
)
def test_damaged_merges(tokenizer, tmp_path, damage, message):
    _, lines = parts(tokenizer, tmp_path)
    (tmp_path / "merges.txt").write_text("\n".join(damage(lines)), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        load_tokenizer(tmp_path)
    assert "merges.txt" in str(error.value)


def test_merges_that_are_not_text(tokenizer, tmp_path):
    tokenizer.save_vocabulary(tmp_path)
    (tmp_path / "merges.txt").write_bytes(b"#version: 0.2\n\xff\xfe\n")
    with pytest.raises(ValueError, match="merges.txt: not UTF-8 text: byte 14"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", {"tokenizer_class": "BertTokenizer"}, "another model, BertTok"),
        ("tokenizer_config.json", {"add_prefix_space": "yes"}, "add_prefix_space is 'yes'"),
        ("tokenizer_config.json", {"eos_token": 5}, "eos_token is 5, not a token"),
        ("tokenizer_config.json", {"eos_token": {"content": "x", "lstrip": True}}, "lstrip=true"),
        ("tokenizer_config.json", {"additional_special_tokens": "x"}, "not a list"),
        ("tokenizer_config.json", {"added_tokens_decoder": []}, "not an object"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": "<x>"}}, "'x', which is not an"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"350": "<x>", "351": "<x>"}}, "twice"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"7": "<x>"}}, "the same id, 7"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"7": "the"}}, "'the' has the id 7"),
        ("tokenizer_config.json", {"model_max_length": 0}, "model_max_length is 0"),
        ("tokenizer_config.json", {"model_max_length": float("nan")}, "model_max_length is nan"),
        ("tokenizer_config.json", {"padding_side": "top"}, "padding_side must be"),
        ("special_tokens_map.json", {"pad_token": "\ud800"}, "lone surrogate"),
        ("special_tokens_map.json", {"pad_token": []}, "pad_token is .*, not a token"),
        ("added_tokens.json", {"<x>": "350"}, "the id of '<x>'"),
        ("added_tokens.json", {"": 350}, "at least one character"),
        ("added_tokens.json", {"<x>": 7}, "the same id, 7"),
    ],
)
def test_damaged_settings(tokenizer, tmp_path, name, content, message):
    tokenizer.save_vocabulary(tmp_path)
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path)


@given(st.data())
def test_random_damage_is_a_value_error_or_harmless(tokenizer, tmp_path_factory, data):
    """Never another exception, and never a tokenizer that doesn't bring text back."""
    folder = tmp_path_factory.mktemp("damaged")
    tokenizer.save_pretrained(folder)
    path = folder / data.draw(st.sampled_from(sorted(p.name for p in folder.iterdir())))
    content = bytearray(path.read_bytes())
    start = data.draw(st.integers(0, len(content)))
    content[start:start + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    path.write_bytes(content)
    try:
        damaged = load_tokenizer(folder)
    except ValueError:
        return
    if damaged.errors == "replace":
        assert damaged.decode(damaged.encode(STORY)) == STORY
