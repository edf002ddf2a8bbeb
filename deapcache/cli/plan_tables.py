"""A plan as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deapcache.cli.console import duration, out, size, table

if TYPE_CHECKING:
    from rich.table import Table

    from deapcache.experiments.planning import FeatureWork, GridPlan, PricedPass, Speed

_NONE = "–"


def print_plan(plan: GridPlan) -> None:
    """All tables of a plan, its totals, and what stands in its way."""
    for one in plan.plans:
        out.print(f"{one.pipeline.name}: {one.pipeline.description}".rstrip(": "), markup=False)
    for made in (_images, _caches, _features, _passes, _storage, _stages):  # each as it comes: times may need counting
        out.print()
        out.print(made(plan))
    out.print()
    for line in (*_hardware(plan), *_speeds(plan), _totals(plan), *_notes(plan)):
        out.print(line, markup=False)
    for problem in (*plan.problems, *plan.left_out):
        out.print(f"missing: {problem}", markup=False, style="red")


def _images(plan: GridPlan) -> Table:
    shown = table("images of", "split", "number", "known", right=("number",))
    counts = {(c.owner, c.split): (c.images, c.counted) for kind in ("targets", "features") for c in plan.of(kind)}
    for (owner, split), (images, counted) in counts.items():
        shown.add_row(owner, split, f"{images:,}", counted)
    return shown


def _caches(plan: GridPlan) -> Table:
    """Base images and targets, both splits together."""
    right = ("images", "there", "to do", "at most", "files")
    shown = table("cache", "dataset", *right, right=right)
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
        shown.add_row(what, owner, f"{wanted:,}", f"{wanted - to_do:,}", f"{to_do:,}", bytes_, f"{files:,}")
    return shown


def _features(plan: GridPlan) -> Table:
    right = ("images", "there", "to do", "images/s", "GPU time", "at most", "files")
    shown = table("features", "precision", *right, "rate", right=right)
    for work in plan.features:
        shown.add_row(*_feature_row(work))
    return shown


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
        work.speed.how if work.to_do else "there",
    )


def _passes(plan: GridPlan) -> Table:
    right = ("passes", "runs", "there", "to do", "batches", "steps", "read", "GPU time")
    shown = table("probing", "dataset", "tasks", *right, right=right)
    groups: dict[tuple[str, str, str], list[PricedPass]] = {}
    for one in plan.probing:
        work = one.work
        groups.setdefault((work.pipeline, work.dataset, ", ".join(work.tasks)), []).append(one)
    for key, members in groups.items():
        works = [one.work for one in members]
        shown.add_row(
            *key,
            f"{len(works):,}",
            f"{sum(work.runs - work.elsewhere for work in works):,}",
            f"{sum(work.there for work in works):,}",
            f"{sum(work.runs - work.there - work.elsewhere for work in works):,}",
            f"{sum(work.steps for work in works):,}",
            f"{sum(work.readout_steps for work in works):,}",
            size(sum(work.bytes_read(plan.hardware.memory) for work in works)),
            _time(_sum([one.gpu_seconds for one in members])),
        )
    return shown


def _storage(plan: GridPlan) -> Table:
    shown = table("all features stored as", "TB at most", right=("TB at most",))
    for storage, count in plan.storage().items():
        shown.add_row(storage, f"{count / 1e12:.3f}")
    return shown


def _stages(plan: GridPlan) -> Table:
    right = ("wanted", "there", "to do", "GPU time", "written", "files", "read", "wall time")
    shown = table("stage", *right, "bound by", right=right)
    for stage in plan.stages:
        there = f"{stage.wanted - stage.to_do:,}"
        amounts = (f"{stage.wanted:,} {stage.unit}", there, f"{stage.to_do:,}", _time(stage.gpu_seconds))
        bytes_ = (size(stage.written), f"{stage.files:,}", size(stage.read))
        shown.add_row(stage.name, *amounts, *bytes_, _time(stage.wall_seconds), stage.bound or _NONE)
    written, read = sum(s.written for s in plan.stages), sum(s.read for s in plan.stages)
    files = sum(s.files for s in plan.stages)
    sums = (_time(plan.gpu_seconds), size(written), f"{files:,}", size(read), _time(plan.wall_seconds))
    shown.add_row("total", "", "", "", *sums, "", style="bold")
    return shown


def _hardware(plan: GridPlan) -> list[str]:
    hardware = plan.hardware
    sides = [("read", hardware.read), ("write", hardware.write)]
    store = ", ".join(f"{name} {size(value)}/s" if value else f"{name} without limit" for name, value in sides)
    held = f"{size(hardware.memory)} for training arrays" if hardware.memory else "training arrays are streamed"
    return [f"hardware: {hardware.gpus} GPU{'s' if hardware.gpus > 1 else ''}; store: {store}; {held}"]


def _speeds(plan: GridPlan) -> list[str]:
    used = [work.speed for work in plan.features if work.to_do] + [s for one in plan.probing for s in one.speeds]
    lines = []
    if rates := plan.speeds.rates:
        lines.append(f"measured rates: on {rates.device}, {rates.measured}")
    lines += [line for known in ("estimated", "unknown") if (line := _share(known, used, plan))]
    return lines


def _share(known: str, used: list[Speed], plan: GridPlan) -> str:
    count = sum(speed.known == known for speed in used)
    if not count:
        return ""
    if known == "unknown":
        return (
            f"no rate is known of {count} of {len(used)} kinds of work: --measure measures them on this device, "
            "--rates FILE reads them, --tflops and --probe-utilisation estimate them"
        )
    given = plan.speeds.throughput
    assert given is not None  # what estimates are made from
    probes = "" if given.probe_utilisation is None else f" and {given.probe_utilisation:g} in probing"
    return (
        f"estimated, not measured: {count} of {len(used)} rates, from counted operations at {given.tflops:g} TFLOP/s, "
        f"of which {given.utilisation:g} is taken to be sustained in forward passes{probes}"
    )


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
    lines = ["bytes are before compression; decoding images and annotations is in no time"]
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
