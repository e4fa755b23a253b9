"""Text generation: greedy, and sampling with temperature, top-k, top-p and a repetition penalty.

The functions on logits work on NumPy arrays (B, V) and return new ones; -inf takes a token out of
the choice. Their order and rules are those of transformers.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from minigpt.cache import KVCache
from tensor import no_grad
from tensor.random import Generator, default_generator

if TYPE_CHECKING:
    from minigpt.heads import GPT2LMHeadModel

DEFAULT_NEW_TOKENS = 20
_FROM_CONFIG = (
    object()
)  # distinguishes "not given" from an explicit None, which means "no end token"


class Streamer(Protocol):
    """Gets the prompt (B, T), then the tokens (B,) of each step, as they are made."""

    def put(self, ids: np.ndarray) -> None:
        """Take what has been generated since the last call."""

    def end(self) -> None:
        """Generation is over."""


def whole_number(name: str, value: Any) -> int:
    """An option as an int; TypeError with its name for a fraction or what is no number."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} = {value!r} must be a whole number") from None


# --- what changes the logits before a token is chosen


def penalize_repetition(logits: np.ndarray, ids: np.ndarray, penalty: float) -> np.ndarray:
    """Divide positive logits of the tokens in ids (B, T) by the penalty, multiply negative ones.

    Keskar et al. 2019 (CTRL), section 4.1.
    """
    result = logits.copy()
    rows = np.arange(len(logits))[:, None]
    seen = logits[rows, ids]  # (B, T)
    result[rows, ids] = np.where(seen < 0, seen * penalty, seen / penalty)
    return result


def keep_top_k(logits: np.ndarray, k: int) -> np.ndarray:
    """Only tokens whose logit is at least the k-th largest of their row; 0 keeps all."""
    k = min(k, logits.shape[-1])
    if k == 0:
        return logits
    threshold = np.partition(logits, -k, axis=-1)[:, -k, None]
    return np.where(logits < threshold, -np.inf, logits).astype(logits.dtype)


def keep_top_p(logits: np.ndarray, p: float) -> np.ndarray:
    """Only the most probable tokens that together reach probability p, at least one.

    Nucleus sampling, Holtzman et al. 2020. From the least probable token upwards, those whose
    probabilities add up to at most 1 - p go.
    """
    if p >= 1:
        return logits
    order = np.argsort(logits, axis=-1, kind="stable")  # ascending
    in_order = np.take_along_axis(logits, order, axis=-1)
    cumulative = np.cumsum(softmax(in_order), axis=-1)
    gone_in_order = cumulative <= 1 - p
    gone_in_order[:, -1] = False
    gone = np.empty_like(gone_in_order)
    np.put_along_axis(gone, order, gone_in_order, axis=-1)
    return np.where(gone, -np.inf, logits).astype(logits.dtype)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of the rows, in the logits' dtype."""
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def sample(logits: np.ndarray, generator: Generator) -> np.ndarray:
    """One token a row by its probability: int64 (B,). One draw of the generator, whatever B."""
    cumulative = np.cumsum(softmax(logits.astype(np.float64)), axis=-1)
    total = cumulative[:, -1:]
    # Below the total even after rounding, or a token without probability could be chosen.
    points = np.minimum(generator.uniform((len(logits), 1)) * total, np.nextafter(total, 0))
    return (cumulative <= points).sum(axis=-1)


@dataclass(frozen=True)
class Options:
    """How a token is chosen; see `generate`."""

    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float

    def check(self) -> None:
        """ValueError for a value that makes no sense."""
        if not self.temperature > 0:
            raise ValueError(
                f"temperature = {self.temperature} must be above 0; for the most probable token "
                "use greedy decoding, do_sample=False"
            )
        if whole_number("top_k", self.top_k) < 0:
            raise ValueError(f"top_k = {self.top_k} must not be negative, 0 for off")
        if not self.top_p > 0:
            raise ValueError(f"top_p = {self.top_p} must be above 0, 1 for off")
        if not self.repetition_penalty > 0:
            raise ValueError(
                f"repetition_penalty = {self.repetition_penalty} must be above 0, 1 for off"
            )


def choose(
    logits: np.ndarray, ids: np.ndarray, options: Options, generator: Generator
) -> np.ndarray:
    """The next token of each row, int64 (B,), from its logits (B, V) after the ids (B, T)."""
    if np.isnan(logits).any():
        raise FloatingPointError("generate: the model's logits are NaN: its weights are damaged")
    if options.repetition_penalty != 1:
        logits = penalize_repetition(logits, ids, options.repetition_penalty)
    if not options.do_sample:
        return logits.argmax(axis=-1)
    # From the row's maximum down, so that a tiny temperature gives -inf and never inf - inf.
    distance = (logits - logits.max(axis=-1, keepdims=True)).astype(np.float64)
    with np.errstate(over="ignore"):
        logits = distance / float(options.temperature)
    logits = keep_top_k(logits, options.top_k)
    return sample(keep_top_p(logits, options.top_p), generator)


# --- the loop


def generate(
    model: GPT2LMHeadModel,
    input_ids: Any,
    attention_mask: Any = None,
    *,
    max_new_tokens: int | None = None,
    max_length: int | None = None,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int = 50,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    eos_token_id: Any = _FROM_CONFIG,
    pad_token_id: int | None = None,
    seed: int | None = None,
    streamer: Streamer | None = None,
    use_cache: bool = True,
) -> np.ndarray:
    """Continue prompts token by token: int64 (B, T + new), the prompts included.

    input_ids: (B, T). Prompts of unequal length are padded on the left, and attention_mask (B, T)
        is 0 there; without a mask, pad tokens are masked if there are any and the pad token is not
        the end token.
    max_new_tokens, max_length: how many tokens to add, or to reach with the prompt; the former
        counts if both are given. 20 new tokens if neither is, or as many as the context has room
        for.
    do_sample: draw tokens by their probability instead of taking the most probable one, after
        temperature (> 0; the lower, the closer to greedy), top_k (0: off) and top_p (1: off).
    repetition_penalty: > 1 makes tokens of the prompt and the text so far less likely.
    eos_token_id: one id or several that end a row; the configuration's unless given, None for no
        end. A row that has ended is filled up with pad_token_id (the configuration's, or the first
        end token).
    seed: for sampling; without one the default generator is used.
    streamer: gets the prompt, then each step's tokens.

    ValueError if a prompt is empty, does not fit the context together with the new tokens, or an
    option makes no sense.
    """
    ids = model.integers("input_ids", input_ids).numpy().astype(np.int64)
    if ids.ndim != 2 or 0 in ids.shape:
        raise ValueError(
            f"input_ids {ids.shape} must be (B, T) with at least one token: a prompt can't be empty"
        )
    options = Options(do_sample, temperature, top_k, top_p, repetition_penalty)
    options.check()
    stop = _final_length(model.config.n_positions, ids.shape[1], max_new_tokens, max_length)
    ends, pad = _end_and_pad(model.config, eos_token_id, pad_token_id)
    mask = _prompt_mask(ids, attention_mask, ends, pad)
    generator = default_generator() if seed is None else Generator(seed)
    was_training = model.training
    model.eval()
    try:
        with no_grad():
            if streamer is not None:
                streamer.put(ids)
            cache = KVCache() if use_cache else None
            running = np.ones(len(ids), bool)
            while ids.shape[1] < stop and running.any():
                chosen = choose(_last_logits(model, ids, mask, cache), ids, options, generator)
                if pad is not None:
                    chosen = np.where(running, chosen, pad)
                ids = np.concatenate([ids, chosen[:, None]], axis=1)  # (B, T + 1)
                mask = np.concatenate([mask, np.ones_like(mask[:, :1])], axis=1)
                running &= ~np.isin(chosen, ends)
                if streamer is not None:
                    streamer.put(chosen)
            if streamer is not None:
                streamer.end()
    finally:
        model.train(was_training)
    return ids


def _last_logits(
    model: GPT2LMHeadModel, ids: np.ndarray, mask: np.ndarray, cache: KVCache | None
) -> np.ndarray:
    """The logits (B, V) after the last token; the cache, if there is one, takes in what is new."""
    # Padding takes no position: each row counts its own tokens. Padded places get position 1, any
    # would do.
    positions = np.where(mask == 0, 1, mask.cumsum(axis=1) - 1)
    past = 0 if cache is None else cache.get_seq_length()
    out = model(
        ids[:, past:],
        past_key_values=cache,
        attention_mask=mask,
        position_ids=positions[:, past:],
        use_cache=cache is not None,
        logits_to_keep=1,
        return_dict=True,
    )
    return out.logits.numpy()[:, -1]


def _final_length(
    limit: int, prompt: int, max_new_tokens: int | None, max_length: int | None
) -> int:
    """Up to which length to generate; ValueError if that does not fit the context."""
    if max_new_tokens is None and max_length is None:
        if prompt >= limit:
            raise ValueError(
                f"the prompt of {prompt} tokens fills the context of {limit} (n_positions)"
            )
        return min(prompt + DEFAULT_NEW_TOKENS, limit)
    if max_new_tokens is not None and whole_number("max_new_tokens", max_new_tokens) < 1:
        raise ValueError(f"max_new_tokens = {max_new_tokens} must be at least 1")
    if max_new_tokens is not None:
        stop = prompt + max_new_tokens
    else:
        stop = whole_number("max_length", max_length)
    if stop <= prompt:
        raise ValueError(
            f"max_length = {max_length} leaves no room after a prompt of {prompt} tokens"
        )
    if stop > limit:
        raise ValueError(
            f"a prompt of {prompt} tokens and {stop - prompt} new ones make {stop}, but the "
            f"context (n_positions) is {limit}: shorten the prompt or ask for at most "
            f"{max(0, limit - prompt)} new tokens"
        )
    return stop


def _end_and_pad(
    config: Any, eos_token_id: Any, pad_token_id: int | None
) -> tuple[list[int], int | None]:
    """The ids that end a row, and the one that fills up a row that has ended."""
    eos = config.eos_token_id if eos_token_id is _FROM_CONFIG else eos_token_id
    ends = [] if eos is None else [whole_number("eos_token_id", i) for i in np.atleast_1d(eos)]
    pad = config.pad_token_id if pad_token_id is None else pad_token_id
    return ends, ends[0] if pad is None and ends else pad


def _prompt_mask(
    ids: np.ndarray, attention_mask: Any, ends: list[int], pad: int | None
) -> np.ndarray:
    """The prompts' attention mask (B, T), int64."""
    if attention_mask is None:
        is_padding = (ids == pad) & (pad is not None and pad not in ends)
        return np.where(is_padding, 0, 1).astype(np.int64)
    mask = np.asarray(attention_mask).astype(np.int64)
    if mask.shape != ids.shape:
        raise ValueError(
            f"attention_mask {mask.shape} must have the shape of input_ids, {ids.shape}"
        )
    if not mask[:, -1].all():
        raise ValueError(
            "attention_mask: a prompt ends in padding; pad prompts on the left "
            "(padding_side='left')"
        )
    return mask
