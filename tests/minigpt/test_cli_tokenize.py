"""`minigpt tokenize`: what it prints on a terminal, in a pipe, as JSON."""

import io
import json
import re
from pathlib import Path

import pytest

from minigpt.bpe_training import train_bpe
from minigpt.cli import main
from minigpt.data import load_text, split_text
from minigpt.token_display import escape_bytes, row, wants_colour

TEXT = "the cat's naïve café\nthe end"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    train_bpe([TEXT * 3], 270).save_pretrained("bpe")


def run(capsys, *arguments):
    code = main(["tokenize", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_tokens_and_ids_in_a_pipe(capsys):
    tokenizer = train_bpe([TEXT * 3], 270)
    code, out, err = run(capsys, TEXT, "--tokenizer", "bpe")
    *tokens, ids, counts = out.splitlines()
    assert (code, err) == (0, "")
    assert list(map(int, ids.split())) == tokenizer.encode(TEXT)
    shown = "".join(tokens).replace("|", "").replace("\\n", "\n")
    data = shown.encode("latin-1", "backslashreplace").decode("unicode_escape").encode("latin-1")
    assert data.decode("latin-1").replace("Ã©", "é").replace("Ã¯", "ï") == TEXT
    assert counts == (
        f"{len(ids.split())} tokens ({len(set(ids.split()))} of a vocabulary of 270), "
        f"28 characters, 30 bytes: {30 / len(ids.split()):.2f} bytes per token"
    )
    assert "\x1b" not in out


def test_without_options_it_takes_the_tokenizer_that_train_makes(capsys):
    code, out, err = run(capsys, TEXT)
    expected = train_bpe([split_text(load_text())[0]], 512)
    assert code == 0 and list(map(int, out.splitlines()[-2].split())) == expected.encode(TEXT)
    assert err.startswith("tokenizer: bpe:512, trained on the prose that Python carries")
    code, quiet, err = run(capsys, TEXT, "--quiet")
    assert (code, quiet.splitlines(), err) == (0, out.splitlines()[:-1], "")


@pytest.mark.parametrize(("kind", "ids"), [("byte", [64, 127, 102]), ("char", [0, 1])])
def test_bytes_and_characters(capsys, kind, ids):
    code, out, _ = run(capsys, "aé", "--tokenizer", kind, "--json")
    content = json.loads(out)
    assert code == 0 and content["ids"] == ids
    assert content["tokens"] == {"byte": ["a", "Ã", "©"], "char": ["a", "é"]}[kind]
    assert content["counts"] == {
        "tokens": len(ids), "distinct_tokens": len(ids), "characters": 2, "bytes": 3,
        "vocabulary": {"byte": 257, "char": 2}[kind],
    }


def test_a_file_is_counted(capsys):
    Path("text.txt").write_bytes(b"\xef\xbb\xbfab\r\nab\r\n")      # read as training reads it
    code, out, err = run(capsys, "--file", "text.txt", "--tokenizer", "byte", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "tokens": 6, "distinct_tokens": 3, "vocabulary": 257, "characters": 6, "bytes": 6}
    code, out, _ = run(capsys, "--file", "text.txt", "--tokenizer", "byte")
    assert out == (
        "6 tokens (3 of a vocabulary of 257), 6 characters, 6 bytes: 1.00 bytes per token\n")


def test_explain(capsys):
    code, out, _ = run(capsys, "--explain", "the cat", "--tokenizer", "bpe")
    assert code == 0 and out.startswith("'the cat': 2 pieces, ") and "rank" in out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_on_a_terminal_only(monkeypatch):
    for stream, environment, expected in [
        (Terminal(), {}, True), (io.StringIO(), {}, False), (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": ""}, True), (Terminal(), {"TERM": "dumb"}, False),
    ]:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            assert wants_colour(stream) is expected
            patch.setattr("sys.stdout", stream)
            assert main(["tokenize", "ab\nc\x1b[2J", "--tokenizer", "byte"]) == 0
        printed = stream.getvalue()
        assert ("\x1b[30;48;5;" in printed) is expected and "\x1b[2J" not in printed
        plain = re.sub(r"\x1b\[[0-9;]*m", "", printed)
        assert plain.splitlines()[1].replace("|", "") == "c\\x1b[2J"
        assert plain.splitlines()[2] == "64 65 198 66 215 58 17 41"


def test_neighbours_have_different_colours():
    colours = re.findall(r"48;5;(\d+)", row(list("abcdefghijklm"), colour=True))
    assert len(colours) == 13 and all(a != b for a, b in zip(colours, colours[1:]))


def test_bytes_are_escaped():
    assert escape_bytes("é\\ \u200b\n".encode()) == "é\\\\ \\u200b\\n"
    assert escape_bytes(b"a\xe6\x97") == "a\\xe6\\x97"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either a text or --file"),
        (["text", "--file", "x"], "either a text or --file"),
        (["--file", "nowhere"], "nowhere: no such file"),
        (["--file", "empty"], "empty: the text is empty"),
        (["text", "--tokenizer", "nowhere"], "no tokenizer in nowhere"),
        (["text", "--tokenizer", "bpe:many"], "expected bpe:SIZE"),
        (["text", "--explain", "--tokenizer", "char"], "char has none"),
        (["text", "--explain", "--json"], "--explain takes a text"),
        (["x" * 3000, "--explain", "--tokenizer", "byte"], "up to 2000 characters"),
        (["--file", "binary"], "binary: a binary file"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, message):
    Path("empty").touch()
    Path("binary").write_bytes(b"\x00\x01")
    code, out, err = run(capsys, *arguments)
    assert code == 2 and out == "" and message in err and err.count("\n") == 1


def test_nothing_and_half_characters(capsys):
    code, out, _ = run(capsys, "", "--tokenizer", "byte")
    assert code == 0
    assert out == "\n\n0 tokens (0 of a vocabulary of 257), 0 characters, 0 bytes\n"
    code, out, _ = run(capsys, "\udcff", "--tokenizer", "byte")     # bytes that aren't UTF-8
    assert code == 0 and out.splitlines()[0] == "\\xef|\\xbf|\\xbd"
