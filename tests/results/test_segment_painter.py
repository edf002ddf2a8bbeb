"""Clusters are drawn in the colours of the instances that they fit best."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from deapcache.results.painters import (
    BACKGROUND,
    BLANK,
    DISTINCT,
    FALSE_ALARM,
    OTHER,
    instance_colours,
    make_painter,
    match_clusters,
)


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
