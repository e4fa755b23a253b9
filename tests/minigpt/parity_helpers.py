"""What the live comparisons with transformers share: pairs of equal models, and how to compare.

torch and transformers are imported in the functions that use them, so that collecting the tests
costs a run of the quick tier nothing.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from dataclasses import dataclass, fields

import numpy as np
import pytest
from hypothesis import strategies as st

import minigpt
from minigpt import tolerances
from minigpt.activations import ACTIVATIONS
from minigpt.cache import KVCache
from minigpt.pretrained import PreTrainedModel
from tensor import Tensor

TRANSFORMERS = "4.56.2"

TINY = {
    "vocab_size": 53,
    "n_positions": 20,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": 52,
    "eos_token_id": 52,
}
NO_DROPOUT = {
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "summary_first_dropout": 0.0,
    "classifier_dropout": 0.0,
}


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _why_not() -> str | None:
    if _installed("torch") is None:
        return "needs torch"
    if (found := _installed("transformers")) != TRANSFORMERS:
        return f"compares with transformers {TRANSFORMERS}, found {found or 'none'}"
    return None


# For `pytestmark`: runs with `-m reference`, and only beside the version that we claim to match.
reference_only = [
    pytest.mark.reference,
    pytest.mark.skipif(_why_not() is not None, reason=str(_why_not())),
]


@dataclass
class Pair:
    """One model twice, with the same weights: ours, and transformers'."""

    ours: PreTrainedModel
    theirs: object

    @property
    def config(self):
        """transformers' configuration."""
        return self.theirs.config


def class_name(base: bool, name: str | None) -> str:
    """`name`, or without one the class with a language-modelling head, or the one without."""
    return name or ("GPT2Model" if base else "GPT2LMHeadModel")


def make_theirs(
    config: dict, seed: int, dtype: str = "float32", base: bool = False, name: str | None = None
):
    """transformers' model with eager attention, without dropout, in evaluation mode, and with
    weights from `seed` that make every parameter matter."""
    import torch
    import transformers

    from tests.golden.make_golden import randomise

    torch.set_num_threads(1)  # more would only wait for each other in models this small
    theirs_class = getattr(transformers, class_name(base, name))
    theirs_config = transformers.GPT2Config(
        **(TINY | NO_DROPOUT | config), attn_implementation="eager"
    )
    theirs = theirs_class(theirs_config).to(getattr(torch, dtype)).eval()
    randomise(theirs, np.random.default_rng(seed))
    return theirs


def make_pair(
    config: dict, seed: int, dtype: str = "float32", base: bool = False, name: str | None = None
) -> Pair:
    """A pair whose weights go from transformers to us through the files that it saves."""
    theirs = make_theirs(config, seed, dtype, base, name)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours_class = getattr(minigpt, class_name(base, name))
        return Pair(ours_class.from_pretrained(folder, dtype=dtype), theirs)


def to_torch(value):
    """NumPy arrays as torch tensors; anything else as it is."""
    import torch

    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def run_theirs(theirs, **inputs):
    """Call transformers' model with NumPy inputs."""
    return theirs(**{name: to_torch(value) for name, value in inputs.items()})


def loss_of(reference, labels: np.ndarray):
    """transformers' loss; in float64 the same formula without its cast to float32."""
    from tests.golden import make_golden

    return make_golden.loss_of(reference, to_torch(labels))


def flatten(value) -> list[np.ndarray]:
    """The arrays of one output field of either library: a tensor, a tuple of them, a cache."""
    if isinstance(value, Tensor):
        return [value.numpy()]
    if isinstance(value, KVCache):
        return [array for layer in value for part in layer for array in flatten(part)]
    if hasattr(value, "to_legacy_cache"):
        value = value.to_legacy_cache()
    if isinstance(value, (tuple, list)):  # transformers has None where cross-attention was skipped
        return [array for part in value if part is not None for array in flatten(part)]
    if isinstance(value, np.ndarray):
        return [value]
    return [value.detach().numpy()]


def assert_same(name: str, ours, reference, where=None) -> None:
    """Same dtype, shape and values (to the tolerance of outputs) of one output field.

    `where` is a boolean array (B, T): compare only these positions, because the others attend to
    nothing and mean nothing.
    """
    found, wanted = flatten(ours), flatten(reference)
    assert len(found) == len(wanted), f"{name}: {len(found)} arrays for {len(wanted)}"
    for i, (a, b) in enumerate(zip(found, wanted)):
        assert a.dtype == b.dtype and a.shape == b.shape, (
            f"{name}[{i}]: {a.dtype} {a.shape} for {b.dtype} {b.shape}"
        )
        if where is not None and a.ndim > 0:
            a, b = select(a, where), select(b, where)
        result = tolerances.compare_output(f"{name}[{i}]", a, b)
        assert result.ok, str(result)


def select(array: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The given positions of (B, T, C), or of (B, H, T, anything)."""
    per_position = array if array.ndim == 3 else array.transpose(0, 2, 1, 3)  # (B, T, H, ...)
    return per_position[where]


def assert_same_outputs(out, reference, where=None) -> None:
    """Every field of two outputs: the same ones are there, and hold the same."""
    for field in fields(out):
        ours, wanted = getattr(out, field.name), getattr(reference, field.name, None)
        assert (ours is None) == (wanted is None), f"{field.name}: one of the two is None"
        if ours is not None:
            assert_same(field.name, ours, wanted, where)


def assert_same_gradients(pair: Pair, loss, reference_loss) -> None:
    """Backward on both sides, then every parameter's gradient."""
    import torch

    for parameter in pair.ours.parameters():
        parameter.grad = None
    loss.backward()
    names, parameters = zip(*pair.theirs.named_parameters())
    gradients = torch.autograd.grad(reference_loss, parameters, allow_unused=True)
    # A parameter that took no part (a head whose loss was not asked for) has none on either side.
    wanted = {name: g.numpy() for name, g in zip(names, gradients) if g is not None}
    parameters = pair.ours.named_parameters()
    found = {name: p.grad.numpy() for name, p in parameters if p.grad is not None}
    results = tolerances.compare_gradients(found, wanted)
    assert results[0].ok, "\n".join(str(r) for r in results if not r.ok)


@st.composite
def configs(draw) -> dict:
    """Any small GPT-2."""
    n_head, head_size = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    # Layer norm over a few numbers magnifies the rounding of nearly equal ones, in torch too.
    n_embd = n_head * max(head_size, -(-8 // n_head))
    return {
        "vocab_size": draw(st.integers(2, 70)),
        "n_positions": draw(st.integers(2, 24)),
        "n_embd": n_embd,
        "n_head": n_head,
        "n_layer": draw(st.integers(1, 3)),
        "n_inner": draw(st.none() | st.integers(1, 40)),
        "activation_function": draw(st.sampled_from(sorted(ACTIVATIONS))),
        "layer_norm_epsilon": draw(st.sampled_from([1e-5, 1e-6, 1e-3])),
        "scale_attn_weights": draw(st.booleans()),
        "scale_attn_by_inverse_layer_idx": draw(st.booleans()),
        "reorder_and_upcast_attn": draw(st.booleans()),
        "tie_word_embeddings": draw(st.booleans()),
    }


def draw_batch(config, rng: np.random.Generator, B: int, T: int, padding: str = "none") -> dict:
    """Random input_ids and labels; `padding` is none, right, left or holes.

    `where` (B, T) tells the positions that have something to attend to; no label is predicted
    from another one. Left padding comes with the position_ids that it calls for.
    """
    ids = rng.integers(0, config.vocab_size, (B, T))
    lengths = rng.integers(1, T + 1, B)
    lengths[0] = T  # else the padding would be wider than the batch
    masks = {
        "none": np.ones_like(ids),
        "right": np.arange(T) < lengths[:, None],
        "left": np.arange(T) >= T - lengths[:, None],
        "holes": rng.random((B, T)) < 0.7,
    }
    mask = masks[padding].astype(np.int64)
    mask[0, 0] |= padding == "holes"  # the first row starts, so that some label counts
    where = mask.cumsum(1) > 0

    labels = np.where(rng.random((B, T)) < 0.2, -100, ids)
    labels[0, 1:2] = ids[0, 1:2]
    labels[:, 1:][~where[:, :-1]] = -100
    batch = {"input_ids": ids, "labels": labels, "where": where}
    if padding != "none":
        batch["attention_mask"] = mask
    if padding == "left":
        batch["position_ids"] = np.maximum(mask.cumsum(1) - 1, 0)
    return batch
