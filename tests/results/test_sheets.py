"""The paper's tables, filled: its rows and columns, its numbers beside ours, nothing beside what it does not fit."""

from __future__ import annotations

import io

import pytest

from deapcache.errors import UsageError
from deapcache.results import (
    LAYOUTS,
    PLAIN,
    Uncertainty,
    layout_json,
    layout_tables,
    markdown,
    plain_text,
    print_tables,
    table_rows,
)
from deapcache.results.paper import DATA
from deapcache.results.record import make_result

_METRICS = {
    "discrimination": {"ari": ("ARI", True)},
    "boundaries": {"iou": ("IoU", True), "cross_entropy": ("CE", False)},
    "detection": {"ap_large": ("AP lg", True)},
    "voc": {"mean_iou": ("mIoU", True), "cross_entropy": ("CE", False)},
    "segmentation": {"mean_iou": ("mIoU", True), "cross_entropy": ("CE", False)},
    "coco-stuff": {"mean_iou": ("mIoU", True), "cross_entropy": ("CE", False)},
    "depth": {"rmse": ("RMSE", False)},
    "foreground": {"mean_iou": ("IoU", True)},
}


@pytest.fixture
def results(facts):
    """A function that makes the results of one row: of the paper's data where no dataset is named."""

    def make(task, backbone="dinov2", *scores, dataset=None, **changes):
        metrics = {
            name: {"label": label, "unit": "", "higher_is_better": higher}
            for name, (label, higher) in _METRICS[task].items()
        }
        data = DATA.get(task)
        where = {"dataset": dataset or "coco"}
        if data and not dataset:
            where = {"dataset": data.dataset, "images": (data.train_images, data.val_images), "size": data.output_size}
        return [
            make_result(
                facts(
                    task=task,
                    backbone=backbone,
                    seed=seed,
                    scores=dict.fromkeys(metrics, score),
                    metrics=metrics,
                    **{**where, **changes},
                )
            )
            for seed, score in enumerate(scores or (0.5,))
        ]

    return make


def test_table_3_has_the_papers_rows_and_columns_with_its_numbers_between_ours(results) -> None:
    found = [
        *results("boundaries", "mine", 0.2),
        *results("boundaries", "mae", 0.25, 0.27),
        *results("boundaries", "dinov2", 0.324),
        *results("discrimination", "mae", 0.4),
    ]
    (table,) = layout_tables(table_rows(found), "table3")
    assert table.header == (
        "backbone",
        "",
        "discrimination\nARI ↑",
        "P_learn\n[M]",
        "boundaries\nCE ↓",
        "boundaries\nIoU ↑",
        "P_learn\n[M]",
    )
    assert table.rows == (
        ("dinov2", "ours", "–", "–", "0.3240 (1)", "0.3240 (1)", "0.043"),
        ("", "paper", "", "", "0.1297", "0.324", "0.043"),
        ("", "difference", "", "", "▼ 149.8%", "=", ""),
        ("mae", "ours", "0.4000 (1)", "0.043", "0.2600 ± 0.0141 (2)", "0.2600 ± 0.0141 (2)", "0.043"),
        ("", "paper", "0.498", "0.053", "0.1500", "0.253", "0.043"),
        ("", "difference", "▼ 19.7%", "", "▼ 73.3% *", "▲ 2.8%", ""),
        ("mine", "ours", "–", "–", "0.2000 (1)", "0.2000 (1)", "0.043"),
    )
    assert table.faint == {1, 4}
    digests = {digest[:12] for digest in table_rows(found)["protocol"]}
    for digest in digests:
        assert sum(digest in note for note in table.notes) == 1
    assert "118,287 train and 5,000 val images" in "\n".join(table.notes)
    assert "seeds 0, 1;" in "\n".join(table.notes)


def test_other_data_stands_apart_without_the_papers_numbers_and_says_why(results) -> None:
    found = [*results("boundaries"), *results("boundaries", dataset="scenes"), *results("detection", dataset="scenes")]
    paper, scenes = layout_tables(table_rows(found), "table3")
    assert paper.title == "Table 3: instance awareness"
    assert scenes.title == "Table 3: instance awareness · scenes"
    assert [row[1] for row in paper.rows] == ["ours", "paper", "difference"]
    assert [row[1] for row in scenes.rows] == ["ours"]
    assert sum("no paper's number beside it: dataset scenes" in note for note in scenes.notes) == 2
    assert "▲" not in "\n".join(scenes.notes)


def test_table_4_joins_the_papers_three_datasets_and_takes_segmentation_elsewhere(results) -> None:
    found = [*results("voc"), *results("coco-stuff"), *results("depth"), *results("segmentation", dataset="scenes")]
    paper, scenes = layout_tables(table_rows(found), "table4")
    assert [head.split()[0] for head in paper.header[2:]] == [
        "voc", "voc", "P_learn", "coco-stuff", "coco-stuff", "P_learn", "depth", "P_learn",
    ]  # fmt: skip
    assert paper.rows[1][2:] == ("0.1259", "0.834", "0.047", "1.0468", "0.428", "0.088", "0.449", "0.043")
    assert scenes.header[2:] == ("segmentation\nCE ↓", "segmentation\nmIoU ↑", "P_learn\n[M]")


def test_table_5_has_readouts_in_rows_and_backbones_in_columns(results) -> None:
    found = [
        result
        for readout in ("only-mask", "linear", "no-sigma", "deap")
        for backbone in ("mine", "mae", "dinov2")
        for result in results("depth", backbone, 0.5, 0.7, readout=readout)
    ]
    (table,) = layout_tables(table_rows(found), "table5")
    assert table.header[2:] == ("depth\ndinov2\nRMSE ↓", "depth\nmae\nRMSE ↓", "depth\nmine\nRMSE ↓")
    assert [row[0] for row in table.rows if row[0]] == ["deap", "no-sigma", "only-mask", "linear"]
    assert [row[2:] for row in table.rows if row[1] == "paper"] == [
        ("0.4488", "0.6307", ""), ("0.6660", "0.7360", ""), ("0.4712", "0.5887", ""),
    ]  # fmt: skip


def test_ablations_of_a_task_that_the_paper_has_not_are_shown_too(results) -> None:
    found = [*results("foreground", readout="deap"), *results("foreground", readout="no-sigma")]
    (table,) = layout_tables(table_rows(found), "table5")
    assert table.header[2:] == ("foreground\ndinov2\nIoU ↑",)
    assert layout_json(table_rows(found), "table3") == []


def test_figure_4_is_a_table_of_sizes_for_each_backbone_and_names_the_best_bicubic_detection(results) -> None:
    cost = {"train_ms_per_image": 1.5}
    readouts = ("bicubic:128", "deap", "deap:8", "bicubic", "deap:128")
    found = [
        r for readout in readouts for r in results("detection", "dinov2", 0.2, 0.3, 0.25, readout=readout, cost=cost)
    ]
    first, second = layout_tables(table_rows([*found, *results("depth", "mae")]), "figure4")
    assert first.title == "Figure 4: readouts and their parameters · dinov2"
    assert [row[0] for row in first.rows] == ["deap:8", "deap", "deap:128", "bicubic", "bicubic:128"]
    assert first.header[2:] == ("detection\nAP lg ↑", "P_learn\n[M]", "train\n[ms/image]")
    assert first.rows[0][2:] == ("0.2500 ± 0.0500 (3)", "0.043", "1.5")
    assert {row[1] for row in first.rows} == {"ours"}
    (best,) = [note for note in first.notes if "best of" in note]
    assert best.startswith("detection · bicubic")
    assert best.endswith("best of 3 seeds 0.3000")
    assert second.title.endswith("mae")


def test_several_readouts_and_learning_rates_are_rows_that_say_so(results) -> None:
    found = [*results("depth", lr=1e-3), *results("depth", lr=3e-4), *results("depth", readout="linear")]
    (table,) = layout_tables(table_rows(found), "table4")
    rows = [row for row in table.rows if row[0]]
    assert [row[0] for row in rows] == [
        "dinov2 · deap · lr 0.001",
        "dinov2 · deap · lr 0.0003",
        "dinov2 · linear · lr 0.001",
    ]
    beside = [row for row in table.rows if row[1] == "paper"]
    assert len(beside) == 2


def test_mixed_conditions_stand_in_tables_of_their_own_and_are_marked(results) -> None:
    found = [*results("boundaries", iterations=5), *results("boundaries", iterations=9), *results("discrimination")]
    first, second = layout_tables(table_rows(found, allow_mixed=True), "table3")
    assert (first.title[-12:], second.title[-12:]) == ("conditions 1", "conditions 2")
    assert not any(note.startswith("mixed") for note in first.notes)
    (note,) = [note for note in second.notes if note.startswith("mixed")]
    assert "protocol.iterations: 9 here, there 5" in note


def test_rivals_for_a_cell_are_rows_of_their_own_and_are_marked(results) -> None:
    found = [*results("depth", storage="float16"), *results("depth", storage="int8")]
    (table,) = layout_tables(table_rows(found, allow_mixed=True), "table4")
    assert [row[0] for row in table.rows if row[0]] == ["dinov2 (1)", "dinov2 (2)"]
    assert any("train.storage" in note for note in table.notes if note.startswith("mixed"))


def test_intervals_are_a_line_of_each_row_and_their_absence_is_explained(results) -> None:
    def uncertainty(results):
        known = Uncertainty(intervals={"rmse": (0.4, 0.6)})
        return known if results[0].backbone == "mae" else Uncertainty(problem="no file y")

    rows = table_rows([*results("depth"), *results("depth", "mae")], uncertainty=uncertainty)
    (table,) = layout_tables(rows, "table4")
    assert [row[2] for row in table.rows if row[1] == "95% interval"] == ["0.4000–0.6000"]
    assert table.notes[-1] == "no interval: no file y"
    assert "and the interval" in table.notes[0]


def test_json_has_the_cells_of_each_row(results) -> None:
    (document,) = layout_json(table_rows(results("depth", "mae", 0.5, 0.6)), "table4")
    assert (document["table"], document["rows"][0]["label"]) == ("table4", "mae")
    (cell,) = document["rows"][0]["cells"]
    assert cell["paper"] == {"value": 0.631, "source": "Table 4"}
    assert (cell["mean"], cell["seeds"], cell["interval"]) == (pytest.approx(0.55), [0, 1], None)


def test_layouts_are_printed_in_turn_and_one_that_nothing_fits_says_so(results) -> None:
    file = io.StringIO()
    rows = table_rows(results("depth"))
    for layout in (PLAIN, *LAYOUTS):
        print_tables(layout_tables(rows, layout), file=file)
    text = file.getvalue()
    titles = ["depth · nyuv2", "Table 3", "Table 4", "Table 5", "Figure 4"]
    assert sorted(titles, key=text.index) == titles
    assert "Table 3: instance awareness\nno result fits it\n" in text
    (empty,) = layout_tables(table_rows([]), "table5")
    assert plain_text(empty).splitlines() == ["Table 5: ablation", "no result fits it"]
    assert "no result fits it" in markdown(empty)


def test_a_layout_that_there_is_not_is_refused(results) -> None:
    with pytest.raises(UsageError, match="'table6': there are table3, table4, table5, figure4"):
        layout_tables(table_rows(results("depth")), "table6")
