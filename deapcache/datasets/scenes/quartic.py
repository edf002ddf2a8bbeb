"""Roots of quartic equations, many at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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
        for root in _quadratic_roots(linear, constant):
            best = np.where((root > above) & (root < best), root, best)
    hit = np.flatnonzero(best < np.inf)
    best[hit] = _polish(best[hit], p[hit], q[hit], s[hit])
    return best


def _quadratic_roots(linear: Array, constant: Array) -> tuple[Array, Array]:
    """Of t² + linear·t + constant; NaN where they are not real."""
    inside = linear * linear - 4 * constant
    root = np.sqrt(np.where(inside < 0, np.nan, inside))
    return (-linear - root) / 2, (-linear + root) / 2


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
