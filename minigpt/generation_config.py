"""All options of `generate`, and generation_config.json, which holds a model's own.

Names, defaults and file format are those of transformers 4.56.2.
"""

from __future__ import annotations

import difflib
import json
import math
import operator
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.checkpoints.hub import find_folder
from minigpt.files import atomic_write, read_json

GENERATION_CONFIG_FILE = "generation_config.json"
DEFAULT_LENGTH = 20
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

# Options of transformers that are not here, and the values with which they change nothing.
NOT_HERE: dict[str, Any] = {
    "assistant_early_exit": None, "assistant_model": None, "cache_config": None,
    "cache_implementation": None, "constraints": None, "custom_generate": None,
    "disable_compile": False, "diversity_penalty": 0.0, "dola_layers": None,
    "encoder_no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0, "force_words_ids": None,
    "guidance_scale": None, "inputs_embeds": None, "low_memory": None, "max_time": None,
    "negative_prompt_ids": None, "num_beam_groups": 1, "past_key_values": None,
    "penalty_alpha": None, "position_ids": None, "prefill_chunk_size": None,
    "prefix_allowed_tokens_fn": None, "prompt_lookup_num_tokens": None,
    "remove_invalid_values": False, "return_legacy_cache": None, "synced_gpus": None,
    "token_healing": False, "token_type_ids": None, "watermarking_config": None,
}  # fmt: skip

# In a file these tell who wrote it; they say nothing about generation.
_PROVENANCE = ("transformers_version", "_commit_hash")


@dataclass(kw_only=True, slots=True)  # slots: a misspelt attribute is an error
class GenerationConfig:
    """The options of `generate`, with transformers' names and defaults; None is off.

    Where several are on, they apply in the order of `minigpt.logits_processors`.
    """

    # How long. The length counts the prompt, the new tokens don't.
    max_length: int | None = DEFAULT_LENGTH     # if not given, 20 new ones, as there is room
    max_new_tokens: int | None = None   # wins over max_length
    min_length: int | None = 0          # no end token before
    min_new_tokens: int | None = None   # wins over min_length
    stop_strings: str | list[str] | None = None     # the text that ends a row; needs a tokenizer

    # Which strategy: greedy, sampling, beam search (num_beams > 1), or sampling beams.
    do_sample: bool = False
    num_beams: int = 1
    early_stopping: bool | str = False  # of beams: True at num_beams ended ones, or "never"
    length_penalty: float = 1.0         # of beams: log-probability / length ** length_penalty
    num_return_sequences: int = 1       # rows a prompt: at most num_beams, or when sampling
    use_cache: bool = True

    # Which tokens sampling draws from.
    temperature: float | None = 1.0     # logits are divided by it: below 1 is closer to greedy
    top_k: int | None = 50              # the k likeliest; 0 is off
    top_p: float | None = 1.0           # the likeliest that reach probability p; 1 is off
    min_p: float | None = None          # those of at least min_p times the likeliest's probability
    typical_p: float | None = 1.0       # those nearest to the entropy that reach this probability
    epsilon_cutoff: float | None = 0.0  # those of at least this probability
    eta_cutoff: float | None = 0.0      # the same, lowered where the entropy is high

    # What changes the scores of tokens.
    sequence_bias: Any = None           # {(id, …, id): number added to the last one's score}
    repetition_penalty: float | None = 1.0          # above 1: what was there is less likely
    no_repeat_ngram_size: int | None = 0            # no n tokens in a row come a second time
    bad_words_ids: list[list[int]] | None = None    # sequences that never come
    forced_bos_token_id: int | None = None          # the token after a prompt of one
    forced_eos_token_id: int | list[int] | None = None      # the last token at the final length
    exponential_decay_length_penalty: Any = None    # (start, factor) raises the end token's score
    suppress_tokens: list[int] | None = None        # ids that never come
    begin_suppress_tokens: list[int] | None = None  # ids that do not come first
    renormalize_logits: bool = False    # the final scores are log-probabilities

    # What is returned.
    return_dict_in_generate: bool = False
    output_scores: bool = False
    output_logits: bool | None = None
    output_attentions: bool = False
    output_hidden_states: bool = False

    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None     # ends a row; several may
    pad_token_id: int | None = None     # fills up a row that has ended; None: the first end token

    # Not options: made from a model's configuration; and what else a file held.
    from_model_config: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in OPTIONS:  # as JSON has them, which also compare
            value = getattr(self, name)
            if isinstance(value, (np.ndarray, np.generic)):
                setattr(self, name, value.tolist())

    # ---- making one ----------------------------------------------------------------------------

    @classmethod
    def of_model(cls, model_config: Any) -> GenerationConfig:
        """What a model's configuration says about generation, as old folders keep it there."""
        values = {name: getattr(model_config, name, None) for name in OPTIONS}
        config = cls(from_model_config=True, **{n: v for n, v in values.items() if v is not None})
        outputs = (config.output_attentions, config.output_hidden_states, config.output_scores)
        if any(outputs) or config.output_logits:
            config.return_dict_in_generate = True
        return config

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], /) -> GenerationConfig:
        """Read generation_config.json in a folder, or the file itself, or that of a model on the
        Hub by its name.

        FileNotFoundError if there is none; ValueError that names the file if it is damaged, a value
        in it is wrong, or it asks for something of transformers that is not here.
        """
        file = find_folder(path, "config")
        if file.is_dir():
            file = file / GENERATION_CONFIG_FILE
        values = {k: v for k, v in read_json(file).items() if k not in _PROVENANCE}
        made = bool(values.pop("_from_model_config", False))
        extra = {k: values.pop(k) for k in list(values) if k not in OPTIONS}
        for name, value in extra.items():
            if name in NOT_HERE and not _is_off(name, value):
                raise ValueError(
                    f"{file}: {name} = {value!r} is an option of transformers that is not "
                    f"supported here; remove it from the file"
                )
        config = cls(from_model_config=made, extra=extra, **values)
        try:
            config.validate()
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file}: {error}") from None
        return config

    def save_pretrained(self, folder: str | os.PathLike[str], /) -> None:
        """Write generation_config.json, what differs from the defaults; whole, or not at all."""
        default = GenerationConfig()
        values = {n: getattr(self, n) for n in OPTIONS if getattr(self, n) != getattr(default, n)}
        if isinstance(values.get("sequence_bias"), Mapping):    # whose keys JSON can't hold
            pairs = values["sequence_bias"].items()
            values["sequence_bias"] = [[list(ids), bias] for ids, bias in pairs]
        if self.from_model_config:
            values["_from_model_config"] = True
        text = json.dumps(self.extra | values, indent=2, sort_keys=True)
        with atomic_write(Path(folder) / GENERATION_CONFIG_FILE, "w") as f:
            f.write(text + "\n")

    def updated(self, **options: Any) -> GenerationConfig:
        """A copy with some options replaced. TypeError for a name that is no option."""
        for name, value in options.items():
            if name in OPTIONS or (name in NOT_HERE and _is_off(name, value)):
                continue
            if name == "inputs":
                raise TypeError("generate: the prompts are input_ids here, not inputs")
            if name in NOT_HERE:
                raise TypeError(
                    f"generate: {name} is an option of transformers that is not supported here"
                )
            near = difflib.get_close_matches(name, OPTIONS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"generate has no option {name!r}{hint}")
        return replace(self, **{n: v for n, v in options.items() if n in OPTIONS})

    def with_defaults_of(self, other: GenerationConfig) -> GenerationConfig:
        """A copy that takes from another what is at its default here."""
        default = GenerationConfig()
        at_default = (n for n in OPTIONS if getattr(self, n) == getattr(default, n))
        return replace(self, **{name: getattr(other, name) for name in at_default})

    # ---- checks --------------------------------------------------------------------------------

    def validate(self) -> None:
        """TypeError for a value of the wrong kind, ValueError for one that makes no sense.

        Both name the option, its value and what is allowed.
        """
        for option in fields(self):
            value = getattr(self, option.name)
            allowed = {"bool": (True, False), "bool | None": (True, False, None)}
            if value not in allowed.get(str(option.type), (value,)):
                raise TypeError(f"{option.name} = {value!r} must be True or False")
        for name, least in _LEAST.items():
            if getattr(self, name) is not None or name in ("num_beams", "num_return_sequences"):
                number = whole_number(name, getattr(self, name))
                if number < least:
                    off = ", 0 for off" if least == 0 and name != "min_length" else ""
                    raise ValueError(f"{name} = {number} must be at least {least}{off}")
        self._validate_strategy()
        self._validate_sampling()
        self._validate_tokens()

    def _validate_strategy(self) -> None:
        if not (isinstance(self.early_stopping, bool) or self.early_stopping == "never"):
            raise ValueError(
                f"early_stopping = {self.early_stopping!r} must be True, False or 'never'"
            )
        _number("length_penalty", self.length_penalty)
        if self.num_return_sequences > 1 and self.num_beams == 1 and not self.do_sample:
            raise ValueError(
                f"num_return_sequences = {self.num_return_sequences}: greedy decoding has one "
                "result; use do_sample=True, or num_beams"
            )
        if 1 < self.num_beams < self.num_return_sequences:
            raise ValueError(
                f"num_return_sequences = {self.num_return_sequences} must be at most num_beams = "
                f"{self.num_beams}"
            )
        texts = [self.stop_strings] if isinstance(self.stop_strings, str) else self.stop_strings
        if texts is not None and not (
            isinstance(texts, (list, tuple)) and texts and all(isinstance(t, str) for t in texts)
        ):
            raise TypeError(f"stop_strings = {self.stop_strings!r} must be a string or several")
        if texts is not None and "" in texts:
            raise ValueError("stop_strings: an empty string would end every row at once")

    def _validate_sampling(self) -> None:
        for name, (low, high, rule) in _RANGES.items():
            value = getattr(self, name)
            if value is None:
                continue
            number = _number(name, value)
            if not low <= number <= high:
                raise ValueError(f"{name} = {value} {rule}")
        for name in ("repetition_penalty", "top_p", "typical_p"):
            if getattr(self, name) == 0:
                raise ValueError(f"{name} = {getattr(self, name)} must be above 0, 1 for off")
        if self.do_sample and self.temperature == 0:
            raise ValueError(
                f"temperature = {self.temperature} must be above 0; for the most probable token "
                "use greedy decoding: do_sample=False, or --greedy"
            )

    def _validate_tokens(self) -> None:
        for name in _TOKENS:
            if getattr(self, name) is not None:
                as_ids(name, getattr(self, name))
        for name in ("bos_token_id", "pad_token_id", "forced_bos_token_id"):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name))
        if self.bad_words_ids is not None:
            bad_words(self.bad_words_ids)
        if self.sequence_bias is not None:
            bias_pairs(self.sequence_bias)
        if self.exponential_decay_length_penalty is not None:
            decay = self.exponential_decay_length_penalty
            if not isinstance(decay, (list, tuple)) or len(decay) != 2:
                raise ValueError(
                    f"exponential_decay_length_penalty = {decay!r} must be (start, factor)"
                )
            whole_number("exponential_decay_length_penalty: start", decay[0])
            _number("exponential_decay_length_penalty: factor", decay[1])


OPTIONS = tuple(
    f.name for f in fields(GenerationConfig) if f.name not in ("from_model_config", "extra")
)
_LEAST = {
    "max_length": 1, "max_new_tokens": 1, "min_length": 0, "min_new_tokens": 0, "num_beams": 1,
    "num_return_sequences": 1, "top_k": 0, "no_repeat_ngram_size": 0,
}  # fmt: skip
_RANGES = {
    "temperature": (0, math.inf, "must be above 0"),
    "top_p": (0, math.inf, "must be above 0, 1 for off"),
    "min_p": (0, 1, "must be from 0 to 1, None for off"),
    "typical_p": (0, math.inf, "must be above 0, 1 for off"),
    "epsilon_cutoff": (0, 1, "must be from 0 to 1, 0 for off"),
    "eta_cutoff": (0, 1, "must be from 0 to 1, 0 for off"),
    "repetition_penalty": (0, math.inf, "must be above 0, 1 for off"),
}
_TOKENS = (
    "bos_token_id", "eos_token_id", "pad_token_id", "forced_bos_token_id", "forced_eos_token_id",
    "suppress_tokens", "begin_suppress_tokens",
)  # fmt: skip


def _is_off(name: str, value: Any) -> bool:
    """Whether an option that is not here has the value with which it changes nothing."""
    off = NOT_HERE[name]
    return value is off or (isinstance(value, (int, float)) and value == off)


def whole_number(name: str, value: Any) -> int:
    """An option as an int; TypeError with its name for a fraction or what is no number."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} = {value!r} must be a whole number") from None


def _number(name: str, value: Any) -> float:
    if isinstance(value, (bool, str)):
        raise TypeError(f"{name} = {value!r} must be a number")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name} = {value!r} must be a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} = {value!r} must be a finite number")
    return number


def as_ids(name: str, value: Any) -> list[int]:
    """An option that is one id, several, or None, as a list. TypeError for what are no ids."""
    if value is None:
        return []
    if isinstance(value, np.ndarray):
        value = value.tolist()
    many = isinstance(value, Iterable) and not isinstance(value, str)
    return [whole_number(name, i) for i in (value if many else [value])]


def bad_words(value: Any) -> list[list[int]]:
    """bad_words_ids as lists of ints."""
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(
            f"bad_words_ids = {value!r} must be a list of lists of ids, as [[5], [7, 8]]; "
            "None for off"
        )
    words = []
    for word in value:
        if not isinstance(word, (list, tuple, np.ndarray)) or len(word) == 0:
            raise ValueError(f"bad_words_ids: {word!r} must be a list of at least one id")
        words.append(as_ids("bad_words_ids", word))
    return words


def bias_pairs(value: Any) -> list[tuple[list[int], float]]:
    """sequence_bias as (ids, number) pairs, from a dict or, as JSON has it, a list of pairs."""
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    wanted = "a dict {(id, …): number}, or a list of [[id, …], number]"
    if not isinstance(pairs, (list, tuple)) or not pairs:
        raise ValueError(f"sequence_bias = {value!r} must be {wanted}")
    result = []
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise ValueError(f"sequence_bias: {pair!r} must be a pair of {wanted}")
        ids = as_ids("sequence_bias", pair[0])
        if not ids:
            raise ValueError(f"sequence_bias: {pair!r} has no ids")
        bias = -math.inf if pair[1] == -math.inf else _number("sequence_bias", pair[1])
        result.append((ids, bias))
    return result
