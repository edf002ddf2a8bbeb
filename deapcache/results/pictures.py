"""Pictures of runs as files of the home; matplotlib is loaded when the first one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deapcache.locations import Location
from deapcache.results.record import Result


@dataclass(frozen=True)
class Shown:
    """What is drawn of a run: the first validation images."""

    images: np.ndarray | None
    """(n, h, w, 3) uint8 RGB; ``None`` where no base images are at hand."""
    targets: np.ndarray
    """(n, ...) as the task shows them, see :func:`save_picture`."""
    predictions: np.ndarray
    """(n, ...) likewise."""
    image_ids: Sequence[str]
    """What to write beside each row; empty: nothing."""


def picture_key(run: str) -> str:
    """Where a run's picture lies in the home."""
    return f"results/{run}.png"


def save_picture(
    home: Location,
    result: Result,
    *,
    images: np.ndarray | None,
    targets: np.ndarray,
    predictions: np.ndarray,
    image_ids: Sequence[str] = (),
) -> str:
    """Draw a run and publish it as ``results/<run>.png``; returns that key.

    Parameters
    ----------
    images
        (n, h, w, 3) uint8 RGB base images of any size; ``None`` where none are at hand.
    targets
        (n, h, w): 0, 1 and 255 (void) for probabilities; classes and 255 (void); metres and 0 (unknown); instances, 0
        (background) and -1 (crowd). Or (n, m, 5) boxes: x, y, width, height as fractions of the image, and 1 (object),
        2 (crowd) or 0 (none).
    predictions
        (n, h, w): probability, class, metres or cluster. Or (n, k, 5) boxes and their scores, the best first.
    image_ids
        What to write beside each image.
    """
    from deapcache.results.drawing import draw

    key = picture_key(result.run)
    home.publish(key, draw(result, Shown(images, targets, predictions, image_ids)), replace=True)
    return key
