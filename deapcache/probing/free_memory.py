"""How much memory is free now: of this host, within the limits that a cluster's scheduler sets, and of a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from deapcache.machine import control_groups

_RECLAIMED = "inactive_file"
"""What a control group counts as used though it gives it up first: file pages that were not touched for a while."""


@dataclass(frozen=True, kw_only=True)
class FreeMemory:
    """Bytes."""

    host: int
    device: int | None
    """Of the GPU; ``None`` where training runs on a device that shares the host's memory, such as the CPU."""


def free_memory(device: torch.device) -> FreeMemory:
    """What is free on this host and, where it is a CUDA device, on ``device``."""
    on_device = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    return FreeMemory(host=free_host_memory(), device=on_device)


def free_host_memory(root: Path = Path("/")) -> int:
    """Bytes that this process can take without swapping, and without passing the limit of any of its control groups.

    Slurm, Kubernetes and Docker limit a job's memory by such a group (``memory.max``, or ``memory.limit_in_bytes`` of
    the first version), and end a job that passes it, however much the machine has left. ``root`` is where ``proc`` and
    ``sys`` lie.
    """
    groups = control_groups("memory", root)
    return max(0, min([_of_machine(root), *(room for group in groups for room in _rooms(group))]))


def _of_machine(root: Path) -> int:
    """What Linux says is available, page cache that it would give up included; elsewhere what the system tells."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        facts = dict(line.split(":", 1) for line in lines)
        return 1024 * int(facts["MemAvailable"].split()[0])
    except (OSError, ValueError, KeyError):
        # macOS does not tell what is available, only what is there
        pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
        return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def _rooms(group: Path) -> Iterator[int]:
    """Bytes left below each limit of one group."""
    for limits, used, reclaimed in (
        (("memory.max", "memory.high"), "memory.current", _RECLAIMED),
        (("memory.limit_in_bytes",), "memory.usage_in_bytes", f"total_{_RECLAIMED}"),
    ):
        for limit in limits:
            most, now = _number(group / limit), _number(group / used)
            if most is not None and now is not None:
                yield most - now + _statistic(group / "memory.stat", reclaimed)


def _number(file: Path) -> int | None:
    """``None`` where there is no such file or no limit (``max``)."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _statistic(file: Path, name: str) -> int:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)
