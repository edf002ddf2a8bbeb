"""Which part of an image is brought to another size: all of it, or the largest centred part that has its shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line reads sizes without it
    from numpy.typing import NDArray

SQUASH, CROP = "squash", "crop"

FITS = (SQUASH, CROP)
"""Ways to bring an image of any shape to one size, by the names that recipes have for them.

``squash`` takes the whole image and scales each axis on its own: the paper's equal treatment of all backbones. ``crop``
takes the largest centred part of the size's shape, and what is beside it is not seen.
"""

Size = tuple[int, int]
"""Height and width in pixels."""


def parse_size(text: str) -> Size | None:
    """``224`` or ``216x288``, height × width in pixels; ``None`` for anything else."""
    sides = text.lower().split("x")
    if len(sides) <= 2 and all(side.isdecimal() and int(side) > 0 for side in sides):
        return int(sides[0]), int(sides[-1])
    return None


@dataclass(frozen=True, kw_only=True)
class Region:
    """A rectangle of whole pixels of an image."""

    top: int
    left: int
    height: int
    width: int

    def covers(self, image: Size) -> bool:
        """Whether it is the whole of an image of that size."""
        return (self.height, self.width) == image

    def cut(self, values: NDArray[Any]) -> NDArray[Any]:
        """The part of (h, w, ...) pixels that lies in it; a view, nothing is mixed or rounded."""
        return values[self.top : self.top + self.height, self.left : self.left + self.width]


def seen_region(image: Size, size: Size, fit: str) -> Region:
    """The part of an image of (height, width) ``image`` that an output of ``size`` shows.

    Under ``crop`` one side is the image's own, the other is rounded to the nearest whole pixel (half: up) of the shape
    of ``size``, so that the region's shape is right to half a pixel. Where an odd number of pixels is left out, the odd
    one is below, or to the right. Sizes of one shape (224 × 224 and 448 × 448) see the same region.
    """
    if fit == SQUASH:
        return Region(top=0, left=0, height=image[0], width=image[1])
    height = min(image[0], _round(image[1] * size[0], size[1]))
    width = min(image[1], _round(image[0] * size[1], size[0]))
    return Region(top=(image[0] - height) // 2, left=(image[1] - width) // 2, height=height, width=width)


def have_one_shape(one: Size, other: Size) -> bool:
    """Whether height is to width alike in both: then both see the same region of every image."""
    return one[0] * other[1] == one[1] * other[0]


def _round(dividend: int, divisor: int) -> int:
    """The quotient to the nearest whole number of pixels, at least one."""
    return max(1, (2 * dividend + divisor) // (2 * divisor))
