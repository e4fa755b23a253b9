"""The cases in minigpt: each function returns a step to be timed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np

from tests.bench.cases import Case, model_arguments
from tests.bench.folders import model_folder

Step = Callable[[], object]


def _model_and_ids(case: Case):
    from minigpt import GPT2Config, GPT2LMHeadModel

    arguments = model_arguments(case)
    model = GPT2LMHeadModel(GPT2Config(**arguments))
    ids = np.random.default_rng(0).integers(0, arguments["vocab_size"], (case.B, case.T))
    return model, ids


def decode(case: Case) -> Step:
    """One token for each row, greedily, after a prompt of T tokens."""
    from tensor import no_grad

    model, ids = _model_and_ids(case)
    model.eval()
    with no_grad():
        out = model(ids, logits_to_keep=1)
    state = [out.past_key_values, out.logits.numpy()[:, -1].argmax(-1)[:, None]]

    def step():
        with no_grad():
            out = model(state[1], past_key_values=state[0], logits_to_keep=1)
        state[1] = out.logits.numpy()[:, -1].argmax(-1)[:, None]

    return step


def prefill(case: Case) -> Step:
    """The last position's logits of a prompt, with the cache filled."""
    from tensor import no_grad

    model, ids = _model_and_ids(case)
    model.eval()

    def step():
        with no_grad():
            model(ids, logits_to_keep=1)

    return step


def train(case: Case) -> Step:
    """Forward, backward, clipping and AdamW in two groups."""
    from tensor import optim

    model, ids = _model_and_ids(case)
    optimizer = optim.AdamW(optim.decay_groups(model, 0.1), lr=1e-3, betas=(0.9, 0.99))

    def step():
        loss = model(ids, labels=ids, use_cache=False).loss
        loss.backward()
        optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def load(case: Case) -> Step:
    """From a file in safetensors format, which is in the page cache, to a model."""
    from minigpt import GPT2LMHeadModel

    folder = model_folder(case)
    return lambda: GPT2LMHeadModel.from_pretrained(folder.name)


def imports(case: Case) -> Step:
    """A fresh interpreter that imports the model class."""
    return lambda: _python("from minigpt import GPT2LMHeadModel")


def start(case: Case) -> Step:
    """A fresh interpreter from its start to the first token of a small model."""
    import tempfile

    from minigpt.bpe_training import train_bpe
    from minigpt.data import load_text

    folder = tempfile.mkdtemp()
    tokenizer = train_bpe([load_text(None)[:50_000]], 300)
    from minigpt import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(
        GPT2Config(**{**model_arguments(case), "vocab_size": len(tokenizer)})
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    words = ["generate", "--model", folder, "--max-new-tokens", "1", "--greedy", "The"]
    return lambda: _python(f"from minigpt.cli import main; main({words!r})")


def _python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
