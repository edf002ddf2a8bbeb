"""Whole files from web servers, which may be anybody's: no more bytes than expected, in no more time than sensible."""

from __future__ import annotations

import contextlib
import errno
import http.client
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from deapcache.errors import LocationError, NotAFileError
from deapcache.locations.addresses import redacted
from deapcache.locations.stores import RETRIES, silence_seconds

MOST_BYTES = 1 << 32
"""Of a file for which nobody says how large it may be."""
MOST_OF_A_DOCUMENT = 1 << 24
"""Of a file of JSON: the manifest of a cache of a hundred thousand shards has half of that."""

_LEAST_RATE = 1 << 16
"""Bytes a second: below it, on the whole, a server is given up as if it were silent."""
_PIECE = 1 << 20
_HEADERS = {"Accept-Encoding": "identity", "Cache-Control": "no-cache", "User-Agent": "deapcache"}
_MISSING = (404, 410)
_REFUSED = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}
_PASSING = (408, 425, 429, 500, 502, 503, 504)


class RefusedError(LocationError):
    """The server wants to know who asks."""


def read_url(url: str, most: int | None) -> bytes:
    """The file at ``url``, of ``most`` bytes at most.

    What a server sends compressed is not unpacked but refused: the length says nothing of what comes of it. Hiccups are
    waited out for some seconds. Raises ``FileNotFoundError``, :class:`NotAFileError` for a larger file, and
    :class:`LocationError`.
    """
    silence = silence_seconds()
    limit = most if most is not None else MOST_OF_A_DOCUMENT if url.endswith(".json") else MOST_BYTES
    for attempt in range(RETRIES["max_retries"] + 1):
        try:
            return _within(silence + limit / _LEAST_RATE, url, limit, silence)
        except (OSError, http.client.HTTPException) as error:
            problem: Exception = error
        if isinstance(problem, urllib.error.HTTPError):
            _raise_for_status(url, problem)
        if isinstance(problem, (FileNotFoundError, LocationError)):
            raise problem
        if attempt < RETRIES["max_retries"]:
            time.sleep(min(RETRIES["most_seconds"], RETRIES["initial_seconds"] * 2**attempt))
    raise LocationError(f"cannot reach {redacted(url)}: {_reason(problem)}") from problem


def _raise_for_status(url: str, answer: urllib.error.HTTPError) -> None:
    """Raise what an answer stands for; nothing for one that may be another in a moment."""
    answer.close()
    if answer.code in _MISSING:
        raise FileNotFoundError(errno.ENOENT, "no such key", redacted(url)) from None
    if answer.code in _REFUSED:
        raise RefusedError(f"{_REFUSED[answer.code]}: HTTP response code: {answer.code}") from None
    if answer.code not in _PASSING:
        raise LocationError(f"cannot reach {redacted(url)}: HTTP response code: {answer.code}") from None


def _reason(problem: Exception) -> str:
    if isinstance(problem, urllib.error.HTTPError):
        return f"HTTP response code: {problem.code}"
    inner = problem.reason if isinstance(problem, urllib.error.URLError) else problem
    return redacted(" ".join(str(inner).split()) or type(inner).__name__)


def _within(seconds: float, url: str, limit: int, silence: float) -> bytes:
    """:func:`_fetched`, given up after so many seconds, wherever the server lets it hang."""
    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            outcome["data"] = _fetched(url, limit, silence, outcome)
        except BaseException as error:  # raised in the thread that asked
            outcome["error"] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(2 * silence)
    if thread.is_alive() and "answered" in outcome:
        thread.join(seconds)
    if thread.is_alive():
        raise LocationError(f"cannot reach {redacted(url)}: no whole answer in the time that it may take")
    if "error" in outcome:
        raise outcome["error"]
    data: bytes = outcome["data"]
    return data


def _fetched(url: str, limit: int, silence: float, outcome: dict[str, Any]) -> bytes:
    begun = time.monotonic()
    request = urllib.request.Request(url, headers=_HEADERS)
    with urllib.request.urlopen(request, timeout=silence) as answer:
        outcome["answered"] = True
        encoding = answer.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise LocationError(
                f"cannot read {redacted(url)}: the web server sends it compressed ({encoding[:20]}), though it is "
                "asked not to: switch that off for the folder"
            )
        told = answer.headers.get("Content-Length", "")
        if told.isdecimal() and len(told) < 20 and int(told) > limit:
            raise _too_large(url, limit)
        pieces, received = [], 0
        while piece := answer.read1(_PIECE):
            pieces.append(piece)
            received += len(piece)
            if received > limit:
                raise _too_large(url, limit)
            if time.monotonic() - begun > silence + received / _LEAST_RATE:
                raise LocationError(f"cannot reach {redacted(url)}: it comes too slowly, {received:,} bytes so far")
        if told.isdecimal() and received < int(told):
            raise http.client.IncompleteRead(b"", int(told) - received)
    return b"".join(pieces)


def _too_large(url: str, limit: int) -> NotAFileError:
    return NotAFileError(f"{redacted(url)} has more than {limit:,} bytes: no more are read of such a file")


@contextlib.contextmanager
def socket_timeout(seconds: float) -> Iterator[None]:
    """Connections that are opened in the block give up after so many silent seconds; for the whole process."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
