"""``deapcache results``, ``leaderboard`` and ``submit``: what a home's results come to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.console import completed, note, out, print_json, size
from deapcache.errors import UsageError

if TYPE_CHECKING:
    from deapcache.locations import Location
    from deapcache.results.leaderboard import Format, Leaderboard


def results_command(
    *,
    wanted: options.ResultFilter,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Show results of different protocols too, apart and marked.")
    ] = False,
    intervals: options.Intervals = True,
    over_seeds: options.OverSeeds = False,
    paper: Annotated[
        bool, typer.Option("--paper", help="In the layouts of the paper's tables, its numbers beside ours.")
    ] = False,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Each class with its interval, what is taken for what, worst images.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")] = False,
    home: options.Home = None,
    plugin: options.Plugin = None,
    json: options.Json = False,
) -> None:
    """Tables of the home's results: seeds averaged, only what was measured the same way beside each other."""
    from deapcache.results import (
        LAYOUTS,
        PLAIN,
        HomeIntervals,
        layout_json,
        layout_tables,
        load_results,
        print_tables,
        select,
        table_rows,
    )
    from deapcache.results import markdown as as_markdown
    from deapcache.results.per_class import classes_json, per_class_tables

    if per_class and paper:
        raise UsageError("--per-class and --paper: the paper prints no classes; give one of them")
    place = locations.home(home)
    results = load_results(place)
    if not results and not json:
        out.print(completed(f"no results in {place}: make one with deapcache probe --task NAME"))
        return
    chosen = select(results, wanted.selection())
    uncertainty = HomeIntervals(place, over_seeds=over_seeds)
    rows = table_rows(chosen, allow_mixed=allow_mixed, uncertainty=uncertainty if intervals else None)
    layouts = LAYOUTS if paper else (PLAIN,)
    if json:
        of_classes = {} if not per_class else classes_json(rows, lambda _: place)
        found = [table for layout in layouts for table in layout_json(rows, layout)]
        print_json([row | of_classes.get(tuple(row.get("runs", ())), {}) for row in found])
        return
    for layout in layouts:
        tables = layout_tables(rows, layout)
        tables += per_class_tables(rows, lambda _: place) if per_class else []
        if markdown:
            out.print("\n".join(as_markdown(table) for table in tables))
        else:
            print_tables(tables)


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
    intervals: options.Intervals = True,
    over_seeds: options.OverSeeds = False,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="In a web page: the score of each class, from the runs' statistics.")
    ] = False,
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
    if per_class and format != "html":
        raise UsageError("--per-class is of the web page, --format html; deapcache results --per-class prints tables")
    if bundles:
        _add_bundles(bundles, options.own_home(home))
    collected = collect([locations.locate(place) for place in results] if results else [locations.home(home)])
    board = leaderboard(collected, intervals=intervals, over_seeds=over_seeds, paper=paper, device=device)
    _write_board(board, cast("Format", format), folder, name, per_class)


def _add_bundles(bundles: list[Path], home: Location) -> None:
    from deapcache.results.bundle import add_bundle

    for bundle in bundles:
        report = add_bundle(bundle, home)
        there = f", {len(report.there)} were there already" if report.there else ""
        note(f"added from {bundle} to {home}: {len(report.added)} runs, {len(report.speeds)} speeds{there}")
        for added in (*report.added, *report.speeds):
            note(f"  {added}")
        for key in report.kept:
            note(f"  {key}: the home's own measurement stays")


def _write_board(board: Leaderboard, format: Format, folder: Path | None, name: str, per_class: bool) -> None:
    from deapcache.results import print_tables
    from deapcache.results.leaderboard import leaderboard_tables, rendered

    if folder is None and format == "table":
        print_tables(leaderboard_tables(board))
    elif folder is None and format == "html":
        sys.stdout.flush()
        page, binary = rendered(board, format, with_classes=per_class), getattr(sys.stdout, "buffer", None)
        if binary is None:  # a notebook's
            sys.stdout.write(page)
        else:
            binary.write(page.encode("utf-8"))  # which the page says it is in
    elif folder is None:
        sys.stdout.write(rendered(board, format))
    else:
        options.write_page(folder / name, rendered(board, format, beside=folder, with_classes=per_class))
        out.print(f"written: {folder / name}")


def submit_command(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN…", help="Runs by name, or by a beginning: all runs that begin so.")
    ],
    file: Annotated[str, typer.Option("--out", help="The bundle: a .zip file, or hf://datasets/OWNER/REPO/NAME.zip.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    home: options.Home = None,
    plugin: options.Plugin = None,
) -> None:
    """Pack results, for whoever keeps a leaderboard: scores, statistics, readouts, pictures, speeds; no features.

    The command lines of the runs are part of their results. `deapcache leaderboard --add FILE` checks and merges it.
    """
    from deapcache.locations import LocalLocation
    from deapcache.results.bundle import find_runs, pack_bundle

    above, _, name = file.rpartition("/")
    if file.startswith("hf://"):
        folder = locations.locate(above)
    else:
        name = (path := locations.local_path(file, what="--out")).name
        folder = LocalLocation(path.absolute().parent)
    if not name.endswith(".zip") or name == ".zip":
        raise UsageError(f"--out {file}: give a name that ends in .zip")
    folder.require_names([name])
    with folder.batch():
        folder.require_writable()
        if folder.exists(name) and not overwrite:
            raise UsageError(f"--out {file} is there already: give another name, or --overwrite")
        place = options.place(home)
        packed = pack_bundle(place, find_runs(place, runs))
        folder.publish(name, packed.data, replace=True)
    if packed.without_picture:
        note(f"without its picture, which is too large: {', '.join(packed.without_picture)}")
    for run in packed.runs:
        out.print(run)
    counts = f"{len(packed.runs)} runs, {len(packed.speeds)} speeds"
    out.print(f"packed: {file}, {counts}, {size(len(packed.data))}")
