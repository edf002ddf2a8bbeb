"""What a user says of a local tier."""

from __future__ import annotations

from pathlib import Path

import pytest
from deapcache_testing import require

from deapcache import locations
from deapcache.errors import LocationError, UsageError
from deapcache.locations import LocalTier, local_tier, parse_bytes


@pytest.mark.parametrize(
    ("text", "count"), [("200GB", 200 * 10**9), ("1.5tb", 15 * 10**11), ("64 GiB", 64 * 2**30), ("1000", 1000)]
)
def test_sizes(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "10XB", "1e9", "ten"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="such as 200GB"):
        parse_bytes(text)


def test_folder_and_size_come_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_tier() is None
    for folder, size in ((tmp_path, None), (None, "1GB")):
        with pytest.raises(UsageError, match="a folder and a size"):
            local_tier(folder, size)
    assert local_tier(tmp_path / "new", "1GB") == LocalTier(folder=tmp_path / "new", bytes=10**9)
    monkeypatch.setenv("DEAPCACHE_LOCAL_TIER", str(tmp_path / "set"))
    monkeypatch.setenv("DEAPCACHE_LOCAL_TIER_SIZE", "2GB")
    assert local_tier() == LocalTier(folder=tmp_path / "set", bytes=2 * 10**9)
    (tmp_path / "file").touch()
    with pytest.raises(LocationError, match=r"the local tier .*file cannot be used"):
        local_tier(tmp_path / "file", "1GB")


def test_what_lies_on_the_tiers_own_file_system_is_read_where_it_is(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    require(memory.is_dir() and memory.stat().st_dev != tmp_path.stat().st_dev, "two file systems")
    tier = local_tier(tmp_path / "tier", "1GB")
    assert locations.home(tmp_path / "home", tier=tier).options.tier is None
    home = locations.home(memory / "deapcache-none-here", tier=tier)
    assert home.options.tier == tier
    assert (home / "features").options.tier == tier
    layered = locations.home(tmp_path / "home", read_homes=[memory], tier=tier)
    assert [place.options.tier for place in layered.layers] == [None, tier]
