"""What a batch job's log has, where stderr is no terminal, and hints that work as they stand."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from deapcache.cli import console


def test_without_a_terminal_a_stage_has_a_line_every_half_minute_and_one_at_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    with console.bars() as display:
        for done in range(0, 1001, 10):  # ten images a second, for 100 s
            display.show("dinov2 · coco/train", done, 1000, "images", "12 MB/s")
            now += 1.0
        display.show("dinov2 · coco/train", 1000, 1000, "images", "12 MB/s")  # told twice
        display.show("dinov2 · coco/val", 0, 0, "images")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "dinov2 · coco/train: 300 of 1,000 images, 10.0 images/s, 12 MB/s, about 70 s left",
        "dinov2 · coco/train: 600 of 1,000 images, 10.0 images/s, 12 MB/s, about 40 s left",
        "dinov2 · coco/train: 900 of 1,000 images, 10.0 images/s, 12 MB/s, about 10 s left",
        "dinov2 · coco/train: 1,000 images in 2 min, 10.0 images/s, 12 MB/s",
    ]


def test_stages_that_alternate_have_lines_of_their_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    with console.bars() as display:
        for done in range(5):
            display.show("a", done, 4, "shards")
            display.show("b", done, 8, "shards")
            now += 20.0
        display.show("a", 1, 4, "shards")  # anew
        display.show("a", 4, 4, "shards")
    assert [line.partition(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        "a: 2 of 4 shards", "b: 2 of 8 shards", "a: 4 shards in 80 s", "b: 4 of 8 shards", "a: 4 shards in 0 s"
    ]  # fmt: skip


def test_a_command_says_on_stderr_how_its_stages_ended_and_stdout_has_results_alone(cli, tmp_path: Path) -> None:
    options = ["--backbone", "timm:test_vit@untrained", "--dataset", "scenes", "--limit", "4", "--json"]
    done = cli("extract", *options, "--home", tmp_path)
    assert done.code == 0, done.err
    assert done.out.startswith("[")
    ends = [line for line in done.log.splitlines() if " · scenes/train: " in line]
    assert len(ends) == 1
    assert "4 images in " in ends[0]


def test_the_version_is_shown(cli) -> None:
    shown = cli("--version")
    assert shown.code == 0
    assert shown.out.startswith("deapcache ")


def test_hints_repeat_where_things_are(cli, tmp_path: Path) -> None:
    home, other = tmp_path / "my home", tmp_path / "other"
    for folder in (home, other):
        folder.mkdir()
    shown = cli("results", "--home", home)
    assert shown.out.strip().endswith(f"deapcache probe --task NAME --home '{home}'")
    options = ["--device", "cpu", "--read-home", other, "--read-home", home]
    done = cli("probe", "--task", "depth", "--home", tmp_path, *options)
    given = f"--home {tmp_path} --read-home {other} --read-home '{home}' --device cpu`"
    assert f"--dataset nyuv2 {given}" in done.err
    # an option that the next command does not take, or that the hint names already, is not added
    done = cli("figures", "features", "--home", home, "--out", tmp_path / "figure.png")
    assert done.err.strip().endswith(f"run deapcache extract --dataset NAME --backbone NAME --home '{home}'")


def test_hints_repeat_the_data_root(cli, tmp_path: Path) -> None:
    pipeline = ["table5", "--data-root", tmp_path / "data", "--home", tmp_path / "home", "--dry-run"]
    done = cli("run", *pipeline)
    assert done.code == 1
    assert str(tmp_path / "data") in done.out + done.err


def test_prose_about_a_command_is_left_as_it_is(cli, tmp_path: Path) -> None:
    from deapcache.cli.console import completed

    cli("results", "--home", tmp_path)
    prose = "run deapcache probe with --readout deap, or use the deapcache that extracted them"
    assert completed(prose) == prose
    assert completed("see (deapcache cache ls)") == f"see (deapcache cache ls --home {tmp_path})"
