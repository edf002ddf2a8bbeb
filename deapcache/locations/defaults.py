"""What a lab has agreed on for one home: ``deapcache.toml`` in it, which its members' commands take as defaults.

.. code:: toml

    read-homes = ["/lab/deap"]

    [extract]
    dtype = "int8"
    precision = "bf16"
    compress = true
    views = "original,hflip"

    [prune]
    older-than = "180d"
    used-by = ["/home/ada/deap"]

What the command line or the environment says goes before.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import Any

from deapcache.errors import NotAFileError, UsageError
from deapcache.locations.base import Location
from deapcache.locations.web import WebLocation

DEFAULTS_KEY = "deapcache.toml"
_MOST_BYTES = 100_000

_KINDS: dict[str, dict[str, type]] = {
    "": {"read-homes": list},
    "extract": {"dtype": str, "precision": str, "compress": bool, "views": str},
    "prune": {"older-than": str, "used-by": list},
}
"""Table → key → what it holds; lists are of texts."""


@dataclass(frozen=True)
class HomeDefaults:
    """The defaults of a home, as ``table.key``; empty where it has none."""

    place: str
    """Of the file."""
    values: dict[str, Any]

    def get(self, name: str, otherwise: Any = None) -> Any:
        """The value of ``extract.dtype`` and the like."""
        return self.values.get(name, otherwise)

    def __str__(self) -> str:
        return ", ".join(f"{name} = {value}" for name, value in self.values.items())


def home_defaults(home: Location) -> HomeDefaults:
    """What ``deapcache.toml`` of a home says, that of a web server nothing: nothing is written there.

    Raises :class:`UsageError` for anything that it cannot mean.
    """
    place = f"{home}/{DEFAULTS_KEY}"
    if isinstance(home.layers[0], WebLocation):
        return HomeDefaults(place, {})
    try:
        document = tomllib.loads(home.read(DEFAULTS_KEY, most=_MOST_BYTES).decode())
    except FileNotFoundError:
        return HomeDefaults(place, {})
    except (NotAFileError, ValueError) as error:
        raise UsageError(f"{place} cannot be read as TOML: {error}; ask whoever looks after that home") from None
    tables = {"": {name: value for name, value in document.items() if name not in _KINDS}}
    tables |= {name: document[name] for name in _KINDS if name in document}
    values: dict[str, Any] = {}
    for table, found in tables.items():
        if not isinstance(found, dict):
            raise UsageError(f"{place}: {table} is {found!r}, expected a table: [{table}]")
        for key, value in found.items():
            name = f"{table}.{key}".lstrip(".")
            _require_kind(place, name, value, _KINDS[table].get(key))
            values[name] = value
    return HomeDefaults(place, values)


def _require_kind(place: str, name: str, value: Any, kind: type | None) -> None:
    known = [f"{table}.{key}".lstrip(".") for table, keys in _KINDS.items() for key in keys]
    if kind is None:
        raise UsageError(f"{place} has {name}, which means nothing: it may have {', '.join(known)}")
    texts = value if kind is list and isinstance(value, list) else [""]
    if type(value) is not kind or not all(isinstance(text, str) for text in texts):
        words = {list: "a list of texts", str: "a text", bool: "true or false"}
        raise UsageError(f"{place}: {name} is {value!r}, expected {words[kind]}")
