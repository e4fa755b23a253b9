"""Is this the vocabulary that OpenAI released? All sizes of GPT-2 have the same one."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

VOCAB_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
"""Of encoder.json as OpenAI wrote it; the Hub has the same bytes as vocab.json."""

MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
"""Of vocab.bpe, merges.txt on the Hub."""

MODEL_NAMES = (
    "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2", "124M", "355M", "774M", "1558M",
)
"""Models that have this vocabulary: the names of the Hub, and of OpenAI's folders."""


def claims_to_be_official(folder: Path) -> bool:
    """Whether a folder's name is that of an official model, or the Hub's cache has it as one:
    models--gpt2/snapshots/<commit>.
    """
    folder = folder.absolute()
    cached = folder.parent.parent.name.split("--")
    return folder.name in MODEL_NAMES or (cached[0] == "models" and cached[-1] in MODEL_NAMES)


def differences(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> list[str]:
    """What differs from OpenAI's: "vocabulary", "merges", both, or nothing.

    The content is compared, not the bytes of the files, which transformers lays out in another
    way: written as OpenAI wrote it, it must have the published hash.
    """
    in_order = dict(sorted(vocab.items(), key=lambda item: item[1]))
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges), ""]
    parts = (
        ("vocabulary", json.dumps(in_order), VOCAB_SHA256),
        ("merges", "\n".join(lines), MERGES_SHA256),
    )
    return [
        name for name, text, expected in parts
        if hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() != expected
    ]
