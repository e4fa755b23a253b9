"""Is this checkpoint whole, and does this program compute with it what it should?

`verify` returns a row for each thing that it checked. Comparing with torch is a module of its own,
`verify_torch`; so are the values known of the official models, `verify_official`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minigpt import official_vocabulary
from minigpt.checkpoints.formats import open_checkpoint
from minigpt.checks import Check
from minigpt.config import GPT2Config
from minigpt.evaluation import evaluation_mode
from minigpt.heads import GPT2LMHeadModel
from minigpt.loading import BODY, HEADS, MASKS
from minigpt.official_values import OFFICIALS, TOKENS, Official
from minigpt.progress import Report, tell
from minigpt.tokenizer import GPT2Tokenizer, load_tokenizer
from minigpt.tokenizer_files import read_folder
from minigpt.tolerances import compare_output
from minigpt.verify_official import (
    check_continuations,
    check_training,
    of_that_shape,
    recognise,
)

_SHOWN = 6      # tensors that are wrong, in a row of the table
_SAMPLE = "The 2 dogs' naïve café — 日本語 🤗\n\n    return x  # don't"


def architecture(config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """Every tensor of a GPT-2 without a head, as the checkpoint files name them, and its shape.

    V tokens, P positions, C wide, L blocks, I wide inside the mlp: weights are (in, out).
    """
    V, P, C = config.vocab_size, config.n_positions, config.n_embd
    inner = config.n_inner or 4 * C
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (V, C), "wpe.weight": (P, C)}
    for i in range(config.n_layer):
        kept = config.n_head - len((config.pruned_heads or {}).get(i, ()))
        width = kept * (C // config.n_head)
        products = {"attn.c_attn": (C, 3 * width), "attn.c_proj": (width, C),
                    "mlp.c_fc": (C, inner), "mlp.c_proj": (inner, C)}  # fmt: skip
        norms = ["ln_1", "ln_2"]
        if config.add_cross_attention:
            products |= {"crossattention.c_attn": (C, 2 * C), "crossattention.q_attn": (C, C),
                         "crossattention.c_proj": (C, C)}  # fmt: skip
            norms.append("ln_cross_attn")
        for name in norms:
            shapes |= {f"h.{i}.{name}.weight": (C,), f"h.{i}.{name}.bias": (C,)}
        for name, (rows, columns) in products.items():
            shapes |= {f"h.{i}.{name}.weight": (rows, columns), f"h.{i}.{name}.bias": (columns,)}
    return shapes | {"ln_f.weight": (C,), "ln_f.bias": (C,)}


@dataclass(frozen=True)
class Subject:
    """What is verified: a folder, its model, and its tokenizer, None where it has none. openai:
    whether that has OpenAI's vocabulary and merges, by their hashes.
    """

    folder: Path
    model: GPT2LMHeadModel
    tokenizer: Any
    openai: bool

    @classmethod
    def load(cls, folder: Path, device: str = "cpu", dtype: str = "float32") -> Subject:
        """Read a folder. Raises as `from_pretrained` does; only the tokenizer may be missing."""
        model = GPT2LMHeadModel.from_pretrained(folder, device=device, dtype=dtype)
        try:
            tokenizer = load_tokenizer(folder)
        except FileNotFoundError:
            return cls(folder, model, None, False)
        openai = False
        if isinstance(tokenizer, GPT2Tokenizer):
            content, _ = read_folder(folder)
            openai = not official_vocabulary.differences(content["vocab"], content["merges"])
        return cls(folder, model, tokenizer, openai)


def verify(
    subject: Subject,
    *,
    official: bool = False,
    officials: Sequence[Official] = OFFICIALS,
    report: Report | None = None,
) -> tuple[list[Check], Official | None]:
    """Check a loaded model: parameters, tokenizer, behaviour, and, if it is an official one, the
    text that it is known to write.

    official: compare with the official model of these sizes, even where no hash says that it is the
    one. Returns the checks, and the official model, if any; `verify_training` is left to the
    caller, because it changes the model.
    """
    model = subject.model
    checks = [*check_parameters(model), *check_tokenizer(subject)]
    tell(report, "behaviour: causality, the cache, batches")
    checks += check_behaviour(model)
    known = of_that_shape(model.config, officials)
    if known is None:
        checks.append(Check("official values", "skip", "not the sizes of an official model"))
        return checks, None
    recognised, said = recognise(known, subject.folder)
    if not (recognised or official):
        checks.append(Check("official values", "skip", said))
        return checks, None
    checks.append(Check("official model", "pass", said if recognised else f"{known.name}, as told"))
    same = model.num_parameters() == known.parameters
    checks.append(
        Check("official size", "pass" if same else "fail", f"{model.num_parameters():,} parameters",
              "" if same else f"{known.parameters:,}")
    )  # fmt: skip
    if not subject.openai:
        checks.append(Check("greedy text", "skip", "needs OpenAI's tokenizer in the folder"))
    elif known.continuations:
        tell(report, f"greedy decoding of {len(known.continuations)} prompts")
        checks += check_continuations(model, subject.tokenizer, known.continuations)
    return checks, known


def verify_training(
    subject: Subject, known: Official | None, report: Report | None = None
) -> list[Check]:
    """The losses of ten steps, of the model for which they are known. The model is changed."""
    if known is None or not known.losses or not subject.openai:
        return []
    tell(report, f"{len(known.losses)} AdamW steps")
    return [check_training(subject.model, subject.tokenizer, known.losses)]


# ---- files --------------------------------------------------------------------------------------


def check_file(folder: Path) -> Check:
    """The tensors of the file of weights against the architecture that the configuration tells,
    from the headers alone. ValueError for a damaged header or configuration.
    """
    config = GPT2Config.from_pretrained(folder)
    expected = architecture(config)
    masks = heads = 0
    wrong = []
    with open_checkpoint(folder) as reader:
        found = {}
        for name, stored in reader.header().items():
            if name.endswith(MASKS):
                masks += 1
            elif name.startswith(HEADS):
                heads += 1
            else:
                found[name.removeprefix(BODY)] = stored.shape
        for name in sorted(expected.keys() | found.keys()):
            if name not in found:
                wrong.append(f"{name} {expected[name]}, which is missing")
            elif found[name] != expected.get(name):
                wrong.append(f"{name} {expected.get(name, 'not there')}, found {found[name]}")
        text = f"{reader.kind}: {len(found)} tensors of the body"
    text += f", {heads} of heads" if heads else ""
    text += f", {masks} causal masks, which are left out" if masks else ""
    shown = "; ".join(wrong[:_SHOWN])
    if len(wrong) > _SHOWN:
        shown += f"; and {len(wrong) - _SHOWN} more"
    return _check("file", text, shown)


# ---- parameters ---------------------------------------------------------------------------------


def check_parameters(model: GPT2LMHeadModel) -> list[Check]:
    """Names, shapes, count, and that every number is one."""
    expected = {f"transformer.{name}": s for name, s in architecture(model.config).items()}
    if not model.config.tie_word_embeddings:
        expected["lm_head.weight"] = (model.config.vocab_size, model.config.n_embd)
    own = {name: tuple(p.shape) for name, p in model.named_parameters()}
    wrong = [
        f"{name} {own.get(name, 'missing')}, not {expected.get(name, 'there')}"
        for name in sorted(own.keys() | expected.keys())
        if own.get(name) != expected.get(name)
    ]
    total = sum(int(np.prod(shape)) for shape in expected.values())
    count = model.num_parameters()
    broken = [name for name, p in model.named_parameters() if not np.isfinite(p.numpy()).all()]
    return [
        _check("tensors", f"{len(own)} names and shapes", "; ".join(wrong)),
        _check("parameters", f"{count:,}", f"{total:,}" if total != count else ""),
        _check("finite", f"{len(own) - len(broken)} tensors without NaN and infinity",
               f"no such number in {', '.join(broken)}" if broken else ""),
    ]  # fmt: skip


def _check(name: str, found: str, expected: str, note: str = "") -> Check:
    """Failed if anything else was expected."""
    return Check(name, "fail" if expected else "pass", found, expected, note)


# ---- tokenizer ----------------------------------------------------------------------------------


def check_tokenizer(subject: Subject) -> list[Check]:
    """That it fits the model, gives a text back, and, where it is OpenAI's, the known tokens."""
    tokenizer = subject.tokenizer
    if tokenizer is None:
        return [Check("tokenizer", "skip", "there is none in the folder")]
    size, limit = tokenizer.vocab_size, subject.model.config.vocab_size
    checks = [
        _check("vocabulary", f"{size:,} tokens", f"at most {limit:,}" if size > limit else "")
    ]
    if not isinstance(tokenizer, GPT2Tokenizer):
        return [*checks, Check("tokenizer", "skip", "characters: nothing to compare with")]
    back = tokenizer.decode(tokenizer.encode(_SAMPLE))
    checks.append(_check("round trip", "encode, then decode",
                         f"{_SAMPLE!r}, not {back!r}" if back != _SAMPLE else ""))  # fmt: skip
    if not subject.openai:
        return [*checks, Check("golden tokens", "skip", "not OpenAI's vocabulary and merges")]
    note = "by the sha256 of vocabulary and merges"
    checks.append(Check("tokenizer", "pass", "OpenAI's, unchanged", note=note))
    wrong = [
        f"{list(ids)} for {text!r}, not {tokenizer.encode(text)}"
        for text, ids in TOKENS.items() if tokenizer.encode(text) != list(ids)
    ]
    return [*checks, _check("golden tokens", f"{len(TOKENS)} texts", "; ".join(wrong))]


# ---- behaviour ----------------------------------------------------------------------------------


def check_behaviour(model: GPT2LMHeadModel) -> list[Check]:
    """What holds for any weights: a token does not see what follows it; the cache, and company in
    a batch, change nothing. Tolerances are those of `tolerances`.
    """
    config = model.config
    T = min(32, config.n_positions)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (2, T))
    with evaluation_mode(model):
        whole = model(ids).logits.numpy()
        alone = model(ids[:1]).logits.numpy()
        cut = max(1, T // 2)
        first = model(ids[:, :cut], use_cache=True)
        checks = [_compared("batch", "a row alone and in a batch", alone, whole[:1])]
        if cut < T:
            rest = model(ids[:, cut:], past_key_values=first.past_key_values, use_cache=True)
            begun = first.logits.numpy()
            checks += [
                _compared("causality", "what follows is not seen", begun, whole[:, :cut]),
                _compared("cache", "in two calls and in one", rest.logits.numpy(), whole[:, cut:]),
            ]
    return checks


def _compared(name: str, what: str, ours: np.ndarray, reference: np.ndarray) -> Check:
    result = compare_output("logits", ours, reference)
    found = f"{what}: largest difference {result.difference:.1e}"
    return _check(name, found, "" if result.ok else f"at most {result.allowed:.1e}")
