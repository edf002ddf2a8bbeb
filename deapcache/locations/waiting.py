"""How long libraries that reach servers by themselves wait for a silent one."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

SILENCE_SECONDS = 30
LEAST_BYTES_PER_SECOND = 256
"""Below this rate for so long a connection counts as dead."""


def limit_silence() -> None:
    """Make tensorstore give up connections that have gone silent, and try anew; unlimited, it would wait for ever.

    It knows no option for this but two environment variables, which it reads at its first request. What a user has set
    stays.
    """
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", str(SILENCE_SECONDS))
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", str(LEAST_BYTES_PER_SECOND))


@contextlib.contextmanager
def socket_timeout(seconds: float) -> Iterator[None]:
    """Connections that are opened in the block give up after so many silent seconds; for the whole process."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
