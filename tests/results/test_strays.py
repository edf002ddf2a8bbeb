"""A home that others have written to: copies count once, and what is damaged is named and left out."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deapcache_figures import add_speed
from deapcache_results import main_rows, make_facts, save_depth

from deapcache.cli import main
from deapcache.errors import ResultsError
from deapcache.experiments import find_run
from deapcache.locations import LocalLocation
from deapcache.results import HomeIntervals, load_readout_file, load_results, save_run, table_rows
from deapcache.results.bundle import find_runs
from deapcache.results.last_used import last_uses
from deapcache.results.leaderboard import collect, leaderboard, rendered
from deapcache.results.speeds import load_speeds

HIDDEN = (
    "._{name}",
    ".{name}.swp",
    ".ipynb_checkpoints/{name}",
    ".syncthing.{name}.tmp{ending}",
    ".stversions/{name}",
    ".Trash-1000/files/{name}",
    ".~lock.{name}{ending}",
    ".nfs0001{ending}",
)
"""What file managers, editors and programs that synchronise leave beside a file."""

COPIES = (
    "{stem}.sync-conflict-20260101-120000-ABCDEFG{ending}",
    "{stem} (conflicted copy 2026-01-01){ending}",
    "{stem} (Ann's conflicted copy){ending}",
    "{stem}-checkpoint{ending}",
    "{stem} copy{ending}",
    "{stem} (1){ending}",
    "{stem}_conf(1){ending}",
    "old/{stem}{ending}",
    "backup/2026/{stem}{ending}",
)
"""What looks like somebody's."""


def beside(key: str, pattern: str) -> str:
    folder, _, name = key.rpartition("/")
    ending = ".stats.safetensors" if name.endswith(".stats.safetensors") else Path(name).suffix
    return f"{folder}/{pattern.format(name=name, stem=name.removesuffix(ending), ending=ending)}"


def put(home: LocalLocation, key: str, data: bytes) -> None:
    (home.path / key).parent.mkdir(parents=True, exist_ok=True)
    (home.path / key).write_bytes(data)


@pytest.fixture
def two(home: LocalLocation) -> LocalLocation:
    """Two seeds of a run."""
    for seed in (0, 1):
        save_depth(home, seed)
    return home


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Fail where the block takes longer: what reads from a pipe waits for ever."""

    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def changed(home: LocalLocation, key: str) -> bytes:
    """The result with another score, so that it would move the mean."""
    document = json.loads(home.read(key))
    document["scores"]["rmse"] += 1
    return json.dumps(document).encode()


def test_hidden_files_are_passed_over_without_a_word(two: LocalLocation) -> None:
    speed = add_speed(two, "mae", 10, 1.0)
    before = load_results(two), load_speeds(two), last_uses([two]), find_runs(two, ["depth"])
    for key in two.keys(""):
        for pattern in HIDDEN:
            for data in (b"\0\5\26\7\0\2\0\0Mac OS X        ", two.read(key)):
                put(two, beside(key, pattern), data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (load_results(two), load_speeds(two), last_uses([two]), find_runs(two, ["depth"])) == before
        assert len(collect([two]).results) == 2
        assert find_run(two, before[3][0][:-3]).result.run == before[3][0]
    assert two.exists(speed)


@pytest.mark.parametrize("pattern", COPIES)
def test_a_copy_under_another_name_is_named_and_not_counted(two: LocalLocation, pattern: str) -> None:
    runs = find_runs(two, ["depth"])
    (mean,) = main_rows(load_results(two))
    copy = beside(f"results/{runs[0]}.json", pattern)
    put(two, copy, changed(two, f"results/{runs[0]}.json"))
    with pytest.warns(UserWarning, match=re.escape(copy)):
        (again,) = main_rows(load_results(two))
    assert (again.seeds, again.mean) == ((0, 1), mean.mean)
    with pytest.warns(UserWarning, match=re.escape(copy)):
        assert find_runs(two, ["depth"]) == runs
    with pytest.warns(UserWarning, match=re.escape(copy)):
        assert len(collect([two]).results) == 2


def test_a_copy_under_the_name_of_another_run_is_named(two: LocalLocation) -> None:
    first, second = find_runs(two, ["depth"])
    put(two, f"results/{second}.json", two.read(f"results/{first}.json"))
    with pytest.warns(UserWarning, match=rf"{second}\.json is a copy of {first} under another name"):
        assert [result.run for result in load_results(two)] == [first]
    with pytest.raises(ResultsError, match="is a copy of"):
        load_results(two, [second])


@pytest.mark.parametrize("pattern", COPIES)
def test_a_copy_of_a_speed_is_not_the_speed(home: LocalLocation, pattern: str) -> None:
    key = add_speed(home, "mae", 10, 1.0)
    other = add_speed(home, "mae", 99, 9.0, "another device")
    data = home.read(other).replace(b"another device", b"cpu, 2 cores")
    home.delete(other)
    put(home, beside(key, pattern), data)
    with pytest.warns(UserWarning, match=re.escape(beside(key, pattern))):
        assert [one.images_per_second["median"] for one in load_speeds(home)] == [pytest.approx(10)]


@pytest.mark.parametrize("pattern", COPIES)
def test_a_copy_of_a_readout_does_not_hide_the_readout(two: LocalLocation, pattern: str) -> None:
    run = find_runs(two, ["depth"])[0]
    document = json.loads(two.read(f"results/{run}.json"))
    key = f"readouts/{run}.safetensors"
    put(two, beside(key, pattern), two.read(key))
    with pytest.warns(UserWarning, match=re.escape(beside(key, pattern))):
        assert find_run(two, run[:-2]).result.seed == document["seed"]


# What a result may hold


def deep(inner: Any, depth: int) -> Any:
    for _ in range(depth):
        inner = {"a": inner}
    return inner


LIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "cost is a text": lambda d: d.update(cost="x"),
    "cost is a list": lambda d: d.update(cost=[1]),
    "a cost is a text": lambda d: d.update(cost={"train_ms_per_image": "fast"}),
    "a cost is true": lambda d: d.update(cost={"train_ms_per_image": True}),
    "a cost is a table": lambda d: d.update(cost={"train_ms_per_image": {}}),
    "build is nothing": lambda d: d.update(build=None),
    "build is a list": lambda d: d.update(build=[]),
    "build lacks a grid": lambda d: d["build"].pop("grid"),
    "a grid is a number": lambda d: d["build"].update(grid=3),
    "a grid of one side": lambda d: d["build"].update(grid=[3]),
    "a grid of texts": lambda d: d["build"].update(grid=["3", "3"]),
    "a grid without end": lambda d: d["build"].update(grid=[10**12, 10**12]),
    "a feature width of 0": lambda d: d["build"].update(feature_dim=0),
    "options are a list": lambda d: d["build"].update(options=[]),
    "task options are a text": lambda d: d["build"].update(task_options="large"),
    "a task option is a table": lambda d: d["build"].update(task_options={"a": {}}),
    "sigma is a number": lambda d: d.update(sigma=3),
    "sigma is a text": lambda d: d.update(sigma="0.1"),
    "a sigma is a text": lambda d: d.update(sigma=["0.1"]),
    "loss curve is a number": lambda d: d.update(loss_curve=1),
    "loss curve is flat": lambda d: d.update(loss_curve=[1, 2]),
    "a point of three": lambda d: d.update(loss_curve=[[1, 2, 3]]),
    "a loss is a text": lambda d: d.update(loss_curve=[[1, "x"]]),
    "a step is a half": lambda d: d.update(loss_curve=[[0.5, 1]]),
    "seconds are a list": lambda d: d.update(seconds=[1]),
    "seconds are a text": lambda d: d.update(seconds={"train": "long"}),
    "versions are a list": lambda d: d.update(versions=["torch"]),
    "a version is a number": lambda d: d.update(versions={"torch": 2}),
    "versions are nothing": lambda d: d.update(versions=None),
    "caches are a list": lambda d: d.update(caches=[]),
    "caches are none": lambda d: d.update(caches={}),
    "a cache is a text": lambda d: d["caches"].update(train="x"),
    "a cache lacks its digest": lambda d: d["caches"]["train"].pop("digest"),
    "a digest is a list": lambda d: d["caches"]["val"].update(digest=[1]),
    "a recipe is a list": lambda d: d["caches"]["train"].update(recipe=[]),
    "a layer is a number": lambda d: d["caches"]["train"]["recipe"].update(layer=6),
    "a layer without end": lambda d: d["caches"]["train"]["recipe"].update(layer="9" * 5000),
    "left out is a number": lambda d: d["caches"]["train"]["recipe"].update(omitted=5),
    "left out lacks ids": lambda d: d["caches"]["train"]["recipe"].update(omitted={"images": 5}),
    "metrics are a list": lambda d: d.update(metrics=[]),
    "a metric is a text": lambda d: d["metrics"].update(rmse="lower"),
    "a direction is a text": lambda d: d["metrics"]["rmse"].update(higher_is_better="yes"),
    "a label is a number": lambda d: d["metrics"]["rmse"].update(label=1),
    "a unit is nothing": lambda d: d["metrics"]["rmse"].update(unit=None),
    "no such main metric": lambda d: d.update(main_metric="iou"),
    "a score is a text": lambda d: d["scores"].update(rmse="0.1"),
    "a score is true": lambda d: d["scores"].update(rmse=True),
    "a score lacks": lambda d: d.update(scores={}),
    "a prior lacks": lambda d: d.update(prior={}),
    "protocol is a text": lambda d: d.update(protocol="p"),
    "no learning rate": lambda d: d["protocol"].update(optimiser={}),
    "a learning rate of 0": lambda d: d["protocol"]["optimiser"].update(lr=0),
    "a learning rate is a text": lambda d: d["protocol"]["optimiser"].update(lr="1e-3"),
    "an output size of none": lambda d: d["protocol"].update(output_size=[0, 0]),
    "an output size of three": lambda d: d["protocol"].update(output_size=[1, 2, 3]),
    "iterations are a text": lambda d: d["protocol"].update(iterations="many"),
    "task options are a list": lambda d: d["protocol"].update(task_options=[]),
    "views are a number": lambda d: d["protocol"].update(views=3),
    "classes are a text": lambda d: d.update(classes="abc"),
    "a class is a number": lambda d: d.update(classes=[1]),
    "about is a list": lambda d: d.update(about=[1]),
    "a category is a number": lambda d: d.update(about={"category": 1}),
    "parameters are a text": lambda d: d.update(parameters="5"),
    "parameters are a half": lambda d: d.update(parameters=0.5),
    "a seed is a text": lambda d: d.update(seed="0"),
    "a date is a number": lambda d: d.update(date=20260101),
    "a date is none": lambda d: d.update(date="yesterday"),
    "a command is a text": lambda d: d.update(command="deapcache"),
    "a word is a number": lambda d: d.update(command=[1]),
    "a device is a list": lambda d: d.update(device=["cpu"]),
    "a field less": lambda d: d.pop("val_images"),
    "a schema of text": lambda d: d.update(schema="1"),
    "a schema of later": lambda d: d.update(schema=99),
    "a run of number": lambda d: d.update(run=7),
}

BYTES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "an end of zeros": lambda data: data[:-100] + bytes(100),
    "of a Mac": lambda data: b"\0\5\26\7\0\2\0\0Mac OS X        ",
    "no UTF-8": lambda data: data.replace(b"depth", b"d\xffpth"),
    "half a character": lambda data: data.replace(b"depth", b"d\\ud800pth"),
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "NaN": lambda data: data.replace(b'"val_images": 654', b'"val_images": NaN'),
    "NaN for a score": lambda data: re.sub(rb'("scores": {\s*"rmse": )[0-9.]+', rb"\1NaN", data),
    "infinite": lambda data: data.replace(b'"images_per_second": 400.0', b'"images_per_second": Infinity'),
    "1e999": lambda data: data.replace(b'"images_per_second": 400.0', b'"images_per_second": 1e999'),
    "digits": lambda data: data.replace(b'"val_images": 654', b'"val_images": ' + b"9" * 5000),
    "beyond int64": lambda data: data.replace(b'"val_images": 654', b'"val_images": 99999999999999999999999'),
    "beyond int64, somewhere": lambda data: data.replace(b'"order_seed": 0', b'"order_seed": 99999999999999999999999'),
    "nested lists": lambda data: b"[" * 100_000,
    "nested and closed": lambda data: b"[" * 5000 + b"]" * 5000,
    "nested in a recipe": lambda data: data.replace(
        b'"storage": "float16"', b'"storage": ' + json.dumps(deep(1, 500)).encode()
    ),
    "larger than any": lambda data: data + b" " * 5_000_000,
    "a list": lambda data: b"[" + data + b"]",
    "two": lambda data: data + data,
    "a number": lambda data: b"3",
    "null": lambda data: b"null",
    "a comma": lambda data: data.rstrip().removesuffix(b"}") + b",}",
    "a mark in front": lambda data: b"\xef\xbb\xbf" + data,
}


def lying(lie: str) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        document = json.loads(data)
        LIES[lie](document)
        return json.dumps(document).encode()

    return change


DAMAGES = {**{lie: lying(lie) for lie in LIES}, **BYTES}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_result_is_named_and_the_others_are_shown(home: LocalLocation, damage: str) -> None:
    sound, bad = save_depth(home, 0), save_depth(home, 1)
    key = f"results/{bad.run}.json"
    data = home.read(key)
    put(home, key, DAMAGES[damage](data))
    assert home.read(key) != data
    with pytest.warns(UserWarning, match=re.escape(key)) as told:
        assert load_results(home) == [sound]
    assert all("\n" not in str(one.message) and len(str(one.message)) < 600 for one in told)
    with pytest.raises(ResultsError, match=re.escape(key)):
        load_results(home, [bad.run])
    with pytest.warns(UserWarning, match=re.escape(key)):
        rendered(leaderboard(collect([home]), intervals=False), "table")


@pytest.mark.parametrize("damage", BYTES)
def test_a_damaged_speed_is_named_and_the_others_are_shown(home: LocalLocation, damage: str) -> None:
    add_speed(home, "mae", 10, 1.0)
    key = add_speed(home, "dino", 10, 1.0)
    data = home.read(key).replace(b"mae", b"depth")
    changed = BYTES[damage](data)
    put(home, key, b"{" if changed == data else changed)
    with pytest.warns(UserWarning, match=re.escape(key)):
        assert [one.name for one in load_speeds(home)] == ["mae"]


@pytest.mark.parametrize("damage", sorted(BYTES.keys() - {"UTF-16"}))
def test_damaged_statistics_are_told_where_intervals_would_be(home: LocalLocation, damage: str) -> None:
    result = save_depth(home)
    key = f"results/{result.run}.stats.safetensors"
    put(home, key, BYTES[damage](home.read(key)) if damage not in ("NaN", "1e999") else b"\x10" * 7)
    (summary,) = main_rows(load_results(home))
    uncertainty = HomeIntervals(home)(summary.results)
    assert uncertainty.problem or uncertainty.intervals


STATISTICS: dict[str, dict[str, np.ndarray]] = {
    "none": {},
    "no ids": {"run/known": np.zeros(3)},
    "ids of another kind": {"image_ids": np.frombuffer(b"[1, 2]", np.uint8)},
    "ids without end": {"image_ids": np.frombuffer(b"[" * 10_000, np.uint8)},
    "no numbers": {"image_ids": np.frombuffer(b'["a"]', np.uint8), "run/known": np.full(1, np.nan)},
    "another shape": {"image_ids": np.frombuffer(b'["a"]', np.uint8), "run/known": np.zeros((1, 2, 3))},
    "a scalar": {"image_ids": np.frombuffer(b'["a"]', np.uint8), "run/known": np.array(3.0)},
}


@pytest.mark.parametrize("case", STATISTICS)
def test_statistics_of_something_else_are_a_problem_of_one_row(home: LocalLocation, case: str) -> None:
    from safetensors.numpy import save

    result = save_depth(home)
    arrays = {name: np.ones(6) for name in ("run/squares", "run/relative", "run/decades", "run/logs")}
    put(home, f"results/{result.run}.stats.safetensors", save({**arrays, **STATISTICS[case]}))
    (summary,) = main_rows(load_results(home))
    assert HomeIntervals(home)(summary.results).problem


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to nowhere", "link to itself", "link to a device", "socket"])
@pytest.mark.parametrize("what", ["results/{run}.json", "speed", "results/{run}.stats.safetensors"])
def test_what_is_no_file_neither_blocks_nor_ends_the_others(home: LocalLocation, kind: str, what: str) -> None:
    import socket

    sound, bad = save_depth(home, 0), save_depth(home, 1)
    key = add_speed(home, "mae", 10, 1.0) if what == "speed" else what.format(run=bad.run)
    path = home.path / key
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        here = os.open(".", os.O_RDONLY)
        os.chdir(path.parent)  # the name of a socket is short
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("s")
        (path.parent / "s").rename(path)
        os.fchdir(here)
        os.close(here)
    else:
        path.symlink_to({"link to nowhere": "nowhere", "link to itself": path.name}.get(kind, "/dev/zero"))
    with limited(20), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = load_results(home)
        assert sound in found
        collected = collect([home])
        for summary in main_rows(found):
            HomeIntervals(home)(summary.results)
        last_uses([home])
    assert len(collected.results) == (1 if what.endswith(".json") else 2)
    named = any(key in str(one.message) for one in told)
    assert named == (kind != "folder" and not what.endswith("safetensors"))


# Readouts


@pytest.mark.parametrize("damage", ["empty", "half", "zeros", "of a Mac", "nested lists"])
def test_a_damaged_readout_is_one_line(two: LocalLocation, damage: str) -> None:
    run = find_runs(two, ["depth"])[0]
    key = f"readouts/{run}.safetensors"
    put(two, key, BYTES[damage](two.read(key)))
    with pytest.raises(ResultsError, match=re.escape(key)):
        load_readout_file(two, run)


FACTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no run": lambda d: d.pop("run"),
    "another run": lambda d: d.update(run="depth-nyuv2-mae-deap-seed0-000000000000"),
    "readout is a text": lambda d: d.update(readout="deap"),
    "no heads": lambda d: d["readout"].pop("heads"),
    "heads of none": lambda d: d["readout"].update(heads=[]),
    "heads of text": lambda d: d["readout"].update(heads=["1"]),
    "heads without end": lambda d: d["readout"].update(heads=[10**9]),
    "width without end": lambda d: d["readout"].update(feature_dim=10**9),
    "CNN without end": lambda d: d["readout"].update(cnn_width=10**6),
    "an odd grid": lambda d: d["readout"].update(grid=[[1]]),
    "an odd size": lambda d: d["readout"].update(output_size="large"),
    "backbone is a list": lambda d: d.update(backbone=["mae"]),
}


@pytest.mark.parametrize("case", FACTS)
def test_a_readout_that_says_something_else_is_one_line(two: LocalLocation, case: str) -> None:
    from deapcache.results.files import pack_arrays, unpack_arrays

    run = find_runs(two, ["depth"])[0]
    key = f"readouts/{run}.safetensors"
    weights, facts = unpack_arrays(two, key)
    FACTS[case](facts)
    put(two, key, pack_arrays(weights, facts))
    with pytest.raises(ResultsError, match=re.escape(key)):
        load_readout_file(two, run)


def test_weights_of_another_readout_are_one_line(two: LocalLocation) -> None:
    run = find_runs(two, ["depth"])[0]
    with pytest.raises(ResultsError, match=f"the readout of {run} does not hold the weights of a 'deap' readout"):
        load_readout_file(two, run).build()


# What a stranger says of metrics


def test_a_result_cannot_turn_the_order_of_a_known_metric(home: LocalLocation, arrays: dict[str, Any]) -> None:
    for number, backbone in enumerate(("mae", "dino", "clip")):
        save_run(home, make_facts(backbone=backbone, iou=0.2 + 0.2 * number), **arrays)
    plain = rendered(leaderboard(collect([home]), intervals=False, paper=False), "csv")
    stranger = next(key for key in home.keys("results") if "clip" in key and key.endswith(".json"))
    document = json.loads(home.read(stranger))
    document["metrics"]["iou"] = {"label": "a lie", "unit": "%", "higher_is_better": False}
    put(home, stranger, json.dumps(document).encode())
    assert rendered(leaderboard(collect([home]), intervals=False, paper=False), "csv") == plain


def test_seeds_that_lack_a_score_do_not_end_the_table(home: LocalLocation, arrays: dict[str, Any]) -> None:
    save_run(home, make_facts(seed=0), **arrays)
    second = save_run(home, make_facts(seed=1), **arrays)
    key = f"results/{second.run}.json"
    document = json.loads(home.read(key))
    for part in ("scores", "prior", "metrics"):
        document[part].pop("ce")
    put(home, key, json.dumps(document).encode())
    rows = table_rows(load_results(home)).set_index("metric")
    assert set(rows["seeds"]) == {(0, 1)}
    assert np.isnan(rows.loc["ce", "mean"])
    for format in ("table", "markdown", "csv", "html"):
        rendered(leaderboard(collect([home]), intervals=False, paper=False), format)  # type: ignore[arg-type]


# What is shown

ODD = (
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b2J",
    "a\rb",
    "a\x08b",
    "\u202eevil",
    "a\u2066b",
    "\u200fa",
    "a\x00b",
)


@pytest.mark.parametrize("odd", ODD)
def test_what_a_stranger_writes_moves_no_cursor(
    home: LocalLocation, arrays: dict[str, Any], odd: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {"mine": {"label": f"{odd}label", "unit": f"{odd}unit", "higher_is_better": True}}
    facts = make_facts(task="unheard-of", dataset=f"{odd}data", backbone=f"{odd}b", metrics=told, scores={"mine": 0.5})
    saved = save_run(home, facts, **arrays)
    key = f"results/{saved.run}.json"
    document = json.loads(home.read(key))
    document |= {"versions": {f"{odd}torch": f"{odd}2"}, "device": f"{odd}gpu", "classes": [odd]}
    put(home, key, json.dumps(document).encode())
    commands = [["results", "--no-intervals"], ["results", "--no-intervals", "--markdown"]]
    commands += [["results", "--no-intervals", "--json"]]
    commands += [
        ["leaderboard", "--no-intervals", "--no-paper", "--format", form]
        for form in ("table", "markdown", "csv", "html")
    ]
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            main([*command, "--home", str(home)])
        shown = capsys.readouterr()
        assert ended.value.code == 0, shown.err
        assert not re.search(
            "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", shown.out + shown.err
        )
        assert "data" in shown.out or "json" in command


def test_a_warning_names_a_file_without_obeying_its_name(
    home: LocalLocation, capsys: pytest.CaptureFixture[str]
) -> None:
    put(home, "results/\x1b[31m\u202ered.json", b"{")
    with pytest.raises(SystemExit):
        main(["results", "--home", str(home)])
    shown = capsys.readouterr()
    assert not re.search("[\x1b\u202e]", shown.out + shown.err)


@pytest.mark.parametrize(
    "name", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\r=1", "＝1", "\x1b[0m=1"]
)
def test_a_cell_of_csv_is_no_formula(home: LocalLocation, arrays: dict[str, Any], name: str) -> None:
    save_run(home, make_facts(backbone=name), **arrays)
    text = rendered(leaderboard(collect([home]), intervals=False, paper=False), "csv")
    row = next(csv.DictReader(io.StringIO(text)))
    assert not row["backbone"].lstrip().startswith(("=", "+", "-", "@", "＝"))
