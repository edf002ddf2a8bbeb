"""A trained readout behind its backbone: an image in, dense predictions of any size out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from deapcache.backbones import Backbone
from deapcache.cache import decode_features, encode_features
from deapcache.datasets import resize_image
from deapcache.errors import ResultsError, UsageError
from deapcache.experiments.prediction.backbone import rebuild_backbone
from deapcache.experiments.prediction.runs import TrainedRun
from deapcache.extraction import choose_device, parse_base_size
from deapcache.readouts import Readout
from deapcache.regions import Region, seen_region
from deapcache.tasks import Task, get_task

Size = tuple[int, int]

LARGEST = 4096
"""Pixels of an output's side: a slip of the finger must not take the machine's memory."""


def parse_sizes(text: str) -> list[Size]:
    """``56,224,448x672`` as (height, width) each, without repetition; raises :class:`UsageError` for anything else."""
    sizes = []
    for part in text.split(","):
        sides = part.strip().lower().split("x")
        if len(sides) > 2 or not all(side.isdecimal() and 0 < int(side) <= LARGEST for side in sides):
            raise UsageError(
                f"size {part.strip()!r}: expected a side (224) or HEIGHTxWIDTH (448x672), or several with commas, "
                f"each side from 1 to {LARGEST} pixels"
            )
        sizes.append((int(sides[0]), int(sides[-1])))
    return list(dict.fromkeys(sizes))


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """What a run learned, ready to be asked; :func:`load_predictor` makes it."""

    run: TrainedRun
    task: Task
    backbone: Backbone
    heads: Sequence[Readout]
    """The task's readouts, on the backbone's device."""

    def __call__(self, image: np.ndarray, sizes: Sequence[Size] = (), *, name: str = "the image") -> list[np.ndarray]:
        """What ``Task.prediction`` makes of the readouts' output for one image, at each of ``sizes``.

        The image takes the way of the images that the features were extracted from: to the base size, through the
        backbone, rounded as the cache stores it. Maps are of the part of it that :meth:`region` gives; boxes are
        fractions of the whole image.

        Parameters
        ----------
        image
            (h, w, 3) uint8 RGB, of any size and shape.
        sizes
            (height, width) in pixels each; none: the one that the readout was trained at.
        name
            What to call the image in an error.

        Returns
        -------
        list of arrays
            One a size: (height, width) probabilities, classes or metres; (100, 5) boxes; (32, height, width) embedding.

        Raises :class:`deapcache.errors.FeatureError` where the backbone gives features that cannot be stored, and
        :class:`UsageError` where the memory is not enough for a size.
        """
        base = self._base_image(image)
        features, guidance = self._features(base, name), self._to_device(base)
        found = [self._predict(features, guidance, size) for size in sizes or [self.run.readouts.output_size]]
        if self.task.picture != "boxes":
            return found
        return [boxes_in_image(boxes, self.region(image), image.shape[:2]) for boxes in found]

    def region(self, image: np.ndarray) -> Region:
        """The part of an (h, w, 3) image that is seen: the whole, or with features of cropped images the crop."""
        return seen_region(image.shape[:2], self._base_size, self.run.recipe.base_fit)

    @property
    def _base_size(self) -> Size:
        size = parse_base_size(self.run.recipe.base_size)
        return self.backbone.image_size if size == "native" else size

    def _base_image(self, image: np.ndarray) -> np.ndarray:
        return resize_image(image, self._base_size, self.run.recipe.base_fit)

    def _features(self, base: np.ndarray, name: str) -> torch.Tensor:
        """(1, H, W, D) float32, with what is lost on the way into a cache."""
        volumes = self.backbone(self._to_device(base)).cpu().numpy()
        storage = self.run.recipe.storage
        stored = decode_features(encode_features(volumes, storage, [name]), storage)
        return torch.from_numpy(stored).to(self.backbone.device).float()

    def _to_device(self, base: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(base)[None].to(self.backbone.device)

    @torch.no_grad()
    def _predict(self, features: torch.Tensor, guidance: torch.Tensor, size: Size) -> np.ndarray:
        with _explained_memory(size):
            output = torch.cat([head(features, size, guidance) for head in self.heads], 1)
            found: np.ndarray = self.task.prediction(output)[0].cpu().numpy()
        return found


def load_predictor(run: TrainedRun, *, weights: Path | None = None, device: str = "auto") -> Predictor:
    """The predictor of a run that :func:`find_run` found.

    ``weights`` is the backbone's checkpoint, where one was given for the extraction. Raises what
    :func:`rebuild_backbone` raises, :class:`UsageError` for a device that cannot be used, and :class:`ResultsError`
    for a readout that needs base images where there are none.
    """
    place = choose_device(device)
    heads = run.readouts.build()
    if any(head.needs_guidance for head in heads) and run.recipe.base_size == "native":
        raise ResultsError(
            f"{run.result.run}: readout {run.result.readout} is conditioned on base images, and its features are of "
            "native images, which have none: extract with a base size and probe again"
        )
    return Predictor(
        run=run,
        task=get_task(run.result.task, run.readouts.readout.get("task_options")),
        backbone=rebuild_backbone(run, weights=weights, device=place),
        heads=[head.to(place) for head in heads],
    )


def boxes_in_image(boxes: np.ndarray, seen: Region, image: Size) -> np.ndarray:
    """(n, 5) x, y, width, height and score, the first four as fractions of an image of (height, width) ``image``.

    ``boxes`` are the same as fractions of ``seen``; rows without a box (score 0) stay zeros.
    """
    if seen.covers(image):
        return boxes
    height, width = image
    sides = np.array([seen.width, seen.height, seen.width, seen.height])
    found = boxes.copy()
    found[:, :4] = (boxes[:, :4] * sides + (seen.left, seen.top, 0, 0)) / (width, height, width, height)
    found[boxes[:, 4] == 0] = 0
    return found


@contextmanager
def _explained_memory(size: Size) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch's own class for it is a GPU's alone
        if not (isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)):
            raise
        raise UsageError(
            f"size {size[0]}x{size[1]} needs more memory than there is: ask for a smaller one, or another --device"
        ) from None
