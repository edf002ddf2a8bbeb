"""``cache prune``, ``rm`` and ``ls``: what could not be looked at is not unused, and what others use is left alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from deapcache_caches import feature_cache, fill, served
from deapcache_testing import require

from deapcache.cache import list_caches, rebuild
from deapcache.cache.claims import Claim
from deapcache.locations import LocalLocation

NOBODY = 65_534


@pytest.fixture
def lab(home: LocalLocation) -> LocalLocation:
    for storage in ("float16", "float32"):
        fill(feature_cache(home, storage, count=2))
    rebuild(home)
    return home


def paths(home: LocalLocation) -> list[str]:
    return [entry.path for entry in list_caches(home)]


def measured(home: LocalLocation, digest: str, name: str = "run-1") -> None:
    """A result that names a cache."""
    document = {"run": name, "date": "2026-03-04T05:06:07+00:00", "caches": {"train": {"digest": digest}}}
    home.publish(f"results/{name}.json", json.dumps(document).encode())


def nothing_there(place: Path) -> str:
    return str(place / "mistyped")


def not_mounted(place: Path) -> str:
    (place / "mount").mkdir()
    return str(place / "mount")


def a_dangling_link(place: Path) -> str:
    (place / "dangling").symlink_to(place / "gone")
    return str(place / "dangling")


def dangling_results(place: Path) -> str:
    (place / "other").mkdir()
    (place / "other" / "results").symlink_to(place / "gone")
    return str(place / "other")


def a_file(place: Path) -> str:
    (place / "file").write_text("x")
    return str(place / "file")


def hidden_results(place: Path) -> str:
    (place / "apple" / "results").mkdir(parents=True)
    (place / "apple" / "results" / "._run-1.json").write_text("x")
    return str(place / "apple")


def a_web_home(_: Path) -> str:
    return "http://127.0.0.1:9/home"


UNSEEN: list[Callable[[Path], str]] = [
    nothing_there, not_mounted, a_dangling_link, dangling_results, a_file, hidden_results, a_web_home,
]  # fmt: skip


@pytest.mark.parametrize("unseen", UNSEEN)
@pytest.mark.parametrize("verb", [("prune", "--unused", "--yes"), ("prune", "--older-than", "0h", "--yes"), ("ls",)])
def test_uses_that_cannot_be_looked_at_are_refused(cli, lab, tmp_path, unseen, verb) -> None:
    before = paths(lab)
    done = cli("cache", *verb, "--home", lab, "--used-by", unseen(tmp_path))
    assert done.code in (1, 2)
    assert len(done.err.strip().splitlines()) == 1
    assert "Traceback" not in done.err
    assert paths(lab) == before


def test_uses_elsewhere_count(cli, lab, tmp_path) -> None:
    one, other = list_caches(lab)
    measured(LocalLocation(tmp_path / "mine"), one.digest)
    done = cli("cache", "prune", "--unused", "--yes", "--home", lab, "--used-by", tmp_path / "mine")
    assert done.code == 0, done.err
    assert paths(lab) == [one.path]
    assert other.path in done.out


@contextmanager
def as_nobody() -> Iterator[None]:
    """As a user who owns nothing; files below are nobody's business unless they say so."""
    require(os.geteuid() == 0, "root, to be somebody else for a while")
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared(cli) -> Iterator[LocalLocation]:
    """A home that everybody may write, at a place that everybody may reach."""
    folder = Path("/tmp") / f"deapcache-shared-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    home = LocalLocation(folder)
    for storage in ("float16", "float32"):
        fill(feature_cache(home, storage, count=2))
    rebuild(home)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    for verb in (("ls",), ("verify",), ("prune", "--unused", "--dry-run"), ("rm", "--all", "features", "--dry-run")):
        assert cli("cache", *verb, "--home", home).code == 0  # all is imported that others may not read
    yield home
    shutil.rmtree(folder)


@pytest.mark.parametrize("closed", ["results", "results/ada"])
def test_results_that_may_not_be_listed_are_not_absent(cli, shared, closed) -> None:
    (shared.path / closed).mkdir(parents=True)
    (shared.path / closed).chmod(0o700)
    before = paths(shared)
    with as_nobody():
        done = cli("cache", "prune", "--unused", "--yes", "--home", shared)
    assert done.code == 1
    assert f"cannot list {shared.path / closed}: Permission denied; ask its owner" in done.err
    assert paths(shared) == before


def test_a_folder_that_may_not_be_entered_hides_nothing_else(cli, shared, recwarn) -> None:
    one, other = paths(shared)
    (shared.path / one).chmod(0o700)
    private = shared.path / "features" / "private"
    private.mkdir(mode=0o700)
    with as_nobody():
        done = cli("cache", "ls", "--home", shared, "--json")
        assert done.code == 0, done.err
        assert [row["path"] for row in json.loads(done.out)] == [other]
        told = "\n".join(str(warning.message) for warning in recwarn)
        for closed in (shared.path / one, private):
            assert f"left out: cannot list {closed}: Permission denied; ask its owner" in told
        refused = cli("cache", "verify", one, "--home", shared)
        assert refused.code == 1
        assert "Traceback" not in refused.err
        done = cli("cache", "verify", other, "--home", shared)
        assert done.code == 0, done.err
        done = cli("cache", "rm", other, "--yes", "--home", shared)
        assert done.code == 0, done.err
    assert paths(shared) == [one]


def test_a_home_that_may_not_be_entered_is_not_empty(cli, shared) -> None:
    (shared.path / "features").chmod(0o700)
    with as_nobody():
        done = cli("cache", "ls", "--home", shared)
    assert done.code == 1
    assert "ask its owner" in done.err


def claimed(home: LocalLocation, path: str) -> None:
    claim = Claim(writer="w", host="gpu7", pid=4242, machine="another")
    (home / path).publish("claims/0.json", claim.to_bytes(), replace=True)


def test_rm_refuses_and_prune_passes_over_what_a_run_is_at_work_on(cli, lab) -> None:
    one, other = paths(lab)
    claimed(lab, one)
    done = cli("cache", "rm", one, "--yes", "--home", lab)
    assert done.code == 1
    assert "is being extracted by gpu7 (process 4242)" in done.err
    done = cli("cache", "prune", "--unused", "--yes", "--home", lab)
    assert done.code == 0, done.err
    assert "gpu7 (process 4242)" in done.err
    assert f"removed {lab}/{other}" in done.out
    assert paths(lab) == [one]


@pytest.mark.parametrize("verb", ["rm", "prune"])
@pytest.mark.parametrize("part", [1, 2, 3, 4])
def test_a_colleagues_cache_survives(cli, lab, tmp_path, verb, part) -> None:
    (tmp_path / "mine").mkdir()
    mine = LocalLocation(tmp_path / "mine")
    before = {path: path.read_bytes() for path in lab.path.rglob("*") if path.is_file()}
    path = paths(lab)[0]
    link = mine.path / "/".join(path.split("/")[:part])
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(lab.path / link.relative_to(mine.path))
    what = (path,) if verb == "rm" else ("--unused",)
    done = cli("cache", verb, *what, "--yes", "--home", mine)
    assert {path: path.read_bytes() for path in lab.path.rglob("*") if path.is_file()} == before
    if part == 4:
        assert done.code == 0, done.err
        assert not link.is_symlink()
    else:
        assert "links lead out of the home" in done.err
        assert link.is_symlink()
    repaired = cli("cache", "repair", path, "--home", mine)
    assert repaired.code == 1
    assert {path: path.read_bytes() for path in lab.path.rglob("*") if path.is_file()} == before


def test_a_cache_that_goes_while_a_home_is_listed_is_left_out(cli, lab) -> None:
    path, kept = feature_cache(lab, "int8", count=2).location.path, lab.path.with_name("kept")
    path.rename(kept)
    child = os.fork()  # it touches no library that has threads
    if not child:
        while True:
            shutil.copytree(kept, kept.with_name("copy"))
            kept.with_name("copy").rename(path)
            for key in ("zarr.json", "features/zarr.json"):
                (path / key).unlink()
            shutil.rmtree(path, ignore_errors=True)
    try:
        for _ in range(25):
            done = cli("cache", "ls", "--home", lab, "--json")
            assert done.code == 0, done.err
            assert len([row for row in json.loads(done.out) if row.get("complete")]) == 2
            assert not [row for row in json.loads(done.out) if "error" in row]
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "nothing came and went any more"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_cache_that_a_stale_index_names_is_left_out(cli, lab) -> None:
    one, other = paths(lab)
    shutil.rmtree(lab.path / one)
    with served(lab.path) as (url, _):
        done = cli("cache", "ls", "--home", url, "--json")
    assert done.code == 0, done.err
    assert done.err == ""
    assert [row["path"] for row in json.loads(done.out)] == [other]
