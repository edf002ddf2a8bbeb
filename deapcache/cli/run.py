"""``deapcache run`` and ``demo``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.console import FAILURE, bars, duration, err, note, out, print_json, size
from deapcache.cli.extract import progress_on
from deapcache.cli.plan import measured, show_plan
from deapcache.cli.probe import note_pictures, report_on
from deapcache.errors import UsageError

if TYPE_CHECKING:
    from deapcache.experiments import Outcome, PipelinePlan
    from deapcache.extraction import Cluster


def run_command(
    *,
    pipeline: Annotated[str, typer.Argument(help="A pipeline file, or the name of a shipped one: table5, demo, …")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what is there, what is missing and what it costs; make nothing.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Replace a value: seeds=0,1 or probes.0.limit=64. Repeatable."),
    ] = None,
    caches: options.Caches,
    plugin: options.Plugin = None,
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
    processes: options.Processes,
    json: options.Json = False,
) -> int:
    """Extract and probe what a pipeline asks for and is not there yet, and print its tables.

    Run again it does nothing but print; after an interruption it does the rest. A backbone that fails does not stop
    the others: it is reported at the end, and the exit code is 1.
    """
    from deapcache.experiments import load_pipeline, plan_pipeline

    parsed = load_pipeline(pipeline, settings or [])
    place = caches.location()
    if isinstance(place.layers[0], locations.WebLocation) and not dry_run:
        raise UsageError(
            f"{place} is a web server, which is read only, and a pipeline writes caches and results: "
            "give a home of your own with --home PATH"
        )
    agreed = locations.home_defaults(place)
    options.note_agreed(agreed, parsed.left_to(agreed))
    plan = plan_pipeline(parsed, place, locations.data_root(data_root), device=device)
    if dry_run:
        from deapcache.experiments.plan import plan_grid, rates_for

        grid = plan_grid([plan], rates=rates_for(plan.home, plan.device))
        # rates are measured where the run could start, and not kept: a dry run writes nothing
        show_plan(grid if plan.problems else measured(grid, keep=False), json, terms=plan.terms)
        return FAILURE if plan.problems else 0
    with processes.cluster(device) as cluster:
        return _execute(plan, json, cluster)


def demo_command(
    home: options.Home = None,
    iterations: Annotated[
        int | None, typer.Option("--iterations", help="Training steps of each readout. Default: the pipeline's.")
    ] = None,
) -> int:
    """The whole way in minutes, with no download: rendered scenes, a pretrained backbone and its control.

    The same as `deapcache run demo`.
    """
    from deapcache.experiments import load_pipeline, plan_pipeline

    settings = [] if iterations is None else [f"iterations={iterations}"]
    return _execute(plan_pipeline(load_pipeline("demo", settings), locations.home(home), Path()), json=False)


def _execute(plan: PipelinePlan, json: bool, cluster: Cluster | None = None) -> int:
    """Run a plan with progress bars, and show what came of it; the exit code."""
    from deapcache.cache import name_view
    from deapcache.experiments import run_pipeline

    plan.require_runnable()
    note(f"{plan.pipeline.name}: {plan.forwards:,} forwards and {plan.missing} of {plan.runs} runs to do")
    with bars() as display:
        outcome = run_pipeline(
            plan, progress=progress_on(display), report=report_on(display), command=sys.argv, cluster=cluster
        )
    for report in outcome.extracted:
        done = f"{report.extracted:,} images in {duration(report.seconds)}, {size(report.stored_bytes)}"
        layer = f" · layer {report.layer}" if report.layer.isdecimal() else ""
        what = f"{report.backbone}{layer} over {report.dataset}/{report.split}"
        note(f"extracted {name_view(what, report.view)}: {done}")
    note_pictures(outcome.probed)
    if json:
        print_json(outcome.to_json())
    else:
        _show_outcome(plan, outcome)
    for failure in outcome.failures:
        err.print(f"failed: {failure}", style="red")
    if outcome.failures:
        note(f"{outcome.missing} of {plan.runs} runs are missing; the same command tries them again")
    return FAILURE if outcome.failures else 0


def _show_outcome(plan: PipelinePlan, outcome: Outcome) -> None:
    """The pipeline's results in its layouts, and where its pictures are."""
    from deapcache.results import HomeIntervals, layout_tables, picture_key, print_tables, table_rows

    # where a pipeline trains a task in two ways, every layout keeps these apart
    rows = table_rows(outcome.results, allow_mixed=True, uncertainty=HomeIntervals(plan.home))
    for layout in plan.pipeline.layout:
        print_tables(layout_tables(rows, layout))
    for result in outcome.results:
        if plan.home.exists(picture_key(result.run)):
            out.print(f"picture: {plan.home}/{picture_key(result.run)}")
