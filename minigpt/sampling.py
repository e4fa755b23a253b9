"""Texts longer than the context."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigpt.generation_config import as_ids
from minigpt.heads import GPT2LMHeadModel


def generate_beyond_context(
    model: GPT2LMHeadModel,
    prompt: Sequence[int],
    max_new_tokens: int,
    *,
    on_token: Callable[[int], None] | None = None,
    seed: int | None = None,
    **options: Any,
) -> list[int]:
    """``model.generate`` for one prompt, however long the text grows: whenever the context of
    ``n_positions`` tokens is full, it goes on from the last half of it and forgets the rest.

    Args:
        prompt: token ids, at least one and fewer than ``n_positions``.
        max_new_tokens: how many tokens to add, unless an end token comes first.
        on_token: is given each new token as soon as it is there; with beams, which may change
            until their end, all of a context's at once.
        seed: of the first context; the following ones count on from it.
        options: what else ``generate`` takes: ``do_sample``, ``temperature``, ``num_beams`` …

    Returns:
        The prompt and the new tokens. ValueError for a prompt that is empty or too
        long, and for what `generate` refuses.
    """
    context = model.config.n_positions
    if not 0 < len(prompt) < context:
        raise ValueError(
            f"the prompt has {len(prompt)} tokens, and this model takes from 1 to {context - 1} "
            f"(its context is {context}): "
            + ("give it something to go on from" if not prompt else "shorten the prompt")
        )
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} should be at least 1")
    options = {"num_return_sequences": 1, "return_dict_in_generate": False} | options
    beams = options.get("num_beams", model.generation_config.num_beams)
    eos = options.get("eos_token_id", model.generation_config.eos_token_id)
    ends = as_ids("eos_token_id", eos)
    ids = list(prompt)
    end = len(ids) + max_new_tokens
    while len(ids) < end:
        window = ids if len(ids) < context else ids[-max(1, context // 2) :]
        room = min(context - len(window), end - len(ids))
        output = model.generate(
            np.array([window]),
            max_new_tokens=room,
            seed=seed,
            streamer=None if on_token is None or beams > 1 else _NewTokens(on_token),
            **options,
        )  # (1, window + new)
        new = output[0, len(window) :].tolist()
        if on_token is not None and beams > 1:
            for token in new:
                on_token(token)
        ids += new
        if len(new) < room or new[-1] in ends:
            break
        seed = None if seed is None else seed + 1
    return ids


class _NewTokens:
    """A streamer that hands on single tokens, without the prompt that ``generate`` puts first."""

    def __init__(self, on_token: Callable[[int], None]):
        self.on_token = on_token
        self.prompt_seen = False

    def put(self, ids: np.ndarray) -> None:
        if self.prompt_seen:
            for token in np.asarray(ids).ravel().tolist():
                self.on_token(token)
        self.prompt_seen = True

    def end(self) -> None:
        pass
