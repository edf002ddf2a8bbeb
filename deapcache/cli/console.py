"""What the command line shows, results on stdout, progress and messages on stderr; streams that do not fail.

A message that tells the user what to run next is made in a room that knows neither ``--data-root`` nor ``--plugin``:
:func:`completed` adds the places and devices that the user gave, so that the command works as it stands.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import select
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from deapcache.locations import format_bytes
from deapcache.untrusted import printable, printable_json

T = TypeVar("T")

FAILURE, INTERRUPTED = 1, 130
"""Exit codes: something is damaged, or was not made, as far as it was asked for; the user interrupted it."""

_PIPE_WIDTH = 240
"""Columns where the output is no terminal: wide enough that no cell of a table is cut."""


class _Console(Console):
    """A console that shows text and never obeys it: names come from caches and results, which come from anyone."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream is not None and stream.isatty() else _PIPE_WIDTH
    # never markup, for the same reason
    return _Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)


out = _console(stderr=False)
err = _console(stderr=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout; where its encoding is not one of Unicode's, other characters are escaped."""
    unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    sys.stdout.write(printable_json(json.dumps(value, indent=2, ensure_ascii=not unicode)) + "\n")


def note(text: str) -> None:
    """A sentence for people, on stderr."""
    err.print(completed(text))


REPEATED = (
    "--home", "--read-home", "--data-root", "--local-tier", "--local-tier-size", "--plugin", "--trust-remote-code",
    "--device", "--workers", "--scheduler",
)  # fmt: skip
"""Options that say where something is and who does the work: the next command needs them again."""

_WORDS = r"deapcache (?:(?:cache|list) [a-z]+|[a-z]+)"
_COMMAND = re.compile(
    rf"(?<=`){_WORDS}[^`]*(?=`)|(?<![\w./=`-]){_WORDS}(?: --[a-z][a-z-]*(?: (?!--)[^\s`]*[^\s`),;:.])?| [A-Z]+)*"
    r"(?=[),;:\n]|\.?$|\. )"
)
"""A command in backquotes, or one outside of them that is followed by no prose."""

_root: Any = None
_given: dict[str, Any] = {}


def remember(root: Any, given: Mapping[str, Any]) -> None:
    """Keep the options of the command that runs, by name → value; ``root`` is the group of all commands."""
    global _root
    _root = root
    _given.clear()
    _given.update({name: given[name] for name in REPEATED if given.get(name)})


def completed(text: str) -> str:
    """``text`` with the user's options added to each command that takes them and does not name them."""
    return _COMMAND.sub(lambda found: found[0] + repeated(found[0]), text) if _given else text


def repeated(hint: str) -> str:
    """The user's options that the command ``hint`` takes and does not name, to stand behind it."""
    command, words = _root, hint.split()
    for word in words[1:3]:
        command = getattr(command, "commands", {}).get(word, command)
    taken = {option for parameter in getattr(command, "params", ()) for option in parameter.opts}
    added = []
    for option, value in _given.items():
        if option in taken and option not in words:
            values = value if isinstance(value, list | tuple) else [value]
            added += [f" {option}" if each is True else f" {option} {shlex.quote(str(each))}" for each in values]
    return "".join(added)


def table(*columns: str, title: str = "", right: tuple[str, ...] = ()) -> Table:
    """An empty table in the one style of the command line."""
    made = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        number = column in right
        made.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return made


def facts_table() -> Table:
    """An empty table of two columns without heads: what, and its value."""
    made = table("", "")
    made.show_header = False
    return made


def show(
    rows: Iterable[T],
    json: bool,
    columns: Mapping[str, Callable[[T], str]],
    *,
    right: tuple[str, ...] = (),
    title: str = "",
    document: Callable[[T], Any] = lambda row: row,
) -> None:
    """Print ``rows`` as a table with a cell for each of ``columns``, or as a JSON list of their ``document`` s.

    ``columns`` has the heads with the functions that make a row's cells; those of ``right`` are numbers.
    """
    if json:
        print_json([document(row) for row in rows])
        return
    made = table(*columns, title=title, right=right)
    for row in rows:
        made.add_row(*(cell(row) for cell in columns.values()))
    out.print(made)


size = format_bytes
"""Bytes for people, as all tables show them."""


def duration(seconds: float) -> str:
    """Seconds for people: ``42 s``, ``12 min``, ``3.1 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


LINE_SECONDS = 30.0
"""Between two lines of one stage, where stderr is no terminal."""


class Bars:
    """How far each stage is, with rate and time left.

    On a terminal these are progress bars. Elsewhere, as in a batch job's log, a stage has a line every
    ``LINE_SECONDS`` and one at its end.
    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._starts: dict[str, tuple[float, int]] = {}
        self._lines: dict[str, float] = {}
        self._done: dict[str, tuple[int, int]] = {}

    def show(self, stage: str, done: int, total: int, unit: str, detail: str = "") -> None:
        """Bring ``stage`` up to ``done`` of ``total``; a stage that begins anew is timed anew."""
        before, before_of = self._done.get(stage, (None, 0))
        is_anew = before is not None and (done < before or (before == before_of and total != before_of))
        if before is None or is_anew:
            self._starts[stage] = time.perf_counter(), done
            self._lines[stage] = time.perf_counter()
        self._done[stage] = done, total
        rate = (done - self._starts[stage][1]) / max(self.seconds(stage), 1e-6)
        if self._progress is None:
            if done != before:
                self._write(stage, done, total, unit, rate, detail)
            return
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total, rate="")
        elif is_anew:
            self._progress.reset(self._tasks[stage])
        shown = f"{rate:.1f} {unit}/s {detail}".rstrip()
        self._progress.update(self._tasks[stage], completed=done, total=total, rate=shown)

    def _write(self, stage: str, done: int, total: int, unit: str, rate: float, detail: str) -> None:
        now = time.perf_counter()
        if total == 0 or (done < total and now - self._lines[stage] < LINE_SECONDS):
            return
        self._lines[stage] = now
        rates = ([f"{rate:.1f} {unit}/s"] if rate > 0 else []) + ([detail] if detail else [])
        if done < total:
            left = [f"about {duration((total - done) / rate)} left"] if rate > 0 else []
            note(", ".join([f"{stage}: {done:,} of {total:,} {unit}", *rates, *left]))
        else:
            note(", ".join([f"{stage}: {total:,} {unit} in {duration(self.seconds(stage))}", *rates]))

    def seconds(self, stage: str) -> float:
        """Seconds since ``stage`` was shown first."""
        return time.perf_counter() - self._starts[stage][0] if stage in self._starts else 0.0


@contextmanager
def bars() -> Iterator[Bars]:
    """Bars that live as long as the block."""
    if not err.is_terminal:
        yield Bars(None)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as progress:
        yield Bars(progress)


_REPLACE = "deapcache.replace"
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
def robust_streams() -> Iterator[Output | None]:
    """Replace ``sys.stdin``, ``sys.stdout`` and ``sys.stderr`` by streams that never fail; gives what stdout goes to.

    It is None where stdout is not the process's own, as in a notebook or under a test: then only its encoding is seen
    to. At the end everything is written, and the streams are what they were.
    """
    codecs.register_error(_REPLACE, _replace)
    for descriptor in range(3):
        # Else the next file that is opened becomes stdout, and what a library prints goes into a cache.
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    before = sys.stdin, sys.stdout, sys.stderr
    try:
        sys.stdin = sys.stdin or _nothing("r")
        sys.stdout, output = _make_robust(sys.stdout, sys.__stdout__)
        sys.stderr, _ = _make_robust(sys.stderr, sys.__stderr__)
        yield output
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        sys.stdin, sys.stdout, sys.stderr = before


def _make_robust(stream: TextIO | None, own: TextIO | None) -> tuple[TextIO, Output | None]:
    if stream is None:
        return _nothing("w"), None
    if not isinstance(stream, io.TextIOWrapper):
        return stream, None
    if stream is not own:
        stream.reconfigure(errors=_REPLACE)
        return stream, None
    stream.flush()
    output = Output(stream.fileno(), "w", closefd=False)
    lines = stream.line_buffering or stream.write_through
    buffer = io.BufferedWriter(output)
    return io.TextIOWrapper(buffer, encoding=stream.encoding, errors=_REPLACE, line_buffering=lines), output


def _nothing(mode: str) -> TextIO:
    return open(os.devnull, mode, encoding="utf-8")  # type: ignore[return-value]  # noqa: PTH123 - for good


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(
        _PLAIN.get(each) or each.encode("ascii", "backslashreplace").decode("ascii") for each in lacking
    ), error.end
