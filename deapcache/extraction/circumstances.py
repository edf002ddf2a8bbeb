"""Provenance: what happened while a cache was filled, and is no part of what it is."""

from __future__ import annotations

import getpass
import os
import platform
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch

from deapcache.cache import Cache
from deapcache.errors import LocationError
from deapcache.machine import device_name, now, versions

_PACKAGES = ("deapcache", "torch", "timm", "open_clip_torch", "numcodecs")


_SAVED_EVERY = 30.0
"""Seconds after which a writer's record is brought up to date; a killed one lacks what came after."""


class Record:
    """What one writer says of its work on a cache: ``facts``, the shards that it published, and when it ended.

    Used as a context; ``finished`` is left out where an error or Ctrl-C ended it.
    """

    def __init__(self, cache: Cache, writer: str, facts: Mapping[str, Any]) -> None:
        self._cache = cache
        self._writer = writer
        self._facts = {**facts, "shards": []}
        self._lock = threading.Lock()
        self._saved = time.monotonic()
        self._save()

    def __enter__(self) -> Record:
        return self

    def __exit__(self, problem: object, *_: object) -> None:
        if problem is None:
            self._close({"finished": now()})
        else:
            with suppress(LocationError):  # what went wrong is told by the error that is under way
                self._close({})

    def add(self, shard: int) -> None:
        """Note a published shard."""
        with self._lock:
            self._facts["shards"].append(shard)
            if time.monotonic() - self._saved > _SAVED_EVERY:
                self._save()

    def _close(self, facts: Mapping[str, str]) -> None:
        with self._lock:
            self._facts = {**self._facts, **facts, "shards": sorted(self._facts["shards"])}
            self._save()

    def _save(self) -> None:
        self._cache.record_provenance(self._facts, writer=self._writer)
        self._saved = time.monotonic()


def circumstances(device: torch.device, batch_size: int) -> dict[str, Any]:
    """Device, batch size, host, user and versions of one extraction run, as JSON."""
    return {
        "device": str(device),
        "device_name": device_name(device),
        "batch_size": batch_size,
        "host": platform.node(),
        "user": _user(),
        "python": platform.python_version(),
        "versions": versions(*_PACKAGES),
        "started": now(),
    }


def new_writer_name() -> str:
    """A name for this run's provenance file that no other run has."""
    return f"{platform.node()}-{os.getpid()}-{time.time_ns()}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return str(os.getuid())
