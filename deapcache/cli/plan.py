"""``deapcache plan``, and what ``deapcache run --dry-run`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.console import bars, duration, note, out, print_json, size, table
from deapcache.errors import MissingDataError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from deapcache.experiments.planning import FeatureWork, GridPlan, PricedPass, Rates, Speeds, StepGroup
    from deapcache.locations import Location


def plan_command(
    pipelines: Annotated[list[str], typer.Argument(help="Pipeline files, or names of shipped ones: table3 table4 …")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Replace a value in every pipeline, as `run` does. Repeatable.")
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus", help="GPUs of the machine that wall time is stated for.")] = 1,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Measure on this device what was not measured yet, and keep it: in --rates FILE, else in the home.",
        ),
    ] = False,
    rates: Annotated[
        Path | None, typer.Option("--rates", help="Measured rates. Default: those of this device in the home.")
    ] = None,
    home: options.Home = None,
    plugin: options.Plugin = None,
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """What pipelines cost: images forwarded, GPU hours, bytes, files and wall time, less what the home has already.

    Neither datasets nor weights are needed. Nothing is extracted or trained.
    """
    from deapcache.experiments import load_pipeline, plan_pipeline
    from deapcache.experiments.planning import plan_grid

    place, root = locations.home(home), locations.data_root(data_root)
    plans = [plan_pipeline(load_pipeline(name, settings or []), place, root, device=device) for name in pipelines]
    source = RateSource(place, rates, plans[0].device, measure)
    show_plan(plan_grid(plans, gpus=gpus, speeds=source.speeds), json)


def show_plan(plan: GridPlan, json: bool) -> None:
    """Print a plan."""
    from deapcache.experiments.planning import grid_json

    if json:
        print_json(grid_json(plan))
    else:
        _print_plan(plan)


class RateSource:
    """Where a plan's speeds come from: a file of measured rates, or measuring."""

    def __init__(self, home: Location, file: Path | None, device: str, measure: bool, *, keep: bool = True) -> None:
        from deapcache.experiments.planning import machine_name, rates_key

        self._place, self._key = home, rates_key(machine_name(device))
        self._given = file
        if file is not None:
            self._place, self._key = locations.locate(file.parent), file.name
        self._device, self._measure, self._keep = device, measure, keep

    def speeds(self, forwards: Sequence[tuple[str, str]], groups: Sequence[StepGroup]) -> Speeds:
        """The speeds of these; what is measured now is kept."""
        from deapcache.experiments.planning import Speeds, read_rates

        rates = read_rates(self._place, self._key)
        if rates is None and self._given is not None and not self._measure:
            raise MissingDataError(f"--rates {self._given}: no such file; --measure makes it")
        if self._measure:
            rates = self._measured(rates, forwards, groups)
        return Speeds(rates=rates)

    def _measured(
        self, rates: Rates | None, forwards: Sequence[tuple[str, str]], groups: Sequence[StepGroup]
    ) -> Rates | None:
        from deapcache.experiments.planning import lacking, machine_name, measure_rates, write_rates

        name = machine_name(self._device)
        if rates is not None and rates.device != name:
            raise UsageError(
                f"{self._place}/{self._key} holds rates of {rates.device}, and this device is {name}: "
                "give another file to --rates with --measure"
            )
        missing = lacking(rates, forwards, groups)
        if not any(missing):
            return rates
        with bars() as display:
            pieces = measure_rates(
                *missing,
                self._device,
                told=lambda what, done, total: display.show("measure", done, total, "rates", what),
                failed=lambda what, error: note(f"not measured: {what}: {str(error).splitlines()[0]}"),
            )
            for found in pieces:
                rates = found if rates is None else rates.merged(found)
                if self._keep:  # each at once, so that an interruption costs one
                    write_rates(self._place, self._key, rates)
        if self._keep and rates is not None:
            note(f"rates of {name} are kept in {self._place}/{self._key}")
        return rates


_NONE = "–"


def _print_plan(plan: GridPlan) -> None:
    """All tables of a plan, its totals, and what stands in its way."""
    for one in plan.plans:
        out.print(f"{one.pipeline.name}: {one.pipeline.description}".rstrip(": "), markup=False)
    for make in (_images, _caches, _features, _passes, _storage, _stages):
        out.print()
        out.print(make(plan))
    out.print()
    for line in (*_speeds(plan), _totals(plan), *_notes(plan)):
        out.print(line, markup=False)
    for problem in (*plan.problems, *plan.left_out):
        out.print(f"missing: {problem}", markup=False, style="red")


def _images(plan: GridPlan) -> Table:
    listing = table("images of", "split", "number", "known", right=("number",))
    counts = {(c.owner, c.split): (c.images, c.counted) for kind in ("targets", "features") for c in plan.of(kind)}
    for (owner, split), (images, counted) in counts.items():
        listing.add_row(owner, split, f"{images:,}", counted)
    return listing


def _caches(plan: GridPlan) -> Table:
    """Base images and targets, both splits together."""
    right = ("images", "there", "to do", "at most", "files")
    listing = table("cache", "dataset", *right, right=right)
    groups: dict[tuple[str, str], list[int]] = {}
    unsized: set[tuple[str, str]] = set()
    for cache in (*plan.of("images"), *plan.of("targets")):
        key = (cache.what, cache.owner)
        sums = groups.setdefault(key, [0, 0, 0, 0])
        for place, value in enumerate((cache.wanted, cache.to_do, cache.bytes, cache.files)):
            sums[place] += value
        if cache.item_bytes is None:
            unsized.add(key)
    for (what, owner), (wanted, to_do, count, files) in groups.items():
        bytes_ = "not known" if (what, owner) in unsized else size(count)
        listing.add_row(what, owner, f"{wanted:,}", f"{wanted - to_do:,}", f"{to_do:,}", bytes_, f"{files:,}")
    return listing


def _features(plan: GridPlan) -> Table:
    right = ("images", "there", "to do", "images/s", "GPU time", "at most", "files")
    listing = table("features", "precision", *right, "rate", right=right)
    for work in plan.features:
        listing.add_row(*_feature_row(work))
    return listing


def _feature_row(work: FeatureWork) -> tuple[str, ...]:
    rate = _NONE if work.speed.seconds is None else f"{1 / work.speed.seconds:,.1f}"
    return (
        work.backbone,
        work.precision,
        f"{work.wanted:,}",
        f"{work.wanted - work.to_do:,}",
        f"{work.to_do:,}",
        rate,
        _time(work.gpu_seconds),
        size(work.bytes),
        f"{work.files:,}",
        work.speed.known if work.to_do else "there",
    )


def _passes(plan: GridPlan) -> Table:
    right = ("passes", "runs", "there", "to do", "batches", "steps", "read", "GPU time")
    listing = table("probing", "dataset", "tasks", *right, right=right)
    groups: dict[tuple[str, str, str], list[PricedPass]] = {}
    for one in plan.probing:
        work = one.work
        groups.setdefault((work.pipeline, work.dataset, ", ".join(work.tasks)), []).append(one)
    for key, members in groups.items():
        works = [one.work for one in members]
        listing.add_row(
            *key,
            f"{len(works):,}",
            f"{sum(work.runs - work.elsewhere for work in works):,}",
            f"{sum(work.there for work in works):,}",
            f"{sum(work.runs - work.there - work.elsewhere for work in works):,}",
            f"{sum(work.steps for work in works):,}",
            f"{sum(work.readout_steps for work in works):,}",
            size(sum(work.bytes_read for work in works)),
            _time(_sum([one.gpu_seconds for one in members])),
        )
    return listing


def _storage(plan: GridPlan) -> Table:
    listing = table("all features stored as", "TB at most", right=("TB at most",))
    for storage, count in plan.storage().items():
        listing.add_row(storage, f"{count / 1e12:.3f}")
    return listing


def _stages(plan: GridPlan) -> Table:
    right = ("wanted", "there", "to do", "GPU time", "written", "files", "read", "wall time")
    listing = table("stage", *right, right=right)
    for stage in plan.stages:
        there = f"{stage.wanted - stage.to_do:,}"
        amounts = (f"{stage.wanted:,} {stage.unit}", there, f"{stage.to_do:,}", _time(stage.gpu_seconds))
        bytes_ = (size(stage.written), f"{stage.files:,}", size(stage.read))
        listing.add_row(stage.name, *amounts, *bytes_, _time(stage.wall_seconds))
    written, read = sum(s.written for s in plan.stages), sum(s.read for s in plan.stages)
    files = sum(s.files for s in plan.stages)
    sums = (_time(plan.gpu_seconds), size(written), f"{files:,}", size(read), _time(plan.wall_seconds))
    listing.add_row("total", "", "", "", *sums, style="bold")
    return listing


def _speeds(plan: GridPlan) -> list[str]:
    used = [work.speed for work in plan.features if work.to_do] + [s for one in plan.probing for s in one.speeds]
    lines = [f"hardware: {plan.gpus} GPU{'s' if plan.gpus > 1 else ''}; training arrays are streamed"]
    if rates := plan.speeds.rates:
        lines.append(f"measured rates: on {rates.device}, {rates.measured}")
    if unknown := sum(speed.seconds is None for speed in used):
        lines.append(
            f"no rate is known of {unknown} of {len(used)} kinds of work: --measure measures them on this device, "
            "--rates FILE reads them"
        )
    return lines


def _totals(plan: GridPlan) -> str:
    forwards = sum(work.to_do for work in plan.features)
    runs = sum(work.runs - work.elsewhere for work in plan.passes)
    missing = runs - sum(work.there for work in plan.passes)
    steps = sum(work.readout_steps for work in plan.passes)
    free = plan.plans[0].free_bytes
    hours = {stage.name: _hours(stage.gpu_seconds) for stage in plan.stages}
    return (
        f"GPU hours: {_hours(plan.gpu_seconds)}, of which {hours['features']} of extraction and {hours['probing']} of "
        f"probing; wall time {_time(plan.wall_seconds)}\n"
        f"to do: {forwards:,} forwards; {size(sum(cache.bytes for cache in plan.caches))} at most; "
        f"{missing:,} of {runs:,} runs, {steps:,} training steps\n"
        f"home {plan.home}: {'unknown' if free is None else size(free)} free"
    )


def _notes(plan: GridPlan) -> list[str]:
    lines = ["bytes are before compression; decoding images and annotations, reading and writing are in no time"]
    if any(cache.item_bytes is None for cache in plan.of("targets")):
        lines.append("not in the bytes: tables of boxes, whose length only the dataset's files tell")
    shared = sum(work.elsewhere for work in plan.passes)
    if shared:
        lines.append(f"{shared:,} runs are wanted by several pipelines and counted once")
    if plan.unplanned:
        lines.append(f"not in the plan, since nothing is known of them: {', '.join(plan.unplanned)}")
    return lines


def _time(seconds: float | None) -> str:
    return _NONE if seconds is None else duration(seconds)


def _hours(seconds: float | None) -> str:
    return _NONE if seconds is None else f"{seconds / 3600:,.2f}"


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
