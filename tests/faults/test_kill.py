"""SIGKILL and Ctrl-C at any moment: what was published is whole, and the resumed cache has the same bytes."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deapcache.locations import LocalLocation

CHILD = Path(__file__).with_name("extract_child.py")
IMAGES = 190  # three images a shard, 64 shards
KILLS = 10


def start(root: Path, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, str(CHILD), str(root), str(home)], stdout=subprocess.PIPE, text=True)


def shards(home: Path) -> dict[str, bytes]:
    found = LocalLocation(home)
    return {key: found.read(key) for key in found.keys("features") if "/features/c." in key}


@pytest.mark.slow
def test_ten_kills_and_a_resumed_run_give_the_bytes_of_an_undisturbed_one(make_coco, tmp_path):
    root = make_coco(train=IMAGES, val=1)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    with start(root, undisturbed) as child:
        assert child.stdout is not None
        assert child.stdout.read().splitlines()[-1] == f"DONE {IMAGES}"
    moments = random.Random(7)
    counts = []
    for _ in range(KILLS):
        with start(root, disturbed) as child:
            assert child.stdout is not None
            assert child.stdout.readline().strip() == "READY"
            time.sleep(moments.uniform(0.0, 0.15))
            child.kill()
        assert child.returncode == -signal.SIGKILL
        counts.append(len(shards(disturbed)))
        assert shards(disturbed).items() <= shards(undisturbed).items()
    assert counts == sorted(counts)
    assert len(set(counts)) > 2, "the kills did not fall between shards"
    assert counts[-1] < len(shards(undisturbed)), "the extraction ended before the last kill"
    with start(root, disturbed) as child:
        assert child.stdout is not None
        child.stdout.read()
    assert child.returncode == 0
    assert shards(disturbed) == shards(undisturbed)


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(make_coco, tmp_path):
    root = make_coco(train=IMAGES, val=1)
    command = [
        sys.executable, "-c", "from deapcache.cli import main; main()",
        "extract", "--backbone", "timm:resnet18@untrained",
        "--dataset", "coco", "--data-root", str(root), "--home", str(tmp_path / "home"), "--batch-size", "4",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        deadline = time.monotonic() + 120
        while not shards(tmp_path / "home") and time.monotonic() < deadline:
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        assert child.stderr is not None
        said = child.stderr.read()
    assert child.returncode == 130, said
    assert "run the same command again" in said
    assert "Traceback" not in said
    assert 0 < len(shards(tmp_path / "home")) < 64
