"""Seeded random rooms: walls, bodies on the floor or on each other, a lamp and a camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deapcache.datasets.scenes.bodies import SHAPES, Body, draft_body
from deapcache.datasets.scenes.rays import Array
from deapcache.datasets.scenes.textures import FLOOR_PATTERNS, WALL_PATTERNS, Material, random_material

CLASSES = ("wall", "floor", "ceiling", *SHAPES)
"""Names by value of the class map."""

SURFACES = 6
"""Of a room: four walls (x = 0, x = width, y = 0, y = depth), floor, ceiling."""

_SURFACE_CLASSES = [CLASSES.index(name) for name in ("wall", "wall", "wall", "wall", "floor", "ceiling")]

MOST_BODIES = 9
"""In any scene."""

_CLUSTER = 1.35
"""Radius of the floor area that bodies stand on, metres."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera with square pixels."""

    position: Array
    """(3,) metres."""
    rotation: Array
    """(3, 3): columns are right, down and forward in the room."""
    focal: float
    """In image widths."""

    def directions(self, columns: Array, rows: Array, size: tuple[int, int]) -> Array:
        """(3, N) directions through image positions in pixels (the first pixel's centre is at 0.5, 0.5).

        Their component along the camera's axis is 1, so that t along such a ray is the depth along the axis.
        """
        height, width = size
        scale = 1 / (self.focal * width)
        local = np.stack([(columns - width / 2) * scale, (rows - height / 2) * scale, np.ones_like(columns)])
        return self.rotation @ local


@dataclass(frozen=True, kw_only=True)
class Scene:
    """All there is to render. The room spans 0 to ``room`` along x, y and z (up), metres."""

    room: tuple[float, float, float]
    surfaces: tuple[Material, ...]
    """Of the :data:`SURFACES` room surfaces."""
    bodies: tuple[Body, ...]
    camera: Camera
    light: Array
    """(3,) centre of the lamp under the ceiling, metres."""

    @property
    def class_of(self) -> NDArray[np.uint8]:
        """Class by surface number: the room's surfaces, then the bodies."""
        return np.array(_SURFACE_CLASSES + [CLASSES.index(body.shape) for body in self.bodies], np.uint8)


def random_scene(generator: np.random.Generator) -> Scene:
    """A furnished room; the same for the same state of the generator."""
    width, depth = (float(side) for side in generator.uniform(5.0, 7.0, 2))
    room = (width, depth, float(generator.uniform(2.2, 2.8)))
    centre = np.array([width, depth]) * generator.uniform(0.4, 0.6, 2)
    bodies = _furnish(generator, centre)
    x, y = np.array([width, depth]) * generator.uniform(0.25, 0.75, 2)
    return Scene(
        room=room,
        surfaces=_decorate(generator),
        bodies=bodies,
        camera=_aim(generator, centre, room),
        light=np.array([x, y, room[2] - 0.2]),
    )


def _decorate(generator: np.random.Generator) -> tuple[Material, ...]:
    wall, accent = (random_material(generator, WALL_PATTERNS, vivid=False) for _ in range(2))
    walls = [wall] * 4
    walls[int(generator.integers(4))] = accent
    floor = random_material(generator, FLOOR_PATTERNS, vivid=False)
    return (*walls, floor, random_material(generator, ("plain", "noise"), vivid=False))


def _furnish(generator: np.random.Generator, centre: Array) -> tuple[Body, ...]:
    """Five to nine bodies around ``centre`` (x, y), none inside another, some on top of others."""
    count = int(generator.integers(5, MOST_BODIES + 1))
    bodies: list[Body] = []
    for shape in (SHAPES[i] for _ in range(2) for i in generator.permutation(len(SHAPES))):
        if len(bodies) >= count:
            break
        if body := _place(generator, shape, centre, bodies):
            bodies.append(body)
            if body.flat_top > 0.12 and len(bodies) < count and generator.random() < 0.6:
                bodies.append(_stack(generator, body))
    return tuple(bodies)


def _place(generator: np.random.Generator, shape: str, centre: Array, others: list[Body]) -> Body | None:
    """A body on free floor; None where 24 tries found none."""
    draft = draft_body(generator, shape)
    size = float(generator.uniform(0.18, 0.48))
    reach = draft.footprint(size)
    for _ in range(24):
        angle, distance = generator.uniform(0, 2 * np.pi), _CLUSTER * np.sqrt(generator.random())
        x, y = centre + distance * np.array([np.cos(angle), np.sin(angle)])
        if all(np.hypot(x - other.centre[0], y - other.centre[1]) > reach + other.footprint for other in others):
            return draft.stand(size, float(x), float(y), 0.0)
    return None


def _stack(generator: np.random.Generator, below: Body) -> Body:
    draft = draft_body(generator, SHAPES[int(generator.integers(len(SHAPES)))])
    size = below.flat_top / draft.footprint(1.0) * float(generator.uniform(0.7, 0.98))
    x, y, z = (float(value) for value in below.centre)
    return draft.stand(size, x, y, z + below.half_height)


def _aim(generator: np.random.Generator, centre: Array, room: tuple[float, float, float]) -> Camera:
    """A camera near the bodies but outside of their area, that looks at them slightly from above."""
    spot = _beside(generator, centre)
    while not _has_margin(spot, room):
        spot = _beside(generator, centre)
    position = np.array([*spot, generator.uniform(0.5, 1.7)])
    target = np.array([*(centre + generator.uniform(-0.35, 0.35, 2)), generator.uniform(0.2, 1.0)])
    roll = generator.uniform(-0.05, 0.05)
    return Camera(position=position, rotation=_look(target - position, roll), focal=float(generator.uniform(0.72, 1.0)))


def _beside(generator: np.random.Generator, centre: Array) -> Array:
    angle, distance = generator.uniform(0, 2 * np.pi), generator.uniform(_CLUSTER + 0.5, _CLUSTER + 1.2)
    return np.asarray(centre + distance * np.array([np.cos(angle), np.sin(angle)]))


def _has_margin(spot: Array, room: tuple[float, float, float]) -> bool:
    return bool((spot > 0.2).all() and (spot < np.array(room[:2]) - 0.2).all())


def _look(forward: Array, roll: float) -> Array:
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    tilted = np.cos(roll) * right + np.sin(roll) * down
    return np.stack([tilted, np.cross(forward, tilted), forward], axis=1)
