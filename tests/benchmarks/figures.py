"""What a benchmark found, as ratios to named alternatives of the same run, and the table of all of them."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import median

import psutil
import torch

_PACKAGES = ("deapcache", "torch", "numpy", "zarr", "tensorstore")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One ratio, by repeat."""

    what: str
    """``read: default codec / numpy memmap``: ours over the alternative, in what the benchmark measures."""
    ratios: Sequence[float]
    aim: float | None = None
    """What the median should reach; ``None``: there is no aim, the figure is for comparison."""
    at_most: bool = False
    """Whether less is better."""

    @property
    def reached(self) -> bool | None:
        """Whether the median does what it should."""
        if self.aim is None:
            return None
        return median(self.ratios) <= self.aim if self.at_most else median(self.ratios) >= self.aim

    def row(self, judged: bool) -> str:
        """One line of the table."""
        low, middle, high = min(self.ratios), median(self.ratios), max(self.ratios)
        aim = "" if self.aim is None else f"{'at most' if self.at_most else 'at least'} {self.aim:g}"
        verdict = {None: "", True: "reached", False: "missed"}[self.reached if judged else None]
        return f"{self.what:<70}{low:>8.2f}{middle:>8.2f}{high:>8.2f}   {aim:<14}{verdict}"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Repeat by repeat, so that a busy moment of the machine counts on both sides."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def print_table(figures: Sequence[Figure], *, judged: bool) -> None:
    """All figures, below the machine and the versions that they are of; ``judged``: whether their aims are reached."""
    print(f"{datetime.now(UTC).date()}: {describe_machine()}")
    print(f"{'ratio to the alternative named after the slash':<70}{'min':>8}{'median':>8}{'max':>8}   aim")
    for figure in figures:
        print(figure.row(judged))


def describe_machine() -> str:
    """Processor, memory, GPU and versions, in one line."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    memory = psutil.virtual_memory().total / 2**30
    versions = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    machine = f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB, {gpu}"
    return f"{machine}; Python {platform.python_version()}, {versions}"
