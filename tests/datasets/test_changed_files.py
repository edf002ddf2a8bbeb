"""A file that was changed is read again, whatever its size and its time of modification say."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from deapcache_odd_cases import write_sound

from deapcache.datasets import open_dataset
from deapcache.datasets.digests import DigestIndex, file_fingerprint
from deapcache.datasets.nyuv2 import ImageArrays
from deapcache.extraction import without_unreadable
from deapcache.locations import LocalLocation

NAMES = ["a.png", "b.png"]

pytestmark = pytest.mark.usefixtures("settled_files")


def in_place(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def by_another(path: Path, data: bytes) -> None:
    """As rsync and editors do: a new file is moved over the old one."""
    path.with_suffix(".new").write_bytes(data)
    path.with_suffix(".new").replace(path)


def by_a_copy(path: Path, data: bytes) -> None:
    """As ``cp -p`` and archives do, times and all."""
    source = path.parent.parent / "source"
    source.write_bytes(data)
    path.unlink()
    shutil.copy2(source, path)


WAYS = (in_place, by_another, by_a_copy)
Way = Callable[[Path, bytes], None]


def swap(path: Path, data: bytes, way: Way) -> None:
    """Change a file's content to as many other bytes, and set its time of modification back."""
    facts = path.stat()
    assert len(data) == facts.st_size
    time.sleep(0.02)  # longer than the grain of the kernel's clock
    way(path, data)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    now = path.stat()
    assert (now.st_size, now.st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)


def zeroed(memory: bytes) -> bytes:
    """A memory of digests in which all are zero: a line, and 64 bytes an entry, of which the last 32 are the digest."""
    line, end, entries = memory.partition(b"\n")
    assert len(entries) % 64 == 0 < len(entries)
    return line + end + b"".join(entries[row : row + 32] + bytes(32) for row in range(0, len(entries), 64))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    for name in NAMES:
        (tmp_path / "files" / name).write_bytes(name.encode() * 100)
    return tmp_path / "files"


@pytest.mark.parametrize("way", WAYS)
def test_equal_size_and_time_do_not_hide_a_change(files: Path, home: LocalLocation, way: Way) -> None:
    before = DigestIndex(home).digests(files, NAMES)
    swap(files / "b.png", b"other" * 100, way)
    index = DigestIndex(home)
    after = index.digests(files, NAMES)
    assert after == DigestIndex().digests(files, NAMES) != before
    assert (after[0], index.hashed_files) == (before[0], 1)


@pytest.mark.parametrize("way", WAYS)
def test_parts_of_a_file_are_read_again(files: Path, home: LocalLocation, way: Way) -> None:
    path = files / "a.png"

    def read_part(part: str) -> str:
        return hashlib.sha256(path.read_bytes()[int(part) :]).hexdigest()

    before = DigestIndex(home).part_digests(path, ["0", "9"], read_part)
    swap(path, b"other" * 100, way)
    assert DigestIndex(home).part_digests(path, ["0", "9"], read_part) != before


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[:20],
        lambda data: data + b"x",
        lambda data: data.partition(b"\n")[2],
        lambda data: data.replace(b"{", b'{"version": 2, ', 1),
        lambda data: bytes(range(256)) * 4,
        lambda data: b"\n" * len(data),
        lambda data: data.partition(b"\n")[0] + b"\n" + zeroed(data)[-64:] * 2,
        lambda data: json.dumps({"folder": "/", "files": 5}).encode(),
        lambda data: b'{"folder":"/another"}\n' + zeroed(data).partition(b"\n")[2],
    ],
)
def test_a_damaged_memory_is_made_anew(files: Path, home: LocalLocation, damage: Callable[[bytes], bytes]) -> None:
    expected = DigestIndex(home).digests(files, NAMES)
    (key,) = home.keys("digests")
    whole = home.read(key)
    home.publish(key, damage(whole), replace=True)
    index = DigestIndex(home)
    assert (index.digests(files, NAMES), index.hashed_files) == (expected, 2)
    assert home.read(key) == whole
    again = DigestIndex(home)
    assert (again.digests(files, NAMES), again.hashed_files) == (expected, 0)


def test_a_memory_that_lost_an_entry_is_mended(files: Path, home: LocalLocation) -> None:
    expected = DigestIndex(home).digests(files, NAMES)
    (key,) = home.keys("digests")
    whole = home.read(key)
    home.publish(key, whole[:-64], replace=True)
    index = DigestIndex(home)
    assert (index.digests(files, NAMES), index.hashed_files, home.read(key)) == (expected, 1, whole)


@pytest.mark.parametrize(
    "entry",
    [
        lambda facts: [*file_fingerprint(facts), "0"],
        lambda facts: [*file_fingerprint(facts), "00"],
        lambda facts: [*file_fingerprint(facts), "0" * 66],
        lambda facts: [facts.st_size, facts.st_mtime_ns, "0" * 64],  # as the first versions wrote it
        lambda facts: [facts.st_size, facts.st_mtime_ns],
        lambda facts: "0" * 64,
        lambda facts: 5,
        lambda facts: None,
        lambda facts: [],
        lambda facts: {"size": facts.st_size},
    ],
)
def test_a_memory_of_another_form_is_made_anew(files: Path, home: LocalLocation, entry: Callable) -> None:
    """In the file of JSON that earlier versions wrote."""
    expected = DigestIndex(home).digests(files, NAMES)
    (key,) = home.keys("digests")
    as_before, content = key.replace(".sha256", ".json"), json.loads(home.read(key).partition(b"\n")[0])

    def remember(entry: Callable) -> None:
        content["files"] = {name: entry((files / name).stat()) for name in NAMES}
        home.publish(as_before, json.dumps(content).encode(), replace=True)

    home.delete(key)
    remember(lambda facts: [*file_fingerprint(facts), "0" * 64])
    assert list(DigestIndex(home).digests(files, NAMES)) == ["0" * 64] * 2, "it is read"
    remember(entry)
    index = DigestIndex(home)
    assert (index.digests(files, NAMES), index.hashed_files) == (expected, 2)
    again = DigestIndex(home)
    assert (again.digests(files, NAMES), again.hashed_files) == (expected, 0)


def test_rehash_trusts_nothing_and_mends_the_memory(files: Path, home: LocalLocation) -> None:
    expected = DigestIndex(home).digests(files, NAMES)
    (key,) = home.keys("digests")
    home.publish(key, zeroed(home.read(key)), replace=True)
    assert list(DigestIndex(home).digests(files, NAMES)) == ["0" * 64] * 2
    index = DigestIndex(home, rehash=True)
    assert (index.digests(files, NAMES), index.hashed_files) == (expected, 2)
    assert DigestIndex(home).digests(files, NAMES) == expected


@pytest.mark.parametrize("way", WAYS)
def test_the_memory_of_checks_follows_too(tmp_path: Path, home: LocalLocation, way: Way) -> None:
    root = tmp_path / "data" / "few"
    for name in "ab":
        write_sound(root / "val", name)
    (root / "classes.json").write_text('["wall", "floor", "chair"]')
    dataset = open_dataset("folder:few", root.parent)
    assert without_unreadable(dataset, ["val"], home).omitted == {}
    label = root / "val" / "labels" / "b.png"
    swap(label, bytes(label.stat().st_size), way)
    assert list(without_unreadable(dataset, ["val"], home).omitted["val"]) == ["b"]


def test_an_open_array_file_is_opened_again(tmp_path: Path) -> None:
    import h5py

    def write(path: Path, value: int) -> bytes:
        with h5py.File(path, "w") as file:
            file["images"] = np.full((1, 3, 1, 1), value, np.uint8)
        return path.read_bytes()

    other = write(tmp_path / "other.mat", 2)
    write(tmp_path / "a.mat", 1)
    arrays = ImageArrays(tmp_path / "a.mat", {"images": "u"})
    assert arrays.item("images", 1).ravel().tolist() == [1, 1, 1]
    swap(tmp_path / "a.mat", other, in_place)
    assert arrays.item("images", 1).ravel().tolist() == [2, 2, 2]
