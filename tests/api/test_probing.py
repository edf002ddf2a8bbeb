"""``deapcache.probe`` does what the command does."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from deapcache_toys import add_features, add_targets

import deapcache
from deapcache.cli import main
from deapcache.errors import CacheMissError, UsageError
from deapcache.locations import LocalLocation


@pytest.fixture
def toys(home: LocalLocation) -> LocalLocation:
    for split in ("train", "val"):
        add_features(home, split)
        add_targets(home, split, "instances")
    return home


def test_it_gives_the_results_that_it_saved(toys: LocalLocation, tmp_path) -> None:
    seen: list[str] = []
    done = deapcache.probe(
        "foreground",
        dataset="toys",
        backbone=["toy"],
        readout=("deap", "linear"),
        seed=[0, 1],
        lr=3e-3,
        iterations=3,
        batch_size=4,
        device="cpu",
        home=toys.path,
        results_home=tmp_path / "mine",
        report=lambda name, event: seen.append(name),
    )
    assert {(r.readout, r.seed) for r in done} == {(name, seed) for name in ("deap", "linear") for seed in (0, 1)}
    kept = {result.run: result for result in deapcache.load_results(tmp_path / "mine")}
    assert kept == {result.run: result for result in done}
    assert set(seen) == {"toy · toys"}
    assert [r.protocol["optimiser"]["lr"] for r in done] == [3e-3] * 4
    assert not list(deapcache.load_results(toys))


def test_it_is_the_command(toys: LocalLocation, tmp_path) -> None:
    options = {"dataset": "toys", "iterations": 3, "batch_size": 4, "limit": 10, "seed": 2, "device": "cpu"}
    (ours,) = deapcache.probe("foreground", **options, home=toys, results_home=tmp_path / "ours")  # type: ignore[arg-type]
    given = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command = ["probe", "--task", "foreground", *given, "--home", str(toys), "--results-home", str(tmp_path / "theirs")]
    with pytest.raises(SystemExit):
        main(command)
    (theirs,) = deapcache.load_results(tmp_path / "theirs")
    assert (ours.run, ours.protocol, ours.scores) == (theirs.run, theirs.protocol, theirs.scores)


def test_a_result_keeps_the_call_that_repeats_it(toys: LocalLocation, tmp_path) -> None:
    places = {"home": toys, "results_home": tmp_path}
    (done,) = deapcache.probe("foreground", dataset="toys", iterations=2, batch_size=4, **places)
    python, flag, script = done.command
    assert (python, flag) == ("python", "-c")
    assert script == (
        f"import deapcache; deapcache.probe('foreground', home={str(toys)!r}, results_home={str(tmp_path)!r}, "
        "dataset='toys', iterations=2, batch_size=4)"
    )
    path = tmp_path / f"results/{done.run}.json"
    path.unlink()
    subprocess.run([sys.executable, flag, script], check=True)
    assert json.loads(path.read_text())["scores"] == dict(done.scores)


def test_wrong_arguments_are_told(toys: LocalLocation) -> None:
    with pytest.raises(UsageError, match="iterations is 0"):
        deapcache.probe("foreground", dataset="toys", iterations=0, home=toys)
    with pytest.raises(CacheMissError):
        deapcache.probe("foreground", dataset="toys", backbone="none", home=toys)
    with pytest.raises(UsageError, match="none"):
        deapcache.probe("foreground", dataset="toys", readout="none", home=toys)
