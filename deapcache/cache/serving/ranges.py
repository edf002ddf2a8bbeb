"""Which bytes a request is for (RFC 9110, section 14)."""

from __future__ import annotations

import re

_ONE_RANGE = re.compile(r"bytes=[ \t]*(\d{0,19})-(\d{0,19})[ \t]*", re.IGNORECASE | re.ASCII)


class UnsatisfiableError(Exception):
    """The range begins behind the end of the file."""


def requested_range(header: str | None, size: int) -> range | None:
    """The bytes that a ``Range`` header asks for, of a file of ``size`` bytes; None where all are to be sent.

    All are sent where there is no header, several ranges, another unit or something that cannot be read, as the
    standard allows. Raises :class:`UnsatisfiableError`.
    """
    found = _ONE_RANGE.fullmatch(header or "")
    if not found or found[0].strip().endswith("=-"):
        return None
    first, last = found.groups()
    if not first:
        return _of_file(max(0, size - int(last)), size, size)
    if last and int(last) < int(first):
        return None
    return _of_file(int(first), int(last) + 1 if last else size, size)


def _of_file(start: int, stop: int, size: int) -> range:
    wanted = range(start, min(stop, size))
    if not wanted:
        raise UnsatisfiableError
    return wanted
