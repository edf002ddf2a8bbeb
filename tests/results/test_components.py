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
from deapcache.results.components import draw_components, picture_of_cache, principal_components


def test_components_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    volumes = (rng.normal(size=(5, 6, 7, 9)) * np.arange(1, 10)).astype(np.float32)
    found = principal_components(volumes)
    reference = PCA(3, svd_solver="full").fit(volumes.reshape(-1, 9).astype(np.float64))
    np.testing.assert_allclose(found.explained, reference.explained_variance_ratio_, rtol=1e-6)
    scores = reference.transform(volumes.reshape(-1, 9).astype(np.float64)).reshape(5, 6, 7, 3)
    assert found.colours.shape == scores.shape
    assert (found.colours.min(), found.colours.max()) == (0, 1)
    for component in range(3):
        inside = (found.colours[..., component] > 0) & (found.colours[..., component] < 1)
        ours, theirs = found.colours[..., component][inside], scores[..., component][inside]
        assert abs(np.corrcoef(ours, theirs)[0, 1]) > 0.999999
        assert inside.mean() > 0.97


def test_the_same_features_always_have_the_same_colours() -> None:
    volumes = np.random.default_rng(1).normal(size=(2, 4, 4, 6)).astype(np.float16)
    first, second = principal_components(volumes), principal_components(volumes[::-1].copy())
    np.testing.assert_allclose(first.colours, second.colours[::-1], atol=1e-5)


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_few_channels_and_no_variance_are_grey(dim: int) -> None:
    flat = principal_components(np.ones((2, 3, 3, dim), np.float16))
    assert (flat.colours == 0.5).all()
    assert flat.explained == (0, 0, 0)
    varied = principal_components(np.random.default_rng(0).normal(size=(2, 3, 3, dim)).astype(np.float32))
    assert [(varied.colours[..., c] == 0.5).all() for c in range(3)] == [False, dim < 2, dim < 3]


def test_a_picture_of_a_cache(home: LocalLocation) -> None:
    cache = feature_cache(home)
    (entry,) = list_caches(home)
    with pytest.raises(IncompleteCacheError, match="no volumes yet"):
        picture_of_cache(entry, None, 8)
    fill(cache, range(5))
    with Image.open(io.BytesIO(picture_of_cache(entry, None, 8))) as picture:
        assert picture.format == "PNG"
        alone = picture.size
    components = principal_components(cache.read_features(range(8)))
    images = np.zeros((8, 12, 16, 3), np.uint8)
    with Image.open(io.BytesIO(draw_components(components, images, list("abcdefgh"), ["title"]))) as picture:
        assert picture.size[0] > 1.5 * alone[0]
        assert np.asarray(picture.convert("RGB")).std() > 10
