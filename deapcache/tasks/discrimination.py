"""Instance discrimination: do pixels of one object look alike, and unlike those of others (section 4.1)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from deapcache.annotations import AREA, KIND, OBJECT
from deapcache.errors import DataError
from deapcache.tasks.task import FEWEST, Maps, Metric, Target, Task

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

RESTARTS = 10
"""Runs of k-means++ for each image; the one of least inertia counts."""

SEED = 0
"""Of every image's own generator, so that an image's clusters do not depend on its batch."""


def cluster_all(problems: Sequence[tuple[np.ndarray, int]], restarts: int = RESTARTS) -> list[np.ndarray]:
    """k-means of many images' pixels at once, with the same labels on any number of cores: (P,) int32 from 0 on.

    A problem is ``(points, clusters)``: points (P, D) floating, clusters up to P. Where fewer
    points differ than clusters are asked for, the other clusters stay empty. The problems are solved by as many threads
    as PyTorch uses, each problem by one: with several, sums would be rounded as their number has it.
    """
    import torch
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    def cluster(problem: tuple[np.ndarray, int]) -> np.ndarray:
        points, clusters = problem
        found = KMeans(clusters, init="k-means++", n_init=restarts, random_state=SEED).fit(points)
        return np.asarray(found.labels_)

    # The limit on BLAS and the warnings' filter belong to the process, that on OpenMP to each thread.
    limit_thread = partial(threadpool_limits, 1, user_api="openmp")
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # empty clusters
        with ThreadPoolExecutor(torch.get_num_threads(), initializer=limit_thread) as pool:
            return list(pool.map(cluster, problems))


_DIM = 32
_PIXELS = 256
"""Foreground pixels of each image in a training step."""

_QUICK_PIXELS = 512
_TRIED = 64
_PROPORTIONS = ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (1.0, 0.5), (0.5, 1.0), (0.0, 0.0))
"""Of rows and columns in the constant outputs that are tried."""

_PLACE = 0.05
"""Length of the image's longer side in a constant output, beside a channel of ones."""


def have_large_objects(boxes: Tensor, *, share: float = 0.0, pixels: float = 0.0, count: int = 3) -> Tensor:
    """(B,) bool from ``boxes`` tables (B, rows, 7): whether an image has ``count`` large objects.

    A large object covers more than a ``share`` of the image, and more than so many of its original ``pixels``. Areas
    are the annotations' own, crowds are no objects. The table's first row is the image, or the region of it that is
    seen.
    """
    area, image = boxes[..., AREA], boxes[:, :1, AREA]
    large = (boxes[..., KIND] == OBJECT) & (area > share * image) & (area > pixels)
    return large.sum(1) >= count


LARGE = {
    "share6": partial(have_large_objects, share=0.06),
    "share5": partial(have_large_objects, share=0.05),
    "area96": partial(have_large_objects, pixels=96**2),
    "area96-four": partial(have_large_objects, pixels=96**2, count=4),
    "two": partial(have_large_objects, count=2),
}
"""What makes an image one of "at least three large objects", which the paper does not say, by the name that a user
chooses it by. COCO calls an object large above 96² pixels. ``two`` is any two objects, for small datasets, in which the
others leave too few images."""


class Discrimination(Task):
    """An embedding of 32 numbers a pixel, trained to name the instance that the pixel belongs to.

    Every instance of the training images is a class (about 60,000 in 8,000 images of COCO); a linear layer, dropped
    after training, turns embeddings into its logits. The loss is cross-entropy over all of them, at 256 pixels of each
    image, drawn uniformly with replacement from those of its instances. Crowds are not foreground.

    The layer is given embeddings times ``scale``, 30 or 1. Times 1 the logits of thousands of classes grow so slowly
    that, after a short training, a single direction holds nearly all of the embeddings' variance.

    Scores: ``ari``, the adjusted Rand index between the instances of an unseen image and the k-means clusters of its
    foreground's embeddings, given their number, averaged over the images with three large objects (``large`` says
    what that is); ``ari_normalised``, the same of embeddings divided by their length. Beside them stand
    ``judged_images``, how many these were, and what each definition would leave, ``images_share6`` and so on.
    """

    name = "discrimination"
    annotations = ("instances", "boxes")
    iterations = 30_000
    meaning = "embedding of each pixel, channels first"
    picture = "segments"
    default_dataset = "coco"
    metrics: ClassVar = {
        "ari": Metric(label="ARI", higher_is_better=True),
        "ari_normalised": Metric(label="ARI (L2)", higher_is_better=True),
    }
    main_metric = "ari"
    choices: ClassVar = {"large": tuple(LARGE), "scale": ("30", "1")}

    def __init__(self, **chosen: str) -> None:
        super().__init__(**chosen)
        self._first_class: dict[int, int] = {}
        self._classes = 0

    @property
    def options(self) -> dict[str, Any]:
        return {
            "pixels": _PIXELS,
            "classes": "training instances at output size",
            "criterion": "linear with bias",
            "clusters": {"init": "k-means++", "restarts": RESTARTS, "seed": SEED, "count": "instances at output size"},
            **self.chosen,
        }

    def heads(self, classes: tuple[str, ...]) -> tuple[int, ...]:
        return (_DIM,)

    def scan_targets(self, training: Iterable[tuple[np.ndarray, Maps]]) -> None:
        """Give each training instance its class; raises :class:`DataError` where there is none.

        An image's ids count up to the largest one that its map still shows. An instance that was lost on the way to the
        output size leaves a class that no pixel has.
        """
        for rows, maps in training:
            counts = maps["instances"].flatten(1).amax(1).clamp(min=0).tolist()
            for row, count in zip(rows.tolist(), counts, strict=True):
                self._first_class[row] = self._classes
                self._classes += count
        if not self._classes:
            raise DataError(
                "no training target has an instance: expected ids above 0 in the instance maps, found only 0 "
                "(background) and -1 (crowd); check the dataset's annotations, or take more training images"
            )

    def target(self, maps: Maps) -> Target:
        """``instances`` (B, h, w) and ``boxes`` (B, rows, 7), as they are."""
        return {name: maps[name] for name in self.annotations}

    def training_target(self, maps: Maps, rows: np.ndarray, generator: Generator) -> Target:
        """``pixels`` and ``classes`` (B, 256) int64: places in the flattened map, and the classes there.

        Classes are -1 in images without instances. The images must have been seen by :meth:`scan_targets`.
        """
        import torch

        ids = maps["instances"].flatten(1)
        drawn = torch.rand(len(ids), _PIXELS, generator=generator, dtype=torch.float64).to(ids.device)
        so_far = (ids > 0).cumsum(1)
        count = so_far[:, -1:]
        nth = (drawn * count).long().clamp(max=count - 1) + 1
        pixels = torch.searchsorted(so_far, nth).masked_fill(count == 0, 0)
        first = torch.tensor([self._first_class[row] for row in rows.tolist()], device=ids.device)
        classes = (first[:, None] + ids.gather(1, pixels) - 1).masked_fill(count == 0, -1)
        return {"pixels": pixels, "classes": classes}

    def criterion(self) -> nn.Module:
        """The linear layer from embeddings to all classes, with bias."""
        from torch import nn

        return nn.Linear(_DIM, self._classes)

    def loss(self, output: Tensor, target: Target, criterion: nn.Module | None = None) -> Tensor:
        """Cross-entropy over all training instances, mean over the drawn pixels."""
        from torch import nn

        from deapcache.tasks.class_softmax import softmax_cross_entropy

        assert isinstance(criterion, nn.Linear)  # what criterion() gave
        pixels, classes = target["pixels"], target["classes"]
        places = pixels[:, None].expand(-1, output.shape[1], -1)
        drawn = output.flatten(2).gather(2, places).transpose(1, 2) * float(self.chosen["scale"])
        return softmax_cross_entropy(drawn.flatten(0, 1), criterion.weight, criterion.bias, classes.flatten())

    def statistics(self, output: Tensor, target: Target) -> dict[str, Tensor]:
        """Adjusted Rand indices (B,) float64; ``objects`` (B,) int64 at output size; whether each of ``LARGE`` holds.

        ``ari`` and ``ari_normalised`` are NaN where the chosen one does not hold, and where no pixel is foreground.
        ``ari_quick`` is of any image with two instances, by one start of k-means from 512 of its pixels at most.
        """
        import torch

        ids = target["instances"].cpu()
        objects = torch.tensor([_instances(one) for one in ids])
        large = {name: have_large(target["boxes"]).cpu() for name, have_large in LARGE.items()}
        judged = ids.masked_fill(~large[self.chosen["large"]][:, None, None], 0)  # k-means is not for free
        several = ids.masked_fill((objects < 2)[:, None, None], 0)
        return {
            "ari": agreement(output, judged),
            "ari_normalised": agreement(output, judged, normalise=True),
            "ari_quick": agreement(output, several, quick=True),
            "objects": objects,
            **{name: holds.to(torch.int8) for name, holds in large.items()},
        }

    def scores(self, statistics: Mapping[str, np.ndarray]) -> dict[str, float]:
        found = {name: _mean_known(statistics[name]) for name in self.metrics if name in statistics}
        if "ari_normalised" in found:  # not in results of before
            found["judged_images"] = float((~np.isnan(statistics["ari"])).sum())
        known = [name for name in LARGE if name in statistics]  # results of before lack definitions that came later
        return {**found, **{f"images_{name}": float(statistics[name].sum(dtype=np.int64)) for name in known}}

    def selection_score(self, scores: Mapping[str, float], statistics: Mapping[str, np.ndarray]) -> float:
        """``ari``; where fewer than 50 images are judged, a quicker one of all images with at least two instances."""
        score = scores["ari"] if scores["judged_images"] >= FEWEST else _mean_known(statistics["ari_quick"])
        return -math.inf if math.isnan(score) else score

    def constant_baseline(self, targets: Iterable[Target], classes: tuple[str, ...]) -> Tensor:
        """Each pixel's position, in the shape whose clusters agree best with the instances of training images.

        The instances of training images say nothing about those of others, so nothing more can be known unseen. Tried
        are position, rows and columns alone, both with the other at half its weight, and one cluster, on 64 images with
        at least two instances. The place is small beside a channel of ones: to divide by the length changes nothing.
        """
        import torch

        codes = torch.zeros(0)
        agreements: list[Tensor] = []
        for target in targets:
            ids = target["instances"].cpu()
            if not len(codes):
                codes = _position_codes(*ids.shape[1:])
            several = ids[[i for i, one in enumerate(ids) if _instances(one) > 1]][: _TRIED - sum(map(len, agreements))]
            quick = [agreement(code.expand(len(several), -1, -1, -1), several, quick=True) for code in codes]
            agreements.append(torch.stack(quick, 1))
            if sum(map(len, agreements)) >= _TRIED:
                break
        return codes[torch.cat(agreements).mean(0).nan_to_num().argmax()]

    def prediction(self, output: Tensor) -> Tensor:
        """The embedding, (B, 32, h, w) float32."""
        return output.float()

    def picture_values(self, output: Tensor, target: Target) -> tuple[Tensor, Tensor]:
        """Instances and clusters, each (B, h, w): clusters count from 1 on, and are 0 outside the foreground."""
        return target["instances"], clusters(output, target["instances"].cpu())


def clusters(output: Tensor, instances: Tensor) -> Tensor:
    """k-means clusters (B, h, w) int32 of each image's foreground, as many as it has instances; 0 elsewhere.

    ``output`` is (B, D, h, w) on any device, ``instances`` (B, h, w) on the CPU.
    """
    import torch

    found = torch.zeros(instances.shape, dtype=torch.int32)
    for i, (_, labels) in _foreground_labels(output, instances).items():
        found[i][instances[i] > 0] = torch.from_numpy(labels) + 1
    return found


def agreement(output: Tensor, instances: Tensor, *, normalise: bool = False, quick: bool = False) -> Tensor:
    """(B,) float64: each image's adjusted Rand index of clusters and instances over its foreground.

    NaN without a foreground, 1 for a single instance. ``normalise`` divides embeddings by their length first. ``quick``
    looks at 512 evenly spaced pixels of the foreground at most, and starts k-means once.
    """
    import torch
    from sklearn.metrics import adjusted_rand_score

    found = torch.full((len(instances),), math.nan, dtype=torch.float64)
    for i, (ids, labels) in _foreground_labels(output, instances, normalise=normalise, quick=quick).items():
        found[i] = adjusted_rand_score(ids, labels)
    return found


def _foreground_labels(
    output: Tensor, instances: Tensor, *, normalise: bool = False, quick: bool = False
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Number of each image with a foreground → instance ids and clusters of its pixels, each (P,)."""
    import torch.nn.functional as F

    ids, problems = {}, []
    for i, image in enumerate(instances):
        places = (image.flatten() > 0).nonzero()[:, 0]
        if not len(places):
            continue
        places = places[:: -(-len(places) // _QUICK_PIXELS)] if quick else places
        points_PD = output[i].flatten(1)[:, places.to(output.device)].T.float()
        ids[i] = image.flatten()[places].numpy()
        points_PD = F.normalize(points_PD, dim=1) if normalise else points_PD
        problems.append((points_PD.cpu().numpy(), len(np.unique(ids[i]))))
    labels = cluster_all(problems, restarts=1 if quick else RESTARTS)
    return {i: (ids[i], found) for i, found in zip(ids, labels, strict=True)}


def _position_codes(height: int, width: int) -> Tensor:
    """(6, 32, h, w): outputs that say nothing but where a pixel is, in different proportions of rows and columns."""
    import torch

    codes = torch.zeros(len(_PROPORTIONS), _DIM, height, width)
    codes[:, 0] = 1
    places = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    weights = torch.tensor(_PROPORTIONS) * _PLACE / max(height, width)
    codes[:, 1:3] = weights[:, :, None, None] * torch.stack(places)
    return codes


def _mean_known(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _instances(ids: Tensor) -> int:
    return len(ids[ids > 0].unique())
