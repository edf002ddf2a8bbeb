"""The parameter counts of Tables 3 and 4, from built modules."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from deapcache.backbones import BACKBONES
from deapcache.errors import UsageError
from deapcache.experiments import PAPER_TASKS, count_parameters

SECTIONS = {
    "discrimination": "instance_discrimination",
    "boundaries": "boundaries",
    "detection": "detection",
    "voc": "voc",
    "coco-stuff": "coco_stuff",
    "depth": "depth",
}


def test_all_108_cells_are_those_that_the_paper_prints() -> None:
    printed = json.loads(files("deapcache.results").joinpath("paper.json").read_text(encoding="utf-8"))["backbones"]
    counts = count_parameters("deap")
    ours = {(name, task): round(count / 1e6, 3) for name, row in counts.items() for task, count in row.items()}
    theirs = {(name, task): row[SECTIONS[task]]["params_M"] for name, row in printed.items() for task in PAPER_TASKS}
    assert len(theirs) == 108
    assert ours == theirs


def test_a_size_and_another_readout_count_otherwise() -> None:
    base, wide, linear = count_parameters("deap"), count_parameters("deap:64"), count_parameters("linear")
    assert count_parameters("deap:16") == base
    for backbone, row in linear.items():
        width = BACKBONES.get(backbone).dim
        assert list(row) == list(PAPER_TASKS)
        assert list(row.values()) == [channels * (width + 1) for channels in (32, 1, 3, 21, 171, 1)]
        assert all(wide[backbone][task] > base[backbone][task] for task in PAPER_TASKS)


def test_a_readout_around_a_published_upsampler_counts_without_it() -> None:
    assert count_parameters("featup:8")["dinov2"]["voc"] == 8 * 769 + 21 * 9


def test_the_stride_of_the_transposed_convolution_follows_the_grid() -> None:
    counts = count_parameters("transposed-conv")
    assert counts["clip"]["depth"] - counts["dino"]["depth"] == 776 * 32 * 3  # 14 cells a side, and 28


def test_a_wrong_name_is_refused() -> None:
    with pytest.raises(UsageError, match="expected one of 8, 16"):
        count_parameters("deap:9")
