"""Training from the cache against the same training on arrays in memory: images a second, and their ratio.

usage: python -m tests.benchmarks.bench_probe [--quick] [--device cuda]

One DeAP readout learns boundaries at 224×224 from float16 features that are streamed from the cache (page cache warm),
and from NumPy arrays that hold the same features and targets: the loop is the same, and the second way has nothing to
read. Both ways take turns. The first steps are left out, and so are the last ones, for which nothing is read any more.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import torch

from deapcache.locations import LocalLocation
from deapcache.probing import ProbeConfig, ReadoutTrainer
from deapcache.probing.batches import READ_AHEAD, Batch, BatchStream
from deapcache.probing.caches import SplitCaches
from deapcache.probing.train import stack_trainers, train
from tests.benchmarks.bench_stack import Sizes, boundaries_spec, make_caches
from tests.benchmarks.figures import Figure, ratios

WARM_UP, TAIL = 3, READ_AHEAD + 1
"""Steps before and after those that are timed."""

STEPS = {8: 16, 32: 5}
"""Timed ones, by batch size."""

CONFIGURATIONS = [Sizes(features=(cells, cells, 768), batch=batch) for cells in (14, 24) for batch in STEPS]
QUICK = [Sizes(images=16, features=(3, 3, 8), output=(24, 24), batch=8)]


@dataclass(frozen=True, kw_only=True)
class Row:
    """Training images a second of one configuration, by repeat, and how training ended."""

    sizes: Sizes
    cache: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    """Of the last step, of either way in turn: they are all equal."""

    @property
    def ratios(self) -> list[float]:
        """Cache over memory, repeat by repeat."""
        return ratios(self.cache, self.memory)

    @property
    def name(self) -> str:
        """For people."""
        height, width, dim = self.sizes.features
        return f"{height}×{width}×{dim}, batch {self.sizes.batch}"


class InMemory:
    """Batches gathered from arrays in memory, which NumPy does faster than torch."""

    def __init__(self, caches: SplitCaches, device: torch.device) -> None:
        self._features = caches.features.read_features(caches.rows)
        self._maps = {name: cache.read(caches.rows) for name, cache in caches.others.items()}
        self._device = device

    def batches(self, order: Iterable[np.ndarray]) -> Iterator[Batch]:
        """One batch for each array of rows."""
        for rows in order:
            maps = {name: self._gather(values, rows) for name, values in self._maps.items()}
            yield Batch(rows, self._gather(self._features, rows), maps, None)

    def _gather(self, values: np.ndarray, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values[rows]).to(self._device)


class Marked:
    """Notes when each batch is handed out: the one before it is done with then."""

    def __init__(self, stream: BatchStream | InMemory) -> None:
        self._stream = stream
        self.marks: list[float] = []

    def batches(self, order: Iterable[np.ndarray]) -> Iterator[Batch]:
        """The batches of the stream."""
        for batch in self._stream.batches(order):
            if batch.features.is_cuda:
                torch.cuda.synchronize()
            self.marks.append(time.perf_counter())
            yield batch


def run(quick: bool = False, device: str = "cpu") -> list[Row]:
    """Measure every configuration: 14×14 and 24×24 cells, batches of 8 and 32, five repeats; or a tiny one once."""
    rows = [Row(sizes=sizes) for sizes in (QUICK if quick else CONFIGURATIONS)]
    for row in rows:
        with tempfile.TemporaryDirectory() as folder:
            caches = make_caches(LocalLocation(Path(folder)), row.sizes)
            ways = (
                (row.cache, BatchStream(caches, "stream", torch.device(device))),
                (
                    row.memory,
                    InMemory(caches, torch.device(device)),
                ),
            )
            for _ in range(1 if quick else 5):
                for speeds, stream in ways:  # in turn, so that a busy moment of the machine hits both alike
                    speed, loss = _train(stream, caches.rows, row.sizes, device)
                    speeds.append(speed)
                    row.losses.append(loss)
    return rows


def _train(stream: BatchStream | InMemory, rows: np.ndarray, sizes: Sizes, device: str) -> tuple[float, float]:
    """Images a second, and the loss of the last step."""
    steps = STEPS[sizes.batch]
    trainer = new_trainer(sizes, WARM_UP + steps + TAIL, device)
    config, marked = ProbeConfig(batch_size=sizes.batch, device=device), Marked(stream)
    train(stack_trainers([trainer], config.weight_decay), marked, rows, config, lambda _: None)  # type: ignore[arg-type]
    seconds = marked.marks[WARM_UP + steps] - marked.marks[WARM_UP]
    return steps * sizes.batch / seconds, trainer.loss_curve()[-1][1]


def new_trainer(sizes: Sizes, iterations: int, device: str = "cpu") -> ReadoutTrainer:
    """A DeAP readout for boundaries."""
    return ReadoutTrainer(boundaries_spec(sizes, iterations), "deap", seed=0, lr=1e-3, device=device)


def main() -> list[Figure]:
    """Print images a second, and the ratios."""
    arguments = sys.argv[1:]
    device = arguments[arguments.index("--device") + 1] if "--device" in arguments else "cpu"
    print(f"{'training images/s on ' + device:<26}{'in memory':>11}{'cache':>9}   cache / memory (min/median/max)")
    figures = []
    for row in run("--quick" in arguments, device):
        shown = f"{min(row.ratios):.2f} / {median(row.ratios):.2f} / {max(row.ratios):.2f}"
        print(f"{row.name:<26}{median(row.memory):>11.1f}{median(row.cache):>9.1f}   {shown}")
        what = f"images/s: probe from the cache, {row.name} / arrays in memory"
        figures.append(Figure(what=what, ratios=row.ratios, aim=0.95))
    return figures


if __name__ == "__main__":
    main()
