"""What several test files need and no fixture can give."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def require(present: bool, what: str) -> None:
    """Skip a test that lacks ``what``; on CI, where it must be there, fail."""
    if present:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI lacks {what}")
    pytest.skip(f"needs {what}")


_END_OF_STAGE = re.compile(
    r"(?!extracted ).+: [\d,]+ (?:of [\d,]+ )?(?:images|iterations|shards|files|pairs|rates|measured)"
    r"(?: in [\d.]+ (?:s|min|h))?(?:, .+)?\n"
)


def without_stages(printed: str) -> str:
    """What a command said on stderr beside how its stages went."""
    return "".join(line for line in printed.splitlines(keepends=True) if not _END_OF_STAGE.fullmatch(line))


def deapcache(*arguments: object) -> list[str]:
    """The command line, as a process of its own."""
    return [sys.executable, "-c", "from deapcache.cli import main; main()", *map(str, arguments)]


@contextmanager
def closed(folder: Path) -> Iterator[None]:
    """A folder or file of somebody else's, and we are nobody in particular."""
    require(os.geteuid() == 0, "root, to be somebody else")
    for parent in folder.parents[:-1]:
        parent.chmod(parent.stat().st_mode | 0o055)
    before = folder.stat().st_mode
    folder.chmod(0)
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)
        folder.chmod(before)


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[bool]:
    """A file system of its own at ``folder`` (tmpfs with these mount options) for as long as the block.

    False, and nothing is mounted, where this user or kernel cannot.
    """
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    allowed = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield allowed
    finally:
        if allowed:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """:func:`small_disk` for tests that need it."""
    folder.mkdir(exist_ok=True)
    with small_disk(folder, options) as allowed:
        require(allowed, "the right to mount a tmpfs")
        yield folder
