"""``deapcache scenes export`` from the command line."""

from __future__ import annotations

import json

from deapcache.datasets.scenes.export import FORMATS


def test_export_says_what_it_wrote_and_how_to_read_it(cli, tmp_path):
    done = cli("scenes", "export", "--as", "coco", "--out", tmp_path / "a", "--split", "val", "--limit", 1)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"{tmp_path / 'a'}: 1 val images as coco has them",
        f"read them with --dataset coco --data-root {tmp_path / 'a'}",
    ]
    listed = json.loads(cli("list", "datasets", "--data-root", tmp_path / "a", "--json").out)["datasets"]
    assert next(row for row in listed if row["name"] == "coco")["images"]["val"] == 1


def test_export_as_json(cli, tmp_path):
    done = cli("scenes", "export", "--as", "folder", "--out", tmp_path / "a", "--split", "val", "--limit", 1, "--json")
    assert json.loads(done.out) == {
        "format": "folder",
        "dataset": "folder:a",
        "path": str(tmp_path / "a"),
        "images": {"val": 1},
    }


def test_a_second_export_to_the_same_folder_is_refused_in_one_line(cli, tmp_path):
    (tmp_path / "photo.jpg").touch()
    done = cli("scenes", "export", "--as", "coco", "--out", tmp_path)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith(f"error: --out {tmp_path} is not empty, it holds photo.jpg")


def test_help_names_every_layout(cli):
    shown = " ".join(cli("scenes", "export", "--help").out.split())
    *most, last = FORMATS
    assert f"{', '.join(most)} or {last}." in shown
