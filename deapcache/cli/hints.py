"""Commands that messages tell the user to run next, with the places and devices that the user gave on the command line.

A message is made in a room that knows neither ``--data-root`` nor ``--plugin``; the hint must work as it stands.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

REPEATED = (
    "--home", "--read-home", "--data-root", "--local-tier", "--local-tier-size", "--plugin", "--trust-remote-code",
    "--device", "--workers", "--scheduler",
)  # fmt: skip
"""Options that say where something is and who does the work: the next command needs them again."""

_WORDS = r"deapcache (?:(?:cache|list) [a-z]+|[a-z]+)"
_COMMAND = re.compile(
    rf"(?<=`){_WORDS}[^`]*(?=`)|(?<![\w./=`-]){_WORDS}(?: --[a-z][a-z-]*(?: (?!--)[^\s`]*[^\s`),;:.])?| [A-Z]+)*"
    r"(?=[),;:\n]|\.?$|\. )"
)
"""A command in backquotes, or one outside of them that is followed by no prose."""

_root: Any = None
_given: dict[str, Any] = {}


def remember(root: Any, given: Mapping[str, Any]) -> None:
    """Keep the options of the command that runs, by name → value; ``root`` is the group of all commands."""
    global _root
    _root = root
    _given.clear()
    _given.update({name: given[name] for name in REPEATED if given.get(name)})


def completed(text: str) -> str:
    """``text`` with the user's options added to each command that takes them and does not name them."""
    return _COMMAND.sub(lambda found: found[0] + repeated(found[0]), text) if _given else text


def repeated(hint: str) -> str:
    """The user's options that the command ``hint`` takes and does not name, to stand behind it."""
    command, words = _root, hint.split()
    for word in words[1:3]:
        command = getattr(command, "commands", {}).get(word, command)
    taken = {option for parameter in getattr(command, "params", ()) for option in parameter.opts}
    added = []
    for option, value in _given.items():
        if option in taken and option not in words:
            values = value if isinstance(value, list | tuple) else [value]
            added += [f" {option}" if each is True else f" {option} {shlex.quote(str(each))}" for each in values]
    return "".join(added)
