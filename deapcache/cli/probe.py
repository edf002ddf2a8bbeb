"""``deapcache probe``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from deapcache.cli import options
from deapcache.cli.console import Bars, bars, note, out, print_json

if TYPE_CHECKING:
    from deapcache.experiments import Report, SavedRun
    from deapcache.locations import Location
    from deapcache.probing import Residency


def probe_command(
    task: Annotated[str, typer.Option("--task", help="Task, or several: a,b (deapcache list tasks).")],
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Default: the task's own where it is cached, else the only one.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Backbones: a,b. Default: every one cached for the dataset.")
    ] = None,
    readout: Annotated[str, typer.Option("--readout", help="Readouts: a,b (deapcache list readouts).")] = "deap",
    seed: Annotated[str, typer.Option("--seed", help="Seeds of the readout's initialisation: 0,1,2.")] = "0",
    iterations: Annotated[
        int | None, typer.Option("--iterations", help="Training steps. Default: the task's (30,000 or 10,000).")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images in one training step.")] = 32,
    lr: Annotated[str, typer.Option("--lr", help="AdamW's peak learning rate, or several: 3e-4,1e-3.")] = "1e-3",
    limit: Annotated[
        int | None, typer.Option("--limit", help="Train and score on the first N images of each split only.")
    ] = None,
    views: Annotated[
        str,
        typer.Option("--views", help="Training draws from original, or original,hflip (deapcache extract --views)."),
    ] = "original",
    where: Annotated[
        list[str] | None,
        typer.Option("--where", help="Recipe field that features or targets must have: storage=float16. Repeatable."),
    ] = None,
    task_option: Annotated[
        list[str] | None,
        typer.Option("--task-option", help="Choice of a task: depth.crop=eigen (deapcache list tasks). Repeatable."),
    ] = None,
    upsampler: Annotated[
        Path | None, typer.Option("--upsampler", help="FeatUp checkpoint that the readout featup is built around.")
    ] = None,
    residency: Annotated[
        str | None,
        typer.Option(
            "--residency",
            help="Where training arrays live: gpu, memory, stream (read from the cache as training goes). Default: the "
            "first of these that fits.",
        ),
    ] = None,
    device: options.Device = "auto",
    home: options.Home = None,
    read_home: options.ReadHomes = None,
    local_tier: options.TierFolder = None,
    local_tier_size: options.TierSize = None,
    plugin: options.Plugin = None,
    results_home: options.ResultsHome = None,
    json: options.Json = False,
) -> None:
    """Train dense readouts from cached features, score them, and save results, readouts and pictures.

    All tasks, readouts, seeds and learning rates of a backbone share one pass over its cache; no backbone is run.
    """
    from deapcache.experiments import choose_device, probe
    from deapcache.probing import ProbeConfig

    config = ProbeConfig(
        tasks=options.names(task),
        dataset=dataset,
        backbones=options.names(backbone),
        readouts=options.names(readout),
        seeds=options.numbers(seed, "--seed"),
        where=options.fields(where or []),
        lrs=options.rates(lr, "--lr"),
        task_options=options.task_options(task_option or [], options.names(task)),
        upsampler=upsampler,
        batch_size=batch_size,
        iterations=iterations,
        train_limit=limit,
        val_limit=limit,
        views=tuple(options.names(views)),
        residency=cast("Residency | None", residency),  # checked there
        device=str(choose_device(device)),
    )
    place = options.place(home, read_home, local_tier, local_tier_size)
    own = options.results_home(results_home, place)
    done: list[SavedRun] = []
    try:
        with bars() as shown:
            for one in probe(place, config, results_home=own, report=report_on(shown), command=sys.argv):
                done.append(one)
    except Exception:
        if done:  # they are saved, whatever became of the others
            show_results(done, own, json)
        raise
    show_results(done, own, json)


def report_on(shown: Bars) -> Report:
    """Probe progress as bars, with the mean training loss."""
    from deapcache.probing import ProbeProgress

    def show(name: str, event: ProbeProgress) -> None:
        loss = "" if event.mean_loss is None else f"loss {event.mean_loss:.3f}"
        unit = "iterations" if event.stage == "train" else "images"
        shown.show(f"{name}: {event.stage}", event.done, event.total, unit, loss)

    return show


def show_results(done: list[SavedRun], home: Location, json: bool) -> None:
    """The tables of all runs, whose statistics are in ``home``, and where their pictures are."""
    from deapcache.results import HomeIntervals, print_tables, summarise

    note_pictures(done)
    if json:
        print_json([{**one.result.to_json(), "picture": one.picture} for one in done])
        return
    print_tables(summarise([one.result for one in done]), uncertainty=HomeIntervals(home))
    for one in done:
        if one.picture:
            out.print(f"picture: {one.picture}", markup=False)


def note_pictures(done: list[SavedRun]) -> None:
    """Say which runs have no picture, and why."""
    for one in done:
        if one.picture_problem:
            note(f"no picture of {one.result.run}, which is saved: {one.picture_problem}")
