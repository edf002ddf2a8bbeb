"""Provenance: what happened while a cache was filled, and is no part of what it is."""

from __future__ import annotations

import getpass
import os
import platform
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

_PACKAGES = ("deapcache", "torch", "timm", "open_clip_torch", "tensorstore")


def circumstances(device: torch.device, batch_size: int, shards: Sequence[int]) -> dict[str, Any]:
    """Device, batch size, host, user and versions of one extraction run, as JSON."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": str(device),
        "device_name": name,
        "batch_size": batch_size,
        "shards": list(shards),
        "host": platform.node(),
        "user": _user(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in _PACKAGES},
        "started": now(),
    }


def new_writer_name() -> str:
    """A name for this run's provenance file that no other run has."""
    return f"{platform.node()}-{os.getpid()}-{time.time_ns()}"


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return str(os.getuid())
