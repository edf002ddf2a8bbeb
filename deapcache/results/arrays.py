"""Arrays with facts in one safetensors file: nothing in it is executed when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from deapcache.errors import NotAFileError, ResultsError
from deapcache.locations import Location
from deapcache.untrusted import parse_json

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
