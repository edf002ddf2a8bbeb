"""Clusters are drawn in the colours of the instances that they fit best."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from matplotlib.figure import Figure

from deapcache.results.palette import BACKGROUND, DISTINCT, FALSE_ALARM, OTHER, VOID, rgb
from deapcache.results.panels import Row, panels_for
from deapcache.results.record import make_result
from deapcache.results.segment_panels import SegmentPanels, instance_colours, match_clusters


def _drawn(row: Row) -> list[np.ndarray]:
    """The colours (h, w, 3) of each column."""
    axes = Figure().subplots(1, 3)
    SegmentPanels(row.target[None]).draw(axes, row)
    return [np.asarray(axis.images[0].get_array()) for axis in axes]


def _map(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.int32)


def test_discrimination_is_drawn_so(facts) -> None:
    maps = _map([1, 0])[None]
    assert isinstance(panels_for(make_result(facts(task="discrimination")), maps, maps), SegmentPanels)


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
    row = Row(None, _map([4, 4, 4, 9], [4, 9, 0, -1]), _map([1, 1, 1, 2], [2, 2, 0, 0]))
    true, found, wrong = _drawn(row)
    first, second = rgb(DISTINCT[0]), rgb(DISTINCT[1])
    np.testing.assert_allclose(true[0], [first, first, first, second])
    np.testing.assert_allclose(found[1, :2], [second, second])
    for panel in (true, found):
        np.testing.assert_allclose(panel[1, 3], rgb(VOID))
        np.testing.assert_allclose(panel[1, 2], rgb(BACKGROUND))
    assert np.abs(wrong - rgb(FALSE_ALARM)).max(-1)[1, 0] < 0.2
    assert np.ptp(wrong.reshape(-1, 3)[[0, 1, 2, 3, 5, 6, 7]]) == 0


def test_the_largest_instances_have_colours_of_their_own() -> None:
    many = np.repeat(np.arange(1, 16), np.arange(15, 0, -1))[None].astype(np.int32)
    colours = instance_colours(many)
    assert [colours[i] for i in range(1, 16)] == [*DISTINCT, OTHER, OTHER, OTHER]
    assert OTHER in SegmentPanels(many[None]).legend.values()
    assert OTHER not in SegmentPanels(np.minimum(many, 12)[None]).legend.values()
