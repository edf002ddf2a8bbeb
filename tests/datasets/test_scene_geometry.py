"""Ray meetings of the solids, against marching along each ray with a plain inside-or-outside test."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from deapcache.datasets.solids import Capsule, Cone, Cylinder, Solid, Sphere, Torus, box, pyramid, smallest_root

CASES: dict[str, tuple[Solid, Callable[[np.ndarray], np.ndarray]]] = {
    "sphere": (Sphere(0.8), lambda p: (p**2).sum(axis=0) - 0.64),
    "box": (box(0.5, 0.7, 0.3), lambda p: (np.abs(p) - np.array([0.5, 0.7, 0.3])[:, None, None]).max(axis=0)),
    "cylinder": (Cylinder(0.5, 0.7), lambda p: np.maximum(np.hypot(p[0], p[1]) - 0.5, np.abs(p[2]) - 0.7)),
    "cone": (
        Cone(0.6, 0.8),
        lambda p: np.maximum(np.hypot(p[0], p[1]) - 0.6 * (0.8 - p[2]) / 1.6, np.abs(p[2]) - 0.8),
    ),
    "pyramid": (
        pyramid(0.6, 0.5),
        lambda p: np.maximum(np.abs(p[:2]).max(axis=0) - 0.6 * (0.5 - p[2]) / 1.0, np.abs(p[2]) - 0.5),
    ),
    "capsule": (
        Capsule(0.4, 0.5),
        lambda p: np.sqrt(p[0] ** 2 + p[1] ** 2 + (p[2] - np.clip(p[2], -0.5, 0.5)) ** 2) - 0.4,
    ),
    "torus": (Torus(0.7, 0.25), lambda p: np.hypot(np.hypot(p[0], p[1]) - 0.7, p[2]) - 0.25),
}


def _rays(count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    origin = np.array([1.6, -1.1, 1.3])
    targets = generator.uniform(-1, 1, (3, count))
    return origin, (targets - origin[:, None]) * generator.uniform(0.3, 2.0, count)


@pytest.mark.parametrize("name", CASES)
def test_first_meeting_is_where_marching_gets_inside(name: str) -> None:
    solid, level = CASES[name]
    origin, directions = _rays()
    t = solid.intersect(origin, directions)
    lengths = np.sqrt((directions**2).sum(axis=0))
    along = np.arange(0, 4.5, 2e-3)
    points = origin[:, None, None] + directions[:, :, None] / lengths[:, None] * along
    values = level(points)
    for ray in range(directions.shape[1]):
        inside = np.flatnonzero(values[ray] < 0)
        if len(inside):
            assert along[inside[0]] - 2.1e-3 <= t[ray] * lengths[ray] <= along[inside[0]] + 1e-9
        elif np.isfinite(t[ray]):  # a ray that grazes between two steps of the march
            assert values[ray].min() < 2e-3
    hits = np.isfinite(t)
    assert 20 < hits.sum() < 400
    on_surface = origin[:, None] + directions[:, hits] * t[hits]
    assert np.abs(level(on_surface[:, :, None])).max() < 1e-7


@pytest.mark.parametrize("name", CASES)
def test_normals_are_unit_and_point_outwards(name: str) -> None:
    solid, level = CASES[name]
    origin, directions = _rays()
    t = solid.intersect(origin, directions)
    hits = np.isfinite(t)
    points = origin[:, None] + directions[:, hits] * t[hits]
    normals = solid.normals(points)
    np.testing.assert_allclose((normals**2).sum(axis=0), 1.0, atol=1e-6)
    assert ((normals * directions[:, hits]).sum(axis=0) < 1e-9).all()
    # Perpendicular to the surface: a small step sideways does not leave it.
    sideways = np.cross(normals.T, [0.31, 0.42, 0.85]).T
    assert np.median(np.abs(level((points + 1e-4 * sideways)[:, :, None]))) < 1e-6
    assert (level((points + 1e-3 * normals)[:, :, None]) > 0).all()


@pytest.mark.parametrize("name", CASES)
def test_bounds_hold_the_solid(name: str) -> None:
    solid, level = CASES[name]
    grid = np.stack(np.meshgrid(*[np.linspace(-1.5, 1.5, 61)] * 3)).reshape(3, -1, 1)
    inside = grid[:, (level(grid) <= 0)[:, 0], 0]
    assert (np.abs(inside).max(axis=1) <= np.array(solid.extent) + 1e-9).all()
    assert np.sqrt((inside**2).sum(axis=0)).max() <= solid.radius + 1e-9


def test_rays_along_an_axis() -> None:
    down = np.array([[0.0], [0.0], [-1.0]])
    assert Cylinder(0.5, 0.7).intersect(np.array([0.1, 0.0, 3.0]), down)[0] == pytest.approx(2.3)
    assert box(0.5, 0.5, 0.5).intersect(np.array([0.1, 0.0, 3.0]), down)[0] == pytest.approx(2.5)
    assert np.isinf(box(0.5, 0.5, 0.5).intersect(np.array([0.6, 0.0, 3.0]), down)[0])
    assert Torus(0.7, 0.2).intersect(np.array([0.7, 0.0, 3.0]), down)[0] == pytest.approx(2.8)
    assert np.isinf(Torus(0.7, 0.2).intersect(np.array([0.0, 0.0, 3.0]), down)[0])
    assert Capsule(0.4, 0.5).intersect(np.array([0.0, 0.0, 3.0]), down)[0] == pytest.approx(2.1)
    assert Cone(0.5, 0.5).intersect(np.array([0.25, 0.0, -3.0]), -down)[0] == pytest.approx(2.5)


def test_quartic_roots_against_numpy() -> None:
    generator = np.random.default_rng(3)
    p, q, s = generator.uniform(-3, 3, (3, 500))
    q[:50] = 0.0
    found = smallest_root(p, q, s, np.full(500, -0.5))
    for index in range(500):
        roots = np.roots([1.0, 0.0, p[index], q[index], s[index]])
        real = roots[np.abs(roots.imag) < 1e-9].real
        expected = min((root for root in real if root > -0.5), default=np.inf)
        assert found[index] == pytest.approx(expected, abs=1e-6)
