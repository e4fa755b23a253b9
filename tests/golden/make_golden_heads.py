"""Make the golden files of every class and option: what transformers computes, frozen.

    python tests/golden/make_golden_heads.py [--out FOLDER]

Like make_golden.py, whose helpers it uses. Each case is a folder under `heads/` as transformers
saves it, with an `expected.safetensors` beside it:

    inputs/NAME             the arguments of the forward pass, by name
    outputs/FIELD           every field of the output; FIELD/i for tuples, FIELD/i/j for caches
    cotangent               for a case without a loss: the loss is sum(cotangent * first output)
    gradients/NAME          of that loss, or of the sum of all losses, for every parameter that
                            takes part; also of inputs_embeds and the like: gradients/inputs/NAME
    adamw/losses            ten steps on the batch, the loss before each
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import transformers
from make_golden import TRANSFORMERS, draw_cotangent, randomise, to_numpy, under
from safetensors.numpy import save_file
from transformers import GPT2Config

SEED = 5
FLOATS = ("inputs_embeds", "encoder_hidden_states", "head_mask")

BASE = {
    "vocab_size": 29,
    "n_positions": 12,
    "n_embd": 8,
    "n_layer": 2,
    "n_head": 2,
    "bos_token_id": 28,
    "eos_token_id": 28,
    "pad_token_id": 0,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "summary_first_dropout": 0.0,
    "classifier_dropout": 0.0,
}
B, N, T, S = 2, 3, 7, 4  # rows, choices, tokens, encoder states
IDS, FLAGS, HEADS = "input_ids", "token_type_ids", "head_mask"
CLASSIFIER = "GPT2ForSequenceClassification"

# name: (class, what differs from BASE, names of the arguments)
CASES = {
    "base_all_options": ("GPT2Model", {}, [IDS, FLAGS, HEADS, "attention_mask", "position_ids"]),
    "base_four_axes": ("GPT2Model", {"n_layer": 1}, ["inputs_embeds", "mask_of_four_axes"]),
    "base_packed": ("GPT2Model", {"n_layer": 1, "use_cache": False}, [IDS, "packed_positions"]),
    "base_cross_attention": (
        "GPT2Model",
        {"add_cross_attention": True, "scale_attn_by_inverse_layer_idx": True},
        [IDS, HEADS, "encoder_hidden_states", "encoder_attention_mask"],
    ),
    "lm_cross_attention": (
        "GPT2LMHeadModel",
        {"add_cross_attention": True, "n_layer": 1, "activation_function": "mish"},
        [IDS, "labels", "encoder_hidden_states", "num_items_in_batch"],
    ),
    "lm_choices": (
        "GPT2LMHeadModel",
        {"n_layer": 1, "activation_function": "quick_gelu", "tie_word_embeddings": False},
        ["choices", "choice_types", "choice_labels"],
    ),
    "double_heads": (
        "GPT2DoubleHeadsModel",
        {},
        ["choices", "choice_labels", "mc_token_ids", "mc_labels"],
    ),
    "double_heads_mean_tanh": (
        "GPT2DoubleHeadsModel",
        {"summary_type": "mean", "summary_activation": "tanh", "n_layer": 1},
        ["choices"],
    ),
    "double_heads_to_hidden": (
        "GPT2DoubleHeadsModel",
        {"summary_proj_to_labels": False, "n_layer": 1},
        [IDS, "labels"],
    ),
    "sequence_single_label": (CLASSIFIER, {"num_labels": 3}, ["padded_ids", "class_labels"]),
    "sequence_multi_label": (CLASSIFIER, {"num_labels": 3, "n_layer": 1}, [IDS, "float_labels"]),
    "sequence_regression": (CLASSIFIER, {"num_labels": 1, "n_layer": 1}, [IDS, "numbers"]),
    "tokens": ("GPT2ForTokenClassification", {"num_labels": 4}, [IDS, HEADS, "token_labels"]),
    "question_answering": (
        "GPT2ForQuestionAnswering",
        {},
        [IDS, "attention_mask", "start_positions", "end_positions"],
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out = parser.parse_args().out / "heads"
    if transformers.__version__ != TRANSFORMERS:
        raise SystemExit(f"needs transformers {TRANSFORMERS}, found {transformers.__version__}")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for number, name in enumerate(CASES):
        make_case(out / name, name, np.random.default_rng([SEED, number]))
        size = sum(file.stat().st_size for file in (out / name).iterdir())
        print(f"{name:24s} {size:9,d} bytes")


def make_case(folder: Path, name: str, rng: np.random.Generator) -> None:
    """Build one model, save it, and save what it computes beside it."""
    class_name, overrides, arguments = CASES[name]
    config = GPT2Config(**(BASE | overrides), attn_implementation="eager")
    model = getattr(transformers, class_name)(config).eval()
    randomise(model, rng)
    model.save_pretrained(folder)

    drawn = draw(config, rng)
    inputs = {key: value for argument in arguments for key, value in [drawn[argument]]}
    leaves = {key: inputs[key].requires_grad_() for key in FLOATS if key in inputs}
    out = model(**inputs, output_hidden_states=True, output_attentions=True)
    expected = under("inputs", inputs) | under("outputs", fields(out))
    losses = [out[key] for key in ("loss", "mc_loss") if out.get(key) is not None]
    if losses:
        loss = sum(losses)
    else:
        first = out[0]
        expected["cotangent"] = draw_cotangent(first.shape, rng)
        loss = (first * expected["cotangent"]).sum()
    expected |= under("gradients", gradients(loss, dict(model.named_parameters())))
    if leaves:
        loss.backward()
        expected |= under("gradients/inputs", {key: leaf.grad for key, leaf in leaves.items()})
    if losses:  # last: it changes the weights
        expected["adamw/losses"] = run_adamw(model, {k: v.detach() for k, v in inputs.items()})
    save_file({key: to_numpy(value) for key, value in expected.items()},
              folder / "expected.safetensors")  # fmt: skip


def draw(config: GPT2Config, rng: np.random.Generator) -> dict:
    """Every argument that a case may name: (its name in the forward pass, its value)."""
    V, C, H, L = config.vocab_size, config.n_embd, config.n_head, config.n_layer

    def integers(high: int, *shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.integers(0, high, shape))

    def floats(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=shape).astype(np.float32))

    mask = (torch.arange(T) < torch.tensor([[T], [T - 3]])).long()
    seen = torch.from_numpy(rng.random((B, 1, T, T)) < 0.6) | torch.eye(T, dtype=torch.bool)
    padded = integers(V - 1, B, T) + 1
    padded[1, 4:] = 0
    return {
        IDS: ("input_ids", integers(V, B, T)),
        "padded_ids": ("input_ids", padded),
        "choices": ("input_ids", integers(V, B, N, T)),
        "inputs_embeds": ("inputs_embeds", floats(B, T, C)),
        FLAGS: ("token_type_ids", integers(V, B, T)),
        "choice_types": ("token_type_ids", integers(V, B, N, T)),
        "attention_mask": ("attention_mask", mask),
        "mask_of_four_axes": (
            "attention_mask",
            torch.where(seen, 0.0, torch.finfo(torch.float32).min),
        ),
        "position_ids": ("position_ids", integers(config.n_positions, 1, T)),
        "packed_positions": ("position_ids", torch.tensor([[0, 1, 2, 0, 1, 2, 3]] * B)),
        HEADS: ("head_mask", torch.from_numpy(rng.choice([0.0, 0.5, 1.0], (L, H))).float()),
        "encoder_hidden_states": ("encoder_hidden_states", floats(B, S, C)),
        "encoder_attention_mask": ("encoder_attention_mask", mask[:, -S - 1 : -1]),
        "labels": ("labels", integers(V, B, T)),
        "num_items_in_batch": ("num_items_in_batch", torch.tensor(9)),
        "choice_labels": ("labels", integers(V, B, N, T)),
        "mc_token_ids": ("mc_token_ids", integers(T, B, N)),
        "mc_labels": ("mc_labels", integers(N, B)),
        "class_labels": ("labels", integers(config.num_labels, B)),
        "float_labels": ("labels", torch.from_numpy(rng.random((B, config.num_labels))).float()),
        "numbers": ("labels", floats(B)),
        "token_labels": ("labels", integers(config.num_labels, B, T)),
        "start_positions": ("start_positions", torch.tensor([2, T + 3])),  # the second is ignored
        "end_positions": ("end_positions", torch.tensor([5, 1])),
    }


def fields(out) -> dict:
    """The fields of an output as flat arrays."""
    found = {}
    for key, value in out.items():
        if hasattr(value, "to_legacy_cache"):
            value = [[x for x in layer if x is not None] for layer in value.to_legacy_cache()]
            found |= {f"{key}/{i}/{j}": x for i, xs in enumerate(value) for j, x in enumerate(xs)}
        elif isinstance(value, tuple):
            found |= {f"{key}/{i}": x for i, x in enumerate(value)}
        else:
            found[key] = value
    return found


def gradients(loss: torch.Tensor, parameters: dict) -> dict:
    """The gradient for every parameter that takes part."""
    found = torch.autograd.grad(
        loss, list(parameters.values()), retain_graph=True, allow_unused=True
    )
    return {name: g for name, g in zip(parameters, found, strict=True) if g is not None}


def run_adamw(model: torch.nn.Module, inputs: dict) -> np.ndarray:
    """Ten AdamW steps on one batch: the sum of the losses before each."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        out = model(**inputs)
        loss = sum(out[key] for key in ("loss", "mc_loss") if out.get(key) is not None)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


if __name__ == "__main__":
    main()
