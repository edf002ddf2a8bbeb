"""Paths and addresses as users and their environment give them: ~, file://, a home folder that nothing tells."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from deapcache import locations
from deapcache.errors import UsageError
from deapcache.locations import locate

ODD = (
    "two words", "it's \"quoted\"", "[bold]markup[/bold]", "100%25", "hash#mark?", "図",
    ":smile:",
)  # fmt: skip


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("file:///data/home", "/data/home"),
        ("FILE:///data/home", "/data/home"),
        ("file://localhost/data/home", "/data/home"),
        ("file://LocalHost/data/home", "/data/home"),
        ("file:/data/home", "/data/home"),
        ("file:///two%20words", "/two words"),
        ("file:///a%23b%3Fc", "/a#b?c"),
        ("file:///100%25", "/100%"),
        ("file:///caf%C3%A9", "/café"),
        ("file:///as it/is+written", "/as it/is+written"),
        ("/plain%20path#1?", "/plain%20path#1?"),
    ],
)
def test_an_address_of_a_file_means_its_path(address: str, path: str) -> None:
    assert str(locate(address)) == path


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("file://server/share", "names the host 'server'"),
        ("file://~/caches", "names the host '~'"),
        ("file://user@localhost/x", "names the host"),
        ("file:///data#1", "%23"),
        ("file:///data?x", "%3F"),
        ("file:///data#", "%23"),
        ("file:///100%", "'%'"),
        ("file:///a%zzb", "'%'"),
        ("file:///a%2Fb", "'%2F'"),
        ("file:///a%00b", "'%00'"),
        ("file:relative", "no absolute path"),
        ("file:///caf%E9", "not UTF-8"),
        ("/caf\udce9", "not UTF-8"),
        ("/two\nlines", "cannot be printed"),
        ("file://", "no absolute path"),
        ("s3:/bucket/prefix", "s3://"),
        (Path("s3://bucket/prefix"), "s3://"),
        (Path("https://host/lab"), "https://"),
        ("ftp://host/x", "unknown scheme"),
    ],
)
def test_an_address_that_means_no_path_is_refused(address: str | Path, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        locate(address)


@pytest.mark.parametrize("name", ODD)
def test_homes_of_every_name(cli, tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    assert f"no caches in {place}:" in cli("cache", "ls", "--home", place).out
    url = place.as_uri()
    assert f"no caches in {place}:" in cli("cache", "ls", "--home", url).out


@pytest.mark.parametrize("name", ['it\'s [bold]a "home"[/] #1 %20', "back\\slash"])
def test_a_home_of_an_odd_name_serves_a_whole_round(cli, make_coco, tmp_path: Path, name: str) -> None:
    root, place = make_coco(4, 2), tmp_path / name
    dataset = ("--dataset", "coco", "--home", place)
    for words in (
        ("extract", "--backbone", "timm:test_vit@untrained", "--base-size", 32, "--data-root", root, *dataset),
        ("probe", "--task", "foreground", "--iterations", 2, "--batch-size", 2, *dataset),
        ("results", "--no-intervals", "--home", place),
        ("cache", "ls", "--home", place),
        ("cache", "verify", "--home", place),
        ("cache", "info", "test_vit", "--home", place),
    ):
        done = cli(*words)
        assert done.code == 0, done.err
    assert str(place) in done.out
    assert cli("cache", "rm", "test_vit", "--all", "--yes", "--home", place).code == 0


def test_an_unexpanded_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DEAPCACHE_HOME", raising=False)
    for value in ("~/.cache", "~"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert locations.home() == locate(Path(value.replace("~", str(tmp_path))) / "deapcache")
    for variable, found in (("DEAPCACHE_HOME", locations.home), ("DEAPCACHE_DATA", locations.data_root)):
        monkeypatch.setenv(variable, "~/there")
        assert str(found()) == str(tmp_path / "there")
    monkeypatch.setenv("DEAPCACHE_LOCAL_TIER", "~/tier")
    monkeypatch.setenv("DEAPCACHE_LOCAL_TIER_SIZE", "1GB")
    tier = locations.local_tier()
    assert tier is not None
    assert tier.folder == tmp_path / "tier"


def test_a_relative_folder_of_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be another home in every working folder."""
    monkeypatch.delenv("DEAPCACHE_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    with pytest.raises(UsageError, match=r"XDG_CACHE_HOME is 'cache'.*--home PATH, or DEAPCACHE_HOME"):
        locations.home()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container's user id without a name, and no HOME."""

    def unknown(_: object) -> None:
        raise KeyError("uid not found")

    for variable in ("HOME", "DEAPCACHE_HOME", "XDG_CACHE_HOME", "TORCH_HOME", "LOGNAME", "USER"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("nobody")
def test_without_a_home_folder_one_line_says_what_to_give(cli, tmp_path: Path) -> None:
    for words in (["cache", "ls"], ["results"], ["doctor"], ["plan", "demo"], ["leaderboard"]):
        done = cli(*words)
        assert done.code == 2
        (line,) = done.err.splitlines()
        assert "--home PATH, or DEAPCACHE_HOME" in line
    for words in (["--home", "~/caches"], ["--home", "~nobody-of-that-name/x"], ["--read-home", "~/caches"]):
        done = cli("cache", "ls", *words)
        assert done.code == 2
        assert "~" in done.err.splitlines()[0]
    assert cli("list", "backbones").code == 0
    assert cli("cache", "ls", "--home", tmp_path).code == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("nobody")
def test_without_a_home_folder_no_weights_are_fetched_into_a_folder_named_tilde(monkeypatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    from deapcache.backbones import describe
    from deapcache.backbones.weights import fetch
    from deapcache.errors import MissingWeightsError

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "~/.cache/huggingface/hub")
    with pytest.raises(MissingWeightsError, match="set HOME or HF_HOME"):
        fetch(describe("timm:test_vit"))
    assert list(tmp_path.iterdir()) == []
