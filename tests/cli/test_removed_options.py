"""Options that a command took once: whoever still gives one learns what to do instead."""

from __future__ import annotations

import pytest
from typer.main import get_command

from deapcache.cli.app import app
from deapcache.cli.options import REMOVED


def _words(name: str, group=None, above: tuple[str, ...] = ()) -> tuple[str, ...]:
    """How the command of that name is called: ``("cache", "diff")``."""
    for word, command in (group or get_command(app)).commands.items():
        if hasattr(command, "commands"):
            if found := _words(name, command, (*above, word)):
                return found
        elif word == name:
            return (*above, word)
    return ()


@pytest.mark.parametrize(("command", "option"), REMOVED)
@pytest.mark.parametrize("form", ["apart", "joined"])
def test_it_is_refused_in_one_line_that_says_what_to_do(cli, command, option, form):
    done = cli(*_words(command), *([option, "1"] if form == "apart" else [f"{option}=1"]))
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith(f"error: {option} is no longer an option of {command}: ")
    assert option not in cli(*_words(command), "--help").out.split()
