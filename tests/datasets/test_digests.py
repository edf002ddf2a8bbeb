"""The digest index saves reading files, and never a wrong digest."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from deapcache.datasets.digests import DigestIndex
from deapcache.errors import MissingDataError
from deapcache.locations import LocalLocation

NAMES = ["a.jpg", "b.jpg", "c.jpg"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = tmp_path / "files"
    files.mkdir()
    for name in NAMES:
        (files / name).write_bytes(name.encode() * 1000)
    return files


def _expected(folder: Path) -> tuple[str, ...]:
    return tuple(hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in NAMES)


def test_without_a_place_nothing_is_remembered(folder: Path) -> None:
    index = DigestIndex()
    assert index.digests(folder, NAMES) == index.digests(folder, NAMES) == _expected(folder)
    assert index.hashed_files == 6


@pytest.mark.usefixtures("settled_files")
def test_second_run_reads_nothing(folder: Path, home: LocalLocation) -> None:
    first, second = DigestIndex(home), DigestIndex(home)
    assert first.digests(folder, NAMES) == second.digests(folder, NAMES) == _expected(folder)
    assert (first.hashed_files, second.hashed_files) == (3, 0)


@pytest.mark.usefixtures("settled_files")
def test_only_the_changed_file_is_read_again(folder: Path, home: LocalLocation) -> None:
    before = DigestIndex(home).digests(folder, NAMES)
    content = bytearray((folder / "b.jpg").read_bytes())
    content[500] ^= 1
    (folder / "b.jpg").write_bytes(content)
    index = DigestIndex(home)
    after = index.digests(folder, NAMES)
    assert index.hashed_files == 1
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]
    assert after == _expected(folder)


def test_a_fresh_file_is_not_trusted(folder: Path, home: LocalLocation) -> None:
    """Two writes within the clock's grain leave the same times: a digest taken in between must not stick."""
    for name in NAMES:
        os.utime(folder / name, (1e9, 1e9))
    first, second = DigestIndex(home), DigestIndex(home)
    first.digests(folder, NAMES)
    second.digests(folder, NAMES)
    assert (first.hashed_files, second.hashed_files) == (3, 3)


@pytest.mark.usefixtures("settled_files")
def test_unusable_index_costs_only_time(folder: Path, home: LocalLocation) -> None:
    DigestIndex(home).digests(folder, NAMES)
    (key,) = home.keys("digests")
    (home.path / key).write_text('{"files": [')
    assert DigestIndex(home).digests(folder, NAMES) == _expected(folder)
    index = DigestIndex(home)
    index.digests(folder, NAMES)
    assert index.hashed_files == 0


def test_two_folders_do_not_mix(folder: Path, home: LocalLocation, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    facts = (folder / "a.jpg").stat()
    (other / "a.jpg").write_bytes(b"x" * facts.st_size)
    os.utime(other / "a.jpg", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    index = DigestIndex(home)
    assert index.digests(folder, ["a.jpg"]) != index.digests(other, ["a.jpg"])


def test_missing_file(folder: Path, home: LocalLocation) -> None:
    with pytest.raises(MissingDataError, match=r"gone\.jpg"):
        DigestIndex(home).digests(folder, ["gone.jpg"])
    with pytest.raises(MissingDataError, match=r"gone\.jpg"):
        DigestIndex().digests(folder, ["gone.jpg"])


@pytest.mark.usefixtures("settled_files")
def test_parts_of_a_file_are_remembered_until_the_file_changes(folder: Path, home: LocalLocation) -> None:
    path = folder / "a.jpg"
    read: list[str] = []

    def digest_part(part: str) -> str:
        read.append(part)
        return hashlib.sha256(path.read_bytes()[int(part) :]).hexdigest()

    parts = ["0", "10", "20"]
    expected = tuple(hashlib.sha256(path.read_bytes()[int(part) :]).hexdigest() for part in parts)
    first = DigestIndex(home)
    assert first.part_digests(path, parts[:2], digest_part) == expected[:2]
    assert (
        first.part_digests(path, parts, digest_part) == expected == DigestIndex().part_digests(path, parts, digest_part)
    )
    assert (sorted(read[:3]), first.hashed_files) == (["0", "10", "20"], 3)
    second = DigestIndex(home)
    assert second.part_digests(path, parts, digest_part) == expected
    assert second.hashed_files == 0
    path.write_bytes(b"other" * 1000)
    assert second.part_digests(path, parts, digest_part) != expected
    assert second.hashed_files == 3
    path.unlink()
    with pytest.raises(MissingDataError, match=r"a\.jpg is missing"):
        second.part_digests(path, parts, digest_part)
