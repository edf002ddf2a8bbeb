"""Small files of a home, JSON and arrays, which anybody may have written: which count, and what is in them."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from deapcache.errors import NotAFileError, ResultsError
from deapcache.locations import Location
from deapcache.untrusted import first_problem, is_hidden, parse_json

MOST_BYTES = 4_000_000
"""Of a result, a speed and the like; a result with a thousand class names has about 50,000."""

_RUN = re.compile(r"[A-Za-z0-9_@-][A-Za-z0-9._@-]*-[0-9a-f]{12}")
"""How :func:`deapcache.results.record.run_id` names a run."""
_NAMED = 5


def files_in(home: Location, folder: str, ending: str) -> list[str]:
    """Names, without ``ending``, of the files that lie in a folder of the home itself and have that ending; sorted.

    Those in folders below do not count, with a warning.
    """
    found = keys_below(home, folder, ending)
    warn_of_strays(home, [key for key in found if key.count("/") > 1], f"only files in {folder}/ itself are")
    return [key.removeprefix(f"{folder}/").removesuffix(ending) for key in found if key.count("/") == 1]


def keys_below(home: Location, folder: str, ending: str) -> list[str]:
    """The keys anywhere below a folder that have that ending, but for hidden ones.

    File managers, editors and programs that synchronise leave names with a dot in front: ``._NAME``,
    ``.ipynb_checkpoints/NAME``.
    """
    return [key for key in home.keys(folder) if key.endswith(ending) and not is_hidden(key)]


def runs_in(home: Location, folder: str, ending: str) -> list[str]:
    """The names of :func:`files_in` that are names of runs; others, such as copies, are left out with a warning."""
    names = files_in(home, folder, ending)
    strays = [f"{folder}/{name}{ending}" for name in names if not _RUN.fullmatch(name)]
    warn_of_strays(home, strays, "its name is not that of a run")
    return [name for name in names if _RUN.fullmatch(name)]


def warn_of_strays(home: Location, keys: list[str], why: str) -> None:
    """One warning that names files which are not counted; none where there are none."""
    if keys:
        more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
        warnings.warn(f"not counted in {home}: {', '.join(keys[:_NAMED])}{more}: {why}; move it away", stacklevel=4)


class SchemaError(ValueError):
    """A document was written by another version."""


def read_checked(home: Location, key: str, model: TypeAdapter[Any], *, schema: int, again: str) -> dict[str, Any]:
    """The JSON object ``key``, which ``model`` accepts; raises ``FileNotFoundError``.

    Raises :class:`ResultsError` that names the file, what is wrong with it, and how it is made ``again``.
    """
    try:
        return checked(home.read(key, most=MOST_BYTES), model, schema=schema)
    except SchemaError as error:
        raise ResultsError(f"{home}/{key} cannot be read: {error}: upgrade, or move the file away") from None
    except (NotAFileError, ValueError) as error:
        raise ResultsError(f"{home}/{key} is not what deapcache writes: {error}; delete it, or {again}") from None


def checked(data: bytes, model: TypeAdapter[Any], *, schema: int) -> dict[str, Any]:
    """The JSON object in ``data``, as it is, where ``model`` accepts it; raises ``ValueError`` that says why not."""
    document = parse_json(data)
    found = document.get("schema") if isinstance(document, dict) else None
    if type(found) is int and found != schema:
        raise SchemaError(f"its schema is {found}, this deapcache reads {schema}")
    try:
        model.validate_json(data, strict=True)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None
    return dict(document)


_METADATA = "deapcache"


def pack_arrays(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any] | None = None) -> bytes:
    """A safetensors file of ``arrays`` with ``facts`` as JSON in its metadata."""
    metadata = {_METADATA: json.dumps(facts or {}, ensure_ascii=False)}
    return bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata))


def unpack_arrays(home: Location, key: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What :func:`pack_arrays` put into ``key``; raises :class:`ResultsError` where it is absent or damaged."""
    try:
        return parse_arrays(home.read(key))
    except FileNotFoundError:
        raise ResultsError(f"{home} has no {key}: run the probe that makes it again") from None
    except (SafetensorError, NotAFileError, ValueError) as error:
        raise ResultsError(f"{home}/{key} is damaged: {error}; run the probe that made it again") from None


def parse_arrays(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What :func:`pack_arrays` made; raises ``SafetensorError`` or ``ValueError``."""
    try:
        arrays = load(data)
    except KeyError as error:  # a type of numbers that numpy does not have
        raise ValueError(f"it holds numbers of type {error}") from None
    # the file begins with the length of its JSON header; `load` checked both, but does not hand the metadata out
    length = int.from_bytes(data[:8], "little")
    metadata = parse_json(data[8 : 8 + length]).get("__metadata__", {})
    facts = parse_json(metadata.get(_METADATA, "{}").encode())
    if not isinstance(facts, dict):
        raise ValueError("the facts beside its arrays are no JSON object")
    return arrays, facts
