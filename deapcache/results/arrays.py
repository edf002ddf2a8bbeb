"""Arrays with facts in one safetensors file: nothing in it is executed when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from deapcache.errors import ResultsError
from deapcache.locations import Location

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
    except SafetensorError as error:
        raise ResultsError(f"{home}/{key} is damaged: {error}; run the probe that made it again") from None


def parse_arrays(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What :func:`pack_arrays` made; raises ``SafetensorError``, or ``ValueError`` and the like for odd facts."""
    arrays = load(data)
    return arrays, json.loads(_header(data).get("__metadata__", {}).get(_METADATA, "{}"))


def _header(data: bytes) -> dict[str, Any]:
    # the file begins with the length of its JSON header; `load` checked both, but does not hand the metadata out
    length = int.from_bytes(data[:8], "little")
    return dict(json.loads(data[8 : 8 + length]))
