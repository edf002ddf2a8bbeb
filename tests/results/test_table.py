"""Tables say the numbers, their direction and where they come from."""

from __future__ import annotations

import io

import pytest
from deapcache_results import make_selected
from rich.console import Console

from deapcache.errors import ResultsError
from deapcache.results import (
    PLAIN,
    Difference,
    Selection,
    Table,
    Uncertainty,
    layout_json,
    layout_tables,
    make_tables,
    markdown,
    plain_text,
    print_tables,
    select,
    table_rows,
)
from deapcache.results.record import make_result
from deapcache.results.tables import PRIOR_ROW, rich_table


def _rows(facts, uncertainty=None, **changes):
    results = [make_result(facts(seed=seed, iou=iou, **changes)) for seed, iou in ((0, 0.5), (1, 0.7))]
    return table_rows([*results, make_result(facts(readout="bicubic", iou=0.4, **changes))], uncertainty=uncertainty)


def test_block_has_scores_prior_and_sources(facts) -> None:
    (table,) = make_tables(_rows(facts))
    assert table.title == "boundaries · coco"
    assert table.header == ("backbone", "readout", "IoU ↑", "CE [nats] ↓", "seeds", "parameters")
    assert table.rows == (
        ("tiny", "bicubic", "0.4000", "0.3000", "1", "43,264"),
        ("tiny", "deap", "0.6000 ± 0.1414", "0.3000 ± 0.0000", "2", "43,264"),
        (PRIOR_ROW, "", "0.1000", "0.7000", "", "0"),
    )
    notes = "\n".join(table.notes)
    assert "backbone forwards: 0" in notes
    assert "somewhere/val targets" in notes
    for digest in _rows(facts)["protocol"]:
        assert digest[:12] in notes


def test_undefined_score_is_a_dash(facts) -> None:
    (table,) = make_tables(table_rows([make_result(facts(iou=float("nan")))]))
    assert table.rows[0][2] == "–"


def test_mixed_conditions_stand_in_tables_of_their_own(facts) -> None:
    results = [make_result(facts(iterations=n)) for n in (5, 9)]
    assert len(make_tables(table_rows(results, allow_mixed=True))) == 2


def test_mixture_is_marked_with_the_fields_that_differ(facts) -> None:
    results = [make_result(facts(iterations=n, readout=r)) for n, r in ((5, "bicubic"), (9, "deap"))]
    first, second = make_tables(table_rows(results, allow_mixed=True))
    assert not any(note.startswith("mixed") for note in first.notes)
    assert second.notes[0] == "mixed: boundaries · coco measured unlike the first, protocol.iterations: 9 here, there 5"


def test_rows_of_one_name_are_numbered_and_told_apart(facts) -> None:
    results = [make_result(facts(storage=storage)) for storage in ("float16", "int8")]
    (table,) = make_tables(table_rows(results, allow_mixed=True))
    assert [row[1] for row in table.rows[:-1]] == ["deap (1)", "deap (2)"]
    (note,) = [note for note in table.notes if note.startswith("mixed")]
    assert "boundaries · coco · tiny · deap" in note
    assert "train.storage" in note
    assert "protocol" not in note


def test_chosen_rates_are_one_table_that_says_what_was_tried() -> None:
    results = [make_selected(lr, backbone=b, seed=s) for b, lr in (("a", 1e-2), ("b", 1e-3)) for s in (0, 1)]
    results.append(make_selected("none", backbone="b", readout="knn"))
    rows = table_rows(results)
    (table,) = make_tables(rows)
    place = table.header.index("lr (of, range)")
    assert [row[place] for row in table.rows] == ["0.01 (of 3, 0.2500)", "0.001 (least of 3, 0.2500)", "–", ""]
    assert "lr: chosen on 24 training images that were held out for it" in "\n".join(table.notes)
    assert any(note.startswith("protocol: deapcache-2: ") for note in table.notes)
    assert list(rows[rows["is_main"]]["lr_text"]) == ["lr selected", "lr selected", "not trained"]
    first, *_ = layout_json(rows, PLAIN)
    assert (first["lr"], first["protocol_name"], first["features"]) == (1e-2, "deapcache-2", {"outlier_ratio": 3.5})
    assert first["selection"]["candidates"][2] == {"lr": 3e-2, "score": None}
    assert [row[0] for row in layout_tables(rows, "table5")[0].rows] == ["deap", "knn"]


def test_named_protocols_do_not_stand_beside_results_of_before(facts) -> None:
    results = [make_selected(1e-2), make_result(facts(seed=1))]
    with pytest.raises(ResultsError, match=r"protocol\.name: ('' or 'deapcache-2'|'deapcache-2' or '')"):
        table_rows(results)
    assert len(make_tables(table_rows(results, allow_mixed=True))) == 2
    assert select(results, Selection(protocols=["deapcache-2"])) == results[:1]


def test_learning_rates_are_rows_that_show_them(facts) -> None:
    results = [make_result(facts(lr=lr, seed=seed)) for lr in (1e-3, 3e-4) for seed in (0, 1)]
    (table,) = make_tables(table_rows(results))
    place = table.header.index("lr")
    assert [row[place] for row in table.rows] == ["0.0003", "0.001", ""]
    assert "lr" not in make_tables(table_rows(results[:2]))[0].header


def test_time_and_memory_stand_right_where_they_were_measured(facts) -> None:
    cost = {"train_ms_per_image": 1.5, "backward_bytes_per_image": 3.25e6, "predict_ms_per_image": 0.5}
    results = [
        make_result(facts(seed=0, cost=cost)),
        make_result(facts(seed=1, cost={**cost, "train_ms_per_image": 2.5})),
    ]
    (table,) = make_tables(table_rows([*results, make_result(facts(readout="old"))]))
    assert table.header[-2:] == ("train [ms/image]", "memory [MB/image]")
    assert [row[-2:] for row in table.rows] == [("2", "3.25"), ("–", "–"), ("", "")]
    assert any(note.endswith("of the readout alone, measured on cpu") for note in table.notes)
    (without,) = make_tables(table_rows([make_result(facts())]))
    assert not any("time and memory" in note for note in without.notes)
    assert without.header[-1] == "parameters"


def test_interval_of_the_main_metric_stands_beside_it_and_its_absence_is_explained(facts) -> None:
    def uncertainty(results):
        known = {"iou": (0.45, 0.75), "ce": (0.2, 0.4)}
        above = {"iou": Difference(0.5, (0.35, 0.65), 0.001)}
        deap = Uncertainty(intervals=known, differences=above)
        return deap if results[0].readout == "deap" else Uncertainty(problem="no file x")

    (table,) = make_tables(_rows(facts, uncertainty))
    assert table.header[2:6] == ("IoU ↑", "95% interval", "score − prior [95% interval]", "CE [nats] ↓")
    assert [row[3] for row in table.rows] == ["–", "0.4500–0.7500", ""]
    assert [row[4] for row in table.rows] == ["–", "+0.5000 [+0.3500, +0.6500]", ""]
    assert "no interval: no file x" in table.notes
    bicubic, deap = layout_json(_rows(facts, uncertainty), PLAIN)
    assert deap["intervals"]["ce"] == [0.2, 0.4]
    assert deap["over_prior"]["iou"] == {"value": 0.5, "interval": [0.35, 0.65], "p": 0.001, "p_holm": 0.001}
    assert deap["over_prior"]["ce"] is bicubic["over_prior"]["iou"] is None
    assert (deap["seeds"], deap["mean"]["iou"], len(deap["runs"])) == ([0, 1], pytest.approx(0.6), 2)
    assert (bicubic["problem"], bicubic["spread"]["iou"], bicubic["readout"]) == ("no file x", None, "bicubic")


def test_seeds_and_their_spread_are_named(facts) -> None:
    (table,) = make_tables(_rows(facts))
    assert "seeds: 0, 1; ± is the sample standard deviation over seeds" in table.notes
    (single,) = make_tables(table_rows([make_result(facts(seed=7))]))
    assert "seeds: 7" in single.notes


def test_headers_of_several_lines_end_beside_each_other() -> None:
    table = Table("t", ("name", "", "depth\nRMSE [m] ↓", "P\n[M]"), (("a", "", "0.5", "1"),), ())
    assert plain_text(table).splitlines() == [
        "t",
        "             depth    P",
        "name    RMSE [m] ↓  [M]",
        "a              0.5    1",
    ]
    assert "| name |  | depth RMSE [m] ↓ | P [M] |" in markdown(table)
    console = Console(file=io.StringIO(), width=80, force_terminal=True, no_color=True)
    console.print(rich_table(table))
    assert "RMSE [m] ↓" in console.file.getvalue()


def test_markdown_is_a_table_with_every_cell(facts) -> None:
    (table,) = make_tables(_rows(facts, backbone="a|b"))
    lines = markdown(table).splitlines()
    assert lines[0] == "### boundaries · coco"
    shown = [line for line in lines if line.startswith("|")]
    assert shown[1] == "| --- | --- | ---: | ---: | ---: | ---: |"
    assert r"| a\|b | deap | 0.6000 ± 0.1414 | 0.3000 ± 0.0000 | 2 | 43,264 |" in shown
    assert sum(line.startswith("* ") for line in lines) == len(table.notes)


def test_a_file_gets_aligned_uncut_text_without_escapes(facts) -> None:
    file = io.StringIO()
    print_tables(make_tables(_rows(facts, backbone="a-backbone-with-a-very-long-name" * 4)), file=file)
    text = file.getvalue()
    assert "\x1b" not in text
    assert "a-backbone-with-a-very-long-name" * 4 in text
    lines = text.splitlines()[1:5]
    assert len({line.index(cell) for line, cell in zip(lines[1:], ("bicubic", "deap"), strict=False)}) == 1


def test_terminal_table_shows_the_same(facts) -> None:
    (table,) = make_tables(_rows(facts))
    console = Console(file=io.StringIO(), width=200, force_terminal=True, no_color=True)
    console.print(rich_table(table))
    for row in (table.header, *table.rows):
        assert all(cell in console.file.getvalue() for cell in row)
    assert plain_text(table).splitlines()[0] == table.title
