"""Caches of every format version that was ever released still open; those of a later one are refused, with advice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import deapcache_formats as kept
import numpy as np
import pytest
from deapcache_faults import Tally

from deapcache.cache import FeatureCache, list_caches, open_cache
from deapcache.cache.format import FORMAT
from deapcache.errors import FormatVersionError
from deapcache.locations import LocalLocation

DATA = Path(__file__).resolve().parents[1] / "data"
VERSIONS = sorted(DATA.glob("format-*"))


def test_every_version_is_kept() -> None:
    assert [folder.name for folder in VERSIONS] == [f"format-{number}" for number in range(1, FORMAT + 1)]


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: folder.name)
def test_a_cache_of_an_earlier_version_opens_with_the_same_numbers(folder: Path, tally: Tally) -> None:
    home = LocalLocation(folder)
    with tally.fault("a cache of an earlier or this format version", "it opens", count=6):
        features = [entry.open() for entry in list_caches(home, "features")]
        assert {cache.storage for cache in features if isinstance(cache, FeatureCache)} == set(kept.STORAGES)
        for cache in features:
            assert isinstance(cache, FeatureCache)
            assert cache.image_ids == tuple(kept.IDS)
            np.testing.assert_array_equal(cache.read_features([2, 0, 1]), kept.features()[[2, 0, 1]])
        (images,), (maps,) = (list_caches(home, kind) for kind in ("images", "targets"))
        np.testing.assert_array_equal(images.open().read([0, 1, 2]), kept.pixels())
        np.testing.assert_array_equal(maps.open().read([0, 1, 2]), kept.ids())
        assert images.digest == kept.IMAGES.digest
        assert maps.digest == kept.TARGETS.digest
        assert images.open().provenance() == [{"host": "fixture"}]


@pytest.mark.parametrize("version", [FORMAT + 1, 99, 0, -1, str(FORMAT), None, True, 1.0, [1]])
def test_another_version_is_refused_with_what_to_do(tmp_path: Path, tally: Tally, version: object) -> None:
    shutil.copytree(VERSIONS[-1] / "images", tmp_path / "images")
    (root,) = (tmp_path / "images").glob("*/*/*.zarr/zarr.json")
    metadata = json.loads(root.read_text())
    metadata["attributes"]["deapcache"] |= {"format": version, "codec_of_the_future": {"name": "no_progress of"}}
    root.write_text(json.dumps(metadata))
    with tally.fault("a cache of an unknown format version", "FormatVersionError: upgrade, or extract anew elsewhere"):
        with pytest.raises(
            FormatVersionError, match=r"upgrade deapcache, or extract again into another home"
        ) as raised:
            open_cache(LocalLocation(root.parent))
        assert str(root.parent) in str(raised.value)
        with pytest.warns(UserWarning, match="left out: .*format version"):
            assert list_caches(LocalLocation(tmp_path)) == []
