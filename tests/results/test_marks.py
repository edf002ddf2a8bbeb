"""A score that says less than it seems is marked, and the legend says why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from deapcache_results import main_rows

from deapcache.results import PLAIN, Difference, Uncertainty, layout_json, make_tables, table_rows
from deapcache.results.marks import DIVERGED, FALLING, FEW_JUDGED, LEGEND, NOT_ABOVE, has_diverged, is_falling
from deapcache.results.record import make_result

CE = {"ce": {"label": "CE", "unit": "nats", "higher_is_better": False}}


def marked(rows, **options):
    return {row.readout: row.marks for row in main_rows(rows, **options)}


def test_a_score_that_is_not_better_than_the_priors_is_marked_also_without_intervals(facts) -> None:
    ious = {"above": 0.2, "equal": 0.1, "below": 0.05, "undefined": float("nan")}  # the prior's is 0.1
    found = marked([make_result(facts(readout=name, iou=iou)) for name, iou in ious.items()])
    assert found == {"above": "", "equal": NOT_ABOVE, "below": NOT_ABOVE, "undefined": ""}
    lower = [make_result(facts(readout=name, metrics=CE, scores={"ce": ce})) for name, ce in ious.items()]
    assert marked(lower) == {"above": NOT_ABOVE, "equal": NOT_ABOVE, "below": "", "undefined": ""}


def test_doubt_about_the_difference_is_marked_and_more_so_where_many_are_compared(facts) -> None:
    p = {"sure": 0.001, "likely": 0.03, "doubtful": 0.2}
    results = {name: make_result(facts(readout=name, iou=0.2)) for name in p}

    def uncertainty(runs):
        return Uncertainty(differences={"iou": Difference(0.1, (0.0, 0.2), p[runs[0].readout])})

    alone = {name: marked([one], uncertainty=uncertainty)[name] for name, one in results.items()}
    assert alone == {"sure": "", "likely": "", "doubtful": NOT_ABOVE}
    assert marked(results.values(), uncertainty=uncertainty) == {"sure": "", "likely": NOT_ABOVE, "doubtful": NOT_ABOVE}


@pytest.mark.parametrize(("judged", "mark"), [(49, FEW_JUDGED), (50, "")])
def test_few_judged_images_are_marked(facts, judged, mark) -> None:
    made = make_result(facts())
    assert marked([replace(made, scores={**made.scores, "judged_images": judged})]) == {"deap": mark}


def test_a_loss_that_still_falls_is_marked(facts) -> None:
    steps = np.arange(1, 201)
    falling = [(int(step), 2.0 - step / 200) for step in steps]
    settled = [(int(step), 1.0 + 3 * 0.9**step + 0.2 * np.sin(step)) for step in steps]
    assert marked([replace(make_result(facts()), loss_curve=tuple(falling))]) == {"deap": FALLING}
    assert marked([replace(make_result(facts()), loss_curve=tuple(settled))]) == {"deap": ""}
    assert not is_falling([3.0, 2.0, 1.0])  # too few points to tell
    assert not is_falling([None] * 200)


def test_a_training_that_ended_above_its_beginning_is_marked(facts) -> None:
    rising = [(step, 1.0 + step / 10) for step in range(1, 41)]
    settled = [(step, 1.0 + 0.9**step) for step in range(1, 41)]
    assert marked([replace(make_result(facts()), loss_curve=tuple(rising))]) == {"deap": DIVERGED}
    assert marked([replace(make_result(facts()), loss_curve=tuple(settled))]) == {"deap": ""}
    assert has_diverged([1.0, None])
    assert not has_diverged([1.0, 1.1, 0.9]), "too few points to tell"


def test_marks_have_a_column_and_one_legend(facts) -> None:
    rows = table_rows([make_result(facts(readout=name, iou=iou)) for name, iou in (("a", 0.05), ("b", 0.2))])
    (table,) = make_tables(rows)
    place = table.header.index("marks")
    assert [row[place] for row in table.rows] == [NOT_ABOVE, "", ""]
    assert table.notes.count(f"{NOT_ABOVE} {LEGEND[NOT_ABOVE]}") == 1
    assert [row["marks"] for row in layout_json(rows, PLAIN)] == [NOT_ABOVE, ""]
    (unmarked,) = make_tables(rows[rows["readout"] == "b"])
    assert "marks" not in unmarked.header
    assert not any(note[:1] in LEGEND for note in unmarked.notes)
