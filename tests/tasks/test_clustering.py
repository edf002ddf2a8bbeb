"""k-means of many images against scikit-learn's own, one after the other."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_info, threadpool_limits

from deapcache.tasks.discrimination import cluster_all


def problems(count: int = 7) -> list[tuple[np.ndarray, int]]:
    """Overlapping clouds, on which runs that start elsewhere or round otherwise end elsewhere."""
    generator = np.random.default_rng(0)
    sizes = [(int(generator.integers(300, 900)), int(generator.integers(1, 9))) for _ in range(count)]
    return [(generator.normal(size=(points, 32)).astype(np.float32), clusters) for points, clusters in sizes]


@pytest.mark.parametrize("threads", [1, 4])
def test_clusters_are_those_of_scikit_learn_whatever_the_number_of_threads(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    with threadpool_limits(1):
        expected = [KMeans(k, n_init=10, random_state=0).fit_predict(points) for points, k in problems()]
    for found, labels in zip(cluster_all(problems()), expected, strict=True):
        np.testing.assert_array_equal(found, labels)


def test_the_process_keeps_its_threads_and_warnings() -> None:
    cluster_all(problems(1))  # loads scikit-learn
    before = [(pool["filepath"], pool["num_threads"]) for pool in threadpool_info()]
    filters = list(warnings.filters)
    cluster_all(problems())
    assert [(pool["filepath"], pool["num_threads"]) for pool in threadpool_info()] == before
    assert list(warnings.filters) == filters


@pytest.mark.parametrize("different", [1, 2])
def test_fewer_different_points_than_clusters(different: int) -> None:
    points = np.repeat(np.eye(different, 5, dtype=np.float32), 4, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        (labels,) = cluster_all([(points, 3)])
    assert len(set(labels.tolist())) == different
    assert (labels.reshape(different, 4) == labels[::4, None]).all()


def test_nothing_to_cluster() -> None:
    assert cluster_all([]) == []
