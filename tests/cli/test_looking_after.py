"""A home that several people share, looked after by one of them: who uses what, pins, removals, nightly jobs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from deapcache_caches import feature_cache, fill, served, shard_file
from deapcache_servers import in_a_thread
from deapcache_testing import mounted, require

import deapcache
from deapcache import locations
from deapcache.cache import FeatureCache, list_caches, open_cache, read_index, rebuild
from deapcache.cache.records import USES, read_pins, read_removals, read_uses
from deapcache.cache.serve import HomeServer
from deapcache.cache.verify import last_verified
from deapcache.experiments import load_pipeline, plan_pipeline
from deapcache.locations import LocalLocation
from deapcache.results import load_results

LAB = 4242
"""The group of the lab."""
ADA, BEN = ("ada", 4001), ("ben", 4002)

User = tuple[str, int]


def as_user(user: User, umask: int, work: Callable[[], object]) -> int:
    """Do something in a process of another user of the lab's group; 0 where nothing was raised."""
    require(os.geteuid() == 0, "root, to be two users")
    child = os.fork()
    if not child:
        code = 1
        try:
            name, number = user
            os.environ["LOGNAME"] = name
            os.setgroups([LAB])
            os.setgid(number)
            os.setuid(number)
            os.umask(umask)
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def cached(home: LocalLocation, who: str, days: float = 1.0, **changes: object) -> FeatureCache:
    """A small cache that ``who`` has made some days ago."""
    cache = feature_cache(home, count=2, **changes)
    when = datetime.now(UTC) - timedelta(days=days)
    cache.record_provenance({"user": who, "host": "gpu7", "started": when.isoformat()})
    fill(cache)
    then = when.timestamp()
    for place in (cache.location.path, *cache.location.path.rglob("*")):
        os.utime(place, (then, then))
    return cache


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody may reach."""
    folder = Path("/tmp") / f"deapcache-lab-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=[0o022, 0o077], ids=["umask 022", "umask 077"])
def umask(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def lab_of(place: Path, mode: int, umask: int) -> LocalLocation:
    """A home of Ada's for the lab, with two caches of hers."""
    require(os.geteuid() == 0, "root, to be two users")
    lab = LocalLocation(place / "lab")
    lab.path.mkdir()
    os.chown(lab.path, ADA[1], LAB)
    lab.path.chmod(mode)
    for storage in ("float16", "float32"):
        assert as_user(ADA, umask, lambda storage=storage: cached(lab, "ada", storage=storage)) == 0
    mine = place / "ben"
    mine.mkdir()
    os.chown(mine, BEN[1], BEN[1])
    return lab


def read_first(own: Path, lab: LocalLocation) -> None:
    """Read one image of the first cache of ``lab``, beside the reader's own home."""
    home = locations.home(own, read_homes=[lab.path])
    first = list_caches(home)[0].open()
    assert isinstance(first, FeatureCache)
    first.read_features([0])


def pruned(cli, lab: LocalLocation, *more: object) -> list[str]:
    done = cli("cache", "prune", "--unused", "--dry-run", "--json", "--home", lab, *more)
    assert done.code == 0, done.err
    assert f"uses are those that these name: {lab}: 0 results" in done.err
    return list(json.loads(done.out)["would_remove"])


# --- uses -------------------------------------------------------------------------------------------------------------


def test_reading_through_a_read_home_is_a_use_that_its_owner_sees(cli, place, umask) -> None:
    lab = lab_of(place, 0o2775, umask)
    one, other = list_caches(lab)
    assert pruned(cli, lab) == [one.path, other.path]
    assert as_user(BEN, umask, lambda: read_first(place / "ben", lab)) == 0
    assert pruned(cli, lab) == [other.path]
    record = (lab.path / USES / "ben.json").stat()
    assert (record.st_uid, record.st_gid, record.st_mode & 0o777) == (BEN[1], LAB, 0o664)
    assert (lab.path / USES).stat().st_mode & 0o7777 == 0o2775
    assert not (place / "ben" / USES).exists()

    def owner() -> None:
        ((use,), damaged) = read_uses(lab)
        assert (use.who, use.path, use.digest, damaged) == ("ben", one.path, one.digest, [])
        assert datetime.now(UTC) - use.when < timedelta(minutes=5)

    assert as_user(ADA, umask, owner) == 0
    before = (lab.path / USES / "ben.json").read_bytes()
    assert as_user(BEN, umask, lambda: read_first(place / "ben", lab)) == 0
    assert (lab.path / USES / "ben.json").read_bytes() == before, "noted once an hour"


def test_a_reader_who_may_not_write_there_notes_it_at_home(cli, place, umask) -> None:
    lab = lab_of(place, 0o2750, umask)
    one, other = list_caches(lab)
    assert as_user(BEN, umask, lambda: read_first(place / "ben", lab)) == 0
    assert not (lab.path / USES).exists()
    assert pruned(cli, lab) == [one.path, other.path]
    assert pruned(cli, lab, "--used-by", place / "ben") == [other.path]
    os.chmod(place / "ben", 0o700)  # noqa: PTH101

    def prune() -> None:
        done = cli("cache", "prune", "--unused", "--yes", "--home", lab, "--used-by", place / "ben")
        assert done.code == 1
        assert "ask its owner" in done.err

    assert as_user(ADA, umask, prune) == 0
    assert len(list_caches(lab)) == 2


def test_uses_that_cannot_be_read_end_a_prune(cli, place) -> None:
    lab = lab_of(place, 0o2775, 0o022)
    assert as_user(BEN, 0o022, lambda: read_first(place / "ben", lab)) == 0
    record = lab.path / USES / "ben.json"

    def refused(text: str) -> Callable[[], None]:
        def prune() -> None:
            done = cli("cache", "prune", "--older-than", "0h", "--yes", "--home", lab)
            assert done.code == 1
            assert text in done.err

        return prune

    (lab.path / USES).chmod(0)
    assert as_user(ADA, 0o022, refused("ask its owner")) == 0
    (lab.path / USES).chmod(0o2775)
    record.chmod(0)
    assert as_user(ADA, 0o022, refused("ask its owner")) == 0
    record.chmod(0o664)
    record.write_text('[{"path": 3}]')
    assert as_user(ADA, 0o022, refused("nothing was removed")) == 0
    shutil.rmtree(lab.path / USES)
    (lab.path / USES).write_text("x")
    assert as_user(ADA, 0o022, refused("is a file, where a folder of records belongs")) == 0
    assert len(list_caches(lab)) == 2


def test_reading_over_http_is_noted_in_the_readers_own_home(cli, home, tmp_path) -> None:
    cached(home, "ada")
    rebuild(home)
    with served(home.path) as (url, _):
        (entry,) = list_caches(locations.home(tmp_path / "mine", read_homes=[url]))
        entry.open().read([0])
    assert not (home.path / USES).exists()
    assert pruned(cli, home) == [entry.path]
    assert pruned(cli, home, "--used-by", tmp_path / "mine") == []


@pytest.mark.parametrize("writable", [True, False])
def test_the_server_of_a_home_notes_what_is_read_over_http(cli, home, tmp_path, writable) -> None:
    cached(home, "ada")
    rebuild(home)
    if not writable:
        (home.path / USES).write_text("in the way")
    with HomeServer(home, "127.0.0.1", 0) as server, in_a_thread(server):
        (row,) = json.loads(cli("cache", "ls", "--home", server.url, "--json").out)
        assert (row["present"], row["images"], row["complete"]) == (2, 2, True)
        (entry,) = list_caches(locations.home(tmp_path / "mine", read_homes=[server.url]))
        cache = entry.open()
        assert len(cache.image_ids) == 2
        assert not (home.path / USES).is_dir(), "neither listing nor opening is a use"
        assert len(cache.read([0, 1])) == 2
    if writable:
        ((use,), _) = read_uses(home)
        assert (use.who, use.path, use.digest) == ("http", row["path"], row["digest"])
        assert pruned(cli, home) == []


def test_a_bucket_keeps_uses_and_answers_totals_by_its_index(cli, s3, tmp_path) -> None:
    bucket = locations.locate(s3.url)
    for storage in ("float16", "float32"):
        fill(feature_cache(bucket, storage, count=2))
    one, other = list_caches(locations.home(tmp_path / "mine", read_homes=[s3.url]))
    one.open().read([0])
    ((use,), _) = read_uses(bucket)
    assert (use.path, use.digest) == (one.path, one.digest)
    assert not (tmp_path / "mine").exists()
    done = cli("cache", "prune", "--unused", "--dry-run", "--json", "--home", s3.url)
    assert json.loads(done.out)["would_remove"] == [other.path]
    before = len(s3.requests("home"))
    (group,) = json.loads(cli("cache", "ls", "--by", "backbone", "--json", "--home", s3.url).out)
    assert (group["backbone"], group["caches"], group["images"]) == ("vit-b-16", 2, 4)
    assert {path.rpartition("/")[2] for _, path, _ in s3.requests("home")[before:]} == {"index.json"}
    index = json.loads(bucket.read("index.json"))
    for key in (bucket / one.path).keys():  # noqa: SIM118
        bucket.delete(f"{one.path}/{key}")
    index["caches"] = [entry for entry in index["caches"] if entry["path"] == one.path]
    bucket.publish("index.json", json.dumps(index).encode(), replace=True)
    listed = json.loads(cli("cache", "ls", "--json", "--home", s3.url).out)
    assert [row["path"] for row in listed] == [other.path], "by its keys, where they can be listed"


def test_the_clock_of_a_host_does_not_matter(cli, home, tmp_path, monkeypatch) -> None:
    cached(home, "ada", days=100)

    class Late(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) - timedelta(hours=9)

    with monkeypatch.context() as patched:
        patched.setattr("deapcache.locations.base.datetime", Late)
        read_first(tmp_path / "mine", home)
    (use,), _ = read_uses(home)
    assert datetime.now(UTC) - use.when < timedelta(hours=1)
    assert "nothing to remove" in cli("cache", "prune", "--older-than", "2h", "--home", home).out


# --- what goes --------------------------------------------------------------------------------------------------------


def test_caches_of_several_people_go_when_it_is_said_twice(cli, home) -> None:
    cached(home, "ada")
    cached(home, "ben", storage="float32")
    prune = ("cache", "prune", "--unused", "--yes", "--home", home)
    done = cli(*prune)
    assert done.code == 0
    assert "caches of ada, ben: nothing is removed without --no-dry-run" in done.err
    assert len(list_caches(home)) == 2
    assert cli("cache", "rm", "features", "--all", "--yes", "--home", home).code == 0
    assert len(list_caches(home)) == 2
    entries = {entry.path: entry for entry in list_caches(home)}
    assert cli(*prune, "--no-dry-run", "--why", "moved to S3").code == 0
    records = read_removals(home)
    assert {one.path: one.digest for one in records} == {path: entry.digest for path, entry in entries.items()}
    assert {(one.who, one.why) for one in records} == {(one.who, "moved to S3") for one in records}
    assert all(one.bytes > 0 and one.files > 3 for one in records)
    told = cli("cache", "journal", "--home", home)
    assert all(path in told.out for path in entries)


def test_a_pinned_cache_stays_until_the_pin_ends(cli, home) -> None:
    kept = cached(home, "ada")
    cached(home, "ada", storage="float32")
    place = ("--home", home)
    name = kept.digest[:12]
    assert cli("cache", "pin", name, *place).code == 2
    assert cli("cache", "pin", name, "--why", "paper", "--until", "soon", *place).code == 2
    assert cli("cache", "pin", name, "--why", "camera ready", "--until", "2999-01-31", *place).code == 0
    refused = cli("cache", "rm", name, "--yes", *place)
    assert refused.code == 1
    assert "until 2999-01-31: camera ready" in refused.err
    assert "camera ready" in cli("cache", "pin", *place).out
    done = cli("cache", "prune", "--unused", "--yes", *place)
    assert "stays, pinned by" in done.err
    assert [entry.digest for entry in list_caches(home)] == [kept.digest]
    assert cli("cache", "pin", name, "--why", "camera ready", "--until", "2001-01-01", *place).code == 0
    assert read_pins(home) == []
    assert cli("cache", "pin", name, "--why", "for good", *place).code == 0
    assert "no longer pinned by" in cli("cache", "unpin", name, *place).out
    assert cli("cache", "rm", name, "--yes", *place).code == 0
    home.publish("pins/odd.json", b"{")
    done = cli("cache", "prune", "--unused", "--yes", *place)
    assert done.code == 1
    assert "pins/odd.json is not what deapcache writes" in done.err


def test_what_a_newer_complete_cache_supersedes_goes(cli, home) -> None:
    old = cached(home, "ada", days=30)
    new = cached(home, "ada", days=3, precision="bf16")
    cached(home, "ada", days=40, backbone="vit-l-16")
    unfinished = cached(home, "ada", days=1, precision="fp16")
    shard_file(unfinished, 0).unlink()
    dry = cli("cache", "prune", "--superseded", "--dry-run", "--home", home)
    assert str(new.location).removeprefix(f"{home}/") in dry.out
    found = json.loads(cli("cache", "prune", "--superseded", "--dry-run", "--json", "--home", home).out)
    assert found["would_remove"] == [str(old.location).removeprefix(f"{home}/")]


def test_the_longest_unused_go_until_enough_is_free(cli, home, monkeypatch) -> None:
    caches = [cached(home, "ada", days=days, images=f"{days:064x}") for days in (5, 9, 2)]
    size = caches[0].stored_bytes()
    monkeypatch.setattr(LocalLocation, "free_bytes", lambda self: 1000)
    prune = ("cache", "prune", "--home", home, "--dry-run", "--json", "--until-free")
    paths = [str(cache.location).removeprefix(f"{home}/") for cache in caches]
    assert json.loads(cli(*prune, "900B").out)["would_remove"] == []
    assert json.loads(cli(*prune, f"{1000 + size}B").out)["would_remove"] == [paths[1]]
    assert json.loads(cli(*prune, f"{1001 + size}B").out)["would_remove"] == [paths[1], paths[0]]
    done = cli(*prune, "2TB")
    assert json.loads(done.out)["would_remove"] == [paths[1], paths[0], paths[2]]
    assert "even without these, only" in done.err


# --- totals -----------------------------------------------------------------------------------------------------------


def test_totals_by_user_dataset_backbone_and_kind(cli, home) -> None:
    first = cached(home, "ada")
    cached(home, "ben", backbone="vit-l-16")
    cached(home, "ben", storage="float32")

    def by(field: str, *place: object) -> dict[str, tuple[int, int]]:
        done = cli("cache", "ls", "--by", field, "--json", *(place or ("--home", home)))
        assert done.code == 0, done.err
        return {group[field]: (group["caches"], group["images"]) for group in json.loads(done.out)}

    assert by("user") == {"ada": (1, 2), "ben": (2, 4)}
    assert by("backbone") == {"vit-b-16": (2, 4), "vit-l-16": (1, 2)}
    assert by("dataset") == {"coco": (3, 6)}
    assert by("kind") == {"features": (3, 6)}
    assert cli("cache", "ls", "--by", "weather", "--home", home).code == 2
    listed = cli("cache", "ls", "--home", home).out
    assert "3 caches" in listed.splitlines()[-1]
    with served(home.path) as (url, requests):
        assert by("backbone", "--home", url) == {"vit-b-16": (2, 4), "vit-l-16": (1, 2)}
        assert {path for path, _ in requests} <= {"/index.json", "/manifest.json"}
    shard_file(first, 0).unlink()
    (row,) = json.loads(cli("cache", "ls", "--filter", first.digest, "--json", "--home", home).out)
    assert (row["present"], row["complete"]) == (1, False), "a manifest that is behind is not believed"


# --- verify -----------------------------------------------------------------------------------------------------------


def test_verify_remembers_what_it_has_read(cli, home) -> None:
    cache = feature_cache(home)
    fill(cache)
    shards = cache.shard_count

    def verified(*more: object) -> dict[str, int]:
        done = cli("cache", "verify", "--home", home, "--json", *more)
        (document,) = json.loads(done.out)
        assert done.code == int(not document["sound"])
        return {name: document[name] for name in ("files", "remembered", "left")}

    assert last_verified(home, cache.digest) == 0.0
    assert verified("--max-time", "0m") == {"files": 0, "remembered": 0, "left": shards}
    found = verified("--sample", "10")
    assert found == {"files": 5, "remembered": 0, "left": shards - 5}
    assert last_verified(home, cache.digest) == 0.0, "the next night begins with what is left"
    assert verified("--older-than", "30d") == {"files": shards - 5, "remembered": 5, "left": 0}
    assert verified("--older-than", "30d") == {"files": 0, "remembered": shards, "left": 0}
    assert last_verified(home, cache.digest) > time.time() - 600
    assert verified() == {"files": shards, "remembered": 0, "left": 0}
    file = shard_file(cache, 7)
    file.with_name("copy").write_bytes(file.read_bytes())
    file.with_name("copy").rename(file)
    assert verified("--older-than", "30d") == {"files": 1, "remembered": shards - 1, "left": 0}
    data = bytearray(file.read_bytes())
    data[9] ^= 16
    file.write_bytes(data)
    assert verified("--older-than", "30d") == {"files": 1, "remembered": shards - 1, "left": 0}
    assert verified("--older-than", "30d") == {"files": 1, "remembered": shards - 1, "left": 0}, "damage is read again"
    told = cli("cache", "verify", "--summary", "--older-than", "30d", "--home", home)
    assert told.code == 1
    assert "DAMAGED" in told.out
    assert f"1 files read ({file.stat().st_size} B), {shards - 1} found sound before" in told.out
    (memory,) = (home.path / "verified").iterdir()
    memory.write_bytes(b"{")
    assert verified("--older-than", "30d")["files"] == shards, "a memory that is damaged costs a reading"
    assert cli("cache", "rm", "features", "--yes", "--home", home).code == 0
    assert not list((home.path / "verified").iterdir())
    assert cli("cache", "verify", "--sample", "0", "--home", home).code == 2


# --- mirrors ----------------------------------------------------------------------------------------------------------


def test_a_mirror_is_kept_in_step(cli, home, tmp_path) -> None:
    one, other = cached(home, "ada"), cached(home, "ben", backbone="vit-l-16")
    target = LocalLocation(tmp_path / "mirror")
    mirror = ("cache", "mirror", target, "--home", home)
    (need,) = json.loads(cli(*mirror, "--filter", "backbone=vit-l-16", "--dry-run", "--json").out)
    assert (need["shards"], need["bytes"]) == (2, other.stored_bytes())
    assert json.loads(cli(*mirror, "--filter", "complete=false", "--dry-run", "--json").out) == []
    assert not target.path.exists()
    assert cli(*mirror, "--filter", "backbone=vit-l-16").code == 0
    assert [entry.digest for entry in list_caches(target)] == [other.digest]
    assert cli(*mirror).code == 0
    assert {entry.digest for entry in list_caches(target)} == {one.digest, other.digest}
    again = json.loads(cli(*mirror, "--json").out)
    assert [(report["copied"], report["there"], report["complete"]) for report in again] == [(0, 2, True)] * 2
    assert cli("cache", "rm", one.digest, "--yes", "--home", home).code == 0
    assert f"is in {target} alone" in cli(*mirror).err
    assert len(list_caches(target)) == 2


def test_a_damaged_cache_does_not_keep_others_from_a_mirror(cli, home, tmp_path) -> None:
    odd, sound = cached(home, "ada"), cached(home, "ada", backbone="vit-l-16")
    odd.location.publish("features/zarr.json", b"{", replace=True)
    done = cli("cache", "mirror", tmp_path / "mirror", "--home", home)
    assert done.code == 1
    assert f"NOT COPIED: {str(odd.location).removeprefix(f'{home}/')}: {odd.location}/features/zarr.json" in done.err
    assert [entry.digest for entry in list_caches(LocalLocation(tmp_path / "mirror"))] == [sound.digest]


def test_removing_makes_room_on_a_disk_that_is_full(cli, tmp_path) -> None:
    with mounted(tmp_path / "disk", "size=2m") as folder:
        home = LocalLocation(folder)
        one, other = cached(home, "ada"), cached(home, "ada", storage="float32")
        with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        done = cli("cache", "rm", one.digest, "--yes", "--why", "full", "--home", home)
        assert done.code == 0, done.err
        assert [(record.digest, record.why) for record in read_removals(home)] == [(one.digest, "full")]
        assert [entry.digest for entry in read_index(home)] == [other.digest]


def test_a_copy_that_is_damaged_on_its_way_is_told(cli, home, tmp_path, monkeypatch) -> None:
    cached(home, "ada")
    publish = LocalLocation.publish

    def spoilt(self, key, data, *, replace=False):
        if key.endswith("c.1.0.0.0"):
            data = bytes(data[:9]) + bytes([data[9] ^ 16]) + bytes(data[10:])
        return publish(self, key, data, replace=replace)

    monkeypatch.setattr(LocalLocation, "publish", spoilt)
    done = cli("cache", "push", "features", "--verify", "--to", tmp_path / "lab", "--home", home)
    assert done.code == 1
    assert "c.1.0.0.0: the copy is damaged" in done.out


def test_copies_keep_to_a_rate_and_filters_choose_them(cli, home, tmp_path) -> None:
    cache = feature_cache(home)
    fill(cache)
    rate = 2 * cache.stored_bytes()
    begun = time.monotonic()
    done = cli("cache", "push", "--filter", "kind=features", "--max-rate", f"{rate}B", "--to", tmp_path, "--home", home)
    assert done.code == 0, done.err
    assert time.monotonic() - begun > 0.4
    assert open_cache(list_caches(LocalLocation(tmp_path))[0].location).is_complete()
    assert cli("cache", "push", "--to", tmp_path, "--home", home).code == 2


# --- deapcache.toml ---------------------------------------------------------------------------------------------------


def agreed(home: LocalLocation, text: str) -> None:
    home.publish("deapcache.toml", text.encode(), replace=True)


def test_a_home_has_defaults_that_the_command_line_overrides(cli, make_coco, home, tmp_path) -> None:
    agreed(home, 'read-homes = ["%s"]\n[extract]\ndtype = "int8"\nprecision = "bf16"\n' % (tmp_path / "lab"))
    root = make_coco(2, 1)
    extract = ("extract", "--backbone", "timm:test_vit@untrained", "--dataset", "coco", "--data-root", root)
    missing = cli(*extract, "--split", "val", "--home", home)
    assert missing.code == 1
    assert "there is no read-home" in missing.err
    (tmp_path / "lab").mkdir()
    done = cli(*extract, "--split", "val", "--home", home)
    assert done.code == 0, done.err
    assert f"of {home}/deapcache.toml: dtype = int8, precision = bf16" in done.err
    assert cli(*extract, "--split", "val", "--home", home, "--dtype", "float32").code == 0
    made = {(entry.recipe["storage"], entry.recipe["precision"]) for entry in list_caches(home, "features")}
    assert made == {("int8", "bf16"), ("float32", "bf16")}
    shown = json.loads(cli("doctor", "--home", home, "--json").out)["home"]["defaults"]
    assert "extract.dtype = int8, extract.precision = bf16" in shown
    assert [str(layer) for layer in locations.home(home.path).layers] == [str(home), str(tmp_path / "lab")]


def test_python_pipelines_and_results_have_the_defaults_of_a_home(cli, make_coco, home, tmp_path, monkeypatch) -> None:
    agreed(home, '[extract]\ndtype = "int8"\nprecision = "bf16"\nviews = "original, hflip"\n')
    root, name = make_coco(4, 2), "timm:test_vit@untrained"
    deapcache.extract("coco", backbones=name, home=home.path, data_root=root)
    made = {tuple(e.fields[field] for field in ("storage", "precision", "view")) for e in list_caches(home, "features")}
    assert made == {("int8", "bf16", "original"), ("int8", "bf16", "hflip")}
    deapcache.extract("coco", backbones=name, home=home.path, data_root=root, storage="float32", views=("original",))
    assert {entry.recipe["storage"] for entry in list_caches(home, "features")} == {"int8", "float32"}

    file = tmp_path / "mine.yaml"
    file.write_text(f"backbones: ['{name}']\nreadouts: [linear]\nprobes: [{{tasks: [boundaries], dataset: coco}}]\n")
    for more, storage in (("", "int8"), ("storage: float16\n", "float16")):
        file.write_text(file.read_text() + more)
        plan = plan_pipeline(load_pipeline(str(file)), home, root)
        assert {(each.settings.storage, each.settings.precision) for each in plan.datasets.values()} == {
            (storage, "bf16")
        }
    shown = cli("run", file, "--dry-run", "--home", home, "--data-root", root)
    assert f"of {home}/deapcache.toml: precision = bf16" in shown.err

    probe = ("--task", "boundaries", "--backbone", name, "--readout", "linear", "--iterations", "1", "--lr", "1e-3")
    done = cli("probe", *probe, "--where", "storage=int8", "--home", home)
    assert done.code == 0, done.err
    (result,) = load_results(home)
    assert result.home_defaults == {
        "extract.dtype": "int8",
        "extract.precision": "bf16",
        "extract.views": "original, hflip",
    }
    reads, module = [], sys.modules["deapcache.experiments.probe"]
    monkeypatch.setattr(module, "home_defaults", lambda home: reads.append(home) or locations.home_defaults(home))
    assert cli("probe", *probe, "--where", "storage=int8", "--home", home, "--train-limit", "2,3").code == 0
    assert len(reads) == 1, "two passes, one reading"


def test_prune_keeps_to_what_the_lab_has_agreed_on(cli, home, tmp_path) -> None:
    one, other = cached(home, "ada", days=100), cached(home, "ada", days=200, storage="float32")
    prune = ("cache", "prune", "--home", home, "--dry-run", "--json")
    assert cli(*prune).code == 2
    agreed(home, '[prune]\nolder-than = "150d"\n')
    (path,) = json.loads(cli(*prune).out)["would_remove"]
    assert path == str(other.location).removeprefix(f"{home}/")
    assert len(json.loads(cli(*prune, "--older-than", "90d").out)["would_remove"]) == 2
    agreed(home, '[prune]\nolder-than = "150d"\nused-by = ["%s"]\n' % (tmp_path / "gone"))
    refused = cli(*prune)
    assert refused.code == 2
    assert "Is it mistyped, or not mounted?" in refused.err
    assert one.location.exists("zarr.json")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[extract", "cannot be read as TOML"),
        ("dtype = 'int8'", "has dtype, which means nothing: it may have read-homes, extract.dtype"),
        ("[extract]\ndtpye = 'int8'", "has extract.dtpye, which means nothing"),
        ("[extract]\ndtype = 8", "extract.dtype is 8, expected a text"),
        ("[prune]\nused-by = [3]", "expected a list of texts"),
        ("extract = 3", "expected a table"),
    ],
)
def test_defaults_that_mean_nothing_are_refused(cli, home, text, told) -> None:
    agreed(home, text)
    done = cli("cache", "prune", "--unused", "--home", home)
    assert done.code == 2
    assert f"{home}/deapcache.toml" in done.err
    assert told in done.err


def test_the_nightly_jobs_of_the_documentation_run(cli, home, tmp_path) -> None:
    cached(home, "ada", days=200)
    page = (Path(__file__).parents[2] / "docs" / "looking-after-a-home.md").read_text()
    (fence,) = re.findall(r"^```cron\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    jobs = [line.split(maxsplit=5) for line in fence.splitlines() if not line.startswith("#")]
    said = []
    for *schedule, command in jobs:
        assert len(schedule) == 5
        words = command.replace("/lab/deap", str(home)).replace("/backup/deap", str(tmp_path / "backup")).split()
        done = cli(*words[1:])
        assert (words[0], done.code) == ("deapcache", 0), done.err
        said.append(done.out)
    assert "2 files read" in said[0]
    assert [entry.path for entry in list_caches(LocalLocation(tmp_path / "backup"))] == [list_caches(home)[0].path]
    assert "ada" in said[2]
    assert list_caches(home)[0].path in said[3]
    (defaults,) = re.findall(r"^```toml\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    agreed(home, defaults)
    assert locations.home_defaults(home).get("extract.dtype") == "int8"
    assert locations.home_defaults(home).get("prune.older-than") == "180d"


_MODEL = ("--backbone", "timm:test_vit@untrained")
_EXTRACT = ("extract", *_MODEL, "--dataset", "coco")
_PROBE = ("probe", *_MODEL, "--task", "boundaries", "--readout", "linear", "--iterations", "1", "--lr", "1e-3")
LOOKS = {
    ("cache", "ls"): 6,
    ("cache", "ls", "--by", "user"): 6,
    ("cache", "ls", "--filter", "split=val"): 6,
    ("cache", "prune", "--unused", "--dry-run"): 6,
    ("cache", "index"): 11,
    ("cache", "info", "DIGEST"): 0,
    ("cache", "diff", "DIGEST", "OTHER"): 0,
    ("cache", "verify", "DIGEST"): 0,
    ("cache", "repair", "DIGEST"): 0,
    ("cache", "pin", "DIGEST", "--why", "mine"): 0,
    ("cache", "pin"): 0,
    ("cache", "unpin", "DIGEST"): 0,
    ("cache", "rm", "DIGEST", "--dry-run"): 0,
    ("cache", "push", "DIGEST", "--to", "AWAY", "--dry-run"): 0,
    ("cache", "journal"): 0,
    ("results",): 0,
    ("leaderboard",): 0,
    ("doctor",): 3,
    ("run", "table4", "--dry-run"): 7,
    ("plan", "table4"): 7,
    (*_EXTRACT, "--dry-run"): 0,
    _EXTRACT: 0,
    _PROBE: 1,
    (*_PROBE, "--dataset", "coco"): 0,
    ("cache", "pull", "DIGEST", "--from", "OTHERS"): 0,
    ("cache", "mirror", "AWAY", "--filter", "DIGEST"): 1,
    ("cache", "mirror", "AWAY", "--filter", "DIGEST", "--dry-run"): 1,
}
"""Verbs, and how often each may open or list something more for each further cache of the home: those that are about
one cache, or none, list the home once at most. A pipeline whose dataset is not there opens the caches of it."""


def test_no_verb_looks_at_a_home_again_and_again(cli, make_coco, home, tmp_path, monkeypatch) -> None:
    (tmp_path / "away").mkdir()
    root = make_coco(2, 1)

    def looks(verb: tuple[str, ...]) -> int:
        count = 0
        one, other = (
            open_cache(home / entry.path).digest for entry in list_caches(home, "features", dataset="coco")[:2]
        )
        words = {"DIGEST": one, "OTHER": other, "AWAY": str(tmp_path / "away"), "OTHERS": str(home)}
        more = ("--data-root", root) if verb[0] in ("extract", "plan", "run") else ()
        place = tmp_path / "mine" if "pull" in verb else home

        def counting(call):
            def wrapper(*arguments, **settings):
                nonlocal count
                count += 1
                return call(*arguments, **settings)

            return wrapper

        with monkeypatch.context() as patched:
            for name in ("open", "scandir"):
                patched.setattr(os, name, counting(getattr(os, name)))
            done = cli(*(words.get(word, word) for word in verb), "--home", place, *more)
        assert done.code in ((0, 1) if verb[0] in ("run", "results", "leaderboard") else (0,)), (verb, done.err)
        return count

    counts: list[dict[tuple[str, ...], int]] = []
    for number in range(34):
        cached(home, "ada", images=f"{number:064x}")
        if number in (9, 33):
            rebuild(home)
            if number == 9:
                for verb in LOOKS:  # a first time, which makes what is lacking
                    looks(verb)
            counts.append({verb: looks(verb) for verb in LOOKS})
    grown = {verb: (counts[1][verb] - counts[0][verb]) / 24 for verb in LOOKS}
    assert {verb: each for verb, each in grown.items() if each > LOOKS[verb] + 0.2} == {}


def test_a_plan_of_many_probes_lists_a_home_once(cli, home, tmp_path, monkeypatch) -> None:
    for number in range(3):
        cached(home, "ada", images=f"{number:064x}")
    finds: list[str] = []
    find = LocalLocation.find
    monkeypatch.setattr(LocalLocation, "find", lambda self, pattern: (finds.append(pattern), find(self, pattern))[1])
    done = cli("run", "table4", "--dry-run", "--home", home, "--data-root", tmp_path)
    assert done.code in (0, 1, 2), done.err
    assert len(finds) == 3, "features, images and targets"
