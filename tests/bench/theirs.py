"""The cases in torch and transformers, at their best settings: SDPA attention and fused AdamW."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from tests.bench.cases import Case, model_arguments
from tests.bench.folders import model_folder
from tests.bench.ours import Step


def _model_and_ids(case: Case):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    arguments = model_arguments(case)
    model = GPT2LMHeadModel(GPT2Config(**arguments, attn_implementation="sdpa"))
    ids = np.random.default_rng(0).integers(0, arguments["vocab_size"], (case.B, case.T))
    return model, torch.tensor(ids)


def decode(case: Case) -> Step:
    """One token for each row, greedily, after a prompt of T tokens."""
    import torch

    model, ids = _model_and_ids(case)
    model.eval()
    with torch.inference_mode():
        out = model(ids, logits_to_keep=1)
    state = [out.past_key_values, out.logits[:, -1].argmax(-1)[:, None]]

    def step():
        with torch.inference_mode():
            out = model(state[1], past_key_values=state[0], logits_to_keep=1)
        state[1] = out.logits[:, -1].argmax(-1)[:, None]

    return step


def prefill(case: Case) -> Step:
    """The last position's logits of a prompt, with the cache filled."""
    import torch

    model, ids = _model_and_ids(case)
    model.eval()

    def step():
        with torch.inference_mode():
            model(ids, logits_to_keep=1)

    return step


def train(case: Case) -> Step:
    """Forward, backward, clipping and AdamW in two groups."""
    import torch

    model, ids = _model_and_ids(case)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)

    def step():
        loss = model(ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def load(case: Case) -> Step:
    """From a file in safetensors format, which is in the page cache, to a model."""
    from transformers import GPT2LMHeadModel

    folder = model_folder(case)
    return lambda: GPT2LMHeadModel.from_pretrained(folder.name)


def imports(case: Case) -> Step:
    """A fresh interpreter that imports the model class."""
    return lambda: _python("from transformers import GPT2LMHeadModel")


def start(case: Case) -> Step:
    """A fresh interpreter from its start to the first token of a small model."""
    import tempfile

    from transformers import GPT2Config, GPT2LMHeadModel

    from minigpt.bpe_training import train_bpe
    from minigpt.data import load_text

    folder = tempfile.mkdtemp()
    tokenizer = train_bpe([load_text(None)[:50_000]], 300)
    tokenizer.save_pretrained(folder)
    GPT2LMHeadModel(
        GPT2Config(**{**model_arguments(case), "vocab_size": len(tokenizer)})
    ).save_pretrained(folder)
    return lambda: _python(
        "from transformers import GPT2LMHeadModel, GPT2TokenizerFast\n"
        f"tokenizer = GPT2TokenizerFast.from_pretrained({folder!r})\n"
        f"model = GPT2LMHeadModel.from_pretrained({folder!r})\n"
        "inputs = tokenizer('The', return_tensors='pt')\n"
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=1, do_sample=False)[0]))"
    )


def _python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
