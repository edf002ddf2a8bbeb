"""Caches of features by names, path and URL; what is shown of them."""

from __future__ import annotations

import pickle
from html.parser import HTMLParser

import numpy as np
import pytest
from deapcache_caches import feature_cache, fill, served
from deapcache_toys import DIM, GRID, add_features, add_targets, volumes

import deapcache
from deapcache.errors import AmbiguousCacheError, CacheMissError, UsageError
from deapcache.locations import LocalLocation, locate


class _Texts(HTMLParser):
    """The tags and texts of a page, as a browser takes it apart."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_by_names(home: LocalLocation) -> None:
    written = add_features(home, "val")
    add_features(home, "train")
    found = deapcache.open_cache(backbone="toy", dataset="toys", split="val", home=str(home))
    assert isinstance(found, deapcache.Features)
    assert (found.digest, found.grid, found.dim) == (written.digest, (GRID, GRID), DIM)
    np.testing.assert_array_equal(found.read_features([3, 1]), volumes("val")[[3, 1]].astype(np.float16))


def test_fields_tell_caches_of_one_name_apart(home: LocalLocation) -> None:
    for storage in ("float16", "float32"):
        add_features(home, "val", storage=storage)
    names = {"backbone": "toy", "dataset": "toys", "split": "val", "home": home}
    with pytest.raises(AmbiguousCacheError, match="storage"):
        deapcache.open_cache(**names)
    assert deapcache.open_cache(**names, storage="float32").storage == "float32"
    with pytest.raises(CacheMissError, match=r"near: .* where storage is"):
        deapcache.open_cache(**names, storage="int8")


def test_by_path_location_and_url(home: LocalLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    written = add_features(home, "val")
    add_targets(home, "val", "classes")
    path = written.location.path  # type: ignore[attr-defined]
    monkeypatch.chdir(path.parent)
    for place in (str(path), path, written.location, path.name, f"file://{path}"):
        found = deapcache.open_cache(place)
        assert (found.digest, found.entry.dataset, found.entry.split) == (written.digest, "toys", "val")
        assert len(found.torch_dataset("classes")) == 12
    with served(home.path) as (address, _):
        remote = deapcache.open_cache(f"{address}/{path.relative_to(home.path)}")
        assert remote.entry.home == locate(address)
        np.testing.assert_array_equal(remote.read_features([5]), written.read([5]))


def test_a_cache_that_was_moved_away_is_read_all_the_same(home: LocalLocation, tmp_path) -> None:
    path = add_features(home, "val").location.path  # type: ignore[attr-defined]
    moved = path.rename(tmp_path / "mine.zarr")
    found = deapcache.open_cache(moved)
    assert found.read_features([0]).shape == (1, GRID, GRID, DIM)
    assert repr(found).startswith("Features of toy\n")
    with pytest.raises(CacheMissError, match="there is none"):
        found.torch_dataset("classes")


def test_what_is_asked_for_must_be_one_cache_of_features(home: LocalLocation) -> None:
    path = add_targets(home, "val", "classes").location.path  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"holds targets, no features: deapcache\.cache\.open_cache"):
        deapcache.open_cache(path)
    with pytest.raises(UsageError, match="dataset, split not given"):
        deapcache.open_cache(backbone="toy")
    with pytest.raises(UsageError, match="is one cache: split, storage would choose another"):
        deapcache.open_cache(path, split="val", storage="float16")
    with pytest.raises(CacheMissError, match="there is no cache at"):
        deapcache.open_cache(home.path / "features/toys/val/none.zarr")


def test_features_are_found_in_read_homes(home: LocalLocation, tmp_path) -> None:
    (tmp_path / "lab").mkdir()
    lab = LocalLocation(tmp_path / "lab")
    add_features(lab, "val")
    add_targets(home, "val", "classes")  # made here, of features made there
    layered = deapcache.home(str(home), read_homes=[str(lab)])
    found = deapcache.open_cache(backbone="toy", dataset="toys", split="val", home=layered)
    assert found.location == lab / found.entry.path
    assert len(pickle.loads(pickle.dumps(found)).torch_dataset("classes")) == 12


def test_shown_as_text_and_html(home: LocalLocation) -> None:
    written = feature_cache(home, backbone="<b>odd</b>&", view="hflip")
    fill(written, [0])
    found = deapcache.open_cache(backbone="<b>odd</b>&", dataset="coco", split="train", home=home, view="hflip")
    lines = repr(found).splitlines()
    assert lines[0] == "Features of <b>odd</b>& · coco train · hflip"
    for fact in ("130 in 44 shards of 3", "3 × 4 × 8, float16, 0.2 kB an image", "last, final norm applied"):
        assert any(line.endswith(fact) for line in lines), fact
    page = _Texts(found._repr_html_())
    assert set(page.tags) == {"table", "caption", "tbody", "tr", "th", "td"}
    assert page.texts[0] == lines[0]
    assert len(page.texts) == 1 + 2 * len(lines[1:])


def test_showing_asks_no_server(home: LocalLocation) -> None:
    path = add_features(home, "val").location.path  # type: ignore[attr-defined]
    with served(home.path) as (address, requests):
        found = deapcache.open_cache(f"{address}/{path.relative_to(home.path)}")
        before = len(requests)
        assert "toy" in repr(found)
        assert "toy" in found._repr_html_()
        assert len(requests) == before


def test_pickled_it_is_opened_again(home: LocalLocation) -> None:
    add_features(home, "val")
    found = deapcache.open_cache(backbone="toy", dataset="toys", split="val", home=home)
    again = pickle.loads(pickle.dumps(found))
    assert isinstance(again, deapcache.Features)
    assert (again.digest, again.entry) == (found.digest, found.entry)
