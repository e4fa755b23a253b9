"""The configuration of a GPT-2: what config.json holds.

Names, defaults and file format follow transformers 4.56.2 (`GPT2Config` and its base class), so
that a folder written here loads there and the other way round.
"""

import copy
import difflib
import json
import os
import warnings
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from minigpt.activations import ACTIVATIONS, LEARNED_ACTIVATIONS
from minigpt.checkpoints.hparams import HPARAMS_FILE, read_hparams
from minigpt.checkpoints.hub import find_folder
from minigpt.files import atomic_write, read_json

CONFIG_FILE = "config.json"

# transformers' general name -> GPT-2's own.
ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}

SUMMARY_TYPES = ("last", "first", "mean", "cls_index", "attn")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
MOST_LABELS = 1_000_000
DTYPES = ("float64", "float32", "float16", "bfloat16")

# Read by some heads, but absent from a configuration that does not give them.
OPTIONAL_KEYS = ("classifier_dropout", "hidden_dropout", "summary_last_dropout")

# In a file these tell who wrote it and where it came from; they say nothing about the model.
_PROVENANCE = ("transformers_version", "_name_or_path", "_commit_hash")


@dataclass(init=False, repr=False, eq=False)
class GPT2Config:
    """Everything that fixes a GPT-2's shape and behaviour; `GPT2Config()` is the 124M model.

    Arguments are given by name: those listed below; `hidden_size`, `max_position_embeddings`,
    `num_attention_heads` and `num_hidden_layers`, which are other names of `n_embd`,
    `n_positions`, `n_head` and `n_layer`, also for reading and assigning; and `num_labels`, which
    makes `id2label` and `label2id`. Any other key is kept as an attribute and written back, as in
    transformers; one that looks like a misspelt field gives a warning.

    The constructor raises ValueError for a value that makes no sense (see `validate`), and
    TypeError for an alias given beside its other name with another value.
    """

    model_type: ClassVar[str] = "gpt2"

    # GPT-2's own, always written to config.json.
    vocab_size: int = 50257                     # V
    n_positions: int = 1024                     # the longest sequence there is a position for
    n_embd: int = 768                           # C, a multiple of n_head
    n_layer: int = 12                           # L
    n_head: int = 12                            # H
    n_inner: int | None = None                  # width inside the MLP; None: 4 * n_embd
    activation_function: str = "gelu_new"       # of the MLP: one of ACTIVATIONS
    resid_pdrop: float = 0.1                    # dropout where a sublayer's output joins the stream
    embd_pdrop: float = 0.1                     # dropout after the embeddings
    attn_pdrop: float = 0.1                     # dropout of the attention weights
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02             # standard deviation of new weights
    summary_type: str = "cls_index"             # double heads: which position is summed up
    summary_use_proj: bool = True
    summary_activation: str | None = None
    summary_proj_to_labels: bool = True
    summary_first_dropout: float = 0.1
    scale_attn_weights: bool = True             # divide scores by sqrt(D)
    use_cache: bool = True
    bos_token_id: int | None = 50256
    eos_token_id: int | list[int] | None = 50256
    scale_attn_by_inverse_layer_idx: bool = False       # also divide them by (layer index + 1)
    reorder_and_upcast_attn: bool = False               # same numbers, attention in float32

    # Common to all models of transformers: keyword arguments there too, and written to
    # config.json only where they differ from these defaults.
    _: KW_ONLY
    output_hidden_states: bool = False
    output_attentions: bool = False
    return_dict: bool = True
    dtype: str | None = None                    # of the weights in the files, e.g. "float32"
    pruned_heads: dict[int, list[int]] | None = None    # layer -> heads cut away; None: {}
    tie_word_embeddings: bool = True            # lm_head.weight is wte.weight
    add_cross_attention: bool = False
    architectures: list[str] | None = None      # names of the classes that the weights are of
    id2label: dict[int, str] | None = None      # None: {0: "LABEL_0", …}, num_labels of them
    label2id: dict[str, int] | None = None      # None: id2label turned round
    problem_type: str | None = None             # sequence classification: one of PROBLEM_TYPES
    task_specific_params: dict[str, Any] | None = None
    pad_token_id: int | None = None
    # Kept for the files; no model here looks at them.
    sep_token_id: int | None = None
    decoder_start_token_id: int | None = None
    is_decoder: bool = False
    is_encoder_decoder: bool = False
    tie_encoder_decoder: bool = False
    cross_attention_hidden_size: int | None = None
    chunk_size_feed_forward: int = 0
    torchscript: bool = False
    finetuning_task: str | None = None
    tokenizer_class: str | None = None
    prefix: str | None = None

    def __init__(self, /, **values: Any) -> None:
        values = {k: v for k, v in _own_names(values).items() if k not in _PROVENANCE}
        kind = values.pop("model_type", self.model_type)
        if kind != self.model_type:
            raise ValueError(f"model_type is {kind!r}: not a GPT-2, which has {self.model_type!r}")
        num_labels = _plain(values.pop("num_labels", None))
        for field in fields(self):
            setattr(self, field.name, _plain(values.pop(field.name, field.default)))
        for key, value in values.items():
            if hasattr(type(self), key):
                raise ValueError(f"{key!r} cannot be a key: it is the name of a method")
            near = _nearest(key, 0.85)
            if near is not None and key not in OPTIONAL_KEYS:
                warnings.warn(f"GPT2Config has no field {key!r}: it is kept, but changes nothing; "
                              f"did you mean {near!r}?", stacklevel=2)
            setattr(self, key, _plain(value))
        self.pruned_heads = _with_integer_keys("pruned_heads", self.pruned_heads or {})
        self._set_labels(num_labels)
        self.validate()

    # ---- aliases -------------------------------------------------------------------------------

    @property
    def hidden_size(self) -> int:
        """Another name of `n_embd`."""
        return self.n_embd

    @hidden_size.setter
    def hidden_size(self, value: int) -> None:
        self.n_embd = value

    @property
    def max_position_embeddings(self) -> int:
        """Another name of `n_positions`."""
        return self.n_positions

    @max_position_embeddings.setter
    def max_position_embeddings(self, value: int) -> None:
        self.n_positions = value

    @property
    def num_attention_heads(self) -> int:
        """Another name of `n_head`."""
        return self.n_head

    @num_attention_heads.setter
    def num_attention_heads(self, value: int) -> None:
        self.n_head = value

    @property
    def num_hidden_layers(self) -> int:
        """Another name of `n_layer`."""
        return self.n_layer

    @num_hidden_layers.setter
    def num_hidden_layers(self, value: int) -> None:
        self.n_layer = value

    @property
    def num_labels(self) -> int:
        """How many labels `id2label` has; assigning another number makes new ones."""
        assert self.id2label is not None, "the constructor always makes labels"
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, value: int) -> None:
        if value != self.num_labels:
            self.id2label = self.label2id = None
            self._set_labels(value)

    def _set_labels(self, num_labels: int | None) -> None:
        """Fill in whichever of id2label and label2id is missing."""
        if self.label2id is not None and not isinstance(self.label2id, dict):
            raise ValueError(f"label2id must be a dict of label -> id, got {self.label2id!r}")
        for label, number in (self.label2id or {}).items():
            _check_integer(f"label2id[{label!r}]", number, 0)
        if self.id2label is None and self.label2id:
            self.id2label = {number: label for label, number in self.label2id.items()}
        if self.id2label is None:
            count = 2 if num_labels is None else num_labels
            _check_integer("num_labels", count, 1)
            if count > MOST_LABELS:     # each gets a name: a damaged file must not fill the memory
                raise ValueError(f"num_labels must be at most {MOST_LABELS:,}, got {count!r}")
            self.id2label = {i: f"LABEL_{i}" for i in range(count)}
        self.id2label = _with_integer_keys("id2label", self.id2label)
        if any(isinstance(label, (list, dict)) for label in self.id2label.values()):
            raise ValueError(f"id2label: every label must be a string, got {self.id2label!r}")
        if num_labels is not None and num_labels != len(self.id2label):
            raise ValueError(f"num_labels={num_labels}, but id2label has {len(self.id2label)} "
                             "labels: give one of the two")
        if not self.label2id:
            self.label2id = {label: i for i, label in self.id2label.items()}

    # ---- checks --------------------------------------------------------------------------------

    def validate(self) -> None:
        """Raise ValueError, naming the field, its value and what is allowed, if a value is wrong.

        The constructor calls it, and so does whoever uses a configuration that may have been
        changed since.
        """
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            _check_integer(name, getattr(self, name), 1)
        if self.n_inner is not None:
            _check_integer("n_inner", self.n_inner, 1)
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd={self.n_embd} is not divisible by n_head={self.n_head}: "
                             "every head needs the same width")
        for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout"):
            _check_number(name, getattr(self, name), 1.0)
        for name in OPTIONAL_KEYS:
            if getattr(self, name, None) is not None:
                _check_number(name, getattr(self, name), 1.0)
        for name in ("layer_norm_epsilon", "initializer_range"):
            _check_number(name, getattr(self, name), float(np.finfo(np.float32).max))
        for name in ("activation_function", "summary_activation"):
            if getattr(self, name) in LEARNED_ACTIVATIONS:
                raise ValueError(f"{name}={getattr(self, name)!r} has parameters of its own, which "
                                 "are not supported: choose another")
        _check_choice("activation_function", self.activation_function, tuple(ACTIVATIONS))
        _check_choice("summary_activation", self.summary_activation, (None, *ACTIVATIONS))
        _check_choice("summary_type", self.summary_type, SUMMARY_TYPES)
        _check_choice("problem_type", self.problem_type, (None, *PROBLEM_TYPES))
        _check_choice("dtype", self.dtype, (None, *DTYPES))
        for field in fields(self):
            if field.type is bool and not isinstance(getattr(self, field.name), bool):
                raise ValueError(
                    f"{field.name} must be true or false, got {getattr(self, field.name)!r}"
                )
        self._validate_tokens()
        self._validate_heads_and_labels()

    def _validate_tokens(self) -> None:
        for name in ("bos_token_id", "pad_token_id"):
            if getattr(self, name) is not None:
                _check_integer(name, getattr(self, name))
        if self.eos_token_id is not None:
            ends = self.eos_token_id if isinstance(self.eos_token_id, list) else [self.eos_token_id]
            for end in ends:
                _check_integer("eos_token_id", end)

    def _validate_heads_and_labels(self) -> None:
        for layer, heads in (self.pruned_heads or {}).items():
            good = isinstance(heads, list) and all(
                type(head) is int and head in range(self.n_head) for head in heads
            )
            if layer not in range(self.n_layer) or not good:
                raise ValueError(
                    f"pruned_heads[{layer}]={heads!r}: expected a layer below n_layer="
                    f"{self.n_layer} and a list of heads below n_head={self.n_head}"
                )
        names = self.architectures
        if names is not None and not (
            isinstance(names, list) and all(isinstance(name, str) for name in names)
        ):
            raise ValueError(f"architectures must be a list of class names, got {names!r}")

    # ---- to and from dicts and files -----------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and further keys, and `model_type`; changing it changes nothing here.

        `GPT2Config.from_dict(config.to_dict()) == config`.
        """
        return {**copy.deepcopy(vars(self)), "model_type": self.model_type}

    def to_json_string(self) -> str:
        """Return the text of config.json: GPT-2's own fields, and of the common ones those changed.

        Raises TypeError if an attribute that was set cannot be written as JSON.
        """
        common = {f.name for f in fields(self) if f.kw_only}
        default = GPT2Config().to_dict()
        values = {
            key: value for key, value in self.to_dict().items()
            if key not in common or value != default[key]
        }
        for key, value in values.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                raise TypeError(f"{key}={value!r} cannot be written as JSON: {error}") from None
        return json.dumps(values, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_dict(cls, values: dict[str, Any], /, **overrides: Any) -> "GPT2Config":
        """Make a configuration from what a config.json holds, with some values replaced.

        values: keys as in config.json; unknown ones are kept. Where it has both `num_labels` and
            `id2label`, the latter counts, as in transformers.
        overrides: fields, aliases, `num_labels`, OPTIONAL_KEYS or keys of `values`.

        Raises TypeError for any other override, ValueError for a wrong value or when `values`
        describe another kind of model.
        """
        values, overrides = _own_names(values), _own_names(overrides)
        for key in overrides:
            if key not in FIELD_NAMES and key not in OPTIONAL_KEYS and key not in values:
                near = _nearest(key, 0.6)
                hint = f"; did you mean {near!r}?" if near else ""
                raise TypeError(f"GPT2Config has no field {key!r} to replace{hint}")
        if values.get("id2label") is not None:
            values.pop("num_labels", None)
            labels = _with_integer_keys("id2label", values["id2label"])
            # Another number of labels makes the names in the file meaningless; the same keeps them.
            if "id2label" in overrides or overrides.get("num_labels", len(labels)) != len(labels):
                values["id2label"] = values["label2id"] = None
        return cls(**{**values, **overrides})

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], /, **overrides: Any) -> "GPT2Config":
        """Read config.json in a folder, or the file itself, or that of a model on the Hub by its
        name (see `checkpoints.hub.find_folder`), replacing some values.

        Raises FileNotFoundError if there is none, ValueError naming the file if it is damaged or a
        value in it is wrong, TypeError for an override that is no known key.
        """
        file = find_folder(path, "config")
        if file.is_dir():
            named = [file / name for name in (CONFIG_FILE, HPARAMS_FILE)]
            file = next((path for path in named if path.is_file()), named[0])
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; a model's folder has a {CONFIG_FILE}")
        values = read_hparams(file) if file.name == HPARAMS_FILE else read_json(file)
        try:
            return cls.from_dict(values, **overrides)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write config.json to a folder, which is made if need be; whole, or not at all."""
        self.validate()
        text = self.to_json_string()
        Path(folder).mkdir(parents=True, exist_ok=True)
        with atomic_write(Path(folder) / CONFIG_FILE, "w") as f:
            f.write(text)

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if isinstance(other, GPT2Config) else NotImplemented

    def __repr__(self) -> str:
        """Show what differs from the 124M model, as a call that makes the same configuration."""
        default = vars(GPT2Config())
        changed = {k: v for k, v in vars(self).items() if k not in default or v != default[k]}
        return f"GPT2Config({', '.join(f'{key}={value!r}' for key, value in changed.items())})"


# What an argument or an override may be called, beside the aliases and OPTIONAL_KEYS.
FIELD_NAMES = tuple(field.name for field in fields(GPT2Config)) + ("num_labels",)


def _nearest(key: str, cutoff: float) -> str | None:
    """Return the field or alias that `key` may be a misspelling of, if there is one."""
    near = difflib.get_close_matches(key, [*FIELD_NAMES, *ALIASES], 1, cutoff)
    return near[0] if near else None


def _own_names(values: dict[str, Any]) -> dict[str, Any]:
    """Replace aliases, and `torch_dtype` of older files, by the names of the fields."""
    values = dict(values)
    older = values.pop("torch_dtype", None)
    if values.get("dtype") is None and older is not None:
        values["dtype"] = older
    for alias, name in ALIASES.items():
        if alias in values:
            value = values.pop(alias)
            if values.setdefault(name, value) != value:
                raise TypeError(f"{name}={values[name]!r} and {alias}={value!r} are two names of "
                                "one thing: give one")
    return values


def _plain(value: Any) -> Any:
    """Turn a NumPy scalar, which JSON cannot hold, into Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _with_integer_keys(name: str, values: Any) -> dict[int, Any]:
    """Undo JSON's turning of integer keys into strings."""
    if not isinstance(values, dict):
        raise ValueError(f"{name} must be a dict, got {values!r}")
    try:
        return {int(key): value for key, value in values.items()}
    except (TypeError, ValueError):
        raise ValueError(f"{name}: every key must be an integer, got {list(values)!r}") from None


def _check_integer(name: str, value: Any, least: int | None = None) -> None:
    good = isinstance(value, int) and not isinstance(value, bool)
    if not good or (least is not None and value < least):
        wanted = "an integer" if least is None else f"an integer of at least {least}"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")


def _check_number(name: str, value: Any, most: float) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not 0 <= value <= most:      # NaN fails the comparison
        raise ValueError(f"{name} must be a number from 0 to {most:g}, got {value!r}")


def _check_choice(name: str, value: Any, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
