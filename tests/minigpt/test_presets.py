"""The settings of a run: their types, their ranges, and the presets."""

import json
import math

import pytest

from minigpt.presets import PRESETS, TrainConfig, parse_settings, read_settings


class TestSettings:
    def test_values_take_the_type_of_their_field(self):
        assert parse_settings(["max_steps=20", "lr=3e-4", "schedule=linear", "data=a=b"]) == {
            "max_steps": 20, "lr": 3e-4, "schedule": "linear", "data": "a=b",
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("assignment", "complaint"),
        [
            ("max_step=20", r"unknown setting 'max_step': did you mean max_steps\b.*n_layer"),
            ("qqq=1", "unknown setting 'qqq': All settings: n_layer, n_head"),
            ("max_steps", "--set max_steps: expected KEY=VALUE"),
            ("max_steps=many", "'many' should be a whole number"),
            ("max_steps=1e3", "'1e3' should be a whole number"),
            ("lr=fast", "'fast' should be a number"),
        ],
    )
    def test_bad_assignments(self, assignment, complaint):
        with pytest.raises(ValueError, match=complaint):
            parse_settings([assignment])

    def test_of_the_same_key_twice_the_last_counts(self):
        assert parse_settings(["lr=1", "max_steps=3", "lr=2"]) == {"max_steps": 3, "lr": 2.0}

    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"max_steps": 0}, "max_steps=0 should be at least 1"),
            ({"block_size": 1}, "block_size=1 should be at least 2"),
            ({"lr": 0.0, "min_lr": 0.0}, "lr=0 learns nothing"),
            ({"lr": -1.0}, "lr=-1.0 should be at least 0"),
            ({"lr": math.nan}, "lr=nan should be a finite number"),
            ({"lr": math.inf}, "lr=inf should be a finite number"),
            ({"dropout": 1.0}, "dropout=1.0 should be below 1"),
            ({"weight_decay": -0.1}, "weight_decay=-0.1 should be at least 0"),
            ({"seed": -1}, "seed=-1 should be at least 0"),
            ({"seed": 2**63}, "seed=9223372036854775808 should be below"),
            ({"n_embd": 130}, "n_embd=130 can't be divided among n_head=4"),
            ({"lr": 1e-5}, "min_lr=0.0001 is above lr=1e-05"),
            ({"schedule": "step"}, "schedule='step' is none of cosine, linear, constant"),
            ({"max_steps": 10.0}, "max_steps=10.0 should be a whole number"),
            ({"max_steps": True}, "max_steps=True should be a whole number"),
            ({"lr": "1e-3"}, "lr='1e-3' should be a number"),
            ({"data": 3}, "data=3 should be text"),
        ],
    )
    def test_values_that_make_no_sense(self, changes, complaint):
        with pytest.raises(ValueError, match=complaint):
            TrainConfig().replace(**changes)

    def test_round_trip_through_json(self):
        for preset in PRESETS.values():
            assert TrainConfig.from_dict(json.loads(json.dumps(preset.to_dict()))) == preset

    def test_nano_cpu_is_what_nanogpt_prints(self):
        # README of karpathy/nanoGPT, "I only have a macbook"; learning rates and the rest from
        # config/train_shakespeare_char.py.
        published = {
            "n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "dropout": 0.0,
            "batch_size": 12, "max_steps": 2000, "lr": 1e-3, "min_lr": 1e-4, "warmup_steps": 100,
            "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1, "grad_clip": 1.0,
            "schedule": "cosine", "tokenizer": "char", "grad_accumulation": 1, "eval_batches": 20,
        }  # fmt: skip
        assert published.items() <= PRESETS["nano-cpu"].to_dict().items()


class TestFilesOfSettings:
    TOML = 'preset = "nano-cpu"\nmax_steps = 20\nlr = 1 # a whole number will do\ndata = "a.txt"\n'
    JSON = '{"preset": "nano-cpu", "max_steps": 20, "lr": 1, "data": "a.txt"}'

    @pytest.mark.parametrize(("name", "text"), [("a.toml", TOML), ("a.json", JSON)])
    def test_they_are_read(self, tmp_path, name, text):
        (tmp_path / name).write_text(text)
        preset, settings = read_settings(tmp_path / name)
        assert preset == "nano-cpu"
        assert settings == {"max_steps": 20, "lr": 1.0, "data": "a.txt"}
        assert isinstance(settings["lr"], float)

    def test_what_a_run_saved_is_such_a_file(self, tmp_path):
        (tmp_path / "a.json").write_text(json.dumps(PRESETS["gpt2"].to_dict()))
        preset, settings = read_settings(tmp_path / "a.json")
        assert preset is None and TrainConfig(**settings) == PRESETS["gpt2"]

    @pytest.mark.parametrize(
        ("name", "content", "complaint"),
        [
            ("a.toml", b"max_steps = ", "a.toml: not valid TOML: Invalid value"),
            ("a.toml", b"\xff", "a.toml: not valid TOML: 'utf-8' codec"),
            ("a.toml", b"max_step = 3", "a.toml: unknown setting 'max_step': did you mean max_s"),
            ("a.toml", b"max_steps = 3.5", "a.toml: max_steps=3.5 should be a whole number"),
            ("a.toml", b"[shape]\nn_layer = 3", "a.toml: unknown setting 'shape'"),
            ("a.toml", b"lr = -1", "a.toml: lr=-1.0 should be at least 0"),
            ("a.toml", b'preset = "huge"', "a.toml: preset='huge' is none of tiny, nano-cpu"),
            ("a.json", b"{", "a.json: not valid JSON"),
            ("a.json", b'{"lr": 1, "lr": 2}', "a.json: the key 'lr' occurs twice"),
            ("a.yaml", b"lr: 3", "a.yaml: .* ends in .toml or .json"),
        ],
    )
    def test_what_is_wrong_with_one_is_said(self, tmp_path, name, content, complaint):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=complaint):
            read_settings(tmp_path / name)
