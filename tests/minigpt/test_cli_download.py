"""`minigpt download`, against the local server of test_hub.py."""

import os

import pytest

from minigpt import progress
from minigpt.checkpoints import hub_cache
from minigpt.cli import main
from tests.minigpt.hub_server import COMMIT


@pytest.fixture
def hub(hub_server):
    return hub_server


def test_the_last_line_is_the_folder_which_a_second_call_finds_without_asking(hub, capsys):
    assert main(["download", "gpt2"]) == 0
    folder = capsys.readouterr().out.splitlines()[-1]
    assert folder.endswith(os.path.join("models--gpt2", "snapshots", COMMIT))
    assert {p: (hub_cache.cache_folder() / folder / p).read_bytes() for p in hub.files} == hub.files
    asked = len(hub.requests)
    assert main(["download", "openai-community/gpt2", "--quiet"]) == 0
    assert capsys.readouterr().out == f"{folder}\n"
    assert len(hub.requests) == asked


@pytest.mark.parametrize(
    ("name", "offline", "said"),
    [
        ("gpt2", "1", "HF_HUB_OFFLINE is set"),
        ("no-such", "", "'no-such' is not the name of a model on the Hub"),
        ("../etc/passwd", "", "is not the name of a model on the Hub"),
    ],
)
def test_what_cannot_be_had_is_one_line(hub, monkeypatch, capsys, name, offline, said):
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    assert main(["download", name]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("minigpt: error: ") and said in err
    assert err.count("\n") == 1


def test_a_repository_that_is_not_there(hub, capsys):
    hub.refuse = (404, "RepoNotFound")
    assert main(["download", "org/name"]) == 2
    err = capsys.readouterr().err
    assert "put these files into a folder 'org/name' here" in err and err.count("\n") == 1


def test_a_line_says_how_fast_and_how_long_to_go(monkeypatch):
    now, lines = [100.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Meter("weights", 4000, "bytes", lines.append, done=1000) as meter:
        now[0] += 5
        meter.advance(500)                      # within ten seconds: no line yet
        now[0] += 5
        meter.advance(500)
    assert lines == ["weights: 2,000 of 4,000 bytes (50%), 100 a second, 0:20 left"]
