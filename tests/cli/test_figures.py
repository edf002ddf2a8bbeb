"""``deapcache figures``: the list, files in each format, options that mean nothing, and one line for each error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from deapcache_results import save_depth
from PIL import Image

from deapcache.results.figures import FIGURES


@pytest.fixture
def figures(cli, home):
    """A function that runs ``deapcache figures`` over a home with results of depth, of two readouts and two seeds."""
    for readout in ("deap", "linear"):
        for seed in (0, 1):
            save_depth(home, seed, readout=readout)
    return lambda *arguments: cli("figures", *arguments, "--home", home)


def one_line(text: str) -> str:
    (line,) = [line for line in text.splitlines() if line.strip()]
    assert line.startswith("error: ")
    return line


def test_the_list_says_what_each_needs(cli) -> None:
    shown = cli("figures", "--list")
    assert shown.code == 0
    assert all(entry.name in shown.out for entry in FIGURES)
    assert "deapcache speed --backbone NAME" in shown.out
    documents = {each["name"]: each for each in json.loads(cli("figures", "--list", "--json").out)}
    assert "--reference" in documents["correlations"]["options"]
    assert "--paper" not in documents["sigma"]["options"]


@pytest.mark.parametrize(("ending", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")])
def test_the_ending_of_the_file_decides_its_format(figures, tmp_path: Path, ending: str, begins: bytes) -> None:
    file = tmp_path / f"figure.{ending}"
    done = figures("parameters", "--out", file)
    assert (done.code, done.out, done.err) == (0, f"figure: {file}\n", "")
    assert file.read_bytes().startswith(begins)


def test_what_is_there_is_kept_unless_overwrite_is_given(figures, tmp_path: Path) -> None:
    file = tmp_path / "sigma.png"
    file.write_text("mine")
    refused = figures("sigma", "--out", file)
    assert refused.code == 2
    assert "--overwrite" in one_line(refused.err)
    assert file.read_text() == "mine"
    done = figures("sigma", "--out", file, "--overwrite", "--json")
    assert json.loads(done.out) == {"figure": "sigma", "file": str(file)}
    with Image.open(file) as picture:
        assert picture.format == "PNG"


def test_the_papers_point_stands_beside_results_of_its_data(figures, tmp_path: Path) -> None:
    file = tmp_path / "figure.svg"
    assert figures("parameters", "--paper", "--out", file).code == 0
    with_paper = file.read_bytes()
    assert figures("parameters", "--out", file, "--overwrite").code == 0
    assert len(file.read_bytes()) < len(with_paper)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["sigmas", "--out", "a.png"], 2, "did you mean sigma?"),
        (["sigma"], 2, "NAME --out FILE.png"),
        (["sigma", "--out", "a.jpg"], 2, ".png, .svg, .pdf"),
        (["sigma", "--out", "absent/a.png"], 1, "there is no folder"),
        (["sigma", "--out", "a.png", "--paper", "--run", "x"], 2, "figure sigma does not take --paper, --run"),
        (["sigma", "--out", "a.png", "--task", "dept"], 1, "there are depth"),
        (["sigma", "--out", "a.png", "--lr", "high"], 2, "--lr 'high'"),
        (["instance-awareness", "--out", "a.png"], 1, "deapcache probe --task discrimination"),
        (["speed-quality", "--out", "a.png"], 1, "deapcache speed --backbone NAME"),
        (["correlations", "--out", "a.png", "--reference", "absent.csv"], 1, "absent.csv: no such file"),
        (["correlations", "--out", "a.png"], 1, "share 1 (mae)"),
        (["resolutions", "--out", "a.png", "--size", "big"], 2, "expected a side (224)"),
        (["resolutions", "--out", "a.png"], 2, "say which with --run"),
        (["features", "--out", "a.png", "--dataset", "coco"], 1, "deapcache extract --dataset NAME"),
        (["features", "--out", "a.png", "--images", "2", "--image", "x"], 2, "does not take --image"),
    ],
)
def test_bad_input_is_one_clear_line(figures, tmp_path: Path, monkeypatch, arguments, code, says) -> None:
    monkeypatch.chdir(tmp_path)
    done = figures(*arguments)
    assert done.code == code
    assert says in one_line(done.err)
    assert not (tmp_path / "a.png").exists()


def test_mixed_protocols_are_told_how_to_choose(figures, home, tmp_path: Path) -> None:
    save_depth(home, 0, iterations=7)
    done = figures("sigma", "--out", tmp_path / "a.png")
    assert done.code == 1
    assert "--protocol" in one_line(done.err)
