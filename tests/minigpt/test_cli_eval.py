"""`minigpt eval`, with a tiny model that knows bytes."""

import json

import pytest

from minigpt import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer
from minigpt.bpe_training import train_bpe
from minigpt.cli import main
from minigpt.evaluation_text import text_loss

TEXT = "To be, or not to be, that is the question:\n" * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    train_bpe(TEXT, 262).save_pretrained(folder)
    config = GPT2Config(vocab_size=262, n_positions=16, n_embd=8, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    """Call `minigpt eval` on a file of that content; its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(content, *options, name="data.txt"):
        if content is not None:
            (tmp_path / name).write_bytes(content.encode())
        code = main(["eval", "--model", str(folder), "--data", name, *options])
        return code, *capsys.readouterr()

    return run


def test_a_text(run, folder):
    code, out, err = run(TEXT, "--quiet")
    assert code == 0 and "perplexity 2" in out and "bits a byte" in out and err == ""
    ids = GPT2Tokenizer.from_pretrained(folder).encode(TEXT)
    expected = text_loss(GPT2LMHeadModel.from_pretrained(folder), ids, window=8, stride=2)
    found = json.loads(run(TEXT, "--window", "8", "--stride", "2", "--json")[1])
    assert {key: found[key] for key in expected.to_dict()} == expected.to_dict()
    assert found["bits_per_byte"] == pytest.approx(expected.total / 0.6931472 / len(TEXT))


def test_wikitext_two_ways(run):
    text = " = A = \n \n to be , or not . \n"
    raw = json.loads(run(text, "--task", "wikitext2-raw", "--json")[1])
    assert (raw["window"], raw["stride"]) == (16, 16)
    paper = json.loads(run(text, "--task", "wikitext2", "--json")[1])
    assert paper["original_tokens"] == 12 and paper["perplexity_per_original_token"] > 1
    assert "per original token (12)" in run(text, "--task", "wikitext2")[1]


def test_last_words_and_endings(run):
    passages = "".join(json.dumps({"text": f"to be or {word}"}) + "\n" for word in ("be", "not"))
    code, out, _ = run(passages, "--task", "lambada", name="p.jsonl")
    assert code == 0 and out.startswith("2 passages\nlast word right: ")
    question = json.dumps({"ctx": "to be", "endings": ["or", "not"], "label": 0}) + "\n"
    found = json.loads(run(question * 3, "--task", "hellaswag", "--json", name="q.jsonl")[1])
    assert found["questions"] == 3 and found["accuracy"] in (0.0, 1.0)
    assert json.loads(run(question * 3, "--task", "hellaswag", "--json", "--limit", "2",
                          name="q.jsonl")[1])["questions"] == 2


def test_the_validation_split_of_prepared_tokens(run, folder, tmp_path, capsys):
    (tmp_path / "long.txt").write_text(TEXT * 20)
    assert main(["prepare", "--data", str(tmp_path / "long.txt"), "--tokenizer", str(folder),
                 "--out", str(tmp_path / "tokens"), "--quiet"]) == 0
    capsys.readouterr()
    code, out, _ = run(None, "--json", name="tokens")
    found = json.loads(out)
    assert code == 0 and found["tokens"] == (tmp_path / "tokens" / "val.bin").stat().st_size // 2


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ("", [], "data.txt: the text is empty"),
        (" \n", [], "data.txt: the text is empty"),
        ("a", [], "the text has 1 tokens: a loss needs at least two"),
        (None, [], "data.txt: no such file or folder"),
        (TEXT, ["--window", "17"], "the model's context is 16"),
        (TEXT, ["--window", "1"], "the window needs at least 2"),
        (TEXT, ["--stride", "99"], "a stride of 99"),
        (TEXT, ["--limit", "0"], "--limit 0: at least 1"),
        (TEXT, ["--batch-size", "-1"], "--batch-size -1: at least 1"),
        (TEXT, ["--task", "lambada", "--window", "4"], "--window and --stride are for texts"),
        (TEXT, ["--task", "hellaswag"], "data.txt, line 1: not a JSON object"),
        ("\n", ["--task", "lambada"], "data.txt: there are no passages in the file"),
        ("word\n", ["--task", "lambada"], "data.txt: passage 1: 'word' has fewer than two words"),
        (TEXT, ["--task", "nonsense"], "invalid choice: 'nonsense'"),
        (TEXT, ["--device", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_measured_is_one_line(run, content, options, said):
    code, out, err = run(content, *options)
    assert code == 2 and out == "" and said in err
    assert err.startswith("minigpt: error: ") and err.count("\n") == 1


@pytest.mark.parametrize("model", ["nowhere", "runs/none", "gpt2"])
def test_a_model_that_is_not_there(tmp_path, monkeypatch, capsys, model):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.txt").write_text("some text")
    assert main(["eval", "--model", model, "--data", "data.txt"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
