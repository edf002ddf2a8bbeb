"""The parts of figures: where names go, what correlations and fronts are, which references and speeds are read."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from deapcache_figures import add_speed, collisions, marks_of, texts_of
from deapcache_results import make_facts, make_selected
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from deapcache.errors import DataError, MissingDataError, UnknownNameError
from deapcache.locations import LocalLocation
from deapcache.results import load_results, save_run, table_rows
from deapcache.results.figures import find_figure
from deapcache.results.figures.correlations import (
    Reference,
    draw_correlations,
    pearson,
    read_reference,
    shipped_references,
    spearman,
)
from deapcache.results.figures.groups import group_results
from deapcache.results.figures.labels import Label
from deapcache.results.figures.sigma import draw_sigma
from deapcache.results.figures.speed_quality import draw_speed_quality, pareto_front
from deapcache.results.figures.style import MARKS, Canvas, broken_lines, name_axes
from deapcache.results.frame import CATEGORIES
from deapcache.results.leaderboard import collect, leaderboard
from deapcache.results.paper import paper_backbones
from deapcache.results.record import make_result
from deapcache.results.speeds import load_speeds


def scattered(points: np.ndarray, names: list[str], height: float = 3.0) -> Canvas:
    canvas = Canvas(height)
    ((axis,),) = canvas.panels(1, 1)
    axis.plot(*points.T, "o", markersize=5)
    axis.margins(0.2)
    axis.set_yticks([0])
    canvas.label(axis, [Label(x, y, name) for (x, y), name in zip(points.tolist(), names, strict=True)])
    return canvas


def test_names_of_crowded_points_meet_nothing() -> None:
    points = np.random.default_rng(0).normal(size=(18, 2)) * 0.05
    points[0] = (1, 1)  # one far away: all others are close together
    canvas = scattered(points, paper_backbones())
    assert collisions(canvas) == []
    assert set(paper_backbones()) <= {text for text, _ in texts_of(canvas)}


def test_what_finds_no_room_is_told() -> None:
    canvas = scattered(np.zeros((30, 2)), [f"a backbone of a long name, the {place}th" for place in range(30)], 1.2)
    assert collisions(canvas) == []
    (note,) = [text for text, _ in texts_of(canvas) if "for want of room" in text]
    written = {text for text, _ in texts_of(canvas)}
    for place in range(30):
        name = f"a backbone of a long name, the {place}th"
        assert (name in written) != (name in " ".join(note.split()))


def test_the_ruler_sees_names_that_meet() -> None:
    canvas = Canvas(2.0)
    ((axis,),) = canvas.panels(1, 1)
    axis.text(0.5, 0.5, "one")
    axis.text(0.51, 0.5, "other")
    canvas.figure.text(0.99, 0.5, "beyond the border")
    found = " ".join(collisions(canvas))
    assert "'one' meets 'other'" in found
    assert "'beyond the border' leaves the sheet" in found


def test_long_titles_labels_and_legends_are_broken_to_fit() -> None:
    from matplotlib.lines import Line2D

    canvas = Canvas(3.0)
    for axis in canvas.panels(1, 3)[0]:
        name_axes(
            axis, title="a title far longer than a third of a page is wide", x="timm:" + "x_" * 30, y="a score " * 8
        )
    canvas.legend([Line2D([], [], label=f"a category of a long name, number {place}") for place in range(7)])
    assert collisions(canvas) == []


def test_names_break_where_their_parts_join() -> None:
    assert broken_lines("timm:test_vit@untrained", 14) == ["timm:test_vit", "@untrained"]
    assert broken_lines("aaaaaaaaaa", 4) == ["aaaa", "aaaa", "aa"]
    assert broken_lines("mIoU of a kind", 9) == ["mIoU of a", "kind"]


def test_correlations_are_those_of_the_formulas_and_their_intervals_fishers() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=12)
    y = x + generator.normal(size=12)
    y[3] = y[4]  # a tie
    (r, interval), (rho, _) = pearson(x, y), spearman(x, y)
    assert r == pytest.approx(np.corrcoef(x, y)[0, 1])
    z, error = np.arctanh(r), 1.959963984540054 / math.sqrt(12 - 3)
    assert interval == pytest.approx((np.tanh(z - error), np.tanh(z + error)))
    assert rho == pytest.approx(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def test_the_interval_of_spearman_holds_as_often_as_it_says() -> None:
    generator, true = np.random.default_rng(1), 0.7
    rho = 6 / math.pi * math.asin(true / 2)  # of a normal distribution of that r
    held = 0
    for _ in range(1500):
        x, y = generator.multivariate_normal([0, 0], [[1, true], [true, 1]], 18).T
        _, (low, high) = spearman(x, y)
        held += low <= rho <= high
    assert held / 1500 == pytest.approx(0.95, abs=0.02)


def test_few_or_equal_points_have_no_interval() -> None:
    assert pearson([1, 2, 3], [1, 2, 4])[1] is None
    value, interval = spearman([1, 2, 3, 4], [5, 5, 5, 5])
    assert (math.isnan(value), interval) == (True, None)
    assert pearson([1, 2, 3, 4], [2, 4, 6, 8]) == (pytest.approx(1), pytest.approx((1, 1)))
    (group,) = group_results(table_rows([make_result(make_facts(backbone=name)) for name in ("mae", "dino", "clip")]))
    reference = Reference(name="elsewhere", scores={"mae": 1.0, "dino": 2.0, "clip": 3.0}, source="a page")
    assert "r not defined\nρ not defined\nn = 3" in [
        text for text, _ in texts_of(draw_correlations([group], [reference], paper=False))
    ]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=20), st.booleans())
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]], higher: bool) -> None:
    front = pareto_front(points, higher_is_better=higher)
    signed = [(x, y if higher else -y) for x, y in points]
    unbeaten = {
        one for one in signed if not any(other != one and other[0] >= one[0] and other[1] >= one[1] for other in signed)
    }
    assert [signed[place] for place in front] == sorted(unbeaten)


def test_shipped_references_are_the_papers_columns_with_their_sources() -> None:
    references = {one.name: one for one in shipped_references()}
    assert all(one.source.startswith("Dense Attentive Probing, Table ") for one in references.values())
    assert all(set(one.scores) == set(paper_backbones()) for one in references.values())
    assert references["the paper's Pascal VOC, mIoU ↑"].scores["dinov2"] == 0.834
    assert references["the paper's depth, RMSE [m] ↓"].scores["mae"] == 0.631


def test_a_csv_may_have_several_scores_gaps_and_comments(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    file.write_text('# from somewhere\nbackbone, A [%] ↑,B\nmae,1.5,\n\n"dino",2,-3e1\n')
    a, b = read_reference(file)
    assert (a.name, dict(a.scores), a.source) == ("A [%] ↑", {"mae": 1.5, "dino": 2.0}, "scores.csv")
    assert (b.name, dict(b.scores), b.tasks) == ("B", {"dino": -30.0}, ())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the heading is 'nothing'; expected CSV with the heading backbone,NAME OF SCORE"),
        ("model,A\nmae,1\n", "the heading is 'model,A'"),
        ("backbone,A,A\nmae,1,2\n", "the heading is 'backbone,A,A'"),
        ("backbone,A\nmae,1\ndino,good\n", "line 3: A of dino is 'good', expected a number"),
        ("backbone,A\nmae,nan\n", "line 2: A of mae is nan"),
        ("backbone,A\nmae,1,2\n", "line 2: 3 cells, expected 2"),
        ("backbone,A\n# again\nmae,1\nmae,2\n", "line 4: mae has a score of A already"),
    ],
)
def test_a_bad_csv_is_told_by_file_and_line(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "scores.csv"
    file.write_text(text)
    with pytest.raises(DataError) as raised:
        read_reference(file)
    assert says in str(raised.value)
    assert "scores.csv" in str(raised.value)


def test_a_csv_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="no such file; expected CSV"):
        read_reference(tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DataError, match="cannot be read as text in UTF-8"):
        read_reference(tmp_path / "binary.csv")


def test_speeds_of_the_device_with_most_backbones(home: LocalLocation) -> None:
    add_speed(home, "mae", 10, 1.0)
    add_speed(home, "mae", 12, 1.0)
    add_speed(home, "dino", 3, 0.25)
    add_speed(home, "mae", 900, 1.0, "an accelerator")
    dino, mae = load_speeds(home)
    assert (mae.name, mae.images_per_second["median"], mae.device) == ("mae", pytest.approx(12), "cpu, 2 cores")
    assert dino.relative == pytest.approx(0.25)
    assert [one.images_per_second["median"] for one in load_speeds(home, "an accelerator")] == [pytest.approx(900)]


def test_a_control_is_at_the_speed_of_its_model(home: LocalLocation) -> None:
    add_speed(home, "mae", 10, 4.0)
    add_speed(home, "dino@untrained", 10, 2.0)
    names = ("mae", "mae@untrained:1", "dino@untrained", "dino")
    groups = group_results(table_rows([make_result(make_facts(backbone=name)) for name in names]))
    (axis,) = draw_speed_quality(groups, load_speeds(home), paper=False).figure.axes
    np.testing.assert_allclose(marks_of(axis)[:, 0], [2, 4, 4])


def test_figures_count_chosen_rates_as_one_and_leave_out_given_ones() -> None:
    chosen = [make_selected(lr, backbone=name) for name, lr in (("mae", 1e-2), ("dino", 1e-3))]
    (group,) = group_results(table_rows(chosen))
    assert [(point.backbone, point.score) for point in group.points()] == [("dino", 0.5), ("mae", 0.5)]
    assert group.notes == ()
    given = [
        make_result(make_facts(backbone=name, lr=lr)) for name, lr in (("mae", 1e-2), ("mae", 1e-3), ("dino", 1e-3))
    ]
    (group,) = group_results(table_rows(given))
    assert {(row.backbone, row.lr) for row in group.rows} == {("mae", 1e-3), ("dino", 1e-3)}
    assert group.notes == ("boundaries, deap: at learning rate 0.001; there is also 0.01 (--lr)",)


def test_categories_are_those_of_the_leaderboard_each_with_its_mark(home: LocalLocation, arrays: dict) -> None:
    told = {
        "mae": "self-supervised", "siglip-so": "vision-language", "random": "untrained", "mae@untrained:1": "untrained",
        "mine": "checkpoint", "a-plugin": "supervised", "hf:lab/clip": "vision-language", "nobody-knows": "other",
    }  # fmt: skip
    for name in told:
        made = make_facts(backbone=name)
        if name == "mine":
            made["caches"]["train"]["recipe"]["backbone"] = "mae"
        if name in ("a-plugin", "hf:lab/clip"):
            made["about"] = {"category": told[name], "parameters": 7, "training_data": ""}
        save_run(home, made, **arrays)
    groups = group_results(table_rows(load_results(home)))
    assert {point.backbone: point.category for point in groups[0].points()} == told
    lines = leaderboard(collect([home]), intervals=False, paper=False).lines
    assert dict(zip(lines["backbone"], lines["category"], strict=True)) == told
    canvas = draw_sigma(groups)
    (legend,) = canvas.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(CATEGORIES) == list(MARKS)
    assert len({mark.shape for mark in MARKS.values()}) == len({mark.colour for mark in MARKS.values()}) == len(MARKS)


def test_a_misspelt_figure_is_told_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean sigma"):
        find_figure("sigmas")
