"""LoRA: only the adapters train, they save small, merge exactly, and are peft's."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from minigpt import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel
from minigpt.checkpoints.safetensors_file import read_safetensors, write_safetensors
from minigpt.lora import LoRAConv1D, add_lora, load_lora, lora_layers, merge_lora, save_lora
from tensor import manual_seed, optim

SIZES = dict(vocab_size=40, n_positions=16, n_embd=24, n_layer=2, n_head=2, n_inner=56)
IDS = np.random.default_rng(0).integers(0, 40, (2, 16))
ALL = ("c_attn", "c_proj", "mlp.c_fc")


def small(cls=GPT2LMHeadModel, seed=1, **changes):
    manual_seed(seed)
    return cls(GPT2Config(**SIZES, **changes)).eval()


def train(model, steps=3):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = optim.AdamW(parameters, lr=1e-2)
    labels = IDS if isinstance(model, GPT2LMHeadModel) else [0, 1]
    for _ in range(steps):
        loss = model(IDS, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def logits(model):
    return model(IDS).logits.numpy()


def test_adapters_start_without_effect_and_alone_are_trained():
    model = small()
    plain, before = logits(model), model.state_dict()
    add_lora(model, rank=4, targets=ALL)
    np.testing.assert_array_equal(logits(model), plain)
    first, last = model(IDS, labels=IDS).loss.item(), train(model, 20)
    assert last < first - 0.1
    after = {name.replace(".base.", "."): p.numpy() for name, p in model.named_parameters()}
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values, err_msg=name)
    trained = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"lora_A", "lora_B"}
    # r (n_in + n_out) for c_attn, both c_proj and c_fc of each layer
    assert model.num_parameters(only_trainable=True) == 2 * 4 * (
        (24 + 72) + (24 + 24) + (56 + 24) + (24 + 56)
    )


def test_it_computes_the_formula():
    manual_seed(0)
    model = small()
    add_lora(model, rank=3, alpha=6, targets=["mlp.c_fc"])
    layer = model.transformer.h[0].mlp.c_fc
    assert isinstance(layer, LoRAConv1D)
    A, B = layer.lora_A, layer.lora_B
    assert np.abs(A.numpy()).max() <= 24**-0.5
    B.copy_(np.random.default_rng(0).standard_normal(B.shape))
    x = np.random.default_rng(1).standard_normal((5, 24))
    W, b = layer.base.weight.numpy().astype(float), layer.base.bias.numpy()
    expected = x @ W + b + 2 * (x @ A.numpy().astype(float)) @ B.numpy()
    from tensor import Tensor

    np.testing.assert_allclose(layer(Tensor(x.astype(np.float32))).numpy(), expected, atol=1e-5)


def test_merging_gives_an_ordinary_model_with_the_same_answers(tmp_path):
    model = small()
    add_lora(model, targets=ALL)
    train(model)
    adapted = logits(model)
    merge_lora(model)
    assert not lora_layers(model) and all(p.requires_grad for p in model.parameters())
    np.testing.assert_allclose(logits(model), adapted, atol=1e-5)
    model.save_pretrained(tmp_path)
    np.testing.assert_array_equal(
        logits(GPT2LMHeadModel.from_pretrained(tmp_path)), logits(model)
    )


@pytest.mark.parametrize("cls", [GPT2LMHeadModel, GPT2ForSequenceClassification])
def test_saved_adapters_give_the_same_bits_on_the_same_model(cls, tmp_path):
    model = small(cls, pad_token_id=0)
    add_lora(model, rank=2, alpha=5, targets=ALL)
    train(model)
    save_lora(model, tmp_path, base="gpt2")
    other = small(cls, pad_token_id=0)
    config = load_lora(other, tmp_path)
    assert (config.rank, config.alpha, config.targets) == (2, 5, ALL)
    np.testing.assert_array_equal(logits(other), logits(model))
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 20_000
    head = [n for n in read_safetensors(tmp_path / "adapter_model.safetensors") if "score" in n]
    assert len(head) == (cls is GPT2ForSequenceClassification)


def test_dropout_acts_in_training_only():
    model = small(embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0)
    add_lora(model, dropout=0.5)
    train(model)
    np.testing.assert_array_equal(logits(model), logits(model))
    model.train()
    assert np.abs(logits(model) - logits(model)).max() > 0


def test_recomputation_and_adapters_go_together():
    model = small()
    add_lora(model)
    train(model)
    results = []
    for enable in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        enable()
        model.zero_grad()
        model.train()
        manual_seed(5)
        model(IDS, labels=IDS).loss.backward()
        results.append([p.grad.numpy() for p in model.parameters() if p.requires_grad])
    for plain, recomputed in zip(*results):
        np.testing.assert_array_equal(plain, recomputed)


@pytest.mark.parametrize("options, message", [
    (dict(rank=0), "rank = 0 must be a whole number"),
    (dict(rank=True), "rank = True"),
    (dict(alpha=-1), "alpha = -1"),
    (dict(dropout=1), "dropout = 1"),
    (dict(targets="c_attn"), "must be a list"),
    (dict(targets=[]), "no target given"),
    (dict(targets=["q_proj"]), "'q_proj'.*attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj"),
])  # fmt: skip
def test_options_that_make_no_sense_change_nothing(options, message):
    model = small()
    with pytest.raises(ValueError, match=message):
        add_lora(model, **options)
    assert not lora_layers(model) and all(p.requires_grad for p in model.parameters())


def test_what_does_not_go_with_adapters_says_so(tmp_path):
    model = small()
    with pytest.raises(ValueError, match="no adapters"):
        merge_lora(model)
    with pytest.raises(ValueError, match="no adapters"):
        save_lora(model, tmp_path)
    add_lora(model)
    with pytest.raises(ValueError, match="has adapters already"):
        add_lora(model)
    with pytest.raises(ValueError, match="merge_lora"):
        model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="merge_lora"):
        model.prune_heads({0: [0]})


def test_unfit_adapter_folders_change_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_lora(small(), tmp_path)
    model = small()
    add_lora(model)
    save_lora(model, tmp_path)
    about = json.loads((tmp_path / "adapter_config.json").read_text())
    other = small(seed=2)
    for change, message in [
        ({"use_dora": True}, "use_dora = True"),
        ({"peft_type": "IA3"}, "peft_type = 'IA3'"),
        ({"target_modules": "all-linear"}, "target_modules"),
        ({"r": 3}, r"lora_A.weight: needed \(3, 24\), found \(8, 24\)"),
        ({"r": "8"}, "adapter_config.json: LoRA: rank = '8'"),
        ({"target_modules": ["c_fc"]}, "c_fc.lora_A.weight: needed .*, found None"),
    ]:  # fmt: skip
        (tmp_path / "adapter_config.json").write_text(json.dumps(about | change))
        with pytest.raises(ValueError, match=message):
            load_lora(other, tmp_path)
        assert not lora_layers(other) and all(p.requires_grad for p in other.parameters())
    (tmp_path / "adapter_config.json").write_text(json.dumps(about))
    state = read_safetensors(tmp_path / "adapter_model.safetensors")
    write_safetensors(tmp_path / "adapter_model.safetensors", dict(list(state.items())[1:]))
    with pytest.raises(ValueError, match="found None"):
        load_lora(other, tmp_path)


@pytest.mark.reference
@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "GPT2ForSequenceClassification"])
def test_peft_reads_our_adapters_and_we_read_its(name, tmp_path):
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    import transformers

    import minigpt

    ours = small(getattr(minigpt, name), pad_token_id=0)
    ours.save_pretrained(tmp_path / "base")
    add_lora(ours, rank=4, alpha=10, targets=ALL)
    train(ours)
    save_lora(ours, tmp_path / "ours")
    base = getattr(transformers, name).from_pretrained(
        tmp_path / "base", attn_implementation="eager"
    )
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "ours").eval()
    with torch.no_grad():
        expected = theirs(torch.tensor(IDS)).logits.numpy()
        np.testing.assert_allclose(logits(ours), expected, atol=1e-5)
        for parameter_name, parameter in theirs.named_parameters():
            if "lora_" in parameter_name:
                parameter.add_(0.05 * torch.randn_like(parameter))
        expected = theirs(torch.tensor(IDS)).logits.numpy()
        theirs.save_pretrained(tmp_path / "theirs")
    again = type(ours).from_pretrained(tmp_path / "base")
    load_lora(again, tmp_path / "theirs")
    np.testing.assert_allclose(logits(again), expected, atol=1e-5)
    merge_lora(again)
    np.testing.assert_allclose(logits(again), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc for the peak of memory")
def test_fine_tuning_124m_fits_in_3_gb():
    code = """
import numpy as np
from minigpt import GPT2Config, GPT2LMHeadModel
from minigpt.lora import add_lora
from tensor import optim
model = GPT2LMHeadModel(GPT2Config())
model.gradient_checkpointing_enable()
add_lora(model, rank=8, targets=["c_attn", "c_proj", "c_fc"])
optimizer = optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
ids = np.random.default_rng(0).integers(0, 50257, (2, 256))
for _ in range(1):
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
print(int(peak.split()[1]) / 1024)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                         env=os.environ | {"PYTHONPATH": os.getcwd()})
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 3 * 1024  # MiB
