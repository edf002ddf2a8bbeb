"""Boxes in pictures: judged as the scores judge them, and drawn where they are."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from deapcache.results.painters import DISTINCT, FALSE_ALARM, HIT, MISSED, judge_boxes, make_painter

BOX = (0.1, 0.2, 0.4, 0.4)
MOVED = (0.2, 0.2, 0.4, 0.4)
"""With IoU 0.3 / 0.5."""
ELSEWHERE = (0.6, 0.6, 0.2, 0.2)


def judged(objects: list[tuple[float, ...]], crowds: list[tuple[float, ...]], found: list[tuple[float, ...]]) -> list:
    boxes = (np.array(some, float).reshape(-1, 4) for some in (objects, crowds, found))
    return [values.tolist() for values in judge_boxes(*boxes)]


def test_the_better_box_takes_the_object() -> None:
    assert judged([BOX, ELSEWHERE], [], [MOVED, BOX]) == [[True, False], [True, False], [False, True]]


def test_a_box_takes_the_object_that_it_overlaps_most() -> None:
    assert judged([MOVED, BOX], [], [BOX, MOVED]) == [[True, True], [True, True], [False, False]]


def test_little_overlap_is_a_miss_and_a_false_alarm() -> None:
    far = (0.3, 0.2, 0.4, 0.4)  # IoU 1 / 3
    assert judged([BOX], [], [far]) == [[False], [False], [True]]


def test_a_box_in_a_crowd_is_no_false_alarm() -> None:
    assert judged([], [(0.5, 0.5, 0.5, 0.5)], [ELSEWHERE, BOX]) == [[], [False, False], [False, True]]


def test_nothing_to_judge() -> None:
    assert judged([], [], []) == [[], [], []]
    assert judged([BOX], [], []) == [[False], [], []]


def painted(target: np.ndarray, prediction: np.ndarray) -> list[np.ndarray]:
    """The three columns of one image of 100 × 100 pixels, without frames."""
    figure = Figure(figsize=(3, 1), dpi=100)
    axes = [figure.add_axes((column / 3, 0, 1 / 3, 1)) for column in range(3)]
    make_painter("boxes", [prediction], targets=[target]).compare(axes, 0)
    for axis in axes:
        axis.set_axis_off()
    data = io.BytesIO()
    FigureCanvasAgg(figure).print_png(data)
    pixels = np.asarray(Image.open(data).convert("RGB")).astype(int)
    return [pixels[:, 100 * column : 100 * column + 100] for column in range(3)]


def has(pixels: np.ndarray, colour: str) -> np.ndarray:
    wanted = np.round(np.multiply(to_rgb(colour), 255)).astype(int)
    return np.abs(pixels - wanted).max(-1) < 60


def near(pixel: int) -> object:
    return pytest.approx(pixel, abs=2)


def test_boxes_are_drawn_where_they_are() -> None:
    target = np.array([[*BOX, 1], [*ELSEWHERE, 1], [0, 0, 0, 0, 0]])
    prediction = np.array([[*MOVED, 0.9], [0.6, 0.1, 0.3, 0.3, 0.8], [0.0, 0.0, 0.9, 0.9, 0.7], [0, 0, 0, 0, 0]])
    left, middle, right = painted(target, prediction)
    rows, columns = np.nonzero(has(left, DISTINCT[3]))
    assert (rows.min(), columns.min()) == (near(20), near(10))
    assert (rows.max(), columns.max()) == (near(80), near(80))
    rows, columns = np.nonzero(has(middle, DISTINCT[3]))
    assert (rows.min(), columns.min()) == (near(10), near(20))
    assert columns.max() == near(90)
    assert rows.max() == near(60)  # two objects: the third prediction is not shown
    for colour in (HIT, MISSED, FALSE_ALARM):
        assert has(right, colour).sum() > 20
    assert np.nonzero(has(right, MISSED))[0].min() == near(60)
    assert np.nonzero(has(right, FALSE_ALARM))[0].min() == near(10)
