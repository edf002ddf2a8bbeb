"""A backbone from outside the package, from its file to a bundle of results that others merge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from deapcache_plugins import CONVOLUTION, forgotten_plugins, write_plugin

from deapcache.locations import LocalLocation
from deapcache.results import load_results
from deapcache.results.bundle import add_bundle

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


def test_it_goes_through_extract_probe_results_and_submit(cli, extracted, tmp_path: Path) -> None:
    plugin, home, bundle = write_plugin(tmp_path, CONVOLUTION), tmp_path / "home", tmp_path / "mine.zip"
    extracted(plugin)
    for task in ("boundaries", "foreground"):
        done = cli("probe", "--task", task, "--iterations", 2, "--batch-size", 4, "--device", "cpu", "--home", home)
        assert done.code == 0, done.err
    shown = cli("results", "--home", home, "--no-intervals")
    assert shown.code == 0
    assert NAME in shown.out
    packed = cli("submit", "boundaries", "foreground", "--home", home, "--out", bundle)
    assert packed.code == 0, packed.err
    assert packed.out.splitlines()[-1].startswith(f"packed: {bundle}, 2 runs, ")
    (tmp_path / "theirs").mkdir()
    theirs = LocalLocation(tmp_path / "theirs")
    with forgotten_plugins():  # they have not got the plugin
        assert len(add_bundle(bundle, theirs).added) == 2
    assert load_results(theirs) == load_results(LocalLocation(home))
    (kept,) = theirs.keys("submissions")
    assert json.loads(theirs.read(kept))["backbones"][NAME]["dim"] == 8


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


def test_its_source_is_part_of_a_plugged_readouts_protocol(cli, extracted, tmp_path: Path) -> None:
    more = 'from deapcache.readouts import READOUTS\nREADOUTS.add("plain", READOUTS.get("linear"))\n'
    extracted(write_plugin(tmp_path, CONVOLUTION + more))
    home = tmp_path / "home"
    done = cli("probe", "--task", "foreground", "--readout", "plain,linear", "--iterations", 2, "--home", home)
    assert done.code == 0, done.err
    plain, own = sorted(load_results(LocalLocation(home)), key=lambda result: result.readout != "plain")
    assert plain.protocol["readout_options"]["plugin"].startswith("sha256:")
    assert "plugin" not in own.protocol["readout_options"]
    assert "plugin" not in plain.protocol["task_options"]


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
