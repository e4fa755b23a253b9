"""The exercises of lesson 2: AdamW's step, and attention's causal mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tensor import Tensor, attention, optim
from tutorials.tools.exercise import Exercise, Inputs, Results, Slip, Wrong

# --- 02.1


def _adamw_cases() -> Iterator[Inputs]:
    rng = np.random.default_rng(0)
    # Not 0.99: (1 - 0.9) / sqrt(1 - 0.99) is 1, and the first step would need no bias correction.
    options = {"lr": 0.1, "beta1": 0.9, "beta2": 0.96, "eps": 1e-8, "weight_decay": 0.0}
    yield {"p": np.array([1.0, -2.0]), "g": np.array([4.0, -0.01]),
           "m": np.zeros(2), "v": np.zeros(2), "step": 1, **options}  # fmt: skip
    yield {"p": np.array([1.0, -2.0]), "g": np.array([4.0, 1.0]),
           "m": np.array([0.2, 0.1]), "v": np.array([0.5, 0.3]), "step": 3,
           **options, "weight_decay": 0.5}  # fmt: skip
    # eps as large as the gradients, so that its place shows
    options = {"lr": 0.01, "beta1": 0.8, "beta2": 0.95, "eps": 0.5, "weight_decay": 0.1}
    for shape, step in (((3,), 1), ((2, 3), 2), ((4, 3, 2), 50)):
        p, g, m, v = rng.standard_normal((4, *shape))
        first = {"m": 0 * m, "v": 0 * v} if step == 1 else {"m": m, "v": v * v}
        yield {"p": p, "g": g, **first, "step": step, **options}


def _adamw_by_library(inputs: Inputs) -> Results:
    p = Tensor(inputs["p"], requires_grad=True)
    optimizer = optim.AdamW(
        [p], lr=inputs["lr"], betas=(inputs["beta1"], inputs["beta2"]), eps=inputs["eps"],
        weight_decay=inputs["weight_decay"],
    )  # fmt: skip
    # As if the optimizer had taken step - 1 steps before.
    optimizer.load_state_dict(
        {"step": np.asarray(inputs["step"] - 1), "m.0": inputs["m"], "v.0": inputs["v"]}
    )
    p.grad = Tensor(inputs["g"])
    optimizer.step()
    state = optimizer.state_dict()
    return {"p": p.numpy(), "m": state["m.0"], "v": state["v.0"]}


def _adamw_slips(inputs: Inputs) -> Iterator[Slip]:
    p, g, m, v, step = (inputs[name] for name in ("p", "g", "m", "v", "step"))
    lr, decay = inputs["lr"], inputs["weight_decay"]
    b1, b2, eps = inputs["beta1"], inputs["beta2"], inputs["eps"]
    coupled = g + decay * p
    yield "m", m, "it did not change: mix the gradient g into it"
    yield "m", b1 * m + g, "the factor (1 - beta1) of the new gradient is missing"
    yield "m", (1 - b1) * m + b1 * g, (
        "beta1 and 1 - beta1 are swapped: the old average keeps beta1, most of its weight"
    )
    yield "m", b2 * m + (1 - b2) * g, "this is the average with beta2; m has beta1"
    yield "m", b1 * m + (1 - b1) * coupled, (
        "weight decay went through the gradient. In AdamW (W as in decoupled weight decay) it "
        "shrinks p directly, and m and v never see it"
    )
    yield "m", (b1 * m + (1 - b1) * g) / (1 - b1**step), (
        "the bias correction belongs to the step only: return m itself, uncorrected"
    )
    yield "v", v, "it did not change: mix the squared gradient g * g into it"
    yield "v", b2 * v + g * g, "the factor (1 - beta2) of the new square is missing"
    yield "v", (1 - b2) * v + b2 * g * g, (
        "beta2 and 1 - beta2 are swapped: the old average keeps beta2, most of its weight"
    )
    yield "v", b2 * v + (1 - b2) * g, "v averages the squares: g * g in place of g"
    yield "v", b1 * v + (1 - b1) * g * g, "this is the average with beta1; v has beta2"
    yield "v", (b2 * v + (1 - b2) * g * g) / (1 - b2**step), (
        "the bias correction belongs to the step only: return v itself, uncorrected"
    )
    yield from _adamw_step_slips(
        p, g, b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g, step, lr, b1, b2, eps, decay
    )


def _adamw_step_slips(
    p: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray,
    step: int, lr: float, b1: float, b2: float, eps: float, decay: float,
) -> Iterator[Slip]:  # fmt: skip
    """Wrong steps that start from the right averages m and v."""
    c1, c2 = 1 - b1**step, 1 - b2**step
    shrunk = p * (1 - lr * decay)
    move = lr * (m / c1) / (np.sqrt(v / c2) + eps)
    wrong_steps = [
        (shrunk + move, "the wrong sign: the step goes against the gradient, so it is subtracted"),
        (shrunk - lr * m / (np.sqrt(v) + eps),
         "the bias correction is missing: divide m by 1 - beta1**step, v by 1 - beta2**step"),
        (shrunk - lr * (m / c1) / (np.sqrt(v) + eps),
         "v's bias correction is missing: divide it by 1 - beta2**step"),
        (shrunk - lr * m / (np.sqrt(v / c2) + eps),
         "m's bias correction is missing: divide it by 1 - beta1**step"),
        (shrunk - lr * (m / c1) / (v / c2 + eps), "the square root of v is missing"),
        (shrunk - lr * (m / c1) / np.sqrt(v / c2 + eps),
         "eps is inside the square root; it is added after it"),
        (shrunk - lr * g, "this is plain gradient descent: use m and v in place of g"),
        (shrunk - (m / c1) / (np.sqrt(v / c2) + eps), "the learning rate lr is missing"),
        (p - move, "weight decay is missing: p shrinks by the factor 1 - lr * weight_decay"),
        (p * (1 - decay) - move, "weight decay without lr: the factor is 1 - lr * weight_decay"),
        (p * (1 + lr * decay) - move, "weight decay has the wrong sign: p should shrink"),
        (shrunk - move - lr * lr * decay * p, "weight decay was taken twice"),
    ]  # fmt: skip
    times = lr * (m / (1 - b1 * step)) / (np.sqrt(v / (1 - b2 * step)) + eps)
    wrong_steps.append((shrunk - times, "beta * step is a product; here it is a power, beta**step"))
    for shift in (-1, 1):
        d1, d2 = 1 - b1 ** (step + shift), 1 - b2 ** (step + shift)
        wrong = shrunk - lr * np.divide(m, d1) / (np.sqrt(np.divide(v, d2)) + eps)
        wrong_steps.append((wrong, "step is off by one: the first step has step = 1"))
    for value, words in wrong_steps:
        yield "p", value, words


ADAMW = Exercise(
    title="one step of AdamW",
    signature="my_adamw(p, g, m, v, step, lr, beta1, beta2, eps, weight_decay) -> p, m, v",
    cases=_adamw_cases,
    library=_adamw_by_library,
    slips=_adamw_slips,
    order=("m", "v", "p"),
)


# --- 02.2


def _mask_cases() -> Iterator[Inputs]:
    rng = np.random.default_rng(0)
    # The weights that are right: 1, 0, 0; 1/4, 3/4, 0; 1/4, 1/2, 1/4.
    scores = np.log([[[[1.0, 2.0, 3.0], [1.0, 3.0, 5.0], [1.0, 2.0, 1.0]]]])
    yield {"scores": scores, "dy": np.arange(1.0, 10.0).reshape(scores.shape) ** 2}
    for shape in ((1, 1, 1, 1), (1, 2, 3, 3), (2, 4, 5, 5)):
        yield {"scores": rng.standard_normal(shape), "dy": rng.standard_normal(shape)}


def _masked_softmax(inputs: Inputs) -> np.ndarray:
    """The definition, row by row: position t shares its attention among 0 … t."""
    scores = inputs["scores"]
    weights = np.zeros_like(scores)
    for t in range(scores.shape[-1]):
        e = np.exp(scores[..., t, : t + 1])
        weights[..., t, : t + 1] = e / e.sum(-1, keepdims=True)
    return weights


def _mask_by_library(inputs: Inputs) -> Results:
    """The weights of the library's attention, with keys such that q k^T is q, the scores."""
    scores = Tensor(inputs["scores"], requires_grad=True)
    keys = Tensor(np.broadcast_to(np.eye(scores.shape[-1]), scores.shape))
    _, weights = attention(scores, keys, keys, scale=1.0, causal=True, want_weights=True)
    assert weights is not None
    weights.backward(inputs["dy"])
    assert scores.grad is not None
    return {"weights": weights.numpy(), "dscores": scores.grad.numpy()}


def _call_with_tensors(exercise: Exercise, function: Callable[..., Any], inputs: Inputs) -> Any:
    """Call an answer that takes and returns a Tensor, and let the library take the gradient."""
    scores = Tensor(inputs["scores"], requires_grad=True)
    weights = function(scores)
    if weights is None or weights is ...:
        raise Wrong("the function returns nothing yet: its result should be the weights")
    if not isinstance(weights, Tensor):
        raise Wrong(
            f"the function returned {type(weights).__name__}, not a Tensor. Then the graph ends "
            "there and no gradient comes back: use the Tensor's own methods (masked_fill, softmax)"
        )
    if weights.shape != scores.shape:
        raise Wrong(
            f"weights has the wrong shape, {weights.shape}: one weight for each score, "
            f"{scores.shape}"
        )
    if not weights.requires_grad:
        raise Wrong(
            "the result does not remember the scores it came from: a value was taken out of the "
            "graph (by .numpy(), .detach() or no_grad), so no gradient comes back"
        )
    weights.backward(inputs["dy"])
    gradient = scores.grad
    return weights.numpy(), np.zeros(scores.shape) if gradient is None else gradient.numpy()


def _mask_slips(inputs: Inputs) -> Iterator[Slip]:
    scores = inputs["scores"]
    size = scores.shape[-1]
    past = np.tril(np.ones((size, size), bool))

    def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
        e = np.exp(x)
        return e / e.sum(axis, keepdims=True)

    def only(allowed: np.ndarray, axis: int = -1) -> np.ndarray:
        return softmax(np.where(allowed, scores, -np.inf), axis)

    yield "weights", softmax(scores), (
        "nothing is masked: each position still sees the future, so it can read the answer off"
    )
    yield "weights", only(past.T), (
        "the mask is upside down: each position sees itself and the future. It should see itself "
        "and the past, s <= t"
    )
    yield "weights", only(np.tril(past, -1)), (
        "each position must see itself, too: s <= t, not s < t. The first one has nothing to look "
        "at otherwise, and its row becomes NaN"
    )
    yield "weights", only(np.triu(past.T, 1)), "the mask is upside down: it hides the past"
    yield "weights", only(np.tri(size, size, 1, dtype=bool)), (
        "each position sees one step into the future: s <= t, not s <= t + 1"
    )
    yield "weights", np.where(past, softmax(scores), 0), (
        "masked after softmax: then the rows no longer sum to 1. Mask the scores first"
    )
    yield "weights", softmax(np.where(past, scores, 0)), (
        "a score of 0 is not a weight of 0: exp(0) is 1. The hidden scores must become -infinity"
    )
    yield "weights", only(past, -2), (
        "the wrong axis: each row is shared among the keys, the last axis"
    )
    yield "weights", np.where(past, scores, -np.inf), "the softmax is missing"


CAUSAL_MASK = Exercise(
    title="the causal mask",
    signature="my_causal_weights(scores) -> weights",
    cases=_mask_cases,
    library=_mask_by_library,
    slips=_mask_slips,
    forward=_masked_softmax,
    gradients={"dscores": "scores"},
    call=_call_with_tensors,
    also=("dscores",),
)

EXERCISES = {"02.1": ADAMW, "02.2": CAUSAL_MASK}
