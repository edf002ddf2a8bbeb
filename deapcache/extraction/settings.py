"""How to extract, and on which device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from deapcache.backbones import DEFAULT_LAYERS, LayerSelection
from deapcache.cache import ORIGINAL, STORAGE_FORMATS, check_views
from deapcache.datasets import Dataset
from deapcache.errors import UsageError
from deapcache.extraction.checking import ON_ERROR, without_unreadable
from deapcache.extraction.outline import Outline
from deapcache.extraction.progress import Progress
from deapcache.extraction.recipes import BaseSize
from deapcache.extraction.sharing import Sharing
from deapcache.locations import Location
from deapcache.regions import FITS, SQUASH


@dataclass(frozen=True, kw_only=True)
class ExtractionSettings:
    """How to extract. The first group is part of the recipe, the second is circumstance."""

    base_size: BaseSize | None = None
    """None: the dataset's own."""
    fit: str = SQUASH
    """How images of any shape are brought to the base size: one of ``FITS``."""
    storage: str = "float16"
    precision: str = "fp32"
    weights: Path | None = None
    views: tuple[str, ...] = (ORIGINAL,)
    """Each is a cache of its own; where no splits are named, mirrored images are those of the training split alone."""
    selection: LayerSelection = DEFAULT_LAYERS
    """Which layers are kept, each a cache of its own, and whether the class token is; all from one forward."""

    compress: bool = True
    """Whether features of a new cache are compressed; one that is there stays as it was begun."""
    batch_size: int | None = None
    """None: 32 on a GPU, 8 on a CPU."""
    device: str = "auto"
    limit: int | None = None
    """Only the first so many images of each split, rounded up to whole shards."""
    on_error: str = "stop"
    """What becomes of images that cannot be read: ``stop``, or ``skip``, which leaves them out of the image set."""
    rehash: bool = False
    """Whether all files are read again that digests and checks are remembered of."""
    sharing: Sharing = Sharing()  # noqa: RUF009 - it has no state
    """How the work is shared with other runs."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", check_views(self.views))
        chosen = (
            ("fit", self.fit, FITS),
            ("storage format", self.storage, STORAGE_FORMATS),
            ("on-error", self.on_error, ON_ERROR),
        )
        for name, choice, allowed in chosen:
            if choice not in allowed:
                raise UsageError(f"unknown {name} {choice!r}: choose one of {', '.join(allowed)}")
        for name, value in (("batch size", self.batch_size), ("limit", self.limit)):
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, found {value}")

    def base_size_for(self, dataset: Dataset | Outline) -> BaseSize:
        """The base size asked for, else the dataset's own."""
        return self.base_size or dataset.base_size

    def images_of(self, dataset: Dataset, splits: Sequence[str], home: Location, progress: Progress) -> Dataset:
        """``dataset``, less the images of ``splits`` that cannot be read where these are to be skipped."""
        if self.on_error != "skip":
            return dataset
        return without_unreadable(dataset, splits, home, recheck=self.rehash, progress=progress)


def choose_device(name: str) -> torch.device:
    """``auto`` takes the first GPU where there is one; raises :class:`UsageError` for a device torch cannot use."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} cannot be used here: {reason}; try --device cpu") from None
    return device


def default_batch_size(device: torch.device) -> int:
    """Images in one forward pass where the user does not say."""
    return 32 if device.type == "cuda" else 8
