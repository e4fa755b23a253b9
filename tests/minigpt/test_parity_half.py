"""GPT-2 in bfloat16 on a device beside transformers' in bfloat16: outputs, gradients, files, and
steps of AdamW on float32 masters, which torch's loop keeps by hand.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest

from minigpt import GPT2LMHeadModel
from tensor import optim
from tensor.dtypes import name_of
from tests.kernels.devices import NAME, needs_device
from tests.minigpt.parity_helpers import make_theirs, reference_only, run_theirs

pytestmark = [*reference_only, pytest.mark.usefixtures("_device")]
NEAR = 2e-2  # of the root mean square, as in tests/tensor/halves.py


@pytest.fixture
def _device():
    needs_device()


@pytest.fixture
def pair(tmp_path):
    """(ours, theirs), both in bfloat16, from the file that transformers wrote."""
    theirs = make_theirs({}, seed=5).bfloat16()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = GPT2LMHeadModel.from_pretrained(tmp_path / "theirs", device=NAME, dtype="bfloat16")
    return ours, theirs


def batch() -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(0, 52, (3, 12))
    mask = np.ones_like(ids)
    mask[0, 8:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": np.where(mask == 1, ids, -100)}


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Root mean square of the difference, relative to theirs."""
    return float(np.sqrt(np.mean((ours - theirs) ** 2)) / np.sqrt(np.mean(theirs**2)))


def test_outputs_and_gradients(pair):
    """Near transformers' outputs; and no farther from float32's gradients than theirs are."""
    ours, theirs = pair
    found, wanted = ours(**batch()), run_theirs(theirs, **batch())
    assert name_of(found.logits.dtype) == "bfloat16" and found.loss.dtype == np.float32
    assert error(found.logits.numpy(), wanted.logits.detach().float().numpy()) < NEAR
    assert abs(found.loss.item() - wanted.loss.item()) < NEAR
    exact = copy.deepcopy(theirs).float()
    for loss in (found.loss, wanted.loss, run_theirs(exact, **batch()).loss):
        loss.backward()
    rounded, reference = dict(theirs.named_parameters()), dict(exact.named_parameters())
    for name, p in ours.named_parameters():
        gradient = reference[name].grad.numpy()
        own, other = (
            error(g, gradient) for g in (p.grad.numpy(), rounded[name].grad.float().numpy())
        )
        assert own < max(NEAR, 1.25 * other), (name, own, other)


def test_their_file_and_ours_have_the_same_bits(pair, tmp_path):
    import torch
    import transformers

    ours, theirs = pair
    ours.save_pretrained(tmp_path / "ours")
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours", torch_dtype="auto")
    assert again.dtype == torch.bfloat16
    for p, q in zip(again.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)


def test_twenty_steps_of_adamw_on_masters(pair):
    import torch

    ours, theirs = pair[0].train(), pair[1].train()
    settings = {"lr": 1e-3, "betas": (0.9, 0.95), "weight_decay": 0.1}
    optimizer = optim.AdamW(ours.parameters(), **settings)
    masters = copy.deepcopy(theirs).float()
    reference = torch.optim.AdamW(masters.parameters(), **settings)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = ours(**batch()).loss
        loss.backward()
        optimizer.step()
        theirs.zero_grad()
        expected = run_theirs(theirs, **batch()).loss
        expected.backward()
        for master, p in zip(masters.parameters(), theirs.parameters(), strict=True):
            master.grad = p.grad.float()
        reference.step()
        with torch.no_grad():
            for master, p in zip(masters.parameters(), theirs.parameters(), strict=True):
                p.copy_(master)
        losses.append((loss.item(), expected.item()))
    found, wanted = np.array(losses).T
    assert wanted[-1] < wanted[0] - 0.3
    np.testing.assert_allclose(found, wanted, atol=NEAR)
