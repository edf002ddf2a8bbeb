"""What to probe where the user does not say: dataset and backbones, from what the home holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deapcache.cache import CacheEntry, find_caches, list_caches
from deapcache.datasets import images_owner
from deapcache.errors import CacheMissError, UsageError
from deapcache.experiments.suitability import datasets_for, listed, require_suited
from deapcache.locations import Location
from deapcache.probing import feature_fields
from deapcache.tasks import Task, get_task

_SUGGESTED = "efficientnet-lite0-s16"
"""A backbone that needs no model hub: what an error suggests to extract first."""


def choose_datasets(
    home: Location, tasks: Sequence[str], dataset: str | None, backbones: Sequence[str]
) -> Mapping[str, list[str]]:
    """Dataset → the tasks to probe on it.

    Without ``dataset`` a task takes its own default dataset where features of it are cached, else the only cached
    dataset that has its annotation. Raises :class:`CacheMissError` with the extract command to run, or
    :class:`UsageError` where there are several, or where ``dataset`` is known to lack what a task needs.
    """
    entries = list_caches(home)
    chosen: dict[str, list[str]] = {}
    for name in tasks:
        task = get_task(name)
        if dataset:
            kinds = {e.name for e in entries if e.kind == "targets" and e.dataset == dataset}
            require_suited(task, dataset, kinds)
        place = dataset or _dataset_of(home, entries, task, backbones)
        chosen.setdefault(place, []).append(name)
    return chosen


def _dataset_of(home: Location, entries: Sequence[CacheEntry], task: Task, backbones: Sequence[str]) -> str:
    wanted = set(backbones)
    with_features = {e.dataset for e in entries if e.kind == "features" and (not wanted or e.name in wanted)}
    with_targets = {e.dataset for e in entries if e.kind == "targets" and e.name == task.annotations[0]}
    found = sorted(name for name in with_targets if images_owner(name) in with_features)
    if task.default_dataset in found:
        return task.default_dataset
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"task {task.name}: its default dataset {task.default_dataset} is not cached in {home}, but "
            f"{' and '.join(found)} are: say which with --dataset"
        )
    others = [name for name in datasets_for(task) if name != task.default_dataset]
    more = f"; --dataset {listed(others, 'or')} would suit task {task.name} as well" if others else ""
    raise _nothing_cached(home, task.default_dataset, backbones, more)


def choose_backbones(home: Location, dataset: str, backbones: Sequence[str], fields: Mapping[str, Any]) -> list[str]:
    """The backbones asked for, or every one whose features of ``dataset`` are cached with these recipe fields.

    They may have been extracted for another dataset of the same images. Raises :class:`CacheMissError` where none are.
    """
    if backbones:
        return list(backbones)
    wanted, owner = feature_fields(fields), images_owner(dataset)
    splits = {entry.split for entry in list_caches(home, "features") if entry.dataset == owner}
    fitting = [find_caches(home, "features", dataset=owner, split=split, fields=wanted) for split in splits]
    found = sorted({entry.name for entries in fitting for entry in entries})
    if not found:
        raise _nothing_cached(home, dataset, backbones)
    return found


def _nothing_cached(home: Location, dataset: str, backbones: Sequence[str], more: str = "") -> CacheMissError:
    names = ",".join(backbones) or _SUGGESTED
    which = f"features of {names}" if backbones else "features"
    return CacheMissError(
        f"no {which} over {dataset} with its targets in {home}: make them with "
        f"`deapcache extract --backbone {names} --dataset {dataset} --home {home}`{more}"
    )
