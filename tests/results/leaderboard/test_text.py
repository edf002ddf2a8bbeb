"""Tables, Markdown and CSV: what they say, and that a stranger's name stays a name."""

from __future__ import annotations

import csv
import io

import pytest
from deapcache_results import make_facts, save_depth

from deapcache.results import save_run
from deapcache.results.leaderboard import collect, leaderboard, rendered

ODD = "=a|b [c](javascript:d) <b>e</b>"


@pytest.fixture
def board(home, arrays):
    """Depth beside the paper's, and a backbone of an odd name."""
    for seed in (0, 1):
        save_depth(home, seed)
    save_run(home, make_facts(backbone=ODD), **arrays)
    return leaderboard(collect([home]))


def test_the_table_has_matrix_seeds_interval_protocol_date_and_versions(board):
    text = rendered(board, "table")
    (entry,) = [line for line in board.lines.itertuples() if line.seeds == (0, 1)]
    low, high = entry.interval
    (line,) = [line for line in text.splitlines() if entry.protocol[:12] in line and line.startswith("mae")]
    for words in (
        "results",
        f"{entry.mean:.4f} ± ",
        f"{low:.4f}–{high:.4f}",
        "0, 1",
        entry.date,
        "numpy ",
    ):
        assert words in line
    assert "backbones × tasks: the paper's data" in text
    (paper,) = [line for line in text.splitlines() if line.startswith("mae ") and "paper, Tables 3, 4" in line]
    assert paper.split()[-1] == "0.631"


def test_markdown_links_results_and_shows_odd_names_as_they_are(board, home, tmp_path):
    text = rendered(board, "markdown", beside=tmp_path)
    assert f"[result](home/{'results'}/depth-nyuv2-mae-deap-seed0-" in text
    assert r"=a\|b \[c\]\(javascript:d\) &lt;b&gt;e&lt;/b&gt;" in text
    widths = [line.replace(r"\|", "").count("|") for line in text.splitlines() if r"=a\|b" in line]
    assert len(widths) == 2
    targets = {part.split(")")[0] for part in text.split("[result](")[1:]}
    assert all((tmp_path / target.replace("%40", "@")).exists() for target in targets)


def test_csv_has_one_line_for_each_entry_and_metric_and_no_formula(board):
    rows = list(csv.DictReader(io.StringIO(rendered(board, "csv"))))
    assert len(rows) == len(board.lines)
    assert len({(row["task"], row["source"], row["backbone"], row["readout"], row["metric"]) for row in rows}) == len(
        rows
    )
    (depth,) = [row for row in rows if row["source"] == "measured" and row["task"] == "depth"]
    (entry,) = [line for line in board.lines.itertuples() if line.seeds == (0, 1)]
    assert float(depth["mean"]) == entry.mean
    assert (float(depth["low"]), float(depth["high"])) == entry.interval
    assert (depth["seeds"], depth["protocol"]) == ("0 1", entry.protocol)
    assert {row["backbone"] for row in rows if row["task"] == "boundaries" and row["source"] == "measured"} == {
        f"'{ODD}"
    }
    assert {row["details"] for row in rows if row["source"] == "paper"} == {"Table 3", "Table 4", "Table 5"}
