"""Perplexity by sliding windows, and last words and endings, against slow versions that anyone can
read."""

import copy
import json

import numpy as np
import pytest

from minigpt import GPT2Config, GPT2LMHeadModel
from minigpt.evaluation_completions import (
    Question,
    best_endings,
    completion_row,
    last_words,
    read_passages,
    read_questions,
)
from minigpt.evaluation_rows import Row, score_rows
from minigpt.evaluation_text import (
    detokenise_wikitext,
    original_tokens,
    sliding_windows,
    text_loss,
    wikitext_raw,
)
from tensor import random

CONTEXT = 16


@pytest.fixture(scope="module")
def model():
    random.manual_seed(3)
    config = GPT2Config(
        vocab_size=20, n_positions=CONTEXT, n_embd=16, n_layer=1, n_head=2,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    for parameter in model.parameters():        # far from uniform predictions
        parameter.copy_(parameter.numpy() * 5)
    return model.train()                        # evaluation switches dropout off by itself


def log_probabilities(model, ids):
    """Of every next token, float64 (T, V): one row, no batch, softmax spelt out."""
    logits = model.eval()(np.asarray([ids])).logits.numpy()[0].astype(np.float64)
    model.train()
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def slow_loss(model, ids, window, stride):
    """Each token once, in the first window that has it: (sum, count)."""
    losses, done = [], 0
    for first in range(0, len(ids), stride):
        end = min(first + window, len(ids))
        logp = log_probabilities(model, ids[first:end])
        for t in range(max(done, first + 1), end):
            losses.append(-logp[t - 1 - first, ids[t]])
        done = end
        if end == len(ids):
            break
    return float(np.sum(losses)), len(losses)


@pytest.mark.parametrize("length", [2, 3, 15, 16, 17, 33, 50])
@pytest.mark.parametrize(("window", "stride"), [(16, 16), (16, 8), (16, 1), (7, 3), (2, 1), (2, 2)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_windows_equal_the_slow_version(model, length, window, stride, batch_size):
    ids = np.random.default_rng(length).integers(0, 20, length)
    found = text_loss(model, ids, window=window, stride=stride, batch_size=batch_size)
    total, count = slow_loss(model, ids, window, stride)
    assert (found.tokens, found.scored) == (length, count)
    assert found.loss == pytest.approx(total / count, rel=1e-5)
    assert found.total == pytest.approx(total, rel=1e-5)
    assert model.training


def test_logits_in_slabs_are_the_same(model, monkeypatch):
    ids = np.random.default_rng(0).integers(0, 20, 60)
    at_once = text_loss(model, ids)
    monkeypatch.setattr("minigpt.evaluation_rows._SLAB", 100)       # five positions' logits
    assert text_loss(model, ids, batch_size=1).loss == pytest.approx(at_once.loss, rel=1e-6)


def test_every_token_is_in_one_window_only():
    rows = list(sliding_windows(range(100), 10, 4))
    scored = [t for row, _ in rows for t in list(row.ids)[row.start :]]
    assert scored == list(range(1, 100)) and sum(new for _, new in rows) == 100


@pytest.mark.parametrize(
    ("ids", "options", "said"),
    [
        ([], {}, "has 0 tokens"),
        ([1], {}, "has 1 tokens: a loss needs at least two"),
        ([1, 2, 3], {"window": 17}, "a window of 17 tokens: the model's context is 16"),
        ([1, 2, 3], {"window": 1}, "the window needs at least 2"),
        ([1, 2, 3], {"window": 8, "stride": 9}, "a stride of 9"),
        ([1, 2, 3], {"stride": 0}, "a stride of 0"),
        ([1, 2, 3], {"batch_size": 0}, "batch_size = 0"),
    ],
)
def test_arguments_that_make_no_sense(model, ids, options, said):
    with pytest.raises(ValueError, match=said):
        text_loss(model, np.asarray(ids, int), **options)


def test_ids_of_another_vocabulary(model):
    with pytest.raises(IndexError, match="row 0: token 20 is outside the model's vocabulary of 20"):
        text_loss(model, [1, 20, 3])


def test_rows_of_any_length_keep_their_order(model):
    rng = np.random.default_rng(5)
    rows = []
    for length in (2, 17, 5, 9, 17, 3):
        ids = rng.integers(0, 20, length)
        rows.append(Row(ids, int(rng.integers(1, length))))
    for batch_size in (1, 4, 6):
        for row, score in zip(rows, score_rows(model, rows, batch_size=batch_size)):
            logp = log_probabilities(model, row.ids[:-1])
            losses = [-logp[t - 1, row.ids[t]] for t in range(row.start, len(row.ids))]
            greedy = all(
                logp[t - 1].argmax() == row.ids[t] for t in range(row.start, len(row.ids))
            )
            assert score.loss == pytest.approx(sum(losses), rel=1e-5)
            assert (score.tokens, score.greedy) == (len(losses), greedy)


@pytest.mark.parametrize(("row", "said"), [
    (Row([1, 2], 2), "row 0: of 2 tokens none from 2 on"), (Row([1, 2], 0), "none from 0 on"),
    (Row([1] * 18, 1), "18 tokens, and the model can score rows of 17"),
])
def test_rows_that_cannot_be_scored(model, row, said):
    with pytest.raises(ValueError, match=said):
        score_rows(model, [row])


# ---- WikiText -----------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_damaged_model_has_no_perplexity(model, wrong):
    model = copy.deepcopy(model)
    bias = model.transformer.ln_f.bias
    bias.copy_(np.full(bias.shape, wrong, np.float32))
    with pytest.raises(FloatingPointError, match="NaN or infinite: its weights are damaged"):
        score_rows(model, [Row([1, 2, 3], 1)])


def test_wikitext_raw_is_joined_as_the_data_set_is():
    assert wikitext_raw(" \n = A = \n \n B . \n") == "\n\n = A = \n\n\n\n\n B . \n"


@pytest.mark.parametrize(
    ("tokens", "prose"),
    [
        (" = Robert Boulter = \n", "= Robert Boulter =\n"),
        (" = = Career = = \n", "== Career ==\n"),
        (" 1 @,@ 000 and 2 @.@ 5 a well @-@ known way .\n", "1,000 and 2.5 a well-known way.\n"),
        (" He did n't , it 's theirs ; yes ! \n", "He didn't, it's theirs; yes!\n"),
        (" ( born 1985 ) is [ sic ] \" quoted \" .", "(born 1985) is [sic] \"quoted\"."),
        (" $ 5 at 10 ° C , 50 % .", "$5 at 10°C, 50%."),
        ("", ""),
    ],
)
def test_detokenised_wikitext_reads_as_prose(tokens, prose):
    assert detokenise_wikitext(tokens) == prose


def test_original_tokens_are_words_and_line_ends():
    assert original_tokens(" = A = \n \n b c . \n") == 6 + 3


# ---- completions --------------------------------------------------------------------------------


def encode(text):
    """A character a token, in a vocabulary of 20."""
    return [ord(c) % 20 for c in text]


def slow_completion(model, context, completion):
    ids = [*context, *completion][-(CONTEXT + 1) :]
    logp = log_probabilities(model, ids[:-1])
    scored = range(len(ids) - len(completion), len(ids))
    losses = [-logp[t - 1, ids[t]] for t in scored]
    return losses, all(logp[t - 1].argmax() == ids[t] for t in scored)


def test_last_words_equal_the_slow_version(model):
    passages = ["a bc def", "the quick brown fox jumps over", "x y", "one two three \n"]
    slow = [
        slow_completion(model, encode(text.rstrip().rpartition(" ")[0]),
                        encode(" " + text.rstrip().rpartition(" ")[2])) for text in passages
    ]
    for batch_size in (1, 3):
        found = last_words(model, encode, passages, batch_size=batch_size)
        mean = np.mean([sum(losses) for losses, _ in slow])
        assert found.perplexity == pytest.approx(np.exp(mean), rel=1e-4)
        assert found.accuracy == np.mean([greedy for _, greedy in slow])


def test_a_last_word_that_is_right(model):
    context = encode("abc")
    ids = [*context]
    for _ in range(2):
        ids.append(int(log_probabilities(model, ids)[-1].argmax()))
    table = {"abc": context, " de": ids[3:]}
    found = last_words(model, table.__getitem__, ["abc de"])
    assert found.accuracy == 1.0 and found.to_dict()["standard_error"] == 0.0


def test_endings_equal_the_slow_version(model):
    rng = np.random.default_rng(1)
    letters = np.array(list("abcdefghij "))

    def text(length):
        return "x" + "".join(rng.choice(letters, length))

    questions = [
        Question(text(int(rng.integers(1, 20))), [text(int(n)) for n in rng.integers(1, 9, 4)],
                 int(rng.integers(4)))
        for _ in range(12)
    ]
    whole = normed = 0
    for question in questions:
        losses = [
            slow_completion(model, encode(question.context), encode(" " + ending))[0]
            for ending in question.endings
        ]
        whole += np.argmin([np.sum(each) for each in losses]) == question.label
        normed += np.argmin([np.mean(each) for each in losses]) == question.label
    found = best_endings(model, encode, questions, batch_size=5)
    assert (found.accuracy, found.accuracy_norm) == (whole / 12, normed / 12)
    assert 0 < whole != normed                  # so that the two can't have been swapped


def test_a_context_that_does_not_fit_loses_its_beginning(model):
    row = completion_row(model, list(range(16)), [1, 2, 3])
    assert list(row.ids) == [*range(2, 16), 1, 2, 3] and row.start == 14
    with pytest.raises(ValueError, match="a completion of 17"):
        completion_row(model, [1], [1] * 17)
    with pytest.raises(ValueError, match="a context of 0 tokens"):
        completion_row(model, [], [1])


# ---- files --------------------------------------------------------------------------------------


def test_files_of_passages_and_questions(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a b"}\n\n{"text": "c d\\u00e9"}\n', "utf-8")
    (tmp_path / "a.txt").write_text("a b\n \nc dé\n", "utf-8")
    assert read_passages(tmp_path / "a.jsonl") == read_passages(tmp_path / "a.txt")
    lines = [{"ctx": "a", "endings": ["b", "c"], "label": label, "ind": 4} for label in (1, "0")]
    (tmp_path / "h.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert read_questions(tmp_path / "h.jsonl") == [
        Question("a", ["b", "c"], 1), Question("a", ["b", "c"], 0)
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "line 2: not a JSON object"),
        ("[1]", "line 2: expected a JSON object"),
        ("[" * 100_000, "line 2: not a JSON object"),
        ('{"endings": ["a"], "label": 0}', "line 2: there is no 'ctx'"),
        ('{"ctx": "", "endings": ["a"], "label": 0}', "ctx is ''"),
        ('{"ctx": "a", "endings": [1], "label": 0}', "endings must be strings"),
        ('{"ctx": "a", "endings": ["b"], "label": 1}', "label 1 is not the number of one of the 1"),
        ('{"ctx": "a", "endings": ["b"], "label": ""}', "take the validation split"),
        ('{"ctx": "a", "endings": ["b"], "label": true}', "label True is not"),
    ],
)
def test_damaged_lines_are_named(tmp_path, line, said):
    path = tmp_path / "h.jsonl"
    path.write_text('{"ctx": "a", "endings": ["b"], "label": 0}\n' + line)
    with pytest.raises(ValueError, match=said):
        read_questions(path)


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "\xff"}')
    with pytest.raises(ValueError, match="line 1: not UTF-8: byte 10"):
        read_passages(path)
