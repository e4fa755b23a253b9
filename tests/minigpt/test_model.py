"""What the model promises beyond parity: outputs, the cache, modes, and words for wrong input."""

import numpy as np
import pytest

import tensor
from minigpt import GPT2Config, GPT2LMHeadModel, GPT2Model
from minigpt.cache import KVCache
from tensor import Tensor, no_grad, optim

CONFIG = dict(vocab_size=31, n_positions=24, n_embd=16, n_layer=2, n_head=4, eos_token_id=None)
IDS = np.random.default_rng(0).integers(0, 31, (2, 9))


@pytest.fixture
def model():
    tensor.manual_seed(1)
    return GPT2LMHeadModel(GPT2Config(**CONFIG)).eval()


def test_an_output_reads_as_object_dictionary_and_tuple(model):
    out = model(IDS, labels=IDS)
    assert out["logits"] is out.logits
    loss, logits = out[:2]
    assert loss is out.loss and logits is out.logits
    assert list(out) == ["loss", "logits", "past_key_values"] and "attentions" not in out
    with pytest.raises(KeyError, match="attentions"):
        out["attentions"]
    assert model(IDS, use_cache=False, return_dict=False)[0].shape == (2, 9, 31)


def test_nested_lists_and_tensors_are_ids_too(model):
    expected = model(IDS).logits.numpy()
    assert np.array_equal(model(IDS.tolist()).logits.numpy(), expected)
    assert np.array_equal(model(Tensor(IDS)).logits.numpy(), expected)


def test_dropout_acts_in_training_only_and_the_seed_decides(model):
    expected = model(IDS).logits.numpy()
    assert np.array_equal(model(IDS).logits.numpy(), expected)
    model.train()
    tensor.manual_seed(5)
    first, second = model(IDS).logits.numpy(), model(IDS).logits.numpy()
    tensor.manual_seed(5)
    again = model(IDS).logits.numpy()
    assert not np.array_equal(first, expected)
    assert not np.array_equal(first, second)
    assert np.array_equal(first, again)


def test_gradients_with_dropout_agree_with_differences(model):
    """The backward pass has to make the forward pass's masks again, attention's among them."""
    model.astype("float64").train()
    weight = model.transformer.h[0].attn.c_attn.weight

    def loss(*_):
        tensor.manual_seed(3)
        return model(IDS, labels=IDS).loss

    tensor.gradcheck(loss, weight, model.transformer.wte.weight)


def test_a_saved_logit_is_not_overwritten_by_backward(model):
    out = model(IDS, labels=IDS)
    before = out.logits.numpy()
    out.loss.backward()
    assert np.array_equal(out.logits.numpy(), before)


def test_training_lowers_the_loss(model):
    model.train()
    optimizer = optim.AdamW(optim.decay_groups(model, 0.1), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = model(IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


# --- the cache


def test_token_by_token_equals_all_at_once(model):
    full = model(IDS).logits.numpy()
    with no_grad():
        cache, rows = None, []
        for t in range(IDS.shape[1]):
            out = model(IDS[:, t : t + 1], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            rows.append(out.logits.numpy())
    assert cache.get_seq_length() == 9
    np.testing.assert_allclose(np.concatenate(rows, axis=1), full, atol=1e-5)


def test_a_cache_mutates_in_place_and_its_first_arrays_stay(model):
    first = model(IDS[:, :4], use_cache=True)
    k = first.past_key_values[0][0]
    before = k.numpy()
    second = model(IDS[:, 4:], past_key_values=first.past_key_values)
    assert second.past_key_values is first.past_key_values
    assert np.array_equal(k.numpy(), before)
    assert np.array_equal(second.past_key_values[0][0].numpy()[:, :, :4], before)


def test_a_cache_reads_as_pairs_and_is_made_from_them(model):
    first = model(IDS[:, :4], use_cache=True).past_key_values
    pairs = tuple((k.numpy(), v.numpy()) for k, v in first)
    assert pairs[0][0].shape == (2, 4, 4, 4) and len(first) == len(pairs) == 2
    a = model(IDS[:, 4:], past_key_values=pairs).logits.numpy()
    b = model(IDS[:, 4:], past_key_values=first).logits.numpy()
    assert np.array_equal(a, b)


def test_a_cache_is_used_but_not_returned_without_use_cache(model):
    cache = model(IDS[:, :4], use_cache=True).past_key_values
    out = model(IDS[:, 4:], past_key_values=cache, use_cache=False)
    assert out.past_key_values is None
    np.testing.assert_allclose(out.logits.numpy(), model(IDS).logits.numpy()[:, 4:], atol=1e-5)


def test_room_grows_by_doubling():
    """n appends of one token copy O(n) elements: the arrays move only O(log n) times."""
    cache = KVCache()
    step = Tensor(np.ones((1, 1, 1, 2), np.float32))
    places = set()
    for _ in range(200):
        k, _ = cache.update(0, step, step)
        places.add(k.data.__array_interface__["data"][0])
    assert cache.get_seq_length() == 200 and k.shape == (1, 1, 200, 2)
    assert np.array_equal(k.numpy(), np.ones((1, 1, 200, 2)))
    assert len(places) <= 10


def test_selected_rows_go_on_as_if_they_had_been_alone(model):
    cache = model(IDS[:, :5], use_cache=True).past_key_values
    cache.select([1, 1, 0])
    out = model(IDS[[1, 1, 0], 5:], past_key_values=cache)
    expected = model(IDS).logits.numpy()[[1, 1, 0], 5:]
    np.testing.assert_allclose(out.logits.numpy(), expected, atol=1e-5)


def test_gradients_reach_the_new_tokens_and_not_the_cached_ones(model):
    """With the cached keys as constants the gradient is that of the second call alone."""
    model.astype("float64")
    cache = [(k.numpy(), v.numpy()) for k, v in model(IDS[:, :5], use_cache=True).past_key_values]

    def second_call(weight):
        return model(IDS[:, 5:], past_key_values=cache).logits

    tensor.gradcheck(second_call, model.transformer.h[0].attn.c_attn.weight)


# --- words for wrong input


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (dict(), ValueError, "neither was given"),
        (dict(input_ids=IDS, inputs_embeds=np.zeros((2, 9, 16))), ValueError, "both were given"),
        (dict(input_ids=IDS[:, :0]), ValueError, r"input_ids \(2, 0\)"),
        (dict(input_ids=IDS[0]), ValueError, r"input_ids \(9,\) must be \(B, T\)"),
        (dict(input_ids=IDS.astype(float)), TypeError, "input_ids must be integers, not float64"),
        (dict(input_ids=[[1, 2], [3]]), ValueError, r"rows of lengths \[2, 1\]; pad"),
        (dict(input_ids=[[31]]), IndexError, "id 31 is outside 0 … 30"),
        (dict(input_ids=[[-1]]), IndexError, "id -1 is outside"),
        (dict(input_ids=np.zeros((1, 25), int)), IndexError, "n_positions is 24"),
        (dict(input_ids=IDS, position_ids=IDS * 0 + 24), IndexError, "position_ids from 24 to 24"),
        (dict(input_ids=IDS, position_ids=IDS[:, 1:]), ValueError, r"position_ids \(2, 8\)"),
        (dict(input_ids=IDS, attention_mask=np.ones((2, 8))), ValueError, r"must be \(B, S\)"),
        (dict(input_ids=IDS, attention_mask=np.full((2, 9), np.nan)), ValueError, "1 for tokens"),
        (dict(input_ids=IDS, labels=IDS[:, 1:]), ValueError, r"labels \(2, 8\) must be \(B, T\)"),
        (dict(input_ids=IDS, labels=IDS + 31), IndexError, "is neither in 0 … 30 nor -100"),
        (dict(input_ids=IDS, labels=IDS, logits_to_keep=2), ValueError, r"labels \(2, 9\)"),
        (dict(input_ids=IDS, logits_to_keep=-1), ValueError, "logits_to_keep = -1"),
        (dict(inputs_embeds=np.zeros((2, 9, 15))), ValueError, r"inputs_embeds \(2, 9, 15\)"),
        (dict(input_ids=IDS, past_key_values=[]), None, None),
        (
            dict(input_ids=IDS, past_key_values=[(np.zeros((2, 4, 3, 4), np.float32),) * 2]),
            ValueError,
            "1 layers, the model 2",
        ),
        (
            dict(input_ids=IDS, past_key_values=[(np.zeros((1, 4, 3, 4), np.float32),) * 2] * 2),
            ValueError,
            r"holds \(1, 4, 3, 4\), the new keys are \(2, 4, 9, 4\)",
        ),
    ],
)
def test_wrong_input_is_named(model, arguments, error, words):
    if error is None:
        assert model(**arguments).logits.shape == (2, 9, 31)
        return
    with pytest.raises(error, match=words):
        model(**arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(max_new_tokens=0), "max_new_tokens = 0"),
        (dict(max_new_tokens=16), "ask for at most 15 new tokens"),
        (dict(max_length=9), "max_length = 9 leaves no room after a prompt of 9"),
        (dict(max_length=25), r"\(n_positions\) is 24"),
        (dict(temperature=0.0, do_sample=True), "temperature = 0.0"),
        (dict(top_k=-1, do_sample=True), "top_k = -1"),
        (dict(top_p=0.0, do_sample=True), "top_p = 0.0"),
        (dict(repetition_penalty=0.0), "repetition_penalty = 0.0"),
        (dict(attention_mask=np.ones((2, 8))), r"attention_mask \(2, 8\)"),
        (dict(attention_mask=np.eye(2, 9)), "ends in padding"),
    ],
)
def test_wrong_generation_options_are_named(model, options, words):
    with pytest.raises(ValueError, match=words):
        model.generate(IDS, **options)


def test_a_number_that_is_not_whole_is_refused(model):
    with pytest.raises(TypeError, match="max_new_tokens = 2.5 must be a whole number"):
        model.generate(IDS, max_new_tokens=2.5)
    with pytest.raises(TypeError, match="eos_token_id = .*1.7.* must be a whole number"):
        model.generate(IDS, eos_token_id=1.7)


def test_damaged_weights_do_not_choose_tokens(model):
    model.transformer.ln_f.bias.copy_(np.full(16, np.nan))
    with pytest.raises(FloatingPointError, match="logits are NaN"):
        model.generate(IDS, do_sample=True, seed=0)


def test_a_tiny_temperature_is_greedy(model):
    a = model.generate(IDS, max_new_tokens=5, do_sample=True, temperature=1e-42, seed=0)
    assert np.array_equal(a, model.generate(IDS, max_new_tokens=5))


def test_labels_of_any_integer_dtype(model):
    expected = model(IDS, labels=IDS).loss.item()
    assert model(IDS, labels=IDS.astype(np.uint16)).loss.item() == expected


def test_a_cache_whose_layers_differ_is_refused(model):
    """As an interrupted call leaves it."""
    cache = model(IDS[:, :4], use_cache=True).past_key_values
    k, v = cache[0]
    cache.update(0, k, v)
    with pytest.raises(ValueError, match="different numbers of positions"):
        model(IDS[:, 4:], past_key_values=cache)


def test_an_empty_prompt_is_refused(model):
    with pytest.raises(ValueError, match=r"\(1, 0\).*can't be empty"):
        model.generate(np.zeros((1, 0), int))


def test_generation_leaves_the_mode_as_it_was(model):
    model.train()
    model.generate(IDS, max_new_tokens=2)
    assert model.training and model.transformer.drop.training


def test_generation_with_and_without_the_cache_agree(model):
    a = model.generate(IDS, max_new_tokens=12)
    b = model.generate(IDS, max_new_tokens=12, use_cache=False)
    assert a.dtype == np.int64 and np.array_equal(a, b)


# --- folders


def test_a_folder_with_unfit_weights_lists_every_problem(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError) as error:
        GPT2LMHeadModel.from_pretrained(tmp_path, n_embd=8, n_layer=1)
    text = str(error.value)
    assert "misshapen: transformer.wte.weight is (31, 16), the model's is (31, 8)" in text
    assert "unexpected: transformer.h.1.ln_1.weight (16,)" in text
    with pytest.raises(ValueError, match=r"missing: transformer.h.2.ln_1.weight \(16,\)"):
        GPT2LMHeadModel.from_pretrained(tmp_path, n_layer=3)


def test_folders_that_hold_no_model_say_what_they_hold(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="is neither a folder"):
        GPT2Model.from_pretrained(tmp_path / "gpt2")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"no model.safetensors, .*it holds: notes.txt"):
        GPT2Model.from_pretrained(tmp_path)


def test_an_interrupted_save_leaves_the_last_good_weights(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    other = GPT2LMHeadModel(GPT2Config(**CONFIG))

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        other.save_pretrained(tmp_path)
    monkeypatch.undo()
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["config.json", "generation_config.json", "model.safetensors"]
    )
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path)
    assert np.array_equal(loaded(IDS).logits.numpy(), model(IDS).logits.numpy())
