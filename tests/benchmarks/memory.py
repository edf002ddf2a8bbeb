"""Resident memory of a process, as Linux counts it; imports nothing that would count itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

MEBIBYTE = 2**20


def resident(name: str) -> float:
    """Mebibytes of this process: ``VmRSS`` now, ``VmHWM`` at its highest.

    Not ``ru_maxrss``, which a new process inherits from the one that starts it.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def environment() -> dict[str, str]:
    """For a new process: it finds the same modules, these benchmarks too."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
