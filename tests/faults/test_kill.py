"""SIGKILL and Ctrl-C at any moment: what was published is whole, and the resumed cache has the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from deapcache_faults import LONG, Extractors, Tally, cache_bytes, leftovers, shard_keys
from deapcache_testing import deapcache

from deapcache.locations import LocalLocation

MOMENTS = 50 if LONG else 5


def _killed(extractors: Extractors, root: Path, home: Path, delay: float) -> bool:
    """Whether an extraction was killed after ``delay`` seconds, and had not ended before."""
    process = extractors.start(root, home, home.with_suffix(".log"))
    time.sleep(delay)
    os.kill(process, signal.SIGKILL)  # of a process that has ended but was not waited for, nothing is killed
    code = extractors.wait(process)
    assert code in (0, -signal.SIGKILL), home.with_suffix(".log").read_text()
    return code != 0


@pytest.mark.slow
def test_kills_at_any_moment_lose_and_change_nothing(undisturbed, extractors: Extractors, tally: Tally, tmp_path):
    moments, homes = random.Random(7), [tmp_path / "home0"]
    shards_seen, kills, enough = set(), 0, 8 if LONG else 1
    while kills < MOMENTS or (len(shards_seen) <= enough and kills < 10 * MOMENTS):  # a busy machine takes more of them
        home = LocalLocation(homes[-1])
        if not _killed(extractors, undisturbed.root, home.path, moments.uniform(0, 0.9 * undisturbed.seconds)):
            assert cache_bytes(home) == undisturbed.kept
            homes.append(tmp_path / f"home{len(homes)}")
            continue
        kills += 1
        with tally.fault("SIGKILL of an extractor", "nothing is lost; the same command goes on"):
            found = cache_bytes(home)
            assert found.items() <= undisturbed.kept.items(), "a key is half written"
            shards_seen.add(len(shard_keys(found)))
    assert len(shards_seen) > enough, "the kills all came at the same moment: this test shows nothing"
    extractors.run(undisturbed.root, homes[-1], tmp_path / "log")
    assert cache_bytes(LocalLocation(homes[-1])) == undisturbed.kept


def test_what_killed_extractors_left_is_swept_by_the_next(undisturbed, extractors: Extractors, tmp_path):
    extractors.run(undisturbed.root, tmp_path / "home", tmp_path / "log")
    yesterday = time.time() - 2 * 86_400
    for folder in [path.parent for path in (tmp_path / "home").rglob("c.3.0*")]:
        next(folder.glob("c.3.0*")).unlink()
        (folder / ".c.3.old.partial").write_bytes(b"half")
        (folder / ".c.3.new.partial").write_bytes(b"half")  # it may be a living writer's
        os.utime(folder / ".c.3.old.partial", (yesterday, yesterday))
    assert len(leftovers(tmp_path / "home")) >= 6
    extractors.run(undisturbed.root, tmp_path / "home", tmp_path / "log")
    assert {path.name for path in leftovers(tmp_path / "home")} == {".c.3.new.partial"}
    assert cache_bytes(LocalLocation(tmp_path / "home")) == undisturbed.kept


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(undisturbed, tmp_path):
    home = LocalLocation(tmp_path / "home")
    command = deapcache(
        "extract", "--backbone", "efficientnet-lite0-s16", "--dataset", "coco", "--split", "train",
        "--data-root", undisturbed.root, "--home", home, "--batch-size", "2",
    )  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        deadline = time.monotonic() + 120
        while not shard_keys(cache_bytes(home)) and time.monotonic() < deadline:
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        assert child.stderr is not None
        said = child.stderr.read()
    assert child.returncode == 130, said
    assert "run the same command again" in said
    assert "Traceback" not in said
    assert 0 < len(shard_keys(cache_bytes(home))) < len(shard_keys(undisturbed.kept))
