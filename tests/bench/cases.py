"""The cases of the bench: what is timed, in which shape, and which ratio is aimed at."""

from __future__ import annotations

from dataclasses import dataclass

# layers, heads, width, vocabulary
GPT2_124M = (12, 12, 768, 50257)
SMALL = (6, 6, 384, 512)
TINY = (4, 4, 128, 65)


@dataclass(frozen=True)
class Case:
    """One measurement. `kind` is a function of `ours.py` and `theirs.py`."""

    name: str
    kind: str  # "decode", "prefill", "train", "load" …
    shape: tuple[int, int, int, int] = GPT2_124M
    B: int = 1
    T: int = 64  # decode: the length of the prompt
    repeats: int = 5  # timed steps in one process; its median counts
    aim: float = 1.0  # the ratio ours / theirs that the library is to reach


CASES = [
    Case("decode 124M B=1", "decode", B=1, repeats=24, aim=0.45),
    Case("decode 124M B=8", "decode", B=8, repeats=12, aim=0.55),
    Case("prefill 124M T=64", "prefill", T=64, repeats=7, aim=0.65),
    Case("prefill 124M T=256", "prefill", T=256, repeats=5, aim=0.65),
    Case("prefill 124M T=1024", "prefill", T=1024, repeats=3, aim=0.65),
    Case("train 124M B=4 T=64", "train", B=4, T=64, repeats=3, aim=0.55),
    Case("train 124M B=1 T=1024", "train", B=1, T=1024, repeats=2, aim=0.60),
    Case("train 384 wide B=8 T=256", "train", SMALL, B=8, T=256, repeats=4, aim=0.75),
    Case("train 128 wide B=12 T=64", "train", TINY, B=12, T=64, repeats=30, aim=0.65),
    Case("load 124M", "load", repeats=5, aim=0.3),
    Case("import", "imports", repeats=3, aim=0.3),
    Case("start to first token", "start", TINY, repeats=3, aim=0.3),
]


def case_named(name: str) -> Case:
    """The case of that name; ValueError with all names for another."""
    for case in CASES:
        if case.name == name:
            return case
    raise ValueError(f"no case {name!r}; there are {', '.join(case.name for case in CASES)}")


def model_arguments(case: Case) -> dict[str, float | None]:
    """The configuration of a case's model, for both libraries; no dropout."""
    layers, heads, width, vocabulary = case.shape
    return {
        "vocab_size": vocabulary, "n_layer": layers, "n_head": heads, "n_embd": width,
        "n_positions": 1024 if case.shape == GPT2_124M else case.T,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
        "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
