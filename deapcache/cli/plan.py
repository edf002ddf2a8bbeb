"""What work costs: ``deapcache plan``, what ``deapcache run --dry-run`` prints, and ``deapcache speed``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.console import FAILURE, bars, duration, err, note, out, print_json, show, size, table

if TYPE_CHECKING:
    from rich.table import Table

    from deapcache.experiments.plan import GridPlan, PassWork
    from deapcache.results.speeds import Speed


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
    from deapcache.experiments.plan import plan_grid, rates_for

    place, root = locations.home(home), locations.data_root(data_root)
    plans = [plan_pipeline(load_pipeline(name, settings or []), place, root, device=device) for name in pipelines]
    plan = plan_grid(plans, gpus=gpus, rates=rates_for(place, plans[0].device, rates, measure=measure))
    if measure:
        plan = measured(plan, rates)
    show_plan(plan, json)


def measured(plan: GridPlan, file: Path | None = None, *, keep: bool = True) -> GridPlan:
    """The plan at rates that are measured now where they were not known; kept in ``file``, else in the home."""
    from deapcache.experiments.plan import measure_missing

    with bars() as display:
        found = measure_missing(
            plan,
            file=file,
            keep=keep,
            progress=lambda what, done, total: display.show("measure", done, total, "rates", what),
            failed=lambda what, why: note(f"not measured: {what}: {why}"),
        )
    if keep and found.rates != plan.rates:
        note(f"rates of {found.rates.device} are kept in {file or f'{plan.home}/speed'}")
    return found


def show_plan(plan: GridPlan, json: bool, *, terms: Mapping[str, str] = {}) -> None:
    """Print a plan: one document, or all tables, its totals, ``terms`` of backbones, and what stands in its way."""
    if json:
        print_json({**plan.to_json(), **({"terms": dict(terms)} if terms else {})})
        return
    for one in plan.plans:
        out.print(f"{one.pipeline.name}: {one.pipeline.description}".rstrip(": "))
    for make in (_images, _caches, _features, _passes, _storage, _stages):
        out.print()
        out.print(make(plan))
    out.print()
    for line in _totals(plan):
        out.print(line)
    for name, text in terms.items():
        out.print(f"{name}: {text}")
    for problem in (*plan.problems, *plan.left_out):
        out.print(f"missing: {problem}", style="red")


_NONE = "–"


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
        known = "unknown" if work.image_seconds is None else "measured"
        listing.add_row(
            work.backbone,
            work.precision,
            f"{work.wanted:,}",
            f"{work.wanted - work.to_do:,}",
            f"{work.to_do:,}",
            _NONE if work.image_seconds is None else f"{1 / work.image_seconds:,.1f}",
            _time(work.gpu_seconds),
            size(work.bytes),
            f"{work.files:,}",
            known if work.to_do else "there",
        )
    return listing


def _passes(plan: GridPlan) -> Table:
    """Passes of the same pipeline, dataset and tasks together."""
    right = ("passes", "runs", "there", "to do", "batches", "steps", "read", "GPU time")
    listing = table("probing", "dataset", "tasks", *right, right=right)
    groups: dict[tuple[str, str, str], list[PassWork]] = {}
    for work in plan.passes:
        groups.setdefault((work.pipeline, work.dataset, ", ".join(work.tasks)), []).append(work)
    for key, works in groups.items():
        times = [work.gpu_seconds(plan.rates) for work in works]
        listing.add_row(
            *key,
            f"{len(works):,}",
            f"{sum(work.runs - work.elsewhere for work in works):,}",
            f"{sum(work.there for work in works):,}",
            f"{sum(work.runs - work.there - work.elsewhere for work in works):,}",
            f"{sum(work.steps for work in works):,}",
            f"{sum(work.readout_steps for work in works):,}",
            size(sum(work.bytes_read for work in works)),
            _time(None if None in times else sum(one for one in times if one is not None)),
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


def _totals(plan: GridPlan) -> Iterator[str]:
    """The lines below the tables."""
    rates, found = plan.rates, plan.to_json()
    used = [work.image_seconds for work in plan.features if work.to_do]
    used += [rates.step(group.key) for work in plan.passes for group in work.groups]
    yield f"hardware: {plan.gpus} GPU{'s' if plan.gpus > 1 else ''}; training arrays are streamed"
    if rates.measured:
        yield f"measured rates: on {rates.device}, {rates.measured}"
    if unknown := used.count(None):
        yield (
            f"no rate is known of {unknown} of {len(used)} kinds of work: --measure measures them on this device, "
            "--rates FILE reads them"
        )
    hours = {stage.name: _hours(stage.gpu_seconds) for stage in plan.stages}
    yield (
        f"GPU hours: {_hours(plan.gpu_seconds)}, of which {hours['features']} of extraction and {hours['probing']} of "
        f"probing; wall time {_time(plan.wall_seconds)}"
    )
    yield (
        f"to do: {found['forwards']:,} forwards; {size(found['bytes'])} at most; "
        f"{found['missing']:,} of {found['runs']:,} runs, {found['steps']:,} training steps"
    )
    free = plan.plans[0].free_bytes
    yield f"home {plan.home}: {'unknown' if free is None else size(free)} free"
    yield "bytes are before compression; decoding images and annotations, reading and writing are in no time"
    if any(cache.item_bytes is None for cache in plan.of("targets")):
        yield "not in the bytes: tables of boxes, whose length only the dataset's files tell"
    if shared := sum(work.elsewhere for work in plan.passes):
        yield f"{shared:,} runs are wanted by several pipelines and counted once"
    if plan.unplanned:
        yield f"not in the plan, since nothing is known of them: {', '.join(plan.unplanned)}"


def _time(seconds: float | None) -> str:
    return _NONE if seconds is None else duration(seconds)


def _hours(seconds: float | None) -> str:
    return _NONE if seconds is None else f"{seconds / 3600:,.2f}"


def speed_command(
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Backbones: a,b (deapcache list backbones).")
    ] = None,
    image_size: options.ImageSize = None,
    precision: Annotated[str, typer.Option("--precision", help="Of backbones: fp32, bf16 or fp16 autocast.")] = "fp32",
    device: options.Device = "auto",
    home: options.Home = None,
    plugin: options.Plugin = None,
    json: options.Json = False,
) -> int:
    """Time ten batches of eight samples in inference, relative to ViT-B/16 at 224, and keep that in the home.

    Weights that are not at hand are not fetched: an untrained copy takes as long, and is marked. What cannot be built
    here, or does not fit, does not stop the others: it is reported, and the exit code is 1.
    """
    names = options.backbone_names(backbone, image_size)
    from deapcache.experiments.speed import measure_speeds  # loads torch
    from deapcache.results.speeds import write_speed

    place = options.own_home(home)
    place.require_writable()
    problems: list[str] = []
    done: list[Speed] = []
    with bars() as display:
        measured = measure_speeds(
            names,
            device=device,
            precision=precision,
            progress=lambda what, count, total: display.show("speed", count, total, "measured", what),
            failed=lambda what, why: problems.append(f"{what}: {why}"),
        )
        for one in measured:
            write_speed(place, one)  # each at once, so that an interruption costs one
            done.append(one)
    if done or json:
        _show_speeds(done, json)
    for problem in problems:
        err.print(f"not measured: {problem}", style="red")
    return FAILURE if problems else 0


def _show_speeds(speeds: list[Speed], json: bool) -> None:
    """One row each: the median rate and its range, and the time relative to the reference."""
    title = ""
    if speeds:
        first = speeds[0]
        title = f"{first.device}: {len(first.seconds)} batches of {first.batch}; time relative to ViT-B/16 at 224 = 1"
    show(
        speeds,
        json,
        {
            "name": lambda one: one.name,
            "input": lambda one: one.input,
            "images/s": lambda one: f"{one.images_per_second['median']:.3g}",
            "slowest–fastest": lambda one: f"{one.images_per_second['min']:.3g}–{one.images_per_second['max']:.3g}",
            "time": lambda one: f"{one.runtime_factor:.3g}",
            "memory": lambda one: size(one.peak_memory_bytes),
            "parameters": lambda one: f"{one.parameters / 1e6:.2f} M",
            "weights": lambda one: one.weights,
        },
        right=("images/s", "slowest–fastest", "time", "memory", "parameters"),
        title=title,
        document=lambda one: one.to_json(),
    )
    if not json and any(one.weights == "untrained copy" for one in speeds):
        note("untrained copy: its weights are not at hand, and it takes as long without")
