"""SIGKILL of ``cache rm`` and ``cache prune``: a cache is whole or it is gone, and removing again finishes."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from deapcache_caches import feature_cache, fill
from deapcache_faults import LONG, Extractors, Tally

from deapcache.cache import FeatureCache, flush, list_caches, list_folders, open_cache, read_manifest, write_index
from deapcache.errors import CacheMissError
from deapcache.locations import LocalLocation, locate

KILLS = 40 if LONG else 8


@pytest.fixture
def lab(tmp_path: Path) -> LocalLocation:
    """A home of two caches, with its index."""
    home = LocalLocation(tmp_path / "lab")
    for storage in ("float16", "float32"):
        cache = feature_cache(home, storage)
        fill(cache)
        flush(cache)
    return home


def _content(home: LocalLocation, path: str) -> dict[str, bytes]:
    place = home / path
    return {key: place.read(key) for key in place.keys("")}


def _listed(home: LocalLocation) -> list[str]:
    """What ``index.json`` names."""
    return [entry["path"] for entry in json.loads(home.read("index.json"))["caches"]]


def _files(folder: Path) -> int:
    try:
        return sum(1 for _ in folder.iterdir())
    except FileNotFoundError:
        return 0


def _kill_when_left(home: LocalLocation, path: str, count: int, process: int) -> None:
    """SIGKILL once no more than ``count`` files of a cache are left; the process need not be there any more."""
    folder, deadline = home.path / path / "features", time.monotonic() + 120
    while _files(folder) > count and time.monotonic() < deadline:
        pass
    os.kill(process, signal.SIGKILL)  # of one that has ended and was not waited for, nothing is killed


def _require_whole_or_gone(home: LocalLocation, path: str, whole: dict[str, bytes]) -> bool:
    """Whether it is whole; a cache of which something is missing opens for nobody."""
    try:
        cache = open_cache(home / path)
    except CacheMissError:
        assert path not in [entry.path for entry in list_caches(home)]
        assert path not in _listed(home), "the index names what is gone"
        assert _content(home, path).items() <= whole.items()
        return False
    assert _content(home, path) == whole
    assert isinstance(cache, FeatureCache)
    assert cache.is_complete()
    found = read_manifest(cache.location)
    assert found is not None
    assert found.is_complete
    return True


def _homes(lab: LocalLocation, extractors: Extractors, verb: list[str], moments: random.Random) -> Iterator[Path]:
    """Copies of a home in which ``verb`` was killed, each with another number of shards left, more than are needed."""
    total = _files(lab.path / _listed(lab)[0] / "features")
    for number in range(10 * KILLS):
        home = LocalLocation(lab.path.with_name(f"home{number}"))
        shutil.copytree(lab.path, home.path)
        process = extractors.command(home.path.with_suffix(".log"), "cache", *verb, "--home", home)
        if number % 4:
            _kill_when_left(home, _listed(lab)[0], moments.randrange(total), process)
        else:  # before the first file goes, as a rule
            time.sleep(moments.uniform(0, 0.2))
            os.kill(process, signal.SIGKILL)
        assert extractors.wait(process) in (0, -signal.SIGKILL), home.path.with_suffix(".log").read_text()
        yield home.path


def test_a_killed_rm_leaves_a_whole_cache_or_none(lab: LocalLocation, extractors: Extractors, tally: Tally) -> None:
    doomed, other = _listed(lab)
    whole = {path: _content(lab, path) for path in (doomed, other)}
    left: set[int] = set()
    for number, folder in enumerate(_homes(lab, extractors, ["rm", doomed, "--yes"], random.Random(3))):
        if number >= KILLS and len(left) > 2:  # on a busy machine kills come late
            break
        home = LocalLocation(folder)
        with tally.fault("SIGKILL of cache rm", "the cache is whole, or no cache; the same command goes on"):
            assert _require_whole_or_gone(home, other, whole[other])
            is_whole = _require_whole_or_gone(home, doomed, whole[doomed])
            left.add(len(_content(home, doomed)))
            assert other in _listed(home)
            if is_whole:  # the index may have left it out already: whoever writes next puts it in again
                assert [entry.path for entry in write_index(home)] == [doomed, other] == _listed(home)
            if [each.path for each in list_folders(home)] != [other]:
                log = folder.with_suffix(".log")
                again = extractors.command(log, "cache", "rm", doomed, "--yes", "--home", home)
                assert extractors.wait(again) == 0, log.read_text()
            assert [each.path for each in list_folders(home)] == [other] == _listed(home)
            assert not [path for path in (folder / doomed).rglob("*") if path.is_file()]  # empty folders may stay
    assert len(left) > 2, "the kills all came at the same moment: this test shows nothing"


def test_a_killed_prune_leaves_whole_caches_or_none(lab: LocalLocation, extractors: Extractors, tally: Tally) -> None:
    paths = _listed(lab)
    whole = {path: _content(lab, path) for path in paths}
    for folder in itertools.islice(_homes(lab, extractors, ["prune", "--unused", "--yes"], random.Random(4)), KILLS):
        home = locate(str(folder))
        assert isinstance(home, LocalLocation)
        with tally.fault("SIGKILL of cache prune", "each cache is whole, or no cache; cache rm removes what is left"):
            for path in paths:
                _require_whole_or_gone(home, path, whole[path])
            for verb in (["prune", "--unused"], ["rm", "--all", ".zarr"]):
                if list_folders(home):
                    log = folder.with_suffix(".log")
                    again = extractors.command(log, "cache", *verb, "--yes", "--home", home)
                    assert extractors.wait(again) == 0, log.read_text()
            assert list_folders(home) == []
            assert _listed(home) == []
