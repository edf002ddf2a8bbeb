"""A cache that is removed while it is filled is whole at the end, or the run fails: never success, and no cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deapcache.cache import Cache, list_caches, remove_cache, verify_cache
from deapcache.cli import main
from deapcache.errors import CacheInUseError
from deapcache.extraction.claims import WorkQueue
from deapcache.locations import LocalLocation

BACKBONE = "efficientnet-lite0-s16"


def whole(path: Path) -> None:
    while path.exists():  # claims of the run come and go while the folder is emptied
        shutil.rmtree(path, ignore_errors=True)


def the_root(path: Path) -> None:
    (path / "zarr.json").unlink()


def the_ids(path: Path) -> None:
    shutil.rmtree(path / "image_id")


def the_root_and_an_array(path: Path) -> None:
    (path / "zarr.json").unlink()
    for found in path.glob("*/zarr.json"):
        found.unlink()


def its_shards(path: Path) -> None:
    (path / "zarr.json").unlink()
    for found in path.glob("*/c.[01].*"):
        found.unlink()


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[Path], None]], list[str]]:
    """Has something done to the cache of a kind once its third shard is there; the list says to which."""

    def at(kind: str, do: Callable[[Path], None]) -> list[str]:
        done: list[str] = []
        write = Cache.write_shard

        def written(cache: Cache, k: int, *arguments: object) -> bool:
            outcome = write(cache, k, *arguments)  # type: ignore[arg-type]
            if cache.kind == kind and k == 2 and not done:
                done.append(str(cache.location))
                do(Path(str(cache.location)))
            return outcome

        monkeypatch.setattr(Cache, "write_shard", written)
        return done

    return at


def extract(root: Path, home: LocalLocation, *more: str) -> int:
    command = ["extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", str(root), "--split", "train"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--home", str(home), *more])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("kind", "removed"),
    [
        ("features", whole),
        ("features", the_root),
        ("features", the_ids),
        ("features", the_root_and_an_array),
        ("features", its_shards),
        ("images", whole),
        ("images", its_shards),
        ("targets", whole),
        ("targets", the_root_and_an_array),
    ],
)
def test_what_is_removed_meanwhile_is_whole_at_the_end(make_coco, home, meanwhile, capsys, kind, removed) -> None:
    done = meanwhile(kind, removed)
    code = extract(make_coco(6, 1), home, "--json")
    printed = capsys.readouterr()
    assert len(done) == 1
    assert code == 0, printed.err
    (report,) = json.loads(printed.out)
    assert (report["images"], report["left"]) == (6, 0)
    entries = list_caches(home)
    assert done[0] in [str(entry.location) for entry in entries]
    for entry in entries:
        assert verify_cache(entry.location).is_sound
        assert entry.open().is_complete()
    assert [each["images"] for each in json.loads(home.read("index.json"))["caches"]] == [6] * len(entries)


def test_a_run_at_work_keeps_its_cache(make_coco, home, meanwhile) -> None:
    refused: list[str] = []

    def remove(path: Path) -> None:
        with pytest.raises(CacheInUseError) as told:
            remove_cache(LocalLocation(path))
        refused.append(str(told.value))

    meanwhile("features", remove)
    assert extract(make_coco(6, 1), home) == 0
    assert "is being extracted by" in refused[0]
    assert all(entry.open().is_complete() for entry in list_caches(home))
    for entry in list_caches(home):
        remove_cache(entry.location)  # the run has ended
    assert list_caches(home) == []


def test_shards_that_are_removed_at_the_very_end_are_an_error(make_coco, home, monkeypatch, capsys) -> None:
    restore = WorkQueue._restore_caches

    def removed_after(queue: WorkQueue) -> None:
        restore(queue)
        for entry in list_caches(home, "features"):
            next((home.path / entry.path / "features").glob("c.1.*")).unlink()

    monkeypatch.setattr(WorkQueue, "_restore_caches", removed_after)
    code = extract(make_coco(6, 1), home)
    printed = capsys.readouterr()
    assert code == 1
    assert "lacks 1 shards that were just made" in printed.err
    assert "Traceback" not in printed.err
