"""The benchmarks run, and their readers agree; nothing is timed here."""

from __future__ import annotations

import contextlib
import functools
import io
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deapcache.datasets import open_dataset
from deapcache.readouts import build_readout
from tests.benchmarks import bench_onthefly, bench_probe
from tests.benchmarks.figures import Figure

READ = Path(__file__).with_name("bench_read.py")
EXTRACT = Path(__file__).with_name("bench_extract.py")
READOUT = Path(__file__).with_name("bench_readout.py")
TARGETS = Path(__file__).with_name("bench_targets.py")


@dataclass(frozen=True)
class QuickRun:
    """What ``python -m tests.benchmarks --quick`` printed, and what two of its benchmarks found."""

    printed: str
    rows: dict[str, Any]


@pytest.fixture(scope="module")
def quick() -> QuickRun:
    """One run for all that is asked of it."""
    rows: dict[str, Any] = {}

    def noted(name: str, run: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        rows[name] = run(*arguments, **options)
        return rows[name]

    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", ["benchmarks", "--quick"])
        for bench in (bench_probe, bench_onthefly):
            patch.setattr(bench, "run", functools.partial(noted, bench.__name__, bench.run))
        runpy.run_module("tests.benchmarks", run_name="__main__")
    return QuickRun(printed.getvalue(), rows)


def test_all_readers_give_every_volume(tmp_path: Path) -> None:
    bench = runpy.run_path(str(READ))
    features = bench["volumes"](quick=True)
    order = np.random.default_rng(1).permutation(len(features))
    for name, epoch in bench["make_readers"](tmp_path, features).items():
        batches = list(epoch(order))
        assert all(isinstance(batch, torch.Tensor) and batch.dtype == torch.float16 for batch in batches), name
        read = np.concatenate(batches)
        expected = np.maximum(features, 0) if "half" in name else features
        if name in ("WebDataset", "LitData"):  # which shuffle by themselves
            assert not np.array_equal(read, expected[order])
            read, expected = (values[np.lexsort(values.reshape(64, -1).T[:3])] for values in (read, expected))
            np.testing.assert_array_equal(read, expected)
        else:
            np.testing.assert_array_equal(read, expected[order], err_msg=name)


def test_both_decoders_see_the_same_pixels(tmp_path: Path) -> None:
    bench = runpy.run_path(str(TARGETS))
    root = bench["write_listing"](tmp_path, 12)
    dataset = open_dataset("coco", root)
    reference, annotations = bench["annotations_of"](root, dataset, range(12))
    counts = [len(of_image) for of_image in annotations]
    assert 5 < np.mean(counts) < 10
    for row, of_image in enumerate(annotations):
        masks = [reference.annToMask(annotation) for annotation in of_image]
        covered = np.any([*masks, np.zeros((480, 640))], axis=0)
        np.testing.assert_array_equal(dataset.read_annotation("val", row, "instances") != 0, covered)
        assert len(dataset.read_annotation("val", row, "boxes")) == 1 + len(of_image)


def test_both_ways_of_a_readout_compute_the_same() -> None:
    bench = runpy.run_path(str(READOUT))
    readout = build_readout("deap", feature_dim=bench["DIM"], out_channels=1, grid=(5, 5), seed=0)
    features = torch.randn(2, 5, 5, bench["DIM"], generator=torch.Generator().manual_seed(0))
    ours, plain = readout(features, bench["OUTPUT"]), bench["plain"](readout, features)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    parameters = list(readout.parameters())
    for one, other in zip(*(torch.autograd.grad(way.square().sum(), parameters) for way in (ours, plain)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_the_quick_run_ends_in_one_table(quick: QuickRun) -> None:
    table = quick.printed.rpartition("ratio to the alternative")[2].splitlines()[1:]
    named = (
        "read, MB/s",
        "base images",
        "extract",
        "readout",
        "in one pass",
        "COCO targets",
        "probe",
        "epochs",
        "peak",
    )
    for what in named:
        assert any(what in line for line in table), what
    assert not any("missed" in line for line in table)  # tiny sizes are not judged


@pytest.mark.parametrize(("at_most", "expected"), [(False, "missed"), (True, "reached")])
def test_a_figure_is_judged_by_its_median(at_most: bool, expected: str) -> None:
    figure = Figure(what="ours / theirs", ratios=[0.5, 3.0, 0.7], aim=1.0, at_most=at_most)
    assert figure.row(judged=True).split()[-1] == expected
    assert figure.row(judged=True).split()[3:6] == ["0.50", "0.70", "3.00"]
    assert expected not in figure.row(judged=False)


def test_probing_is_timed_against_the_same_training_in_memory(quick: QuickRun) -> None:
    (row,) = quick.rows[bench_probe.__name__]
    assert len(row.cache) == len(row.memory) == len(row.ratios) == 1
    assert row.losses[0] == row.losses[1]


def test_both_ways_to_train_learn_the_same(quick: QuickRun) -> None:
    """With the backbone in every step, or on features that were extracted once: float16 is the only difference."""
    (row,) = quick.rows[bench_onthefly.__name__]
    assert row.losses["fly"] == pytest.approx(row.losses["cache"], rel=1e-3)
    assert len(row.fly) == len(row.extract) == 2
    fly, cache = row.seconds(100, 10)
    np.testing.assert_allclose(fly, 1000 * np.median(row.fly))
    np.testing.assert_allclose(cache, 100 * np.median(row.extract) + 1000 * np.median(row.probe))
    assert set(row.end_to_end) == {"fly", "cache"}
