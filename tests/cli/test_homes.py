"""Homes in an object store, homes that are only read, and the local tier, as a user gives them."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from deapcache_bucket import S3Bucket

from deapcache.locations import LocalLocation

BACKBONE = "efficientnet-lite0-s16"
EXTRACT = ("extract", "--backbone", BACKBONE, "--dataset", "coco")
PROBE = ("probe", "--task", "foreground", "--iterations", 4, "--batch-size", 4, "--json")


@pytest.fixture
def data(make_coco: Callable[..., Path]) -> Path:
    return make_coco(12, 4)


@pytest.fixture
def lab(cli, data: Path, tmp_path: Path) -> LocalLocation:
    """A home that another member has filled."""
    (tmp_path / "lab").mkdir()
    done = cli(*EXTRACT, "--data-root", data, "--home", tmp_path / "lab")
    assert done.code == 0, done.err
    return LocalLocation(tmp_path / "lab")


def _scores(done) -> list[dict[str, object]]:
    assert done.code == 0, done.err
    return [{name: result[name] for name in ("metrics", "task", "seed")} for result in json.loads(done.out)]


def _shards(keys: list[str]) -> list[str]:
    return [key for key in keys if "/c." in key]


def _folders(keys: list[str]) -> set[str]:
    return {key.partition("/")[0] for key in keys}


def _tree(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Every file and folder but readers' records: mode, modification time, digest of its bytes."""
    facts = {}
    for path in sorted(set(folder.rglob("*")) - {folder / "uses", *folder.glob("uses/*")}):
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        facts[str(path)] = (path.stat().st_mode, path.stat().st_mtime_ns, digest)
    return facts


def test_s3_gives_the_bytes_and_the_scores_of_a_disk(cli, data: Path, lab: LocalLocation, s3: S3Bucket) -> None:
    extract = (*EXTRACT, "--data-root", data, "--home", s3.url, "--json")
    made = json.loads(cli(*extract).out)
    assert [report["extracted"] for report in made] == [12, 4]
    assert [report["extracted"] for report in json.loads(cli(*extract).out)] == [0, 0]
    shards = _shards(lab.keys())
    assert _shards(s3.keys()) == [f"home/{key}" for key in shards]
    for key in shards:
        assert s3.read(f"home/{key}") == lab.read(key)
    there = cli(*PROBE, "--home", s3.url)
    assert _scores(there) == _scores(cli(*PROBE, "--home", lab))
    (run,) = [result["run"] for result in json.loads(there.out)]
    written = s3.keys()
    for key in (f"results/{run}.json", f"results/{run}.stats.safetensors", f"readouts/{run}.safetensors"):
        assert f"home/{key}" in written
    assert "foreground" in cli("results", "--home", s3.url).out
    listed = json.loads(cli("cache", "ls", "--home", s3.url, "--json").out)
    ours = json.loads(cli("cache", "ls", "--home", lab, "--json").out)
    own = dict.fromkeys(("home", "when", "last_use"))
    assert [{**row, **own} for row in listed] == [{**row, **own} for row in ours]
    assert {row["home"] for row in listed} == {s3.url}


def test_a_lab_s_home_is_probed_and_never_written(
    cli, data: Path, lab: LocalLocation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _scores(cli(*PROBE, "--home", lab))
    for path in [lab.path, *lab.path.rglob("*")]:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    before = _tree(lab.path)
    own = LocalLocation(tmp_path / "own")
    given = ("--home", own, "--read-home", lab)

    done = cli(*PROBE, *given)
    assert _scores(done) == expected
    assert _folders(own.keys()) <= {"results", "readouts", "intervals", "uses"}
    (run,) = [result["run"] for result in json.loads(done.out)]
    assert own.exists(f"results/{run}.json")
    assert own.exists(f"readouts/{run}.safetensors")

    extract = (*EXTRACT, "--data-root", data, *given)
    reports = json.loads(cli(*extract, "--json").out)
    assert [report["extracted"] for report in reports] == [0, 0]
    assert all(report["path"].startswith(str(lab)) for report in reports)
    planned = json.loads(cli(*extract, "--dry-run", "--json").out)
    assert {cache["to_do"] for cache in planned["caches"]} == {0}
    assert not _shards(own.keys())
    assert ".zarr" not in "".join(own.keys())

    monkeypatch.setenv("DEAPCACHE_READ_HOMES", str(lab))
    rows = json.loads(cli("cache", "ls", "--home", own, "--json").out)
    assert {row["home"] for row in rows} == {str(lab)}
    shown = cli("cache", "info", BACKBONE, "--home", own)
    assert str(lab) in shown.out
    assert str(lab) in cli("cache", "ls", "--home", own).out
    assert cli("predict", "--readout", run, "--image", next(data.rglob("*.jpg")), "--out", tmp_path / "shown",
               "--home", own).code == 0  # fmt: skip
    assert _tree(lab.path) == before
    for path in [lab.path, *lab.path.rglob("*")]:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


def test_what_the_lab_lacks_is_made_at_home(cli, data: Path, lab: LocalLocation, tmp_path: Path) -> None:
    own = LocalLocation(tmp_path / "own")
    before = _tree(lab.path)
    done = cli(*EXTRACT, "--data-root", data, "--home", own, "--read-home", lab, "--dtype", "float32", "--json")
    reports = json.loads(done.out)
    assert [report["extracted"] for report in reports] == [12, 4]
    assert "differs from" in done.err
    assert _folders(_shards(own.keys())) == {"features"}  # images and targets are there
    done = cli(*PROBE, "--where", "storage=float32", "--home", own, "--read-home", lab)
    (result,) = json.loads(done.out)
    assert result["caches"]["val"]["recipe"]["storage"] == "float32"
    ambiguous = cli(*PROBE, "--home", own, "--read-home", lab).err
    assert f"The homes {own}, {lab} have" in ambiguous
    assert _tree(lab.path) == before


def test_the_second_epoch_asks_the_server_for_nothing(
    cli, lab: LocalLocation, s3: S3Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.upload(lab.path)
    own, tier = tmp_path / "own", tmp_path / "tier"
    given = ("--home", own, "--read-home", s3.url, "--local-tier", tier, "--local-tier-size", "1GB")
    expected = _scores(cli(*PROBE, "--home", lab))
    assert _scores(cli(*PROBE, *given)) == expected
    asked = s3.requests(".0.0")
    assert asked
    assert {(method, status) for method, _, status in asked} == {("GET", 200)}
    assert len({path for _, path, _ in asked}) == len(asked)  # no shard twice, whatever the epochs
    assert _scores(cli(*PROBE, *given, "--seed", 1)) != expected
    assert s3.requests(".0.0") == asked
    kept = sum(path.stat().st_size for path in tier.rglob("*") if path.is_file())
    assert 0 < kept < 10**9
    assert [path.name for path in tier.iterdir()] == ["deapcache-shards"]
    monkeypatch.setenv("DEAPCACHE_LOCAL_TIER", str(tier))
    assert "a folder and a size" in cli(*PROBE, "--home", own).err


def test_wrong_homes_are_one_line(cli, s3: S3Bucket, tmp_path: Path) -> None:
    for arguments, said in (
        (("--read-home", tmp_path / "gone"), "is it mounted?"),
        (("--home", "s3://KEY:hush@bucket/home"), "must not hold keys"),
        (("--home", "s3://no-such-bucket-here/home"), "NoSuchBucket"),
        (("--local-tier", tmp_path), "--local-tier-size"),
        (("--local-tier", tmp_path, "--local-tier-size", "many"), "such as 200GB"),
    ):
        done = cli(*PROBE, *arguments)
        assert done.code in (1, 2)
        assert said in done.err
        assert len(done.err.strip().splitlines()) == 1
        assert "hush" not in done.err
