"""What a score hides: each class by itself, which classes are taken for which, and the images that went worst.

All of it comes from the statistics that are kept of each image: nothing is predicted again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deapcache.errors import DeapcacheError
from deapcache.locations import Location
from deapcache.results.frame import grouped
from deapcache.results.intervals import bootstrap_interval, checked_statistics, task_of
from deapcache.results.record import Result, Statistics, plain_json
from deapcache.results.tables import NOTHING, Table, heading
from deapcache.tasks import Task, each_row

_LEAST_SHARE = 0.02
"""Of a class's pixels that are taken for another class, to be worth a line."""
_MOST = 10
"""Pairs of classes, and images, that tables list."""

_Found = tuple[str, dict[str, Any]]
"""What a column is called, and the :func:`per_class` of its row."""


def per_class(
    results: Sequence[Result], home_of: Callable[[str], Location], *, with_images: bool = True
) -> dict[str, Any]:
    """The classes, confusions and images of one row of a table, means over its seeds, as JSON values.

    ``classes``: ``name``, ``score`` (IoU; ``None`` where the class is nowhere), ``interval`` over images (95%),
    ``share`` of the labelled pixels, ``images`` that show it; empty for a task without classes. ``confusions``, the
    largest first: ``actual``, ``predicted``, ``share`` of the pixels of ``actual``, at least, since of each image only
    its largest ones are kept; ``None`` in results from before they were. ``images``, the worst first: ``id`` and
    ``score``. ``problem``: why there is nothing; empty as a rule.

    Parameters
    ----------
    results
        Of one row: the seeds of a readout on a backbone.
    home_of
        From a run to where its statistics lie.
    with_images
        Whether each image is scored by itself, which takes longest; else ``images`` is empty.
    """
    empty: dict[str, Any] = {"classes": [], "confusions": None, "images": [], "problem": ""}
    try:
        task = task_of(results[0])
        runs = [checked_statistics(home_of(one.run), one, task) for one in results]
    except DeapcacheError as error:
        return {**empty, "problem": str(error)}
    found = {**empty, "images": image_scores(runs, task) if with_images else []}
    if task.class_scores(runs[0].run) is not None:
        found |= {"classes": _classes(runs, task, results[0].classes)}
        found |= {"confusions": _confusions(runs, results[0].classes)}
    return dict(plain_json(found))


def _classes(runs: Sequence[Statistics], task: Task, names: Sequence[str]) -> list[dict[str, Any]]:
    def scores(statistics: dict[str, np.ndarray]) -> dict[str, float]:
        found = task.class_scores(statistics)
        return {} if found is None else {str(value): float(score) for value, score in enumerate(found)}

    arrays = [{name: run.run[name] for name in ("intersection", "predicted", "actual")} for run in runs]
    intervals = bootstrap_interval(arrays, each_row(scores), from_sums=True)
    means = np.mean([list(scores(one).values()) for one in arrays], 0)
    actual = arrays[0]["actual"]
    shares, images = actual.sum(0) / max(1, actual.sum()), (actual > 0).sum(0)
    return [
        {
            "name": name,
            "score": float(means[value]),
            "interval": [min(max(end, 0.0), 1.0) for end in intervals[str(value)]],
            "share": float(shares[value]),
            "images": int(images[value]),
        }
        for value, name in enumerate(names)
    ]


def _confusions(runs: Sequence[Statistics], names: Sequence[str]) -> list[dict[str, Any]] | None:
    if any("confusions" not in run.run for run in runs):
        return None
    pixels: Counter[tuple[int, int]] = Counter()
    for actual, predicted, count in np.concatenate([run.run["confusions"].reshape(-1, 3) for run in runs]).tolist():
        pixels[actual, predicted] += count
    totals = runs[0].run["actual"].sum(0)
    found: list[dict[str, Any]] = [
        {"actual": names[actual], "predicted": names[predicted], "share": count / len(runs) / int(totals[actual])}
        for (actual, predicted), count in pixels.most_common()
        if count
    ]
    return [one for one in found if one["share"] >= _LEAST_SHARE][:_MOST]


def image_scores(runs: Sequence[Statistics], task: Task) -> list[dict[str, Any]]:
    """``id`` and ``score`` of each image, the mean of the main score over ``runs``, the worst first.

    Images whose score is not defined, such as one without any object, are left out.
    """
    sign = 1 if task.metrics[task.main_metric].higher_is_better else -1
    found: list[dict[str, Any]] = []
    for place, name in enumerate(runs[0].image_ids):
        ones = [{key: values[place : place + 1] for key, values in run.run.items()} for run in runs]
        score = float(np.mean([task.scores(one)[task.main_metric] for one in ones]))
        if not math.isnan(score):
            found.append({"id": name, "score": score})
    return sorted(found, key=lambda one: sign * one["score"])


def classes_json(rows: Any, home_of: Callable[[str], Location]) -> dict[tuple[str, ...], dict[str, Any]]:
    """Runs of a row → its :func:`per_class`, under the key ``per_class``."""
    results = {line.row: line.results for line in rows.itertuples()}
    return {tuple(one.run for one in runs): {"per_class": per_class(runs, home_of)} for runs in results.values()}


def per_class_tables(rows: Any, home_of: Callable[[str], Location]) -> list[Table]:
    """For each table of :func:`deapcache.results.make_tables` one of its classes, of their confusions, of its images.

    ``rows`` are of :func:`deapcache.results.table_rows`. The columns are backbones and readouts.
    """
    tables: list[Table] = []
    main = [line for line in rows.itertuples() if line.is_main]
    for lines in grouped(main, "task", "dataset", "comparison_key"):
        several = len({line.readout for line in lines}) > 1
        names = [f"{line.display_name}\n{line.readout}" if several else line.display_name for line in lines]
        found = [(name, per_class(line.results, home_of)) for name, line in zip(names, lines, strict=True)]
        title = f"{lines[0].task} · {lines[0].dataset}"
        notes = dict.fromkeys(f"nothing of {name}: {facts['problem']}" for name, facts in found if facts["problem"])
        tables += filter(None, [_class_table(title, found, tuple(notes)), _confusion_table(title, found)])
        images = [(name, one["id"], f"{one['score']:.4f}") for name, facts in found for one in facts["images"][:_MOST]]
        head = ("backbone", "image", heading(lines[0].result.metrics[lines[0].metric]))
        tables.append(Table(f"worst images: {title}", head, tuple(images), tuple(notes)))
    return tables


def _class_table(title: str, found: Sequence[_Found], notes: tuple[str, ...]) -> Table | None:
    known: list[dict[str, Any]] = next((facts["classes"] for _, facts in found if facts["classes"]), [])
    if not known:
        return None
    texts = []
    for place, about in enumerate(known):
        cells = [class_text(facts["classes"][place]) if facts["classes"] else NOTHING for _, facts in found]
        texts.append((about["name"], f"{about['share']:.1%}", str(about["images"]), *cells))
    over = "IoU of each class over all val images, with its 95% interval over images; mean over seeds"
    header = ("class", "pixels", "images", *(f"{name}\nIoU ↑" for name, _ in found))
    return Table(f"classes: {title}", header, tuple(texts), (over, *notes))


def class_text(one: dict[str, Any]) -> str:
    """``0.412 [0.30, 0.52]``; a dash where a class is nowhere."""
    low, high = one["interval"]
    if one["score"] is None:
        return NOTHING
    return f"{one['score']:.3f}" + ("" if low is None else f" [{low:.2f}, {high:.2f}]")


def _confusion_table(title: str, found: Sequence[_Found]) -> Table | None:
    lines = [
        (name, one["actual"], one["predicted"], f"{one['share']:.1%}")
        for name, facts in found
        for one in facts["confusions"] or ()
    ]
    old = [name for name, facts in found if facts["classes"] and facts["confusions"] is None]
    notes = ["share of a class's pixels that are taken for another, at least: the largest of each image are counted"]
    notes += [f"{name}: a result from before confusions were kept; run its probe again" for name in old]
    if not lines and not old:
        return None
    return Table(f"confusions: {title}", ("backbone", "class", "taken for", "share"), tuple(lines), tuple(notes))
