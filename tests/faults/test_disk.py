"""Full disks, quotas, limits on files, homes that are read only or vanish: one clear error, no wrong bytes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deapcache_caches import IMAGES, feature_cache, fill, served, volumes
from deapcache_faults import Tally, environment, leftovers
from deapcache_testing import small_disk

from deapcache.cache import FeatureCache, list_caches, open_cache
from deapcache.errors import CacheMissError, DeapcacheError
from deapcache.locations import LocalLocation, locate

CHILD = Path(__file__).with_name("write_child.py")
ROOT = os.geteuid() == 0


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, as pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="deapcache-faults-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def _write(home: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, str(CHILD), str(home), *options]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def _as_nobody() -> list[str]:
    return ["--nobody"] if ROOT else []  # root may write anywhere


def _require_whole_so_far(home: Path) -> int:
    """Shards that are there; every row of them is right, and no temporary is left."""
    assert leftovers(home) == []
    found = list_caches(LocalLocation(home))
    if not found:
        return 0
    cache = found[0].open()
    rows = [row for shard in sorted(cache.present_shards()) for row in cache.shard_rows(shard)]
    np.testing.assert_array_equal(cache.read(rows), volumes(rows).astype(np.float16))
    return len(cache.present_shards())


def _require_limit_is_told(home: Path, tally: Tally) -> None:
    """The stand-in for a small disk that needs no rights: a limit on the size of a file."""
    with tally.fault("a limit on file sizes (EFBIG)", "StorageFullError: which file, ulimit -f, what stays"):
        told = _write(home, "--file-bytes", "300")
        assert told["error"] == "StorageFullError"
        assert "File too large" in told["message"]
        assert "ulimit -f" in told["message"]
        _require_whole_so_far(home)
    assert _write(home)["shards"] == 44
    assert _require_whole_so_far(home) == 44


def test_a_limit_on_file_sizes_is_told(tmp_path: Path, tally: Tally) -> None:
    _require_limit_is_told(tmp_path / "home", tally)


def test_a_full_disk_keeps_what_was_published(open_folder: Path, tally: Tally) -> None:
    with small_disk(open_folder, "size=160k,mode=777") as mounted_here:
        if not mounted_here:
            _require_limit_is_told(open_folder / "home", tally)
            return
        with tally.fault("disk full (ENOSPC)", "StorageFullError: which file, what stays, how to go on"):
            told = _write(open_folder)
            assert told["error"] == "StorageFullError", told
            assert "No space left on device" in told["message"]
            assert "run the same command again" in told["message"]
            assert 0 < _require_whole_so_far(open_folder) < 44
        subprocess.run(["mount", "-o", "remount,size=8m", str(open_folder)], check=True)
        assert _write(open_folder)["shards"] == 44
        assert _require_whole_so_far(open_folder) == 44


def test_a_quota_is_told_as_a_full_disk(open_folder: Path, tally: Tally) -> None:
    limits = "size=8m,mode=777,usrquota,usrquota_block_hardlimit=163840"
    with small_disk(open_folder, limits) as mounted_here:
        if not mounted_here:  # quotas of tmpfs came with Linux 6.6
            _require_limit_is_told(open_folder / "home", tally)
            return
        with tally.fault("quota used up (EDQUOT)", "StorageFullError: which file, what stays, how to go on"):
            told = _write(open_folder, "--nobody")
            assert told["error"] == "StorageFullError", told
            assert "quota" in told["message"].lower()
            assert 0 < _require_whole_so_far(open_folder) < 44


def _require_read_only_is_told(home: Path, tally: Tally) -> None:
    assert _write(home)["shards"] == 44
    for path in home.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    home.chmod(0o755 if ROOT else 0o555)
    with tally.fault("a home without write permission", "ReadOnlyError that names --home; reading works"):
        told = _write(home, *_as_nobody())
        assert told["error"] == "ReadOnlyError", told
        assert "--home" in told["message"]
        assert _require_whole_so_far(home) == 44
    home.chmod(0o755)


def test_a_home_that_may_not_be_written_is_told_and_read(open_folder: Path, tally: Tally) -> None:
    _require_read_only_is_told(open_folder / "home", tally)


def test_a_read_only_mount_is_told_and_read(open_folder: Path, tally: Tally) -> None:
    with small_disk(open_folder, "size=8m") as mounted_here:
        if not mounted_here:
            _require_read_only_is_told(open_folder / "home", tally)
            return
        assert _write(open_folder)["shards"] == 44
        subprocess.run(["mount", "-o", "remount,ro", str(open_folder)], check=True)
        with tally.fault("a read-only file system (EROFS)", "ReadOnlyError that names --home; reading works"):
            told = _write(open_folder)
            assert told["error"] == "ReadOnlyError", told
            assert "Read-only file system" in told["message"]
            assert _require_whole_so_far(open_folder) == 44


def _read_until_gone(cache: FeatureCache, gone: threading.Event) -> list[DeapcacheError]:
    """Errors of reads before, while and after the home is deleted; what is read must be right."""
    rng, errors = np.random.default_rng(0), []
    while not errors or not gone.is_set():
        rows = rng.permutation(IMAGES)[:8]
        try:
            np.testing.assert_array_equal(cache.read(rows), volumes(list(rows)).astype(np.float16))
        except DeapcacheError as error:
            errors.append(error)
    return errors


@pytest.mark.parametrize("way", ["file", "http"])
def test_a_home_deleted_while_it_is_read_is_told(tmp_path: Path, tally: Tally, way: str) -> None:
    made = feature_cache(LocalLocation(tmp_path))
    fill(made)
    path = str(made.location.path.relative_to(tmp_path.parent))
    with (
        served(tmp_path.parent) as (url, _),
        tally.fault("a home deleted while it is read", "CacheMissError: deleted or moved"),
    ):
        cache, gone = open_cache(made.location if way == "file" else locate(f"{url}/{path}")), threading.Event()
        assert isinstance(cache, FeatureCache)
        errors: list[DeapcacheError] = []
        reader = threading.Thread(target=lambda: errors.extend(_read_until_gone(cache, gone)))
        reader.start()
        shutil.rmtree(made.location.path)
        gone.set()
        reader.join(timeout=60)
        assert errors
        with pytest.raises(CacheMissError, match="deleted or moved while it was read"):
            cache.read(range(IMAGES))
