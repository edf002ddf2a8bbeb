"""``deapcache results``: tables of what a home holds, with nothing mixed unless told to."""

from __future__ import annotations

import functools
import json

import pytest
from deapcache_results import save_depth

from deapcache.cli import options


@pytest.fixture
def save(home):
    """A function that saves one run of depth, of the paper's data, with real statistics of six images."""
    return functools.partial(save_depth, home)


def test_an_empty_home_says_what_to_do(cli, home):
    done = cli("results", "--home", home)
    assert done.code == 0
    assert "deapcache probe" in done.out
    assert json.loads(cli("results", "--home", home, "--json").out) == []


def test_table_has_seeds_spread_interval_and_protocol(cli, home, save):
    digest, again = (save(seed).protocol_digest for seed in (0, 1))
    assert digest == again
    done = cli("results", "--home", home)
    assert done.code == 0, done.err
    assert done.out.startswith("depth · nyuv2\n")
    assert "95% interval" in done.out
    assert " ± " in done.out
    assert "seeds: 0, 1" in done.out
    assert digest[:12] in done.out
    assert "95% interval" not in cli("results", "--home", home, "--no-intervals").out


def test_mixed_protocols_are_refused_until_told_otherwise(cli, home, save):
    short, long = save(iterations=5), save(iterations=9)
    refused = cli("results", "--home", home)
    assert refused.code == 1
    assert refused.err.count("error:") == 1
    for words in ("--allow-mixed", f"--protocol {short.protocol_digest[:12]}", "protocol.iterations"):
        assert words in " ".join(refused.err.split())
    chosen = cli("results", "--home", home, "--protocol", long.protocol_digest[:12])
    assert chosen.code == 0
    assert short.protocol_digest[:12] not in chosen.out
    mixed = cli("results", "--home", home, "--allow-mixed")
    assert mixed.out.count("depth · nyuv2\n") == 2
    assert mixed.out.count("mixed: ") == 1


def test_paper_layouts_as_text_markdown_and_json(cli, home, save):
    save()
    text = cli("results", "--home", home, "--paper").out
    assert "Table 4: local semantics and spatial understanding" in text
    (line,) = [line for line in text.split("Table 5")[0].splitlines() if line.split()[:1] == ["paper"]]
    assert line.split() == ["paper", "0.631", "0.043"]
    assert "| mae | ours | " in cli("results", "--home", home, "--paper", "--markdown").out
    table4, table5, figure4 = json.loads(cli("results", "--home", home, "--paper", "--json").out)
    assert [t["table"] for t in (table4, table5, figure4)] == ["table4", "table5", "figure4"]
    assert table4["rows"][0]["cells"][0]["paper"]["value"] == 0.631
    assert len(table4["rows"][0]["cells"][0]["interval"]) == 2


def test_names_choose_and_a_wrong_one_is_told_what_there_is(cli, home, save):
    save()
    save(readout="linear")
    (row,) = json.loads(cli("results", "--home", home, "--readout", "linear", "--json").out)
    assert (row["task"], row["readout"], len(row["intervals"]["rmse"])) == ("depth", "linear", 2)
    wrong = cli("results", "--home", home, "--task", "dept")
    assert wrong.code == 1
    assert "there are depth" in wrong.err


def test_random_weights_of_several_seeds_are_named_at_once(cli, home, save):
    assert options.names("mae,mae@untrained:0,1,2,dino") == [
        *("mae", "mae@untrained:0", "mae@untrained:1", "mae@untrained:2", "dino"),
    ]
    assert options.names("mae@untrained:1,2@224x448") == ["mae@untrained:1", "mae@untrained:2@224x448"]
    assert options.names("0,1,2") == ["0", "1", "2"]
    save()
    done = cli("results", "--backbone", "mae@untrained:0,1", "--home", home)
    assert "no result of the backbones mae@untrained, mae@untrained:1: there are mae" in done.err


def test_intervals_may_be_over_seeds_too(cli, home, save):
    for seed in (0, 1):
        save(seed=seed)
    for options_given, over in (((), "val images;"), (("--over-seeds",), "val images and seeds")):
        done = cli("results", "--home", home, *options_given)
        assert f"95% interval: of the mean over seeds, over {over}" in done.out
    done = cli("leaderboard", "--home", home, "--no-paper", "--over-seeds")
    assert "over val images and seeds" in done.out
