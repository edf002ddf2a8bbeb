"""Where along a ray things happen: quadratic equations and half-spaces, many rays at once.

Points and directions are (3, N) float64, one column each; what is found is t of ``origin + t · direction``, (N,).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

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
