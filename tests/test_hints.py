"""The commands and options that messages and help texts tell users to type exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import deapcache
from deapcache.cli.app import app
from deapcache.plugins import Registry

PACKAGE = Path(deapcache.__file__).parent
PROSE = {
    "writes", "reads", "does", "did", "that", "and", "could", "raises", "runs", "itself", "makes", "in", "0.1.0",
}  # fmt: skip
"""What follows the name where a sentence is about the program and names no command of it."""
FILLED_IN = "…"
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def leaves(command: Any, name: tuple[str, ...] = ()) -> dict[tuple[str, ...], set[str]]:
    """Every command by its words → its options."""
    if hasattr(command, "commands"):
        found = {(): {"--version"}} if not name else {}
        for word, below in command.commands.items():
            found |= leaves(below, (*name, word))
        return found
    return {
        name: {
            "--help",
            *(each for parameter in command.params for each in (*parameter.opts, *parameter.secondary_opts)),
        }
    }


COMMANDS = leaves(get_command(app))
OPTIONS = set().union(*COMMANDS.values())


def text_of(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or FILLED_IN for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def texts() -> dict[str, list[str]]:
    """The texts of the source by file, those of f-strings whole."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        found[str(file.relative_to(PACKAGE))] = [text_of(node) for node in nodes if id(node) not in parts]
    return found


def commands_in(text: str) -> list[str]:
    """``deapcache …`` as far as it is a command: to the end of the quotation, of the sentence or of the line."""
    return re.findall(r"(?<![\w./=-])deapcache ([\w…][^`),;:\n]*?)(?=[`),;:\n]|\.(?:\s|$)|$)", text)


def fault_of(command: str) -> str | None:
    """What is wrong with a command that a text names."""
    words = command.split()
    if words[0] in PROSE or words[0] == FILLED_IN:
        return None
    depth = 2 if (words[0],) not in COMMANDS else 1
    for word in words[depth - 1].split("|") if len(words) >= depth else [""]:
        name = (*words[: depth - 1], word)
        if word == FILLED_IN and any(known[: depth - 1] == name[:-1] for known in COMMANDS):
            continue
        if name not in COMMANDS:
            # a group that is spoken of as a whole: `deapcache cache`
            if not any(known[:1] == tuple(words[:1]) for known in COMMANDS) or len(words) > 1:
                return f"no command {' '.join(name)}"
            continue
        if unknown := [option for option in OPTION.findall(command) if option not in COMMANDS[name]]:
            return f"{' '.join(name)} has no {', '.join(unknown)}"
    return None


def test_the_commands_that_texts_name_exist() -> None:
    named = [(file, command) for file, found in texts().items() for text in found for command in commands_in(text)]
    assert sum(fault_of(command) is None and command.split()[0] not in PROSE for _, command in named) > 80
    assert [(file, command, fault) for file, command in named if (fault := fault_of(command))] == []


def test_the_options_that_texts_name_exist() -> None:
    named = {(file, option) for file, found in texts().items() for text in found for option in OPTION.findall(text)}
    named -= {("backbones/weights.py", "--force-reinstall")}  # of pip
    assert len({option for _, option in named}) > 60
    assert {(file, option) for file, option in named if option not in OPTIONS} == set()


@pytest.mark.parametrize(
    "command",
    [
        "list caches", "caches ls", "clean --all", "cache ls --force", "extract --task depth", "list backbone",
        "cache verify|mend", "probe --task NAME --unknown",
    ],
)  # fmt: skip
def test_what_does_not_exist_is_found(command: str) -> None:
    assert [fault_of(found) for found in commands_in(f"look (`deapcache {command}` shows it)")] != [None]


def test_every_registry_has_the_list_that_its_errors_name() -> None:
    from deapcache.backbones import BACKBONES
    from deapcache.datasets import DATASETS
    from deapcache.readouts import READOUTS
    from deapcache.tasks import TASKS

    registries: tuple[Registry[Any], ...] = (BACKBONES, DATASETS, READOUTS, TASKS)
    for registry in registries:
        with pytest.raises(LookupError) as refused:
            registry.get("no-such-thing")
        (command,) = commands_in(str(refused.value))
        assert fault_of(command) is None
