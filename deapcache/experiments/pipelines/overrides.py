"""``--set key=value``: a pipeline's document with some of its values replaced."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from deapcache.errors import PipelineError, UsageError
from deapcache.experiments.pipelines.document import Document, KeyPath, read_yaml, unknown_key, written
from deapcache.experiments.pipelines.schema import LISTS, PIPELINE, PROBE

_FREE = ("where", "choices")
"""Keys that hold names of the user's own."""


def override(document: Document, settings: Sequence[str]) -> Document:
    """The document with each ``key=value`` put in; values are YAML, and lists may be written ``0,1,2``.

    A key is one of the pipeline (``seeds``) or of one probe (``probes.0.limit``). Raises :class:`UsageError` for what
    has no ``=``, and :class:`PipelineError` for a key that a pipeline does not have.
    """
    if not settings or not isinstance(document.value, dict):
        return document
    value = copy.deepcopy(document.value)
    places = dict(document.places)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not (key and equals):
            raise UsageError(f"--set takes KEY=VALUE such as seeds=0,1 or probes.0.limit=64, found {setting!r}")
        path = _path(key.strip(), value, setting)
        _put(value, path, _value(path, text, setting))
        places = {at: place for at, place in places.items() if at[: len(path)] != path} | {path: f"--set {setting}"}
    return replace(document, value=value, places=places)


def _path(key: str, value: dict[str, Any], setting: str) -> KeyPath:
    first, *rest = key.split(".")
    if first != "probes" or not rest:
        return _known(first, rest, (), [*PIPELINE, "probes"], setting)
    probes = value.get("probes")
    count = len(probes) if isinstance(probes, list) else 0
    if not rest[0].isdecimal() or int(rest[0]) >= count:
        raise _refusal(setting, f"there is no probes.{rest[0]}: the pipeline has {count}, probes.0 is the first")
    place = int(rest[0])
    if len(rest) == 1:
        return "probes", place
    return _known(rest[1], rest[2:], ("probes", place), PROBE, setting)


def _known(name: str, rest: list[str], above: KeyPath, known: Iterable[str], setting: str) -> KeyPath:
    if name not in known:
        raise _refusal(setting, unknown_key(name, known))
    if rest and (name not in _FREE or len(rest) > 1):
        raise _refusal(setting, f"{written((*above, name))} holds no further keys: set it as a whole")
    return (*above, name, *rest)


def _value(path: KeyPath, text: str, setting: str) -> Any:
    is_list = path[-1] in LISTS and not text.lstrip().startswith("[")
    return read_yaml(f"[{text}]" if is_list else text, f"--set {setting}")[1]


def _put(value: dict[str, Any], path: KeyPath, new: Any) -> None:
    holder: Any = value
    for part in path[:-1]:
        inner = holder.setdefault(part, {}) if isinstance(holder, dict) else holder[part]
        if not isinstance(inner, dict | list):
            raise PipelineError(f"{written(path)} cannot be set: {part} holds {inner!r}")
        holder = inner
    holder[path[-1]] = new


def _refusal(setting: str, problem: str) -> PipelineError:
    return PipelineError(f"--set {setting}: {problem}")
