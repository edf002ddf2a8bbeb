"""Scenes to pixels: picture, instance ids, classes and depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deapcache.datasets.scenes.rays import Array
from deapcache.datasets.scenes.shading import radiance
from deapcache.datasets.scenes.tracing import trace
from deapcache.datasets.scenes.world import SURFACES, Scene

_EDGE = 0.06
"""Contrast between neighbours, of brightness in 0..1, from which a pixel is sampled four more times."""

_SUBPIXELS = ((-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125))
"""A rotated grid: it smooths nearly upright and nearly level edges better than a straight one."""


@dataclass(frozen=True, kw_only=True)
class Maps:
    """What each pixel's centre shows, exactly."""

    instances: NDArray[np.int32]
    """(h, w): 0 the room, 1..K the bodies that are visible, in the scene's order."""
    classes: NDArray[np.uint8]
    """(h, w): index into ``CLASSES``."""
    depth: NDArray[np.float32]
    """(h, w) metres along the camera's axis."""


def render_maps(scene: Scene, size: tuple[int, int]) -> Maps:
    """The exact annotations of a scene at (height, width) pixels."""
    depth, surfaces = trace(scene, scene.camera.position, _centres(scene, size))
    counts = np.bincount(surfaces, minlength=SURFACES + len(scene.bodies))
    visible = counts > 0
    visible[:SURFACES] = False
    numbers = np.where(visible, np.cumsum(visible), 0).astype(np.int32)
    return Maps(
        instances=numbers[surfaces].reshape(size),
        classes=scene.class_of[surfaces].reshape(size),
        depth=depth.astype(np.float32).reshape(size),
    )


def render_image(scene: Scene, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 RGB, antialiased at edges."""
    linear = radiance(scene, _centres(scene, size)).reshape(3, *size)
    rows, columns = np.nonzero(_edges(_expose(linear).mean(axis=0)))
    across, down = columns.astype(np.float64), rows.astype(np.float64)
    linear[:, rows, columns] = np.mean(
        # Each of the four samples is lit by another point of the lamp: together they see the whole lamp.
        [
            radiance(scene, scene.camera.directions(across + 0.5 + dx, down + 0.5 + dy, size), [lamp_point])
            for lamp_point, (dx, dy) in enumerate(_SUBPIXELS)
        ],
        axis=0,
    )
    return np.rint(255 * _expose(linear)).astype(np.uint8).transpose(1, 2, 0).copy()


def _centres(scene: Scene, size: tuple[int, int]) -> Array:
    rows, columns = np.indices(size).reshape(2, -1) + 0.5
    return scene.camera.directions(columns, rows, size)


def _expose(linear: Array) -> Array:
    """Display values in 0..1: highlights roll off instead of clipping, gamma 2."""
    return np.sqrt(np.clip(linear * (1 + 0.25 * linear) / (1 + linear * 0.6), 0.0, 1.0))


def _edges(brightness: Array) -> NDArray[np.bool_]:
    edges = np.zeros(brightness.shape, bool)
    across = np.abs(np.diff(brightness, axis=1)) > _EDGE
    down = np.abs(np.diff(brightness, axis=0)) > _EDGE
    edges[:, :-1] |= across
    edges[:, 1:] |= across
    edges[:-1] |= down
    edges[1:] |= down
    return edges
