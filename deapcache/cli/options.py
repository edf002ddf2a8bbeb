"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deapcache.errors import UsageError

Home = Annotated[
    str | None,
    typer.Option(
        "--home",
        help="Cache home: a path or URL. Default: $DEAPCACHE_HOME, then $XDG_CACHE_HOME/deapcache, ~/.cache/deapcache.",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", help="Where datasets lie as downloaded. Default: $DEAPCACHE_DATA, then ./data."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Device = Annotated[str, typer.Option("--device", help="auto (a GPU where there is one), cpu, cuda, cuda:1, …")]


def names(text: str | None) -> list[str]:
    """``a,b`` as a list without repetition; raises :class:`UsageError` for an empty entry."""
    if text is None:
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UsageError(f"{text!r} has an empty name between its commas: write names as a,b,c")
    return list(dict.fromkeys(parts))


def numbers(text: str, what: str) -> list[int]:
    """``0,1,2`` as integers; raises :class:`UsageError` for anything else."""
    try:
        return [int(part) for part in names(text)]
    except ValueError:
        raise UsageError(f"{what} {text!r}: expected whole numbers such as 0 or 0,1,2") from None


def fields(pairs: list[str]) -> dict[str, str]:
    """``["storage=float16"]`` as a mapping; raises :class:`UsageError` where the ``=`` is missing."""
    split = [pair.partition("=") for pair in pairs]
    for field, equals, _ in split:
        if not (field and equals):
            raise UsageError(f"--where takes FIELD=VALUE such as storage=float16, found {field!r}")
    given = [field for field, _, _ in split]
    if twice := next((field for field in given if given.count(field) > 1), None):
        raise UsageError(f"--where names {twice} twice: where each split has its own value, write {twice}=ONE,OTHER")
    return {field: value for field, _, value in split}
