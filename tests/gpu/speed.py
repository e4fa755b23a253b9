"""Tokens a second in training and decoding, ours beside torch's, on one GPU.

    python -m tests.gpu.speed                  all the cases, each in a process of its own; a table
    python -m tests.gpu.speed --case train ours        one of them: a line of JSON

float32 unless a name says otherwise. "tf32": products of float32 on tensor cores. "bf16": ours has
bfloat16 weights and activations with float32 masters, torch its autocast, and both multiply on
tensor cores; torch's attention is then flash attention. "graph": the launches of ours in one CUDA
graph. "transformers" is its GPT-2 with SDPA attention. A step of training is forward, backward,
clipping of the norm and AdamW; it ends with its loss on the host. A step of decoding is one token,
chosen on the host. Medians after steps that were not counted.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from minigpt import GPT2Config, GPT2LMHeadModel
from minigpt.evaluation import window_loss
from minigpt.recorded_decoding import RecordedDecoding
from tensor import RecordedStep, Tensor, matmul_precision, no_grad, optim

ROOT = Path(__file__).parents[2]
SIZES = {
    "124M": dict(vocab_size=50257, n_positions=1024, n_embd=768, n_layer=12, n_head=12),
    "tiny": dict(vocab_size=65, n_positions=64, n_embd=32, n_layer=2, n_head=2),
}
SHAPES = {"124M": {"train": (4, 512), "decode": (1, 64)}, "tiny": {"train": (2, 16),
                                                                  "decode": (1, 8)}}
# torch.compile last: it takes longer than all others together, and the time may end before it does.
RUNS = [
    *(("train", library) for library in ("ours", "ours-graph", "ours-tf32", "ours-bf16",
                                         "ours-bf16-graph", "torch", "torch-tf32")),
    *(("decode", library) for library in ("ours", "ours-graph", "ours-bf16", "torch", "torch-tf32",
                                          "transformers")),
    ("train", "torch-compile"), ("train", "torch-bf16-compile"),
]  # fmt: skip
Step = Callable[[], object]


def draw_ids(size: str, case: str) -> np.ndarray:
    return np.random.default_rng(0).integers(0, SIZES[size]["vocab_size"], SHAPES[size][case])


def ours_model(size: str, device: str, library: str) -> GPT2LMHeadModel:
    config = GPT2Config(**SIZES[size], resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    dtype = "bfloat16" if "bf16" in library else "float32"
    return GPT2LMHeadModel(config).to(device, dtype)


def precision_of(library: str) -> str:
    """How exactly ours multiplies: a name of `tensor.matmul_precision`."""
    return next((name for name in ("tf32", "bf16") if name in library), "float32")


def ours_train(size: str, device: str, library: str) -> Step:
    model = ours_model(size, device, library)
    parameters = list(model.parameters())
    optimizer = optim.AdamW(optim.decay_groups(model, 0.1), lr=1e-3, betas=(0.9, 0.99))
    ids = draw_ids(size, "train")
    inputs, targets = ids, np.roll(ids, -1, axis=1)

    def gradients(inputs: np.ndarray | Tensor, targets: np.ndarray | Tensor) -> Tensor:
        loss = window_loss(model, inputs, targets)
        loss.backward()
        return loss.detach()

    if "graph" in library:
        gradients = RecordedStep(gradients, device, parameters)

    def step() -> float:
        with matmul_precision(precision_of(library)):
            loss = gradients(inputs, targets)
        optim.clip_grad_norm(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()
    return step


def ours_decode(size: str, device: str, library: str) -> Step:
    model = ours_model(size, device, library).eval()
    recorded = RecordedDecoding(model) if "graph" in library else None
    places = SIZES[size]["n_positions"]
    state: list = [None, draw_ids(size, "decode")]

    def step() -> None:
        cache, ids = state
        with no_grad(), matmul_precision(precision_of(library)):
            if recorded is not None and cache is not None:
                logits = recorded(ids, np.full_like(ids, cache.get_seq_length()))
            else:
                out = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache, logits = out.past_key_values, out.logits.numpy()[:, -1]
                if recorded is not None:
                    recorded.start(cache, np.ones((len(ids), places)))
        state[:] = cache, logits.argmax(-1)[:, None]
    return step


def torch_model(size: str, device: str, library: str):
    import torch

    from tests.gpu.torch_gpt2 import GPT2

    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high" if library == "torch-tf32" else "highest")
    model = GPT2(**SIZES[size]).to("cuda" if device == "cuda" else "cpu")
    return model, next(model.parameters()).device


def torch_train(size: str, device: str, library: str) -> Step:
    import torch

    model, where = torch_model(size, device, library)
    run = torch.compile(model) if "compile" in library else model
    half = torch.autocast(where.type, torch.bfloat16, enabled="bf16" in library)
    groups = [{"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
              {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)
    ids = torch.tensor(draw_ids(size, "train"), device=where)

    def step() -> float:
        with half:
            loss = run(ids, labels=ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()
    return step


def torch_decode(size: str, device: str, library: str) -> Step:
    import torch

    model, where = torch_model(size, device, library)
    model.eval()
    caches: list[list] = [[] for _ in model.h]
    state = [0, torch.tensor(draw_ids(size, "decode"), device=where)]

    def step() -> None:
        with torch.inference_mode():
            logits = model(state[1], caches=caches, start=state[0])
        state[:] = state[0] + state[1].shape[1], torch.tensor(
            logits.cpu().numpy().argmax(-1)[:, None], device=where)
    return step


def transformers_decode(size: str, device: str, library: str) -> Step:
    import torch
    import transformers

    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SIZES[size])).eval()
    model = model.to("cuda" if device == "cuda" else "cpu")
    state: list = [None, torch.tensor(draw_ids(size, "decode"), device=model.device)]

    def step() -> None:
        with torch.inference_mode():
            out = model(state[1], past_key_values=state[0], use_cache=True, logits_to_keep=1)
        state[:] = out.past_key_values, torch.tensor(
            out.logits[:, -1].cpu().numpy().argmax(-1)[:, None], device=model.device)
    return step


STEPS = {"train": {"ours": ours_train, "torch": torch_train},
         "decode": {"ours": ours_decode, "torch": torch_decode,
                    "transformers": transformers_decode}}


def measure(case: str, library: str, size: str, device: str, repeats: int) -> dict[str, float]:
    """Seconds a step: the median, the least and the most."""
    step = STEPS[case][library.partition("-")[0]](size, device, library)
    for _ in range(4):  # compile, fill the pool, record; the first step of decoding is the prompt
        step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    B, T = SHAPES[size][case]
    tokens = B * T if case == "train" else B
    seconds = statistics.median(times)
    return {"seconds": seconds, "least": min(times), "most": max(times),
            "tokens_per_s": tokens / seconds}


def one(case: str, library: str, arguments: argparse.Namespace) -> dict | str:
    """`measure` in a process of its own; what went wrong, in a line, where it did."""
    command = [sys.executable, "-m", "tests.gpu.speed", "--case", case, library, "--size",
               arguments.size, "--device", arguments.device, "--repeats", str(arguments.repeats)]
    limit = arguments.timeout * (2 if "compile" in library else 1)
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return f"took longer than {limit} seconds"
    if run.returncode:
        return (run.stderr.strip().splitlines() or ["no message"])[-1]
    return json.loads(run.stdout.splitlines()[-1])


def table(arguments: argparse.Namespace) -> bool:
    """Print the table; whether ours ran in every case."""
    print("| | B x T | ms a step (least to most) | tokens/s | ours (float32) beside it |\n"
          "|--|--|--|--|--|")
    good, ours = True, dict[str, float]()       # tokens a second, by case
    for case, library in RUNS:
        if arguments.ours_only and not library.startswith("ours"):
            continue
        B, T = SHAPES[arguments.size][case]
        name = f"{case} {arguments.size}, {library.replace('-', ', ')}"
        result = one(case, library, arguments)
        if isinstance(result, str):
            print(f"| {name} | {B} x {T} | failed: {result} | | |", flush=True)
            good = good and not library.startswith("ours")
            continue
        speed, ratio = result["tokens_per_s"], ""
        if library == "ours":
            ours[case] = speed
        elif case in ours:
            ratio = f"{ours[case] / speed:.2f}"
        print(f"| {name} | {B} x {T} | {result['seconds'] * 1e3:.2f} "
              f"({result['least'] * 1e3:.2f} to {result['most'] * 1e3:.2f}) | {speed:,.0f} | "
              f"{ratio} |", flush=True)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs=2, metavar=("CASE", "LIBRARY"))
    parser.add_argument("--size", default="124M", choices=SIZES)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--timeout", type=int, default=60,
                        help="seconds for each of the cases; twice that where torch compiles")
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(*arguments.case, arguments.size, arguments.device,
                                 arguments.repeats)))
        return 0
    return 0 if table(arguments) else 1


if __name__ == "__main__":
    sys.exit(main())
