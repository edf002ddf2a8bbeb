"""What a GPU would be given runs, tiny, on the CPU: every part, every test in ``tests/cuda``, in order and in time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from deapcache_cuda import stand_in_gpu

from tests.benchmarks import bench_gpu
from tests.benchmarks.bench_gpu import PARTS, TOTAL_SECONDS, Outcome, Part, Setting, markdown, run_part

SCRIPT = Path(__file__).with_name("gpu.sh")
DRY = Setting(device="cpu", dry=True)


@pytest.mark.slow
def test_the_dry_run_runs_every_part_and_every_cuda_test(tmp_path: Path) -> None:
    environment = {**os.environ, "OUT": str(tmp_path / "out"), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [SCRIPT, "--dry-run"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert [(part["name"], part["status"]) for part in found["parts"]] == [(part.name, "ok") for part in PARTS]
    tables = {part["name"]: part["rows"] for part in found["parts"]}
    assert all(tables.values())
    assert not any("problem" in row for rows in tables.values() for row in rows), tables
    assert len(tables["tests"]) > 10
    assert {row["outcome"] for row in tables["tests"]} == {"passed"}
    assert max(row.get("loss off by", 0) for row in tables["readout"]) < 1e-4
    shown = (tmp_path / "out" / "gpu.md").read_text()
    assert all(f"## {part.title}" in shown for part in PARTS)
    assert "says anything of speed" in shown


def test_the_parts_fit_into_eight_minutes() -> None:
    assert TOTAL_SECONDS < 480 - 20, "Python's start and the last write"
    assert [part.name for part in PARTS][:2] == ["machine", "tests"]


def _fails(_: Setting):
    yield {"before": 1}
    raise ValueError("two\nlines")


def _hangs(_: Setting):
    yield {"before": 1}
    time.sleep(600)


def _dies(_: Setting):
    yield {"before": 1}
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("run", "status", "problem"),
    [
        (_fails, "failed", "ValueError: two"),
        (_hangs, "timeout", "ended after 2 s"),
        (_dies, "failed", "its process died"),
    ],
)
def test_a_part_that_ends_badly_keeps_its_rows_and_says_why(run, status, problem) -> None:
    outcome = run_part(Part("part", "A part", 2, run), DRY, 2)
    assert (outcome.status, outcome.problem, outcome.rows) == (status, problem, [{"before": 1}])
    assert outcome.seconds < 60
    assert f"{problem}" in markdown([outcome], ["zarr (none)"], DRY)


def test_what_does_not_fit_into_the_time_is_skipped_with_a_line(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_gpu", "--dry-run", "--out", str(tmp_path), "--seconds", "0"])
    monkeypatch.setattr(bench_gpu, "missing_modules", lambda _: [])
    assert bench_gpu.main() == 0
    parts = [Outcome(**part) for part in json.loads((tmp_path / "gpu.json").read_text())["parts"]]
    assert {(part.status, part.problem) for part in parts} == {("skipped", "the 0 s were up")}
    assert "decoding: skipped, 0.0 s the 0 s were up" in capsys.readouterr().out


def test_an_old_python_is_refused_in_one_line(tmp_path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1\nexit 1\n')
    old.chmod(0o755)
    done = subprocess.run([SCRIPT], env={**os.environ, "PYTHON": str(old)}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"gpu.sh: {old} is Python 3.9.1, expected Python 3.11 or newer: name one in PYTHON\n"


def test_cuda_graphs_and_rates_as_a_gpu_takes_them() -> None:
    """The lines that a dry run leaves out."""
    import torch

    with stand_in_gpu() as gpu:
        steps: list[int] = []
        replay = bench_gpu.replayed(lambda: steps.append(1) or torch.ones(1), torch.device("cuda"))
        assert (len(steps), float(replay())) == (3 + 1, 1.0)
        assert gpu.calls[-3:] == ["graph begins", "graph ends", "graph replayed"]
        assert {row["way"] for row in bench_gpu.reads(Setting(device="cuda", dry=True))} >= {
            "pinned before", "pinned on the way",
        }  # fmt: skip
        for part in (bench_gpu.probe, bench_gpu.extraction):
            assert list(part(Setting(device="cuda", dry=True)))
