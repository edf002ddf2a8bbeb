"""k-means of many images' pixels at once, with the same labels on any number of cores."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

RESTARTS = 10
"""Runs of k-means++ for each image; the one of least inertia counts."""

SEED = 0
"""Of every image's own generator, so that an image's clusters do not depend on its batch."""


def cluster_all(problems: Sequence[tuple[np.ndarray, int]]) -> list[np.ndarray]:
    """Cluster labels (P,) int32 from 0 on, for each ``(points, clusters)``: points (P, D) floating, clusters up to P.

    Where fewer points differ than clusters are asked for, the other clusters stay empty. The problems are solved by as
    many threads as PyTorch uses, each problem by one: with several, sums would be rounded as their number has it.
    """
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    # The limit on BLAS and the warnings' filter belong to the process, that on OpenMP to each thread.
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # empty clusters
        with ThreadPoolExecutor(torch.get_num_threads(), initializer=_use_one_thread) as pool:
            return list(pool.map(_cluster, problems))


def _use_one_thread() -> None:
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, user_api="openmp")


def _cluster(problem: tuple[np.ndarray, int]) -> np.ndarray:
    from sklearn.cluster import KMeans

    points, clusters = problem
    found = KMeans(clusters, init="k-means++", n_init=RESTARTS, random_state=SEED).fit(points)
    return np.asarray(found.labels_)
