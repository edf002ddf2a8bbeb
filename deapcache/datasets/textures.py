"""Procedural textures: from a point in space to a colour, no image files."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_GRID = 64
_LATTICE = np.random.default_rng(20210103).random(_GRID**3)

OBJECT_PATTERNS = ("plain", "checker", "stripes", "dots", "noise", "wood", "marble")
WALL_PATTERNS = ("plain", "plain", "stripes", "bricks", "noise", "dots")
FLOOR_PATTERNS = ("planks", "planks", "checker", "noise", "bricks", "marble")


@dataclass(frozen=True, kw_only=True)
class Material:
    """Two colours and the pattern that mixes them."""

    pattern: str
    scale: float
    """Metres that one period of the pattern takes."""
    offset: tuple[float, float, float]
    """Where the pattern begins, periods."""
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]
    """Linear RGB in 0..1."""
    gloss: float
    """Share of light in the highlight, 0 for matt."""

    def albedo(self, points: Array) -> Array:
        """Linear RGB (3, N) at points (3, N), metres in the surface's own frame."""
        first, second = (np.asarray(colour)[:, None] for colour in self.colours)
        if self.pattern == "plain":
            return np.repeat(first, points.shape[1], axis=1)
        mix = PATTERNS[self.pattern](points / self.scale + np.asarray(self.offset)[:, None])
        return first + (second - first) * mix


def random_material(generator: np.random.Generator, patterns: tuple[str, ...], *, vivid: bool) -> Material:
    """A material for an object (vivid) or a room surface (muted)."""
    saturation, value = ((0.45, 0.95), (0.45, 0.95)) if vivid else ((0.05, 0.4), (0.5, 0.92))
    hue = generator.random()
    first = _colour(hue, generator.uniform(*saturation), generator.uniform(*value))
    # On objects the second colour stands off clearly, on room surfaces it is a shade of the first.
    turn = generator.uniform(0.25, 0.75) if vivid else generator.uniform(-0.04, 0.04)
    second = _colour(hue + turn, generator.uniform(*saturation), generator.uniform(*value) * (1.0 if vivid else 0.72))
    pattern = patterns[generator.integers(len(patterns))]
    period = generator.uniform(0.09, 0.2) if vivid else generator.uniform(0.3, 0.6)
    x, y, z = generator.uniform(8.0, 24.0, 3)
    return Material(
        pattern=pattern,
        scale=float(period),
        # A half, so that a flat surface cuts dots through their centres.
        offset=(float(x), float(y), float(z) if vivid else 8.5),
        colours=(first, second),
        gloss=float(generator.choice([0.0, 0.25, 0.5]) if vivid else generator.choice([0.0, 0.06])),
    )


def _colour(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    red, green, blue = (channel**2.0 for channel in colorsys.hsv_to_rgb(hue % 1.0, saturation, value))
    return (red, green, blue)


def _wood(points: Array) -> Array:
    across = points[::2] % 24.0 - 12.0
    rings = np.hypot(across[0], across[1]) * 1.6 + 0.9 * value_noise(points * np.array([[0.8], [0.25], [0.8]]))
    return (rings % 1.0) ** 2


def _bricks(points: Array) -> Array:
    course = np.floor(points[1] * 2.5)
    along = points[0] * 1.1 + 0.5 * (course % 2)
    mortar = (points[1] * 2.5 % 1.0 < 0.09) | (along % 1.0 < 0.045)
    return np.where(mortar, 1.0, 0.45 * _scatter(np.floor(along), course))


def _planks(points: Array) -> Array:
    plank = np.floor(points[1] * 2.2)
    along = points[0] * 0.28 + _scatter(plank, plank)
    gap = (points[1] * 2.2 % 1.0 < 0.035) | (along % 1.0 < 0.008)
    tone = 0.5 * _scatter(plank, np.floor(along)) + 0.4 * value_noise(points * np.array([[1.2], [14.0], [1.0]]))
    return np.where(gap, 1.0, tone)


PATTERNS: dict[str, Callable[[Array], Array]] = {
    "checker": lambda points: np.floor(points).sum(axis=0) % 2,
    "stripes": lambda points: ((points[0] + 0.4 * points[1] + 0.15 * points[2]) % 1.0 < 0.5).astype(np.float64),
    "dots": lambda points: (((points % 1.0 - 0.5) ** 2).sum(axis=0) < 0.1).astype(np.float64),
    "noise": lambda points: np.clip(1.8 * (0.65 * value_noise(points) + 0.35 * value_noise(2.7 * points)) - 0.4, 0, 1),
    "wood": _wood,
    "marble": lambda points: (
        0.5 + 0.5 * np.sin(3.0 * (points[0] + 0.5 * points[1] + 0.5 * points[2]) + 7.0 * value_noise(points))
    ),
    "bricks": _bricks,
    "planks": _planks,
}
"""Mixing weight (N,) in 0..1 from points (3, N) in periods of the pattern."""


def value_noise(points: Array) -> Array:
    """Smooth noise (N,) in 0..1 that changes over distances of about one; trilinear between random lattice values."""
    whole = np.floor(points)
    part = points - whole
    part = part * part * (3 - 2 * part)
    cell = whole.astype(np.int64)
    x, y = ((cell[axis] % _GRID * stride, (cell[axis] + 1) % _GRID * stride) for axis, stride in ((0, 1), (1, _GRID)))
    z = (cell[2] % _GRID * _GRID**2, (cell[2] + 1) % _GRID * _GRID**2)
    layers = [_blend(_row(x, y[0] + below, part[0]), _row(x, y[1] + below, part[0]), part[1]) for below in z]
    return _blend(layers[0], layers[1], part[2])


def _row(x: tuple[np.ndarray, np.ndarray], rest: np.ndarray, weight: Array) -> Array:
    return _blend(_LATTICE[x[0] + rest], _LATTICE[x[1] + rest], weight)


def _blend(first: Array, second: Array, weight: Array) -> Array:
    return first + (second - first) * weight


def _scatter(i: Array, j: Array) -> Array:
    """A fixed random number in 0..1 for each pair of whole numbers."""
    return _LATTICE[(i.astype(np.int64) * 7 + j.astype(np.int64) * 613 + 11) % len(_LATTICE)]
