"""Make generation.json: what transformers generates with the models of two golden folders, frozen.

    python tests/golden/make_generation.py [--out FILE]

Needs torch==2.13.0 and transformers==4.56.2, like make_golden.py, whose folders it reads. The
prompts are `greedy/prompt` there, or left-padded `greedy_left_padded/prompt`. A case is kept only
if float32 and float64 choose the same ids, so that no tie hangs on rounding.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

HERE = Path(__file__).parent
FOLDERS = ("default", "silu_scaled_by_layer")
ENDS = list(range(1, 60, 3))
BEAMS = {"num_beams": 3, "eos_token_id": ENDS, "pad_token_id": 59}

CASES = {
    "beams": {"num_beams": 4, "eos_token_id": None},
    "beams that end": BEAMS,
    "all beams returned": BEAMS | {"num_return_sequences": 3},
    "short beams": BEAMS | {"length_penalty": -1.0, "num_return_sequences": 2},
    "long beams": BEAMS | {"length_penalty": 2.0, "early_stopping": "never"},
    "first beams": BEAMS | {"early_stopping": True, "num_return_sequences": 2},
    "beams without repeats": BEAMS | {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
    "padded beams": BEAMS | {"padded": True, "num_return_sequences": 2},
    "repetition penalty": {"repetition_penalty": 1.5, "eos_token_id": None},
    "no bigram twice": {"no_repeat_ngram_size": 2, "eos_token_id": None},
    "bad words": {"bad_words_ids": [[7], [12, 3], [20, 21]] + [[i] for i in range(30, 55)]},
    "several ends": {"eos_token_id": ENDS, "pad_token_id": 59},
    "not before": {"eos_token_id": ENDS, "pad_token_id": 59, "min_new_tokens": 4},
    "forced end": {"eos_token_id": 60, "forced_eos_token_id": 60},
    "suppressed": {
        "suppress_tokens": list(range(0, 40)), "begin_suppress_tokens": list(range(40, 55)),
        "eos_token_id": None,
    },
    "biased": {"sequence_bias": [[[33], 3.0], [[33, 34], 9.0]], "eos_token_id": None},
    "from bos": {"without_prompt": True, "num_beams": 2, "eos_token_id": None},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "generation.json")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    made = [run(folder, name, dict(CASES[name])) for folder in FOLDERS for name in CASES]
    lines = ",\n".join(json.dumps(case) for case in made)  # a case a line
    out.write_text(f"[\n{lines}\n]\n")
    print(f"{len(made)} cases, {out.stat().st_size:,} bytes")


def run(folder: str, name: str, options: dict) -> dict:
    """One case: the options as given, the ids, how many steps it took and, of beams, the scores."""
    case = {"folder": folder, "name": name, "options": dict(options)}
    expected = load_file(HERE / folder / "expected.safetensors")
    inputs = {"input_ids": expected["greedy/prompt"]}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if options.pop("padded", False):
        inputs["input_ids"] = expected["greedy_left_padded/prompt"]
        inputs["attention_mask"] = expected["greedy_left_padded/attention_mask"]
    if options.pop("without_prompt", False):
        inputs = {}
    results = []
    for dtype in (torch.float32, torch.float64):
        model = transformers.GPT2LMHeadModel.from_pretrained(
            HERE / folder, attn_implementation="eager"
        ).to(dtype)
        results.append(
            model.generate(
                **inputs, max_new_tokens=9, return_dict_in_generate=True, output_scores=True,
                **options,
            )
        )  # fmt: skip
    if not torch.equal(results[0].sequences, results[1].sequences):
        raise SystemExit(f"{folder}, {name}: float32 and float64 differ; change the case")
    case["ids"] = results[0].sequences.tolist()
    case["steps"] = len(results[0].scores)
    if "num_beams" in options:
        case["sequences_scores"] = results[1].sequences_scores.tolist()
    return case


if __name__ == "__main__":
    main()
