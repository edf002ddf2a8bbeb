"""Counters of this process, so that a probe can prove that it ran no backbone."""

from __future__ import annotations

_COUNTS = {"built": 0, "forwarded": 0}


def build_count() -> int:
    """Backbones built in this process."""
    return _COUNTS["built"]


def forward_count() -> int:
    """Images that went through any backbone in this process."""
    return _COUNTS["forwarded"]


def count_build() -> None:
    """Note that a backbone was built."""
    _COUNTS["built"] += 1


def count_forward(images: int) -> None:
    """Note that ``images`` images went through a backbone."""
    _COUNTS["forwarded"] += images
