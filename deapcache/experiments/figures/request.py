"""What a figure is asked for with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deapcache.locations import Location
from deapcache.results import Selection


@dataclass(frozen=True, kw_only=True)
class FigureRequest:
    """Which figure, of what; each figure takes its own part of it."""

    name: str
    home: Location
    selection: Selection = field(default_factory=Selection)
    """Of results; of features its datasets and backbones."""
    rates: Sequence[float] = ()
    """Learning rates that may be shown; none: the one that most backbones were probed at."""
    paper: bool = False
    """Whether the paper's numbers are shown too, marked as such."""
    reference: Path | None = None
    """CSV of scores to compare with."""
    speed_device: str | None = None
    """Whose speeds are shown; None: of the device with the most backbones."""
    run: str | None = None
    sizes: Sequence[tuple[int, int]] = ()
    """(height, width) of predictions, pixels."""
    images: int = 3
    """How many images of the validation split are shown."""
    files: Sequence[Path] = ()
    """Photographs to show instead."""
    weights: Path | None = None
    """Checkpoint of the backbone, where one was given for the extraction and photographs are shown."""
    split: str = "val"
