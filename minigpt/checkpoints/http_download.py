"""One file over HTTP: taken up where it stopped, tried again, checked, and only then there.

Only the standard library. Redirects are followed by hand, because a token must not follow one to
another host; proxies are those of the environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY), read at
each request.
"""

from __future__ import annotations

import email.utils
import hashlib
import os
import shutil
import ssl
import time
from collections.abc import Mapping
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from minigpt.files import sync_folder
from minigpt.progress import Meter, Report, tell

ATTEMPTS = 5            # failures in a row without a new byte
TIMEOUT = 30.0          # seconds in which nothing comes
LONGEST_WAIT = 300.0    # seconds that a server may ask us to wait
_MAX_REDIRECTS = 8
_CHUNK = 1 << 20
_REDIRECTS = {301, 302, 303, 307, 308}
_BUSY = {408, 429, 500, 502, 503, 504}      # worth another attempt


class DownloadError(OSError):
    """What the network or the server did not give.

    status: of the HTTP answer, None where there was none. code: the Hub's X-Error-Code, "" where
    it says nothing. again: whether another attempt may help, after `wait` seconds if the server
    asked for that.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        code: str = "",
        again: bool = False,
        wait: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.again, self.wait = status, code, again, wait


# ---- requests -----------------------------------------------------------------------------------


def ask(url: str, token: str | None = None, report: Report | None = None) -> list[Message]:
    """The headers of a HEAD request's answers: of each redirect within the same host, in order,
    and of what ended it: the file itself, or a redirect to another host, which is not followed.

    A busy server is asked again. DownloadError otherwise; one without a status is a server that
    could not be reached, and is raised at once: whoever has no network should not have to wait.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            response, passed = _follow(url, "HEAD", token, {}, stay=True)
            response.close()
            return passed
        except DownloadError as error:
            if error.status is None or not error.again or attempt == ATTEMPTS:
                raise
            _wait(error, attempt, report)
    raise AssertionError("unreachable")


def _follow(
    url: str, method: str, token: str | None, headers: Mapping[str, str], stay: bool = False
) -> tuple[HTTPResponse | HTTPError, list[Message]]:
    """Send a request and follow its redirects; the last response, and the headers of all of them.

    The token goes to the host of `url` alone. stay: don't follow to another host.
    """
    home = _origin(url)
    passed: list[Message] = []
    for _ in range(_MAX_REDIRECTS):
        own = {"Authorization": f"Bearer {token}"} if token and _origin(url) == home else {}
        response = _send(url, method, {**headers, **own})
        passed.append(response.headers)
        location = response.headers.get("Location")
        if response.status not in _REDIRECTS or location is None:
            return response, passed
        target = urljoin(url, location)
        schemes = urlsplit(url).scheme, urlsplit(target).scheme
        if schemes[1] not in ("http", "https") or schemes == ("https", "http"):
            response.close()
            raise DownloadError(f"{shown(url)} leads to {shown(target)}, which is not https")
        if stay and _origin(target) != home:
            return response, passed
        response.close()
        url = target
    raise DownloadError(f"{shown(url)}: more than {_MAX_REDIRECTS} redirects")


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        """Follow none: `_follow` does."""


def _send(url: str, method: str, headers: Mapping[str, str]) -> HTTPResponse | HTTPError:
    """One request, one answer below 400; DownloadError for the others and for none."""
    if urlsplit(url).scheme not in ("http", "https"):       # urllib would open file: and ftp:, too
        raise DownloadError(f"{shown(url)} is not an http or https address")
    # Compressed, the length would not be that of the file.
    fixed = {"User-Agent": "minigpt", "Accept-Encoding": "identity"}
    try:
        request = Request(url, method=method, headers={**fixed, **headers})
        response = build_opener(_NoRedirects).open(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code in _REDIRECTS:
            return error
        error.close()
        raise DownloadError(
            f"{shown(url)} answers {error.code} {error.reason}",
            error.code,
            error.headers.get("X-Error-Code", ""),
            again=error.code in _BUSY,
            wait=_retry_after(error.headers),
        ) from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise DownloadError(
            f"{shown(url)} cannot be reached: {str(reason) or type(reason).__name__}",
            again=not isinstance(reason, (ssl.SSLCertVerificationError, ValueError)),
        ) from None
    assert isinstance(response, HTTPResponse)
    return response


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()


def shown(url: str) -> str:
    """A URL for a message: without the user's name and the query, which may hold a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _retry_after(headers: Message) -> float | None:
    """The seconds that a Retry-After header asks for, as a number or as a date; None without."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _wait(error: DownloadError, failures: int, report: Report | None) -> None:
    """Pause before the next attempt: as the server asks, or 1, 2, 4, 8 seconds."""
    seconds = 2.0 ** (failures - 1) if error.wait is None else error.wait
    if seconds > LONGEST_WAIT:
        raise DownloadError(
            f"{error}, and asks to wait for {seconds:,.0f} seconds; try again then", error.status
        )
    tell(report, f"{error}; trying again in {seconds:.0f} s")
    time.sleep(seconds)


# ---- one file -----------------------------------------------------------------------------------


def fetch(
    url: str,
    target: Path,
    *,
    size: int,
    digest: str | None,
    part: Path,
    token: str | None = None,
    report: Report | None = None,
    name: str = "",
) -> None:
    """Download `url` to `target`, which appears when size and digest are right, and not before.

    part: where the bytes are collected, on the same file system; those that an earlier attempt
    left there are not asked for again. digest: see `digest_of`; None where none is known. The
    caller holds a lock on `part`.

    DownloadError when the network, the server or the content is at fault; OSError when the disk
    is, or is too small for `size` bytes.
    """
    name = name or target.name
    found = _length(part)
    _require_space(part.parent, size - found, name)
    failures, furthest, joined = 0, found, found > 0
    with Meter(name, size, "bytes", report, scaled=True, done=min(found, size)) as meter:
        while True:
            try:
                _append(url, part, size, token, meter)
            except DownloadError as error:
                if _length(part) > furthest:
                    failures, furthest = 0, _length(part)
                failures += 1
                if not error.again or failures == ATTEMPTS:
                    raise
                joined = joined or _length(part) > 0
                _wait(error, failures, report)
                continue
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"{error.strerror}; the {_length(part):,} bytes of {name} that are there are "
                    "kept: the next attempt goes on from them",
                    str(part),
                ) from None
            if digest is None or digest_of(part, digest) == digest:
                break
            part.unlink()
            if not joined:
                raise DownloadError(
                    f"{shown(url)}: what came has not the hash {digest} that the server announced; "
                    "it was deleted: a proxy or mirror may be at fault"
                )
            tell(report, f"{name}: the pieces don't fit together; from the beginning")
            meter.advance(-size)
            joined, furthest = False, 0
    os.replace(part, target)
    sync_folder(target.parent)


def _append(url: str, part: Path, size: int, token: str | None, meter: Meter) -> None:
    """Ask for what `part` lacks of `size` bytes and add it. It may end with less than was asked
    for: then DownloadError, with what came kept.
    """
    part.touch()
    start = _length(part)
    if start > size:
        part.write_bytes(b"")
        meter.advance(-size)
        start = 0
    if start == size:
        return
    headers = {"Range": f"bytes={start}-"} if start else {}
    try:
        response, _ = _follow(url, "GET", token, headers)
    except DownloadError as error:
        if error.status != 416:
            raise
        part.write_bytes(b"")       # the server has no such bytes: start anew
        meter.advance(-start)
        raise DownloadError(str(error), 416, again=True, wait=0.0) from None
    with response:
        if response.status == 200 and start:        # a server without ranges sends all of it
            meter.advance(-start)
            start = 0
        _check_answer(url, response, start, size)
        with open(part, "ab" if start else "wb") as f:
            while data := _read(url, response):
                if start + len(data) > size:
                    raise DownloadError(f"{shown(url)} sends more than {size:,} bytes")
                f.write(data)
                start += len(data)
                meter.advance(len(data))
            f.flush()
            os.fsync(f.fileno())
    if start < size:
        raise DownloadError(
            f"{shown(url)}: the connection ended after {start:,} of {size:,} bytes", again=True
        )


def _check_answer(
    url: str, response: HTTPResponse | HTTPError, start: int, size: int
) -> None:
    """Whether the body is what was asked for: bytes `start` to `size`, not compressed."""
    length = response.headers.get("Content-Length", "")
    span = response.headers.get("Content-Range", "")
    coding = response.headers.get("Content-Encoding", "identity")
    if response.status not in (200, 206):
        fault = f"answers {response.status}"
    elif response.status == 206 and span.replace(" ", "") != f"bytes{start}-{size - 1}/{size}":
        fault = f"sends the range {span!r} instead of bytes {start}-{size - 1}/{size}"
    elif length and length != str(size - start):
        fault = f"sends {length} bytes, expected {size - start}"
    elif coding != "identity":
        fault = f"sends the file in the encoding {coding!r}"
    else:
        return
    raise DownloadError(f"{shown(url)} {fault}", response.status)


def _read(url: str, response: IO[bytes] | HTTPResponse | HTTPError) -> bytes:
    """The next bytes of a body; a fault of the network is not one of the disk."""
    try:
        return response.read(_CHUNK)
    except (OSError, HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise DownloadError(f"{shown(url)}: the connection broke: {reason}", again=True) from None


def digest_of(path: Path, like: str) -> str:
    """The hash of a file, of the kind that `like` is: 64 digits are SHA-256; 40 are the SHA-1 that
    git gives its content, of b"blob <size>\\0" and the bytes; 32 are MD5. The Hub has the first for
    large files and the second for small ones, OpenAI's bucket the third.
    """
    with open(path, "rb") as f:
        if len(like) == 64:
            return hashlib.file_digest(f, "sha256").hexdigest()
        if len(like) == 32:
            md5 = hashlib.md5(usedforsecurity=False)
            while data := f.read(_CHUNK):
                md5.update(data)
            return md5.hexdigest()
        digest = hashlib.sha1(b"blob %d\0" % _length(path), usedforsecurity=False)
        while data := f.read(_CHUNK):
            digest.update(data)
    return digest.hexdigest()


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _require_space(folder: Path, size: int, name: str) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(
            f"{name} needs {size:,} bytes more, and {folder} has {free:,} left: make room, or "
            "choose another disk (HF_HUB_CACHE; MINIGPT_CACHE for OpenAI's files)"
        )
