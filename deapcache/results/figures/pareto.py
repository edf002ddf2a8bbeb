"""Which of several choices no other one beats."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]], *, higher_is_better: bool) -> list[int]:
    """Places of the (speed, score) that no other is faster and better than, the slowest first.

    One that is as good in one and better in the other beats; of equal ones the first stays.
    """
    sign = 1 if higher_is_better else -1
    order = sorted(range(len(points)), key=lambda place: (-points[place][0], -sign * points[place][1], place))
    front: list[int] = []
    for place in order:
        if not front or sign * points[place][1] > sign * points[front[-1]][1]:
            front.append(place)
    return front[::-1]
