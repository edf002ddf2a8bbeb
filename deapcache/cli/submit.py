"""``deapcache submit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deapcache.cli import options
from deapcache.cli.console import note, out, size
from deapcache.errors import UsageError


def submit_command(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN…", help="Runs by name, or by a beginning: all runs that begin so.")
    ],
    file: Annotated[Path, typer.Option("--out", callback=options.local_path, help="The bundle: a .zip file.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    home: options.Home = None,
    plugin: options.Plugin = None,
) -> None:
    """Pack results, for whoever keeps a leaderboard: scores, statistics, readouts, pictures, speeds; no features.

    The command lines of the runs are part of their results. `deapcache leaderboard --add FILE` checks and merges it.
    """
    from deapcache.locations import LocalLocation
    from deapcache.results.bundle import find_runs, pack_bundle

    if file.suffix != ".zip":
        raise UsageError(f"--out {file}: give a name that ends in .zip")
    folder = LocalLocation(file.absolute().parent)
    folder.require_names([file.name])
    if file.exists() and not overwrite:
        raise UsageError(f"--out {file} is there already: give another name, or --overwrite")
    place = options.place(home)
    packed = pack_bundle(place, find_runs(place, runs))
    folder.publish(file.name, packed.data, replace=True)
    if packed.without_picture:
        note(f"without its picture, which is too large: {', '.join(packed.without_picture)}")
    for run in packed.runs:
        out.print(run, markup=False)
    counts = f"{len(packed.runs)} runs, {len(packed.speeds)} speeds"
    out.print(f"packed: {file}, {counts}, {size(len(packed.data))}", markup=False)
