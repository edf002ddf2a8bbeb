"""The paper's numbers are those of its tables, under our names and in our units."""

from __future__ import annotations

import json
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from deapcache_testing import require

from deapcache.backbones import BACKBONES
from deapcache.results.paper import DATA, paper_ablation, paper_backbones, paper_metrics, paper_parameters, paper_score
from deapcache.tasks import get_task

ROOT = Path(__file__).resolve().parents[2]
TABLES = ROOT.parent / "shared" / "paper" / "tables.json"


@pytest.mark.parametrize(
    ("backbone", "task", "metric", "text", "source"),
    [
        ("dinov2", "discrimination", "ari", "0.468", "Table 3"),
        ("random", "boundaries", "iou", "0.008", "Table 3"),
        ("dinov2-l", "boundaries", "cross_entropy", "0.1450", "Table 3"),
        ("random", "detection", "ap_large", "0.0015", "Table 3"),
        ("mae", "voc", "mean_iou", "0.602", "Table 4"),
        ("random", "coco-stuff", "cross_entropy", "5.0889", "Table 4"),
        ("vitamin", "coco-stuff", "mean_iou", "0.379", "Table 4"),
        ("sam2-b+", "depth", "rmse", "0.754", "Table 4"),
    ],
)
def test_scores_as_printed(backbone, task, metric, text, source) -> None:
    number = paper_score(backbone, task, metric)
    assert (str(number), number.source) == (text, source)
    assert number.value == float(text)
    assert number.rounding == pytest.approx(0.5 * 10 ** -len(text.partition(".")[2]))


@pytest.mark.parametrize(
    ("readout", "backbone", "task", "metric", "text"),
    [
        ("deap", "dinov2", "depth", "rmse", "0.4488"),
        ("deap:16", "dinov2", "depth", "rmse", "0.4488"),
        ("8-dim", "siglip-384", "voc", "mean_iou", "0.704"),
        ("deap:8", "siglip-384", "voc", "mean_iou", "0.704"),
        ("no-sigma", "mae", "detection", "ap_large", "0.1712"),
        ("no-indiv-sigma", "dinov2", "voc", "mean_iou", "0.838"),
        ("only-mask", "mae", "depth", "rmse", "0.5887"),
    ],
)
def test_ablation_as_printed(readout, backbone, task, metric, text) -> None:
    assert str(paper_ablation(readout, backbone, task, metric)) == text


def test_what_the_paper_does_not_print_is_none() -> None:
    assert paper_score("efficientnet-lite0", "depth", "rmse") is None
    assert paper_score("dinov2", "depth", "delta1") is None
    assert paper_score("dinov2", "foreground", "mean_iou") is None
    assert paper_ablation("linear", "dinov2", "depth", "rmse") is None
    assert paper_ablation("deap", "clip", "depth", "rmse") is None
    assert paper_ablation("deap", "dinov2", "boundaries", "iou") is None
    assert paper_parameters("dinov2", "foreground") is None


def test_full_readout_of_the_ablation_is_the_one_of_the_other_tables() -> None:
    for task, metric in (("detection", "ap_large"), ("voc", "mean_iou"), ("depth", "rmse")):
        for backbone in ("dinov2", "siglip-384", "mae"):
            row, cell = paper_ablation("deap", backbone, task, metric), paper_score(backbone, task, metric)
            assert abs(row.value - cell.value) <= cell.rounding + 1e-9


def test_names_are_those_of_our_registries() -> None:
    assert len(paper_backbones()) == 18
    assert set(paper_backbones()) <= set(BACKBONES.names())
    for task, data in DATA.items():
        assert get_task(task).default_dataset == data.dataset
        printed = [metric for metric in get_task(task).metrics if paper_score("dinov2", task, metric)]
        assert printed == paper_metrics(task)
        assert all(str(paper_parameters(name, task)) for name in paper_backbones())


def test_carried_tables_are_the_ones_of_the_design_and_are_shipped() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "results/paper.json" in config["tool"]["setuptools"]["package-data"]["deapcache"]
    carried = json.loads(files("deapcache.results").joinpath("paper.json").read_text())
    assert "Tables 3, 4" in carried["source"]
    assert carried["units"]["rmse"] == "m"
    require(TABLES.is_file(), "the paper's tables beside the repository (shared/paper)")
    assert carried == json.loads(TABLES.read_text())
