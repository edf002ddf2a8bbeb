"""Label types: how the annotations of an image are stored, resized, mirrored and painted, by name.

:data:`ANNOTATIONS` has those of the shipped datasets; a plugin adds another one with ``ANNOTATIONS.add``. Everything
that handles labels asks it: extraction (array of the cache, resizing), reading and training from mirrored images
(:func:`mirror`), pictures (``paint``).

``boxes`` is a table, all others are maps: all boxes of an image, with the image itself in the first row. In the table
of a cropped image the first row is the region that is seen, still in pixels of the original image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from deapcache.errors import DataError, UnknownNameError
from deapcache.plugins import Registry
from deapcache.regions import SQUASH, Region, seen_region

IMAGES = "images"
"""Name of base images where they are handled as labels are: (n, h, w, 3) uint8."""

BOXES = "boxes"
"""The label type that is a table."""

VOID = 255
"""Value of unlabelled pixels in ``classes`` maps."""

CROWD_PIXEL = -1
"""Value of crowd regions (many objects under one outline) in ``instances`` maps."""

COLUMNS = ("x", "y", "width", "height", "area", "kind", "category")
"""Pixels of the original image (``area``: pixels that the object covers), one of the kinds below, a category's id."""

OBJECT, CROWD, IMAGE = 1.0, 2.0, 3.0
"""Values of the column ``kind``; 0 is a row without a box."""

OUTSIDE = "cut at the region's border, areas by the share of the box that is left; without the rest"
"""Recipe field: what :func:`crop_table` does to boxes that reach beyond what is seen."""

X, WIDTH, AREA, KIND = (COLUMNS.index(name) for name in ("x", "width", "area", "kind"))
"""Numbers of columns."""

_WIDTH_AXIS = 2
"""Of a batch of images or maps, (n, h, w, ...)."""

Batch = TypeVar("Batch")
"""A NumPy array or a PyTorch tensor, on any device."""


def resize_map(values: NDArray[Any], size: tuple[int, int], fit: str = SQUASH) -> NDArray[Any]:
    """Scale the part of a map of ids, classes or metres that is seen, by nearest neighbour at pixel centres.

    values: (h, w, ...) of any dtype; size: (height, width); fit: one of ``FITS``. Output row i shows row
    floor((i + 0.5) · h / height) of the h rows that are seen, columns alike, so no value is ever mixed. Returns
    (height, width, ...), same dtype, always a new array.
    """
    seen = seen_region((values.shape[0], values.shape[1]), size, fit)
    # In whole numbers: (i + 0.5) · before / after in floating point can fall on the wrong side of an integer.
    rows, columns = (
        (2 * np.arange(after) + 1) * before // (2 * after)
        for before, after in ((seen.height, size[0]), (seen.width, size[1]))
    )
    return np.ascontiguousarray(seen.cut(values)[rows[:, None], columns])


def resize_edges(values: NDArray[Any], size: tuple[int, int], fit: str = SQUASH) -> NDArray[Any]:
    """Scale the part of an edge map that is seen, so that no line is lost where it shrinks.

    values: (h, w) of bits. Along an axis that shrinks an output pixel has the bits of all pixels whose centres lie in
    it; along one that does not, those of the nearest. Lines stay connected and may become two pixels thick. Returns
    (height, width), same dtype.
    """
    found = seen_region((values.shape[0], values.shape[1]), size, fit).cut(values)
    for axis, after in enumerate(size):
        before, pixels = found.shape[axis], np.arange(after)
        if after < before:  # the first row whose centre, times after / before, is at least the output row's number
            first = -((after - 2 * pixels * before) // (2 * after))
            found = np.bitwise_or.reduceat(found, first, axis)
        else:
            found = found.take((2 * pixels + 1) * before // (2 * after), axis)
    return np.ascontiguousarray(found)


def flip_width(values: Any) -> Any:
    """Maps or images (n, h, w, ...), array or tensor, reversed along their width: contiguous, in memory of its own."""
    return np.flip(values, _WIDTH_AXIS).copy() if isinstance(values, np.ndarray) else values.flip(_WIDTH_AXIS)


def mirror_boxes(tables: Any) -> Any:
    """Tables (n, rows, 7) in pixels of the mirrored original: x becomes image width - x - width, empty rows stay 0.

    The first row is the image; where it is a part of the image, boxes are mirrored about the middle of that part.
    """
    found = tables.copy() if isinstance(tables, np.ndarray) else tables.clone()
    image = found[:, :1]
    right = image[..., X] + image[..., WIDTH]
    x = image[..., X] + right - found[..., X] - found[..., WIDTH]
    found[..., X] = x * (found[..., KIND] > 0)
    return found


def mirror_normals(normals: Any) -> Any:
    """Normals (n, h, w, 3) of the mirrored images: reversed along the width, and their first component negated."""
    found = flip_width(normals)
    found[..., 0] = -found[..., 0]
    return found


def paint_normals(normals: NDArray[Any]) -> NDArray[np.uint8]:
    """(h, w, 3) uint8: each component from -1 to 1 as a colour from 0 to 255; white where it is unknown."""
    known = np.any(normals != 0, axis=-1, keepdims=True)
    return np.where(known, np.rint(127.5 * (1 + normals.astype(np.float32))), 255).astype(np.uint8)


def paint_edges(edges: NDArray[Any]) -> NDArray[np.uint8]:
    """(h, w, 3) uint8: the darker, the more annotators drew a boundary there; white where none did."""
    drawn = np.bitwise_count(edges)
    grey = np.where(drawn > 0, 200 - 200 * drawn.astype(np.float32) / max(1, drawn.max()), 255)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)


def crop_table(table: NDArray[np.float64], size: tuple[int, int], fit: str) -> NDArray[np.float64]:
    """The table of the part of an image that an output of ``size`` shows, in pixels of the whole image as before.

    Where that is the whole image, nothing changes. Otherwise its first row becomes the region, and boxes are cut at
    the region's border, as croppings of the field do; those with nothing left go, because nobody can find them. An
    ``area`` is taken to be spread evenly over its box: it shrinks with it.
    """
    width, height = (int(side) for side in table[0, 2:4])
    seen = seen_region((height, width), size, fit)
    if seen.covers((height, width)):
        return table
    corner, opposite = (seen.left, seen.top), (seen.left + seen.width, seen.top + seen.height)
    first = np.clip(table[1:, :2], corner, None)
    last = np.clip(table[1:, :2] + table[1:, 2:4], None, opposite)
    left = (last > first).all(1)
    boxes, sides = table[1:][left], (last - first)[left]
    area = boxes[:, 4] * sides.prod(1) / boxes[:, 2:4].prod(1)
    return np.vstack([_image_row(seen), np.column_stack([first[left], sides, area, boxes[:, 5:]])])


def pad_table(table: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    """(rows, 7): ``table`` with rows of zeros after it, so that the tables of all images can be stacked.

    Raises :class:`DataError` where it has more rows.
    """
    if len(table) > rows:
        raise DataError(f"an image has {len(table) - 1} objects; its dataset allows {rows - 1}")
    return np.pad(table, ((0, rows - len(table)), (0, 0)))


def box_table(size: tuple[int, int], boxes: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """(n + 1, 7) float64: an image of ``size`` (height, width) itself, then each of ``boxes``, in order."""
    height, width = size
    return np.array([_image_row(Region(top=0, left=0, height=height, width=width)), *boxes], dtype=np.float64)


def _image_row(seen: Region) -> tuple[float, ...]:
    return (seen.left, seen.top, seen.width, seen.height, seen.width * seen.height, IMAGE, 0)


def boxes_of_map(instances: NDArray[np.int32], classes: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """The table of an image whose objects are known by their visible pixels.

    instances: (h, w), objects above 0; classes: (h, w), whose value on an object is its category. Boxes are tight:
    pixel i covers the stretch from i to i + 1, so that one pixel has width and height 1. Returns (K + 1, 7) float64, in
    the order of the K numbers that occur.
    """
    boxes = []
    for number in np.unique(instances[instances > 0]):
        rows, columns = np.nonzero(instances == number)
        x, y = columns.min(), rows.min()
        size = (columns.max() + 1 - x, rows.max() + 1 - y)
        boxes.append((x, y, *size, len(rows), OBJECT, classes[rows[0], columns[0]]))
    return box_table(instances.shape, boxes)


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """A label type: what the labels of one image are, and what becomes of them."""

    meaning: str
    """What a number is, with its void value: for people and for the facts beside predictions."""
    dtype: str
    """Of its target caches, by NumPy's name."""
    void: float | None = None
    """Value of pixels without a label; None where there is none, or where more than one number is a pixel's label."""
    unit: str = ""
    """``m``; empty where a number has none."""
    channels: int = 0
    """Numbers of a pixel: a map is (h, w, channels), or (h, w) for 0."""
    columns: tuple[str, ...] = ()
    """Of a table, (rows, columns) with ``Dataset.box_rows`` rows; empty for maps."""
    resize: Callable[[NDArray[Any], tuple[int, int], str], NDArray[Any]] = resize_map
    """From (labels of an image at its native size, (height, width), fit) to the labels at that size; never mixes void
    with others. What it returns is cached as ``dtype``."""
    mirror: Callable[[Any], Any] = flip_width
    """From the labels of n images, (n, ...), to those of the mirrored images, in memory of its own. It gets NumPy
    arrays and PyTorch tensors; :func:`flip_width` takes both, and so do slices and arithmetic."""
    paint: Callable[[NDArray[Any]], NDArray[np.uint8]] | None = None
    """From a label map (h, w, ...) to (h, w, 3) uint8 RGB; None for those that ``deapcache.results`` draws itself."""

    def item_shape(self, size: tuple[int, int], rows: int) -> tuple[int, ...]:
        """Shape of an image's entry in a target cache of ``size`` (height, width); ``rows``: of a table."""
        if self.columns:
            return rows, len(self.columns)
        return (*size, self.channels) if self.channels else size

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the axes of an entry."""
        if self.columns:
            return "box", "column"
        return ("row", "column", "channel") if self.channels else ("row", "column")


ANNOTATIONS: Registry[Annotation] = Registry("label type", modules=(__name__,))
"""All label types by name."""

ANNOTATIONS.add(
    "instances",
    Annotation(meaning="object by its number from 1; 0 background, -1 crowd", dtype="int32"),
)
ANNOTATIONS.add(
    "classes", Annotation(meaning="class, by its place in classes; 255 unlabelled", dtype="int16", void=VOID)
)
ANNOTATIONS.add("crowds", Annotation(meaning="-1 crowd, else 0; where there are boxes alone", dtype="int8"))
ANNOTATIONS.add("depth", Annotation(meaning="depth; 0 unknown", unit="m", dtype="float32", void=0))
ANNOTATIONS.add(
    BOXES,
    Annotation(meaning=", ".join(COLUMNS), dtype="float64", columns=COLUMNS, resize=crop_table, mirror=mirror_boxes),
)
ANNOTATIONS.add(
    "normals",
    Annotation(
        meaning="unit vector across the surface: along columns, along rows, along the viewing axis, with the signs of "
        "its dataset; 0 0 0 unknown",
        dtype="float16",
        channels=3,
        mirror=mirror_normals,
        paint=paint_normals,
    ),
)
ANNOTATIONS.add(
    "edges",
    Annotation(
        meaning="bit n is set where annotator n drew a boundary; 0 no boundary",
        dtype="int16",
        resize=resize_edges,
        paint=paint_edges,
    ),
)


def get_annotation(name: str) -> Annotation:
    """The label type of that name; raises :class:`UnknownNameError` that says how a plugin's types come in."""
    if name not in ANNOTATIONS:
        raise UnknownNameError(
            f"unknown label type {name!r}: known are {', '.join(ANNOTATIONS.names())}; give the plugin that adds it "
            "with --plugin or DEAPCACHE_PLUGINS"
        )
    return ANNOTATIONS.get(name)


def mirror(name: str, values: Batch) -> Batch:
    """What belongs to the mirror images: the same shape, contiguous, in memory of its own.

    ``values`` belong to n images, as an array or a tensor: base images (n, h, w, 3) where ``name`` is ``images``, else
    labels of that type as target caches hold them. Images and maps are exactly reversed along their width; ids, classes
    and depths stay as they are. Raises :class:`UnknownNameError`.
    """
    found: Batch = flip_width(values) if name == IMAGES else get_annotation(name).mirror(values)
    return found
