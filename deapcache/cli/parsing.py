"""How command lines are read: as Typer does it, and no option or argument may be empty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand

from deapcache.errors import UsageError


class App(typer.Typer):
    """A group of commands, each of which refuses empty values."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """Add a command, as Typer's own."""
        return super().command(name, **{"cls": _Command, **settings})


class _Command(TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # Before Typer looks at the values: to it, and to a path, an empty one is as good as none.
        found, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in self.params:
            given = found.get(parameter.name or "")
            for value in given if isinstance(given, list | tuple) else [given]:
                if isinstance(value, str) and not value.strip():
                    _refuse(parameter)
        return super().parse_args(ctx, args)


def _refuse(parameter: Any) -> None:
    if parameter.param_type_name == "argument":
        name = parameter.metavar or parameter.name.upper()
        raise UsageError(f"the argument {name} is empty: is a variable of the shell not set?")
    raise UsageError(
        f"{max(parameter.opts, key=len)} is empty: give a value, or leave the option out; is a variable of the shell "
        "not set?"
    )
