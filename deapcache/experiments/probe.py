"""A probe from config to files: choose the caches, train, score and save every run, then draw.

Where the user does not say which dataset or which backbones, :func:`choose_datasets` and :func:`choose_backbones` take
what the home holds. Which tasks a dataset can serve follows from what is registered of it: no file is looked at.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from deapcache.backbones import describe, extract_options, labelled_model
from deapcache.cache import Cache, find_caches, list_caches
from deapcache.cache.names import dataset_and_split
from deapcache.datasets import DATASETS, images_owner, open_dataset
from deapcache.errors import CacheMissError, DataError, DeapcacheError, LocationError, TrainingError, UsageError, listed
from deapcache.locations import Location, data_root, home_defaults
from deapcache.probing import ProbeConfig, ProbeProgress, ProbeResult, RunSpec, feature_fields, model_of, probe_backbone
from deapcache.processes import refuse_unguarded
from deapcache.readouts import canonical_readout
from deapcache.recipe import SUBSET_SEED
from deapcache.results import Result, picture_key, save_run
from deapcache.results.record import largest_key, run_name
from deapcache.tasks import Task, get_task

_SUGGESTED = "efficientnet-lite0-s16"
"""A backbone that needs no model hub: what an error suggests to extract first."""

Report = Callable[[str, ProbeProgress], None]
"""Called with the name of the pass (``dinov2 · coco``) and how far it has come."""


@dataclass(frozen=True, kw_only=True)
class SavedRun:
    """One finished run and its files."""

    result: Result
    picture: str | None
    """Where the picture of the run is, for the first seed of each readout."""
    picture_problem: str = ""
    """Why it could not be drawn; empty as a rule. The run is whole without it."""


def probe(
    home: Location,
    config: ProbeConfig,
    *,
    train_limits: Sequence[int | None] = (),
    results_home: Location | None = None,
    report: Report = lambda *_: None,
    command: Sequence[str] = (),
) -> Iterator[SavedRun]:
    """Probe everything that is asked for, and yield each run once its files are written.

    With ``train_limits`` it is done for each of these numbers of training images, drawn as nested subsets, in place of
    the config's own (``None``: all images): a learning curve.

    Caches are read from ``home``; results, readouts and pictures go to ``results_home``, by default ``home`` as well.
    All tasks, readouts, seeds and learning rates of one backbone and dataset share one pass over its features.

    Raises what :func:`probe_pass` raises, and ``CacheMissError`` with the command to run where nothing is cached. Where
    some runs diverged, the error is raised at the end of all passes.
    """
    refuse_unguarded()
    for readout in config.readouts:
        canonical_readout(readout)  # a wrong name is refused before any cache is looked for
    fields = {**config.where, **({"layer": config.layers[0]} if config.layers else {})}
    if train_limits and config.train_limit is not None:
        raise UsageError("--limit takes the first images of both splits, --train-limit some of train: give one of them")
    curve = [replace(config, train_limit=limit, train_subset=SUBSET_SEED) for limit in train_limits]
    passes = [
        replace(
            of_size,
            dataset=dataset,
            tasks=tasks,
            backbones=(backbone,),
            images_name=config.images_name or images_owner(dataset),
        )
        for dataset, tasks in choose_datasets(home, config.tasks, config.dataset, config.backbones).items()
        for backbone in choose_backbones(home, dataset, config.backbones, fields)
        for of_size in curve or [config]
    ]
    results_home = results_home or home
    results_home.require_writable()  # refused before hours of training, not after
    names = (canonical_readout(readout) for readout in config.readouts)
    results_home.require_names(
        largest_key(run_name(task, str(one.dataset), one.backbone, name, seed))
        for name, seed, one in product(names, config.seeds, passes)
        for task in one.tasks
    )
    agreed, diverged = agreed_values(home), list[TrainingError]()
    for one in passes:
        try:
            yield from probe_pass(home, one, results_home=results_home, report=report, command=command, agreed=agreed)
        except TrainingError as error:  # says nothing about the next backbone
            diverged.append(error)
    if diverged:
        raise TrainingError("\n".join(map(str, diverged)))


def probe_pass(
    home: Location,
    config: ProbeConfig,
    *,
    results_home: Location,
    report: Report,
    command: Sequence[str],
    agreed: Mapping[str, Any],
    skip: Callable[[RunSpec], bool] = lambda _: False,
) -> Iterator[SavedRun]:
    """Train, score and save all runs of a config of one dataset and one backbone; then draw, and yield each run.

    A run is saved as soon as it is scored, and pictures are drawn when all are: whatever fails later, nothing that was
    trained is lost. Runs for which ``skip`` is true are left out. ``agreed`` is of :func:`agreed_values`.

    Raises what :func:`deapcache.probing.probe_backbone` raises. Where some runs cannot be saved, or diverged, the error
    is raised after the others were given.
    """
    runs = probe_backbone(
        home,
        config,
        skip=skip,
        progress=functools.partial(report, f"{config.backbone} · {config.dataset}"),
        open_native=functools.partial(_open_native, config),
    )
    saved: list[tuple[ProbeResult, Result]] = []
    failure: Exception | None = None
    try:
        for run in runs:
            try:
                result = save_run(
                    results_home,
                    {
                        **run.to_json(),
                        "about": _about(run.backbone, run.caches["train"]["recipe"]["backbone"]),
                        "home_defaults": agreed,
                    },
                    statistics=run.statistics,
                    prior_statistics=run.baseline_statistics,
                    image_ids=run.image_ids,
                    weights=run.weights,
                    command=command,
                )
                saved.append((run, result))
            except LocationError as error:
                failure = failure or error
    except Exception as error:  # raised once the pictures of those saved are drawn
        failure = failure or error
    for run, result in saved:
        is_first = run.seed == config.seeds[0]
        yield _draw(results_home, run, result, home) if is_first else SavedRun(result=result, picture=None)
    if failure:
        raise failure


def agreed_values(home: Location) -> dict[str, Any]:
    """What ``deapcache.toml`` of the home says of extraction: each result keeps it."""
    return {name: value for name, value in home_defaults(home).values.items() if name.startswith("extract.")}


def _open_native(
    config: ProbeConfig, recipes: Mapping[str, Mapping[str, Any]], image_ids: tuple[str, ...]
) -> Callable[[str, int], np.ndarray]:
    """A reader of the validation label maps from the dataset's files, which must be those that targets are from.

    Raises :class:`MissingDataError` where files are not there, and :class:`DataError` where they have changed.
    """
    split, dataset = config.splits[1], open_dataset(str(config.dataset), data_root(config.data_root))
    listed = set(image_ids)
    if left_out := [name for name in dataset.tolerant().image_ids(split) if name not in listed]:
        dataset = dataset.without({split: dict.fromkeys(left_out, "not among the targets")})
    what = "image list" if dataset.image_ids(split) != image_ids else ""
    for annotation, recipe in recipes.items() if not what else ():
        if dataset.annotation_digest(split, annotation) != recipe["annotations"]:
            what = f"annotation {annotation}"
    if what:
        raise DataError(
            f"scores at native size: the files of {dataset.name} {split} under {data_root(config.data_root)} are not "
            f"those that the cached targets were made from (another {what}): give their folder with --data-root, or "
            "extract and probe again with these files"
        )
    return lambda annotation, row: np.ascontiguousarray(dataset.read_annotation(split, row, annotation))


@functools.cache
def _about(backbone: str, model: str) -> dict[str, Any]:
    """What the registry says of a backbone, in a result's words; {} for one that has caches here, but no entry.

    ``model`` is the one in the recipe of its features, of which the parameters of a checkpoint are.
    """
    built = labelled_model(backbone, model)
    try:
        entry = describe(built)
    except DeapcacheError:  # a model that cannot be had just now
        return {}
    if built != backbone:
        return {"category": "", "parameters": entry.parameters, "training_data": ""}
    category = "untrained" if entry.untrained else entry.category
    return {"category": category, "parameters": entry.parameters, "training_data": entry.training_data}


def _draw(home: Location, run: ProbeResult, result: Result, caches: Location) -> SavedRun:
    """The saved run with its picture, or with why there is none."""
    from deapcache.results.draw import save_picture

    examples, rows = run.examples, run.examples.rows
    dataset, split = dataset_and_split(run.caches["val"]["path"])
    features = run.caches["val"]["recipe"]
    stored = base_images(caches, features, run.protocol.output_size, dataset=dataset, split=split)
    try:
        picture = save_picture(
            home,
            result,
            images=next((cache.read(rows) for cache in stored if cache.is_complete(rows)), None),
            targets=examples.targets,
            predictions=examples.predictions,
            image_ids=run.image_ids[: len(rows)],
        )
    except Exception as error:  # whatever drawing meets: the result is there, and is worth more
        with contextlib.suppress(OSError):
            home.delete(picture_key(result.run))  # of an earlier run of this name, and not of this one
        return SavedRun(result=result, picture=None, picture_problem=str(error) or type(error).__name__)
    return SavedRun(result=result, picture=f"{home}/{picture}")


def base_images(home: Location, features: Mapping[str, Any], size: tuple[int, int], **where: str) -> Iterator[Cache]:
    """The caches of what features of that recipe show, (h, w, 3) uint8 brought to (height, width) as they were.

    ``where``, their dataset and split, spares looking at others.
    """
    wanted = (features["images"], features["base_fit"], list(size))
    for entry in list_caches(home, "images", **where):
        if (entry.recipe["images"], entry.recipe["fit"], list(entry.recipe["size"])) == wanted:
            yield entry.open()


def choose_datasets(
    home: Location, tasks: Sequence[str], dataset: str | None, backbones: Sequence[str]
) -> Mapping[str, list[str]]:
    """Dataset → the tasks to probe on it.

    Without ``dataset`` a task takes its own default dataset where features of it are cached, else the only cached
    dataset that has its annotation. Raises :class:`CacheMissError` with the extract command to run, or
    :class:`UsageError` where there are several, or where ``dataset`` is known to lack what a task needs.
    """
    entries, wanted = list_caches(home, "targets", dataset=dataset) if dataset else list_caches(home), set(backbones)
    with_features = {e.dataset for e in entries if e.kind == "features" and (not wanted or e.name in wanted)}
    chosen: dict[str, list[str]] = {}
    for name in tasks:
        task = get_task(name)
        if dataset:
            _require_compatible(task, dataset, {entry.name for entry in entries})
            chosen.setdefault(dataset, []).append(name)
            continue
        with_targets = {e.dataset for e in entries if e.kind == "targets" and e.name == task.annotations[0]}
        found = sorted(place for place in with_targets if images_owner(place) in with_features)
        if task.default_dataset not in found and len(found) > 1:
            raise UsageError(
                f"task {task.name}: its default dataset {task.default_dataset} is not cached in {home}, but "
                f"{' and '.join(found)} are: say which with --dataset"
            )
        if not found:
            others = [place for place in datasets_for(task) if place != task.default_dataset]
            more = f"; --dataset {listed(others, 'or')} would suit task {task.name} as well" if others else ""
            raise _nothing_cached(home, task.default_dataset, backbones, more)
        chosen.setdefault(task.default_dataset if task.default_dataset in found else found[0], []).append(name)
    return chosen


def choose_backbones(home: Location, dataset: str, backbones: Sequence[str], fields: Mapping[str, Any]) -> list[str]:
    """The backbones asked for, or every one whose features of ``dataset`` are cached with these recipe fields.

    They may have been extracted for another dataset of the same images. Raises :class:`CacheMissError` where none are.
    """
    if backbones:
        return list(backbones)
    wanted, owner = feature_fields(fields), images_owner(dataset)
    found = sorted({entry.name for entry in find_caches(home, "features", dataset=owner, fields=wanted)})
    if not found:
        raise _nothing_cached(home, dataset, backbones)
    return found


def _nothing_cached(home: Location, dataset: str, backbones: Sequence[str], more: str = "") -> CacheMissError:
    which = f"features of {','.join(backbones)}" if backbones else "features"
    options = {name: extract_options(name, model_of(home, name)) for name in backbones or [_SUGGESTED]}
    labels = [name for name, made_by in options.items() if "--weights" in made_by]
    models = [name for name in options if name not in labels]
    each = [f"--backbone {','.join(models)}"] if models else []
    each += [options[name] for name in labels]
    commands = listed([f"`deapcache extract {made_by} --dataset {dataset} --home {home}`" for made_by in each])
    if labels:
        more += f"; {listed(labels)}: no backbone's name here, so a checkpoint's: fill in what is in capitals"
    return CacheMissError(f"no {which} over {dataset} with its targets in {home}: make them with {commands}{more}")


def datasets_for(task: Task) -> list[str]:
    """Names of the registered datasets that suit a task, its default first, the others by name."""
    fitting = [name for name, entry in DATASETS if task.suits(entry.annotations, entry.classes)]
    return sorted(fitting, key=lambda name: (name != task.default_dataset, name))


def _require_compatible(task: Task, dataset: str, cached: Collection[str]) -> None:
    """Raise :class:`UsageError` where a dataset is known to lack what a task needs, and name those that have it.

    ``cached``: kinds of targets of the dataset that are there already. Nothing is said of a dataset that is not
    registered (a home may hold targets that another machine's plugin made) or whose annotations depend on its files.
    """
    entry = DATASETS.get(dataset) if dataset in DATASETS else None
    if entry is None or not entry.annotations or set(task.annotations) <= set(cached):
        return
    lacking = [kind for kind in task.annotations if kind not in entry.annotations]
    if not lacking:
        if entry.classes:
            task.heads(entry.classes)  # raises where they do not suit the task
        return
    kinds = f"annotation{'s' * (len(lacking) > 1)} {listed(lacking)}"
    fitting = datasets_for(task)
    instead = f"choose --dataset {listed(fitting, 'or')}" if fitting else "no registered dataset suits this task"
    raise UsageError(
        f"task {task.name} needs the {kinds}, and dataset {entry.name} has {listed(entry.annotations)}: {instead} "
        "(`deapcache list datasets`)"
    )
