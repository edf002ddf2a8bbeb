"""Which surface each ray meets first, and where."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from deapcache.datasets.scenes.bodies import Body
from deapcache.datasets.scenes.rays import MISS, Array, dot
from deapcache.datasets.scenes.world import SURFACES, Scene

Numbers = NDArray[np.int64]


def trace(scene: Scene, origin: Array, directions: Array) -> tuple[Array, Numbers]:
    """First meetings of rays from ``origin`` (3,) along ``directions`` (3, N) with the room or a body.

    Returns t (N,), with the meeting at ``origin + t · direction``, and the surface number (N,): 0 to 5 the room's
    surfaces, 6 and up the bodies.
    """
    t, surfaces = _meet_room(scene.room, origin, directions)
    for number, (body, rays) in enumerate(candidates(scene.bodies, origin, directions), start=SURFACES):
        distances = meet_body(body, origin, directions[:, rays])
        nearer = distances < t[rays]
        t[rays[nearer]] = distances[nearer]
        surfaces[rays[nearer]] = number
    return t, surfaces


def meet_body(body: Body, origin: Array, directions: Array) -> Array:
    """t (N,) at which rays meet a body first, infinite for a miss."""
    own = body.rotation.T
    return body.solid.intersect(own @ (origin - body.centre), own @ directions)


def candidates(
    bodies: tuple[Body, ...], origin: Array, directions: Array, *, margin: float = 0.0
) -> Iterator[tuple[Body, Numbers]]:
    """Per body, the rays that pass its bounding sphere within ``margin`` metres; the others surely miss it."""
    lengths = dot(directions, directions)
    for body in bodies:
        towards = body.centre - origin
        along = towards @ directions
        outside = float(towards @ towards) - (body.solid.radius + margin) ** 2
        yield body, np.flatnonzero((along > 0) & (along * along >= outside * lengths))


def _meet_room(room: tuple[float, float, float], origin: Array, directions: Array) -> tuple[Array, Numbers]:
    """From inside, the nearest of the six planes."""
    t = np.full(directions.shape[1], MISS)
    surfaces = np.zeros(directions.shape[1], np.int64)
    for axis in range(3):
        speed = directions[axis]
        with np.errstate(divide="ignore"):
            reach = np.where(speed > 0, room[axis] - origin[axis], -origin[axis]) / speed
        nearer = np.abs(reach) < t  # 0 / 0 cannot be: the origin lies inside
        t = np.where(nearer, np.abs(reach), t)
        surfaces = np.where(nearer, 2 * axis + (speed > 0), surfaces)
    return t, surfaces
