"""What several test files need and no fixture can give."""

from __future__ import annotations

import os
import subprocess
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


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small file system of its own at ``folder`` (tmpfs with these mount options); needs root."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    allowed = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    require(allowed, "the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
