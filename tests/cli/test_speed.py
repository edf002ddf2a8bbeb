"""``deapcache speed``: what it prints and keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from deapcache_plugins import CONVOLUTION, forgotten_plugins, write_plugin

from deapcache.experiments import speed


@pytest.fixture(autouse=True)
def _small_reference(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(speed, "REFERENCE", "one-convolution")
    with forgotten_plugins():
        yield


def test_a_table_of_a_plugins_backbone_and_a_file_of_it(cli, tmp_path: Path) -> None:
    plugin, home = write_plugin(tmp_path, CONVOLUTION), tmp_path / "home"
    home.mkdir()
    ask = ["speed", "--plugin", plugin, "--backbone", "one-convolution", "--device", "cpu", "--home", home]
    done = cli(*ask)
    assert (done.code, done.err) == (0, "")
    title, head, row = done.out.splitlines()
    assert title.endswith(": 10 batches of 8; time relative to ViT-B/16 at 224 = 1")
    assert head.split()[:2] == ["name", "input"]
    assert row.split()[:3] == ["one-convolution", "images", "64x64"]
    (file,) = (home / "speed").iterdir()
    document = json.loads(file.read_text())
    assert (document["backbone"], document["batch"], document["batches"]) == ("one-convolution", 8, 10)
    assert document["relative"] == document["runtime_factor"] == 1


def test_nothing_to_measure_is_a_usage_error(cli, tmp_path: Path) -> None:
    done = cli("speed", "--home", tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err.strip().endswith("nothing to measure: name backbones with --backbone")
