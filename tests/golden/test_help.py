"""``--help`` of every command."""

from __future__ import annotations

import re

from deapcache_golden import Golden, quiet_surroundings, run


def _pages(*words: str) -> dict[str, str]:
    """The help of a command, and of all commands below it, by their names."""
    done = run(*words, "--help")
    assert (done.code, done.err) == (0, "")
    found = {f"{'-'.join(('deapcache', *words))}.txt": done.out}
    _, _, listed = done.out.partition("\nCommands:\n")
    for command in re.findall(r"^  ([a-z][a-z-]*)(?:  |$)", listed, flags=re.MULTILINE):
        found |= _pages(*words, command)
    return found


def test_help_of_every_command(golden: Golden) -> None:
    with quiet_surroundings():
        pages = _pages()
    assert len(pages) > 20
    golden.texts("help", pages)
