"""Painters judge boxes as the scores do, match clusters with instances, and show principal components."""

from __future__ import annotations

import io
from itertools import permutations

import numpy as np
import pytest
from deapcache_caches import feature_cache, fill
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from sklearn.decomposition import PCA

from deapcache.cache import list_caches
from deapcache.errors import IncompleteCacheError, UnknownNameError, UsageError
from deapcache.locations import LocalLocation
from deapcache.results.draw import draw_cache
from deapcache.results.painters import (
    BACKGROUND,
    BLANK,
    DISTINCT,
    FALSE_ALARM,
    HIT,
    MISSED,
    OTHER,
    instance_colours,
    judge_boxes,
    make_painter,
    match_clusters,
    principal_colours,
)


@pytest.mark.parametrize(("name", "error", "says"), [
    ("instances", UsageError, "label type 'instances' has no paint"),
    ("slopes", UnknownNameError, "unknown label type"),
])  # fmt: skip
def test_a_picture_that_nothing_paints_is_told(name: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make_painter(name, [np.zeros((2, 3))])


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


def _drawn(target: np.ndarray, prediction: np.ndarray) -> list[np.ndarray]:
    """The colours (h, w, 3) of each column."""
    axes = Figure().subplots(1, 3)
    make_painter("segments", [prediction], targets=[target]).compare(axes, 0)
    return [np.asarray(axis.images[0].get_array()) for axis in axes]


def _map(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.int32)


def test_a_perfect_clustering_has_the_instances_ids() -> None:
    instances = _map([1, 1, 7, 7], [3, 3, 0, -1])
    clusters = _map([2, 2, 3, 3], [1, 1, 0, 0])
    np.testing.assert_array_equal(match_clusters(instances, clusters), _map([1, 1, 7, 7], [3, 3, 0, 0]))


@pytest.mark.parametrize("seed", range(4))
def test_no_other_matching_has_more_right_pixels(seed: int) -> None:
    generator = np.random.default_rng(seed)
    instances = generator.integers(0, 5, (12, 9)).astype(np.int32)
    clusters = np.where(instances > 0, generator.integers(1, 5, (12, 9)), 0)
    right = [
        ((instances > 0) & (np.array([0, *ids])[clusters] == instances)).sum() for ids in permutations(range(1, 5))
    ]
    assert (match_clusters(instances, clusters)[instances > 0] == instances[instances > 0]).sum() == max(right)


def test_fewer_clusters_than_instances_and_none() -> None:
    merged = match_clusters(_map([1, 1, 2, 0]), _map([1, 1, 1, 0]))
    np.testing.assert_array_equal(merged, _map([1, 1, 1, 0]))
    np.testing.assert_array_equal(match_clusters(_map([0, -1]), _map([0, 0])), _map([0, 0]))


def test_columns_show_instances_matched_clusters_and_what_is_wrong() -> None:
    true, found, wrong = _drawn(_map([4, 4, 4, 9], [4, 9, 0, -1]), _map([1, 1, 1, 2], [2, 2, 0, 0]))
    first, second = to_rgb(DISTINCT[0]), to_rgb(DISTINCT[1])
    np.testing.assert_allclose(true[0], [first, first, first, second])
    np.testing.assert_allclose(found[1, :2], [second, second])
    for panel in (true, found):
        np.testing.assert_allclose(panel[1, 3], to_rgb(BLANK))
        np.testing.assert_allclose(panel[1, 2], to_rgb(BACKGROUND))
    assert np.abs(wrong - to_rgb(FALSE_ALARM)).max(-1)[1, 0] < 0.2
    assert np.ptp(wrong.reshape(-1, 3)[[0, 1, 2, 3, 5, 6, 7]]) == 0


def test_the_largest_instances_have_colours_of_their_own() -> None:
    many = np.repeat(np.arange(1, 16), np.arange(15, 0, -1))[None].astype(np.int32)
    colours = instance_colours(many)
    assert [colours[i] for i in range(1, 16)] == [*DISTINCT, OTHER, OTHER, OTHER]
    assert OTHER in make_painter("segments", [many], targets=[many]).legend.values()
    fewer = np.minimum(many, 12)
    assert OTHER not in make_painter("segments", [fewer], targets=[fewer]).legend.values()


def test_components_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    volumes = (rng.normal(size=(5, 6, 7, 9)) * np.arange(1, 10)).astype(np.float32)
    (colours,), shares = principal_colours([volumes])
    reference = PCA(3, svd_solver="full").fit(volumes.reshape(-1, 9).astype(np.float64))
    np.testing.assert_allclose(shares, reference.explained_variance_ratio_, rtol=1e-6)
    scores = reference.transform(volumes.reshape(-1, 9).astype(np.float64)).reshape(5, 6, 7, 3)
    assert colours.shape == scores.shape
    assert (colours.min(), colours.max()) == (0, 1)
    for component in range(3):
        inside = (colours[..., component] > 0) & (colours[..., component] < 1)
        ours, theirs = colours[..., component][inside], scores[..., component][inside]
        assert abs(np.corrcoef(ours, theirs)[0, 1]) > 0.999999
        assert inside.mean() > 0.97


def test_the_same_features_always_have_the_same_colours() -> None:
    volumes = np.random.default_rng(1).normal(size=(2, 4, 4, 6)).astype(np.float16)
    (first,), _ = principal_colours([volumes])
    (second,), _ = principal_colours([volumes[::-1]])
    np.testing.assert_allclose(first, second[::-1], atol=1e-5)


def test_a_volume_has_one_colour_whatever_the_size() -> None:
    coarse = np.random.default_rng(0).normal(size=(5, 6, 8))
    (small, large), _ = principal_colours([coarse, coarse.repeat(3, 0).repeat(3, 1)])
    np.testing.assert_allclose(large, small.repeat(3, 0).repeat(3, 1), atol=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_few_channels_and_no_variance_are_grey(dim: int) -> None:
    (flat,), shares = principal_colours([np.ones((2, 3, 3, dim), np.float16)])
    assert (flat == 0.5).all()
    assert shares == (0, 0, 0)
    (varied,), _ = principal_colours([np.random.default_rng(0).normal(size=(2, 3, 3, dim)).astype(np.float32)])
    assert [(varied[..., c] == 0.5).all() for c in range(3)] == [False, dim < 2, dim < 3]


def test_a_picture_of_a_cache(home: LocalLocation) -> None:
    cache = feature_cache(home)
    (entry,) = list_caches(home)
    with pytest.raises(IncompleteCacheError, match="no volumes yet"):
        draw_cache(entry, None, 8)
    fill(cache, range(5))
    with Image.open(io.BytesIO(draw_cache(entry, None, 8))) as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture.convert("RGB")).std() > 10
