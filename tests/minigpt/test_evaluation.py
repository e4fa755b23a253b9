"""The loss over a text, and texts longer than the context."""

import numpy as np
import pytest

from minigpt import GPT2Config, GPT2LMHeadModel
from minigpt.data import TokenData
from minigpt.evaluation import sampled_loss, split_loss, window_loss
from minigpt.sampling import generate_beyond_context
from tensor import random


def small_model():
    random.manual_seed(3)
    config = GPT2Config(
        vocab_size=20, n_positions=16, n_embd=16, n_layer=1, n_head=2,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


class TestEvaluation:
    @pytest.fixture
    def model(self):
        model = small_model().train()
        for parameter in model.parameters():  # far from uniform predictions
            parameter.copy_(parameter.numpy() * 5)
        return model

    def slow_loss(self, model, inputs, targets):
        """Token by token, from the logits, in float64."""
        model.eval()
        logits = model(inputs).logits.numpy().astype(np.float64)
        model.train()
        losses = [
            np.log(np.exp(row).sum()) - row[target]
            for row, target in zip(logits.reshape(-1, logits.shape[-1]), targets.ravel())
        ]
        return float(np.mean(losses))

    def test_the_loss_over_a_split_counts_every_token_once(self, model):
        ids = np.random.default_rng(0).integers(0, 10, 75)
        data = TokenData(ids, 10)
        rows = [(ids[i : i + 16], ids[i + 1 : i + 17]) for i in range(0, 74, 16)]
        total = 0.0
        for inputs, targets in rows:
            inputs = inputs[: len(targets)]
            total += self.slow_loss(model, inputs[None], targets) * len(targets)
        for batch_size in (1, 3, 50):
            loss = split_loss(model, data, batch_size=batch_size, block_size=16)
            assert loss == pytest.approx(total / 74, abs=1e-5)
        assert model.training  # as before

    def test_every_position_has_a_target(self, model):
        inputs, targets = np.array([[1, 2, 3]]), np.array([[2, 3, 4]])
        model.eval()
        loss = window_loss(model, inputs, targets).item()
        assert loss == pytest.approx(self.slow_loss(model, inputs, targets), abs=1e-5)

    def test_the_estimate_is_repeatable_and_close(self, model):
        data = TokenData(np.random.default_rng(0).integers(0, 10, 400), 10)
        options = {"batches": 30, "batch_size": 4, "block_size": 16}
        first = sampled_loss(model, data, seed=1, **options)
        assert first == sampled_loss(model, data, seed=1, **options)
        assert first != sampled_loss(model, data, seed=2, **options)
        whole = split_loss(model, data, batch_size=4, block_size=16)
        assert first == pytest.approx(whole, rel=0.1)

    def test_a_single_token_has_no_loss(self, model):
        with pytest.raises(ValueError, match="1 tokens: a loss needs at least two"):
            split_loss(model, TokenData([1], 10, "split"), batch_size=1, block_size=4)


class TestSampling:
    @pytest.fixture
    def model(self):
        return small_model().eval()

    def test_within_the_context_it_is_generate(self, model):
        ids = generate_beyond_context(model, [1, 2, 3], 10, do_sample=False)
        assert ids == model.generate(np.array([[1, 2, 3]]), max_new_tokens=10)[0].tolist()

    def test_past_the_context_it_goes_on_from_the_last_half(self, model):
        seen = []
        ids = generate_beyond_context(model, [1, 2, 3], 50, on_token=seen.append)
        assert len(ids) == 53 and ids[:3] == [1, 2, 3] and seen == ids[3:]
        again = model.generate(np.array([ids[8:16]]), max_new_tokens=8)[0].tolist()
        assert ids[8:24] == again

    def test_a_seed_repeats_the_text(self, model):
        options = {"do_sample": True, "temperature": 1.0, "top_k": 0}
        texts = [generate_beyond_context(model, [1], 60, seed=s, **options) for s in (1, 1, 2)]
        assert texts[0] == texts[1] != texts[2]

    @pytest.mark.parametrize("length", [0, 16, 40])
    def test_prompts_that_do_not_fit(self, model, length):
        with pytest.raises(ValueError, match=f"the prompt has {length} tokens.* from 1 to 15 "):
            generate_beyond_context(model, [1] * length, 5)
