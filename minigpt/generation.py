"""Text generation: `generate` reads its options and hands on to greedy decoding and sampling, which
are here, or to beam search.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from minigpt.beam_search import beam_search
from minigpt.generation_config import (
    DEFAULT_LENGTH,
    GenerationConfig,
    as_ids,
    bad_words,
    bias_pairs,
)
from minigpt.logits_processors import Processor, processors, softmax
from minigpt.next_logits import NextLogits
from minigpt.outputs import GenerateOutput
from minigpt.recorded_decoding import RecordedDecoding
from minigpt.stopping import Stopping, StoppingCriterion
from minigpt.streamers import Streamer
from tensor import no_grad
from tensor.random import Generator, default_generator

if TYPE_CHECKING:
    from minigpt.heads import LanguageModel

# What changes nothing without do_sample=True, or without num_beams.
_SAMPLING_ONLY = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff",
)  # fmt: skip
_BEAMS_ONLY = ("early_stopping", "length_penalty")
_OUTPUTS_ONLY = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")


def generate(
    model: LanguageModel,
    input_ids: Any = None,
    attention_mask: Any = None,
    *,
    generation_config: GenerationConfig | None = None,
    logits_processor: Sequence[Processor] = (),
    stopping_criteria: Sequence[StoppingCriterion] = (),
    streamer: Streamer | None = None,
    tokenizer: Any = None,
    seed: int | None = None,
    cuda_graph: bool = False,
    **options: Any,
) -> Any:
    """Continue prompts token by token: int64 (B, T + new), the prompts included.

    input_ids: (B, T); without them generation starts from the token bos_token_id. Prompts of
        unequal length are padded on the left, and attention_mask (B, T) is 0 there; without a mask,
        pad tokens are masked if there are any and the pad token is not an end token.
    options: those of `GenerationConfig`, which lists and explains them; what is not given is as
        generation_config or else the model's own has it. An explicit None turns an option off:
        eos_token_id=None means no end token.
        - max_new_tokens, or max_length with the prompt: 20 new tokens if neither is given, or as
          many as the context has room for.
        - A row that has reached an end token (one of eos_token_id) or a stop string is filled up
          with pad_token_id.
        - num_return_sequences rows a prompt lie together, for beams the best one first.
    logits_processor: functions (ids (N, T), scores (N, V)) -> scores (N, V), called after the score
        changes of the options and before the filters of sampling.
    stopping_criteria: functions (ids (N, T), scores so far or None) -> bool (N,): which rows end.
    streamer: gets the prompt, then each step's tokens; see `minigpt.streamers`. Not with beams.
    tokenizer: reads the tokens for stop_strings.
    seed: for sampling; without one the default generator is used.
    cuda_graph: on "cuda" and "emulator", record a token's launches and replay them for those that
        follow, with the same results: see `minigpt.recorded_decoding`. Not with beams, without a
        cache, where attentions or hidden states are asked for, in float16, or with padding in
        bfloat16; and no other thread may use the device meanwhile.

    With return_dict_in_generate=True returns a `GenerateOutput`.

    TypeError for an unknown option; ValueError if a prompt is empty, does not fit the context
    together with the new tokens, or an option makes no sense: always before the first token.
    """
    config = _config(model, generation_config, options)
    _warn_of_what_has_no_effect(config, options)
    _check_vocabulary(config, options, model.config.vocab_size)
    _check_functions("logits_processor", logits_processor)
    _check_functions("stopping_criteria", stopping_criteria)
    if streamer is not None and config.num_beams > 1:
        raise ValueError(f"streamer: beams (num_beams = {config.num_beams}) can't be streamed")
    ids = _prompt(model, input_ids, attention_mask, config.bos_token_id)  # (B, T)
    length = _final_length(model.config.n_positions, ids.shape[1], config, options)
    ends = as_ids("eos_token_id", config.eos_token_id)
    pad = ends[0] if config.pad_token_id is None and ends else config.pad_token_id
    mask = _prompt_mask(ids, attention_mask, ends, pad, from_bos=input_ids is None)
    stopping = _stopping(config, length, ends, tokenizer, stopping_criteria)
    copies = max(config.num_beams, config.num_return_sequences)
    _check_pad(pad, stopping, len(ids) * copies, model.config.vocab_size)
    change = processors(
        config, model.config.vocab_size, ids.shape[1], length, own=logits_processor
    )
    generator = default_generator() if seed is None else Generator(seed)
    recorded = _recorded_decoding(model, config) if cuda_graph else None
    next_logits = NextLogits(model, mask, copies, config, recorded, length)
    ids = np.repeat(ids, copies, axis=0)  # (N, T): each prompt's rows together
    with _evaluation(model), no_grad():
        if config.num_beams > 1:
            output = beam_search(next_logits, ids, config, change, stopping, pad, generator)
        else:
            output = _sample(next_logits, ids, config, change, stopping, pad, generator, streamer)
    return output if config.return_dict_in_generate else output.sequences


def _recorded_decoding(model: LanguageModel, config: GenerationConfig) -> RecordedDecoding:
    """ValueError where the steps of a generation are not the same launches."""
    wanted = config.return_dict_in_generate
    for text, is_on in (
        (f"num_beams = {config.num_beams}: beams rearrange the cache", config.num_beams > 1),
        ("use_cache = False: each step is longer than the last", not config.use_cache),
        ("output_attentions", wanted and config.output_attentions),
        ("output_hidden_states", wanted and config.output_hidden_states),
    ):
        if is_on:
            raise ValueError(f"cuda_graph=True can't be had with {text}")
    return RecordedDecoding(model)


@contextmanager
def _evaluation(model: LanguageModel) -> Iterator[None]:
    """The model without dropout, and afterwards as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _sample(
    next_logits: NextLogits,
    ids: np.ndarray,
    config: GenerationConfig,
    change: list[Processor],
    stopping: Stopping,
    pad: int | None,
    generator: Generator,
    streamer: Streamer | None,
) -> GenerateOutput:
    """Greedy decoding, or sampling: one token a row and step, until all rows have ended."""
    all_scores: list[np.ndarray] | None = [] if config.output_scores else None
    running = np.ones(len(ids), bool)
    if streamer is not None:
        streamer.put(ids)
    while running.any():
        scores = next_logits(ids)  # (N, V)
        for processor in change:
            scores = processor(ids, scores)
        if all_scores is not None:
            all_scores.append(scores)
        _require_a_choice(scores, running)
        chosen = sample(scores, generator) if config.do_sample else scores.argmax(axis=-1)
        if pad is not None:
            chosen = np.where(running, chosen, pad)
        ids = np.concatenate([ids, chosen[:, None]], axis=1)  # (N, T + 1)
        running &= ~stopping(ids, all_scores)
        if streamer is not None:
            streamer.put(chosen)
    if streamer is not None:
        streamer.end()
    return next_logits.output(ids, all_scores)


def sample(scores: np.ndarray, generator: Generator) -> np.ndarray:
    """One token a row by its probability: int64 (N,). One draw of the generator, whatever N."""
    cumulative = np.cumsum(softmax(scores.astype(np.float64)), axis=-1)
    total = cumulative[:, -1:]
    # Below the total even after rounding, or a token without probability could be chosen.
    points = np.minimum(generator.uniform((len(scores), 1)) * total, np.nextafter(total, 0))
    return (cumulative <= points).sum(axis=-1)


def _require_a_choice(scores: np.ndarray, running: np.ndarray) -> None:
    """ValueError for a running row whose tokens are all out of the choice."""
    best = scores.max(axis=-1)
    if not np.isfinite(best[running]).all():
        row = int(np.flatnonzero(running & ~np.isfinite(best))[0])
        raise ValueError(
            f"generate: row {row} has no token left to choose, its best score is {best[row]}: the "
            "options or a logits_processor take all of them out"
        )


# ---- the options, checked against the model and each other --------------------------------------


def _warn_of_what_has_no_effect(config: GenerationConfig, given: dict[str, Any]) -> None:
    """Of options given in this call; what a file holds may wait for another strategy."""
    default = GenerationConfig()
    for names, is_on, needed in (
        (_SAMPLING_ONLY, config.do_sample, "do_sample=True"),
        (_BEAMS_ONLY, config.num_beams > 1, "num_beams above 1"),
        (_OUTPUTS_ONLY, config.return_dict_in_generate, "return_dict_in_generate=True"),
    ):
        idle = [n for n in names if given.get(n) is not None and given[n] != getattr(default, n)]
        if idle and not is_on:
            text = ", ".join(f"{n}={given[n]!r}" for n in idle)
            warnings.warn(f"generate: {text} changes nothing without {needed}", stacklevel=4)


def _config(
    model: LanguageModel, given: GenerationConfig | None, options: dict[str, Any]
) -> GenerationConfig:
    """All options, checked as far as they can be without prompt and vocabulary."""
    config = model.generation_config
    if given is not None:
        if not isinstance(given, GenerationConfig):
            raise TypeError(
                f"generation_config must be a GenerationConfig, not a {type(given).__name__}"
            )
        config = given.with_defaults_of(config)
    config = config.updated(**options)
    config.validate()
    return config


def _check_functions(name: str, functions: Any) -> None:
    if not isinstance(functions, (list, tuple)) or not all(map(callable, functions)):
        raise TypeError(f"{name} must be a list of functions, not {functions!r}")


def _check_pad(pad: int | None, stopping: Stopping, rows: int, vocab_size: int) -> None:
    """ValueError if a row may end before others, and the pad token can't fill it up."""
    by_text = bool(stopping.stop_strings or stopping.own)
    may_end = by_text or any(0 <= end < vocab_size for end in stopping.ends)
    if rows == 1 or not may_end:
        return
    if pad is None:
        raise ValueError(
            "pad_token_id is needed: stop strings and stopping_criteria end rows at different "
            "lengths"
        )
    if not 0 <= pad < vocab_size:
        raise ValueError(
            f"pad_token_id = {pad} is outside the vocabulary, 0 … {vocab_size - 1}: it can't fill "
            "up rows that have ended"
        )


def _check_vocabulary(config: GenerationConfig, given: dict[str, Any], vocab_size: int) -> None:
    """ValueError for ids outside the vocabulary. The default end token of a configuration may be:
    small models are often made with GPT-2's, 50256; it never comes.
    """
    names = ["forced_bos_token_id", "forced_eos_token_id", "suppress_tokens"]
    names += ["begin_suppress_tokens"]
    names += [n for n in ("bos_token_id", "eos_token_id", "pad_token_id") if n in given]
    used = {name: as_ids(name, getattr(config, name)) for name in names}
    words = [] if config.bad_words_ids is None else bad_words(config.bad_words_ids)
    used["bad_words_ids"] = [i for word in words for i in word]
    ends = [[end] for end in as_ids("eos_token_id", config.eos_token_id)]
    if words and all(word in ends for word in words):
        raise ValueError(
            f"bad_words_ids = {words} holds nothing but end tokens, which it never takes out; use "
            "suppress_tokens, or eos_token_id=None"
        )
    pairs = [] if config.sequence_bias is None else bias_pairs(config.sequence_bias)
    used["sequence_bias"] = [i for sequence, _ in pairs for i in sequence]
    for name, ids in used.items():
        outside = [i for i in ids if not 0 <= i < vocab_size]
        if outside:
            raise ValueError(
                f"{name}: {outside} is outside the vocabulary, 0 … {vocab_size - 1}"
            )
    if config.exponential_decay_length_penalty is not None and not ends:
        raise ValueError("exponential_decay_length_penalty needs an eos_token_id")


def _prompt(
    model: LanguageModel, input_ids: Any, attention_mask: Any, bos: int | None
) -> np.ndarray:
    """The prompts, int64 (B, T), checked."""
    if input_ids is None:
        if attention_mask is not None:
            raise ValueError("attention_mask was given without input_ids")
        if bos is None:
            raise ValueError("give input_ids, or a bos_token_id to start from")
        if not 0 <= bos < model.config.vocab_size:
            raise ValueError(
                f"give input_ids: bos_token_id = {bos} is outside the vocabulary, "
                f"0 … {model.config.vocab_size - 1}"
            )
        input_ids = [[bos]]
    ids = model.integers("input_ids", input_ids).numpy().astype(np.int64)
    if ids.ndim == 1 and len(ids) > 0:
        raise ValueError(f"input_ids {ids.shape} must be (B, T): a single prompt is a row, [ids]")
    if ids.ndim != 2 or 0 in ids.shape:
        raise ValueError(
            f"input_ids {ids.shape} must be (B, T) with at least one token: a prompt can't be empty"
        )
    return ids


def _final_length(
    limit: int, prompt: int, config: GenerationConfig, given: dict[str, Any]
) -> int:
    """Up to which length to generate; ValueError if that does not fit the context."""
    if prompt >= limit:
        raise ValueError(
            f"the prompt of {prompt} tokens fills the context of {limit} (n_positions): shorten it"
        )
    if config.max_new_tokens is not None:
        stop = prompt + config.max_new_tokens
    elif config.max_length is None or (
        config.max_length == DEFAULT_LENGTH and given.get("max_length") is None
    ):
        stop = min(prompt + DEFAULT_LENGTH, limit)
    else:
        stop = config.max_length
    if stop <= prompt:
        raise ValueError(
            f"max_length = {config.max_length} leaves no room after a prompt of {prompt} tokens"
        )
    if stop > limit:
        raise ValueError(
            f"a prompt of {prompt} tokens and {stop - prompt} new ones make {stop}, but the "
            f"context (n_positions) is {limit}: shorten the prompt or ask for at most "
            f"{limit - prompt} new tokens"
        )
    for name, least in (("min_length", 0), ("min_new_tokens", prompt)):
        if given.get(name) is not None and given[name] + least > stop:
            raise ValueError(
                f"{name} = {given[name]} can't be reached after a prompt of {prompt} tokens: "
                f"generation ends at {stop}; give max_new_tokens"
            )
    # float32 ends at e^88
    if config.num_beams > 1 and abs(config.length_penalty) * math.log(stop) > 80:
        raise ValueError(
            f"length_penalty = {config.length_penalty}: {stop} tokens to this power are beyond "
            "float32; values from -2 to 2 are usual"
        )
    return stop


def _stopping(
    config: GenerationConfig,
    length: int,
    ends: list[int],
    tokenizer: Any,
    own: Sequence[StoppingCriterion],
) -> Stopping:
    if config.stop_strings is not None and tokenizer is None:
        raise ValueError("stop_strings need the tokenizer, to read the tokens: tokenizer=...")
    if config.stop_strings is not None and not hasattr(tokenizer, "decode_bytes"):
        raise TypeError(
            f"tokenizer must be one of minigpt's, not a {type(tokenizer).__name__}"
        )
    return Stopping(length, ends, config.stop_strings, tokenizer, own)


def _prompt_mask(
    ids: np.ndarray, attention_mask: Any, ends: list[int], pad: int | None, from_bos: bool
) -> np.ndarray:
    """The prompts' attention mask (B, T), int64."""
    if attention_mask is None:
        is_padding = (ids == pad) & (pad is not None and pad not in ends and not from_bos)
        mask = np.where(is_padding, 0, 1).astype(np.int64)
        advice = f"; or is {pad} not padding there? Then pass an attention_mask"
    else:
        given = np.asarray(attention_mask)
        if given.shape != ids.shape:
            raise ValueError(
                f"attention_mask {given.shape} must have the shape of input_ids, {ids.shape}"
            )
        if given.dtype.kind not in "biuf" or not np.isin(given, (0, 1)).all():
            raise ValueError("attention_mask must be 1 for tokens and 0 for padding")
        mask, advice = given.astype(np.int64), ""
    if not mask[:, -1].all():
        raise ValueError(
            "attention_mask: a prompt ends in padding; pad prompts on the left "
            f"(padding_side='left'){advice}"
        )
    return mask
