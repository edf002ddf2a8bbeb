"""A folder of many images: what a listing of it takes, and what is remembered of its files."""

from __future__ import annotations

import hashlib
import json
import os
import tracemalloc
from pathlib import Path

import pytest

from deapcache.datasets import DigestIndex, open_dataset
from deapcache.datasets.base import sample_order
from deapcache.datasets.digests import SETTLED_NS
from deapcache.locations import LocalLocation
from deapcache.recipe import digest_of, image_set_digest

IMAGES = 5000


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """A data root whose folder ``birds`` has links to two files, for all images; they are as old as can be trusted."""
    folder = tmp_path / "data" / "birds" / "train" / "images"
    folder.mkdir(parents=True)
    for number in range(IMAGES):
        first = folder / f"{number % 2:08d}.jpg"
        if number < 2:
            first.write_bytes(b"image %d" % number)
        else:
            os.link(first, folder / f"{number:08d}.jpg")
    return tmp_path / "data"


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the files for as old as what is remembered of them must be."""
    monkeypatch.setattr("deapcache.datasets.digests.SETTLED_NS", -SETTLED_NS)


def test_a_listing_takes_few_bytes_an_image(birds: Path) -> None:
    dataset = open_dataset("folder:birds", birds)
    tracemalloc.start()
    samples = dataset.samples("train")  # type: ignore[attr-defined]
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept / IMAGES <= 60
    assert most / IMAGES <= 150
    names = [f"{number:08d}" for number in range(IMAGES)]
    assert dataset.image_ids("train") == tuple(sample_order(names))
    assert [samples[row].image for row in range(3)] == [f"train/images/{samples.ids[row]}.jpg" for row in range(3)]


def test_what_is_remembered_is_small_and_read_no_more(birds: Path, home: LocalLocation, monkeypatch) -> None:
    settle(monkeypatch)
    dataset = open_dataset("folder:birds", birds)
    of_two = [hashlib.sha256(b"image %d" % number).hexdigest() for number in range(2)]
    expected = tuple(of_two[int(id_) % 2] for id_ in dataset.image_ids("train"))
    index = DigestIndex(home)
    assert dataset.image_digests("train", index=index) == expected
    assert index.hashed_files == IMAGES
    (key,) = home.keys("digests")
    assert len(home.read(key)) / IMAGES <= 65
    again = DigestIndex(home)
    tracemalloc.start()
    assert dataset.image_digests("train", index=again) is not None
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most / IMAGES <= 250
    assert again.hashed_files == 0
    changed = birds / "birds" / "train" / "images" / "00000007.jpg"
    changed.unlink()
    changed.write_bytes(b"another")
    again = DigestIndex(home)
    found = dataset.image_digests("train", index=again)
    assert again.hashed_files == IMAGES // 2, "a link less is a change of the file that the others link to"
    assert found[dataset.image_ids("train").index("00000007")] == hashlib.sha256(b"another").hexdigest()
    pairs = list(zip(dataset.image_ids("train"), found, strict=True))
    assert image_set_digest(pairs) == digest_of([list(pair) for pair in pairs])


@pytest.mark.parametrize("content", [b"", b"{}", b"{}\n" + b"x" * 64, b"{}\n" + bytes(130), b"\xff" * 1000])
def test_an_index_that_cannot_be_used_costs_time_alone(birds: Path, home, monkeypatch, content: bytes) -> None:
    settle(monkeypatch)
    dataset = open_dataset("folder:birds", birds)
    expected = dataset.image_digests("train", index=DigestIndex(home))
    (key,) = home.keys("digests")
    home.publish(key, content, replace=True)
    assert dataset.image_digests("train", index=DigestIndex(home)) == expected
    again = DigestIndex(home)
    assert dataset.image_digests("train", index=again) == expected
    assert again.hashed_files == 0


def test_what_earlier_versions_remembered_is_taken_over(birds: Path, home: LocalLocation, monkeypatch) -> None:
    settle(monkeypatch)
    dataset = open_dataset("folder:birds", birds)
    digests = dataset.image_digests("train", index=DigestIndex(home))
    (key,) = home.keys("digests")
    root = birds / "birds"
    files = {}
    for id_, digest in zip(dataset.image_ids("train"), digests, strict=True):
        facts = (root / f"train/images/{id_}.jpg").stat()
        entry = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, digest]
        files[f"train/images/{id_}.jpg"] = entry
    home.delete(key)
    document = {"folder": str(root), "files": files}
    home.publish(key.replace(".sha256", ".json"), json.dumps(document).encode())
    index = DigestIndex(home)
    assert dataset.image_digests("train", index=index) == digests
    assert index.hashed_files == 0
