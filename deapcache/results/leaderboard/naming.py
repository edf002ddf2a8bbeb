"""Names for what differs between protocols and recipes, short enough for the head of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_LONGEST = 16
"""Characters of a value that are shown: a digest's first ones tell it apart as well."""

Identity = Mapping[str, Any]
"""``outer.inner`` → value."""


def differing(groups: Iterable[Sequence[Identity]]) -> list[str]:
    """The fields in which identities of one group differ, over all groups."""
    found: dict[str, None] = {}
    for group in groups:
        names = dict.fromkeys(name for identity in group for name in identity)
        found |= {name: None for name in names if any(one.get(name) != group[0].get(name) for one in group)}
    return list(found)


def told_apart(group: Sequence[Identity], fields: Sequence[str]) -> list[str]:
    """``lr 0.001, storage int8`` for each identity: these fields, by the last part of their names, with their values.

    Where such names are still equal for different identities of the group they are numbered.
    """
    texts = [", ".join(dict.fromkeys(_told(field, one[field]) for field in fields if field in one)) for one in group]
    return _numbered(texts, group)


def _told(field: str, value: Any) -> str:
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    cut = shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"
    return f"{field.rpartition('.')[2]} {cut}"


def _numbered(texts: Sequence[str], identities: Sequence[Identity]) -> list[str]:
    kinds: dict[str, list[Identity]] = {}
    for text, identity in zip(texts, identities, strict=True):
        known = kinds.setdefault(text, [])
        if identity not in known:
            known.append(identity)
    return [
        f"{text} #{kinds[text].index(identity) + 1}" if len(kinds[text]) > 1 else text
        for text, identity in zip(texts, identities, strict=True)
    ]
