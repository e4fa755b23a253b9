"""Downloads into the Hub's cache, against a local server that behaves, and misbehaves, like it."""

import errno
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from minigpt.checkpoints import http_download, hub, hub_cache
from tests.minigpt.hub_server import COMMIT, WEIGHTS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server(hub_server):
    return hub_server


def ranges(server):
    return [r[3] for r in server.requests if r[0] == "other" and r[1] == "GET"]


def leftovers():
    return [p.name for p in hub_cache.cache_folder().rglob("*.incomplete")]


def test_the_cache_has_the_hubs_layout_and_is_found_without_a_network(server, monkeypatch):
    folder = hub.download("gpt2")
    root = hub_cache.cache_folder() / "models--gpt2"
    assert folder == root / "snapshots" / COMMIT
    assert (root / "refs" / "main").read_text() == COMMIT
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == server.files
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    assert (folder / "model.safetensors").resolve() == (root / "blobs" / sha256).resolve()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(server.requests)
    for name in ("gpt2", "openai-community/gpt2"):
        assert hub.find_folder(name, "model") == folder
    assert len(server.requests) == asked and leftovers() == []


def test_a_token_does_not_follow_a_redirect_to_another_host(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.download("org/name")
    tokens = {host: {r[4] for r in server.requests if r[0] == host} for host in ("own", "other")}
    assert tokens == {"own": {"Bearer hf_secret"}, "other": {None}}


@pytest.mark.parametrize("with_ranges", [True, False])
def test_a_dropped_connection_is_taken_up_where_it_broke(server, with_ranges):
    server.cuts, server.ranges = [1000], with_ranges
    folder = hub.download("gpt2")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert ranges(server) == [None, "bytes=1000-"] and server.pauses == [1.0]


def test_a_body_that_is_always_truncated(server):
    server.cuts, server.ranges = [1000] * 20, False
    with pytest.raises(FileNotFoundError, match="connection ended after 1,000 of 307,200 bytes"):
        hub.download("gpt2")
    assert server.pauses == [1, 2, 4, 8] and len(leftovers()) == 1
    assert hub.cached_folder("gpt2", "model") is None
    server.cuts, server.ranges = [], True
    hub.download("gpt2")                        # another day
    assert ranges(server)[-1] == "bytes=1000-" and leftovers() == []


def test_a_wrong_hash(server):
    server.etag = "0" * 64
    with pytest.raises(FileNotFoundError, match="has not the hash 0000") as caught:
        hub.download("gpt2")
    assert "signature" not in str(caught.value) and leftovers() == []
    assert hub.cached_folder("gpt2", "model") is None


def test_pieces_of_another_file_are_thrown_away(server):
    blob = hub_cache.blob_path("gpt2", hashlib.sha256(WEIGHTS).hexdigest())
    blob.with_name(blob.name + ".incomplete").write_bytes(b"x" * 500)
    assert (hub.download("gpt2") / "model.safetensors").read_bytes() == WEIGHTS
    assert ranges(server) == ["bytes=500-", None]


def test_too_many_requests(server):
    server.busy = ["7"]
    hub.download("gpt2")
    assert server.pauses == [7.0]
    server.busy = ["4000"]
    with pytest.raises(FileNotFoundError, match="asks to wait for 4,000 seconds"):
        hub.download("gpt2")


@pytest.mark.parametrize(("status", "code", "advice"), [
    (401, "RepoNotFound", "HF_TOKEN is not set"), (403, "GatedRepo", "HF_TOKEN is not set"),
    (404, "RepoNotFound", "check the name"),
])
def test_refusals_say_what_to_do(server, status, code, advice):
    server.refuse = status, code
    with pytest.raises(FileNotFoundError, match=advice) as caught:
        hub.find_folder("org/name", "model")
    assert "put these files into a folder 'org/name'" in str(caught.value)


def test_offline_and_unreachable(server, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "yes")
    with pytest.raises(FileNotFoundError, match="unset HF_HUB_OFFLINE"):
        hub.find_folder("gpt2", "model")
    assert server.requests == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    server.own.shutdown()
    server.own.server_close()
    with pytest.raises(FileNotFoundError, match=r"cannot be reached.*check the network"):
        hub.find_folder("gpt2", "model")
    assert server.pauses == []                  # nobody waits for a network that is not there


def test_a_full_disk(server, monkeypatch):
    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            self.file.close()

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(path, mode):
        file = open(path, mode)
        return Full(file) if mode in ("ab", "wb") else file

    monkeypatch.setattr(http_download, "open", opened, raising=False)
    with pytest.raises(OSError, match="No space left on device; the 0 bytes") as caught:
        hub.download("gpt2")
    assert caught.value.errno == errno.ENOSPC and server.pauses == []
    assert hub.cached_folder("gpt2", "config") is None


@pytest.mark.parametrize(("attribute", "value", "message"), [
    ("commit", "../../../../escaped", "expected 40 hexadecimal digits"),
    ("etag", '"../../../escaped"', "which is not a hash"),
])
def test_a_server_does_not_choose_our_folders(server, tmp_path, attribute, value, message):
    setattr(server, attribute, value)
    with pytest.raises(FileNotFoundError, match=message):
        hub.download("gpt2")
    assert list(tmp_path.rglob("*escaped*")) == []


def test_shards_that_lead_elsewhere(server):
    del server.files["model.safetensors"]
    server.files["model.safetensors.index.json"] = b'{"weight_map": {"wte": "../x.safetensors"}}'
    with pytest.raises((FileNotFoundError, ValueError), match="not the name of a file of weights"):
        hub.download("gpt2")


@pytest.mark.parametrize(
    "name", ["../gpt2", "a/b/c", "a/..", "/etc/x", "a\\b", "a--b/c", "gpt", ""]
)
def test_names_that_are_no_models(server, name):
    assert not hub.is_hub_name(name)
    assert hub.find_folder(name, "model") == Path(name)
    with pytest.raises(ValueError, match="not the name of a model"):
        hub.download(name)
    assert server.requests == []


def test_a_folder_of_that_name_wins(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("gpt2").mkdir()
    assert hub.find_folder("gpt2", "model") == Path("gpt2") and server.requests == []


def test_two_processes_fetch_each_file_once(server):
    code = "from minigpt.checkpoints.hub import download; download('gpt2')"
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) for _ in range(2)]
    assert [(p.wait(60), p.stderr.read(), p.stderr.close())[:2] for p in both] == [(0, b"")] * 2
    assert len(ranges(server)) == 1
    assert (hub.cached_folder("gpt2", "model") / "model.safetensors").read_bytes() == WEIGHTS
