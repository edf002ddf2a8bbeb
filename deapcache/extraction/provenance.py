"""Provenance: which run filled which shards of a cache, and on what. It is no part of a recipe."""

from __future__ import annotations

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
from deapcache.machine import device_name, now, user_name, versions

_PACKAGES = ("deapcache", "torch", "timm", "open_clip_torch", "transformers", "numcodecs")

_SAVE_SECONDS = 30.0
"""Seconds between two saves of a record; the record of a killed run lacks what came after the last one."""


class ProvenanceRecord:
    """The record of one writer in a cache: ``facts``, the shards that it published, and when it ended.

    Use it as a context; a writer that an error or Ctrl-C ended has no ``finished``. Safe between threads.
    """

    def __init__(self, cache: Cache, writer: str, facts: Mapping[str, Any]) -> None:
        self._cache = cache
        self._writer = writer
        self._facts = {**facts, "shards": []}
        self._lock = threading.Lock()
        self._saved = time.monotonic()
        self._save()

    def __enter__(self) -> ProvenanceRecord:
        return self

    def __exit__(self, problem: object, *_: object) -> None:
        if problem is None:
            self._close({"finished": now()})
        else:
            with suppress(LocationError):  # the error under way is the one to report
                self._close({})

    def add(self, shard: int) -> None:
        """Record that the writer published ``shard``."""
        with self._lock:
            self._facts["shards"].append(shard)
            if time.monotonic() - self._saved > _SAVE_SECONDS:
                self._save()

    def _close(self, facts: Mapping[str, str]) -> None:
        with self._lock:
            self._facts = {**self._facts, **facts, "shards": sorted(self._facts["shards"])}
            self._save()

    def _save(self) -> None:
        self._cache.record_provenance(self._facts, writer=self._writer)
        self._saved = time.monotonic()


def provenance_facts(device: torch.device, batch_size: int) -> dict[str, Any]:
    """Device, batch size, host, user and versions of one run, as JSON."""
    return {
        "device": str(device),
        "device_name": device_name(device),
        "batch_size": batch_size,
        "host": platform.node(),
        "user": user_name(),
        "python": platform.python_version(),
        "versions": versions(*_PACKAGES),
        "started": now(),
    }


def new_writer_name() -> str:
    """A name for this run's provenance file that no other run has."""
    return f"{platform.node()}-{os.getpid()}-{time.time_ns()}"
