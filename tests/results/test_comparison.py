"""A score beside the paper's: only on the paper's data, with the right sign, marked when it is surely different."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from deapcache.results import Uncertainty, layout_json, table_rows
from deapcache.results.paper import unlike_paper
from deapcache.results.record import make_result

METRICS = {
    "iou": {"label": "IoU", "unit": "", "higher_is_better": True},
    "cross_entropy": {"label": "CE", "unit": "nats", "higher_is_better": False},
}
PAPERS = {"images": (118_287, 5_000), "size": (224, 224), "metrics": METRICS}
"""What boundaries on COCO must have to stand beside the paper's."""


@pytest.fixture
def cell(facts):
    """A cell of DINOv2's boundaries (the paper: IoU 0.324, cross-entropy 0.1297) with these scores of its seeds."""

    def make(metric, *scores, which="table3", interval=None, **changes):
        results = [
            make_result(
                facts(backbone="dinov2", seed=seed, scores={"iou": s, "cross_entropy": s}, **{**PAPERS, **changes})
            )
            for seed, s in enumerate(scores)
        ]
        known = None if interval is None else lambda _: Uncertainty(intervals={metric: interval})
        (table,) = layout_json(table_rows(results, uncertainty=known), which)
        (found,) = [cell for row in table["rows"] for cell in row["cells"] if cell["metric"] == metric]
        return SimpleNamespace(**found, first=results[0])

    return make


def test_better_is_higher_or_lower_as_the_metric_says(cell) -> None:
    assert cell("iou", 0.33).is_better is True
    assert cell("iou", 0.31).is_better is False
    assert cell("cross_entropy", 0.12).is_better is True
    assert cell("cross_entropy", 0.14).is_better is False
    assert cell("iou", 0.30, 0.33).difference == pytest.approx((0.315 - 0.324) / 0.324)


def test_within_the_rounding_of_the_print_is_neither(cell) -> None:
    assert cell("iou", 0.32449).is_better is None
    assert cell("iou", 0.3246).is_better is True
    assert cell("iou", math.nan).is_better is None


def test_one_seed_without_interval_cannot_be_judged(cell) -> None:
    assert cell("iou", 0.9).is_beyond is None


def test_beyond_is_outside_two_spreads_and_the_interval(cell) -> None:
    # spread 0.0141: two of them reach from 0.3117 to 0.3683
    assert cell("iou", 0.33, 0.35).is_beyond is False
    assert cell("iou", 0.339, 0.341).is_beyond is True
    assert cell("iou", 0.339, 0.341, interval=(0.32, 0.36)).is_beyond is False
    assert cell("iou", 0.339, 0.341, interval=(0.33, 0.35)).is_beyond is True
    assert cell("iou", 0.34, interval=(0.33, 0.35)).is_beyond is True
    assert cell("iou", 0.34, interval=(0.3243, 0.35)).is_beyond is False  # the paper's may be 0.3245


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dataset": "scenes"}, "dataset scenes, the paper's coco"),
        ({"images": (69, 35)}, "train images 69, the paper's 118287; val images 35, the paper's 5000"),
        ({"size": (112, 112)}, r"output size (112, 112), the paper's (224, 224)"),
        ({"task": "foreground", "which": "table5"}, "the paper has no such task"),
    ],
)
def test_other_data_has_no_papers_number_beside_it(cell, changes, why) -> None:
    other = cell("iou", 0.3, **changes)
    assert other.paper is None
    assert other.difference is None
    assert (other.is_better, other.is_beyond) == (None, None)
    assert unlike_paper(other.first) == why
    assert unlike_paper(cell("iou", 0.3).first) == ""


def test_which_8000_images_the_paper_took_is_not_said_so_any_will_do(facts) -> None:
    metrics = {"ari": {"label": "ARI", "unit": "", "higher_is_better": True}}
    chosen = facts(task="discrimination", images=(8_000, 5_000), limit=8_000, size=(224, 224), metrics=metrics)
    assert unlike_paper(make_result(chosen)) == ""


def test_crops_do_not_stand_beside_the_papers_whole_images(facts) -> None:
    given = facts(backbone="dinov2", **PAPERS)
    assert unlike_paper(make_result(given)) == ""
    given["caches"]["train"]["recipe"]["base_fit"] = "crop"
    assert unlike_paper(make_result(given)) == "fit crop, the paper's squash"


def test_only_the_full_readout_stands_beside_tables_3_and_4(cell) -> None:
    assert cell("iou", 0.3).paper["value"] == 0.324
    assert cell("iou", 0.3, readout="deap:16").paper["value"] == 0.324
    for other in ("deap:8", "no-sigma", "linear"):
        assert cell("iou", 0.3, readout=other).paper is None
    assert cell("iou", 0.3, which="figure4").paper is None


def test_json_says_everything_of_a_cell(cell) -> None:
    found = cell("iou", 0.339, 0.341, interval=(0.33, 0.35))
    assert found.paper == {"value": 0.324, "source": "Table 3"}
    assert (found.backbone, found.metric, found.seeds) == ("dinov2", "iou", [0, 1])
    assert (found.is_better, found.is_beyond, found.interval) == (True, True, [0.33, 0.35])
