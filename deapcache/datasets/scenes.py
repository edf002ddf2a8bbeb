"""The embedded dataset: rendered rooms with exact annotations, nothing to download."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from deapcache.annotations import BOXES, boxes_of_map
from deapcache.datasets.base import DATASETS, Dataset
from deapcache.datasets.digests import DigestIndex
from deapcache.datasets.solids import MISS, SHAPES, Body, dot, draft_body
from deapcache.datasets.textures import FLOOR_PATTERNS, WALL_PATTERNS, Array, Material, random_material
from deapcache.recipe import digest_of

Numbers = NDArray[np.int64]

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
                draft = draft_body(generator, SHAPES[int(generator.integers(len(SHAPES)))])
                above = draft(body.flat_top / draft(1.0).footprint * float(generator.uniform(0.7, 0.98)))
                x, y, z = body.centre
                bodies.append(_moved(above, x, y, z + body.half_height))
    return tuple(bodies)


def _place(generator: np.random.Generator, shape: str, centre: Array, others: list[Body]) -> Body | None:
    """A body on free floor; None where 24 tries found none."""
    body = draft_body(generator, shape)(float(generator.uniform(0.18, 0.48)))
    for _ in range(24):
        angle, distance = generator.uniform(0, 2 * np.pi), _CLUSTER * np.sqrt(generator.random())
        x, y = centre + distance * np.array([np.cos(angle), np.sin(angle)])
        free = (np.hypot(x - o.centre[0], y - o.centre[1]) > body.footprint + o.footprint for o in others)
        if all(free):
            return _moved(body, x, y, 0.0)
    return None


def _moved(body: Body, x: float, y: float, floor: float) -> Body:
    return replace(body, centre=np.array([x, y, floor + body.half_height]))


def _aim(generator: np.random.Generator, centre: Array, room: tuple[float, float, float]) -> Camera:
    """A camera near the bodies but outside of their area, that looks at them slightly from above."""
    while True:
        angle, distance = generator.uniform(0, 2 * np.pi), generator.uniform(_CLUSTER + 0.5, _CLUSTER + 1.2)
        spot = centre + distance * np.array([np.cos(angle), np.sin(angle)])
        if (spot > 0.2).all() and (spot < np.array(room[:2]) - 0.2).all():  # not close to a wall
            break
    position = np.array([*spot, generator.uniform(0.5, 1.7)])
    target = np.array([*(centre + generator.uniform(-0.35, 0.35, 2)), generator.uniform(0.2, 1.0)])
    roll = generator.uniform(-0.05, 0.05)
    return Camera(position=position, rotation=_look(target - position, roll), focal=float(generator.uniform(0.72, 1.0)))


def _look(forward: Array, roll: float) -> Array:
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    tilted = np.cos(roll) * right + np.sin(roll) * down
    return np.stack([tilted, np.cross(forward, tilted), forward], axis=1)


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


_LAMP = np.array([1.0, 0.93, 0.82])[:, None] * 8.0
_SKY = np.array([0.92, 0.97, 1.0])[:, None] * 0.5
_LAMP_SPREAD = 0.16
"""Half the side of the lamp, metres: the width of half-shadows."""
_LAMP_POINTS = np.array([(-1.0, -0.4, 0.0), (0.4, -1.0, 0.0), (1.0, 0.4, 0.0), (-0.4, 1.0, 0.0)])
_SHINE = 5
"""The highlight's exponent is 2 to this power."""


def radiance(scene: Scene, directions: Array, lamp_points: Sequence[int] = range(4)) -> Array:
    """Linear RGB (3, N) that the camera sees along directions (3, N), lit by some of the lamp's four points."""
    t, surfaces = trace(scene, scene.camera.position, directions)
    points = scene.camera.position[:, None] + t * directions
    normals, albedo, gloss = _surface_facts(scene, points, surfaces)
    to_eye = -directions / np.sqrt(dot(directions, directions))
    to_lamp = scene.light[:, None] - points
    squared = dot(to_lamp, to_lamp)
    to_lamp /= np.sqrt(squared)
    lit = _visible_lamp(scene, points, lamp_points) / (1.2 + squared)
    facing = np.maximum(dot(normals, to_lamp), 0.0) + 0.1
    half = to_lamp + to_eye
    highlight = np.maximum(dot(normals, half) / np.sqrt(dot(half, half)), 0.0)
    for _ in range(_SHINE):
        highlight *= highlight
    open_sky = _openness(scene, points, normals)
    return albedo * (_SKY * open_sky + _LAMP * (lit * facing)) + _LAMP * (lit * gloss * highlight)


def _surface_facts(scene: Scene, points: Array, surfaces: Numbers) -> tuple[Array, Array, Array]:
    """Normals (3, N), albedo (3, N) and gloss (N,)."""
    normals, albedo, gloss = np.zeros_like(points), np.zeros_like(points), np.zeros(points.shape[1])
    for number in np.unique(surfaces):
        here = np.flatnonzero(surfaces == number)
        if number < SURFACES:
            material: Material = scene.surfaces[number]
            normals[number // 2, here] = 1.0 if number % 2 == 0 else -1.0
            own = _flat(points[:, here], int(number) // 2)
        else:
            body = scene.bodies[number - SURFACES]
            material = body.material
            own = body.rotation.T @ (points[:, here] - body.centre[:, None])
            normals[:, here] = body.rotation @ body.solid.normals(own)
        albedo[:, here] = material.albedo(own)
        gloss[here] = material.gloss
    return normals, albedo, gloss


def _flat(points: Array, axis: int) -> Array:
    """Coordinates in the plane of a room surface: along, up, 0."""
    along, up = ((1, 2), (0, 2), (0, 1))[axis]
    return np.stack([points[along], points[up], np.zeros_like(points[0])])


def _visible_lamp(scene: Scene, points: Array, lamp_points: Sequence[int]) -> Array:
    """Share of the lamp (N,) that each point sees: 0 in full shadow, 1 in the open."""
    covered = np.zeros((len(lamp_points), points.shape[1]), bool)
    away = points - scene.light[:, None]
    for body, rays in candidates(scene.bodies, scene.light, away, margin=2 * _LAMP_SPREAD):
        below = points[:, rays]
        for hidden, lamp_point in zip(covered, lamp_points, strict=True):
            lamp = scene.light + _LAMP_SPREAD * _LAMP_POINTS[lamp_point]
            # From the lamp to the point: t = 1 is the point itself, which does not shade itself.
            hidden[rays] |= meet_body(body, lamp, below - lamp[:, None]) < 0.998
    return 1 - covered.mean(axis=0)


def _openness(scene: Scene, points: Array, normals: Array) -> Array:
    """Share of ambient light (N,): dimmer near the room's edges and where bodies stand close."""
    share = np.ones(points.shape[1])
    for axis, side in enumerate(scene.room):
        # About the distance to the nearer of the two. On a surface itself it is 0 for every point: a constant factor.
        gap = points[axis] * (side - points[axis]) * (3.7 / side)
        gap *= gap
        gap += 1
        share -= share * (0.3 / gap)
    centres = np.stack([body.centre for body in scene.bodies])
    squared = (centres**2).sum(axis=1)[:, None] + dot(points, points) - 2 * (centres @ points)
    towards = centres @ normals - dot(points, normals)
    for body, distance, cosine in zip(scene.bodies, squared, towards, strict=True):
        near = np.flatnonzero((distance < 6 * body.solid.radius**2) & (cosine > 0))
        # A sphere takes cosine · (radius / distance)² of the light (Quilez, "sphere ambient occlusion"), here faded out
        # towards a squared distance of 6 radius².
        radius, squared_near = 0.8 * body.solid.radius, distance[near]
        fade = np.maximum(1 - squared_near / (6 * radius**2), 0.0)
        taken = cosine[near] / np.sqrt(squared_near) * fade * radius**2 / squared_near
        share[near] *= 1 - 0.85 * np.minimum(taken, 1.0)
    return share


_EDGE = 0.06
"""Contrast between neighbours, of brightness in 0..1, from which a pixel is sampled four more times."""

_SUBPIXELS = ((-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125))
"""A rotated grid: it smooths nearly upright and nearly level edges better than a straight one."""


def render_maps(scene: Scene, size: tuple[int, int]) -> dict[str, NDArray[Any]]:
    """What the centre of each pixel shows, exactly, at (height, width) pixels.

    ``instances`` int32: 0 the room, 1..K the bodies that are visible, in the scene's order. ``classes`` uint8: index
    into ``CLASSES``. ``depth`` float32: metres along the camera's axis.
    """
    depth, surfaces = trace(scene, scene.camera.position, _centres(scene, size))
    counts = np.bincount(surfaces, minlength=SURFACES + len(scene.bodies))
    visible = counts > 0
    visible[:SURFACES] = False
    numbers = np.where(visible, np.cumsum(visible), 0).astype(np.int32)
    class_of = np.array(_SURFACE_CLASSES + [CLASSES.index(body.shape) for body in scene.bodies], np.uint8)
    return {
        "instances": numbers[surfaces].reshape(size),
        "classes": class_of[surfaces].reshape(size),
        "depth": depth.astype(np.float32).reshape(size),
    }


def render_normals(scene: Scene, size: tuple[int, int]) -> NDArray[np.float32]:
    """(height, width, 3) float32: unit normals of what the centre of each pixel shows, out of the surface.

    Their components point right, down and away from the camera; the last is negative but at outlines.
    """
    directions = _centres(scene, size)
    t, surfaces = trace(scene, scene.camera.position, directions)
    normals, _, _ = _surface_facts(scene, scene.camera.position[:, None] + t * directions, surfaces)
    return np.ascontiguousarray((scene.camera.rotation.T @ normals).T.reshape(*size, 3), dtype=np.float32)


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


RENDERER = 1
"""Raised with every change that alters a pixel or an annotation, so that caches of older scenes are not mistaken."""

SEED = 0
SIZE = (240, 320)
COUNTS = {"train": 240, "val": 60}

_SKETCH = (60, 80)
"""Size at which a drawn scene is judged."""


class Scenes(Dataset):
    """Rooms with boxes, spheres, cylinders, cones, pyramids, capsules and tori of random size, colour and texture.

    Classes are told by shape alone. Every pixel has a class, no pixel is void, depth is known everywhere: it is the
    distance along the camera's axis, in metres, not along the ray. The same row always shows the same scene.
    """

    name = images_name = "scenes"
    annotations: tuple[str, ...] = ("instances", "boxes", "classes", "depth")
    classes: tuple[str, ...] = CLASSES
    colour = "rendered rgb8"
    computes_images = True
    most_objects = MOST_BODIES
    summary = "Rendered rooms with solids of seven shapes: exact instances, classes and depth; embedded"
    layout = "nothing is needed: the pictures are rendered when they are read"
    licence = "Apache-2.0, as deapcache itself"
    official = COUNTS
    options: ClassVar = {"depth": {"depth": "along the camera's axis"}, BOXES: {"boxes": "tight, of visible pixels"}}

    def image_ids(self, split: str) -> tuple[str, ...]:
        self._require_split(split)
        return tuple(f"{split}-{row:05d}" for row in range(COUNTS[split]))

    def image_digests(self, split: str, *, index: DigestIndex | None = None) -> tuple[str, ...]:
        """Digests of what decides each picture (renderer version, seed, split and row); nothing is rendered."""
        rows = range(len(self.image_ids(split)))
        return tuple(digest_of(["scenes", RENDERER, SEED, SIZE, split, row]) for row in rows)

    def scene(self, split: str, row: int) -> Scene:
        """The room that a row shows, with its camera."""
        count = len(self.image_ids(split))
        return _draw(self.splits.index(split), range(count)[row])

    def read_image(self, split: str, row: int) -> NDArray[np.uint8]:
        return render_image(self.scene(split, row), SIZE)

    def read_annotation(self, split: str, row: int, kind: str) -> NDArray[Any]:
        self._require_kind(kind)
        count = len(self.image_ids(split))
        maps = _render(self.splits.index(split), range(count)[row])
        if kind == BOXES:
            return boxes_of_map(maps["instances"], maps["classes"])
        return maps[kind].copy()

    def annotation_digest(self, split: str, kind: str, *, index: DigestIndex | None = None) -> str:
        self._require_kind(kind)
        return digest_of([kind, self.image_digests(split)])


class SceneNormals(Scenes):
    """The same rooms with the exact normals of what is seen."""

    name = "scenes-normals"
    annotations = ("normals",)
    classes = ()
    summary = "The rooms of scenes with exact surface normals; shares scenes' features; embedded"
    options: ClassVar = {"normals": {"normals": "right, down, away from the camera"}}

    def read_annotation(self, split: str, row: int, kind: str) -> NDArray[Any]:
        self._require_kind(kind)
        return render_normals(self.scene(split, row), SIZE)


# A row's image and its annotations are asked for one after the other: the scene is drawn and traced once for all.
@functools.lru_cache(maxsize=2)
def _render(split_number: int, row: int) -> dict[str, NDArray[Any]]:
    return render_maps(_draw(split_number, row), SIZE)


@functools.lru_cache(maxsize=2)
def _draw(split_number: int, row: int) -> Scene:
    """The first scene of this row's random sequence in which enough is to be seen."""
    generator = np.random.default_rng([SEED, split_number, row])
    while True:
        scene = random_scene(generator)
        instances = render_maps(scene, _SKETCH)["instances"]
        shares = np.bincount(instances.ravel())[1:] / instances.size
        # three to nine bodies with a share of the picture each, on 15 to 60 % of it
        if (shares > 0.004).sum() >= 3 and 0.15 < shares.sum() < 0.6:
            return scene


DATASETS["scenes"] = Scenes
DATASETS["scenes-normals"] = SceneNormals
