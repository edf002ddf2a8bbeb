"""What the value of one key must be; each check returns the value as the parsed pipeline holds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from deapcache.errors import PipelineError, UsageError
from deapcache.experiments.pipelines.document import Document, KeyPath, shown

Check = Callable[[Document, KeyPath, Any], Any]
"""Raises :class:`PipelineError` that says what was expected and what was found."""

Lookup = Callable[[str], str]
"""The name by which a thing is known; raises :class:`UsageError` where there is no such thing."""


def text(document: Document, path: KeyPath, value: Any) -> str:
    """Some text."""
    if isinstance(value, str) and value.strip():
        return value
    raise _wrong(document, path, "text", value)


def one_of(*choices: str) -> Check:
    """One of a few words."""

    def check(document: Document, path: KeyPath, value: Any) -> str:
        if isinstance(value, str) and value in choices:
            return value
        raise _wrong(document, path, f"one of {', '.join(choices)}", value)

    return check


def known(lookup: Lookup) -> Check:
    """A name that ``lookup`` knows."""

    def check(document: Document, path: KeyPath, value: Any) -> str:
        name = text(document, path, value)
        try:
            return lookup(name)
        except UsageError as error:
            raise document.error(path, str(error)) from None

    return check


def whole_number(least: int, most: int = 2**31 - 1) -> Check:
    """A whole number from ``least`` to ``most``."""
    expected = f"a whole number of {least} or more"

    def check(document: Document, path: KeyPath, value: Any) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and value > most:
            raise _wrong(document, path, f"a whole number from {least} to {most}", value)
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return value
        raise _wrong(document, path, expected, value)

    return check


def or_nothing(check: Check) -> Check:
    """The same, or an empty value: what is not given."""
    return lambda document, path, value: None if value is None else check(document, path, value)


def positive_number(document: Document, path: KeyPath, value: Any) -> float:
    """A number above 0."""
    # YAML 1.1 reads 1e-3, which has no dot, as text
    try:
        found = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else 0.0
    except (ValueError, OverflowError):
        found = 0.0
    if 0 < found < float("inf"):
        return found
    raise _wrong(document, path, "a number above 0", value)


def items(check: Check, example: str) -> Check:
    """A list of one or more, all different; one value may stand without its brackets."""

    def check_all(document: Document, path: KeyPath, value: Any) -> tuple[Any, ...]:
        if value is None or value == [] or isinstance(value, Mapping):
            found = "an empty list" if value == [] else shown(value)
            raise document.error(path, f"expected a list such as {example}, found {found}")
        if not isinstance(value, list):
            return (check(document, path, value),)
        checked = [check(document, (*path, place), item) for place, item in enumerate(value)]
        for place, item in enumerate(checked):
            if item in checked[:place]:
                raise document.error((*path, place), f"{shown(item)} is in the list twice: remove one")
        return tuple(checked)

    return check_all


def fields(document: Document, path: KeyPath, value: Any) -> dict[str, str]:
    """Names and their values, as text."""
    if not isinstance(value, Mapping):
        raise _wrong(document, path, "names with values such as {weights: 0a1b2c3d4e5f}", value)
    for name, item in value.items():
        if not isinstance(item, str | int | float | bool):
            raise _wrong(document, (*path, str(name)), "one value", item)
    return {str(name): str(item).lower() if isinstance(item, bool) else str(item) for name, item in value.items()}


def _wrong(document: Document, path: KeyPath, expected: str, value: Any) -> PipelineError:
    return document.error(path, f"expected {expected}, found {shown(value)}")
