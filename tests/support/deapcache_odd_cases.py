"""The odd images and annotations themselves: what each is called, how it is written, what becomes of it."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
from deapcache_odd_files import (
    CASES,
    GENERATOR,
    GREY,
    LABELS,
    METRES,
    RGB,
    SIZE,
    Outcome,
    case,
    encoded,
    looked_up,
    make_odd_folder,
    palette,
    png,
    raw,
    repeated,
    saved,
    stored,
    turned,
    with_image,
    with_map,
    write_sound,
)  # fmt: skip
from PIL import Image

__all__ = ["CASES", "SIZE", "Outcome", "make_odd_folder", "write_sound"]

_DEEP = GENERATOR.integers(0, 65536, SIZE).astype(np.uint16)
_DEEP_RGB = GENERATOR.integers(0, 65536, (*SIZE, 3)).astype(">u2")
_DEEP_ROWS = b"".join(b"\0" + row.tobytes() for row in _DEEP_RGB)
_MASK = GREY > 99
_WIDE = np.resize(RGB, (3, 20_000, 3))
_HALF = np.where(_MASK, 255, 0).astype(np.uint8)
_CUT = np.dstack([RGB, _HALF])
_ON_WHITE = np.where(_MASK[..., None], RGB, 255).astype(np.uint8)
_GREY_ON_WHITE = repeated(np.where(_MASK, GREY, 255).astype(np.uint8))
_JPEG, _PNG = encoded(np.resize(RGB, (90, 90, 3)), "JPEG"), encoded(np.resize(RGB, (90, 90, 3)), "PNG")

with_image("grey", ".png", saved(repeated(GREY), GREY))
with_image("grey of 16 bits", ".png", saved(repeated(np.rint(_DEEP / 257).astype(np.uint8)), _DEEP))
with_image("grey with alpha", ".png", saved(_GREY_ON_WHITE, Image.fromarray(np.dstack([GREY, _HALF]), "LA")))
with_image("black and white", ".png", saved(repeated(_HALF), Image.fromarray(_MASK)))
with_image("palette", ".png", saved(looked_up(GREY), palette(GREY)))
with_image("palette of a gif", ".gif", saved(looked_up(GREY), palette(GREY), optimize=False))
with_image("rgba", ".png", saved(_ON_WHITE, _CUT))
with_image("rgb of 16 bits", ".png", raw(png(SIZE[1], SIZE[0], 16, 2, _DEEP_ROWS), (_DEEP_RGB >> 8).astype("u1")))
with_image(
    "cmyk", ".tiff", saved(np.full((*SIZE, 3), (255, 0, 0), np.uint8), Image.new("CMYK", SIZE[::-1], (0, 255, 255, 0)))
)
with_image("turned by exif", ".png", saved(RGB, np.ascontiguousarray(np.rot90(RGB)), exif=turned(6)))
with_image("upside down by exif", ".png", saved(RGB, np.ascontiguousarray(RGB[::-1, ::-1]), exif=turned(3)))
with_image("mirrored by exif", ".png", saved(RGB, np.ascontiguousarray(RGB[:, ::-1]), exif=turned(2)))
with_image("turned tiff", ".tiff", saved(RGB, np.ascontiguousarray(np.rot90(RGB)), tiffinfo={0x0112: 6}))
with_image("png that is called jpg", ".jpg", saved(RGB, RGB, format="PNG"))
with_image("png without an ending", "", saved(RGB, RGB, format="PNG"))
with_image("capital ending", ".PNG", saved(RGB, RGB))
with_image("bytes after the end", ".png", raw(encoded(RGB, "PNG") + b"more", RGB))
with_image("webp", ".webp", saved(RGB, RGB, lossless=True, exact=True))
with_image("one pixel", ".png", saved(RGB[:1, :1], RGB[:1, :1]), (1, 1))
with_image("20,000 pixels wide", ".png", saved(_WIDE, _WIDE), (3, 20_000))
with_image("one row", ".png", saved(RGB[:1], RGB[:1]), (1, 27))
with_image("été à la plage", ".png", saved(RGB, RGB))
with_image("鳥 🐦/sub folder/of.many.dots.v1", ".png", saved(RGB, RGB))

with_image("cut jpg", ".jpg", raw(_JPEG[: len(_JPEG) // 2], r"images/cut jpg\.jpg: .*truncated"), (90, 90))
with_image("cut png", ".png", raw(_PNG[: len(_PNG) // 2], r"cannot decode .*images/cut png\.png"))
with_image("header of a png alone", ".png", raw(_PNG[:40], r"cannot decode .*images/header of a png alone\.png"))
with_image("flipped bits", ".png", raw(_PNG[:200] + b"\xff" * 9 + _PNG[209:], r"cannot decode .*flipped bits\.png"))
with_image("empty", ".jpg", raw(b"", r"images/empty\.jpg: the file is empty \(0 bytes\)"))
with_image("a web page", ".jpg", raw(b"<html>404</html>", r"a web page\.jpg: none of the known image formats"))
with_image("notes", ".txt", raw(b"ask Eva", r"images/notes\.txt: none of the known image formats"))
with_image("floats", ".tiff", saved(r"floats\.tiff: floating-point pixels", np.zeros(SIZE, np.float32)))
with_image("too large", ".png", raw(png(20_000, 20_000, 1, 0, b""), r"too large\.png: .*(exceeds limit|more than)"))
with_image(
    "link to nothing", ".png", lambda path: path.symlink_to("gone.png") or r"image .*link to nothing\.png is missing"
)

with_map("palette label", "labels", ".png", saved(LABELS, palette(LABELS)))
with_map("label of 16 bits", "labels", ".PNG", saved(LABELS, LABELS.astype(np.uint16)))
with_map("label of 1 bit", "labels", ".png", saved(_MASK, Image.fromarray(_MASK)))
with_map("all void", "labels", ".png", saved(np.full(SIZE, 255), np.full(SIZE, 255, np.uint8)))
with_map(
    "many objects",
    "instances",
    ".png",
    saved(np.arange(486).reshape(SIZE), np.arange(486, dtype=np.uint16).reshape(SIZE)),
)
with_map("void objects", "instances", ".png", saved(np.zeros(SIZE), _HALF))
with_map(
    "nan", "depth", ".npy", lambda path: np.save(path, np.where(_MASK, METRES, np.nan)) or np.where(_MASK, METRES, 0)
)
with_map("millimetres", "depth", ".png", saved((_DEEP / 1000).astype(np.float32), _DEEP))
with_map("big-endian doubles", "depth", ".npy", lambda path: np.save(path, METRES.astype(">f8")) or METRES)

with_map(
    "unknown class",
    "labels",
    ".png",
    saved(r"labels/unknown class\.png has the value\(s\) 3; expected 0 to 2", LABELS + np.uint8(1)),
)
with_map("colours", "labels", ".png", saved(r"label map .*labels/colours\.png holds colours \(mode RGB\)", RGB))
with_map("colours with alpha", "labels", ".png", saved(r"colours with alpha\.png holds colours \(mode RGBA\)", _CUT))
with_map(
    "label of another size",
    "labels",
    ".png",
    saved(r"labels/label of another size\.png has 17 x 27 pixels", LABELS[1:]),
)
with_map("empty label", "labels", ".png", raw(b"", r"labels/empty label\.png: the file is empty"))
with_map("cut label", "labels", ".png", raw(encoded(LABELS, "PNG")[:-60], r"cannot decode .*labels/cut label\.png"))
with_map("label as jpg", "labels", ".jpg", saved(r"labels/label as jpg\.jpg is no annotation: .*ends in \.png", LABELS))
with_map("objects in colours", "instances", ".png", saved(r"instances/objects in colours\.png holds colours", RGB))
with_map(
    "infinite",
    "depth",
    ".npy",
    lambda path: (
        np.save(path, np.where(_MASK, METRES, np.inf))
        or r"depth/infinite\.npy has \d+ pixel\(s\) that .* the first is inf"
    ),
)
with_map(
    "negative",
    "depth",
    ".npy",
    lambda path: np.save(path, METRES - 1) or r"depth/negative\.npy has \d+ pixel\(s\) that .* the first is -0\.\d",
)
with_map(
    "whole numbers",
    "depth",
    ".npy",
    lambda path: np.save(path, _DEEP) or r"whole numbers\.npy holds uint16 of shape \(18, 27\)",
)
with_map(
    "objects of python",
    "depth",
    ".npy",
    lambda path: np.save(path, np.array([{}]), allow_pickle=True) or r"cannot decode .*objects of python\.npy",
)
with_map(
    "three axes",
    "depth",
    ".npy",
    lambda path: np.save(path, METRES[..., None]) or r"three axes\.npy holds float32 of shape \(18, 27, 1\)",
)
with_map("archive", "depth", ".npy", raw(stored(np.savez), r"depth/archive\.npy holds an archive"))
with_map("cut array", "depth", ".npy", raw(stored(np.save)[:-9], r"cannot decode .*depth/cut array\.npy"))
with_map("no array", "depth", ".npy", raw(b"none", r"cannot decode .*depth/no array\.npy"))
with_map(
    "depth of 8 bits",
    "depth",
    ".png",
    saved(r"depth/depth of 8 bits\.png has pixels of mode L; expected .* 16 bits", GREY),
)
with_map(
    "depth of another size",
    "depth",
    ".npy",
    lambda path: np.save(path, METRES[:, 1:]) or r"depth of another size\.npy has 18 x 26 pixels",
)


@case("café")
def _decomposed(base: Path, name: str) -> Outcome:
    found = write_sound(base, name, without="images")
    Image.fromarray(RGB).save(base / "images" / f"{unicodedata.normalize('NFD', name)}.png")
    return found


@case("two of one name")
def _two_images(base: Path, name: str) -> Outcome:
    write_sound(base, name)
    Image.fromarray(RGB).save(base / "images" / f"{name}.jpg")
    return r"images/two of one name\.jpg and two of one name\.png are two images of one name"


@case("two depths")
def _two_depths(base: Path, name: str) -> Outcome:
    write_sound(base, name)
    Image.fromarray(_DEEP).save(base / "depth" / f"{name}.png")
    return r"depth/two depths\.npy and two depths\.png are two annotations of one image"


@case("annotation without image")
def _no_image(base: Path, name: str) -> Outcome:
    write_sound(base, name, without="images")
    return r"images has no image annotation without image, which .*labels/annotation without image\.png is for"


@case("image without annotation")
def _no_annotation(base: Path, name: str) -> Outcome:
    write_sound(base, name, without="instances")
    return r"instances has no image without annotation\.png: every image needs an annotation there"
