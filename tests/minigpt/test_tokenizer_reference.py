"""The tokenizers beside tiktoken, transformers and tokenizers, on the official vocabulary."""

import glob
import importlib.metadata
import json
import os
import pydoc_data.topics
import sysconfig
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt.bpe import chars_to_bytes
from minigpt.bpe_training import count_pieces, learn_merges, train_bpe
from minigpt.data import split_text
from minigpt.preparation import prepare
from minigpt.tokenizer import GPT2Tokenizer, load_tokenizer

pytestmark = pytest.mark.reference

EOT = "<|endoftext|>"

# As in tiktoken_ext/openai_public.py.
TIKTOKEN_PATTERN = (
    r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
)


def data_folder() -> Path:
    folder = os.environ.get("MINIGPT_TEST_DATA")
    if not folder or not (Path(folder) / "gpt2" / "vocab.bpe").is_file():
        pytest.skip("MINIGPT_TEST_DATA names no folder with gpt2/encoder.json and gpt2/vocab.bpe")
    return Path(folder)


@pytest.fixture(scope="module")
def ours():
    return GPT2Tokenizer.from_pretrained(data_folder() / "gpt2")


@pytest.fixture(scope="module")
def tiktoken_gpt2(ours):
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {chars_to_bytes(token): i for token, i in ours.get_vocab().items() if token != EOT}
    return tiktoken.Encoding(
        "gpt2", pat_str=TIKTOKEN_PATTERN, mergeable_ranks=ranks, special_tokens={EOT: 50256}
    )


@pytest.fixture(scope="module")
def transformers():
    module = pytest.importorskip("transformers")
    if importlib.metadata.version("transformers") != "4.56.2":
        pytest.skip("compared with transformers 4.56.2 only")
    return module


@pytest.fixture(scope="module")
def slow_and_fast(transformers):
    folder = data_folder() / "gpt2"
    files = str(folder / "encoder.json"), str(folder / "vocab.bpe")
    return transformers.GPT2Tokenizer(*files), transformers.GPT2TokenizerFast(*files)


@pytest.fixture(scope="module")
def corpora(ours) -> dict[str, str]:
    library = sorted(glob.glob(sysconfig.get_paths()["stdlib"] + "/*.py"))
    return {
        "tinyshakespeare": (data_folder() / "tinyshakespeare.txt").read_text("utf-8"),
        "documentation": "\n".join(pydoc_data.topics.topics.values()),
        "library": "\n".join(Path(p).read_text("utf-8", errors="replace") for p in library),
    }


# Unassigned code points are left out, because Unicode versions classify them differently.
assigned = st.characters(exclude_categories=["Cn", "Cs"])
likely = st.sampled_from(
    [" the", " of", "ing", "'s", "'ll", "'T", " ", "\n", "\r\n", "\t", "\x00", "\x1c", "\x1f",
     "\x85", "\xa0", "\u2028", "\u3000", "\u200b", "\ufeff", "\u180e", "\u0301", "é", "日本", "½",
     "१२", "🤗", "👩\u200d👩", "1984", "...", "=====", "    ", "<|endoftext|", "a" * 70, "x" * 200]
)
text_without_surrogates = st.lists(likely | st.text(assigned, max_size=4), max_size=25).map("".join)
surrogates = st.characters(categories=["Cs"])
any_text = st.lists(likely | surrogates | st.text(assigned, max_size=4), max_size=25).map("".join)


# ---- ids ----------------------------------------------------------------------------------------


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(text=any_text)
def test_ids_equal_tiktoken(ours, tiktoken_gpt2, text):
    ids = tiktoken_gpt2.encode_ordinary(text)
    assert ours.encode(text, split_special_tokens=True) == ids
    assert ours.decode(ids) == tiktoken_gpt2.decode(ids)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(text=text_without_surrogates)
def test_ids_equal_transformers(ours, slow_and_fast, text):
    slow, fast = slow_and_fast
    expected = slow.encode(text)
    assert fast.encode(text) == expected
    assert ours.encode(text) == expected
    assert ours.tokenize(text) == slow.tokenize(text)
    assert ours.decode(expected) == slow.decode(expected) == text


@settings(max_examples=300, deadline=None, derandomize=True)
@given(ids=st.lists(st.integers(0, 50256), max_size=30))
def test_text_equals_tiktoken_and_transformers(ours, tiktoken_gpt2, slow_and_fast, ids):
    text = tiktoken_gpt2.decode(ids)
    assert ours.decode(ids) == text == slow_and_fast[0].decode(ids)
    assert ours.decode(ids, skip_special_tokens=True) == slow_and_fast[0].decode(
        ids, skip_special_tokens=True)


def test_white_space_and_classes_of_all_assigned_characters(ours, tiktoken_gpt2):
    """Each character between letters, between digits, and after spaces."""
    for start in range(0, 0x110000, 0x1000):
        chars = [chr(i) for i in range(start, start + 0x1000)
                 if unicodedata.category(chr(i)) not in ("Cn", "Cs", "Co")]
        text = "".join(f"a{c}a 1{c}1  {c} {c}{c}" for c in chars)
        assert ours.encode(text) == tiktoken_gpt2.encode_ordinary(text)


def test_ids_of_corpora_equal_tiktoken(ours, tiktoken_gpt2, corpora):
    for name, text in corpora.items():
        ids = tiktoken_gpt2.encode_ordinary(text)
        assert ours.encode(text) == ids, name
        assert ours.decode(ids) == text, name


def test_ids_and_offsets_of_corpora_equal_tokenizers(ours, slow_and_fast, corpora):
    """The Rust library behind the fast class; on the first two megabytes of each."""
    fast = slow_and_fast[1]
    for name, text in corpora.items():
        theirs = fast(text[:2_000_000], return_offsets_mapping=True)
        mine = ours(text[:2_000_000], return_offsets_mapping=True)
        assert mine.input_ids == theirs["input_ids"], name
        assert mine.offset_mapping == theirs["offset_mapping"], name


def test_long_pieces_equal_tiktoken(ours, tiktoken_gpt2):
    generator = np.random.default_rng(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    for alphabet in ("a", "ab", "=", "0123456789", letters, "日本語", " ", "\n"):
        text = "".join(generator.choice(list(alphabet), size=50_000))
        assert ours.encode(text) == tiktoken_gpt2.encode_ordinary(text), alphabet


# ---- batches and special tokens -----------------------------------------------------------------

TEXTS = ["Hello, my dog is a little", "Today, I", "", f"a{EOT}b"]


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[0], TEXTS[1:2]])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": True},
        {"padding": "longest", "padding_side": "left"},
        {"padding": "max_length", "max_length": 9},
        {"padding": "max_length", "max_length": 4},
        {"padding": "max_length", "max_length": 4, "truncation": True},
        {"padding": True, "max_length": 4},
        {"padding": True, "max_length": 4, "truncation": True},
        {"truncation": True, "max_length": 3},
        {"max_length": 3},
        {"max_length": 3, "truncation": False},
        {"padding": True, "return_tensors": "np", "padding_side": "left"},
    ],
)
def test_batches_equal_transformers(transformers, tmp_path, texts, options):
    def both():
        for cls in (GPT2Tokenizer, transformers.GPT2Tokenizer):
            tokenizer = cls.from_pretrained(tmp_path)
            tokenizer.pad_token = tokenizer.eos_token
            yield tokenizer(texts, **options)

    train_bpe(TEXTS * 2, 280).save_pretrained(tmp_path)
    mine, theirs = both()
    assert sorted(mine) == sorted(theirs)
    for name in mine:
        assert type(mine[name]) is type(theirs[name])
        np.testing.assert_array_equal(np.array(mine[name], dtype=object),
                                      np.array(theirs[name], dtype=object))


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("bos", [False, True])
def test_folders_load_in_transformers(transformers, ours, tmp_path, prefix, bos):
    """Settings, special and added tokens, and files: both of its classes give the same ids.

    The fast class is known to differ in two things, in which we follow the slow one: it puts the
    prefix space before each text between special tokens, and prefers special to other added tokens.
    """
    ours.save_pretrained(tmp_path)
    mine = GPT2Tokenizer.from_pretrained(tmp_path, add_prefix_space=prefix, add_bos_token=bos)
    mine.add_special_tokens({"pad_token": "<pad>", "additional_special_tokens": ["<x>", "<y>"]})
    mine.add_tokens(["new words", "<x><y>"])
    mine.padding_side = "left"
    mine.save_pretrained(tmp_path)
    slow = transformers.GPT2Tokenizer.from_pretrained(tmp_path)
    fast = transformers.GPT2TokenizerFast.from_pretrained(tmp_path)
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    for other in (slow, fast, auto, again):
        for text in ("Hello, world", f"a new words{EOT}<y>", "naïve  \n", "Hello <x> world<y>"):
            assert other.encode(text) == mine.encode(text)
        for text in ("<x>Hello<x><y><x>world<pad>", ""):
            if other in (slow, again):
                assert other.encode(text) == mine.encode(text)
        assert len(other) == len(mine) == 50262
        assert other.get_vocab() == mine.get_vocab()
        for name in ("bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id",
                     "additional_special_tokens", "all_special_tokens", "all_special_ids",
                     "padding_side"):
            assert getattr(other, name) == getattr(mine, name), name
        ids = mine.encode("Hello<x> world<pad>")
        assert other.decode(ids, skip_special_tokens=True) == mine.decode(
            ids, skip_special_tokens=True)
    # transformers' own files, of either class, load here.
    for other in (slow, fast):
        folder = tmp_path / type(other).__name__
        other.save_pretrained(folder)
        back = load_tokenizer(folder)
        assert back.get_vocab() == mine.get_vocab()
        assert back.encode("Hello <x>world<pad>") == mine.encode("Hello <x>world<pad>")
        assert back.all_special_tokens == mine.all_special_tokens
        assert (back.add_prefix_space, back.add_bos_token) == (prefix, bos)


def test_files_have_the_bytes_that_transformers_writes(transformers, ours, tmp_path):
    ours.save_pretrained(tmp_path / "ours")
    transformers.GPT2Tokenizer.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "hf")
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "hf" / name).read_bytes()
    mine, theirs = (json.loads((tmp_path / folder / "tokenizer_config.json").read_text("utf-8"))
                    for folder in ("ours", "hf"))
    assert {k: v for k, v in theirs.items() if k in mine} == mine


# ---- training -----------------------------------------------------------------------------------


def train_with_tokenizers(texts: list[str], vocab_size: int, min_frequency: int):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=[EOT],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


@pytest.mark.parametrize(
    ("name", "vocab_size", "min_frequency"),
    [
        ("tinyshakespeare", 1024, 2),
        ("tinyshakespeare", 16_384, 0),
        ("tinyshakespeare", 50_257, 2),         # more than there is: both end with the same merge
        ("documentation", 8192, 2),
        ("library", 16_384, 0),
    ],
)
def test_merges_equal_tokenizers(corpora, name, vocab_size, min_frequency):
    text = corpora[name]
    mine = learn_merges(count_pieces([text]), vocab_size - 257, min_frequency)
    assert mine == train_with_tokenizers([text], vocab_size, min_frequency)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text("ab ", max_size=300) | st.text("the \n", max_size=300) | text_without_surrogates)
def test_merges_of_any_text_equal_tokenizers(text):
    assert learn_merges(count_pieces([text]), 80, 2) == train_with_tokenizers([text], 257 + 80, 2)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(text=text_without_surrogates)
def test_trained_tokenizer_gives_the_same_ids_in_transformers(trained, text):
    mine, slow, fast = trained
    assert mine.encode(text) == slow.encode(text) == fast.encode(text)


@pytest.fixture(scope="module")
def trained(transformers, corpora, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mine = train_bpe([corpora["tinyshakespeare"]], 1024)
    mine.save_pretrained(folder)
    return (mine, transformers.GPT2Tokenizer.from_pretrained(folder),
            transformers.GPT2TokenizerFast.from_pretrained(folder))


def test_trained_tokenizer_has_the_same_ids_in_transformers(trained, corpora):
    mine, slow, fast = trained
    text = corpora["tinyshakespeare"][:100_000] + EOT
    assert mine.encode(text) == slow.encode(text) == fast.encode(text)
    assert len(mine) == len(slow) == len(fast) == 1024
    assert mine.eos_token_id == slow.eos_token_id == fast.eos_token_id == 1023


# ---- large texts --------------------------------------------------------------------------------


def library_text(size: int) -> str:
    """Python's own library, its packages included; `size` bytes of it."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))
    sources = (p.read_text("utf-8", errors="replace") for p in paths
               if "site-packages" not in p.parts)
    return "\n".join(sources).encode()[:size].decode(errors="ignore")


@pytest.mark.slow
@pytest.mark.parametrize("lines", [False, True])
def test_merges_of_32_megabytes_equal_tokenizers(lines):
    """All 32,511 of a vocabulary of 32,768, from one text and from the same text line by line.

    The two differ, from the fourth merge on: white space is not joined across texts.
    """
    text = library_text(32_000_000)
    texts = text.splitlines(keepends=True) if lines else [text]
    mine = learn_merges(count_pieces(texts), 32_768 - 257, 2)
    assert len(mine) == 32_511
    assert mine == train_with_tokenizers(texts, 32_768, 2)


def test_prepared_tokens_equal_tiktoken(tiktoken_gpt2, corpora, tmp_path):
    """Files as `minigpt prepare` writes them, in parts by two processes."""
    for name, text in corpora.items():
        (tmp_path / "text.txt").write_bytes(text.encode())
        out = tmp_path / name
        prepare(tmp_path / "text.txt", str(data_folder() / "gpt2"), out, processes=2, report=None)
        text = text.replace("\r\n", "\n").removeprefix("\ufeff")
        for file, part in zip(("train.bin", "val.bin"), split_text(text)):
            ids = np.fromfile(out / file, "<u2").tolist()
            assert ids == tiktoken_gpt2.encode(part, allowed_special={EOT}), (name, file)
