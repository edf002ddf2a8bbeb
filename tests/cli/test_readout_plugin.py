"""A readout in one class of a plugin, from `list readouts` to `predict`; and one that became a plugin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from deapcache_plugins import CONVOLUTION, forgotten_plugins, write_plugin

READOUT = """\
import torch
from deapcache.readouts import READOUTS, SIZES, Readout, variant

class Nearest(Readout):
    summary = "two linear maps of each cell, not smoothed"
    sizes = SIZES

    def __init__(self, config, *, gain=1.0):
        super().__init__(config)
        self.options = {"code_dim": config.code_dim, "gain": gain}
        self.maps = torch.nn.Sequential(
            torch.nn.Linear(config.feature_dim, config.code_dim), torch.nn.Linear(config.code_dim, config.out_channels))

    def forward(self, features_BHWD, output_size, guidance=None):
        cells = self.options["gain"] * self.maps(features_BHWD.float()).permute(0, 3, 1, 2)
        return torch.nn.functional.interpolate(cells, size=output_size)

    def set_output_bias(self, values):
        self.maps[1].bias.data.copy_(values / self.options["gain"])

READOUTS["nearest"] = Nearest
READOUTS["loud"] = variant(Nearest, "nearest, twice as loud", size=8, gain=2.0)
"""


@pytest.fixture(autouse=True)
def _forget():
    torch.set_num_threads(1)
    with forgotten_plugins():
        yield


def test_a_readout_of_twenty_lines_is_one_like_any_other(cli, make_coco, tmp_path: Path):
    (body,) = [part for part in READOUT.split("\n\n\n") if "class Nearest" in part]
    assert len([line for line in body.splitlines() if line]) <= 20
    plugin, home = write_plugin(tmp_path, CONVOLUTION + READOUT), tmp_path / "home"
    rows = {row["name"]: row for row in json.loads(cli("list", "readouts", "--plugin", plugin, "--json").out)}
    assert rows["nearest"]["sizes"] == [8, 16, 32, 64, 128]
    assert (rows["loud"]["sizes"], rows["loud"]["summary"]) == ([], "nearest, twice as loud")
    assert rows["nearest"]["parameters"]["dinov2"]["voc"] == 16 * 769 + 21 * 17
    assert rows["loud"]["parameters"]["dinov2"]["voc"] == 8 * 769 + 21 * 9

    place = ("--plugin", plugin, "--home", home)
    data = make_coco(4, 2)
    extracted = cli(
        "extract",
        *place,
        "--backbone",
        "one-convolution",
        "--dataset",
        "coco",
        "--data-root",
        data,
        "--base-size",
        "64",
    )
    assert extracted.code == 0, extracted.err
    probed = cli(
        "probe", *place, "--task", "foreground", "--readout", "nearest,nearest:8,nearest:16,loud", "--iterations", 2,
        "--batch-size", 2, "--json",
    )  # fmt: skip
    assert probed.code == 0, probed.err
    runs = json.loads(probed.out)
    options = {run["readout"]: run["protocol"]["readout_options"] for run in runs}
    assert {name: (one["code_dim"], one["gain"]) for name, one in options.items()} == {
        "nearest": (16, 1.0), "nearest:8": (8, 1.0), "loud": (8, 2.0),
    }  # fmt: skip
    assert all(one["plugin"].startswith("sha256:") for one in options.values())
    (run,) = [run["run"] for run in runs if run["readout"] == "loud"]
    image = next(data.rglob("*.jpg"))
    predicted = cli(
        "predict",
        *place,
        "--readout",
        run,
        "--image",
        image,
        "--save-arrays",
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
    )
    assert predicted.code == 0, predicted.err
    (facts,) = (json.loads(file.read_text()) for file in (tmp_path / "out").glob("*.json"))
    assert (facts["values"], facts["unit"]) == ("probability of the positive class", "")


def test_a_readout_that_became_a_plugin_leads_to_it(cli, tmp_path: Path):
    done = cli("probe", "--task", "foreground", "--readout", "anyup:32", "--home", tmp_path)
    (line,) = done.err.splitlines()
    assert done.code == 2
    assert line.startswith("error: readout anyup is an example of a plugin now")
    assert "docs/templates/anyup.py" in line
    assert "docs/readouts.md" in line
