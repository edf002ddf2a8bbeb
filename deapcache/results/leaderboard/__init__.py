"""The leaderboard: every result of several homes, and the paper's, as a table, Markdown, CSV or one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from deapcache.errors import UsageError
from deapcache.results.leaderboard.board import Collected, Leaderboard, collect, leaderboard
from deapcache.results.leaderboard.page import html_page
from deapcache.results.leaderboard.text import csv_text, leaderboard_tables, markdown_page
from deapcache.results.tables import plain_text
from deapcache.untrusted import printable

Format = Literal["table", "markdown", "csv", "html"]
FORMATS: tuple[Format, ...] = get_args(Format)
_ENDING = {"table": "txt", "markdown": "md", "csv": "csv", "html": "html"}


def file_name(format: str) -> str:
    """``leaderboard.html``; raises :class:`UsageError` for a format that there is not."""
    if format not in _ENDING:
        raise UsageError(f"--format {format}: expected one of {', '.join(FORMATS)}")
    return f"leaderboard.{_ENDING[format]}"


def rendered(board: Leaderboard, format: Format, *, beside: Path | None = None) -> str:
    """The leaderboard as text of that format; addresses of local results are relative to the folder ``beside``."""
    if format == "table":
        text = "\n".join(map(plain_text, leaderboard_tables(board)))
    elif format == "markdown":
        text = markdown_page(board, beside)
    else:
        text = csv_text(board, beside) if format == "csv" else html_page(board)
    return printable(text)


__all__ = [
    "FORMATS",
    "Collected",
    "Format",
    "Leaderboard",
    "collect",
    "file_name",
    "leaderboard",
    "leaderboard_tables",
    "rendered",
]
