"""``deapcache probe``, and ``correspondence``, which trains nothing."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.console import Bars, bars, note, out, print_json
from deapcache.errors import UsageError

if TYPE_CHECKING:
    from deapcache.experiments import Report, SavedRun
    from deapcache.locations import Location
    from deapcache.probing import ProbeConfig, Residency


@dataclass(frozen=True, kw_only=True)
class _Choices:
    """What is trained, on which features, and how."""

    task: Annotated[str, typer.Option("--task", help="Task, or several: a,b (deapcache list tasks).")]
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Default: the task's own where it is cached, else the only one.")
    ] = None
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Backbones: a,b. Default: every one cached for the dataset.")
    ] = None
    readout: Annotated[
        str | None,
        typer.Option("--readout", help="Readouts: a,b (deapcache list readouts). Default: the protocol's, deap."),
    ] = None
    seed: Annotated[str, typer.Option("--seed", help="Seeds of the readout's initialisation: 0,1,2.")] = "0"
    iterations: Annotated[
        int | None, typer.Option("--iterations", help="Training steps. Default: the task's (30,000 or 10,000).")
    ] = None
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images in one training step.")] = 32
    protocol: Annotated[
        str, typer.Option("--protocol", help="Named protocol (deapcache list protocols); options below change it.")
    ] = "deapcache-2"
    lr: Annotated[
        str | None,
        typer.Option("--lr", help="AdamW's peak learning rate, or several: 3e-4,1e-3. Default: the protocol's."),
    ] = None
    select: Annotated[
        bool | None,
        typer.Option("--select/--no-select", help="Choose the learning rate on a tenth of train. Default: protocol's."),
    ] = None
    standardise: Annotated[
        str | None,
        typer.Option("--standardise", help="Features: per channel over train, or per cell. Default: the protocol's."),
    ] = None
    limit: Annotated[
        int | None, typer.Option("--limit", help="Train and score on the first N images of each split only.")
    ] = None
    train_limit: Annotated[
        str | None,
        typer.Option(
            "--train-limit",
            help="Train on so many images, drawn as nested subsets; several for a learning curve: 50,100,all. "
            "All validation images are scored.",
        ),
    ] = None
    layers: Annotated[
        str | None,
        typer.Option("--layers", help="Join features of these layers: 6,9,12 or 3,last (deapcache extract --layers)."),
    ] = None
    score_size: Annotated[
        str, typer.Option("--score-size", help="Score over targets of the output size (output), or native label maps.")
    ] = "output"
    data_root: options.DataRoot = None
    views: Annotated[
        str,
        typer.Option("--views", help="Training draws from original, or original,hflip (deapcache extract --views)."),
    ] = "original"
    where: Annotated[
        list[str] | None,
        typer.Option("--where", help="Recipe field that features or targets must have: storage=float16. Repeatable."),
    ] = None
    task_option: Annotated[
        list[str] | None,
        typer.Option("--task-option", help="Choice of a task: depth.crop=eigen (deapcache list tasks). Repeatable."),
    ] = None
    upsampler: Annotated[
        Path | None, typer.Option("--upsampler", help="FeatUp checkpoint that the readout featup is built around.")
    ] = None
    residency: Annotated[
        str | None,
        typer.Option(
            "--residency",
            help="Where training arrays live: gpu, memory, stream (read from the cache as training goes). Default: the "
            "first of these that fits.",
        ),
    ] = None
    device: options.Device = "auto"

    def train_limits(self) -> tuple[int | None, ...]:
        """Numbers of training images that are asked for, ``None`` for all; raises :class:`UsageError` for others."""
        found = options.names(self.train_limit)
        if wrong := [text for text in found if text != "all" and not (text.isdecimal() and int(text) > 0)]:
            raise UsageError(f"--train-limit {wrong[0]!r}: expected numbers of images, or all, such as 50,100,all")
        return tuple(None if text == "all" else int(text) for text in found)

    def config(self) -> ProbeConfig:
        """The same as the library takes it; raises :class:`UsageError` for values that it does not know."""
        tasks, where = options.names(self.task), recipe_fields(self.where or [])
        lrs, task_options = options.rates(self.lr), _task_options(self.task_option or [], tasks)
        try:
            seeds = [int(part) for part in options.names(self.seed)]
        except ValueError:
            raise UsageError(f"--seed {self.seed!r}: expected whole numbers such as 0 or 0,1,2") from None
        # they load torch: what is mistyped is said before
        from deapcache.extraction import choose_device
        from deapcache.probing import ProbeConfig

        return ProbeConfig(
            tasks=tasks,
            dataset=self.dataset,
            backbones=options.names(self.backbone),
            readouts=options.names(self.readout),
            seeds=seeds,
            where=where,
            layers=tuple(options.names(self.layers)),
            protocol=self.protocol,
            lrs=lrs,
            select=self.select,
            standardise=self.standardise,
            task_options=task_options,
            upsampler=self.upsampler,
            batch_size=self.batch_size,
            iterations=self.iterations,
            train_limit=self.limit,
            val_limit=self.limit,
            views=tuple(options.names(self.views)),
            score_size=self.score_size,
            data_root=self.data_root,
            residency=cast("Residency | None", self.residency),  # checked there
            device=str(choose_device(self.device)),
        )


def probe_command(
    *,
    choices: _Choices,
    caches: options.Caches,
    plugin: options.Plugin = None,
    results_home: Annotated[
        str | None,
        typer.Option(
            "--results-home",
            help="Where results, readouts and pictures go: a path, s3:// or gs://. Default: --home, "
            "and where that is a web server, the home that is meant without --home.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Train dense readouts from cached features, score them, and save results, readouts and pictures.

    All tasks, readouts, seeds and learning rates of a backbone share one pass over its cache; no backbone is run.
    """
    limits, config = choices.train_limits(), choices.config()
    from deapcache.cache import one_listing
    from deapcache.experiments import probe

    place = caches.location()
    own = results_home_of(results_home, place)
    done: list[SavedRun] = []
    try:
        with one_listing(), bars() as display:
            runs = probe(
                place,
                config,
                train_limits=limits,
                results_home=own,
                report=report_on(display),
                command=sys.argv,
            )
            for one in runs:
                done.append(one)
    except Exception:
        if done:  # they are saved, whatever became of the others
            _show_results(done, own, json)
        raise
    _show_results(done, own, json)


def report_on(display: Bars) -> Report:
    """Probe progress as bars, with the mean training loss."""
    from deapcache.probing import ProbeProgress

    def on_event(name: str, event: ProbeProgress) -> None:
        loss = "" if event.mean_loss is None else f"loss {event.mean_loss:.3f}"
        unit = "iterations" if event.stage in ("train", "select") else "images"
        display.show(f"{name}: {event.stage}", event.done, event.total, unit, loss)

    return on_event


def _show_results(done: list[SavedRun], home: Location, json: bool) -> None:
    """The tables of all runs, whose statistics are in ``home``, and where their pictures are."""
    from deapcache.results import HomeIntervals, make_tables, print_tables, table_rows

    note_pictures(done)
    if json:
        print_json([{**one.result.to_json(), "picture": one.picture} for one in done])
        return
    rows = table_rows([one.result for one in done], uncertainty=HomeIntervals(home))
    print_tables(make_tables(rows))
    for one in done:
        if one.picture:
            out.print(f"picture: {one.picture}")


def note_pictures(done: list[SavedRun]) -> None:
    """Say which runs have no picture, and why."""
    for one in done:
        if one.picture_problem:
            note(f"no picture of {one.result.run}, which is saved: {one.picture_problem}")


def _task_options(given: list[str], tasks: list[str]) -> dict[str, dict[str, str]]:
    """``["depth.crop=eigen"]`` as task → choice → value; raises :class:`UsageError` for another form or task."""
    chosen: dict[str, dict[str, str]] = {}
    for text in given:
        place, equals, value = text.partition("=")
        task, dot, name = place.partition(".")
        if not (equals and dot and name):
            raise UsageError(f"--task-option takes TASK.CHOICE=VALUE such as depth.crop=eigen, found {text!r}")
        if task not in tasks:
            raise UsageError(f"--task-option {text}: task {task!r} is not probed, --task names {', '.join(tasks)}")
        if chosen.setdefault(task, {}).setdefault(name, value) != value:
            raise UsageError(f"--task-option gives {task}.{name} twice: {chosen[task][name]} and {value}")
    return chosen


def recipe_fields(pairs: list[str]) -> dict[str, str]:
    """``["storage=float16"]`` as a mapping; raises :class:`UsageError` where the ``=`` is missing."""
    split = [pair.partition("=") for pair in pairs]
    for field, equals, _ in split:
        if not (field and equals):
            raise UsageError(f"--where takes FIELD=VALUE such as storage=float16, found {field!r}")
    given = [field for field, _, _ in split]
    if twice := next((field for field in given if given.count(field) > 1), None):
        raise UsageError(f"--where names {twice} twice: where each split has its own value, write {twice}=ONE,OTHER")
    return {field: value for field, _, value in split}


def results_home_of(given: str | None, home: Location) -> Location:
    """Where results of caches in ``home`` go; raises :class:`UsageError` where they would go to a web server."""
    place = locations.locate(given) if given else home
    if not given and isinstance(home.layers[0], locations.WebLocation):
        place = locations.home()
    if isinstance(place.layers[0], locations.WebLocation):
        raise UsageError(
            f"{place} is a web server, which is read only: say where results and readouts go with --results-home PATH"
        )
    return place


def correspondence_command(
    *,
    dataset: Annotated[str, typer.Option("--dataset", help="Dataset with pairs of images.")] = "spair-71k",
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Backbones: a,b. Default: every one cached for the dataset.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", help="Recipe field that features must have: storage=float16. Repeatable."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Score the first N pairs only.")] = None,
    data_root: options.DataRoot = None,
    caches: options.Caches,
    results_home: Annotated[
        str | None, typer.Option("--results-home", help="Where results go: a path, s3:// or gs://. Default: --home.")
    ] = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Score cached features by the keypoints that they find again in other images; nothing is trained.

    Features come from `deapcache extract --dataset spair-71k --split val`; the pairs are read from the dataset's files.
    """
    from deapcache.experiments.correspondence import correspondence
    from deapcache.extraction import choose_device
    from deapcache.results import HomeIntervals, make_tables, print_tables, table_rows

    place = caches.location()
    own = results_home_of(results_home, place)
    with bars() as display:
        results = list(
            correspondence(
                place,
                dataset=dataset,
                data_root=locations.data_root(data_root),
                backbones=options.names(backbone),
                where=recipe_fields(where or []),
                limit=limit,
                results_home=own,
                device=str(choose_device(device)),
                command=sys.argv,
                progress=lambda name, done, total: display.show(f"{name}: score", done, total, "pairs", ""),
            )
        )
    if json:
        print_json([result.to_json() for result in results])
        return
    print_tables(make_tables(table_rows(results, uncertainty=HomeIntervals(own))))
