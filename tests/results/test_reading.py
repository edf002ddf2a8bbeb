"""Runs of several layers of one backbone are told apart, wherever they are shown."""

from __future__ import annotations

import csv
import io

import pytest
from deapcache_results import main_rows, make_facts

from deapcache.results import PLAIN, layout_json, load_results, make_tables, save_run, table_rows
from deapcache.results.figures.groups import group_results
from deapcache.results.leaderboard import collect, leaderboard, rendered
from deapcache.results.leaderboard.reproduce import reproduce_commands

LABELS = ["mae · layer 3", "mae · layer 12", "mae"]


@pytest.fixture
def layers(home, arrays):
    """A home with runs of three layers of a backbone, two seeds each, and one of features beside class tokens."""
    for layer in ("last", "12", "3"):
        for seed in (0, 1):
            save_run(home, make_facts(backbone="mae", layer=layer, seed=seed), **arrays)
    return home


def test_layers_are_rows_of_one_table_in_order(layers):
    summaries = main_rows(load_results(layers))
    assert [one.display_name for one in summaries] == LABELS
    assert {one.seeds for one in summaries} == {(0, 1)}
    rows = table_rows(load_results(layers))
    (table,) = make_tables(rows)
    assert [row[:2] for row in table.rows[:3]] == [(label, "deap") for label in LABELS]
    assert [row["layer"] for row in layout_json(rows, PLAIN)] == ["3", "12", ""]


def test_a_single_layer_is_named_though_nothing_stands_beside_it(home, arrays):
    save_run(home, make_facts(backbone="mae", layer="6", tokens="cls"), **arrays)
    (summary,) = main_rows(load_results(home))
    assert summary.display_name == "mae · layer 6, cls kept"


def test_layers_in_every_form_of_the_leaderboard(layers):
    board = leaderboard(collect([layers]), intervals=False, paper=False)
    (comparison,) = board.comparisons
    assert {line.display_name for line in comparison} == set(LABELS)
    assert {line.name for line in comparison} == {"deap"}
    assert board.lines["line"].nunique() == 3
    for label in LABELS[:2]:
        assert label in rendered(board, "table")
        assert label in rendered(board, "markdown")
    page = rendered(board, "html")
    assert 'data-v="mae · layer 3"' in page
    assert '<span class="mark">layer 12</span>' in page
    rows = list(csv.DictReader(io.StringIO(rendered(board, "csv"))))
    assert sorted({row["layer"] for row in rows}) == ["", "12", "3"]
    assert {row["tokens"] for row in rows} == {"none"}


def test_figures_name_layers(layers):
    from deapcache.results.figures.sigma import draw_sigma

    canvas = draw_sigma(group_results(table_rows(load_results(layers))))
    (axis,) = canvas.figure.axes
    assert {text.get_text() for text in axis.get_yticklabels()} == set(LABELS)


def test_the_command_to_repeat_names_the_layer(home, arrays):
    facts = make_facts(backbone="mae", layer="6", tokens="cls")
    facts["protocol"]["optimiser"]["weight_decay"] = 1e-4
    extract, probe = reproduce_commands(save_run(home, facts, **arrays))
    assert extract.endswith("--layers 6 --tokens cls")
    assert "--where tokens=cls --where layer=6" in probe
