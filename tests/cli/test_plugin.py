"""A backbone from outside the package, from its file to a bundle of results that others merge."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from deapcache_plugins import CONVOLUTION, forgotten_plugins, write_plugin

from deapcache.locations import LocalLocation
from deapcache.results import load_results

NAME = "one-convolution"


@pytest.fixture(autouse=True)
def _forget():
    torch.set_num_threads(1)
    with forgotten_plugins():
        yield


@pytest.fixture
def extracted(cli, make_coco, tmp_path: Path):
    """A function that extracts the plugin's backbone, and gives the path of its training features."""

    def run(plugin: Path) -> str:
        data = tmp_path / "data" if (tmp_path / "data").is_dir() else make_coco(8, 4)
        done = cli(
            "extract", "--plugin", plugin, "--backbone", NAME, "--dataset", "coco", "--data-root", data,
            "--base-size", "64", "--home", tmp_path / "home", "--json",
        )  # fmt: skip
        assert done.code == 0, done.err
        return next(report["path"] for report in json.loads(done.out) if report["split"] == "train")

    return run


def test_it_goes_through_extract_probe_results_submit_and_leaderboard(cli, extracted, tmp_path: Path) -> None:
    source = CONVOLUTION.replace("dim=8", "dim=8, category='self-supervised', parameters=6152")
    plugin, home, bundle = write_plugin(tmp_path, source), tmp_path / "home", tmp_path / "mine.zip"
    extracted(plugin)
    for task in ("boundaries", "foreground"):
        done = cli("probe", "--plugin", plugin, "--task", task, "--iterations", 2, "--batch-size", 4, "--home", home)
        assert done.code == 0, done.err
    shown = cli("results", "--home", home, "--no-intervals")
    assert shown.code == 0
    assert NAME in shown.out
    packed = cli("submit", "boundaries", "foreground", "--home", home, "--out", bundle)
    assert packed.code == 0, packed.err
    assert packed.out.splitlines()[-1].startswith(f"packed: {bundle}, 2 runs, ")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    with forgotten_plugins():  # they have not got the plugin
        board = cli("leaderboard", "--add", bundle, "--home", theirs, "--no-paper", "--no-intervals")
    assert board.code == 0, board.err
    assert f"added from {bundle} to {theirs}: 2 runs" in board.err
    assert NAME in board.out
    assert "self-supervised" in board.out
    assert load_results(LocalLocation(theirs)) == load_results(LocalLocation(home))
    assert len(LocalLocation(theirs).keys("submissions")) == 1


def test_its_readout_predicts_and_refuses_a_plugin_that_changed(cli, extracted, tmp_path: Path) -> None:
    plugin, home = write_plugin(tmp_path, CONVOLUTION), tmp_path / "home"
    before = extracted(plugin)
    assert cli("probe", "--task", "foreground", "--iterations", 2, "--device", "cpu", "--home", home).code == 0
    ask = ["--readout", "foreground", "--image", next((tmp_path / "data" / "val2017").iterdir()), "--home", home]
    done = cli("predict", *ask, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    with forgotten_plugins():
        write_plugin(tmp_path, CONVOLUTION.replace("import torch\n", "import torch  # changed\n"))
        done = cli("predict", *ask, "--out", tmp_path / "other", "--plugin", plugin)
        assert done.code == 1
        assert "its plugin has changed: give the file that they were extracted with (--plugin)" in done.err
        assert extracted(plugin) != before


def test_the_examples_of_the_page_are_plugins(cli, extracted, tmp_path: Path) -> None:
    """And the source of a task and a readout is part of their protocol, not of that of others."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "add-a-backbone.md").read_text()
    backbone, _, layers, others, label_type = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    extracted(write_plugin(tmp_path, f"{others}\n{CONVOLUTION}\n{backbone}\n{layers}\n{label_type}"))
    assert "my-backbone" in cli("list", "backbones").out
    ask = ["extract", "--dataset", "scenes", "--backbone", "my-layers", "--limit", 1, "--split", "val", "--json"]
    done = cli(*ask, "--layers", "2,last", "--tokens", "cls", "--home", tmp_path / "home")
    assert [report["layer"] for report in json.loads(done.out)] == ["2", "last"]
    refused = cli(*ask, "--layers", "3", "--home", tmp_path / "home")
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    quoted = next(block for language, block in fences if not language and "gives no layer" in block)
    assert (refused.code, refused.err) == (2, quoted)
    ask = ["--task", "background,foreground", "--readout", "nearest,linear", "--iterations", 2]
    done = cli("probe", *ask, "--home", tmp_path / "home")
    assert done.code == 0, done.err
    marked = {
        (result.task, result.readout): [
            "plugin" in result.protocol[part] for part in ("task_options", "readout_options")
        ]
        for result in load_results(LocalLocation(tmp_path / "home"))
    }
    assert marked == {
        ("background", "linear"): [True, False],
        ("background", "nearest"): [True, True],
        ("foreground", "linear"): [False, False],
        ("foreground", "nearest"): [False, True],
    }


def test_a_plugin_that_fails_is_one_line_and_exit_code_1(cli, tmp_path: Path) -> None:
    plugin = write_plugin(tmp_path, "import torch\n1 / 0\n")
    done = cli("list", "tasks", "--plugin", plugin)
    assert (done.code, done.out) == (1, "")
    assert done.err.strip() == f"error: plugin {plugin}, line 2: ZeroDivisionError: division by zero"


@pytest.mark.parametrize("verb", [["list", "backbones"], ["plan", "table5"], ["run", "demo"], ["results"]])
def test_a_file_that_is_not_there_is_a_usage_error(cli, tmp_path: Path, verb: list[str]) -> None:
    done = cli(*verb, "--plugin", tmp_path / "none.py")
    assert (done.code, done.out) == (2, "")
    assert done.err.strip() == f"error: plugin {tmp_path}/none.py: no such file; give a Python file"


def test_submit_refuses_what_it_cannot_pack(cli, tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out.zip"
    home.mkdir()
    assert "no result in" in cli("submit", "boundaries", "--home", home, "--out", out).err
    assert "ends in .zip" in cli("submit", "boundaries", "--home", home, "--out", tmp_path / "out").err
    out.write_bytes(b"mine")
    assert "there already" in cli("submit", "boundaries", "--home", home, "--out", out).err
    assert out.read_bytes() == b"mine"
