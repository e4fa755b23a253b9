"""Make the golden files: what transformers computes for a few tiny GPT-2 models, frozen.

    python tests/golden/make_golden.py [--out FOLDER]

Needs torch==2.13.0 and transformers==4.56.2 (`pip install -e ".[reference]"`); the tests that read
the files need neither. Running it again gives the same files on the same machine, and the same to
rounding on another (tests/minigpt/test_parity_files.py holds it to that).

Each case is a folder as transformers' own `save_pretrained` writes it (config.json,
model.safetensors, generation_config.json), so that the tests load what users load, and an
`expected.safetensors` beside it, whose arrays are named `scenario/array`:

    inputs/...              input_ids, labels, and what the other scenarios take
    plain/...               input_ids and labels; every output, and gradients/NAME of the loss
    right_padded/...        an attention_mask with zeros at the right; logits and loss
    left_padded/...         zeros at the left and the position_ids they call for; also gradients
    embeds/...              inputs_embeds in place of ids; logits, loss, gradients/inputs_embeds
    adamw/losses            ten steps on the batch of `plain`, the loss before each step
    greedy.../ids           generate: prompt and continuation; `stop` with two end tokens

All with attn_implementation="eager": transformers' default, sdpa, silently ignores the flags
that change how attention scores are scaled. Dropout is off: its random bits can't agree.

In float64 transformers still computes the loss in float32, so there the loss is torch's
cross-entropy of transformers' float64 logits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from torch.nn.functional import cross_entropy, pad
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

TRANSFORMERS = "4.56.2"
SEED = 2  # any number; another one makes another set of files
TIE = 1e-4  # greedy ids are worth freezing only where the best logit leads by more than rounding

BASE = {
    "vocab_size": 61,
    "n_positions": 24,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": 60,
    "eos_token_id": 60,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}

# name: (class, dtype, what differs from BASE)
CASES = {
    "default": (GPT2LMHeadModel, torch.float32, {"n_embd": 24}),
    "gelu_inner": (
        GPT2LMHeadModel,
        torch.float32,
        {"activation_function": "gelu", "n_inner": 24, "layer_norm_epsilon": 1e-3, "n_head": 2},
    ),
    "relu_untied": (
        GPT2LMHeadModel,
        torch.float32,
        {"activation_function": "relu", "tie_word_embeddings": False, "n_layer": 1},
    ),
    "silu_scaled_by_layer": (
        GPT2LMHeadModel,
        torch.float32,
        {
            "activation_function": "silu",
            "scale_attn_weights": False,
            "scale_attn_by_inverse_layer_idx": True,
            "n_head": 1,
        },
    ),
    "upcast": (
        GPT2LMHeadModel,
        torch.float32,
        {
            "reorder_and_upcast_attn": True,
            "scale_attn_by_inverse_layer_idx": True,
            "n_layer": 3,
            "n_embd": 12,
            "n_head": 3,
        },
    ),
    "float64": (GPT2LMHeadModel, torch.float64, {"n_embd": 12, "n_head": 2}),
    "base": (GPT2Model, torch.float32, {"activation_function": "tanh", "n_embd": 12}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out = parser.parse_args().out
    if transformers.__version__ != TRANSFORMERS:
        raise SystemExit(f"needs transformers {TRANSFORMERS}, found {transformers.__version__}")
    torch.set_num_threads(1)  # the order of additions must not depend on the machine's cores
    torch.use_deterministic_algorithms(True)
    for number, name in enumerate(CASES):
        make_case(out / name, name, np.random.default_rng([SEED, number]))
        size = sum(file.stat().st_size for file in (out / name).iterdir())
        print(f"{name:24s} {size:9,d} bytes")


def make_case(folder: Path, name: str, rng: np.random.Generator) -> None:
    """Build one model, save it, and save what it computes beside it."""
    model_class, dtype, overrides = CASES[name]
    config = GPT2Config(**(BASE | overrides), attn_implementation="eager")
    model = model_class(config).to(dtype).eval()
    randomise(model, rng)
    model.save_pretrained(folder)

    inputs = draw_inputs(config, dtype, rng)
    if model_class is GPT2Model:
        inputs["cotangent"] = draw_cotangent(inputs["inputs_embeds"].shape, rng)
        expected = under("inputs", inputs) | under("plain", run_base(model, inputs))
    else:
        expected = under("inputs", inputs)
        expected |= under("plain", run_plain(model, inputs))
        expected |= under("right_padded", run_right_padded(model, inputs))
        expected |= under("left_padded", run_left_padded(model, inputs))
        expected |= under("embeds", run_embeds(model, inputs))
        expected |= run_greedy(model, inputs)
        expected["adamw/losses"] = run_adamw(model, inputs)  # last: it changes the weights
    arrays = {key: to_numpy(value) for key, value in expected.items()}
    save_file(arrays, folder / "expected.safetensors")


def randomise(model: torch.nn.Module, rng: np.random.Generator) -> None:
    """Give every parameter a value that matters: as initialised, attention is nearly uniform,
    biases are zero and layer norms the identity, and a mistake in them would not show."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = rng.normal(size=tuple(parameter.shape))
            if "ln_" in name and name.endswith("weight"):
                values = 1 + 0.2 * values
            elif name.endswith("bias"):
                values = 0.1 * values
            elif "wte" in name or "wpe" in name or "lm_head" in name:
                values = 0.5 * values
            else:  # (in, out), narrower where more terms are added
                values = 0.7 * values / parameter.shape[0] ** 0.5
            parameter.copy_(torch.from_numpy(values))


def draw_inputs(config: GPT2Config, dtype: torch.dtype, rng: np.random.Generator) -> dict:
    """One batch of three rows; the padded scenarios read 12, 7 and 9 tokens of them."""
    B, T = 3, 12
    lengths = torch.tensor([12, 7, 9])
    ids = torch.from_numpy(rng.integers(0, config.vocab_size, (B, T)))
    labels = torch.where(torch.from_numpy(rng.random((B, T)) < 0.15), -100, ids)

    right_mask = (torch.arange(T) < lengths[:, None]).long()
    left_mask = right_mask.flip(1)
    positions = (left_mask.cumsum(1) - 1).clamp(min=0)
    # The token that a pad would have to predict (the row's first) is left out of the loss, too.
    first = positions.eq(0) & left_mask.bool() & left_mask.eq(0).any(1, keepdim=True)
    return {
        "input_ids": ids,
        "labels": labels,
        "right_mask": right_mask,
        "right_labels": ids.masked_fill(right_mask == 0, -100),
        "left_mask": left_mask,
        "left_position_ids": positions,
        "left_labels": ids.masked_fill((left_mask == 0) | first, -100),
        "inputs_embeds": torch.from_numpy(0.5 * rng.normal(size=(B, T, config.n_embd))).to(dtype),
    }


def draw_cotangent(shape: torch.Size, rng: np.random.Generator) -> torch.Tensor:
    """Weights (B, T, C) that make a loss of the base model's output: sum(weights * output)."""
    return torch.from_numpy(rng.normal(size=tuple(shape)).astype(np.float32))


def run_plain(model: GPT2LMHeadModel, inputs: dict) -> dict:
    """Every output for plain ids, and the gradient of the loss for every parameter."""
    ids, labels = inputs["input_ids"], inputs["labels"]
    out = model(ids, labels=labels, output_hidden_states=True, output_attentions=True)
    loss = loss_of(out, labels)
    return {"logits": out.logits, "loss": loss} | inner_outputs(out) | gradients_of(model, loss)


def run_base(model: GPT2Model, inputs: dict) -> dict:
    """The same for the model without a head; the loss is a weighted sum of its output."""
    out = model(inputs["input_ids"], output_hidden_states=True, output_attentions=True)
    loss = (out.last_hidden_state * inputs["cotangent"]).sum()
    found = {"last_hidden_state": out.last_hidden_state, "loss": loss}
    return found | inner_outputs(out) | gradients_of(model, loss)


def run_right_padded(model: GPT2LMHeadModel, inputs: dict) -> dict:
    """A batch padded at the right; logits at the pads are kept, but mean nothing."""
    labels = inputs["right_labels"]
    out = model(inputs["input_ids"], attention_mask=inputs["right_mask"], labels=labels)
    return {"logits": out.logits, "loss": loss_of(out, labels)}


def run_left_padded(model: GPT2LMHeadModel, inputs: dict) -> dict:
    """A batch padded at the left, with the positions that make each row start at 0."""
    labels = inputs["left_labels"]
    mask, positions = inputs["left_mask"], inputs["left_position_ids"]
    out = model(inputs["input_ids"], attention_mask=mask, position_ids=positions, labels=labels)
    loss = loss_of(out, labels)
    return {"logits": out.logits, "loss": loss} | gradients_of(model, loss)


def run_embeds(model: GPT2LMHeadModel, inputs: dict) -> dict:
    """Vectors in place of ids, and the gradient that reaches them."""
    embeds = inputs["inputs_embeds"].clone().requires_grad_()
    out = model(inputs_embeds=embeds, labels=inputs["labels"])
    loss = loss_of(out, inputs["labels"])
    (gradient,) = torch.autograd.grad(loss, embeds)
    return {"logits": out.logits, "loss": loss, "gradients/inputs_embeds": gradient}


def run_adamw(model: GPT2LMHeadModel, inputs: dict) -> np.ndarray:
    """Ten AdamW steps on one batch: the loss before each."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = loss_of(model(inputs["input_ids"], labels=inputs["labels"]), inputs["labels"])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


def run_greedy(model: GPT2LMHeadModel, inputs: dict) -> dict:
    """Greedy continuations: plain, with two end tokens and a pad, and of a left-padded batch."""
    prompt = inputs["input_ids"][:, :5]
    ids = greedy(model, prompt, torch.ones_like(prompt), eos_token_id=None)
    # End tokens that stop rows at different places: what rows 0 and 1 produce at steps 3 and 6.
    ends = sorted({int(ids[0, 5 + 3]), int(ids[1, 5 + 6])})
    stopped = greedy(model, prompt, torch.ones_like(prompt), eos_token_id=ends, pad_token_id=59)

    left_prompt, left_mask = inputs["input_ids"][:, 4:], inputs["left_mask"][:, 4:]
    left = greedy(model, left_prompt, left_mask, eos_token_id=None, pad_token_id=0)
    return {
        "greedy/prompt": prompt,
        "greedy/ids": ids,
        "greedy_stop/eos_token_id": torch.tensor(ends),
        "greedy_stop/ids": stopped,
        "greedy_left_padded/prompt": left_prompt,
        "greedy_left_padded/attention_mask": left_mask,
        "greedy_left_padded/ids": left,
    }


def greedy(model: GPT2LMHeadModel, prompt: torch.Tensor, mask: torch.Tensor, **options):
    """Ten greedy tokens; refuses a near tie, where rounding could choose another token."""
    out = model.generate(
        prompt, attention_mask=mask, max_new_tokens=10, do_sample=False,
        return_dict_in_generate=True, output_logits=True, **options,
    )  # fmt: skip
    for logits in out.logits:
        best = logits.topk(2).values
        lead = (best[:, 0] - best[:, 1]).min().item()
        if lead < TIE:
            raise SystemExit(f"the best logit leads by only {lead:.1e}: choose another SEED")
    return out.sequences


def loss_of(out, labels: torch.Tensor) -> torch.Tensor:
    """transformers' loss, or in float64 the same formula without its cast to float32."""
    if out.logits.dtype == torch.float32:
        return out.loss
    shifted = pad(labels, (0, 1), value=-100)[:, 1:]  # position t predicts token t+1
    return cross_entropy(out.logits.flatten(0, 1), shifted.flatten(), ignore_index=-100)


def inner_outputs(out) -> dict:
    """Hidden states, attentions and cached keys and values as flat arrays."""
    found = {f"hidden_states/{i}": h for i, h in enumerate(out.hidden_states)}
    found |= {f"attentions/{i}": a for i, a in enumerate(out.attentions)}
    for i, (k, v) in enumerate(out.past_key_values.to_legacy_cache()):
        found |= {f"past_key_values/{i}/k": k, f"past_key_values/{i}/v": v}
    return found


def gradients_of(model: torch.nn.Module, loss: torch.Tensor) -> dict:
    """The gradient of `loss` for every parameter, a tied matrix once."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters)
    return {f"gradients/{name}": g for name, g in zip(names, gradients, strict=True)}


def under(scenario: str, arrays: dict) -> dict:
    return {f"{scenario}/{key}": value for key, value in arrays.items()}


def to_numpy(value) -> np.ndarray:
    array = value.detach().numpy() if isinstance(value, torch.Tensor) else value
    return np.array(array, order="C")  # safetensors writes the bytes as they lie


if __name__ == "__main__":
    main()
