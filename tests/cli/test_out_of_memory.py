"""Memory that runs out is one line that says what takes less, on a GPU and on the host."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from deapcache_plugins import CONVOLUTION, forgotten_plugins, write_plugin

NAME = "one-convolution"
GREEDY = """
import torch
from deapcache.readouts import READOUTS
from deapcache.readouts.baselines import Linear


class Greedy(Linear):
    summary = "asks for 4 PB"

    def forward(self, features_BHWD, output_size, guidance=None):
        torch.empty(1 << 50)


READOUTS["greedy"] = Greedy
"""
ON_A_GPU = (
    'raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total of 1 GiB.")'
)


@pytest.fixture(autouse=True)
def _forget():
    torch.set_num_threads(1)
    with forgotten_plugins():
        yield


def extract(cli, plugin: Path, data: Path, home: Path):
    return cli(
        "extract", "--plugin", plugin, "--backbone", NAME, "--dataset", "coco", "--data-root", data, "--base-size",
        "64", "--home", home,
    )  # fmt: skip


def told(err: str) -> str:
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in err
    return line


def test_the_hosts_memory(cli, make_coco, tmp_path: Path):
    plugin, home = write_plugin(tmp_path, CONVOLUTION + GREEDY), tmp_path / "home"
    assert extract(cli, plugin, make_coco(2, 2), home).code == 0
    done = cli(
        "probe", "--plugin", plugin, "--task", "foreground", "--readout", "greedy", "--iterations", 1, "--batch-size",
        2, "--home", home,
    )  # fmt: skip
    assert done.code == 1
    line = told(done.err)
    assert "you tried to allocate 4503599627370496 bytes" in line
    assert "smaller --batch-size" in line


def test_a_gpus_memory(cli, make_coco, tmp_path: Path):
    """Raised as torch does it, since most machines that test have no GPU."""
    source = CONVOLUTION.replace("        return", f"        {ON_A_GPU}\n        return", 1)
    assert ON_A_GPU in source
    done = extract(cli, write_plugin(tmp_path, source), make_coco(2, 2), tmp_path / "home")
    assert done.code == 1
    line = told(done.err)
    assert line.startswith("error: out of memory: CUDA out of memory. Tried to allocate 20.00 GiB. Take a smaller ")
