"""One cache for two programs: what we wrote there huggingface_hub finds, and the other way round,
both from the same local server.

huggingface_hub comes with the `reference` extra. It reads the environment as it is imported, so
each of its calls is a process of its own.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from minigpt.checkpoints import hub, hub_cache
from tests.minigpt.hub_server import COMMIT, WEIGHTS

pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(
        importlib.util.find_spec("huggingface_hub") is None, reason="needs huggingface_hub"
    ),
]


def theirs(expression, **variables):
    """The value of an expression of huggingface_hub, as JSON has it, with the test's cache."""
    code = f"import json, huggingface_hub as h; print(json.dumps({expression}))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"HF_HUB_DISABLE_XET": "1"} | variables,
        capture_output=True, text=True, timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["gpt2", "org/name"])
def test_what_we_fetched_it_finds_offline(hub_server, name):
    folder = hub.download(name)
    offline = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    found = theirs(f"h.snapshot_download({name!r}, local_files_only=True)", **offline)
    assert Path(found) == folder
    for file in hub_server.files:
        path = theirs(f"h.try_to_load_from_cache({name!r}, {file!r})", **offline)
        assert Path(path) == folder / file
    assert Path(theirs(f"h.hf_hub_download({name!r}, 'config.json')", **offline)).parent == folder


@pytest.mark.parametrize("name", ["gpt2", "org/name"])
def test_what_it_fetched_we_find_without_a_request(hub_server, monkeypatch, name):
    folder = Path(theirs(f"h.snapshot_download({name!r})"))
    assert folder == hub_cache.cached_snapshot(name)
    hub_server.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for part in hub.PARTS:
        assert hub.find_folder(name, part) == folder
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS and hub_server.requests == []


def test_what_one_has_the_other_does_not_fetch_again(hub_server):
    hub.download("gpt2")
    hub_server.requests.clear()
    theirs("h.snapshot_download('gpt2')")
    assert {r[1] for r in hub_server.requests if r[2] in hub_server.files} <= {"HEAD"}
    hub_server.files["merges.txt"] = b"#version: 0.2\n"
    hub_server.commit = "a" * 40                # a new commit, in which one file has changed
    theirs("h.snapshot_download('gpt2')")
    hub_server.requests.clear()
    assert hub.download("gpt2").name == "a" * 40
    assert {r[1] for r in hub_server.requests} == {"HEAD"}
    assert COMMIT != "a" * 40


def test_it_goes_on_where_we_stopped(hub_server):
    """The unfinished file has the same name for both."""
    hub_server.cuts, hub_server.ranges = [1000] * 9, False
    with pytest.raises(FileNotFoundError):
        hub.download("gpt2")
    hub_server.cuts, hub_server.ranges = [], True
    hub_server.requests.clear()
    path = Path(theirs("h.hf_hub_download('gpt2', 'model.safetensors')"))
    assert path.read_bytes() == WEIGHTS
    asked = [r[3] for r in hub_server.requests if r[:2] == ("other", "GET")]
    assert asked == ["bytes=1000-"]
