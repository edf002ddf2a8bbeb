"""A training step's readout, DeAP against the plain formula: time and peak memory by size of the feature grid.

usage: python -m tests.benchmarks.bench_readout [--quick]

Forward and backward for boundaries at 224×224, with everything else alike. The plain formula keeps logits and
probabilities of the whole batch. Each figure comes from a process of its own, since a process never gives its peak
back.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from statistics import median

import psutil
import torch
from torch import Tensor

from deapcache.readouts import build_readout, deap
from tests.benchmarks.figures import Figure

DIM = 768
OUTPUT = (224, 224)
BATCHES = {14: 8, 24: 8, 37: 4, 64: 2}
"""Images in a step by cells in a row: the plain formula of more does not fit into a small machine."""

AIMS: dict[int, tuple[float | None, float | None]] = {14: (3, None), 64: (None, 0.25)}
"""Speed at least, memory at most, by cells in a row."""

WAYS = ("plain", "deapcache")


@dataclass(frozen=True)
class Cost:
    """Of one step."""

    milliseconds: float
    """An image, the best of several steps."""
    megabytes: float
    """Above what the process held before the first step, at its highest."""


def plain_attention(rows_SRK: Tensor, columns_SCK: Tensor, bias_SQN: Tensor, k_BSNK: Tensor, v_BSNV: Tensor) -> Tensor:
    """softmax(q kᵀ + bias) v as it is written in the paper, equation 2."""
    queries_SQK = (rows_SRK[:, :, None] + columns_SCK[:, None]).flatten(1, 2)
    return (queries_SQK @ k_BSNK.transpose(2, 3) + bias_SQN).softmax(-1) @ v_BSNV


def measure(way: str, cells: int, repeats: int) -> Cost:
    """The cost of a step in this process."""
    if way == "plain":
        deap.attend_from_grid = plain_attention  # type: ignore[assignment]
        deap.suits = lambda *_: True  # whatever the size of the grid
    readout = build_readout("deap", feature_dim=DIM, out_channels=1, grid=(cells, cells), seed=0)
    features = torch.randn(BATCHES[cells], cells, cells, DIM)
    seconds: list[float] = []
    with _Peak() as peak:
        for _ in range(repeats):
            start = time.perf_counter()
            readout.zero_grad(set_to_none=True)
            readout(features, OUTPUT).square().mean().backward()
            seconds.append(time.perf_counter() - start)
    return Cost(1e3 * min(seconds) / BATCHES[cells], peak.bytes / 1e6)


class _Peak:
    """How much the process grows, looked at every millisecond."""

    def __enter__(self) -> _Peak:
        self._process, self._ended, self.bytes = psutil.Process(), threading.Event(), 0
        self._before = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.001):
            self.bytes = max(self.bytes, self._process.memory_info().rss - self._before)


def run(cells: int, runs: int, repeats: int) -> dict[str, list[Cost]]:
    """Both ways in turn, so many runs of each, each in a process of its own."""
    found: dict[str, list[Cost]] = {way: [] for way in WAYS}
    for way in WAYS * runs:
        command = [sys.executable, "-m", "tests.benchmarks.bench_readout", "--one", way, str(cells), str(repeats)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[way].append(Cost(*json.loads(answer)))
    return found


def main() -> list[Figure]:
    """Print both ways' costs and their ratios."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--one"]:
        cost = measure(arguments[1], int(arguments[2]), int(arguments[3]))
        print(json.dumps([cost.milliseconds, cost.megabytes]))
        return []
    quick = "--quick" in arguments
    print(
        f"{'':<14}{'ms an image: plain':>20}{'deapcache':>11}{'ratio':>7}{'MB: plain':>12}{'deapcache':>11}{'ratio':>7}"
    )
    figures: list[Figure] = []
    for cells, batch in list(BATCHES.items())[: 1 if quick else None]:
        plain, ours = run(cells, *((1, 2) if quick else (3, 6))).values()
        times = [theirs.milliseconds / mine.milliseconds for theirs, mine in zip(plain, ours, strict=True)]
        peaks = [mine.megabytes / theirs.megabytes for theirs, mine in zip(plain, ours, strict=True)]
        milliseconds = [median(cost.milliseconds for cost in costs) for costs in (plain, ours)]
        megabytes = [median(cost.megabytes for cost in costs) for costs in (plain, ours)]
        print(
            f"{cells}×{cells}, batch {batch:<3}{milliseconds[0]:>17.1f}{milliseconds[1]:>11.1f}{median(times):>7.1f}"
            f"{megabytes[0]:>12.0f}{megabytes[1]:>11.0f}{median(peaks):>7.2f}"
        )
        aims = AIMS.get(cells, (None, None))
        figures.append(Figure(what=f"readout, {cells}×{cells}: speed / plain formula", ratios=times, aim=aims[0]))
        what = f"readout, {cells}×{cells}: peak memory / plain formula"
        figures.append(Figure(what=what, ratios=peaks, aim=aims[1], at_most=True))
    return figures


if __name__ == "__main__":
    main()
