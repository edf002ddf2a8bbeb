"""Standard streams that do not end a command: in any encoding, closed, full, or with nobody left to read them."""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

_SPELLED_OUT = "deapcache.spelled-out"
"""Name of the way in which characters are written that a stream's encoding lacks."""

_PLAIN = {
    "–": "-", "—": "-", "−": "-", "…": "...", "→": "->", "↑": "^", "↓": "v", "·": "-", "×": "x", "±": "+-",
    "²": "^2", "³": "^3", "≤": "<=", "≥": ">=", "σ": "sigma", "δ": "delta", "ρ": "rho", "√": "sqrt", "π": "pi",
    "“": '"', "”": '"', "‘": "'", "’": "'", "█": "#", "━": "-", "╸": "-", "╺": "-",
}  # fmt: skip
"""Of what deapcache itself says; a name of the user's is escaped, so that it can be told from another."""


class Output(io.FileIO):
    """A file descriptor whose first failure is kept, and what is written after it dropped."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        if self.failure is None:
            try:
                while (written := super().write(data)) is None:  # another program made it non-blocking, and it is full
                    select.select([], [self], [])
            except OSError as error:
                self.failure = error
            else:
                return written
        return memoryview(data).nbytes


@contextmanager
def steady_streams() -> Iterator[Output | None]:
    """Replace ``sys.stdin``, ``sys.stdout`` and ``sys.stderr`` by streams that never fail; gives what stdout goes to.

    It is None where stdout is not the process's own, as in a notebook or under a test: then only its encoding is seen
    to. At the end everything is written, and the streams are what they were.
    """
    codecs.register_error(_SPELLED_OUT, _spelled_out)
    _open_what_is_closed()
    before = sys.stdin, sys.stdout, sys.stderr
    try:
        sys.stdin = sys.stdin or _nothing("r")
        sys.stdout, output = _steady(sys.stdout, sys.__stdout__)
        sys.stderr, _ = _steady(sys.stderr, sys.__stderr__)
        yield output
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        sys.stdin, sys.stdout, sys.stderr = before


def nobody_reads(output: Output) -> bool:
    """Whether the reader has gone, as ``head`` does when it has seen enough, or nothing has failed."""
    return output.failure is None or output.failure.errno == errno.EPIPE


def _open_what_is_closed() -> None:
    # Else the next file that is opened becomes stdout, and what a library prints goes into a cache.
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def _steady(stream: TextIO | None, own: TextIO | None) -> tuple[TextIO, Output | None]:
    if stream is None:
        return _nothing("w"), None
    if not isinstance(stream, io.TextIOWrapper):
        return stream, None
    if stream is not own:
        stream.reconfigure(errors=_SPELLED_OUT)
        return stream, None
    stream.flush()
    output = Output(stream.fileno(), "w", closefd=False)
    lines = stream.line_buffering or stream.write_through
    buffer = io.BufferedWriter(output)
    return io.TextIOWrapper(buffer, encoding=stream.encoding, errors=_SPELLED_OUT, line_buffering=lines), output


def _nothing(mode: str) -> TextIO:
    return open(os.devnull, mode, encoding="utf-8")  # type: ignore[return-value]  # noqa: PTH123 - for good


def _spelled_out(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(each) or _escaped(each) for each in lacking), error.end


def _escaped(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode("ascii")
