"""The settings of a training run, their presets, `--set KEY=VALUE`, and files of settings."""

import dataclasses
import difflib
import math
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from minigpt.files import read_json
from minigpt.labelled import LABELLED_TASKS
from minigpt.places import ORDERS
from tensor.precision import PRECISIONS

SCHEDULES = ("cosine", "linear", "constant")
TASKS = ("text", "addition", *LABELLED_TASKS)
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class TrainConfig:
    """Everything a run depends on besides its text. Checked when it is made (ValueError).

    A step trains on ``grad_accumulation * batch_size`` windows of ``block_size`` tokens. Fields
    named ``*_every`` count steps; 0 switches off what they pace.
    """

    # The shape of the model.
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    block_size: int = 64  # the context, in tokens
    dropout: float = 0.0
    model: str | None = None  # a folder to start from, whose shape counts; None: fresh weights
    freeze: str = ""  # names of parameters that are not trained: "transformer.wte.*,*.bias"
    # Small matrices trained beside the frozen weights of `model`, see minigpt.lora; rank 0: none.
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    lora_targets: str = "c_attn,c_proj,c_fc"
    # What it learns, from which text, and what cuts that into tokens.
    task: str = "text"  # "addition", or that of a file of examples, see `labelled`
    data: str | None = None  # text or tokens: a file, a folder; None for Python's own prose
    tokenizer: str = "bpe:512"  # "byte", "char", "bpe:SIZE", or a folder with a tokenizer
    order: str = "random"  # of the windows: or "epochs" without repeats, or "sequential"
    # Optimisation.
    max_steps: int = 600
    batch_size: int = 12
    grad_accumulation: int = 1
    lr: float = 1e-3
    min_lr: float = 1e-4
    warmup_steps: int = 50
    schedule: str = "cosine"
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.1  # of parameters with two or more dimensions
    grad_clip: float = 1.0  # the largest norm of all gradients together; 0 does not clip
    # The rhythm of the run.
    log_every: int = 10
    eval_every: int = 100
    eval_batches: int = 20
    patience: int = 0  # evaluations without a better one, after which the run ends; 0: never
    checkpoint_every: int = 200  # and whenever an evaluation is the best so far
    keep_checkpoints: int = 2  # the newest ones; the best stays as well
    sample_every: int = 0
    layers_every: int = 0  # sizes of gradients and activations, layer by layer
    tensorboard: bool = True  # event files, where its package is installed
    sample_tokens: int = 200
    # Less memory, for more time.
    recompute: bool = False  # each block a second time in the backward pass, see tensor.recompute
    shard_optimizer: bool = False  # divide AdamW's moments among the processes that mpiexec starts
    # Less of Python's time: on a GPU, forward and backward are one launch, see `RecordedGradients`.
    cuda_graph: bool = False
    # Where, and from which random numbers.
    rank_timeout: float = 300.0  # seconds, after which a process that does not answer is given up
    device: str = "cpu"
    dtype: str = "float32"  # of weights and activations; "bfloat16" is for a GPU
    # Of what is multiplied in a training step, on a GPU: "tf32", "bf16" (see tensor.precision).
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every field: its type, its range, and what must agree with another field."""
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field, getattr(self, field.name)))
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd={self.n_embd} can't be divided among n_head={self.n_head} heads: "
                "make n_embd a multiple of n_head"
            )
        if self.min_lr > self.lr:
            raise ValueError(
                f"min_lr={self.min_lr:g} is above lr={self.lr:g}: lower min_lr as well"
            )
        for name in ("data", "model"):
            if getattr(self, name) == "":
                raise ValueError(f"{name} is empty: name a file or a folder, or leave it out")
        choices = (("schedule", SCHEDULES), ("order", ORDERS), ("task", TASKS), ("dtype", DTYPES),
                   ("precision", PRECISIONS))  # fmt: skip
        for name, known in choices:
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is none of {', '.join(known)}")
        if self.precision != "float32" and self.device == "cpu":
            raise ValueError(
                f"precision={self.precision} changes nothing on the CPU: name a device, or leave it"
                " out"
            )
        if self.shard_optimizer and self.dtype != "float32":
            raise ValueError(
                f"shard_optimizer divides AdamW's moments, not the masters that dtype={self.dtype} "
                "needs: leave one of the two out"
            )
        if self.lora_rank and (self.model is None or self.freeze):
            raise ValueError(
                f"lora_rank={self.lora_rank} adapts the weights of a model, and freezes them all: "
                "name that one with model (--model), and leave freeze out"
            )
        targets = type(self).lora_targets
        if self.lora_targets != targets and not self.lora_rank:
            raise ValueError(
                f"lora_targets={self.lora_targets} changes nothing without adapters: set "
                "lora_rank, too"
            )
        if self.cuda_graph and self.task != "text":
            raise ValueError(
                f"cuda_graph=true replays batches of one shape, those of task=text: leave it out "
                f"for task={self.task}"
            )
        if self.patience and not self.eval_every:
            raise ValueError(f"patience={self.patience} counts evaluations: set eval_every, too")

    def replace(self, **changes: object) -> "TrainConfig":
        """A copy with some fields changed; TypeError for an unknown one."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, object]:
        """The fields by name, as JSON can hold them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "TrainConfig":
        """Make one from the fields by name; ValueError for an unknown one."""
        for key in values:
            _field(key)
        return cls(**values)  # type: ignore[arg-type]


# No number may be negative; these have another lower end, and those an upper one.
_AT_LEAST = {
    "n_layer": 1, "n_head": 1, "n_embd": 1, "block_size": 2, "max_steps": 1, "batch_size": 1,
    "grad_accumulation": 1, "eval_batches": 1, "keep_checkpoints": 1,
}  # fmt: skip
_BELOW = {"dropout": 1, "beta1": 1, "beta2": 1, "lora_dropout": 1, "seed": 2**63}

_TYPE_NAMES: dict[object, str] = {
    int: "a whole number", float: "a number", str: "text", str | None: "text",
    bool: "true or false",
}  # fmt: skip


def _checked(field: dataclasses.Field, value: object) -> object:
    """``value`` in the type of ``field``; ValueError where type or range don't fit."""
    name, wanted = field.name, field.type
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    good = isinstance(value, str | None) if wanted == str | None else type(value) is wanted
    if not good:
        raise ValueError(f"{name}={value!r} should be {_TYPE_NAMES[wanted]}")
    if isinstance(value, int | float):
        if not math.isfinite(value):
            raise ValueError(f"{name}={value} should be a finite number")
        if value < _AT_LEAST.get(name, 0):
            raise ValueError(f"{name}={value} should be at least {_AT_LEAST.get(name, 0)}")
        if name == "lr" and value == 0:
            raise ValueError("lr=0 learns nothing: it should be above 0")
        if name in _BELOW and value >= _BELOW[name]:
            raise ValueError(f"{name}={value} should be below {_BELOW[name]}")
    return value


# GPT-2 small with the learning rate of a small batch: the published runs step on half a million
# tokens at a time, this one on 16 thousand.
_GPT2 = TrainConfig(
    n_layer=12, n_head=12, n_embd=768, block_size=1024,
    tokenizer="bpe:50257", max_steps=20_000, batch_size=4, grad_accumulation=4,
    lr=3e-4, min_lr=3e-5, warmup_steps=500, beta2=0.95,
    eval_every=500, eval_batches=10, checkpoint_every=500,
)  # fmt: skip

# The CPU settings of nanoGPT's README for Shakespeare by character, which end at a validation
# loss of about 1.88. nanoGPT draws its windows with repeats: order="random".
_NANO_CPU = TrainConfig(
    n_layer=4, n_head=4, n_embd=128, block_size=64, dropout=0.0,
    tokenizer="char", max_steps=2000, batch_size=12, order="epochs",
    lr=1e-3, min_lr=1e-4, warmup_steps=100, schedule="cosine",
    beta1=0.9, beta2=0.99, weight_decay=0.1, grad_clip=1.0,
    eval_every=250, eval_batches=20, checkpoint_every=500, sample_tokens=400,
)  # fmt: skip

# The settings of nanoGPT's config/train_shakespeare_char.py, which end at 1.4697: for a GPU.
_NANO_GPU = _NANO_CPU.replace(
    n_layer=6, n_head=6, n_embd=384, block_size=256, dropout=0.2,
    max_steps=5000, batch_size=64, eval_batches=200, order="random", device="cuda",
)  # fmt: skip

# The same text in the tokens of a small vocabulary of its own.
_SHAKESPEARE_BPE = _NANO_CPU.replace(
    tokenizer="bpe:1024", max_steps=1500, dropout=0.1
)

# Sums of two numbers of three digits, see `addition`.
_ADDITION = TrainConfig(
    task="addition", tokenizer="char", n_layer=2, n_head=4, n_embd=128, block_size=12,
    max_steps=1500, batch_size=128, warmup_steps=100, eval_every=250, eval_batches=4,
    checkpoint_every=500, sample_tokens=4,
)  # fmt: skip

PRESETS: dict[str, TrainConfig] = {
    "tiny": TrainConfig(),  # something to see within minutes on a laptop
    "nano-cpu": _NANO_CPU,
    "nano-gpu": _NANO_GPU,
    "shakespeare-bpe": _SHAKESPEARE_BPE,
    "addition": _ADDITION,
    "gpt2": _GPT2,
}


def parse_settings(assignments: Iterable[str]) -> dict[str, object]:
    """Read ``KEY=VALUE`` texts as fields of TrainConfig, each value in its field's type.

    Of a key given twice the last value counts. ValueError for an unknown key (with the ones that
    look alike), or a value that is not of the field's type. Ranges are checked when a TrainConfig
    is made.
    """
    settings: dict[str, object] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        key = key.strip()
        if not equals:
            raise ValueError(f"--set {assignment}: expected KEY=VALUE, such as max_steps=500")
        field = _field(key)
        wanted = field.type
        try:
            value: object = text
            if wanted is bool:
                value = {"true": True, "false": False}[text.lower()]
            elif wanted not in (str, str | None):
                value = wanted(text)  # type: ignore
        except (ValueError, KeyError):
            raise ValueError(
                f"--set {key}={text}: {text!r} should be {_TYPE_NAMES[wanted]}"
            ) from None
        settings[key] = value
    return settings


def read_settings(path: str | os.PathLike[str]) -> tuple[str | None, dict[str, object]]:
    """Read fields of TrainConfig from a file that ends in .toml or .json, and under ``preset`` the
    name of what they are changes of, or None.

    FileNotFoundError; ValueError, with the file's name, for another kind of file, for one that is
    damaged, for an unknown field or preset, and for a value that is not of its field's type.
    """
    path = Path(path)
    if path.suffix == ".toml":
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:  # not UTF-8, not TOML
            raise ValueError(f"{path}: not valid TOML: {error}") from None
    elif path.suffix == ".json":
        values = read_json(path)
    else:
        raise ValueError(f"{path}: settings are read from a file that ends in .toml or .json")
    try:
        preset = values.pop("preset", None)
        if preset is not None and preset not in PRESETS:
            raise ValueError(f"preset={preset!r} is none of {', '.join(PRESETS)}")
        return preset, {key: _checked(_field(key), value) for key, value in values.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _field(key: str) -> dataclasses.Field:
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    if key not in fields:
        close = difflib.get_close_matches(key, fields, n=3)
        guess = f"did you mean {' or '.join(close)}? " if close else ""
        raise ValueError(f"unknown setting {key!r}: {guess}All settings: {', '.join(fields)}")
    return fields[key]
