"""Every class and option against frozen results of transformers 4.56.2: the files of
tests/golden/heads, made by make_golden_heads.py there. Needs neither torch nor transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import minigpt
from minigpt import tolerances
from minigpt.cache import KVCache
from tensor import Tensor, optim
from tests.kernels.devices import needs_device, on_each_device

GOLDEN = Path(__file__).parents[1] / "golden" / "heads"
CASES = sorted(folder.name for folder in GOLDEN.iterdir())
FLOATS = ("inputs_embeds", "encoder_hidden_states", "head_mask")

every_case = on_each_device(CASES)


def load(case: str, device: str):
    """(model, expected arrays, inputs) of one folder."""
    if device != "cpu":
        needs_device()
    (class_name,) = json.loads((GOLDEN / case / "config.json").read_text())["architectures"]
    model = getattr(minigpt, class_name).from_pretrained(GOLDEN / case, device)
    expected = load_file(GOLDEN / case / "expected.safetensors")
    return model, expected, under(expected, "inputs/")


def under(arrays: dict, prefix: str) -> dict:
    return {key[len(prefix) :]: value for key, value in arrays.items() if key.startswith(prefix)}


def arrays_of(value) -> dict[str, np.ndarray]:
    """One output field as flat arrays, named as in the files."""
    if isinstance(value, Tensor):
        return {"": value.numpy()}
    parts = list(value) if isinstance(value, KVCache) else value
    return {
        f"/{i}{name}": array
        for i, part in enumerate(parts)
        for name, array in arrays_of(part).items()
    }


def total_loss(out) -> Tensor | None:
    """The sum of the losses that were asked for."""
    losses = [out[key] for key in ("loss", "mc_loss") if key in out]
    return sum(losses[1:], losses[0]) if losses else None


def test_there_are_cases_of_every_class():
    names = {
        json.loads((GOLDEN / case / "config.json").read_text())["architectures"][0]
        for case in CASES
    }
    assert names == {name for name in minigpt.__all__ if name.startswith("GPT2")} - {
        "GPT2Config",
        "GPT2Tokenizer",
        "GPT2TokenizerFast",
    }


@every_case
def test_outputs_and_gradients(case, device):
    model, expected, inputs = load(case, device)
    given = [key for key in FLOATS if key in inputs]
    leaves = {key: Tensor(inputs[key], requires_grad=True, device=device) for key in given}
    out = model(**inputs | leaves, output_hidden_states=True, output_attentions=True)

    wanted = under(expected, "outputs/")
    found = {key + name: x for key, value in out.items() for name, x in arrays_of(value).items()}
    assert found.keys() == wanted.keys()
    for key, reference in wanted.items():
        assert found[key].dtype == reference.dtype
        result = tolerances.compare_output(key, found[key], reference)
        assert result.ok, str(result)

    loss = total_loss(out)
    if loss is None:
        loss = (out[0] * Tensor(expected["cotangent"], device=device)).sum()
    loss.backward()
    tensors = dict(model.named_parameters()) | {f"inputs/{k}": x for k, x in leaves.items()}
    gradients = {name: x.grad.numpy() for name, x in tensors.items() if x.grad is not None}
    results = tolerances.compare_gradients(gradients, under(expected, "gradients/"))
    assert results[0].ok, "\n".join(str(r) for r in results if not r.ok)


@every_case
def test_the_same_without_attentions_and_cache(case, device):
    """Attention has a path that keeps its weights and one that does not."""
    model, expected, inputs = load(case, device)
    options = {} if case == "question_answering" else {"use_cache": False}
    out = model(**inputs, **options)
    for key, value in out.items():
        if isinstance(value, Tensor):
            result = tolerances.compare_output(key, value.numpy(), expected[f"outputs/{key}"])
            assert result.ok, str(result)


WITHOUT_LABELS = [case for case in CASES if case.startswith("base") or case.endswith("tanh")]


@on_each_device(sorted({*CASES} - {*WITHOUT_LABELS}))
def test_ten_adamw_steps(case, device):
    model, expected, inputs = load(case, device)
    model.train()  # dropout is 0 in every case
    optimizer = optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = total_loss(model(**inputs))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    result = tolerances.compare(
        "losses", np.array(losses), expected["adamw/losses"], tolerances.TRAINING_LOSS
    )
    assert result.ok, str(result)
    assert losses[-1] < losses[0]
