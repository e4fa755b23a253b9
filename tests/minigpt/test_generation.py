"""generate's options: frozen results of transformers, wrong options, stop strings, streamers,
generation_config.json. Needs neither torch nor transformers."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from minigpt import GenerationConfig, GPT2Config, GPT2LMHeadModel, TextStreamer
from minigpt.cache import KVCache
from minigpt.char_tokenizer import CharTokenizer
from minigpt.decoding import StreamDecoder
from tensor import Tensor, random

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "generation.json").read_text())
IDS = np.array([[1, 5, 9, 2], [7, 7, 3, 4]])


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    random.manual_seed(0)
    config = GPT2Config(
        vocab_size=31, n_positions=24, n_embd=16, n_layer=2, n_head=2, eos_token_id=None,
        bos_token_id=None, initializer_range=0.5,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


# ---- what transformers generates ----------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['folder']}: {case['name']}")
@pytest.mark.parametrize("use_cache", [True, False])
def test_frozen_ids(case, use_cache):
    folder = GOLDEN / case["folder"]
    model = GPT2LMHeadModel.from_pretrained(folder)
    expected = load_file(folder / "expected.safetensors")
    options = dict(case["options"])
    inputs = {"input_ids": expected["greedy/prompt"]}
    inputs["attention_mask"] = np.ones_like(inputs["input_ids"])
    if options.pop("padded", False):
        inputs["input_ids"] = expected["greedy_left_padded/prompt"]
        inputs["attention_mask"] = expected["greedy_left_padded/attention_mask"]
    if options.pop("without_prompt", False):
        inputs = {}
    out = model.generate(
        **inputs, max_new_tokens=9, use_cache=use_cache, return_dict_in_generate=True,
        output_scores=True, **options,
    )  # fmt: skip
    np.testing.assert_array_equal(out.sequences, case["ids"])
    assert len(out.scores) == case["steps"]
    if "sequences_scores" in case:
        np.testing.assert_allclose(out.sequences_scores.numpy(), case["sequences_scores"], 1e-5)


# ---- beams --------------------------------------------------------------------------------------


def all_continuations(model, prompt: np.ndarray, new: int) -> list[tuple[float, tuple[int, ...]]]:
    """Every continuation of a prompt (T,) with its log-probability, the best first."""
    V = model.config.vocab_size
    grid = np.stack(np.meshgrid(*[np.arange(V)] * new, indexing="ij"), -1).reshape(-1, new)
    ids = np.concatenate([np.repeat(prompt[None], len(grid), 0), grid], axis=1)
    logits = model(ids).logits.numpy()[:, len(prompt) - 1 : -1].astype(np.float64)  # (V^n, n, V)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    total = np.take_along_axis(log_p, grid[:, :, None], axis=2).sum(axis=(1, 2))
    order = np.argsort(-total)
    return [(total[i], tuple(grid[i].tolist())) for i in order]


def test_enough_beams_find_the_best_of_all_continuations(model):
    """With as many beams as there are prefixes, the search leaves nothing out."""
    wanted = all_continuations(model, IDS[0], new=2)[:5]
    out = model.generate(
        IDS[:1], max_new_tokens=2, num_beams=31, num_return_sequences=5,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    assert [tuple(row) for row in out.sequences[:, 4:].tolist()] == [ids for _, ids in wanted]
    scores = [total / 2 for total, _ in wanted]  # length_penalty 1: the mean
    np.testing.assert_allclose(out.sequences_scores.numpy(), scores, rtol=1e-5)


def test_the_outputs_of_beams_belong_together(model):
    """Each token's own score, found by beam_indices, adds up to the sequence's."""
    out = model.generate(
        IDS, max_new_tokens=6, num_beams=3, num_return_sequences=2, length_penalty=0.0,
        eos_token_id=list(range(10)), pad_token_id=30, return_dict_in_generate=True,
        output_scores=True, output_logits=True,
    )  # fmt: skip
    new = out.sequences[:, 4:]
    assert new.shape == out.beam_indices.shape
    for row, total in enumerate(out.sequences_scores.numpy()):
        steps = [t for t in range(new.shape[1]) if out.beam_indices[row, t] >= 0]
        parts = [out.scores[t].numpy()[out.beam_indices[row, t], new[row, t]] for t in steps]
        np.testing.assert_allclose(sum(parts), total, rtol=1e-5)
    assert len(out.scores) == len(out.logits) and out.past_key_values.get_seq_length() > 4


def test_beams_of_each_prompt_are_its_own(model):
    together = model.generate(IDS, max_new_tokens=5, num_beams=4)
    for row in range(2):
        alone = model.generate(IDS[row : row + 1], max_new_tokens=5, num_beams=4)
        np.testing.assert_array_equal(alone[0], together[row])


def test_sampled_beams_repeat_with_the_seed(model):
    options = {"do_sample": True, "num_beams": 3, "max_new_tokens": 8, "top_k": 0}
    a, b, c = (model.generate(IDS, seed=seed, **options) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_samples_of_one_prompt_lie_together(model):
    ids = model.generate(IDS, do_sample=True, num_return_sequences=3, max_new_tokens=5, seed=0)
    np.testing.assert_array_equal(ids[:, :4], np.repeat(IDS, 3, axis=0))
    assert len({row.tobytes() for row in ids}) == 6


# ---- the cache ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0, 0], [1], [1, 1, 0, 2, 2]])
def test_selected_rows_of_the_cache(rows):
    """Against plain indexing; and the arrays that someone holds stay as they were."""
    rng = np.random.default_rng(0)
    k, v, more = (rng.normal(size=(3, 2, t, 4)).astype(np.float32) for t in (5, 5, 1))
    cache = KVCache([(k, v)])
    cache.update(0, Tensor(more), Tensor(more))
    before = cache[0][0]
    held = before.numpy().copy()
    cache.select(rows)
    wanted = np.concatenate([k, more], axis=2)[rows]
    np.testing.assert_array_equal(cache[0][0].numpy(), wanted)
    cache.update(0, Tensor(more[rows]), Tensor(more[rows]))
    np.testing.assert_array_equal(
        cache[0][0].numpy(), np.concatenate([wanted, more[rows]], axis=2)
    )
    np.testing.assert_array_equal(before.numpy(), held)
    assert cache.get_seq_length() == 7


# ---- where rows end -----------------------------------------------------------------------------

LETTERS = CharTokenizer("".join(chr(97 + i) for i in range(26)) + "ABCDE")  # 31 tokens


def written(model, **options) -> list[str]:
    ids = model.generate(IDS, max_new_tokens=12, tokenizer=LETTERS, pad_token_id=30, **options)
    return [LETTERS.decode(row) for row in ids]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_stop_strings(model, num_beams):
    """A row ends where the text first holds one, in the new tokens; the others go on."""
    free = written(model, num_beams=1)
    stops = [free[0][6:8], free[1][9:12]]
    for row, text in enumerate(written(model, stop_strings=stops, num_beams=num_beams)):
        places = [text.find(stop, 5 - len(stop)) + len(stop) for stop in stops if stop in text[3:]]
        if num_beams == 1:
            assert text.rstrip("E") == free[row][: len(text.rstrip("E"))]
            assert places
        for place in places:
            assert set(text[place:]) <= {"E"}  # nothing but pads after it


def test_a_stop_string_may_begin_in_the_prompt(model):
    free = written(model)[0]
    ids = model.generate(
        IDS[:1], max_new_tokens=12, stop_strings=free[2:5], tokenizer=LETTERS
    )
    assert LETTERS.decode(ids[0]) == free[:5]
    untouched = model.generate(
        IDS[:1], max_new_tokens=12, stop_strings=free[1:4], tokenizer=LETTERS
    )
    assert free[1:4] in free[3:] or len(untouched[0]) == 16  # all in the prompt: no end


def test_ones_own_criteria_and_processors(model):
    def seven_tokens(ids, scores):
        assert scores is None
        return np.full(len(ids), ids.shape[1] == 7)

    def only_even(ids, scores):
        return np.where(np.arange(scores.shape[1]) % 2, -np.inf, scores)

    ids = model.generate(
        IDS, max_new_tokens=12, pad_token_id=0, stopping_criteria=[seven_tokens],
        logits_processor=[only_even],
    )  # fmt: skip
    assert ids.shape == (2, 7) and (ids[:, 4:] % 2 == 0).all()


# ---- streamers ----------------------------------------------------------------------------------


def test_text_streamer_prints_what_is_generated(model):
    out = io.StringIO()
    ids = model.generate(IDS[:1], max_new_tokens=9, streamer=TextStreamer(LETTERS, file=out))
    assert out.getvalue() == LETTERS.decode(ids[0]) + "\n"
    out = io.StringIO()
    model.generate(IDS[:1], max_new_tokens=9, streamer=TextStreamer(LETTERS, True, file=out))
    assert out.getvalue() == LETTERS.decode(ids[0, 4:]) + "\n"
    with pytest.raises(ValueError, match="one prompt's text, and got 2"):
        model.generate(IDS, streamer=TextStreamer(LETTERS))


class Bytes:
    """A tokenizer whose tokens are single bytes."""

    errors = "replace"

    def decode_bytes(self, ids, skip_special_tokens=False):
        return bytes(np.asarray(ids).tolist())

    def stream_decoder(self, skip_special_tokens=False):
        return StreamDecoder(self, skip_special_tokens)


def test_text_streamer_never_prints_half_a_character(monkeypatch):
    written = []
    monkeypatch.setattr("sys.stdout", io.StringIO())
    streamer = TextStreamer(Bytes(), skip_prompt=True)
    streamer.put(np.array([[1, 2]]))
    for byte in "né日🤗".encode():
        streamer.put(np.array([byte]))
        written.append(sys.stdout.getvalue())
    streamer.put(np.array([0xE6]))
    streamer.end()
    assert written == ["n", "n", "né", "né", "né", "né日"] + ["né日"] * 3 + ["né日🤗"]
    assert sys.stdout.getvalue() == "né日🤗�\n"


# ---- wrong options ------------------------------------------------------------------------------

WRONG = [
    (ValueError, dict(num_beams=0), "num_beams = 0 must be at least 1"),
    (TypeError, dict(num_beams=1.5), "num_beams = 1.5 must be a whole number"),
    (TypeError, dict(num_beams=None), "num_beams = None must be a whole number"),
    (ValueError, dict(num_beams=2, num_return_sequences=3), "must be at most num_beams = 2"),
    (ValueError, dict(num_return_sequences=2), "num_return_sequences = 2: greedy decoding has one"),
    (ValueError, dict(num_beams=2, streamer=io.StringIO()), r"beams \(num_beams = 2\) can't be"),
    (ValueError, dict(num_beams=2, early_stopping="soon"), "early_stopping = 'soon' must be True"),
    (ValueError, dict(num_beams=2, length_penalty=200.0), "length_penalty = 200.0: 24 tokens"),
    (ValueError, dict(num_beams=2, length_penalty=np.nan), "length_penalty = nan must be a finite"),
    (ValueError, dict(temperature=0.0, do_sample=True), "temperature = 0.0 must be above 0"),
    (TypeError, dict(temperature="hot", do_sample=True), "temperature = 'hot' must be a number"),
    (ValueError, dict(min_p=1.5, do_sample=True), "min_p = 1.5 must be from 0 to 1"),
    (ValueError, dict(typical_p=-1, do_sample=True), "typical_p = -1 must be above 0"),
    (ValueError, dict(epsilon_cutoff=2, do_sample=True), "epsilon_cutoff = 2 must be from 0 to 1"),
    (TypeError, dict(num_beam=2), "no option 'num_beam'; did you mean 'num_beams'"),
    (TypeError, dict(xyz=2), "generate has no option 'xyz'$"),
    (TypeError, dict(num_beam_groups=2), "num_beam_groups is an option of transformers that is no"),
    (TypeError, dict(token_type_ids=IDS), "token_type_ids is an option of transformers that is no"),
    (TypeError, dict(do_sample="yes"), "do_sample = 'yes' must be True or False"),
    (ValueError, dict(max_new_tokens=21), "ask for at most 20 new tokens"),
    (ValueError, dict(min_new_tokens=6, max_new_tokens=5), "min_new_tokens = 6 can't be reached"),
    (ValueError, dict(min_length=10, max_new_tokens=5), "min_length = 10 can't be reached"),
    (ValueError, dict(stop_strings="a"), "stop_strings need the tokenizer"),
    (TypeError, dict(stop_strings="a", tokenizer="gpt2"), "must be one of minigpt's, not a str"),
    (ValueError, dict(stop_strings=["a", ""], tokenizer=LETTERS), "an empty string would end"),
    (TypeError, dict(stop_strings=[], tokenizer=LETTERS), r"stop_strings = \[\] must be a string"),
    (ValueError, dict(stop_strings="a", tokenizer=LETTERS), "pad_token_id is needed"),
    (ValueError, dict(bad_words_ids=[]), r"bad_words_ids = \[\] must be a list of lists"),
    (ValueError, dict(bad_words_ids=[[]]), r"bad_words_ids: \[\] must be a list of at least one"),
    (ValueError, dict(bad_words_ids=[3]), "bad_words_ids: 3 must be a list"),
    (ValueError, dict(bad_words_ids=[[3, 31]]), r"bad_words_ids: \[31\] is outside the vocabulary"),
    (ValueError, dict(bad_words_ids=[[3]], eos_token_id=3), "holds nothing but end tokens"),
    (TypeError, dict(bad_words_ids=[[1.5]]), "bad_words_ids = 1.5 must be a whole number"),
    (ValueError, dict(suppress_tokens=[-1]), r"suppress_tokens: \[-1\] is outside the vocabulary"),
    (ValueError, dict(eos_token_id=[3, 31]), r"eos_token_id: \[31\] is outside the vocabulary"),
    (ValueError, dict(forced_eos_token_id=99), r"forced_eos_token_id: \[99\] is outside"),
    (TypeError, dict(forced_bos_token_id=[1, 2]), "forced_bos_token_id = .* must be a whole numb"),
    (ValueError, dict(sequence_bias={}), "sequence_bias = {} must be a dict"),
    (ValueError, dict(sequence_bias={(40,): 1.0}), r"sequence_bias: \[40\] is outside"),
    (ValueError, dict(exponential_decay_length_penalty=(2, 1.1)), "needs an eos_token_id"),
    (ValueError, dict(exponential_decay_length_penalty=2, eos_token_id=1), r"\(start, factor\)"),
    (ValueError, dict(suppress_tokens=list(range(31))), "row 0 has no token left to choose"),
    (ValueError, dict(suppress_tokens=list(range(31)), num_beams=2), "prompt 0 has no token left"),
    (ValueError, dict(attention_mask=np.full((2, 4), 0.5)), "must be 1 for tokens and 0 for"),
    (ValueError, dict(attention_mask=np.eye(2, 4)), "ends in padding; pad prompts on the left"),
    (ValueError, dict(pad_token_id=4), "ends in padding.*is 4 not padding there"),
]


@pytest.mark.parametrize(("error", "options", "words"), WRONG, ids=[w[2][:40] for w in WRONG])
def test_wrong_options_are_named(model, error, options, words):
    with pytest.raises(error, match=words):
        model.generate(IDS, **options)


def test_wrong_prompts_are_named(model):
    with pytest.raises(TypeError, match="input_ids must be integers, not float64"):
        model.generate([[1.5, 2.0]])
    with pytest.raises(ValueError, match=r"input_ids \(3,\) must be \(B, T\): a single"):
        model.generate([1, 2, 3])
    with pytest.raises(ValueError, match="give input_ids, or a bos_token_id to start from"):
        model.generate()
    with pytest.raises(ValueError, match="attention_mask was given without input_ids"):
        model.generate(attention_mask=[[1]], bos_token_id=3)
    with pytest.raises(TypeError, match="the prompts are input_ids here, not inputs"):
        model.generate(inputs=IDS)
    with pytest.raises(IndexError):
        model.generate([[31]])
    full = np.ones((1, model.config.n_positions), int)
    for options in ({}, {"max_new_tokens": 5}):
        with pytest.raises(ValueError, match=r"fills the context of 24 \(n_positions\): shorten"):
            model.generate(full, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(temperature=0.5, top_k=3), "temperature=0.5, top_k=3 changes nothing without do_"),
        (dict(length_penalty=2.0), "length_penalty=2.0 changes nothing without num_beams above 1"),
        (dict(output_scores=True), "changes nothing without return_dict_in_generate=True"),
    ],
)
def test_options_without_effect_are_told(model, options, words):
    with pytest.warns(UserWarning, match=words) as caught:
        model.generate(IDS, max_new_tokens=1, **options)
    assert caught[0].filename == __file__


def test_wrong_things_beside_the_options_are_named(model):
    pad = {"pad_token_id": 0}
    for error, options, words in (
        (TypeError, dict(generation_config={}), "must be a GenerationConfig, not a dict"),
        (TypeError, dict(logits_processor=print), "logits_processor must be a list of functions"),
        (TypeError, dict(stopping_criteria=[3]), "stopping_criteria must be a list of functions"),
        (ValueError, dict(logits_processor=[lambda i, s: None]), "returned object"),
        (ValueError, dict(logits_processor=[lambda i, s: s[:1]]), r"float32 \(1, 31\)"),
        (ValueError, dict(stopping_criteria=[lambda i, s: None]) | pad, "returned object"),
        (ValueError, dict(stopping_criteria=[lambda i, s: i > 3]) | pad, r"bool \(2, 5\)"),
    ):
        with pytest.raises(error, match=words):
            model.generate(IDS, **options)
    with pytest.raises(AttributeError):
        model.generation_config.num_beam = 3
    with pytest.raises(ValueError, match="bos_token_id = 50256 is outside the vocabulary, 0 … 30"):
        GPT2LMHeadModel(GPT2Config(vocab_size=31, n_embd=8, n_layer=1, n_head=1)).generate()


def test_a_pad_token_must_be_in_the_vocabulary_where_it_is_used(model):
    """GPT-2's own ids, which small models often keep in their configuration, do no harm unused."""
    config = GenerationConfig(pad_token_id=50256, eos_token_id=4, max_new_tokens=3)
    assert model.generate(IDS[:1], generation_config=config).shape[1] <= 7
    with pytest.raises(ValueError, match="pad_token_id = 50256 is outside the vocabulary"):
        model.generate(IDS, generation_config=config)
    config = GenerationConfig(pad_token_id=50256, eos_token_id=50256, max_new_tokens=3)
    assert model.generate(IDS, generation_config=config).shape == (2, 7)


def test_ones_own_processor_may_write_into_its_scores(model):
    def spoil(ids, scores):
        scores[:] = 0
        scores[:, 5] = 1
        return scores

    outputs = {"return_dict_in_generate": True, "output_logits": True, "max_new_tokens": 2}
    out = model.generate(IDS, logits_processor=[spoil], **outputs)
    assert (out.sequences[:, 4:] == 5).all()
    np.testing.assert_allclose(
        out.logits[0].numpy(), model(IDS).logits.numpy()[:, -1], rtol=1e-4, atol=1e-5
    )


def test_options_that_are_off_may_be_named(model):
    ids = model.generate(IDS, max_new_tokens=2, num_beam_groups=1, guidance_scale=None)
    assert ids.shape == (2, 6)


# ---- generation_config.json ---------------------------------------------------------------------


def test_a_generation_config_holds_the_defaults(model, tmp_path):
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert written == {"_from_model_config": True}
    values = {"num_beams": 3, "max_new_tokens": 4, "pad_token_id": 30, "our_own": [1], "top_k": 7}
    (tmp_path / "generation_config.json").write_text(json.dumps(values))
    read = GPT2LMHeadModel.from_pretrained(tmp_path)
    wanted = model.generate(IDS, num_beams=3, max_new_tokens=4)
    np.testing.assert_array_equal(read.generate(IDS), wanted)
    np.testing.assert_array_equal(
        read.generate(IDS, num_beams=1), model.generate(IDS, max_new_tokens=4)
    )
    given = GenerationConfig(max_new_tokens=6)  # the rest as in the model's
    np.testing.assert_array_equal(
        read.generate(IDS, generation_config=given), model.generate(IDS, num_beams=3, max_length=10)
    )
    read.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text()) == values
    assert GPT2LMHeadModel.from_pretrained(tmp_path, pad_token_id=5).generation_config == (
        read.generation_config.updated(pad_token_id=5)
    )


def test_a_sequence_bias_goes_through_the_file(model, tmp_path):
    bias = {(3,): 2.0, (1, 4): -1.5}
    GenerationConfig(sequence_bias=bias, eos_token_id=np.array([1, 2])).save_pretrained(tmp_path)
    read = GenerationConfig.from_pretrained(tmp_path)
    assert read.sequence_bias == [[[3], 2.0], [[1, 4], -1.5]] and read.eos_token_id == [1, 2]
    np.testing.assert_array_equal(
        model.generate(IDS, sequence_bias=bias), model.generate(IDS, generation_config=read)
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[1]", "expected a JSON object"),
        ('{"num_beams": 0}', "num_beams = 0 must be at least 1"),
        ('{"temperature": "hot"}', "temperature = 'hot' must be a number"),
        ('{"eos_token_id": [1.5]}', "eos_token_id = 1.5 must be a whole number"),
        ('{"num_beam_groups": 2}', "num_beam_groups = 2 is an option of transformers that is not"),
        ('{"do_sample": 3}', "do_sample = 3 must be True or False"),
    ],
)
def test_a_broken_generation_config_is_one_clear_error(model, tmp_path, text, words):
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(ValueError, match=f"generation_config.json: {words}"):
        GPT2LMHeadModel.from_pretrained(tmp_path)
