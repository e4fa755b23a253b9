"""nanoGPT's CPU run, here and in torch: `python -m tests.bench.nano_cpu TEXT [--seed N]`.

Both train on the same random batches with the settings of the preset nano-cpu, estimate the
validation loss every 250 steps, and end with the loss over the whole validation split; each in a
process of its own, one after the other. Their initial weights are drawn by different generators.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

from minigpt.data import TokenData, load_text
from minigpt.presets import PRESETS, TrainConfig
from minigpt.run_setup import make_tokenizer, model_config, tokenize
from minigpt.training import LEARNING_RATE, Trainer
from tests.bench.worker import THREADS


def ours(config: TrainConfig) -> float:
    """The preset's run as `minigpt train` does it, checkpoints included; the final loss."""
    with tempfile.TemporaryDirectory() as folder:
        result = Trainer.start(config, folder, report=None).run()
    assert result.whole_validation_loss is not None
    return result.whole_validation_loss


def theirs(config: TrainConfig) -> float:
    """The same run with transformers' GPT-2, SDPA attention and fused AdamW; the final loss."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.set_num_threads(THREADS)
    torch.manual_seed(config.seed)
    text = load_text(config.data)
    tokenizer = make_tokenizer(config.tokenizer, text)
    train, validation = tokenize(text, tokenizer)
    shape = model_config(config, tokenizer).to_dict()
    names = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
    dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout)
    model = GPT2LMHeadModel(GPT2Config(**{n: shape[n] for n in names}, **dropouts))
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2]},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    optimizer = torch.optim.AdamW(groups, betas=betas, weight_decay=config.weight_decay, fused=True)

    def loss_of(inputs: np.ndarray, targets: np.ndarray) -> torch.Tensor:
        logits = model(torch.tensor(inputs), use_cache=False).logits
        flat = torch.tensor(targets).view(-1)  # (B * T,)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), flat)

    def mean_loss(batches: list[tuple[np.ndarray, np.ndarray]]) -> float:
        with torch.inference_mode():
            total = sum(loss_of(x, y).item() * y.size for x, y in batches)
        return total / sum(y.size for _, y in batches)

    def evaluate(data: TokenData) -> float:
        shape = (config.batch_size, config.block_size)
        batches = [data.random_batch(*shape, seed=config.seed, step=i) for i in range(20)]
        return mean_loss(batches)

    for step in range(config.max_steps):
        if step % config.eval_every == 0:
            evaluate(validation)
        x, y = train.random_batch(
            config.batch_size, config.block_size, seed=config.seed, step=step
        )
        loss = loss_of(x, y)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE[config.schedule](
                step, config.lr, config.warmup_steps, config.max_steps, config.min_lr
            )
        optimizer.step()
    return mean_loss(list(validation.windows(config.batch_size, config.block_size)))


def main() -> None:
    """Run both, each in a fresh process; with --library only one, here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text")
    parser.add_argument("--seed", type=int, default=PRESETS["nano-cpu"].seed)
    parser.add_argument("--library", choices=["ours", "theirs"])
    arguments = parser.parse_args()
    if arguments.library:
        config = PRESETS["nano-cpu"].replace(
            data=arguments.text, seed=arguments.seed, order="random"
        )
        start = time.perf_counter()
        loss = ours(config) if arguments.library == "ours" else theirs(config)
        seconds = time.perf_counter() - start
        print(f"{arguments.library:7} seed {arguments.seed}: {loss:.4f} nats, {seconds:.1f} s")
        return
    threads = {f"{name}_NUM_THREADS": str(THREADS) for name in ("OPENBLAS", "OMP", "MKL")}
    for library in ("ours", "theirs"):
        command = [sys.executable, "-m", "tests.bench.nano_cpu", arguments.text]
        command += ["--seed", str(arguments.seed), "--library", library]
        subprocess.run(command, check=True, env={**os.environ, **threads})


if __name__ == "__main__":
    main()
