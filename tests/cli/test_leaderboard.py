"""``deapcache leaderboard``: formats, folders, several homes."""

from __future__ import annotations

import csv
import io

import pytest
from deapcache_results import save_depth

from deapcache.locations import LocalLocation


@pytest.fixture
def other(tmp_path):
    """A second home, with another seed."""
    (tmp_path / "other").mkdir()
    place = LocalLocation(tmp_path / "other")
    save_depth(place, 1)
    return place


def test_table_of_the_home_with_and_without_the_papers_rows(cli, home):
    save_depth(home)
    done = cli("leaderboard", "--home", home)
    assert done.code == 0, done.err
    assert done.out.startswith("backbones × tasks: the paper's data\n")
    assert "95% interval" in done.out
    alone = cli("leaderboard", "--home", home, "--no-paper", "--no-intervals").out
    assert alone.startswith("backbones × tasks: nyuv2\n")
    assert "paper, Table" not in alone
    assert "95% interval:" not in alone.partition("depth · nyuv2")[2].splitlines()[2]


def test_several_homes_are_one_leaderboard(cli, home, other):
    save_depth(home)
    done = cli("leaderboard", "--results", home, "--results", other, "--format", "csv")
    (row,) = [row for row in csv.DictReader(io.StringIO(done.out)) if row["source"] == "measured"]
    assert row["seeds"] == "0 1"
    assert row["details"].startswith(str(home.path))


@pytest.mark.parametrize(
    ("format", "name", "words"),
    [("table", "leaderboard.txt", "backbones × tasks"), ("markdown", "leaderboard.md", "[result](../../other/results/"),
     ("csv", "leaderboard.csv", "task,dataset,"), ("html", "leaderboard.html", "<!doctype html>")],
)  # fmt: skip
def test_each_format_is_written_to_a_folder(cli, other, tmp_path, format, name, words):
    folder = tmp_path / "new" / "folder"
    done = cli("leaderboard", "--results", other, "--format", format, "--out", folder)
    assert (done.code, done.out) == (0, f"written: {folder / name}\n")
    assert words in (folder / name).read_text()
    assert [file.name for file in folder.iterdir()] == [name]


def test_bad_input_is_one_line(cli, home, other, tmp_path):
    (tmp_path / "file").write_text("")
    for arguments, code, words in (
        (("--home", home), 1, "no results in"),
        (("--results", other, "--results", home), 1, str(home)),
        (("--results", other, "--format", "pdf"), 2, "table, markdown, csv, html"),
        (("--results", other, "--out", tmp_path / "file" / "x"), 1, "choose another --out"),
    ):
        done = cli("leaderboard", *arguments)
        assert done.code == code
        assert done.err.count("error:") == 1
        assert words in " ".join(done.err.split())
