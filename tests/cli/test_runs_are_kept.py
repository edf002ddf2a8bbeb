"""What was trained is saved, whatever happens to pictures, to other runs, or to a file of one of them."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from pathlib import Path

import pytest
from deapcache_toys import COUNTS, TARGET_DTYPES, add_features, add_targets

from deapcache.locations import LocalLocation
from deapcache.probing import ProbeConfig, plan_runs
from deapcache.results import load_readout_file, load_results, load_statistics
from deapcache.results.record import run_id
from deapcache.tasks.depth import Depth

TASKS = ("foreground", "segmentation", "depth")


@pytest.fixture(autouse=True, scope="module")
def in_one_thread(one_thread: None) -> None:
    """All of this file."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> LocalLocation:
    """Features of two backbones and all targets, for reading only; a class's name is no mathematics."""
    home = LocalLocation(tmp_path_factory.mktemp("toys"))
    for split in COUNTS:
        for backbone in ("toy", "toy-too"):
            add_features(home, split, backbone=backbone)
        for annotation in TARGET_DTYPES:
            classes = {"classes": ("$x_{$", "_木", "table")} if annotation == "classes" else {}
            add_targets(home, split, annotation, **classes)
    return home


@pytest.fixture
def toys(made: LocalLocation, home: LocalLocation) -> LocalLocation:
    """A copy to write to."""
    shutil.copytree(made.path, home.path, dirs_exist_ok=True)
    return home


@pytest.fixture
def probe(cli, toys: LocalLocation):
    """``deapcache probe`` on the toys, a single step."""

    def run(*arguments: object, tasks: str = ",".join(TASKS), iterations: int = 1):
        asked = (
            "--task",
            tasks,
            "--dataset",
            "toys",
            "--home",
            toys.path,
            "--device",
            "cpu",
            "--batch-size",
            4,
            "--lr",
            "1e-3",
        )
        backbone = () if "--backbone" in arguments else ("--backbone", "toy")
        return cli("probe", *asked, *backbone, "--iterations", iterations, *arguments)

    return run


def names(home: LocalLocation, seeds=(0,)) -> dict[tuple[str, int], str]:
    """(task, seed) → the run that a probe of one step would make."""
    config = ProbeConfig(
        dataset="toys", backbones=["toy"], tasks=TASKS, seeds=seeds, iterations=1, batch_size=4, lrs=(1e-3,)
    )
    return {(run.task, run.seed): run_id(run.to_json()) for run in plan_runs(home, config)}


def whole(home: LocalLocation) -> list[str]:
    """The runs that are there with statistics and readout."""
    found = [result.run for result in load_results(home)]
    for run in found:
        assert load_statistics(home, run).run
        assert load_readout_file(home, run).weights
    return found


def error_of(done) -> str:
    """The one line that ends a command."""
    lines = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.err
    assert "Traceback" not in done.err
    return lines[0]


@pytest.mark.parametrize("place", [0, 2])
def test_a_picture_that_cannot_be_written_is_a_note(probe, toys: LocalLocation, place: int) -> None:
    runs = names(toys)
    (toys.path / "results" / f"{runs[TASKS[place], 0]}.png").mkdir(parents=True)
    done = probe()
    assert done.code == 0
    assert set(whole(toys)) == set(runs.values())
    assert done.out.count("picture: ") == 2
    assert f"no picture of {runs[TASKS[place], 0]}, which is saved: " in done.err


def test_all_results_are_there_before_the_first_picture(probe, toys: LocalLocation, monkeypatch) -> None:
    def draw(*_, **__):
        assert set(whole(toys)) == set(names(toys, (0, 1)).values())
        raise RuntimeError("no glyph")

    monkeypatch.setattr("deapcache.results.draw.draw_run", draw)
    done = probe("--seed", "0,1", "--json")
    assert done.code == 0
    found = json.loads(done.out)
    assert len(found) == 6
    assert {one["picture"] for one in found} == {None}
    assert done.err.count("no glyph") == 3


def test_no_picture_of_an_earlier_run_stays_where_the_new_one_has_none(probe, toys: LocalLocation, monkeypatch) -> None:
    assert probe().code == 0
    assert len(list(toys.path.glob("results/*.png"))) == 3
    monkeypatch.setattr("deapcache.results.draw.draw_run", lambda *_, **__: 1 / 0)
    assert probe().code == 0
    assert not list(toys.path.glob("results/*.png"))


@pytest.mark.parametrize(
    ("place", "file"),
    list(enumerate(["results/{}.json", "results/{}.stats.safetensors", "readouts/{}.safetensors"])),
)
def test_a_run_that_cannot_be_saved_costs_no_other(probe, toys: LocalLocation, place: int, file: str) -> None:
    runs = names(toys)
    broken = runs[TASKS[place], 0]
    (toys.path / file.format(broken)).mkdir(parents=True)
    done = probe()
    assert done.code == 1
    assert broken in error_of(done)
    if file.endswith(".json"):
        (toys.path / file.format(broken)).rmdir()
    assert set(whole(toys)) == set(runs.values()) - {broken}
    assert done.out.count("picture: ") == 2


@pytest.mark.parametrize(("moment", "call"), [("statistics", 1), ("picture_values", 1), ("scores", 2)])
def test_a_task_that_cannot_score_costs_no_other(probe, toys: LocalLocation, monkeypatch, moment, call) -> None:
    """The first scores are those of what does not look at the image."""
    runs = names(toys)
    monkeypatch.setattr(Depth, moment, failing(getattr(Depth, moment), call))
    with pytest.raises(ValueError, match="a plugin's mistake"):
        probe()
    assert set(whole(toys)) == set(runs.values()) - {runs["depth", 0]}


def failing(method, call: int):
    """``method``, which raises when it is called for the ``call``-th time."""
    calls: list[object] = []

    def made(self, *given):
        calls.append(given)
        if len(calls) == call:
            raise ValueError("a plugin's mistake")
        return method(self, *given)

    return made


@pytest.mark.parametrize(
    ("task", "rate", "iterations", "said"),
    [
        *((task, "1e30", 1, "not finite after") for task in ("segmentation", "depth", "foreground", "boundaries")),
        ("depth", "1e300", 1, "weights are not finite after iteration 1, the last one"),
        ("depth", "1e30", 60, "the loss is"),
    ],
)
def test_what_diverged_is_a_line_and_no_result(probe, toys: LocalLocation, task, rate, iterations, said) -> None:
    done = probe("--lr", rate, tasks=task, iterations=iterations)
    assert done.code == 1
    line = error_of(done)
    assert f"{task} on toy with readout deap, seed 0: " in line
    assert f"try a smaller learning rate (--lr) than {float(rate):g}" in line
    assert said in line
    assert whole(toys) == []


@pytest.mark.parametrize("iterations", [1, 60])
def test_one_that_diverges_costs_no_other(probe, toys: LocalLocation, iterations: int) -> None:
    done = probe("--lr", "1e30,1e-3", "--seed", "0,1", "--backbone", "toy,toy-too", iterations=iterations)
    assert done.code == 1
    assert done.err.count("try a smaller learning rate") == 2 * 2 * len(TASKS)
    assert len(whole(toys)) == 2 * 2 * len(TASKS)
    assert {result.protocol["optimiser"]["lr"] for result in load_results(toys)} == {1e-3}
    assert done.out.count("picture: ") == 2 * len(TASKS)


def test_beside_one_that_diverges_others_learn_what_they_learn_alone(probe, toys: LocalLocation) -> None:
    assert probe("--lr", "1e30,1e-3", tasks="depth", iterations=60).code == 1
    (beside,) = load_results(toys)
    assert probe("--lr", "1e-3", tasks="depth", iterations=60).code == 0
    (alone,) = load_results(toys)
    assert beside.run == alone.run
    assert dict(beside.scores) == pytest.approx(dict(alone.scores), rel=1e-3)


@pytest.mark.parametrize("rate", ["inf", "-inf", "nan", "1e400", "0", "-1", "1e-3,inf"])
def test_a_rate_that_is_none_is_refused(probe, toys: LocalLocation, rate: str) -> None:
    done = probe(f"--lr={rate}")
    assert done.code == 2
    assert "expected a number above 0, and a finite one" in error_of(done)
    assert whole(toys) == []


def test_names_too_long_for_the_file_system_are_told_before_training(probe, toys: LocalLocation, monkeypatch) -> None:
    """As on a file system that encrypts names: 143 bytes are the most there."""
    most, touch = 60, Path.touch

    def refuse(self, *given, **named):
        if len(self.name.encode()) > most:
            raise OSError(errno.ENAMETOOLONG, "File name too long", str(self))
        touch(self, *given, **named)

    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(
        sys.modules["deapcache.experiments.probe"], "probe_backbone", lambda *_, **__: 1 / 0
    )  # it trains
    done = probe()
    assert done.code == 1
    assert "takes no name of" in error_of(done)
    assert not list(toys.path.rglob("*.partial"))


def test_a_file_system_of_short_names_takes_runs_that_fit(probe, toys: LocalLocation, monkeypatch) -> None:
    """No file that is made on the way has a longer name than the longest that stays."""
    longest = max(len(f"{run}.stats.safetensors") for run in names(toys).values())
    made: list[str] = []
    touch, opened = Path.touch, Path.open
    monkeypatch.setattr(Path, "touch", lambda self, *a, **k: (made.append(self.name), touch(self, *a, **k))[1])
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: (made.append(self.name), opened(self, *a, **k))[1])
    monkeypatch.setattr("socket.gethostname", lambda: f"node-{'x' * 40}.cluster.example.org")
    assert probe().code == 0
    assert max(map(len, made)) <= longest


def test_a_long_name_is_cut_and_its_run_is_found_by_all_verbs(cli, probe, toys: LocalLocation, tmp_path: Path) -> None:
    backbone = "b" * 170
    for split in COUNTS:
        add_features(toys, split, backbone=backbone)
    assert probe("--backbone", backbone).code == 0
    runs = whole(toys)
    assert {len(run) for run in runs} <= set(range(190, 201))
    assert len(list(toys.path.glob("results/*.png"))) == 3
    for verb in (
        ("results", "--home", toys.path),
        ("submit", *runs, "--home", toys.path, "--out", tmp_path / "runs.zip"),
        ("leaderboard", "--add", tmp_path / "runs.zip", "--home", tmp_path / "other", "--no-paper"),
    ):
        assert cli(*verb).code == 0
    assert whole(LocalLocation(tmp_path / "other")) == runs
