"""What is noted beside a result: the name of the device, the versions of what ran, and the time."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def device_name(device: torch.device) -> str:
    """The name of a GPU; of a CPU its kind: ``NVIDIA H100 80GB HBM3``, ``x86_64``."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_kind()


def processor_kind() -> str:
    """What the platform calls its processor, as a rule the architecture alone."""
    return platform.processor() or platform.machine()


def processor_model() -> str:
    """The processor's maker and model where the system tells them (Linux), else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else processor_kind()


def versions(*packages: str) -> dict[str, str]:
    """Package → its version, of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # e.g. a reader's machine without timm
            continue
    return found


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
