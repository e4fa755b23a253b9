"""`minigpt eval`'s figures against transformers on the same weights: the procedure of its
documentation for perplexity, and one row at a time for completions."""

import json
import math

import numpy as np
import pytest

from minigpt import GPT2Tokenizer
from minigpt.bpe_training import train_bpe
from minigpt.cli import main
from minigpt.data import load_text
from minigpt.evaluation_text import text_loss
from tests.minigpt.parity_helpers import make_pair, reference_only

pytestmark = reference_only


@pytest.fixture(scope="module")
def text():
    return load_text()[:6000]       # Python's own help, as in the first run


@pytest.fixture(scope="module")
def pair(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("model")
    train_bpe(text, 400).save_pretrained(folder)
    pair = make_pair({"vocab_size": 400, "n_positions": 64, "bos_token_id": 0,
                      "eos_token_id": 0}, seed=4)
    pair.theirs.save_pretrained(folder)
    pair.folder = folder
    return pair


def documented(theirs, ids, window, stride):
    """The loop of transformers' page "Perplexity of fixed-length models": (its perplexity, the mean
    over the predicted tokens)."""
    import torch

    nll, tokens, every, seen = 0.0, 0, [], 0
    for first in range(0, len(ids), stride):
        end = min(first + window, len(ids))
        new = end - seen
        inputs = torch.tensor([ids[first:end]])
        labels = inputs.clone()
        labels[:, :-new] = -100
        with torch.no_grad():
            loss = theirs(inputs, labels=labels).loss.double()
        predicted = int((labels[:, 1:] != -100).sum())
        every.append((float(loss) * predicted, predicted))
        weight = int((labels != -100).sum()) - 1
        nll, tokens, seen = nll + float(loss) * weight, tokens + weight, end
        if end == len(ids):
            break
    total, count = map(sum, zip(*every))
    return math.exp(nll / tokens), math.exp(total / count)


@pytest.mark.parametrize(("window", "stride"), [(64, 64), (64, 32), (32, 5), (17, 8), (32, 1)])
def test_perplexity_as_transformers_documents_it(pair, text, window, stride):
    ids = GPT2Tokenizer.from_pretrained(pair.folder).encode(text)[:500 if stride == 1 else None]
    theirs, by_token = documented(pair.theirs, ids, window, stride)
    found = text_loss(pair.ours, ids, window=window, stride=stride)
    assert math.exp(found.documented_loss) == pytest.approx(theirs, rel=1e-6)
    assert found.perplexity == pytest.approx(by_token, rel=1e-6)


def run_json(capsys, pair, path, task):
    assert main(["eval", "--model", str(pair.folder), "--data", str(path), "--task", task,
                 "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def slow_losses(theirs, context, completion):
    import torch

    ids = torch.tensor([[*context, *completion]])
    with torch.no_grad():
        logp = theirs(ids).logits.double().log_softmax(-1)[0]
    return [-float(logp[t - 1, ids[0, t]]) for t in range(len(context), ids.shape[1])], [
        int(logp[t - 1].argmax()) == int(ids[0, t]) for t in range(len(context), ids.shape[1])
    ]


def test_lambada_as_the_harness_scores_it(pair, text, tmp_path, capsys):
    tokenizer = GPT2Tokenizer.from_pretrained(pair.folder)
    passages = [" ".join(text.split()[i : i + 6]) for i in range(0, 150, 6)]
    path = tmp_path / "lambada.jsonl"
    path.write_text("".join(json.dumps({"text": passage}) + "\n" for passage in passages))
    found = run_json(capsys, pair, path, "lambada")
    losses, right = [], []
    for passage in passages:
        context, word = passage.rsplit(" ", 1)
        whole = tokenizer.encode(passage)       # the harness encodes both together, and cuts
        first = len(tokenizer.encode(context))
        each, greedy = slow_losses(pair.theirs, whole[:first], whole[first:])
        losses.append(sum(each))
        right.append(all(greedy))
    assert found["perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-5)
    assert found["accuracy"] == np.mean(right)


def test_hellaswag_as_llm_c_scores_it(pair, text, tmp_path, capsys):
    tokenizer = GPT2Tokenizer.from_pretrained(pair.folder)
    words, rng = text.split(), np.random.default_rng(0)
    items = []
    for i in range(0, 250, 10):
        starts = rng.integers(0, 400, 4)
        endings = [" ".join(words[j : j + int(rng.integers(1, 4))]) for j in starts]
        items.append({"ctx": " ".join(words[i : i + 4]), "endings": endings,
                      "label": int(rng.integers(4))})
    path = tmp_path / "hellaswag.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    found = run_json(capsys, pair, path, "hellaswag")
    whole = normed = 0
    for item in items:
        each = [
            slow_losses(pair.theirs, tokenizer.encode(item["ctx"]), tokenizer.encode(" " + e))[0]
            for e in item["endings"]
        ]
        whole += np.argmin([np.sum(losses) for losses in each]) == item["label"]
        normed += np.argmin([np.mean(losses) for losses in each]) == item["label"]
    assert found["accuracy"] == whole / len(items)
    assert found["accuracy_norm"] == normed / len(items)
