"""The same work alone and beside N busy processes on the same cores: how many times the fair share N + 1 it takes.

usage: python -m tests.benchmarks.bench_busy [--quick]

A process that has the machine for itself takes T; beside N others that never wait T · (N + 1) is its fair share. More
is lost where threads wait for each other: of a section that several cores share, the one whose core is taken ends last,
and the others spin.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from deapcache.datasets import open_dataset
from deapcache.experiments import find_run, predict_files, probe
from deapcache.experiments.predict import PredictRequest
from deapcache.extraction import ExtractionSettings, extract
from deapcache.locations import LocalLocation
from deapcache.probing import ProbeConfig
from tests.benchmarks import bench_extract, bench_stack
from tests.benchmarks.bench_memory import write_coco
from tests.benchmarks.figures import Figure

BUSY = (0, 1, 2, 6)
_SPIN = "while True: pass"


def run(busy: Sequence[int], repeats: int, *, quick: bool) -> dict[str, dict[int, list[float]]]:
    """Milliseconds of a unit of each work beside so many busy processes, by repeat."""
    times: dict[str, dict[int, list[float]]] = {name: {count: [] for count in busy} for name in MEASURES}
    with tempfile.TemporaryDirectory() as folder:
        _train_a_readout(Path(folder))
        for _ in range(repeats):
            for name in MEASURES:
                for count in busy:
                    taken = MEASURES[name](Path(folder), quick) if quick else _measure(name, count, folder)
                    times[name][count].append(taken)
    return times


def _train_a_readout(folder: Path) -> None:
    write_coco(folder / "coco", 24, 8)
    settings = ExtractionSettings(device="cpu", base_size=(224, 224))
    home = LocalLocation(folder)
    list(extract(["efficientnet-lite0@untrained"], open_dataset("coco", folder / "coco"), home, settings=settings))
    list(probe(home, ProbeConfig(tasks=["boundaries"], dataset="coco", iterations=1, lrs=(1e-3,), device="cpu")))


def _measure(name: str, busy: int, folder: str) -> float:
    command = [sys.executable, "-m", "tests.benchmarks.bench_busy", "--measure", name, folder]
    with _busy_processes(busy):
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


@contextmanager
def _busy_processes(count: int) -> Iterator[None]:
    running = [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def _probe(_: Path, quick: bool) -> float:
    """Milliseconds a step of one readout, batches of 8 of 14×14×768."""
    return bench_stack.run(bench_stack.QUICK if quick else bench_stack.Sizes(repeats=1), (1,)).together[1][0]


def _extract(_: Path, quick: bool) -> float:
    """Milliseconds an image, from cached base images of 224×224."""
    return 1e3 / bench_extract.run("efficientnet-lite0@untrained", 2 if quick else 32, 8, "cpu", 1).extract[0]


def _predict(folder: Path, quick: bool) -> float:
    """Milliseconds an image, from a photograph's file to two pictures; the first ones are left out."""
    home = LocalLocation(folder)
    (trained,) = (file.stem for file in (folder / "readouts").iterdir())
    photographs = sorted((folder / "coco" / "train2017").iterdir())[: 3 if quick else 24]
    with tempfile.TemporaryDirectory() as out:
        request = PredictRequest(images=photographs, out=LocalLocation(Path(out)), device="cpu")
        marks = [time.perf_counter() for _ in predict_files(find_run(home, trained), request)]
    return 1e3 * (marks[-1] - marks[1]) / (len(marks) - 2)


MEASURES = {"probe": _probe, "extract": _extract, "predict": _predict}


def main() -> list[Figure]:
    """Print the times beside busy processes, and how many fair shares they are."""
    arguments, quick = sys.argv[1:], "--quick" in sys.argv
    if "--measure" in arguments:
        name, folder = arguments[1:3]
        print(json.dumps(MEASURES[name](Path(folder), False)))
        return []
    times = run((0,) if quick else BUSY, 1 if quick else 3, quick=quick)
    print(f"{os.cpu_count()} cores; ms of a step of 8 images (probe), of an image (extract, predict)")
    print(f"{'':<10}{'busy processes':>16}{'ms, min / median / max':>28}{'of a fair share':>18}")
    figures = []
    for name, by_count in times.items():
        for count, values in by_count.items():
            shares = [value / ((count + 1) * alone) for value, alone in zip(values, by_count[0], strict=True)]
            shown = f"{min(values):.1f} / {median(values):.1f} / {max(values):.1f}"
            print(f"{name:<10}{count:>16}{shown:>28}{median(shares):>18.2f}")
            if count:
                what = f"{name} beside {count} busy process{'es' * (count > 1)} / a fair share of the time alone"
                figures.append(Figure(what=what, ratios=shares, aim=1.5, at_most=True))
    return figures


if __name__ == "__main__":
    main()
