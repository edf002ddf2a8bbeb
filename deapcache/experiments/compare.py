"""Backbones beside each other on one dataset in the time there is: from labels to a verdict with its uncertainty.

A comparison is a pipeline made in memory (:mod:`.pipeline`), whose training is as long as measured rates allow, and
what its results say of each other (:mod:`deapcache.results.verdict`).
"""

from __future__ import annotations

import math
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deapcache.backbones import arithmetic_key
from deapcache.datasets import Dataset, dataset_entry, dataset_status
from deapcache.errors import PipelineError, UsageError
from deapcache.experiments.figures import draw_runs
from deapcache.experiments.pipeline import Pipeline, make_pipeline
from deapcache.experiments.plan import GridPlan, estimate_forwards, measure_missing, plan_grid, rates_for
from deapcache.experiments.probe import Report
from deapcache.experiments.run_pipeline import Outcome, PipelinePlan, extract_missing, plan_pipeline, run_pipeline
from deapcache.extraction import Progress, choose_device
from deapcache.locations import Location
from deapcache.processes import refuse_unguarded
from deapcache.results import HomeIntervals, Result, table_rows
from deapcache.results.frame import is_subset
from deapcache.results.leaderboard import Collected, known_entry, leaderboard, report_page
from deapcache.results.marks import legend
from deapcache.results.per_class import per_class
from deapcache.results.speeds import Rates, all_speeds, by_device
from deapcache.results.verdict import verdict
from deapcache.tasks import get_task

TASKS_BY_INFORMATION: Mapping[str, str] = {
    "segmentation": "every pixel has a class",
    "detection": "objects have boxes",
    "discrimination": "objects are told apart",
    "depth": "pixels have a distance",
    "normals": "pixels have a direction",
    "edges": "edges are drawn",
    "boundaries": "objects have outlines",
    "foreground": "objects are marked",
}
"""Task → what labels must say for it, the one that asks most of features first."""

_ASK_FOR_MANY, _FEWEST_A_CLASS = ("segmentation", "detection", "discrimination"), 10
"""Tasks that are not chosen with fewer training images for each class: they would end without a verdict."""

SEEDS = (0, 1, 2)
CURVE = (4, 2)
"""Parts of the training images that a learning curve is made of, beside all of them."""

_REFERENCE = 1000
"""Iterations that are planned to learn what one takes."""
_FEWEST, _FEWEST_WITH_CURVE = 20, 200
"""Iterations: below the second there is no learning curve, and all time goes into the comparison."""
_SHARE, _OF_A_PASS = 0.75, 4.0
"""Of the time left that is planned for training steps; seconds that a pass takes beside them."""
_BEST, _WORST = 2, 3
"""Images that are shown."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What comparing came to; nothing of it depends on how it is shown."""

    home: Location
    dataset: str
    task: str
    why: str
    """Why this task, in one line."""
    iterations: int
    results: Sequence[Result]
    """On all training images."""
    curve: Sequence[Result]
    """On all of them and on parts; empty without a learning curve."""
    verdict: Mapping[str, Any]
    """See :func:`deapcache.results.verdict.verdict`."""
    costs: Sequence[Mapping[str, Any]]
    """Of each backbone, the best first: ``backbone``, ``score``, ``ms_per_image``, ``parameters``, ``licence``."""
    classes: Mapping[str, Mapping[str, Any]]
    """Backbone → :func:`deapcache.results.per_class.per_class`."""
    failures: Sequence[str]
    notes: Sequence[str]
    """What to know of the numbers: marks, a time that was too short."""
    seconds: float
    commands: Sequence[str]
    """That repeat it."""

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        shown = {name: value for name, value in vars(self).items() if name not in ("home", "results", "curve")}
        return shown | {"runs": [one.run for one in self.results], "curve": [one.run for one in self.curve]}


def choose_task(dataset: Dataset) -> tuple[str, str]:
    """The task that asks most of features among those that the labels allow, and why, in one line.

    With fewer than ten training images for each class, one that tells neither classes nor objects apart, if there is
    one. Raises :class:`UsageError` where the labels allow none.
    """
    labels, classes = dataset.annotations, dataset.classes
    possible = [name for name in TASKS_BY_INFORMATION if get_task(name).suits(labels, classes)]
    if not possible:
        there = ", ".join(labels) or "no labels"
        raise UsageError(f"{dataset.name} has {there}, which no task can be made of: add labels, or name a --task")
    modest = [name for name in possible if name not in _ASK_FOR_MANY]
    first, of = possible[0], "these labels"
    if modest and modest != possible:
        images = len(dataset.image_ids(dataset.splits[0]))
        if images < _FEWEST_A_CLASS * len(classes):
            first, of = modest[0], f"{images:,} training images of {len(classes)} classes"
    others = [name for name in possible if name != first]
    reason = TASKS_BY_INFORMATION[first]
    if first == "segmentation":
        reason = f"every pixel has one of {len(classes)} classes"
    also = f"; these labels also allow {', '.join(others)} (--task)" if others else ""
    return first, f"task {first}, the most that {of} tell: {reason}{also}"


def compare(
    home: Location,
    dataset: Dataset,
    backbones: Sequence[str],
    *,
    task: str | None,
    minutes: float,
    iterations: int | None,
    curve: bool | None,
    data_root: Path,
    device: str,
    command: Sequence[str],
    progress: Progress,
    report: Report,
    say: Callable[[str], None],
) -> Comparison:
    """Extract what is missing, train as long as the time allows, and say which backbone is better.

    All is kept in ``home``: caches, results, measured rates. ``say`` is called with what is decided on the way.

    Parameters
    ----------
    dataset
        As ``open_dataset`` gives it, with ``data_root``.
    task
        None: that of :func:`choose_task`.
    minutes
        Above 0.
    iterations
        Training steps of each readout; None: as many as the time allows.
    curve
        Whether there is a learning curve; None: where the time suffices for it as well.

    Raises :class:`UsageError` where the time is too short for the extraction or the labels allow no task, and
    :class:`PipelineError` where nothing could be extracted or trained.
    """
    refuse_unguarded()
    begun = time.monotonic()
    task_name, why = (task, f"task {task}, as asked for") if task else choose_task(dataset)
    say(why)
    budget, place = 60 * minutes, choose_device(device)

    def plan(names: Sequence[str], steps: int, limits: Sequence[int] = ()) -> PipelinePlan:
        document = _document(task_name, dataset.name, names, steps, 8 if place.type == "cpu" else 32, limits)
        return plan_pipeline(document, home, data_root, device=str(place))

    first = plan(backbones, _REFERENCE)
    _require_answerable(dataset, task_name, data_root, first)
    home.require_writable()
    rates = _forward_rates(first)
    needed = plan_grid([first], rates=rates).stages[2].gpu_seconds
    if needed is not None and needed > budget:
        raise UsageError(
            f"running the backbones over {first.forwards:,} images takes about {needed / 60:.0f} minutes on this "
            f"device, and there are {minutes:g}: give --minutes {math.ceil(needed / 30)}, or fewer backbones"
        )
    extraction = Outcome()
    failed = {label for _, label in extract_missing(first, extraction, progress, None)}
    names = [model.model for model in first.pipeline.probes[0].backbones if model.label not in failed]
    if not names:
        raise PipelineError("; ".join(extraction.failures))
    summary = first.datasets[dataset.name].summary
    assert summary is not None  # a plan that is runnable here has one
    images = summary.of[summary.splits[0]].images
    limits = [count for part in CURVE if curve is not False and (count := images // part) >= 2]
    steps = iterations
    if steps is None:
        left = budget - (time.monotonic() - begun)
        fewest = 0 if curve else _FEWEST_WITH_CURVE
        steps, limits = _choose_length(plan, names, limits, left, begun + budget, fewest)
    chosen = plan(names, steps, limits)
    say(f"{steps:,} iterations of each readout, {chosen.missing} of {chosen.runs} runs to do")
    outcome = run_pipeline(chosen, progress=progress, report=report, command=command)
    failures = [*extraction.failures, *outcome.failures]

    whole = [result for result in outcome.results if not is_subset(result)]
    if not whole:
        raise PipelineError("; ".join(failures) or "no run has a result")
    rows = table_rows(whole, uncertainty=HomeIntervals(home, over_seeds=True))
    lines = {line.display_name: line for line in rows.itertuples() if line.is_main}
    sentences = verdict(home, list(lines.values()))
    ranking = sentences["ranking"]
    has_curve = len(whole) < len(outcome.results)
    again = ["deapcache", "compare", dataset.name, "--backbone", ",".join(backbones)]
    again += [] if has_curve else ["--no-curve"]
    again += ["--task", task_name, "--iterations", str(steps), "--out", "report.html"]
    costs = [_cost(lines[name], rates) for name in ranking]
    classes = {name: per_class(lines[name].results, lambda _: home) for name in ranking}
    seconds = time.monotonic() - begun
    is_chosen = iterations is None and chosen.missing == chosen.runs
    notes = _length_notes(minutes, seconds, steps, get_task(task_name).iterations) if is_chosen else []
    return Comparison(
        home=home,
        dataset=dataset.name,
        task=task_name,
        why=why,
        iterations=steps,
        results=whole,
        curve=outcome.results if has_curve else [],
        verdict=sentences,
        costs=costs,
        classes=classes,
        failures=failures,
        notes=[*notes, *legend(line.marks for line in lines.values())],
        seconds=seconds,
        commands=[shlex.join(again)],
    )


def _require_answerable(dataset: Dataset, task: str, data_root: Path, plan: PipelinePlan) -> None:
    """Raise where something stands in the way: of lacking labels or images in the words of the command line."""
    labels, classes = dataset.annotations, dataset.classes
    if plan.problems and not get_task(task).suits(labels, classes):
        others = [name for name in TASKS_BY_INFORMATION if get_task(name).suits(labels, classes)]
        raise UsageError(
            f"--task {task}: {dataset.name} has {', '.join(labels) or 'no labels'}, which do not suffice; they do for "
            f"{', '.join(others) or 'no task'}"
        )
    found = dataset_status(dataset_entry(dataset.name), data_root) if plan.problems else {}
    for split in dataset.splits[:2]:
        if split in found and not found[split].images:
            there = ", ".join(f"{name} {status.images:,}" for name, status in found.items() if status.images)
            raise UsageError(
                f"compare trains on one split and scores on another, and {dataset.name} has no images in {split} "
                f"({there or 'nor elsewhere'}): add some, or import again with another --val"
            )
    plan.require_runnable()


def _document(
    task: str, dataset: str, backbones: Sequence[str], iterations: int, batch_size: int, limits: Sequence[int]
) -> Pipeline:
    """The pipeline of a comparison; ``limits`` are the numbers of training images of its learning curve."""
    probes: list[dict[str, Any]] = [{"tasks": [task], "dataset": dataset, "seeds": list(SEEDS)}]
    if limits:
        probes.append({"tasks": [task], "dataset": dataset, "seeds": [SEEDS[0]], "train_limit": list(limits)})
    shared = {"backbones": list(backbones), "iterations": iterations, "batch_size": batch_size}
    try:
        return make_pipeline({"name": "compare", **shared, "probes": probes}, "compare")
    except PipelineError as error:  # of a name that was given; there is no file that has a line
        raise UsageError(re.sub(r"^compare, line \d+: \S+: ", "", str(error))) from None


def _forward_rates(plan: PipelinePlan) -> Rates:
    """The rates of the home with those of the backbones that lack one, from two batches each."""
    rates, precision = rates_for(plan.home, plan.device), plan.pipeline.precision
    backbones = {model.backbone for probe in plan.pipeline.probes for model in probe.backbones}
    unknown = {(arithmetic_key(name), precision): name for name in sorted(backbones)}
    unknown = {key: name for key, name in unknown.items() if rates.forward(name, precision) is None}
    return estimate_forwards(unknown, rates, choose_device(plan.device), lambda *_: None, lambda *_: None)


def _choose_length(
    plan: Callable[..., PipelinePlan],
    backbones: Sequence[str],
    limits: Sequence[int],
    left: float,
    end: float,
    fewest: int,
) -> tuple[int, list[int]]:
    """Iterations that fit the seconds ``left`` at measured rates, and the learning curve where ``fewest`` remain.

    What is not known yet of rates is measured and kept in the home.
    """
    with_curve = plan_grid([plan(backbones, _REFERENCE, limits)])
    rates = rates_for(with_curve.home, with_curve.plans[0].device)
    with_curve = measure_missing(replace(with_curve, rates=rates))
    left = min(left, end - time.monotonic())
    length = _length(with_curve, left)
    if limits and length < fewest:
        alone = plan_grid([plan(backbones, _REFERENCE)], rates=with_curve.rates)
        length, limits = _length(alone, left), []
    return max(length, _FEWEST), list(limits)


def _length(grid: GridPlan, left: float) -> int:
    """Iterations, to two digits, that fit the seconds ``left``; at most those of the task itself."""
    known = [(group, grid.rates.step(group.key)) for work in grid.passes for group in work.groups]
    if any(rate is None for _, rate in known):
        raise PipelineError("training steps could not be measured on this device: give --iterations N")
    each = sum((rate or 0.0) * group.spec.iterations / _REFERENCE for group, rate in known)
    scored = sum(
        (grid.rates.step(group.key) or 0.0) * math.ceil(work.val_images / work.batch_size)
        for work in grid.passes
        for group in work.groups
        if group.stage == "train"
    )
    room = _SHARE * left - _OF_A_PASS * len(grid.passes) - scored
    most = max((get_task(group.key.task).iterations for group, _ in known), default=_FEWEST)
    if each <= 0:  # everything is there
        return most
    count = max(0, min(most, int(room / each)))
    digits = max(0, len(str(count)) - 2)
    return int(count // 10**digits * 10**digits)


def _length_notes(minutes: float, seconds: float, iterations: int, most: int) -> list[str]:
    """What to say of a length that was chosen and, as it turned out, did not suit the time."""
    took = f"it took {seconds / 60:.1f} of the {minutes:g} minutes"
    if iterations <= _FEWEST:
        return [f"{took}, which left room for the fewest iterations that there are, {iterations}: give more --minutes"]
    if seconds < 30 * minutes and iterations < most:
        return [f"{took}: steps were timed on a busy machine; give --iterations to train longer"]
    return []


def _cost(line: Any, rates: Rates) -> dict[str, Any]:
    entry = known_entry(line.backbone)  # none for a name of several random weights
    seconds = rates.forward(line.backbone, line.results[0].caches["val"]["recipe"]["precision"])
    return {
        "backbone": line.display_name,
        "score": None if math.isnan(line.mean) else line.mean,
        "ms_per_image": None if seconds is None else 1000 * seconds,
        "parameters": entry.parameters if entry else None,
        "licence": entry.licence if entry else "",
        "marks": line.marks,
    }


def compare_page(comparison: Comparison) -> str:
    """The report as one HTML page that needs nothing but itself."""
    from deapcache.results.figures.groups import group_results
    from deapcache.results.figures.label_efficiency import draw_label_efficiency

    home, ranking = comparison.home, list(comparison.verdict["ranking"])
    results = {result.run: result for result in comparison.results}
    collected = Collected(
        results=tuple(results.values()),
        homes=dict.fromkeys(results, home),
        speeds=by_device(all_speeds(home)),
        notes=(),
    )
    board = leaderboard(collected, over_seeds=True, paper=False)
    pictures: dict[str, bytes] = {}
    problems = []
    drawings = {
        "images": lambda: _draw_images(comparison, ranking),
        "curve": lambda: draw_label_efficiency(group_results(table_rows(comparison.curve))).save("png"),
    }
    for name, draw in drawings.items():
        if name == "curve" and not comparison.curve:
            continue
        try:
            pictures[name] = draw()
        except Exception as error:  # the numbers are worth more than a picture
            problems.append(f"no picture of {name}: {error}")
    return report_page(board, {**comparison.to_json(), "problems": problems, "ranking": ranking}, pictures)


def _draw_images(comparison: Comparison, ranking: Sequence[str]) -> bytes:
    """The images that went best and worst, the mean over all backbones, with each one's prediction."""
    scores: dict[str, list[float]] = {}
    for found in comparison.classes.values():
        for one in found["images"]:
            scores.setdefault(one["id"], []).append(one["score"])
    means = {name: sum(values) / len(values) for name, values in scores.items()}
    order = [one["id"] for one in comparison.classes[ranking[0]]["images"]]  # the worst of the best backbone first
    shown = list(dict.fromkeys([*order[::-1][:_BEST], *order[:_WORST]]))
    firsts: dict[str, Result] = {}
    for result in sorted(comparison.results, key=lambda result: result.seed):
        firsts.setdefault(result.backbone, result)
    results = [firsts[name] for name in ranking if name in firsts]
    names = [result.backbone for result in results]
    label = results[0].metrics[results[0].main_metric]["label"]
    sides = {name: f"{Path(name).name}\n{label} {means[name]:.2f}" for name in shown}
    return draw_runs(comparison.home, results, names, sides).save("png")
