"""``deapcache compare``: from labelled images to which backbone to take."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.console import FAILURE, bars, duration, err, note, out, print_json, repeated
from deapcache.cli.extract import progress_on
from deapcache.cli.probe import report_on
from deapcache.errors import UsageError

if TYPE_CHECKING:
    from deapcache.experiments.compare import Comparison


def compare_command(
    *,
    dataset: Annotated[str, typer.Argument(help="Dataset: folder:NAME for your own (deapcache list datasets).")],
    backbone: Annotated[str, typer.Option("--backbone", help="Backbones: a,b,c (deapcache list backbones).")],
    task: Annotated[
        str | None, typer.Option("--task", help="Task. Default: the one that tells most among those the labels allow.")
    ] = None,
    minutes: Annotated[
        float, typer.Option("--minutes", help="Time for all of it: training is as long as fits at measured rates.")
    ] = 10,
    iterations: Annotated[
        int | None, typer.Option("--iterations", min=1, help="Training steps of each readout, however long they take.")
    ] = None,
    curve: Annotated[
        bool | None,
        typer.Option("--curve/--no-curve", help="A learning curve over images. Default: where the time suffices."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--out", callback=options.local_path, help="Report to write: one web page, REPORT.html."),
    ] = None,
    home: options.Home = None,
    plugin: options.Plugin = None,
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> int:
    """Say which of several backbones is best for your images, how sure that is, and what it costs.

    Extracts what is missing, chooses the learning rate on a part of train, trains three seeds, and compares in pairs.
    """
    from deapcache.backbones import describe
    from deapcache.datasets import open_dataset
    from deapcache.tasks import get_task

    if file is not None and file.suffix not in (".html", ".htm"):
        raise UsageError(f"--out {file}: the report is a web page: give a name that ends in .html")
    if not 0 < minutes < math.inf:
        raise UsageError("compare needs backbones and minutes above 0: --backbone a,b,c --minutes 10")
    root = locations.data_root(data_root)
    opened = open_dataset(dataset, root)
    if task is not None:
        get_task(task)
    for name in (names := options.names(backbone)):
        describe(name)
    # it loads torch, for which nobody who has given a wrong name need wait
    from deapcache.experiments.compare import compare, compare_page

    with bars() as display:
        found = compare(
            locations.home(home),
            opened,
            names,
            task=task,
            minutes=minutes,
            iterations=iterations,
            curve=curve,
            data_root=root,
            device=device,
            command=sys.argv,
            progress=progress_on(display),
            report=report_on(display),
            say=note,
        )
    found = replace(found, commands=[command + repeated(command) for command in found.commands])
    if file is not None:
        options.write_page(file, compare_page(found))
    if json:
        print_json(found.to_json())
    else:
        _show(found, file)
    for failure in found.failures:
        err.print(f"failed: {failure}", style="red")
    return FAILURE if found.failures else 0


def _show(found: Comparison, file: Path | None) -> None:
    from deapcache.results import Table, print_tables
    from deapcache.results.tables import NOTHING, millions, score, three_digits

    rows = [
        (
            one["backbone"],
            NOTHING if one["score"] is None else score(one["score"]),
            one["marks"],
            three_digits(one["ms_per_image"]),
            millions(one["parameters"], 1),
            one["licence"] or NOTHING,
        )
        for one in found.costs
    ]
    header = ("backbone", "score", "marks", "ms/image", "parameters\n[M]", "licence")
    title = f"{found.task} · {found.dataset}, {found.iterations:,} iterations, {duration(found.seconds)}"
    print_tables([Table(title, header, tuple(rows), tuple(found.notes))])
    out.print(f"verdict: {found.verdict['headline']}")
    for pair in found.verdict["pairs"]:
        out.print(f"  {pair['text']}")
    for command in found.commands:
        out.print(f"to repeat it: {command}")
    if file is not None:
        out.print(f"report: {file}")
