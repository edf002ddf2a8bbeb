"""What stands in a room: solids of seven shapes, their proportions and how they come to rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deapcache.datasets.scenes.geometry import Capsule, Cone, Cylinder, Polyhedron, Solid, Sphere, Torus, box, pyramid
from deapcache.datasets.scenes.rays import Array
from deapcache.datasets.scenes.textures import OBJECT_PATTERNS, Material, random_material

Proportions = tuple[float, float]
"""Two numbers in 0..1 that make a shape slim or squat."""

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


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A body before its size and place are known."""

    shape: str
    proportions: Proportions
    is_lying: bool
    yaw: float
    """Turn about the vertical, radians."""
    material: Material

    def footprint(self, size: float) -> float:
        """Radius seen from above, metres; proportional to ``size`` (half the body's largest side or so, metres)."""
        return _footprint(_MAKERS[self.shape](size, *self.proportions), self.is_lying)

    def stand(self, size: float, x: float, y: float, floor: float) -> Body:
        """The body of that size, resting at height ``floor`` with its centre above (x, y), metres."""
        solid = _MAKERS[self.shape](size, *self.proportions)
        half_height = solid.extent[1] if self.is_lying else solid.extent[2]
        return Body(
            solid=solid,
            shape=self.shape,
            rotation=_rotation(self.yaw, self.is_lying),
            centre=np.array([x, y, floor + half_height]),
            half_height=half_height,
            footprint=_footprint(solid, self.is_lying),
            flat_top=0.0 if self.is_lying else _flat_top(self.shape, solid),
            material=self.material,
        )


def draft_body(generator: np.random.Generator, shape: str) -> Draft:
    """A random body of a shape."""
    u, v, chance, turn = (float(x) for x in generator.random(4))
    return Draft(
        shape=shape,
        proportions=(u, v),
        is_lying=chance < _LYING_CHANCE.get(shape, 0.0),
        yaw=2 * np.pi * turn,
        material=random_material(generator, OBJECT_PATTERNS, vivid=True),
    )


def _footprint(solid: Solid, is_lying: bool) -> float:
    x, y, z = solid.extent
    if is_lying:
        return float(np.hypot(x, z))
    return float(np.hypot(x, y)) if isinstance(solid, Polyhedron) else x


def _flat_top(shape: str, solid: Solid) -> float:
    return min(solid.extent[:2]) if shape in ("box", "cylinder") else 0.0


def _rotation(yaw: float, is_lying: bool) -> Array:
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0.0], [np.sin(yaw), np.cos(yaw), 0.0], [0.0, 0.0, 1.0]])
    # Lying: the solid's z axis becomes horizontal, its y axis vertical.
    tip = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    return turn @ tip if is_lying else turn
