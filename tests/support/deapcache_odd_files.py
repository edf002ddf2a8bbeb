"""A folder of odd images and annotations, and what must become of each."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (18, 27)
CLASSES = ("wall", "floor", "chair")

Outcome = dict[str, np.ndarray] | str
"""What an image and its annotations must be read as, by ``image`` or kind; or why they are refused, as a pattern."""

Make = Callable[[Path, str], Outcome]

GENERATOR = np.random.default_rng(4)
RGB = GENERATOR.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
GREY = RGB[..., 0]
LABELS = GENERATOR.integers(0, 3, SIZE).astype(np.uint8)
_IDS = GENERATOR.integers(0, 4, SIZE).astype(np.uint8)
METRES = GENERATOR.uniform(0.5, 9, SIZE).astype(np.float32)

CASES: dict[str, Make] = {}
"""Id → what makes its files below a split's folder and gives the outcome."""


def case(name: str) -> Callable[[Make], Make]:
    def register(make: Make) -> Make:
        CASES[name] = make
        return make

    return register


def make_odd_folder(root: Path) -> dict[str, Outcome]:
    """Write all cases as the training images of a folder, and three sound images for scoring."""
    (root / "classes.json").parent.mkdir(parents=True, exist_ok=True)
    (root / "classes.json").write_text(json.dumps(CLASSES))
    for number in range(3):
        write_sound(root / "val", f"sound {number}")
    return {name: make(root / "train", name) for name, make in CASES.items()}


def write_sound(base: Path, name: str, size: tuple[int, int] = SIZE, *, without: str = "") -> dict[str, np.ndarray]:
    """An image and its annotations with nothing odd about them, but for a folder that is left empty."""
    found = {
        "image": np.resize(RGB, (*size, 3)),
        "classes": np.resize(LABELS, size),
        "instances": np.resize(_IDS, size).astype(np.int32),
        "depth": np.resize(METRES, size),
    }
    for folder in ("images", "labels", "instances", "depth"):
        (base / folder / name).parent.mkdir(parents=True, exist_ok=True)
    if without != "images":
        Image.fromarray(found["image"]).save(base / "images" / f"{name}.png")
    if without != "labels":
        Image.fromarray(found["classes"]).save(base / "labels" / f"{name}.png")
    if without != "instances":
        Image.fromarray(found["instances"].astype(np.uint8)).save(base / "instances" / f"{name}.png")
    if without != "depth":
        np.save(base / "depth" / f"{name}.npy", found["depth"])
    return found


def with_image(name: str, ending: str, write: Callable[[Path], Any], size: tuple[int, int] = SIZE) -> None:
    """A case whose image is odd: ``write`` writes it and gives what it shows, or why it is refused."""

    @case(name)
    def make(base: Path, name: str) -> Outcome:
        found = write_sound(base, name, size, without="images")
        shown = write(base / "images" / f"{name}{ending}")
        return shown if isinstance(shown, str) else {**found, "image": shown}


def with_map(name: str, folder: str, ending: str, write: Callable[[Path], Any]) -> None:
    """A case whose label, instance or depth map is odd, as :func:`with_image`."""

    @case(name)
    def make(base: Path, name: str) -> Outcome:
        found = write_sound(base, name, without=folder)
        read = write(base / folder / f"{name}{ending}")
        kind = "classes" if folder == "labels" else folder
        return read if isinstance(read, str) else {**found, kind: read}


def saved(shown: Any, image: Image.Image | np.ndarray, **options: Any) -> Callable[[Path], Any]:
    made = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    return lambda path: made.save(path, **options) or shown


def raw(data: bytes, shown: Any) -> Callable[[Path], Any]:
    return lambda path: shown if path.write_bytes(data) >= 0 else None


def encoded(image: np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def stored(save: Callable[[io.BytesIO, np.ndarray], None]) -> bytes:
    buffer = io.BytesIO()
    save(buffer, METRES)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG by hand, of kinds that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def repeated(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def palette(indices: np.ndarray) -> Image.Image:
    image = Image.fromarray(indices, "P")
    image.putpalette([(7 * k + 11) % 256 for k in range(768)])
    return image


def looked_up(indices: np.ndarray) -> np.ndarray:
    return np.array([[(7 * (3 * k + c) + 11) % 256 for c in range(3)] for k in range(256)], np.uint8)[indices]
