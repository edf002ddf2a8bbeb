"""Homes that are read beside the own one: order, where they come from, and that they are never written."""

from __future__ import annotations

from pathlib import Path

import pytest

from deapcache import locations
from deapcache.errors import LocationError, ReadOnlyError
from deapcache.locations import LocalLocation


def _folders(tmp_path: Path, *names: str) -> list[LocalLocation]:
    for name in names:
        (tmp_path / name).mkdir()
    return [LocalLocation(tmp_path / name) for name in names]


def test_order_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, lab, world = _folders(tmp_path, "own", "lab", "the world")
    assert locations.home(own.path).layers == (own,)
    given = locations.home(own.path, read_homes=[lab.path, world.path, lab.path, own.path])
    assert given.layers == (own, lab, world)
    assert str(given) == str(own)
    monkeypatch.setenv("DEAPCACHE_READ_HOMES", f" {world} , {lab},")
    assert locations.home(own.path).layers == (own, world, lab)
    assert locations.home(own.path, read_homes=[lab.path]).layers == (own, lab)


def test_a_read_home_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(LocationError, match=r"there is no read-home .*/gone: is it mounted\?"):
        locations.home(tmp_path, read_homes=[tmp_path / "gone"])


def test_only_the_own_home_is_written(tmp_path: Path) -> None:
    own, lab = _folders(tmp_path, "own", "lab")
    lab.publish("a/theirs", b"x")
    home = locations.home(own.path, read_homes=[lab.path])
    home.require_writable()
    home.publish("results/mine.json", b"{}")
    (home / "features").publish("mine", b"x")
    assert own.keys() == ["features/mine", "results/mine.json"]
    assert home.keys() == own.keys()
    further = home.layers[1]
    for place in (further, further / "a"):
        for attempt in (
            lambda at: at.publish("new", b""),
            lambda at: at.publish("theirs", b"", replace=True),
            lambda at: at.delete("theirs"),
            lambda at: at.require_writable(),
            lambda at: at.sweep(),
        ):
            with pytest.raises(ReadOnlyError, match="is a read-home, which is never written to"):
                attempt(place)
    assert lab.keys() == ["a/theirs"]
    assert (further / "a").read("theirs") == b"x"
