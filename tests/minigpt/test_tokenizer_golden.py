"""Calls of both tokenizers beside what transformers returned: tests/golden/tokenizer_cases.json."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minigpt import GPT2Tokenizer, GPT2TokenizerFast

GOLDEN = Path(__file__).parents[1] / "golden"
CONTENT = json.loads((GOLDEN / "tokenizer_cases.json").read_text("utf-8"))
CASES = CONTENT["cases"]


def make(case) -> GPT2Tokenizer:
    cls = {"slow": GPT2Tokenizer, "fast": GPT2TokenizerFast}[case["class"]]
    merges = [tuple(merge.split(" ")) for merge in CONTENT["merges"]]
    tokenizer = cls(CONTENT["vocab"], merges, **case["settings"])
    assert tokenizer.add_special_tokens(CONTENT["added"]) == 2
    assert tokenizer.add_tokens(CONTENT["plain"]) == 2
    return tokenizer


def tuples(value):
    """Offsets are pairs: JSON has lists only."""
    return value if not isinstance(value, list) or not isinstance(value[0], list) else [
        [tuple(pair) for pair in row] if isinstance(row[0], list) else tuple(row) for row in value]


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{i}-{case['class']}" for i, case in enumerate(CASES)])
def test_the_call_gives_what_transformers_gave(case):
    mine = make(case)(*case["arguments"], **case["options"])
    assert set(mine) == set(case["result"])
    for name, expected in case["result"].items():
        if isinstance(expected, dict):
            expected = np.array(expected["array"])
            assert mine[name].dtype == expected.dtype == np.int64
            np.testing.assert_array_equal(mine[name], expected)
        else:
            assert mine[name] == (tuples(expected) if name == "offset_mapping" else expected), name


def test_no_case_is_missing():
    assert len(CASES) == 2 * 4 * 19 + 4 * 2 + 2 + 4 * 4 + 1
    assert {name for case in CASES for name in case["result"]} == {
        "input_ids", "attention_mask", "token_type_ids", "special_tokens_mask", "offset_mapping",
        "length", "overflowing_tokens", "num_truncated_tokens", "overflow_to_sample_mapping"}


@pytest.mark.reference
def test_the_file_is_what_its_script_makes(tmp_path):
    pytest.importorskip("transformers")
    script = GOLDEN / "make_tokenizer_golden.py"
    subprocess.run([sys.executable, script, "--out", tmp_path / "new.json"], check=True,
                   timeout=300, cwd=GOLDEN.parents[1])
    assert (tmp_path / "new.json").read_bytes() == (GOLDEN / "tokenizer_cases.json").read_bytes()
