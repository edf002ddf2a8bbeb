"""An extraction that finds everything there: no model is built, and a changed checkpoint is another one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import timm
import torch

from deapcache.backbones import build_count
from deapcache.cache import list_caches
from deapcache.datasets import coco, open_dataset
from deapcache.datasets.coco import CocoListing
from deapcache.extraction import ExtractionSettings, extract
from deapcache.locations import LocalLocation

NAME = "timm:test_vit"


def save_checkpoint(path: Path, seed: int) -> None:
    """Random weights of a small ViT, as old as what is remembered of a file must be."""
    torch.manual_seed(seed)
    torch.save(timm.create_model("test_vit").state_dict(), path)


def test_what_is_there_is_found_without_building_a_model(make_coco, home: LocalLocation, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("deapcache.datasets.digests.SETTLED_NS", -time.time_ns())
    dataset = open_dataset("coco", make_coco(3, 2))
    checkpoint = tmp_path / "mine.pth"
    save_checkpoint(checkpoint, 0)

    def run(**options: object) -> tuple[int, list[str], int]:
        """Models built, digests, images extracted."""
        before = build_count()
        settings = ExtractionSettings(weights=checkpoint, **options)  # type: ignore[arg-type]
        reports = list(extract([NAME], dataset, home, settings=settings))
        return build_count() - before, [report.digest for report in reports], sum(each.extracted for each in reports)

    built, digests, images = run()
    assert (built > 0, images) == (True, 5)
    assert run() == (0, digests, 0)
    entry = next(entry for entry in list_caches(home, "features") if entry.split == "val")
    (entry.location.path / "features" / "c.0.0.0.0").unlink()
    built, again, images = run()
    assert (built > 0, again, images > 0) == (True, digests, True)
    assert run() == (0, digests, 0)
    assert run(storage="float32")[0] > 0, "caches of another recipe are not there"
    for key in home.keys("backbones"):
        home.publish(key, b'{"name": 3}', replace=True)
    assert run()[0] > 0, "a damaged record costs time alone"
    save_checkpoint(checkpoint, 1)
    with pytest.raises(ValueError, match="is taken: "):
        run()


def test_a_no_op_imports_no_model_library(make_coco, home: LocalLocation) -> None:
    root = make_coco(2, 1)
    command = ["extract", "--backbone", "timm:test_vit@untrained", "--dataset", "coco", "--home", str(home)]
    code = (
        "import sys; from deapcache.cli import main\n"
        f"try: main({[*command, '--data-root', str(root)]!r})\n"
        "except SystemExit as end: print(end.code, 'timm' in sys.modules, 'pandas' in sys.modules)"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, env={**os.environ}, timeout=300
        ).stdout.splitlines()[-1]
        for _ in range(2)
    ]
    assert said == ["0 True False", "0 False False"]


def test_cocos_listing_is_read_and_digested_once(make_coco, home: LocalLocation, monkeypatch) -> None:
    root = make_coco(4, 2)
    first = list(extract([f"{NAME}@untrained"], open_dataset("coco", root), home))
    done: Counter[str] = Counter()
    digest, read_json = CocoListing.digest, coco.read_json

    def counting(name, call):
        return lambda *arguments: (done.update([name]), call(*arguments))[1]

    monkeypatch.setattr(CocoListing, "digest", counting("digested", digest))
    monkeypatch.setattr(coco, "read_json", counting("read", read_json))
    again = list(extract([f"{NAME}@untrained"], open_dataset("coco", root), home))
    assert [report.digest for report in again] == [report.digest for report in first]
    assert [report.extracted for report in again] == [0, 0]
    assert done == {"read": 2, "digested": 2}, "of two splits"
