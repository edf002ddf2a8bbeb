"""Solids: where rays meet them, and which way their surface faces.

Every solid stands in its own frame, centred on the origin, its axis along z, in metres. Points and directions are
(3, N) float64, one column each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from deapcache.datasets.scenes.quartic import smallest_root
from deapcache.datasets.scenes.rays import MISS, Array, both_roots, clip, divide, dot, first_hit, inside_quadric


class Solid(ABC):
    """A closed surface."""

    @property
    @abstractmethod
    def extent(self) -> tuple[float, float, float]:
        """Half of its bounding box along x, y and z, metres."""

    @property
    @abstractmethod
    def radius(self) -> float:
        """Of a sphere around the origin that holds it, metres."""

    @abstractmethod
    def intersect(self, origin: Array, directions: Array) -> Array:
        """Smallest t > 0 at which ``origin + t · direction`` meets the surface from outside, :data:`MISS` for none.

        origin: (3,), outside of the solid; directions: (3, N), of any length. Returns (N,).
        """

    @abstractmethod
    def normals(self, points: Array) -> Array:
        """Outward unit normals (3, N) at points on the surface."""


@dataclass(frozen=True)
class Sphere(Solid):
    size: float

    @property
    def extent(self) -> tuple[float, float, float]:
        return (self.size, self.size, self.size)

    @property
    def radius(self) -> float:
        return self.size

    def intersect(self, origin: Array, directions: Array) -> Array:
        enter, leave = inside_quadric(dot(directions, directions), origin @ directions, origin @ origin - self.size**2)
        return first_hit(enter, leave)

    def normals(self, points: Array) -> Array:
        return points / self.size


@dataclass(frozen=True)
class Polyhedron(Solid):
    """Intersection of half-spaces n·p ≤ d."""

    planes: tuple[tuple[float, float, float, float], ...]
    """Outward unit normal and distance d of each face."""
    half_sizes: tuple[float, float, float]

    @property
    def extent(self) -> tuple[float, float, float]:
        return self.half_sizes

    @property
    def radius(self) -> float:
        return float(np.linalg.norm(self.half_sizes))

    def intersect(self, origin: Array, directions: Array) -> Array:
        enter = np.full(directions.shape[1], -MISS)
        leave = np.full(directions.shape[1], MISS)
        for *normal, distance in self.planes:
            clip(enter, leave, distance - np.dot(normal, origin), np.asarray(normal) @ directions)
        return first_hit(enter, leave)

    def normals(self, points: Array) -> Array:
        planes = np.asarray(self.planes)
        nearest = np.argmax(planes[:, :3] @ points - planes[:, 3:], axis=0)
        return np.ascontiguousarray(planes[nearest, :3].T)


def box(a: float, b: float, c: float) -> Polyhedron:
    """A cuboid of half sizes a, b, c."""
    sides = ((1.0, 0.0, 0.0, a), (0.0, 1.0, 0.0, b), (0.0, 0.0, 1.0, c))
    return Polyhedron(sides + tuple((-x, -y, -z, d) for x, y, z, d in sides), (a, b, c))


def pyramid(a: float, half_height: float) -> Polyhedron:
    """A pyramid on a square of half side a."""
    length = float(np.hypot(a, 2 * half_height))
    along, up = 2 * half_height / length, a / length
    distance = up * half_height
    sides = ((along, 0.0, up), (-along, 0.0, up), (0.0, along, up), (0.0, -along, up))
    return Polyhedron((*((*side, distance) for side in sides), (0.0, 0.0, -1.0, half_height)), (a, a, half_height))


@dataclass(frozen=True)
class _Round(Solid):
    """A solid on a disc of radius ``size``."""

    size: float
    half_height: float

    @property
    def extent(self) -> tuple[float, float, float]:
        return (self.size, self.size, self.half_height)

    @property
    def radius(self) -> float:
        return float(np.hypot(self.size, self.half_height))


class Cylinder(_Round):
    def intersect(self, origin: Array, directions: Array) -> Array:
        return first_hit(*self.interval(origin, directions))

    def interval(self, origin: Array, directions: Array) -> tuple[Array, Array]:
        """Where rays are inside: from t, to t; from > to where they never are."""
        flat = directions[:2]
        enter, leave = inside_quadric(dot(flat, flat), origin[:2] @ flat, origin[:2] @ origin[:2] - self.size**2)
        clip(enter, leave, self.half_height - origin[2], directions[2])
        clip(enter, leave, self.half_height + origin[2], -directions[2])
        return enter, leave

    def normals(self, points: Array) -> Array:
        across = np.hypot(points[0], points[1])
        on_cap = np.abs(points[2]) - self.half_height > across - self.size
        round_side = np.stack([points[0] / across, points[1] / across, np.zeros_like(across)])
        return np.where(on_cap, _cap_normals(points), round_side)


class Cone(_Round):
    def intersect(self, origin: Array, directions: Array) -> Array:
        slope = self.size / (2 * self.half_height)
        apex = self.half_height - origin[2]  # how far above the ray's start the double cone's tip is
        a = dot(directions[:2], directions[:2]) - (slope * directions[2]) ** 2
        b = origin[:2] @ directions[:2] + slope**2 * apex * directions[2]
        c = origin[:2] @ origin[:2] - (slope * apex) ** 2
        best = self._base(origin, directions)
        for t in both_roots(a, b, c):
            z = origin[2] + t * directions[2]
            on_side = (t > 0) & (np.abs(z) <= self.half_height)
            best = np.where(on_side & (t < best), t, best)
        return best

    def _base(self, origin: Array, directions: Array) -> Array:
        t = divide(-self.half_height - origin[2], directions[2])
        with np.errstate(invalid="ignore", over="ignore"):
            x, y = origin[0] + t * directions[0], origin[1] + t * directions[1]
            return np.where((t > 0) & (x * x + y * y <= self.size**2), t, MISS)

    def normals(self, points: Array) -> Array:
        across = np.hypot(points[0], points[1])
        slant = float(np.hypot(self.size, 2 * self.half_height))
        along, up = 2 * self.half_height / slant, self.size / slant
        from_side = along * across + up * points[2] - up * self.half_height
        on_base = -self.half_height - points[2] > from_side
        safe = np.maximum(across, 1e-12)
        side = np.stack([along * points[0] / safe, along * points[1] / safe, np.full_like(across, up)])
        return np.where(on_base, _cap_normals(points), side)


@dataclass(frozen=True)
class Capsule(Solid):
    """All points within ``size`` of a segment of half length ``half_segment``."""

    size: float
    half_segment: float

    @property
    def extent(self) -> tuple[float, float, float]:
        return (self.size, self.size, self.radius)

    @property
    def radius(self) -> float:
        return self.half_segment + self.size

    def intersect(self, origin: Array, directions: Array) -> Array:
        flat = directions[:2]
        t = first_hit(*inside_quadric(dot(flat, flat), origin[:2] @ flat, origin[:2] @ origin[:2] - self.size**2))
        with np.errstate(invalid="ignore"):
            best = np.where(np.abs(origin[2] + t * directions[2]) <= self.half_segment, t, MISS)
        length = dot(directions, directions)
        for end in (-self.half_segment, self.half_segment):
            start = origin - np.array([0.0, 0.0, end])
            t = first_hit(*inside_quadric(length, start @ directions, start @ start - self.size**2))
            best = np.minimum(best, t)
        return best

    def normals(self, points: Array) -> Array:
        along = np.clip(points[2], -self.half_segment, self.half_segment)
        return np.stack([points[0], points[1], points[2] - along]) / self.size


@dataclass(frozen=True)
class Torus(Solid):
    """All points within ``tube`` of a circle of radius ``ring`` in the x-y plane."""

    ring: float
    tube: float

    @property
    def extent(self) -> tuple[float, float, float]:
        return (self.radius, self.radius, self.tube)

    @property
    def radius(self) -> float:
        return self.ring + self.tube

    def intersect(self, origin: Array, directions: Array) -> Array:
        # With t counted from the ray's nearest point to the centre, the quartic has no cubic term:
        # (t² + k)² = 4 ring² (x² + y²), for a direction of length 1.
        length = np.sqrt(dot(directions, directions))
        unit = directions / length
        start = -(origin @ unit)
        nearest = origin[:, None] + start * unit
        k = dot(nearest, nearest) + self.ring**2 - self.tube**2
        scale = 4 * self.ring**2
        p = 2 * k - scale * dot(unit[:2], unit[:2])
        q = -2 * scale * dot(unit[:2], nearest[:2])
        t = smallest_root(p, q, k * k - scale * dot(nearest[:2], nearest[:2]), -start)
        return (start + t) / length

    def normals(self, points: Array) -> Array:
        across = np.hypot(points[0], points[1])
        inwards = 1 - self.ring / across
        outward = np.stack([points[0] * inwards, points[1] * inwards, points[2]])
        return outward / np.sqrt(dot(outward, outward))


def _cap_normals(points: Array) -> Array:
    zero = np.zeros_like(points[2])
    return np.stack([zero, zero, np.sign(points[2])])
