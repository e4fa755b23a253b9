"""A model beside transformers' GPT-2 on the same weights: where do the two begin to differ?

Two kinds of comparison tell that apart. *Through the model*: hidden states, attentions, logits,
loss and gradients of the model as it is called; a mistake in layer 3 shows there in every layer
from the third on. *Alone*: each part of ours gets what the same part of transformers' model got,
and should give what that gave; a mistake in layer 3 shows there and nowhere else. The first part
that deviates, in the order of the forward pass and the narrowest first, is where to look.

torch and transformers are imported in the functions that use them; attention is transformers'
"eager" one, which alone honours every option of the configuration.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.evaluation import evaluation_mode
from minigpt.heads import GPT2LMHeadModel
from minigpt.tolerances import Comparison, compare, compare_activations, compare_gradients
from tensor import Tensor, no_grad

ROWS, LONGEST = 2, 48       # of the random ids that both models get: (2, 48), or the context

HINTS = {
    "wte": "the table of tokens",
    "wpe": "the table of positions",
    "embeddings": "the tables agree, their sum doesn't: positions count 0, 1, 2 … in each row",
    "ln_1": "layer norm: the variance is the mean square without Bessel's correction; epsilon",
    "ln_2": "layer norm: the variance is the mean square without Bessel's correction; epsilon",
    "ln_f": "layer norm: the variance is the mean square without Bessel's correction; epsilon",
    "attn.c_attn": "q | k | v in one product; the weight is (in, out), y = x W + b",
    "attn.c_proj": "the weight is (in, out), y = x W + b: is it transposed?",
    "mlp.c_fc": "the weight is (in, out), y = x W + b",
    "mlp.act": "the activation: GPT-2's gelu_new is the form with tanh, not the exact one",
    "mlp.c_proj": "the weight is (in, out), y = x W + b: is it transposed?",
    "attn": "its two products agree, what is between them doesn't: the split into heads, the scale "
            "1 / sqrt(D), the causal mask, softmax",
    "attn.tiled": "with attention weights asked for it agrees: the path in tiles, which trains and "
                  "generates",
    "attentions": "the weights that are returned",
    "mlp": "its parts agree, their order doesn't",
    "block": "its parts agree, the sums around them don't: x + attn(ln_1(x)), then "
             "x + mlp(ln_2(x))",
    "through": "every part agrees when it is called alone, the model as a whole doesn't",
    "lm_head": "the logits: the hidden states times the table of tokens, transposed",
    "logits": "with attention weights and hidden states asked for they agree",
    "loss": "position t predicts token t + 1; the mean over all but the last position",
    "cache": "keys and values of earlier calls, the positions that follow them, and the mask",
}
"""What to look at, by the part that deviates first."""


@dataclass(frozen=True)
class Part:
    """One comparison. layer: its block, -1 before the first one, n_layer behind the last; kind:
    the key of HINTS; alone: whether it got transformers' input.
    """

    layer: int
    kind: str
    alone: bool
    comparison: Comparison

    @property
    def name(self) -> str:
        """Where it is: "h.3.attn.c_proj"."""
        return self.comparison.name


@dataclass(frozen=True)
class Against:
    """All comparisons: parts in the order of the forward pass, weights and gradients by parameter.

    versions: of torch and transformers. weights_from: whose reader read transformers' weights.
    """

    n_layer: int
    parts: list[Part]
    weights: list[Comparison]
    gradients: list[Comparison]
    versions: dict[str, str]
    weights_from: str

    @property
    def ok(self) -> bool:
        """Whether everything is within its tolerance."""
        return self.first_deviation is None and all(
            comparison.ok for comparison in [*self.weights, *self.gradients]
        )

    @property
    def first_deviation(self) -> Part | None:
        """The first part that deviates, and so the one to look at."""
        return next((part for part in self.parts if not part.comparison.ok), None)

    def verdict(self) -> str:
        """In a sentence or two: what deviates first, by how much, and what to look at."""
        first = self.first_deviation
        wrong = [c for c in self.weights if not c.ok]
        lines = [f"weights differ: {wrong[0].name}, of {len(wrong)}"] if wrong else []
        if first is not None:
            lines.append(f"first deviation: {first.name} ({HINTS[first.kind]}). {first.comparison}")
        elif not all(c.ok for c in self.gradients):
            # Backward begins at the loss: what deviates closest to it is the cause.
            order = [c.name for c in self.weights]      # of the forward pass
            nearest = max(
                (c for c in self.gradients if not c.ok), key=lambda c: order.index(c.name)
            )
            lines.append(
                f"the forward pass agrees, the gradients don't; nearest to the loss {nearest}"
            )
        return ". ".join(lines) or "no part deviates"


def compare_with_transformers(
    ours: GPT2LMHeadModel, folder: Path | None = None, dtype: str = "float32"
) -> Against:
    """Compare a model with transformers' GPT2LMHeadModel of the same weights and configuration.

    ours: any model laid out as ours is, parameters float32 or float64 as `dtype` says; its
    gradients are replaced. folder: where transformers reads its weights; without one, or where it
    can't read them (OpenAI's TensorFlow files), it gets ours.

    ImportError without torch or transformers.
    """
    ids = _some_ids(ours.config.vocab_size, min(LONGEST, ours.config.n_positions))
    with _quiet_transformers():
        theirs, weights_from = _load_theirs(ours, folder, dtype)
        trace, outputs, gradients = _run_theirs(theirs, ids)
    own = {name: p.numpy() for name, p in ours.named_parameters()}
    weights = [
        compare(name, own[name], p.detach().numpy(), 0.0)
        for name, p in theirs.named_parameters()
        if name in own and own[name].shape == tuple(p.shape)
    ]
    del own
    return Against(
        n_layer=ours.config.n_layer,
        parts=list(_parts(ours, ids, trace, outputs)),
        weights=weights,
        gradients=_gradients(ours, ids, gradients),
        versions=_versions(),
        weights_from=weights_from,
    )


def _some_ids(vocab_size: int, length: int) -> np.ndarray:
    """The same random ids (2, T) each time."""
    return np.random.default_rng(0).integers(0, vocab_size, (ROWS, length))


def _versions() -> dict[str, str]:
    import torch
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__}


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without its advice about deprecated names, which is not for our users. ImportError, with
    what to do, where it is not installed.
    """
    try:
        import torch  # noqa: F401
        import transformers
    except ImportError as error:
        raise ImportError(
            f"comparing with torch needs torch and transformers ({error}): "
            'pip install -e ".[reference]"'
        ) from None
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)


# ---- transformers -------------------------------------------------------------------------------


def _load_theirs(
    ours: GPT2LMHeadModel, folder: Path | None, dtype: str
) -> tuple[Any, str]:
    """transformers' model in evaluation mode, and whose reader its weights are from."""
    import torch
    import transformers

    kind = getattr(torch, dtype)
    names = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
             "pytorch_model.bin.index.json")
    if folder is not None and any((folder / name).is_file() for name in names):
        theirs = transformers.GPT2LMHeadModel.from_pretrained(
            folder, attn_implementation="eager", torch_dtype=kind, local_files_only=True
        )
        return theirs.eval(), "transformers"
    config = transformers.GPT2Config(**ours.config.to_dict(), attn_implementation="eager")
    theirs = transformers.GPT2LMHeadModel(config).to(kind)
    state = {name: torch.from_numpy(p.numpy()) for name, p in ours.named_parameters()}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise ValueError(
            f"transformers' model has other parameters: missing {missing}, unexpected {unexpected}"
        )
    return theirs.eval(), "minigpt"


def _run_theirs(
    theirs: Any, ids: np.ndarray
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, Any], dict[str, np.ndarray]]:
    """Run and differentiate transformers' model.

    Returns what went into each of its modules and came out, by name without "transformer."; its
    outputs; and its gradients by parameter.
    """
    import torch

    trace: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    # By hand: asked for them, transformers fails on a model with cross-attention but no encoder.
    attentions: list[np.ndarray] = []

    def keep(name: str) -> Any:
        def hook(module: Any, inputs: tuple, named: dict, output: Any) -> None:
            entered = inputs[0] if inputs else named["hidden_states"]
            left = output[0] if isinstance(output, tuple) else output
            trace[name] = entered.detach().numpy(), left.detach().numpy()
            if name.endswith(".attn"):
                attentions.append(output[1].detach().numpy())

        return hook

    names = ((name, name.removeprefix("transformer.")) for name, _ in theirs.named_modules())
    modules = dict(theirs.named_modules())
    handles = [
        modules[full].register_forward_hook(keep(short), with_kwargs=True)
        for full, short in names
        if short not in ("", "transformer", "h")
    ]
    tokens = torch.from_numpy(ids)
    out = theirs(tokens, output_hidden_states=True, use_cache=False)
    for handle in handles:
        handle.remove()
    # transformers' own loss, without its cast to float32.
    V = out.logits.shape[-1]
    loss = torch.nn.functional.cross_entropy(
        out.logits[:, :-1].reshape(-1, V), tokens[:, 1:].reshape(-1)            # (B * (T - 1), V)
    )
    loss.backward()
    outputs = {
        "hidden_states": [x.detach().numpy() for x in out.hidden_states],
        "attentions": attentions,
        "logits": out.logits.detach().numpy(),
        "loss": loss.detach().numpy(),
    }
    gradients = {
        name: np.zeros(tuple(p.shape), p.detach().numpy().dtype) if p.grad is None
        else p.grad.numpy()
        for name, p in theirs.named_parameters()
    }
    return trace, outputs, gradients


# ---- ours ---------------------------------------------------------------------------------------


def _parts(
    ours: GPT2LMHeadModel,
    ids: np.ndarray,
    trace: dict[str, tuple[np.ndarray, np.ndarray]],
    outputs: dict[str, Any],
) -> Iterator[Part]:
    """Every comparison of the forward pass, in its order, the narrowest part first."""
    body, L = ours.transformer, ours.config.n_layer

    def alone(layer: int, name: str, kind: str, module: Any) -> Part:
        entered, left = trace[name]
        y = module(Tensor(entered, device=ours.device)).numpy()
        return Part(layer, kind, True, compare_activations(name, y, left))

    def through(layer: int, name: str, kind: str, y: Tensor, theirs: np.ndarray) -> Part:
        return Part(layer, kind, False, compare_activations(name, y.numpy(), theirs, layer + 2))

    with evaluation_mode(ours):
        out = ours(ids, output_hidden_states=True, output_attentions=True, use_cache=False)
        hidden, attentions = outputs["hidden_states"], outputs["attentions"]
        yield alone(-1, "wte", "wte", body.wte)
        yield alone(-1, "wpe", "wpe", body.wpe)
        yield through(-1, "embeddings", "embeddings", out.hidden_states[0], hidden[0])
        for i, block in enumerate(body.h):
            for kind, module in _modules(block):
                yield alone(i, f"h.{i}.{kind}", kind, module)
            entered, left = trace[f"h.{i}.attn"]
            y, _ = block.attn(Tensor(entered, device=ours.device), *[None] * 3, False)
            name = f"h.{i}.attn without weights"
            yield Part(i, "attn.tiled", True, compare_activations(name, y.numpy(), left))
            yield alone(i, f"h.{i}", "block", lambda x, b=block: b(x, *[None] * 4, True)[0])
            name = f"h.{i}.attn, its weights"
            yield through(i, name, "attentions", out.attentions[i], attentions[i])
            if i + 1 < L:       # what leaves the last block is not among the hidden states
                name = f"h.{i}, through the model"
                yield through(i, name, "through", out.hidden_states[i + 1], hidden[i + 1])
        yield alone(L, "ln_f", "ln_f", body.ln_f)
        name = "the last hidden states, through the model"
        yield through(L, name, "through", out.hidden_states[-1], hidden[-1])
        yield alone(L, "lm_head", "lm_head", lambda x: ours.logits(x, 0))
        plain = ours(ids, labels=ids, use_cache=False)
        yield through(L, "logits", "logits", plain.logits, outputs["logits"])
        yield through(L, "loss", "loss", plain.loss, outputs["loss"])
        cut = max(1, ids.shape[1] // 2)
        if cut < ids.shape[1]:
            first = ours(ids[:, :cut], use_cache=True)
            rest = ours(ids[:, cut:], past_key_values=first.past_key_values, use_cache=True)
            name = "logits with the cache"
            yield through(L, name, "cache", rest.logits, outputs["logits"][:, cut:])


def _modules(block: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a block that can be called alone: what is within another comes before it."""
    yield "ln_1", block.ln_1
    yield "attn.c_attn", block.attn.c_attn
    yield "attn.c_proj", block.attn.c_proj
    yield "attn", lambda x: block.attn(x, None, None, None, True)[0]
    yield "ln_2", block.ln_2
    yield "mlp.c_fc", block.mlp.c_fc
    yield "mlp.act", block.mlp.act
    yield "mlp.c_proj", block.mlp.c_proj
    yield "mlp", block.mlp


def _gradients(
    ours: GPT2LMHeadModel, ids: np.ndarray, theirs: dict[str, np.ndarray]
) -> list[Comparison]:
    """The gradients of every parameter, the worst first."""
    ours.zero_grad()
    ours.eval()
    ours(ids, labels=ids, use_cache=False).loss.backward()
    own = {}
    with no_grad():
        for name, p in ours.named_parameters():
            own[name] = np.zeros(p.shape, p.dtype) if p.grad is None else p.grad.numpy()
    ours.zero_grad()
    names = own.keys() & theirs.keys()
    return compare_gradients({n: own[n] for n in names}, {n: theirs[n] for n in names})


def layer_of(parameter: str, n_layer: int) -> int:
    """The block of a parameter by its name, -1 before the first one, n_layer behind the last."""
    parts = parameter.removeprefix("transformer.").split(".")
    if parts[0] == "h":
        return int(parts[1])
    return -1 if parts[0] in ("wte", "wpe") else n_layer
