"""Recorded steps of GPT-2: `cuda_graph=true` has the bits of a run without it.

On the emulator a recording is replayed launch by launch; with MINIGPT_TEST_DEVICE=cuda it is a
CUDA graph.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

from kernels.recording import RecordingError
from minigpt import GPT2Config, GPT2LMHeadModel
from minigpt.cli import main
from tensor import RecordedStep, Tensor, cuda_fused, cuda_moving, dropout, manual_seed, nn
from tensor.devices import get_backend
from tests.kernels.devices import NAME, check_every_access, needs_device
from tests.minigpt.training_helpers import SMALL, TEXT, start, weights

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_device")]


@pytest.fixture
def _device():
    needs_device()


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return str(tmp_path / "text.txt")


def run(config, out, steps=10):
    """Ten steps, with an evaluation between two of them."""
    trainer = start(config, out)
    trainer.figures, trainer.launches = [], []
    for step in range(steps):
        stats = trainer.train_step()
        trainer.figures.append((stats.loss, stats.grad_norm))
        trainer.launches.append(stats.launches)
        if step == 4:
            trainer.figures.append(trainer.evaluate())
    return trainer


@pytest.mark.parametrize(
    "changes",
    [
        {"grad_clip": 0.1},
        {"grad_accumulation": 2, "n_layer": 2, "batch_size": 2, "order": "epochs"},
        {"recompute": True},
        {"dtype": "bfloat16", "freeze": "transformer.wpe.*"},
    ],
    ids=["clipped", "accumulated", "recomputed", "bfloat16"],
)
def test_ten_steps_have_the_same_bits(tmp_path, text, changes):
    config = SMALL.replace(device=NAME, data=text, weight_decay=0.1, **changes)
    plain = run(config, tmp_path / "plain")
    recorded = run(config.replace(cuda_graph=True), tmp_path / "recorded")
    assert recorded.figures == plain.figures
    assert recorded.launches[-1] < plain.launches[-1] / 4
    assert recorded.launches[:2] == plain.launches[:2]
    for (name, p), q in zip(plain.model.named_parameters(), recorded.model.parameters()):
        np.testing.assert_array_equal(p.numpy(), q.numpy(), err_msg=name)


def test_a_change_that_nobody_marked_is_told(tmp_path, text, monkeypatch):
    """Dropout's masks are new in each step: a replay would make the old ones again."""
    monkeypatch.setattr(cuda_fused, "random_numbers", lambda mask: (mask.seed, mask.draw))
    trainer = start(SMALL.replace(device=NAME, data=text, cuda_graph=True), tmp_path / "run")
    trainer.train_step()
    with pytest.raises(RecordingError, match="dropout_eight with 'unsigned long long draw' "):
        trainer.train_step()


def test_a_step_that_asks_for_a_number_cannot_be_recorded():
    x = Tensor(np.ones(3, np.float32), device=NAME)
    step = RecordedStep(lambda x: x * x.sum().item(), NAME)
    with pytest.raises(RecordingError, match=r"copies an array to the host, float32 \(\)"):
        step(x.numpy())
    with pytest.raises(RecordingError, match="has failed"):
        step(x.numpy())


def test_masks_are_those_of_the_generator():
    """Several processes set its seed anew for each step (`train_step.begin_step`)."""
    x = np.ones(1000, np.float32)
    step = RecordedStep(lambda x: dropout(dropout(x, 0.5), 0.1), NAME)
    for seed in (5, 2**63, 7, 7):
        manual_seed(seed)
        expected = [dropout(dropout(Tensor(x), 0.5), 0.1).numpy() for _ in range(2)]
        manual_seed(seed)
        for mask in expected:
            np.testing.assert_array_equal(step(x).numpy(), mask)


def test_inputs_keep_their_shapes():
    step = RecordedStep(lambda x: x + x, NAME)
    for value in (1, 2, 3, 4):
        assert step(np.full(3, value)).numpy().tolist() == [2 * value] * 3
    assert step([5, 6, 7]).numpy().tolist() == [10, 12, 14]
    with pytest.raises(ValueError, match=r"recorded for .*\(3,\), 'int64'.* was given .*\(4,\)"):
        step(np.ones(4, np.int64))


def test_a_model_that_was_moved_away_and_back_is_not_replayed_with_its_old_weights():
    layer = nn.Linear(3, 2).to(NAME)

    def loss(x):
        total = layer(x).sum()
        total.backward()
        return total.detach()

    step = RecordedStep(loss, NAME, layer.parameters())
    for _ in range(3):
        step(np.ones((4, 3), np.float32))
    layer.to("cpu").to(NAME)
    with pytest.raises(ValueError, match="a leaf of a recorded step lies elsewhere now"):
        step(np.ones((4, 3), np.float32))


def test_a_run_on_the_command_line(tmp_path, text, capsys):
    """Interrupted after 6 steps and taken up again without recording, it ends with the same bits.
    """
    settings = [f"{name}={getattr(SMALL, name)}" for name in
                ("n_layer", "n_head", "n_embd", "block_size", "dropout", "batch_size", "seed")]
    out, options = tmp_path / "run", []
    for setting in [*settings, "log_every=1", "eval_every=3", "eval_batches=1"]:
        options += ["--set", setting]
    options += ["--tokenizer", "char", "--data", text, "--device", NAME]
    whole = [*options, "--set", "max_steps=8", "--out", str(tmp_path / "whole")]
    assert main(["train", *whole]) == 0
    graph = ["--out", str(out), "--set", "cuda_graph=true", "--set", "max_steps=6"]
    assert main(["train", *options, *graph]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if " launches " in line]
    assert main(["train", "--resume", "--out", str(out), "--set", "max_steps=8",
                 "--set", "cuda_graph=false"]) == 0
    assert weights(out) == weights(tmp_path / "whole")
    assert len(lines) == 8 + 6
    assert re.search(r"\d launches", lines[0])


def test_what_it_is_not_for(tmp_path, text):
    with pytest.raises(ValueError, match="cuda_graph=true on device 'cpu', .* set cuda"):
        start(SMALL.replace(data=text, cuda_graph=True), tmp_path / "run")
    with pytest.raises(ValueError, match="cuda_graph=true replays batches of one shape"):
        SMALL.replace(task="addition", cuda_graph=True)


# --- decoding

V, POSITIONS = 37, 40
PROMPTS = np.random.default_rng(0).integers(1, V, (3, 5))
PADDED = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])


def tiny(device=NAME, dtype="float32"):
    manual_seed(3)
    config = GPT2Config(vocab_size=V, n_positions=POSITIONS, n_embd=32, n_layer=2, n_head=4)
    return GPT2LMHeadModel(config).to(device, dtype).eval()


@pytest.mark.parametrize(
    ("prompts", "mask", "options"),
    [
        (PROMPTS[:1], None, {}),
        (PROMPTS, PADDED, {}),
        (PROMPTS[:2], PADDED[:2], {"do_sample": True, "num_return_sequences": 2, "seed": 5}),
        (PROMPTS[:1], None, {"repetition_penalty": 1.3, "max_new_tokens": 35}),
        (PROMPTS[:1], None, {"max_new_tokens": 2}),
    ],
    ids=["one", "padded", "sampled", "to the end", "two"],
)
def test_tokens_and_logits_have_the_same_bits(prompts, mask, options):
    options = {"max_new_tokens": 12, "eos_token_id": None, "output_logits": True,
               "return_dict_in_generate": True, "pad_token_id": 0} | options
    model = tiny()
    plain = model.generate(prompts, mask, **options)
    recorded = model.generate(prompts, mask, cuda_graph=True, **options)
    np.testing.assert_array_equal(recorded.sequences, plain.sequences)
    assert len(recorded.logits) == options["max_new_tokens"]
    for ours, theirs in zip(recorded.logits, plain.logits, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    for ours, theirs in zip(recorded.past_key_values, plain.past_key_values, strict=True):
        for our, their in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(our.numpy(), their.numpy())
    if not options.get("do_sample"):
        cpu = tiny("cpu").generate(prompts, mask, **options)
        np.testing.assert_array_equal(recorded.sequences, cpu.sequences)


def test_replays_where_every_access_is_checked(tmp_path, text, monkeypatch):
    check_every_access(monkeypatch)
    config = SMALL.replace(device=NAME, data=text, cuda_graph=True)
    losses = [run(config, tmp_path / "run", steps=4).figures]
    losses.append(run(config.replace(cuda_graph=False), tmp_path / "plain", steps=4).figures)
    assert losses[0] == losses[1]
    tokens = [tiny().generate(PROMPTS, PADDED, max_new_tokens=5, pad_token_id=0, cuda_graph=graph)
              for graph in (True, False)]
    assert (tokens[0] == tokens[1]).all()


def test_bfloat16_has_the_same_bits_too():
    options = {"max_new_tokens": 12, "eos_token_id": None, "output_logits": True,
               "return_dict_in_generate": True, "cuda_graph": True}
    model = tiny(dtype="bfloat16")
    recorded = model.generate(PROMPTS[:2], **options)
    plain = model.generate(PROMPTS[:2], **options | {"cuda_graph": False})
    np.testing.assert_array_equal(recorded.sequences, plain.sequences)
    for ours, theirs in zip(recorded.logits, plain.logits, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    with pytest.raises(ValueError, match="padded prompts in float32 only"):
        model.generate(PROMPTS, PADDED, pad_token_id=0, cuda_graph=True)
    with pytest.raises(ValueError, match="float32 and bfloat16, not float16"):
        tiny(dtype="float16").generate(PROMPTS, cuda_graph=True)


def test_a_token_is_one_launch():
    launches, model = [], tiny()
    backend = get_backend(NAME)

    class Count:
        def put(self, ids):
            launches.append(backend.launches)

        def end(self):
            pass

    model.generate(PROMPTS[:1], max_new_tokens=8, eos_token_id=None, streamer=Count(),
                   cuda_graph=True)
    tokens = np.diff(launches)
    assert (tokens[3:] == 1).all() and (tokens[1:3] == tokens[1]).all() and tokens[1] > 20


def test_a_cache_whose_end_nobody_marked_is_told(monkeypatch):
    monkeypatch.setattr(cuda_moving, "Changing", lambda value, counter: value)
    with pytest.raises(RecordingError, match=r"cache_append_float with 'int length' 6 where .* 5$"):
        tiny().generate(PROMPTS[:1], max_new_tokens=4, cuda_graph=True)


@pytest.mark.parametrize(("device", "options", "words"), [
    (NAME, {"num_beams": 2}, "num_beams = 2: beams rearrange"),
    (NAME, {"use_cache": False}, "use_cache = False"),
    (NAME, {"return_dict_in_generate": True, "output_attentions": True}, "output_attentions"),
    ("cpu", {}, "'cpu' launches no kernels"),
])
def test_what_decoding_cannot_replay(device, options, words):
    with pytest.raises(ValueError, match=words):
        tiny(device).generate(PROMPTS, max_new_tokens=4, pad_token_id=0, cuda_graph=True, **options)


def test_text_on_the_command_line(tmp_path, text, capsys):
    out = tmp_path / "run"
    trainer = start(SMALL.replace(data=text, max_steps=1, sample_tokens=0), out)
    trainer.run()
    texts = []
    for options in ([], ["--cuda-graph"]):
        capsys.readouterr()
        assert main(["generate", "--model", str(out), "--device", NAME, "--max-new-tokens", "30",
                     "--seed", "1", *options, "1 and 2"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and len(texts[0]) > 30
