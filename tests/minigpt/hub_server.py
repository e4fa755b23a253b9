"""A local server that behaves, and misbehaves, like the Hub; and a second one for large files."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from minigpt.checkpoints import http_download

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = bytes(range(256)) * 1200


class Hub:
    """Files by name, and how the next answers go wrong. A second server plays the other host."""

    def __init__(self):
        self.files = {
            "config.json": b'{"model_type": "gpt2"}', "vocab.json": b"{}", "merges.txt": b"",
            "model.safetensors": WEIGHTS,
        }
        self.commit, self.ranges, self.cuts, self.busy = COMMIT, True, [], []
        self.etag = self.md5 = None
        self.renamed = ()                       # (old, new) name of a model
        self.refuse = None                      # (status, X-Error-Code) of every answer
        self.requests = []                      # (host, method, file, Range, Authorization)
        self.own, self.other = self._serve("own"), self._serve("other")

    def _serve(self, host):
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(host))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    def url(self, server):
        return f"http://127.0.0.1:{server.server_port}"

    def _handler(self, host):
        answer = self.answer

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

            def do_HEAD(self):
                answer(self, host)

            do_GET = do_HEAD      # noqa: N815

        return Handler

    def answer(self, request, host):
        file = request.path.partition("?")[0].rpartition("/")[2]
        asked = request.headers.get("Range")
        token = request.headers.get("Authorization")
        self.requests.append((host, request.command, file, asked, token))
        if self.busy:
            return self.reply(request, 429, {"Retry-After": self.busy.pop()})
        if self.refuse:
            return self.reply(request, self.refuse[0], {"X-Error-Code": self.refuse[1]})
        if self.renamed and request.path.startswith(f"/{self.renamed[0]}/"):
            target = request.path.replace(*self.renamed, 1)     # without a host, as the Hub does
            return self.reply(request, 307, {"Location": target})
        if "/api/models/" in request.path:
            return self.reply(request, 200, {"Content-Type": "application/json"}, self.listing())
        if file not in self.files:
            return self.reply(request, 404, {"X-Error-Code": "EntryNotFound"})
        data = self.files[file]
        if host == "own" and file.endswith(".safetensors"):
            etag = self.etag or f'"{hashlib.sha256(data).hexdigest()}"'
            return self.reply(request, 302, {
                "Location": f"{self.url(self.other)}/{file}?signature=secret",
                "X-Repo-Commit": self.commit, "X-Linked-Etag": etag,
                "X-Linked-Size": str(len(data)),
            })
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        headers = {"ETag": f'"{git}"', "X-Repo-Commit": self.commit}
        if self.md5:
            headers["Content-MD5"] = self.md5
        body, status = data, 200
        if asked and self.ranges:
            start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            body = body[start:]
        cut = self.cuts.pop() if self.cuts and file == "model.safetensors" else None
        return self.reply(request, status, headers, body, cut)

    def listing(self):
        names = [{"rfilename": file} for file in self.files]
        about = {"id": "gpt2", "sha": self.commit, "siblings": names, "private": False}
        return json.dumps({**about, "tags": [], "downloads": 0, "likes": 0}).encode()

    def reply(self, request, status, headers, body=b"", cut=None):
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body[:cut])     # cut: then the connection closes


@pytest.fixture
def hub_server(tmp_path, monkeypatch):
    server = Hub()
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE",
                 "HUGGINGFACE_HUB_CACHE", "http_proxy", "HTTP_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", server.url(server.own))
    monkeypatch.setattr(http_download.time, "sleep", lambda seconds: server.pauses.append(seconds))
    server.pauses = []
    yield server
    for each in (server.own, server.other):
        each.shutdown()
        each.server_close()
