"""``deapcache leaderboard``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.console import note, out
from deapcache.errors import ReadOnlyError, UsageError

if TYPE_CHECKING:
    from deapcache.locations import Location
    from deapcache.results.leaderboard import Format, Leaderboard


def leaderboard_command(
    format: Annotated[str, typer.Option("--format", help="table, markdown, csv or html (one page).")] = "table",
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            callback=options.local_path,
            help="Folder to write leaderboard.{txt,md,csv,html} to. Default: stdout.",
        ),
    ] = None,
    results: Annotated[
        list[str] | None,
        typer.Option("--results", help="Home whose results are shown: a path or URL. Repeatable. Default: --home."),
    ] = None,
    paper: Annotated[bool, typer.Option("--paper/--no-paper", help="The paper's rows, marked as such.")] = True,
    intervals: Annotated[
        bool, typer.Option("--intervals/--no-intervals", help="95% intervals over images, by bootstrap.")
    ] = True,
    device: Annotated[
        str | None,
        typer.Option("--device", help="Device whose speeds of backbones are shown. Default: that with most backbones."),
    ] = None,
    bundles: Annotated[
        list[Path] | None,
        typer.Option(
            "--add", help="Bundle of `deapcache submit` to check and merge into --home before it is shown. Repeatable."
        ),
    ] = None,
    home: options.Home = None,
    plugin: options.Plugin = None,
) -> None:
    """Backbones × tasks from the results of several homes, beside the paper's: a table, Markdown, CSV or a web page.

    Only what was measured the same way stands in one column; a run that several homes hold is counted once.
    """
    from deapcache.results.leaderboard import collect, file_name, leaderboard

    name = file_name(format)
    if format == "html" and folder is None and sys.stdout.isatty():
        raise UsageError("a web page is not for a terminal: say where it goes with --out DIR")
    if bundles:
        _add(bundles, options.own_home(home))
    collected = collect([locations.locate(place) for place in results] if results else [locations.home(home)])
    board = leaderboard(collected, intervals=intervals, paper=paper, device=device)
    _write(board, cast("Format", format), folder, name)


def _add(bundles: list[Path], home: Location) -> None:
    from deapcache.results.bundle import add_bundle

    for bundle in bundles:
        report = add_bundle(bundle, home)
        there = f", {len(report.there)} were there already" if report.there else ""
        note(f"added from {bundle} to {home}: {len(report.added)} runs, {len(report.speeds)} speeds{there}")
        for added in (*report.added, *report.speeds):
            note(f"  {added}")
        for key in report.kept:
            note(f"  {key}: the home's own measurement stays")


def _write(board: Leaderboard, format: Format, folder: Path | None, name: str) -> None:
    from deapcache.results import print_blocks
    from deapcache.results.leaderboard import rendered
    from deapcache.results.leaderboard.text import blocks

    if folder is None and format == "table":
        print_blocks(blocks(board))
    elif folder is None and format == "html":
        sys.stdout.flush()
        sys.stdout.buffer.write(rendered(board, format).encode("utf-8"))  # which the page says it is in
    elif folder is None:
        sys.stdout.write(rendered(board, format))
    else:
        text = rendered(board, format, beside=folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise ReadOnlyError(f"{folder / name} cannot be written: {error.strerror}; choose another --out") from None
        out.print(f"written: {folder / name}", markup=False)
