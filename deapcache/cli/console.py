"""What the command line shows: results on stdout, progress and messages on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from deapcache.untrusted import printable, printable_json

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
    err.print(text)


def table(*columns: str, title: str = "", right: tuple[str, ...] = ()) -> Table:
    """An empty table in the one style of the command line."""
    made = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        number = column in right
        made.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return made


def size(count: float) -> str:
    """Bytes for people: ``1.3 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds for people: ``42 s``, ``12 min``, ``3.1 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Bars:
    """Progress bars with rate and time left; silent where stderr is no terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._starts: dict[str, float] = {}
        self._done: dict[str, int] = {}

    def show(self, stage: str, done: int, total: int, unit: str, detail: str = "") -> None:
        """Bring the bar of ``stage`` up to ``done`` of ``total``; a stage that begins anew is timed anew."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total, rate="")
        if done < self._done.get(stage, total + 1):
            self._progress.reset(self._tasks[stage])
            self._starts[stage] = time.perf_counter()
        self._done[stage] = done
        rate = done / max(self.seconds(stage), 1e-6)
        self._progress.update(
            self._tasks[stage], completed=done, total=total, rate=f"{rate:.1f} {unit}/s {detail}".rstrip()
        )

    def seconds(self, stage: str) -> float:
        """Seconds since the bar of ``stage`` appeared."""
        return time.perf_counter() - self._starts[stage] if stage in self._starts else 0.0


@contextmanager
def bars() -> Iterator[Bars]:
    """Bars that live as long as the block."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=err)
    if not err.is_terminal:
        yield Bars(progress)  # never started, it draws nothing
        return
    with progress:
        yield Bars(progress)
