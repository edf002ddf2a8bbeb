"""An empty value, as an unset variable of the shell leaves it, is refused wherever a command takes one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from deapcache import locations
from deapcache.cli.app import app
from deapcache.errors import UsageError


def taking_values(command: Any, name: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with each of its options and arguments that has a value."""
    for word, below in getattr(command, "commands", {}).items():
        yield from taking_values(below, (*name, word))
    if name and not hasattr(command, "commands"):
        yield from ((name, each) for each in command.params if not getattr(each, "is_flag", False))


PLACES = list(taking_values(get_command(app)))


def test_all_of_them_are_met() -> None:
    options = {option for _, each in PLACES for option in each.opts}
    assert {
        "--home",
        "--base-size",
        "--shard",
        "--split",
        "--plugin",
        "--data-root",
        "--local-tier",
        "--out",
    } <= options
    assert len(PLACES) > 150


@pytest.mark.parametrize(("command", "parameter"), PLACES, ids=[f"{' '.join(c)} {p.opts[0]}" for c, p in PLACES])
def test_an_empty_value_is_refused(cli, command: tuple[str, ...], parameter: Any) -> None:
    is_option = parameter.param_type_name == "option"
    for value in ("", " \t"):
        done = cli(*command, *([parameter.opts[0], value] if is_option else [value]))
        assert (done.code, done.out) == (2, "")
        (line,) = done.err.splitlines()
        assert line.startswith("error: ")
        assert "is empty" in line
        assert not is_option or parameter.opts[0] in line


def test_an_empty_value_behind_an_equals_sign_and_among_others(cli, tmp_path) -> None:
    for words in (["--home="], ["--read-home", tmp_path, "--read-home", ""]):
        done = cli("cache", "ls", *words)
        assert (done.code, "is empty" in done.err) == (2, True)


@pytest.mark.parametrize("call", [locations.home, locations.data_root, locations.locate, locations.local_tier])
def test_the_functions_refuse_it_too(call) -> None:
    with pytest.raises(UsageError, match="empty string"):
        call("")


def test_an_empty_variable_of_the_environment_is_not_set(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for variable in ("DEAPCACHE_HOME", "DEAPCACHE_READ_HOMES", "DEAPCACHE_LOCAL_TIER", "DEAPCACHE_DATA"):
        monkeypatch.setenv(variable, "")
    assert locations.home() == locations.locate(tmp_path / "deapcache")
    assert str(locations.data_root()) == "data"


def test_the_version_is_told(cli) -> None:
    from importlib.metadata import version

    done = cli("--version")
    assert (done.code, done.out, done.err) == (0, f"deapcache {version('deapcache')}\n", "")
