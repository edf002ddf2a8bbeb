"""Probing caches that another process serves, as someone who can write nothing but results of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from deapcache_servers import ask, cache_serve, files_below, static_server

from deapcache.locations import LocalLocation

BACKBONE = "efficientnet-lite0-s16"
PROBE = ("probe", "--task", "foreground,boundaries", "--iterations", 3, "--batch-size", 4, "--json")


@pytest.fixture
def lab(cli, make_coco, home) -> LocalLocation:
    """A home with the features of twelve training and four validation images."""
    root = make_coco()
    done = cli("extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", root, "--home", home)
    assert done.code == 0, done.err
    return home


def scored(out: str) -> list[dict[str, object]]:
    """What a probe found, less what differs from run to run."""
    return [{name: run[name] for name in ("run", "scores", "prior", "loss_curve", "caches")} for run in json.loads(out)]


def _told(cli, home: object, *command: str) -> list[dict[str, object]]:
    """What is told of the caches of a home, but for where it is, times of files, and what its results tell of use."""
    rows = json.loads(cli("cache", *command, "--home", home, "--json").out)
    return [{**row, "home": None, "when": None, "last_use": None} for row in rows]


def test_caches_on_a_web_server_score_the_same_to_the_bit(cli, lab, tmp_path) -> None:
    files = files_below(lab.path)
    for entry in json.loads((lab.path / "index.json").read_bytes())["caches"]:  # extraction left true lists
        manifest = json.loads((lab.path / entry["path"] / "manifest.json").read_bytes())
        below = files_below(lab.path / entry["path"])
        assert manifest["keys"] == {key: size for key, size in below.items() if key != "manifest.json"}
        assert entry["images"] == entry["total"] > 0
    listed, info = _told(cli, lab, "ls"), _told(cli, lab, "info", BACKBONE)
    own = LocalLocation(tmp_path / "own")
    expected = cli(*PROBE, "--home", lab, "--results-home", own.path)
    assert files_below(lab.path) == files
    for serve in (cache_serve, static_server):
        mine = tmp_path / serve.__name__
        with serve(lab.path, tmp_path / "log") as server:
            assert _told(cli, server.url, "ls") == listed
            assert _told(cli, server.url, "info", BACKBONE) == info
            done = cli(*PROBE, "--home", server.url, "--results-home", mine)
        assert done.code == 0, done.err
        assert scored(done.out) == scored(expected.out)
        for run in json.loads(done.out):
            mine_and_own = [place / f"readouts/{run['run']}.safetensors" for place in (mine, own.path)]
            assert mine_and_own[0].read_bytes() == mine_and_own[1].read_bytes()
            assert Path(run["picture"]).read_bytes() == (own.path / f"results/{run['run']}.png").read_bytes()
        assert {key.partition("/")[0] for key in files_below(mine)} == {"results", "readouts"}
        assert cli("results", "--home", mine, "--json").code == 0
    left = files_below(lab.path)
    assert left.pop("uses/http.json") > 0  # which caches were read from the first
    assert left == files


def test_results_of_a_web_server_go_to_the_default_home(cli, lab, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DEAPCACHE_HOME", str(tmp_path / "mine"))
    with static_server(lab.path, tmp_path / "log") as server:
        done = cli(
            "probe", "--task", "foreground", "--iterations", 1, "--batch-size", 4, "--home", server.url, "--json"
        )
        assert done.code == 0, done.err
        (run,) = json.loads(done.out)
        assert (tmp_path / "mine" / "results" / f"{run['run']}.json").exists()
        monkeypatch.setenv("DEAPCACHE_HOME", server.url)
        refused = cli(*PROBE)
        assert refused.code == 2
        assert "read only: say where results and readouts go with --results-home PATH" in refused.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("extract", "--backbone", BACKBONE, "--dataset", "scenes", "--limit", 1), "web server, which is read only"),
        (("run", "demo"), "give a home of your own with --home PATH"),
        (("cache", "index"), "web server, which is read only"),
        (("cache", "serve"), "is no folder of this machine: serve a home that is a path"),
    ],
)
def test_what_writes_says_that_a_web_server_is_read_only(cli, arguments, reason) -> None:
    done = cli(*arguments, "--home", "http://127.0.0.1:9/home")
    assert done.code in (1, 2)
    assert reason in done.err
    assert len(done.err.splitlines()) == 1


def test_a_port_that_is_taken_and_an_odd_host_are_told(cli, home, tmp_path) -> None:
    with cache_serve(home.path, tmp_path / "log") as server:
        port = server.url.rpartition(":")[2]
        for arguments in (("--port", port), ("--host", "no.such.host.invalid")):
            done = cli("cache", "serve", "--home", home, *arguments)
            assert (done.code, len(done.err.splitlines())) == (1, 1)
            assert "cannot listen on" in done.err
    for arguments in (("--home", tmp_path / "nowhere"), ("--home", home, "--port", 99_999)):
        assert cli("cache", "serve", *arguments).code == 2


def test_index_makes_a_copied_home_fit_for_any_server(cli, lab, tmp_path) -> None:
    for path in (lab.path / "index.json", *lab.path.rglob("manifest.json")):
        path.unlink()
    with static_server(lab.path, tmp_path / "log") as server:
        refused = cli("cache", "ls", "--home", server.url)
        assert refused.code == 1
        assert "deapcache cache index" in refused.err
        done = cli("cache", "index", "--home", lab)
        assert done.out == f"{lab}/index.json: 8 caches, 64 images\n"
        assert ask(server, "/index.json")[0] == 200
        assert _told(cli, server.url, "ls") == _told(cli, lab, "ls")
