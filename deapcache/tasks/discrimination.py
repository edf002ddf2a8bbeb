"""Instance discrimination: do pixels of one object look alike, and unlike those of others (section 4.1)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from deapcache.annotations import AREA, KIND, OBJECT
from deapcache.errors import DataError
from deapcache.tasks.task import Maps, Metric, Target, Task

BLOCK_BYTES = 256 * 2**20
"""Most memory that logits take at any time, unless those of a single pixel need more."""


def softmax_cross_entropy(
    embeddings: Tensor, weight: Tensor, bias: Tensor, classes: Tensor, *, block_bytes: int = BLOCK_BYTES
) -> Tensor:
    """``F.cross_entropy(F.linear(embeddings, weight, bias), classes, ignore_index=-1)``, 0 where all are ignored.

    60,000 classes at 8,192 pixels are 2 GB of logits in float32, and autograd would hold them twice. Here a block of
    pixels at a time gets all its logits, gives its part of the loss and of every gradient, and is overwritten by the
    next one.

    Parameters
    ----------
    embeddings
        (M, D) of a floating dtype; the other two have the same.
    weight, bias
        (C, D) and (C,), those of a linear layer.
    classes
        (M,) int64 in [0, C), or -1: left out of the mean.
    block_bytes
        The logits of ``max(1, block_bytes // bytes of C logits)`` rows exist at a time.

    Gradients reach the first three; they are computed with the loss, so it cannot be differentiated twice.
    """
    return cast(Tensor, _BlockwiseCrossEntropy.apply(embeddings, weight, bias, classes, block_bytes))


class _BlockwiseCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, embeddings: Tensor, weight: Tensor, bias: Tensor, classes: Tensor, block_bytes: int
    ) -> Tensor:
        known = classes >= 0
        shares = known.to(embeddings.dtype) / known.sum().clamp(min=1)
        wanted = classes.clamp(min=0)[:, None]
        rows = max(1, block_bytes // (len(weight) * weight.element_size()))
        buffer = embeddings.new_empty(min(rows, len(embeddings)), len(weight))
        gradients = torch.zeros_like(embeddings), torch.zeros_like(weight), torch.zeros_like(bias)
        loss = embeddings.new_zeros(())
        for start in range(0, len(embeddings), rows):
            block = slice(start, start + rows)
            logits = torch.addmm(bias, embeddings[block], weight.T, out=buffer[: len(wanted[block])])
            loss += _loss_and_slopes(logits, wanted[block], shares[block])
            torch.mm(logits, weight, out=gradients[0][block])
            gradients[1].addmm_(logits.T, embeddings[block])
            gradients[2].add_(logits.sum(0))
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        return *(slope * gradient for gradient in ctx.saved_tensors), None, None


def _loss_and_slopes(logits: Tensor, wanted: Tensor, shares: Tensor) -> Tensor:
    """The block's part of the loss; ``logits`` (m, C) become the loss's slopes at them, in place.

    ``wanted`` is (m, 1) int64, ``shares`` (m,): each row's weight in the mean.
    """
    logits -= logits.amax(1, keepdim=True)
    right = logits.gather(1, wanted)
    total = logits.exp_().sum(1, keepdim=True)
    logits *= shares[:, None] / total
    logits.scatter_add_(1, wanted, -shares[:, None])
    return ((total.log() - right)[:, 0] * shares).sum()


RESTARTS = 10
"""Runs of k-means++ for each image; the one of least inertia counts."""

SEED = 0
"""Of every image's own generator, so that an image's clusters do not depend on its batch."""


def cluster_all(problems: Sequence[tuple[np.ndarray, int]]) -> list[np.ndarray]:
    """k-means of many images' pixels at once, with the same labels on any number of cores: (P,) int32 from 0 on.

    A problem is ``(points, clusters)``: points (P, D) floating, clusters up to P. Where fewer
    points differ than clusters are asked for, the other clusters stay empty. The problems are solved by as many threads
    as PyTorch uses, each problem by one: with several, sums would be rounded as their number has it.
    """
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    # The limit on BLAS and the warnings' filter belong to the process, that on OpenMP to each thread.
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # empty clusters
        with ThreadPoolExecutor(torch.get_num_threads(), initializer=_use_one_thread) as pool:
            return list(pool.map(_cluster, problems))


def _use_one_thread() -> None:
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, user_api="openmp")


def _cluster(problem: tuple[np.ndarray, int]) -> np.ndarray:
    from sklearn.cluster import KMeans

    points, clusters = problem
    found = KMeans(clusters, init="k-means++", n_init=RESTARTS, random_state=SEED).fit(points)
    return np.asarray(found.labels_)


_DIM = 32
_PIXELS = 256
"""Foreground pixels of each image in a training step."""


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
}
"""What makes an image one of "at least three large objects", which the paper does not say, by the name that a user
chooses it by. COCO calls an object large above 96² pixels."""


class Discrimination(Task):
    """An embedding of 32 numbers a pixel, trained to name the instance that the pixel belongs to.

    Every instance of the training images is a class (about 60,000 in 8,000 images of COCO); a linear layer, dropped
    after training, turns embeddings into its logits. The loss is cross-entropy over all of them, at 256 pixels of each
    image, drawn uniformly with replacement from those of its instances. Crowds are not foreground.

    Score: ``ari``, the adjusted Rand index between the instances of an unseen image and the k-means clusters of its
    foreground's embeddings, given their number, averaged over the images with three large objects (``large`` says
    what that is). Beside it stands how many images each such definition leaves, ``images_share6`` and so on.
    """

    name = "discrimination"
    annotations = ("instances", "boxes")
    iterations = 30_000
    meaning = "embedding of each pixel, channels first"
    picture = "segments"
    default_dataset = "coco"
    metrics: ClassVar = {"ari": Metric(label="ARI", higher_is_better=True)}
    main_metric = "ari"
    choices: ClassVar = {"large": tuple(LARGE)}

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
            "large": self.chosen["large"],
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

    def training_target(self, maps: Maps, rows: np.ndarray, generator: torch.Generator) -> Target:
        """``pixels`` and ``classes`` (B, 256) int64: places in the flattened map, and the classes there.

        Classes are -1 in images without instances. The images must have been seen by :meth:`scan_targets`.
        """
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
        return nn.Linear(_DIM, self._classes)

    def loss(self, output: Tensor, target: Target, criterion: nn.Module | None = None) -> Tensor:
        """Cross-entropy over all training instances, mean over the drawn pixels."""
        assert isinstance(criterion, nn.Linear)  # what criterion() gave
        pixels, classes = target["pixels"], target["classes"]
        places = pixels[:, None].expand(-1, output.shape[1], -1)
        drawn = output.flatten(2).gather(2, places).transpose(1, 2)
        return softmax_cross_entropy(drawn.flatten(0, 1), criterion.weight, criterion.bias, classes.flatten())

    def statistics(self, output: Tensor, target: Target) -> dict[str, Tensor]:
        """``ari`` (B,) float64, ``objects`` (B,) int64 at output size, and (B,) int8 whether each of ``LARGE`` holds.

        ``ari`` is NaN where the chosen one does not hold, and where no pixel is foreground.
        """
        ids = target["instances"].cpu()
        large = {name: have_large(target["boxes"]).cpu() for name, have_large in LARGE.items()}
        judged = ids.masked_fill(~large[self.chosen["large"]][:, None, None], 0)  # k-means is not for free
        return {
            "ari": _agreement(judged.numpy(), clusters(output, judged).numpy()),
            "objects": torch.tensor([_instances(one) for one in ids]),
            **{name: holds.to(torch.int8) for name, holds in large.items()},
        }

    def scores(self, statistics: Mapping[str, np.ndarray]) -> dict[str, float]:
        judged = statistics["ari"][~np.isnan(statistics["ari"])]
        return {
            "ari": float(judged.mean()) if len(judged) else float("nan"),
            **{f"images_{name}": float(statistics[name].sum(dtype=np.int64)) for name in LARGE},
        }

    def constant_baseline(self, targets: Iterable[Target], classes: tuple[str, ...]) -> Tensor:
        """Each pixel's position in two of the channels: its clusters cut the foreground into compact pieces.

        The instances of training images say nothing about those of others, so nothing more can be known unseen.
        """
        height, width = next(iter(targets))["instances"].shape[1:]
        code = torch.zeros(_DIM, height, width)
        code[0] = torch.arange(height)[:, None] / max(height, width)
        code[1] = torch.arange(width) / max(height, width)
        return code

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
    found = torch.zeros(instances.shape, dtype=torch.int32)
    foreground = [i for i in range(len(instances)) if bool((instances[i] > 0).any())]
    problems = []
    for i in foreground:
        mask = (instances[i] > 0).to(output.device)
        points_PD = output[i].permute(1, 2, 0)[mask].float().cpu().numpy()
        problems.append((points_PD, _instances(instances[i])))
    for i, labels in zip(foreground, cluster_all(problems), strict=True):
        found[i][instances[i] > 0] = torch.from_numpy(labels) + 1
    return found


def _instances(ids: Tensor) -> int:
    return len(ids[ids > 0].unique())


def _agreement(instances: np.ndarray, found: np.ndarray) -> Tensor:
    """(B,) float64: each image's adjusted Rand index over its foreground; NaN without one, 1 for a single instance."""
    from sklearn.metrics import adjusted_rand_score

    pairs = ((ids[ids > 0], labels[ids > 0]) for ids, labels in zip(instances, found, strict=True))
    scores = [adjusted_rand_score(ids, labels) if len(ids) else np.nan for ids, labels in pairs]
    return torch.tensor(scores, dtype=torch.float64)
