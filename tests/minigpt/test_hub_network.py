"""What lies between us and the Hub: proxies, tokens, and file systems without links."""

import http.client
import os
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from minigpt.checkpoints import hub, hub_cache
from tests.minigpt.hub_server import COMMIT, WEIGHTS


@pytest.fixture
def proxy(hub_server, monkeypatch):
    """A proxy in front of everything: the address, and the (method, target) that it was asked for.
    It hands requests for http on, and refuses to tunnel https.
    """
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_HEAD(self):
            seen.append((self.command, self.path))
            there = urlsplit(self.path)
            connection = http.client.HTTPConnection(there.netloc)
            connection.request(self.command, f"{there.path}?{there.query}", headers=self.headers)
            answer = connection.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.read())
            connection.close()

        do_GET = do_HEAD      # noqa: N815

        def do_CONNECT(self):      # noqa: N802
            seen.append((self.command, self.path))
            self.send_error(403)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield address, seen
    server.shutdown()
    server.server_close()


def test_a_proxy_of_the_environment_is_used_from_the_next_request_on(
    hub_server, proxy, monkeypatch
):
    address, seen = proxy
    hub.download("gpt2", ("config",))
    assert seen == []
    monkeypatch.setenv("HTTP_PROXY", address)
    folder = hub.download("gpt2", ("model",))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    own, other = (hub_server.url(each) for each in (hub_server.own, hub_server.other))
    assert ("GET", f"{other}/model.safetensors?signature=secret") in seen
    assert {target.split("/model")[0] for _, target in seen} >= {other}
    assert any(target.startswith(own) for _, target in seen)


def test_no_proxy_names_hosts_that_are_asked_directly(hub_server, proxy, monkeypatch):
    address, seen = proxy
    monkeypatch.setenv("HTTP_PROXY", address)
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    hub.download("gpt2")
    assert seen == []


def test_https_goes_through_the_tunnel_of_a_proxy(proxy, monkeypatch):
    address, seen = proxy
    monkeypatch.setenv("HTTPS_PROXY", address.replace("//", "//user:password@"))
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    with pytest.raises(FileNotFoundError, match=r"Tunnel connection failed: 403.*HTTPS_PROXY") as e:
        hub.download("gpt2")
    assert seen == [("CONNECT", "hub.invalid:443")]
    assert "password" not in str(e.value)


# ---- tokens -------------------------------------------------------------------------------------


def test_the_token_of_a_login_is_sent(hub_server, monkeypatch):
    file = hub_cache.token_file()
    assert file.parent == Path(os.environ["HF_HOME"])
    file.parent.mkdir()
    file.write_text("hf_of_a_login\n")
    hub.download("gpt2", ("config",))
    assert hub_server.requests[-1][4] == "Bearer hf_of_a_login"
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_environment")
    hub.download("org/name", ("config",))
    assert hub_server.requests[-1][4] == "Bearer hf_of_the_environment"


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_refused_is_named_by_its_source_only(hub_server, monkeypatch, status):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub_server.refuse = (status, "GatedRepo")
    lines = []
    with pytest.raises(FileNotFoundError, match="the token of HF_TOKEN was sent, but") as caught:
        hub.download("org/name", report=lines.append)
    assert "hf_secret" not in f"{caught.value}{caught.value.__cause__}{lines}"


def test_a_token_with_a_line_break_in_it_is_refused_and_not_shown(hub_server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_a\r\nX-Evil: 1")
    with pytest.raises(FileNotFoundError, match="HF_TOKEN holds characters that no token") as e:
        hub.download("gpt2")
    assert "Evil" not in str(e.value) and hub_server.requests == []


# ---- file systems without links -----------------------------------------------------------------


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_system_without_symbolic_links(hub_server, monkeypatch, hard_links):
    def refused(*paths):
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(os, "symlink", refused)
    if not hard_links:
        monkeypatch.setattr(os, "link", refused)
    folder = hub.download("gpt2")
    weights = folder / "model.safetensors"
    assert not weights.is_symlink() and weights.read_bytes() == WEIGHTS
    assert weights.stat().st_nlink == (2 if hard_links else 1)
    assert sorted(p.name for p in folder.iterdir()) == sorted(hub_server.files)
    assert hub.cached_folder("gpt2", "model") == folder


def test_a_snapshot_without_blobs_is_not_fetched_again(hub_server):
    """As huggingface_hub leaves it on Windows: the files themselves stand in the snapshot."""
    folder = hub.download("gpt2")
    for path in list(folder.iterdir()):
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    shutil.rmtree(folder.parents[1] / "blobs")
    hub_server.requests.clear()
    assert hub.download("gpt2") == folder
    assert {r[1] for r in hub_server.requests} == {"HEAD"}
    (folder / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"?")     # damaged, of the same size
    assert (hub.download("gpt2") / "model.safetensors").read_bytes() == WEIGHTS


def test_a_model_that_was_renamed(hub_server, monkeypatch):
    """The Hub sends "gpt2" on to "openai-community/gpt2" on the same host: the token goes along."""
    hub_server.renamed = ("gpt2", "openai-community/gpt2")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    folder = hub.download("gpt2")
    assert folder.parents[1].name == "models--gpt2"
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    tokens = {(r[0], r[4]) for r in hub_server.requests}
    assert tokens == {("own", "Bearer hf_secret"), ("other", None)}


def test_a_circle_of_redirects_ends(hub_server):
    hub_server.renamed = ("gpt2", "gpt2")
    with pytest.raises(FileNotFoundError, match="more than 8 redirects"):
        hub.download("gpt2")


def test_the_commit_of_the_cache_is_the_one_that_the_hub_names(hub_server):
    assert hub.download("gpt2", ("config",)).name == COMMIT
    hub_server.commit = "f" * 40
    assert hub.download("gpt2", ("config",)).name == "f" * 40
    assert hub.cached_folder("gpt2", "config").name == "f" * 40
