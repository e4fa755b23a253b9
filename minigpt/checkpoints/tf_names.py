"""What OpenAI's TensorFlow code calls a tensor, and what everyone else has called it since.

`model/h3/attn/c_attn/w` of shape (1, C, 3C) is `h.3.attn.c_attn.weight` of shape (C, 3C): its code
has linear layers as convolutions over one position (openai/gpt-2, src/model.py, `conv1d`).
"""

from __future__ import annotations

import re

_LAYER = r"h(?:0|[1-9]\d{0,5})/"
_THEIRS = re.compile(
    r"model/(?:"
    r"(?P<embedding>wte|wpe)"
    rf"|(?P<norm>ln_f|{_LAYER}ln_[12])/(?P<scale>[gb])"
    rf"|(?P<linear>{_LAYER}(?:attn/c_attn|attn/c_proj|mlp/c_fc|mlp/c_proj))/(?P<part>[wb])"
    r")"
)
_OURS = re.compile(
    r"(?:wte|wpe)\.weight"
    r"|(?:ln_f|h\.(?:0|[1-9]\d{0,5})\.(?:ln_[12]|attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj))"
    r"\.(?:weight|bias)"
)


def from_tf(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """A tensor's usual name and shape; unchanged where it is none of a GPT-2."""
    match = _THEIRS.fullmatch(name)
    if not match:
        return name, shape
    if match["embedding"]:
        return f"{match['embedding']}.weight", shape
    module = re.sub(r"^h(\d+)/", r"h.\1.", match["norm"] or match["linear"]).replace("/", ".")
    suffix = "bias" if "b" in (match["scale"], match["part"]) else "weight"
    if match["part"] == "w" and shape[:1] == (1,) and len(shape) == 3:
        shape = shape[1:]
    return f"{module}.{suffix}", shape


def to_tf(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]] | None:
    """OpenAI's name and shape of a tensor of a GPT-2's body; None for any other."""
    if not _OURS.fullmatch(name):
        return None
    module, _, suffix = name.rpartition(".")
    path = re.sub(r"^h\.(\d+)", r"h\1", module).replace(".", "/")
    if module in ("wte", "wpe"):
        return f"model/{module}", shape
    if "ln_" in module:
        return f"model/{path}/{'g' if suffix == 'weight' else 'b'}", shape
    if suffix == "bias":
        return f"model/{path}/b", shape
    return f"model/{path}/w", (1, *shape)
