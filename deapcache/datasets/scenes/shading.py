"""The colour of what rays meet: textures, lamp light with soft shadows, highlights, and dimmer light in corners."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deapcache.datasets.scenes.rays import Array, dot
from deapcache.datasets.scenes.textures import Material
from deapcache.datasets.scenes.tracing import Numbers, candidates, meet_body, trace
from deapcache.datasets.scenes.world import SURFACES, Scene

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
        share[near] *= _beside(0.8 * body.solid.radius, distance[near], cosine[near])
    return share


def _beside(radius: float, squared: Array, towards: Array) -> Array:
    """What a sphere leaves of the ambient light at points whose squared distance to its centre is given.

    It takes cosine · (radius / distance)² (Quilez, "sphere ambient occlusion"), here faded out towards 6 radius².
    """
    fade = np.maximum(1 - squared / (6 * radius**2), 0.0)
    return 1 - 0.85 * np.minimum(towards / np.sqrt(squared) * fade * radius**2 / squared, 1.0)
