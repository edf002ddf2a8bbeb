"""Data that is odd, changed, or not for everybody to see: what ``extract``, ``doctor`` and ``list`` make of it."""

from __future__ import annotations

import io
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from deapcache_odd_cases import write_sound
from PIL import Image

from deapcache.cache import list_caches
from deapcache.datasets.digests import DigestIndex
from deapcache.locations import LocalLocation

BACKBONE = "efficientnet-lite0-s16"


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A folder with two images for training and two for validation."""
    root = tmp_path / "data" / "few"
    for split, names in (("train", "ab"), ("val", "xy")):
        for name in names:
            write_sound(root / split, name)
    (root / "classes.json").write_text('["wall", "floor", "chair"]')
    return root


def extract(root: Path, home: LocalLocation, *more: object) -> list[object]:
    start = ["extract", "--dataset", "folder:few", "--data-root", root, "--backbone", BACKBONE, "--home", home]
    return [*start, "--base-size", "64", *more]


def odd_exif(turn: int) -> bytes:
    """An orientation among tags whose values lie nowhere."""
    entries = [(0x010F, 2, 9, 2**31), (0x0112, 3, 1, turn), (0x011A, 5, 1, 2**31), (0x8769, 4, 1, 7)]
    packed = [struct.pack("<HHII", *entry) for entry in entries]
    return b"II*\0" + struct.pack("<IH", 8, len(packed)) + b"".join(packed) + b"\7\0\0\0"


def test_photographs_with_odd_tags_are_extracted_turned(cli, few: Path, home: LocalLocation) -> None:
    stored = np.random.default_rng(1).integers(0, 256, (18, 27, 3), dtype=np.uint8)
    for row, (name, kind) in enumerate((("x", "PNG"), ("y", "WEBP"))):
        (few / "val" / "images" / f"{name}.png").unlink()
        turned = Image.fromarray(np.ascontiguousarray(np.rot90(stored, row * 2 + 1)))  # by 90° and by 270°
        turned.save(few / "val" / "images" / f"{name}.png", kind, lossless=True, exif=odd_exif(6 if row == 0 else 8))
    checked = cli("doctor", "--dataset", "folder:few", "--data-root", few, "--full")
    assert (checked.code, checked.err) == (0, ""), checked.out
    for more in ((), ("--on-error", "skip")):
        done = cli(*extract(few, home, "--split", "val", *more))
        assert done.code == 0, done.err
        assert "left out" not in done.out
    (images,) = [entry.open() for entry in list_caches(home, "images")]
    np.testing.assert_array_equal(*images.read([0, 1]))


def test_whatever_a_decoder_raises_is_one_line_or_left_out(cli, few: Path, home: LocalLocation, monkeypatch) -> None:
    photograph = io.BytesIO()
    Image.new("RGB", (27, 18)).save(photograph, "BMP")
    (few / "val" / "images" / "x.png").write_bytes(photograph.getvalue())

    def load(self: Image.Image) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("PIL.BmpImagePlugin.BmpImageFile.load", load)
    stopped = cli(*extract(few, home, "--split", "val"))
    (line,) = [line for line in stopped.err.splitlines() if line.startswith("error")]
    assert stopped.code == 1
    assert "x.png: division by zero" in line
    assert "Traceback" not in stopped.err
    done = cli(*extract(few, home, "--split", "val", "--on-error", "skip"))
    assert done.code == 0
    assert "x: cannot decode" in done.out
    checked = cli("doctor", "--dataset", "folder:few", "--data-root", few)
    assert checked.code == 1
    assert "x.png: division by zero" in checked.out


def test_pngs_with_large_texts_are_extracted(cli, few: Path, home: LocalLocation) -> None:
    path = few / "val" / "images" / "x.png"
    data, text = path.read_bytes(), b"zTXt" + b"parameters\0\0" + zlib.compress(bytes(3_000_000))
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    path.write_bytes(data[:33] + chunk + data[33:])
    assert cli(*extract(few, home, "--split", "val")).code == 0


@pytest.mark.usefixtures("settled_files")
def test_changed_labels_of_equal_size_and_time_make_other_targets(cli, few: Path, home: LocalLocation) -> None:
    label = few / "val" / "labels" / "y.png"
    Image.fromarray(np.zeros((18, 27), np.uint8)).save(label, compress_level=0)
    assert cli(*extract(few, home, "--split", "val")).code == 0
    facts = label.stat()
    time.sleep(0.02)  # longer than the grain of the kernel's clock
    Image.fromarray(np.ones((18, 27), np.uint8)).save(label, compress_level=0)
    os.utime(label, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert (label.stat().st_size, label.stat().st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)
    assert cli(*extract(few, home, "--split", "val")).code == 0

    def labels() -> list[list[int]]:
        caches = [entry.open() for entry in list_caches(home, "targets") if entry.name == "classes"]
        return sorted(np.unique(cache.read([1])).tolist() for cache in caches)

    assert labels() == [[0], [1]]
    # what is remembered may be wrong all the same, where a file system's clock was turned back
    for key in home.keys("digests"):
        line, end, entries = home.read(key).partition(b"\n")
        assert len(entries) % 64 == 0 < len(entries)
        wrong = b"".join(entries[row : row + 32] + bytes(32) for row in range(0, len(entries), 64))
        home.publish(key, line + end + wrong, replace=True)
    index = DigestIndex(home)
    assert set(index.digests(few, ["val/labels/y.png"])) == {"0" * 64}, "it is believed"
    assert cli(*extract(few, home, "--split", "val", "--rehash")).code == 0
    assert labels() == [[0], [1]]
