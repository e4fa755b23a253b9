"""Where in the text each token comes from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt import GPT2Tokenizer, GPT2TokenizerFast
from minigpt.bpe_training import train_bpe

EOT = "<|endoftext|>"


@pytest.fixture(scope="module")
def parts():
    tokenizer = train_bpe(["the cat and the café 日本 日本 🤗🤗 naïve\n" * 3], 286)
    return tokenizer.get_vocab(), tokenizer._merges


any_text = st.lists(
    st.sampled_from(
        ["the", " cat", " ", "日本", "é", "🤗", EOT, "\ud83e\udd17", "\ud83e", "\udd17"])
    | st.text(st.characters(), max_size=3),
    max_size=12,
).map("".join)


def slow_spans(tokenizer, text):
    """Character by character: the characters whose bytes a token has."""
    units = []                          # (characters, their bytes)
    i = 0
    while i < len(text):
        pair = text[i:i + 2]
        whole = pair.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        step = 2 if len(pair) == 2 and len(whole) == 1 else 1
        unit = text[i:i + step].encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        units.append((range(i, i + step), unit.encode()))
        i += step
    owners = [chars for chars, data in units for _ in data]
    spans, place = [], 0
    for token_id in tokenizer.encode(text):
        size = len(tokenizer.decode_bytes([token_id]))
        mine = owners[place:place + size]
        spans.append((mine[0][0], mine[-1][-1] + 1))
        place += size
    assert place == len(owners)
    return spans


@given(text=any_text)
def test_offsets_equal_the_slow_version(parts, text):
    for cls in (GPT2Tokenizer, GPT2TokenizerFast):
        tokenizer = cls(*parts)
        assert tokenizer(text, return_offsets_mapping=True).offset_mapping == slow_spans(
            tokenizer, text)


@given(text=any_text)
def test_a_space_put_before_has_the_place_of_what_follows(parts, text):
    for cls in (GPT2Tokenizer, GPT2TokenizerFast):
        encoded = cls(*parts, add_prefix_space=True)(text, return_offsets_mapping=True)
        assert len(encoded.offset_mapping) == len(encoded.input_ids)
        covered = {i for start, stop in encoded.offset_mapping for i in range(start, stop)}
        assert covered == set(range(len(text)))
        assert all(0 <= a <= b <= len(text) for a, b in encoded.offset_mapping)
        starts = [start for start, _ in encoded.offset_mapping]
        assert starts == sorted(starts)


def test_of_words_pairs_and_padding(parts):
    tokenizer = GPT2Tokenizer(*parts, add_bos_token=True, pad_token=EOT)
    call = dict(return_offsets_mapping=True)
    assert tokenizer("a", "bc", **call).offset_mapping[0] == (0, 0)         # bos
    words = tokenizer(["a", "bc"], is_split_into_words=True, **call)
    assert words.offset_mapping[1] == (0, 1) and words.offset_mapping[-1][1] == 2
    batch = tokenizer(["a", ""], padding="max_length", max_length=3, return_tensors="np", **call)
    assert batch.offset_mapping.tolist()[1] == [[0, 0]] * 3 and batch.offset_mapping.shape[2] == 2
    left = tokenizer("a cat", truncation=True, max_length=2, **call)
    assert left.offset_mapping == [(0, 0), (0, 1)]
