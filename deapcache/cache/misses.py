"""What to tell someone whose cache was not found, or was found twice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deapcache.locations import Location
from deapcache.recipe import SHORT

if TYPE_CHECKING:
    from deapcache.cache.listing import CacheEntry

SHOWN = 6
"""Caches, and groups of them, that a message lists."""

_LONGEST = 200
"""Characters of a value that is shown, such as a list of what was left out."""


def explain_miss(
    home: Location,
    wanted: str,
    fields: Mapping[str, Any],
    near: Sequence[tuple[list[str], CacheEntry]],
    listed: Sequence[CacheEntry],
    next_step: str,
) -> str:
    """The nearest caches and the fields in which they differ, or what there is instead.

    ``near`` holds the caches of the wanted name, each with the fields that do not fit, nearest first.
    """
    asked = f" with {', '.join(f'{name}={shown(value)}' for name, value in fields.items())}" if fields else ""
    lines = [f"{_nowhere(home)} {wanted}{asked}."]
    lines += [f"  near: {_named(home, entry)}, where {_as_found(entry, unfit)}" for unfit, entry in near[:SHOWN]]
    if not near:
        lines += _what_there_is(listed)
    if next_step:
        lines.append(next_step)
    return "\n".join(lines)


def explain_ambiguity(home: Location, wanted: str, fitting: Sequence[CacheEntry]) -> str:
    """All caches that fit, the fields in which they differ, and how to choose."""
    differing = differing_fields([entry.fields for entry in fitting])
    lines = [f"{_listed(home)} {len(fitting)} caches that fit {wanted}:"]
    lines += [f"  {_named(home, entry)}, where {_as_found(entry, differing)}" for entry in fitting]
    example = differing[0] if differing else "digest"
    lines.append(f"Choose with --where FIELD=VALUE, for example --where {example}={shown(_found(fitting[0], example))}")
    return "\n".join(lines)


def differing_fields(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields that do not have one value in all recipes, sorted."""
    names = sorted({name for recipe in recipes for name in recipe})
    return [name for name in names if any(recipe.get(name) != recipes[0].get(name) for recipe in recipes)]


def shown(value: Any) -> str:
    """A recipe value as ``--where`` takes it; digests are cut short."""
    if not isinstance(value, str):
        return json.dumps(value, separators=(",", ":"))
    head, colon, tail = value.rpartition(":")
    return f"{head}{colon}{tail[:SHORT]}" if len(tail) == 64 else value


def _nowhere(home: Location) -> str:
    own, *others = map(str, home.layers)
    return f"{own} has no" if not others else f"None of the homes {', '.join((own, *others))} has"


def _listed(home: Location) -> str:
    own, *others = map(str, home.layers)
    return f"{own} has" if not others else f"The homes {', '.join((own, *others))} have"


def _named(home: Location, entry: CacheEntry) -> str:
    """A cache as a message names it: with its home, where that is another than the one asked."""
    return entry.path if entry.home == home else str(entry.location)


def _what_there_is(listed: Sequence[CacheEntry]) -> list[str]:
    groups: dict[str, set[str]] = {}
    for entry in listed:
        groups.setdefault(f"{entry.dataset} {entry.split}", set()).add(entry.name)
    if not groups:
        return ["  It has no caches of this kind at all."]
    lines = [f"  there is: {group}: {', '.join(sorted(filter(None, names)))}" for group, names in groups.items()]
    return [line.rstrip(": ") for line in lines]


def _as_found(entry: CacheEntry, fields: Sequence[str]) -> str:
    told = (f"{field} is {_cut(shown(_found(entry, field)))}" for field in fields)
    return ", ".join(told) or f"digest is {entry.digest}"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _found(entry: CacheEntry, field: str) -> Any:
    return entry.digest if field == "digest" else entry.fields.get(field)
