"""Make tokenizer_cases.json: what transformers' two GPT-2 tokenizers return, frozen.

    python tests/golden/make_tokenizer_golden.py [--out FILE]

Needs transformers==4.56.2; the test that reads the file (tests/minigpt/test_tokenizer_golden.py)
doesn't. The vocabulary is a small one that is made here, of the 256 bytes and a few merges.

The file holds the vocabulary, and a list of cases: the class ("slow" or "fast"), its settings, the
arguments and options of a call, and the entries of the result; arrays as nested lists.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import transformers

from minigpt.bpe import CHAR_OF_BYTE

FILE = Path(__file__).with_name("tokenizer_cases.json")
EOT = "<|endoftext|>"
MERGES = (
    "Ġ t|h e|Ġt he|Ġ a|i n|Ġ c|a t|Ġc at|r e|o n|Ġ d|o g|Ġd og|' s|Ã ©|Ġ Ġ|æ Ĺ|. .|.. ..|l l"
).split("|")
ADDED = {"pad_token": "<pad>", "additional_special_tokens": ["<x>"]}
PLAIN = ["new words", "<x>!"]

SETTINGS = [
    {}, {"add_bos_token": True}, {"add_prefix_space": True},
    {"padding_side": "left", "truncation_side": "left", "model_max_length": 6},
]
TEXT = "the cat's 日本 café....<|endoftext|> new words  on<x>!"
PAIR = ["the cat and the dog", "in re"]
BATCH = ["the cat", "", "the dog on the cat"]
CALLS = [
    ([TEXT], {"return_special_tokens_mask": True, "return_length": True}),
    ([TEXT], {"split_special_tokens": True}),
    ([TEXT], {"truncation": True, "max_length": 7}),
    ([BATCH], {"padding": True, "return_tensors": "np", "return_length": True}),
    ([BATCH], {"padding": "longest", "pad_to_multiple_of": 4, "return_special_tokens_mask": True}),
    ([BATCH], {"padding": "max_length", "max_length": 6, "truncation": True}),
    ([BATCH], {"padding": True, "padding_side": "left", "return_attention_mask": False}),
    ([BATCH], {"max_length": 2}),
    ([BATCH], {"padding": True, "truncation": True, "max_length": 100}),
    (PAIR, {}),
    (PAIR, {"truncation": True, "max_length": 6}),
    (PAIR[::-1], {"truncation": True, "max_length": 5}),
    (PAIR, {"truncation": "only_first", "max_length": 8}),
    (PAIR[::-1], {"truncation": "only_second", "max_length": 8}),
    (PAIR, {"truncation": "only_first", "max_length": 8, "stride": 1,
            "return_overflowing_tokens": True}),
    ([BATCH, BATCH[::-1]], {"padding": True, "return_special_tokens_mask": True}),
    ([[["the", "cat"], ["in", "re"]]], {}),
    ([BATCH], {"truncation": True, "max_length": 3, "stride": 1, "padding": True,
               "return_overflowing_tokens": True}),
    ([PAIR[0]], {"truncation": True, "max_length": 4, "return_overflowing_tokens": True,
                 "return_length": True}),
    ([["the", " cat", "<x>", "on"]], {"is_split_into_words": True}),
    ([[["the", "cat"], ["dog"]], [["in"], ["re", "on"]]], {"is_split_into_words": True}),
]
FAST_CALLS = [
    ([TEXT], {"return_offsets_mapping": True}),
    (PAIR, {"return_offsets_mapping": True, "return_token_type_ids": True}),
    ([BATCH], {"return_offsets_mapping": True, "padding": True, "return_tensors": "np"}),
    ([["the", "café"]], {"return_offsets_mapping": True, "is_split_into_words": True}),
    (PAIR, {"truncation": True, "max_length": 5, "stride": 1, "return_overflowing_tokens": True,
            "return_offsets_mapping": True}),
]


def vocabulary() -> dict[str, int]:
    """{token: id}"""
    tokens = [*CHAR_OF_BYTE.values(), *(merge.replace(" ", "") for merge in MERGES), EOT]
    return {token: token_id for token_id, token in enumerate(tokens)}


def as_json(value: object) -> object:
    """Arrays as lists, with a mark that they were arrays."""
    return {"array": value.tolist()} if isinstance(value, np.ndarray) else value


def cases(folder: Path) -> list[dict[str, object]]:
    """Every call of every class with every setting."""
    files = folder / "vocab.json", folder / "merges.txt"
    files[0].write_text(json.dumps(vocabulary()), encoding="utf-8")
    files[1].write_text("\n".join(["#version: 0.2", *MERGES, ""]), encoding="utf-8")
    made = []
    for name, cls in (
        ("slow", transformers.GPT2Tokenizer), ("fast", transformers.GPT2TokenizerFast)
    ):
        for settings in SETTINGS:
            tokenizer = cls(*map(str, files), **settings)
            tokenizer.add_special_tokens(ADDED)
            tokenizer.add_tokens(PLAIN)
            for arguments, options in CALLS + (FAST_CALLS if name == "fast" else []):
                if name == "fast" and "is_split_into_words" in options:
                    if not settings.get("add_prefix_space"):
                        continue        # an error
                result = tokenizer(*arguments, **options)
                made.append({
                    "class": name, "settings": settings, "arguments": arguments,
                    "options": options, "result": {k: as_json(v) for k, v in result.items()},
                })
    return made


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FILE)
    if transformers.__version__ != "4.56.2":
        raise SystemExit(f"needs transformers 4.56.2, found {transformers.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        content = {"vocab": vocabulary(), "merges": MERGES, "added": ADDED, "plain": PLAIN,
                   "cases": cases(Path(folder))}
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()
             if key != "cases"]
    listed = ",\n".join(json.dumps(case) for case in content["cases"])
    parser.parse_args().out.write_text(
        "{" + ",\n".join(lines) + ',\n"cases": [\n' + listed + "\n]}\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
