"""Solids of seven shapes: where rays meet them, which way their surface faces, and how they stand in a room.

Every solid stands in its own frame, centred on the origin, its axis along z, in metres. Points and directions are
(3, N) float64, one column each; a ray is ``origin + t · direction``, and what is found is t, (N,).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deapcache.datasets.textures import OBJECT_PATTERNS, Array, Material, random_material

MISS = np.inf
"""The t of a ray that meets nothing."""


def dot(left: Array, right: Array) -> Array:
    """Products (N,) of two (3, N)."""
    product = left[0] * right[0]
    for a, b in zip(left[1:], right[1:], strict=True):
        product += a * b
    return product


def inside_quadric(a: Array, b: Array, c: Array | float) -> tuple[Array, Array]:
    """Where a·t² + 2b·t + c ≤ 0 for a ≥ 0: from, to; an empty interval where it never is."""
    a = np.maximum(a, 1e-12)  # along the axis of a cylinder: inside from very far to very far
    inside = b * b - a * c
    root = np.sqrt(np.maximum(inside, 0.0))
    hit = inside > 0
    return np.where(hit, (-b - root) / a, MISS), np.where(hit, (-b + root) / a, -MISS)


def both_roots(a: Array, b: Array, c: Array | float) -> tuple[Array, Array]:
    """Both solutions of a·t² + 2b·t + c = 0, :data:`MISS` where there are none; stable where a is near zero."""
    inside = b * b - a * c
    q = -(b + np.copysign(np.sqrt(np.maximum(inside, 0.0)), b))
    none = inside < 0
    return np.where(none, MISS, divide(q, a)), np.where(none, MISS, divide(c, q))


def divide(left: Array | float, right: Array) -> Array:
    """``left / right``, :data:`MISS` where that divides by zero."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(right != 0, left / right, MISS)


def clip(enter: Array, leave: Array, room: float, speed: Array) -> None:
    """Shorten intervals, in place, to where ``t · speed ≤ room``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = room / speed
    np.minimum(leave, t, out=leave, where=speed > 0)
    np.maximum(enter, t, out=enter, where=speed < 0)
    if room < 0:
        enter[speed == 0] = MISS


def first_hit(enter: Array, leave: Array) -> Array:
    """Where rays that begin outside first come in; :data:`MISS` where the interval is empty or lies behind."""
    return np.where((enter <= leave) & (enter > 0), enter, MISS)


def smallest_root(p: Array, q: Array, s: Array, above: Array) -> Array:
    """Smallest real t > ``above`` with t⁴ + p·t² + q·t + s = 0, infinite where there is none.

    Descartes' factorisation (t² + u·t + v)(t² − u·t + w), all arguments and the result (N,). Two Newton steps then
    take the rounding errors out.
    """
    squared = np.maximum(_largest_cubic_root(2 * p, p * p - 4 * s, -q * q), 0.0)
    u = np.sqrt(squared)
    # w - v is q / u, and also the root of (p + u²)² - 4s: the second where u is too small to divide by.
    spread = np.copysign(np.sqrt(np.maximum((p + squared) ** 2 - 4 * s, 0.0)), q)
    tiny = squared < 1e-7 * (1 + np.abs(p))
    spread = np.where(tiny, spread, q / np.where(tiny, 1.0, u))
    v, w = (p + squared - spread) / 2, (p + squared + spread) / 2
    best = np.full(len(p), np.inf)
    for linear, constant in ((u, v), (-u, w)):
        inside = linear * linear - 4 * constant
        spread = np.sqrt(np.where(inside < 0, np.nan, inside))
        for root in ((-linear - spread) / 2, (-linear + spread) / 2):
            best = np.where((root > above) & (root < best), root, best)
    hit = np.flatnonzero(best < np.inf)
    best[hit] = _polish(best[hit], p[hit], q[hit], s[hit])
    return best


def _polish(t: Array, p: Array, q: Array, s: Array) -> Array:
    for _ in range(2):
        value = ((t * t + p) * t + q) * t + s
        slope = (4 * t * t + 2 * p) * t + q
        # Near a double root (a grazing ray) the slope vanishes: stay there.
        step = value / np.where(np.abs(slope) < 1e-6, np.inf, slope)
        t = t - np.clip(step, -1e-3, 1e-3)
    return t


def _largest_cubic_root(a: Array, b: Array, c: Array) -> Array:
    """Largest real root of x³ + a·x² + b·x + c (Viète's and Cardano's formulas, one Newton step)."""
    q = (a * a - 3 * b) / 9
    r = (2 * a**3 - 9 * a * b + 27 * c) / 54
    three = r * r < q**3
    root_q = np.sqrt(np.where(three, q, 1.0))
    angle = np.arccos(np.clip(r / root_q**3, -1.0, 1.0))
    viete = -2 * root_q * np.cos((angle + 2 * np.pi) / 3)
    big = -np.copysign(np.cbrt(np.abs(r) + np.sqrt(np.maximum(r * r - q**3, 0.0))), r)
    cardano = big + q / np.where(big == 0, np.inf, big)
    x = np.where(three, viete, cardano) - a / 3
    slope = (3 * x + 2 * a) * x + b
    return x - (((x + a) * x + b) * x + c) / np.where(np.abs(slope) < 1e-9, np.inf, slope)


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
        flat = directions[:2]
        enter, leave = inside_quadric(dot(flat, flat), origin[:2] @ flat, origin[:2] @ origin[:2] - self.size**2)
        clip(enter, leave, self.half_height - origin[2], directions[2])
        clip(enter, leave, self.half_height + origin[2], -directions[2])
        return first_hit(enter, leave)

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
        t = divide(-self.half_height - origin[2], directions[2])
        with np.errstate(invalid="ignore", over="ignore"):
            x, y = origin[0] + t * directions[0], origin[1] + t * directions[1]
            best = np.where((t > 0) & (x * x + y * y <= self.size**2), t, MISS)  # the base
        for t in both_roots(a, b, c):
            z = origin[2] + t * directions[2]
            on_side = (t > 0) & (np.abs(z) <= self.half_height)
            best = np.where(on_side & (t < best), t, best)
        return best

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


_MAKERS: dict[str, Callable[[float, float, float], Solid]] = {
    "box": lambda size, u, v: box(size * (0.6 + 0.4 * u), size * (0.6 + 0.4 * v), size * (0.45 + 0.5 * u * v)),
    "sphere": lambda size, u, v: Sphere(0.85 * size),
    "cylinder": lambda size, u, v: Cylinder(size * (0.5 + 0.25 * u), size * (0.6 + 0.4 * v)),
    "cone": lambda size, u, v: Cone(size * (0.7 + 0.2 * u), size * (0.8 + 0.4 * v)),
    "pyramid": lambda size, u, v: pyramid(size * (0.7 + 0.2 * u), size * (0.7 + 0.3 * v)),
    "capsule": lambda size, u, v: Capsule(size * (0.4 + 0.1 * u), size * (0.5 + 0.3 * v)),
    "torus": lambda size, u, v: Torus(size * (0.7 + 0.1 * u), size * (0.2 + 0.1 * v)),
}

SHAPES = tuple(_MAKERS)

_LYING_CHANCE = {"cylinder": 0.35, "capsule": 0.5, "torus": 0.4}
"""How often a shape rests on its side; the others always stand on their base."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """A solid in its place."""

    solid: Solid
    shape: str
    rotation: Array
    """(3, 3): columns are the solid's own axes in the room."""
    centre: Array
    """(3,) metres."""
    half_height: float
    """From the centre down to what it stands on, metres."""
    footprint: float
    """Radius of a disc that holds its outline seen from above, metres."""
    flat_top: float
    """Radius of a disc that something else can stand on, metres; 0 where it has none."""
    material: Material


def draft_body(generator: np.random.Generator, shape: str) -> Callable[[float], Body]:
    """A random body of a shape, to be made in any size: half of its largest side or so, metres.

    It stands on the floor at the origin; its radius seen from above is proportional to the size.
    """
    u, v, chance, turn = (float(x) for x in generator.random(4))
    is_lying = chance < _LYING_CHANCE.get(shape, 0.0)
    yaw = 2 * np.pi * turn
    material = random_material(generator, OBJECT_PATTERNS, vivid=True)
    rotation = np.array([[np.cos(yaw), -np.sin(yaw), 0.0], [np.sin(yaw), np.cos(yaw), 0.0], [0.0, 0.0, 1.0]])
    if is_lying:  # the solid's z axis becomes horizontal, its y axis vertical
        rotation = rotation @ np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])

    def body(size: float) -> Body:
        solid = _MAKERS[shape](size, u, v)
        x, y, z = solid.extent
        half_height = y if is_lying else z
        across = z if is_lying else y
        has_flat_top = shape in ("box", "cylinder") and not is_lying
        return Body(
            solid=solid,
            shape=shape,
            rotation=rotation,
            centre=np.array([0.0, 0.0, half_height]),
            half_height=half_height,
            footprint=float(np.hypot(x, across)) if is_lying or isinstance(solid, Polyhedron) else x,
            flat_top=min(x, y) if has_flat_top else 0.0,
            material=material,
        )

    return body
