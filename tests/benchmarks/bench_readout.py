"""A training step's readout, DeAP against the plain formula: time and peak memory by size of the feature grid.

usage: python -m tests.benchmarks.bench_readout [--quick]

Forward and backward for boundaries at 224×224. The plain formula is section 3 of the paper as one writes it down in
PyTorch: every step of it an operation on the whole batch, kept for autograd. Each figure comes from a process of its
own, since a process never gives its peak back.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from statistics import median

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from deapcache.machine import keep_freed_memory
from deapcache.readouts import build_readout
from deapcache.readouts.deap import Deap
from tests.benchmarks.figures import Figure

DIM = 768
OUTPUT = (224, 224)
BATCHES = {14: 8, 24: 8, 37: 4, 64: 2}
"""Images in a step by cells in a row: the plain formula of more does not fit into a small machine."""

STEPS = {14: 20, 24: 12, 37: 6, 64: 4}
"""Steps of a run, of which the best counts; the first ones fill caches and allocator."""

AIMS: dict[int, tuple[float | None, float | None]] = {14: (3, None), 64: (None, 0.25)}
"""Speed at least, memory at most, by cells in a row."""

PLAIN, PLAIN_KEPT, OURS = "plain formula", "plain, memory kept", "deapcache"
"""In the second, freed memory is used again: its new pages are most of what the first one spends its time on."""


@dataclass(frozen=True)
class Cost:
    """Of one step."""

    milliseconds: float
    """An image, the best of several steps."""
    megabytes: float
    """Above what the process held before the first step, at its highest."""
    loss: float
    """The same both ways, up to rounding."""


def attend(queries_SQK: Tensor, keys_BSNK: Tensor, values_BSNV: Tensor, mask_SQN: Tensor) -> Tensor:
    """Equation 2 for a whole batch, (B, S, Q, V)."""
    return (queries_SQK @ keys_BSNK.transpose(2, 3) + mask_SQN).softmax(-1) @ values_BSNV


def plain(
    readout: Deap,
    features_BHWD: Tensor,
    output: tuple[int, int] = OUTPUT,
    attend: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = attend,
) -> Tensor:
    """Section 3 of the paper for a whole batch, written down in PyTorch's operations; autograd does the rest."""
    side, grid, dim = output[0] // 8, features_BHWD.shape[1], features_BHWD.shape[3]
    regions, cells = (centres(count, features_BHWD.device) for count in (side, grid))
    standardised_BND = F.layer_norm(features_BHWD.flatten(1, 2), (dim,), eps=1e-10)
    codes_BNC = codes(cells).expand(len(features_BHWD), -1, -1)
    tokens_BNW = readout.norm(torch.cat([codes_BNC, standardised_BND], -1))
    assert readout.query is not None
    assert readout.key is not None
    queries_SQK = readout.query(codes(regions)).unflatten(-1, (8, -1)).transpose(0, 1) / math.sqrt(2)
    keys_BSNK, values_BSNV = (
        of(tokens_BNW).unflatten(-1, (8, -1)).transpose(1, 2) for of in (readout.key, readout.value)
    )
    sigma = readout.sigma()
    assert sigma is not None
    width = sigma[:, None, None]
    squares = ((regions[:, None] - cells) ** 2).sum(-1)
    mask_SQN = torch.exp(-squares / (2 * width**2)) / (width * math.sqrt(2 * math.pi))
    mixed_BSQV = attend(queries_SQK, keys_BSNK, values_BSNV, mask_SQN)
    x = readout.ffn(mixed_BSQV.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(2, (side, side))
    entered = x = readout.cnn.entry(x)
    for block in readout.cnn.steps():
        x = F.relu(block.upsampling(block.convolution(x)))
    skip = F.interpolate(readout.cnn.skip(entered), scale_factor=8, mode="bilinear", align_corners=False)
    return readout.cnn.final(x) + skip


def centres(side: int, device: torch.device) -> Tensor:
    """(side², 2) of a square grid on the unit square."""
    along = (torch.arange(side, device=device) + 0.5) / side
    return torch.cartesian_prod(along, along)


def codes(places: Tensor) -> Tensor:
    """(places, 8) sines and cosines at π and 2π of both coordinates."""
    y, x = places.T * math.pi
    angles = torch.stack([y, 2 * y, x, 2 * x], -1)
    return torch.cat([angles.sin(), angles.cos()], -1)


def measure(way: str, cells: int, repeats: int) -> Cost:
    """The cost of a step in this process."""
    readout = build_readout("deap", feature_dim=DIM, out_channels=1, grid=(cells, cells), seed=0)
    assert isinstance(readout, Deap)
    features = torch.randn(BATCHES[cells], cells, cells, DIM, generator=torch.Generator().manual_seed(0))
    forward = partial(readout, output_size=OUTPUT) if way == OURS else partial(plain, readout)
    seconds: list[float] = []
    with _Peak() as peak, keep_freed_memory() if way == PLAIN_KEPT else nullcontext():
        for _ in range(repeats):
            start = time.perf_counter()
            readout.zero_grad(set_to_none=True)
            loss = forward(features).square().mean()
            loss.backward()
            seconds.append(time.perf_counter() - start)
    return Cost(1e3 * min(seconds) / BATCHES[cells], peak.bytes / 1e6, float(loss.detach()))


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
    """All ways in turn, so many runs of each, each in a process of its own."""
    found: dict[str, list[Cost]] = {way: [] for way in (PLAIN, PLAIN_KEPT, OURS)}
    for way in list(found) * runs:
        command = [sys.executable, "-m", "tests.benchmarks.bench_readout", "--one", way, str(cells), str(repeats)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[way].append(Cost(*json.loads(answer)))
    for costs in found.values():
        torch.testing.assert_close(costs[0].loss, found[OURS][0].loss, rtol=1e-4, atol=0)
    return found


def main() -> list[Figure]:
    """Print all ways' costs and their ratios."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--one"]:
        cost = measure(arguments[1], int(arguments[2]), int(arguments[3]))
        print(json.dumps([cost.milliseconds, cost.megabytes, cost.loss]))
        return []
    quick = "--quick" in arguments
    print(f"{'':<16}{'':<20}{'ms an image':>12}{'deapcache: times as fast':>26}{'MB':>7}{'of its memory':>15}")
    figures: list[Figure] = []
    for cells in list(BATCHES)[: 1 if quick else None]:
        found = run(cells, *((1, 2) if quick else (3, STEPS[cells])))
        _print(cells, found)
        figures += _figures(cells, found)
    return figures


def _print(cells: int, found: dict[str, list[Cost]]) -> None:
    for way, costs in found.items():
        milliseconds, megabytes = (
            median(getattr(cost, kind) for cost in costs) for kind in ("milliseconds", "megabytes")
        )
        speed, memory = (median(ratios) for ratios in _ratios(costs, found[OURS]))
        label = f"{cells}×{cells}, batch {BATCHES[cells]}"
        print(f"{label:<16}{way:<20}{milliseconds:>12.1f}{speed:>26.1f}{megabytes:>7.0f}{memory:>15.2f}")


def _ratios(theirs: list[Cost], ours: list[Cost]) -> tuple[list[float], list[float]]:
    """How many times as fast ours are, and of how much of their memory, by run."""
    pairs = list(zip(theirs, ours, strict=True))
    return [a.milliseconds / b.milliseconds for a, b in pairs], [b.megabytes / a.megabytes for a, b in pairs]


def _figures(cells: int, found: dict[str, list[Cost]]) -> list[Figure]:
    figures = []
    for way, aims in ((PLAIN, AIMS.get(cells, (None, None))), (PLAIN_KEPT, (None, None))):
        speed, memory = _ratios(found[way], found[OURS])
        figures.append(Figure(what=f"readout, {cells}×{cells}: speed / {way}", ratios=speed, aim=aims[0]))
        what = f"readout, {cells}×{cells}: peak memory / {way}"
        figures.append(Figure(what=what, ratios=memory, aim=aims[1], at_most=True))
    return figures


if __name__ == "__main__":
    main()
