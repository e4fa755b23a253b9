"""How many kernels a step launches, and what Python's part of that takes: the table of
kernels/README.md.

    python -m tests.bench.launches

It runs on the emulator, with launches that do nothing while they are timed: what is left is what
the host does for a step. How many launches there are depends on the number of layers, not on their
width, so the models are narrow. Times are the processor's, medians on this machine; they say
nothing about a GPU.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np

from minigpt import GPT2Config, GPT2LMHeadModel
from minigpt.evaluation import window_loss
from minigpt.recorded_decoding import RecordedDecoding
from tensor import RecordedStep, no_grad, optim
from tensor.devices import get_backend

LAYERS = {"tiny, 4 layers": 4, "GPT-2 124M, 12 layers": 12}
BACKEND = get_backend("emulator")
DEVICE = BACKEND.device     # type: ignore[attr-defined]
T = 16


def model(layers: int) -> GPT2LMHeadModel:
    config = GPT2Config(vocab_size=64, n_positions=256, n_embd=64, n_layer=layers, n_head=1,
                        embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0)
    return GPT2LMHeadModel(config).to("emulator")


def launches(step: Callable[[], object]) -> int:
    before = BACKEND.launches
    step()
    return BACKEND.launches - before


def milliseconds(step: Callable[[], object], repeats: int = 40) -> float:
    """The median, of launches that do nothing."""
    DEVICE.launch = lambda *arguments: None
    times = []
    try:
        for _ in range(repeats):
            start = time.process_time()     # what other processes take does not count
            step()
            times.append(time.process_time() - start)
    finally:
        del DEVICE.launch
    return statistics.median(times) * 1e3


def row(name: str, ordinary: Callable[[], object], recorded: Callable[[], object]) -> str:
    ordinary()              # the first one makes room
    for _ in range(3):      # two that are recorded, and a replay
        recorded()
    counts = f"{launches(ordinary)} | {launches(recorded)}"
    return f"| {name} | {counts} | {milliseconds(ordinary):.1f} | {milliseconds(recorded):.2f} |"


def gradients(name: str, layers: int) -> str:
    trained = model(layers)
    parameters = list(trained.parameters())
    ids = np.random.default_rng(0).integers(0, 64, (2, T + 1))

    def losses(inputs, targets):
        loss = window_loss(trained, inputs, targets)
        loss.backward()
        return loss.detach()

    def ordinary() -> None:
        for p in parameters:
            p.grad = None
        losses(ids[:, :-1], ids[:, 1:])

    step = RecordedStep(losses, "emulator", parameters)
    text = row(f"{name}: forward and backward", ordinary, lambda: step(ids[:, :-1], ids[:, 1:]))
    optimizer = optim.AdamW(optim.decay_groups(trained, 0.1))

    def update() -> None:
        optim.clip_grad_norm(parameters, 1e-3)
        optimizer.step()
    count = f"{launches(update)} | {launches(update)}"
    return f"{text}\n| {name}: clipping and AdamW | {count} | {milliseconds(update):.1f} | |"


def token(name: str, layers: int) -> str:
    decoder = model(layers).eval()
    ids, past = np.array([[1]]), [None]

    def ordinary() -> None:
        past[0] = decoder(ids, past_key_values=past[0], use_cache=True, logits_to_keep=1)[1]
        past[0].reserve(256)

    with no_grad():
        for _ in range(3):
            ordinary()
        recorded = RecordedDecoding(decoder)
        recorded.start(past[0], np.ones((1, 256)))
        return row(f"{name}: a token", ordinary, lambda: recorded(ids, np.array([[3]])))


def main() -> None:
    print("| | launches | recorded | host, ms | recorded, ms |\n|--|--|--|--|--|")
    for name, layers in LAYERS.items():
        print(gradients(name, layers), flush=True)
        print(token(name, layers), flush=True)


if __name__ == "__main__":
    main()
