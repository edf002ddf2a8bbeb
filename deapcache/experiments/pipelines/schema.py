"""The keys of a pipeline file, and how a document that has them becomes a :class:`Pipeline`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deapcache.backbones import AUTOCAST, describe
from deapcache.cache import STORAGE_FORMATS, VIEWS
from deapcache.errors import UsageError
from deapcache.experiments.pipelines.checks import (
    Check,
    fields,
    items,
    known,
    one_of,
    or_nothing,
    positive_number,
    text,
    whole_number,
)
from deapcache.experiments.pipelines.document import Document, KeyPath, shown, unknown_key
from deapcache.experiments.pipelines.pipeline import Pipeline, ProbeSpec
from deapcache.extraction import ON_ERROR
from deapcache.probing import ProbeConfig
from deapcache.readouts import canonical_readout
from deapcache.regions import FITS, SQUASH
from deapcache.results import LAYOUTS, PLAIN
from deapcache.tasks import get_task
from deapcache.untrusted import LARGEST_WHOLE


def _backbone(name: str) -> str:
    return describe(name).name


def _task(name: str) -> str:
    return get_task(name).name


def _views(document: Document, path: KeyPath, value: Any) -> tuple[str, ...]:
    found = items(one_of(*VIEWS), "[original, hflip]")(document, path, value)
    try:
        return ProbeConfig(views=found).views
    except UsageError as error:
        raise document.error(path, str(error)) from None


SHARED: Mapping[str, Check] = {
    "backbones": items(known(_backbone), "[dinov2, mae]"),
    "readouts": items(known(canonical_readout), "[deap, no-sigma]"),
    "seeds": items(whole_number(0, LARGEST_WHOLE), "[0, 1, 2]"),
    "iterations": or_nothing(whole_number(1)),
    "batch_size": whole_number(1),
    "lr": items(positive_number, "[0.001, 0.0003]"),
    "limit": or_nothing(whole_number(1)),
    "upsampler": or_nothing(text),
    "views": _views,
}
"""What a pipeline says for all its probes, and a probe for itself."""

PROBE: Mapping[str, Check] = {
    "tasks": items(known(_task), "[voc, depth]"),
    "dataset": text,
    "choices": fields,
    **SHARED,
}

PIPELINE: Mapping[str, Check] = {
    "name": text,
    "description": text,
    "layout": items(one_of(PLAIN, *LAYOUTS), "[plain, table5]"),
    "fit": one_of(*FITS),
    "storage": one_of(*STORAGE_FORMATS),
    "precision": one_of(*AUTOCAST),
    "on_error": one_of(*ON_ERROR),
    "where": fields,
    **SHARED,
}
"""All but ``probes``."""

LISTS = ("layout", "backbones", "tasks", "readouts", "seeds", "lr", "views")
"""Keys that hold lists."""


def parse_pipeline(document: Document) -> Pipeline:
    """The pipeline that a document describes; raises :class:`PipelineError` for the first thing that is wrong."""
    if not isinstance(document.value, dict):
        raise document.error((), f"expected keys such as `backbones` and `probes`, found {shown(document.value)}")
    given = dict(document.value)
    probes = given.pop("probes", None)
    top = _checked(document, (), given, PIPELINE, [*PIPELINE, "probes"])
    if not isinstance(probes, list) or not probes:
        raise document.error(("probes",), f"expected a list of what to probe, found {shown(probes)}")
    return Pipeline(
        name=top.get("name", Path(document.source).stem),
        source=document.source,
        description=top.get("description", ""),
        layouts=top.get("layout", (PLAIN,)),
        probes=tuple(_probe(document, ("probes", place), probe, top) for place, probe in enumerate(probes)),
        fit=top.get("fit", SQUASH),
        storage=top.get("storage", "float16"),
        precision=top.get("precision", "fp32"),
        on_error=top.get("on_error", "stop"),
        where=top.get("where", {}),
    )


def _checked(
    document: Document, path: KeyPath, given: Mapping[Any, Any], checks: Mapping[str, Check], names: list[str]
) -> dict[str, Any]:
    for name in given:
        if name not in checks:
            raise document.error((*path, str(name)), unknown_key(name, names))
    return {name: checks[name](document, (*path, name), value) for name, value in given.items()}


def _probe(document: Document, path: KeyPath, value: Any, top: Mapping[str, Any]) -> ProbeSpec:
    if not isinstance(value, dict):
        raise document.error(path, f"expected keys such as `tasks` and `dataset`, found {shown(value)}")
    own = _checked(document, path, value, PROBE, list(PROBE))
    found = {name: top[name] for name in SHARED if name in top} | own
    for name in ("tasks", "dataset", "backbones"):
        if name not in found:
            also = ", here or for the whole pipeline" if name in SHARED else ""
            raise document.error(path, f"{name} is missing: say which{also}")
    return ProbeSpec(
        tasks=found["tasks"],
        dataset=found["dataset"],
        backbones=found["backbones"],
        readouts=found.get("readouts", ("deap",)),
        seeds=found.get("seeds", (0,)),
        options=_options(found, _task_options(document, path, found)),
    )


def _options(found: Mapping[str, Any], task_options: Mapping[str, Mapping[str, str]]) -> ProbeConfig:
    named = {"iterations": "iterations", "batch_size": "batch_size", "lr": "lrs", "views": "views"}
    given = {option: found[name] for name, option in named.items() if name in found}
    limit, upsampler = found.get("limit"), found.get("upsampler")
    return ProbeConfig(
        train_limit=limit,
        val_limit=limit,
        upsampler=None if upsampler is None else Path(upsampler),
        task_options=task_options,
        **given,
    )


def _task_options(document: Document, path: KeyPath, found: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    choices = found.get("choices", {})
    for task in found["tasks"]:
        try:
            get_task(task, choices)
        except UsageError as error:
            raise document.error((*path, "choices"), str(error)) from None
    return dict.fromkeys(found["tasks"], choices) if choices else {}
