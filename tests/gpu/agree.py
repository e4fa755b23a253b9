"""Does a GPT-2 of full size give the same numbers on the GPU as with NumPy?

    python -m tests.gpu.agree [--size tiny] [--device cuda]

The same random weights on both: logits, loss, every gradient, the losses of a few steps of
training, and the ids that greedy decoding chooses. Prints the differences, and exits with 1 where
one is above its tolerance in minigpt/tolerances.py's terms.
"""

import argparse
import sys

import numpy as np

from minigpt import GPT2Config, GPT2LMHeadModel
from tensor import manual_seed, optim
from tests.gpu.speed import SIZES

DROPOUT_OFF = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
STEPS = 5


def results(size: str, device: str) -> dict[str, np.ndarray]:
    """Everything that is compared, of one device."""
    manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**SIZES[size], **DROPOUT_OFF)).to(device)
    T = min(64, SIZES[size]["n_positions"] // 2)
    ids = np.random.default_rng(0).integers(0, SIZES[size]["vocab_size"], (2, T))
    out = model(ids, labels=ids, use_cache=False)
    out.loss.backward()
    found = {"logits": out.logits.numpy(), "loss": out.loss.numpy()}
    for name, parameter in model.named_parameters():
        found[f"gradient of {name}"] = parameter.grad.numpy()
    found["ids"] = model.eval().generate(ids[:1, :8], max_new_tokens=16, eos_token_id=None)
    optimizer = optim.AdamW(optim.decay_groups(model, 0.1), lr=1e-4)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(ids, labels=ids, use_cache=False).loss
        loss.backward()
        optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    found["losses of training"] = np.array(losses)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="124M", choices=SIZES)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    ours = results(arguments.size, arguments.device)
    numpy = results(arguments.size, "cpu")
    gradients = [name for name in numpy if name.startswith("gradient")]
    largest = max(float(np.abs(numpy[name]).max()) for name in gradients)
    rows = []
    for name, expected in numpy.items():
        difference = float(np.abs(ours[name] - expected).max())
        if name in gradients:       # of the parameter's largest, with a floor of the model's
            difference /= max(float(np.abs(expected).max()), 1e-2 * largest)
        rows.append((name, difference, 0.0 if name == "ids" else 1e-3 if "los" in name else 1e-4))
    worst = max((row for row in rows if row[0] in gradients), key=lambda row: row[1])
    print(f"{arguments.size}, {arguments.device} beside NumPy\n")
    print("| | largest difference | allowed |\n|--|--|--|")
    for name, difference, allowed in rows:
        if name not in gradients or name == worst[0]:
            print(f"| {name} | {difference:.3g} | {allowed:g} |")
    wrong = [name for name, difference, allowed in rows if not difference <= allowed]
    print(f"\n{len(rows)} compared, {len(wrong)} above what is allowed {', '.join(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
