"""What others have written: JSON within limits, and text that may be shown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

LARGEST_WHOLE = 2**63 - 1
"""Larger whole numbers are none that deapcache writes; Python computes with any, and slowly."""

_ESCAPE = r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[ -/]*[0-~])?|\x9b[0-?]*[ -/]*[@-~]"
"""What a terminal takes for a command (ECMA-48): CSI, OSC and other strings, and two-character sequences."""
_DIRECTIONS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""Marks, embeddings, overrides and isolates that change the order in which characters are shown."""
_OTHERS = f"\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff{_DIRECTIONS}"

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_UNPRINTABLE = re.compile(f"{_ESCAPE}|[{_OTHERS}]")
_IN_JSON = re.compile(f"[{_OTHERS}]")


def is_hidden(key: str) -> bool:
    """Whether a part of the key begins with a dot, which no file of deapcache's does."""
    return any(part.startswith(".") and part not in (".", "..") for part in key.split("/"))


def printable(text: str) -> str:
    """``text`` as it may go to a terminal, a table or a page: a ``?`` for each control sequence and direction mark.

    Line feeds and tabs stay.
    """
    return _UNPRINTABLE.sub("?", text)


def printable_json(text: str) -> str:
    """A JSON document in which the same characters are written as escapes, so that it says the same."""
    return _IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def require_printable(claimed: Any) -> None:
    """Raise ``ValueError`` for text anywhere in JSON that would move a terminal's cursor, or is no Unicode."""
    if isinstance(claimed, dict):
        require_printable([*claimed, *claimed.values()])
    elif isinstance(claimed, list):
        for each in claimed:
            require_printable(each)
    elif isinstance(claimed, str) and _CONTROL.search(claimed):
        raise ValueError(f"it has control characters in {shorten(claimed)}")


def parse_json(data: bytes) -> Any:
    """JSON as the standard has it, nested 200 deep at most, with numbers that are finite and no larger than int64.

    Raises ``ValueError``, for whatever is wrong.
    """
    from pydantic_core import from_json

    found = from_json(data, allow_inf_nan=False)
    _require_numbers([found])
    return found


def _require_numbers(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, dict):
            _require_numbers(value.values())
        elif isinstance(value, list):
            _require_numbers(value)
        elif isinstance(value, float) and not math.isfinite(value):  # such as 1e999
            raise ValueError("a number in it is larger than any that can be computed with")
        elif isinstance(value, int) and abs(value) > LARGEST_WHOLE:
            raise ValueError("a whole number in it is larger than any that deapcache writes")


def first_problem(error: ValidationError) -> str:
    """Of what a pydantic model found wrong the first, in one line: ``cost.train: input should be a valid number``."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"][:1].lower() + first["msg"][1:]
    found = "" if first["type"] in ("missing", "json_invalid") else f", found {shorten(first['input'])}"
    return f"{place}: {message}{found}" if place else f"{message}{found}"


def shorten(claimed: Any) -> str:
    """For a message: what was claimed, cut where it is long."""
    text = repr(claimed)
    return text if len(text) <= 80 else f"{text[:80]}…"
