"""Pictures of features show what scikit-learn's principal components say."""

from __future__ import annotations

import io

import numpy as np
import pytest
from deapcache_caches import feature_cache, fill
from PIL import Image
from sklearn.decomposition import PCA

from deapcache.cache import list_caches
from deapcache.errors import IncompleteCacheError
from deapcache.locations import LocalLocation
from deapcache.results.draw import draw_cache
from deapcache.results.painters import principal_colours


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
