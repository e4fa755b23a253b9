"""The weights that a new GPT-2 starts from: the numbers of the paper's scheme (Radford et al. 2019,
section 2.3), in the form that transformers gives it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minigpt import GPT2Config, GPT2LMHeadModel, GPT2Model
from tensor import random

CONFIG = {
    "vocab_size": 500,
    "n_positions": 100,
    "n_embd": 96,
    "n_layer": 3,
    "n_head": 4,
    "initializer_range": 0.05,
}


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    random.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(**CONFIG))


def matrices(model) -> dict[str, np.ndarray]:
    return {name: p.numpy() for name, p in model.named_parameters() if p.numpy().ndim == 2}


def expected_std(name: str) -> float:
    """Projections back to the residual stream are smaller, by 1 / sqrt(their number)."""
    scale = 1 / math.sqrt(2 * CONFIG["n_layer"]) if name.endswith("c_proj.weight") else 1
    return CONFIG["initializer_range"] * scale


def test_matrices_are_normal_with_the_right_width(model):
    found = matrices(model)
    assert len(found) == 2 + 4 * CONFIG["n_layer"]
    for name, array in found.items():
        std, n = expected_std(name), array.size
        # Five times the sampling error of a normal distribution's mean, width and tails.
        assert abs(array.mean()) < 5 * std / math.sqrt(n), name
        assert abs(array.std() / std - 1) < 5 / math.sqrt(2 * n), name
        for width, share in [(1, 0.682689), (2, 0.954500), (3, 0.997300)]:  # not truncated
            within = np.mean(np.abs(array) < width * std)
            assert abs(within - share) < 5 * math.sqrt(share * (1 - share) / n), (name, width)


def test_vectors_are_the_identity(model):
    vectors = {n: p.numpy() for n, p in model.named_parameters() if p.numpy().ndim == 1}
    assert len(vectors) == 2 + 8 * CONFIG["n_layer"]
    for name, array in vectors.items():
        is_scale = "ln_" in name and name.endswith("weight")
        np.testing.assert_array_equal(array, 1.0 if is_scale else 0.0, err_msg=name)


def test_no_two_matrices_are_equal(model):
    found = matrices(model)
    firsts = {array.ravel()[:8].round(6).tobytes() for array in found.values()}
    assert len(firsts) == len(found)


def test_the_seed_decides():
    config = GPT2Config(**CONFIG)
    drawn = []
    for seed in (1, 1, 2):
        random.manual_seed(seed)
        drawn.append(matrices(GPT2Model(config)))
    for name in drawn[0]:
        np.testing.assert_array_equal(drawn[0][name], drawn[1][name], err_msg=name)
        assert not np.array_equal(drawn[0][name], drawn[2][name]), name


def test_a_tied_head_is_the_embedding_and_an_untied_one_its_own():
    tied = GPT2LMHeadModel(GPT2Config(**CONFIG))
    untied = GPT2LMHeadModel(GPT2Config(**CONFIG, tie_word_embeddings=False))
    names = {name for name, _ in tied.named_parameters()}
    assert {name for name, _ in untied.named_parameters()} == names | {"lm_head.weight"}
    parameters = dict(untied.named_parameters())
    head, wte = (parameters[n].numpy() for n in ("lm_head.weight", "transformer.wte.weight"))
    assert head.shape == wte.shape and not np.array_equal(head, wte)
    assert abs(head.std() / CONFIG["initializer_range"] - 1) < 5 / math.sqrt(2 * head.size)


def test_a_new_model_trains_and_a_loaded_one_evaluates(model, tmp_path):
    assert model.training
    model.save_pretrained(tmp_path)
    assert not GPT2LMHeadModel.from_pretrained(tmp_path).training
