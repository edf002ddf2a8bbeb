"""Edges as people draw them: the boundaries of BSDS500 with the scores of its benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from deapcache.tasks.task import MEAN_FLOOR, Maps, Metric, Target, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

AGREEING = 3
"""Annotators who must have drawn a pixel for it to be an edge to be learnt; all, where an image has fewer."""

MAX_DISTANCE = 0.0075
"""Of the image's diagonal: how far a predicted edge may lie from a drawn one to be matched with it."""

_STEPS = 100
"""Places between two thresholds at which the best F is looked for, and recalls at which precision is summed."""

_BITS = 15
"""Of an edge map: annotators."""

Counts = NDArray[np.int64]
"""(..., 4): drawn pixels that are matched, all drawn pixels, predicted pixels that are matched, all of them."""


class Edges(Task):
    """The boundaries that annotators drew: one logit a pixel.

    What is learnt is their agreement, as in HED (Xie and Tu 2015): an edge is where at least three of them drew one,
    and the cross-entropy weighs edges and all other pixels of an image alike.

    Scores are those of BSDS500's benchmark (Martin et al. 2004; Arbeláez et al. 2011, ``correspondPixels``,
    ``evaluation_bdry_image.m`` and ``collect_eval_bdry.m``): a prediction is cut at each of the ``thresholds``, thinned
    to lines, and its pixels are matched one to one with those of each annotator, at most 0.0075 of the diagonal apart.
    Recall sums over annotators; a predicted pixel is right if any annotator's is matched with it. ``ods`` is the best F
    at one threshold for all images, ``ois`` the F at the best threshold of each, ``average_precision`` the area under
    precision over recall.
    """

    name = "edges"
    annotations = ("edges",)
    meaning = "probability of an edge"
    picture = "probability"
    scores_from_sums = True
    default_dataset = "bsds500"
    metrics: ClassVar = {
        "ods": Metric(label="ODS", higher_is_better=True),
        "ois": Metric(label="OIS", higher_is_better=True),
        "average_precision": Metric(label="AP", higher_is_better=True),
    }
    main_metric = "ods"
    choices: ClassVar = {"thresholds": ("33", "99")}

    @property
    def options(self) -> dict[str, Any]:
        return {
            "agreeing": AGREEING,
            "loss": "cross-entropy, edges and others of an image weighed alike",
            "thresholds": self.chosen["thresholds"],
            "thinning": "Guo and Hall",
            "matching": {"distance": MAX_DISTANCE, "pairs": "as many as can be"},
        }

    def heads(self, classes: tuple[str, ...]) -> tuple[int, ...]:
        return (1,)

    def target(self, maps: Maps) -> Target:
        """``agreed`` (B, h, w) uint8 of 0 and 1, and ``drawn`` (B, h, w) int16, a bit for each annotator."""
        return {"agreed": agreed_edges(maps["edges"]), "drawn": maps["edges"]}

    def loss(self, output: Tensor, target: Target, criterion: nn.Module | None = None) -> Tensor:
        """Binary cross-entropy in nats, half of an image's weight on its edges; images without edges have none."""
        import torch
        import torch.nn.functional as F

        wanted = target["agreed"].float()
        share = wanted.mean((1, 2), keepdim=True)
        weight = torch.where(wanted > 0, 1 - share, share)
        losses = F.binary_cross_entropy_with_logits(output[:, 0].float(), wanted, weight, reduction="sum")
        return losses / weight.sum().clamp(min=1e-6)

    def statistics(self, output: Tensor, target: Target) -> dict[str, Tensor]:
        """``counts`` (B, thresholds, 4) int64 and ``best`` (B, 4), those at the image's best threshold."""
        import torch

        thresholds = self.thresholds()
        pairs = zip(self.prediction(output).cpu().numpy(), target["drawn"].cpu().numpy(), strict=True)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            counts = np.array(list(pool.map(lambda pair: count_matches(pair[0], pair[1], thresholds), pairs)))
        best = f_measure(*precision_recall(counts)).argmax(1)
        return {
            "counts": torch.from_numpy(counts),
            "best": torch.from_numpy(counts[np.arange(len(counts)), best]),
        }

    def thresholds(self) -> NDArray[np.float64]:
        """Of probabilities, ascending, evenly between 0 and 1."""
        count = int(self.chosen["thresholds"])
        return np.arange(1, count + 1) / (count + 1)

    def scores(self, statistics: Mapping[str, np.ndarray]) -> dict[str, float]:
        counts, best = (statistics[name].sum(0, dtype=np.int64) for name in ("counts", "best"))
        if not counts[0, 1]:
            return dict.fromkeys(self.metrics, float("nan"))
        precision, recall = precision_recall(counts)
        between = np.arange(0, _STEPS * (len(counts) - 1) + 1) / _STEPS  # straight lines from threshold to threshold
        at = np.arange(len(counts))
        found = {
            "ods": f_measure(np.interp(between, at, precision), np.interp(between, at, recall)).max(),
            "ois": f_measure(*precision_recall(best)),
            "average_precision": area(precision, recall),
        }
        return {name: float(value) for name, value in found.items()}

    def constant_baseline(self, targets: Iterable[Target], classes: tuple[str, ...]) -> Tensor:
        """Each pixel's log odds of an edge over the training images, less the overall ones, as the loss weighs them."""
        import torch

        edges, images = torch.zeros((), dtype=torch.float64), 0
        for target in targets:
            edges = edges + target["agreed"].sum(0).double().cpu()
            images += len(target["agreed"])
        rate = (edges.sum() + 0.5) / (images * edges.numel() + 1)
        return (torch.logit((edges + rate) / (images + 1)) - torch.logit(rate)).float()[None]

    def dense_values(self, target: Target, classes: tuple[str, ...] = ()) -> tuple[Tensor, Tensor]:
        """What may be averaged: 1 on agreed edges (B, 1, h, w) float32, and that all pixels are known (B, h, w)."""
        import torch

        return target["agreed"][:, None].float(), torch.ones_like(target["agreed"], dtype=torch.bool)

    def output_of_mean(self, mean: Tensor) -> Tensor:
        """Logits (B, 1, h, w) of a share of edges."""
        return mean.float().logit(eps=MEAN_FLOOR)

    def prediction(self, output: Tensor) -> Tensor:
        """Probability of an edge, (B, h, w) float32 in [0, 1]."""
        return output[:, 0].float().sigmoid()

    def picture_values(self, output: Tensor, target: Target) -> tuple[Tensor, Tensor]:
        return target["agreed"], self.prediction(output)


def agreed_edges(edges: Tensor) -> Tensor:
    """(B, h, w) uint8: 1 where at least :data:`AGREEING` annotators drew an edge, or all of fewer."""
    import torch

    drawn = torch.stack([(edges >> bit) & 1 for bit in range(_BITS)])
    annotators = drawn.flatten(2).amax(2).sum(0)
    return (drawn.sum(0) >= annotators.clamp(1, AGREEING)[:, None, None]).to(torch.uint8)


def _deleted(second: bool) -> NDArray[np.bool_]:
    """(256,): whether a pixel goes, by its neighbours as bits, from the right one on, counter-clockwise."""
    x = ((np.arange(256)[:, None] >> np.arange(8)) & 1).astype(bool).T
    pairs = [x[k] | x[(k + 1) % 8] for k in range(8)]
    crossings = sum((~x[k] & pairs[(k + 1) % 8]).astype(int) for k in (0, 2, 4, 6))
    fewest = np.minimum(sum(pair.astype(int) for pair in pairs[::2]), sum(pair.astype(int) for pair in pairs[1::2]))
    kept = (x[5] | x[6] | ~x[3]) & x[4] if second else (x[1] | x[2] | ~x[7]) & x[0]
    return (crossings == 1) & (fewest >= 2) & (fewest <= 3) & ~kept


_DELETED = (_deleted(second=False), _deleted(second=True))


def thin(maps: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Lines one pixel wide, of (n, h, w) bool: the parallel thinning of Guo and Hall (1989), algorithm A1.

    The one of MATLAB's ``bwmorph(..., 'thin', inf)``, which BSDS500's benchmark uses, and of
    ``skimage.morphology.thin``.
    """
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1))).astype(np.uint8)
    pixels, row = padded.reshape(-1), padded.shape[2]
    around = np.array((1, 1 - row, -row, -1 - row, -1, row - 1, row, row + 1))
    places = np.flatnonzero(pixels)
    places = places[_neighbours(pixels, places, around) < 255]  # pixels at borders: none within can go
    reached = np.zeros(len(pixels), bool)
    reached[places] = True
    gone = -1
    while gone:
        gone = 0
        for deleted in _DELETED:
            goes = deleted[_neighbours(pixels, places, around)]
            lost = places[goes]
            pixels[lost] = 0
            bared = (lost[:, None] + around).ravel()
            bared = np.unique(bared[(pixels[bared] > 0) & ~reached[bared]])
            reached[bared] = True
            places = np.concatenate([places[~goes], bared])
            gone += len(lost)
    return padded[:, 1:-1, 1:-1].astype(bool)


def _neighbours(pixels: NDArray[np.uint8], places: NDArray[np.int64], around: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Which of the eight neighbours of pixels are set, as bits in the order of ``around``."""
    code = np.zeros(len(places), np.uint8)
    for bit, offset in enumerate(around):
        code |= pixels[places + offset] << bit
    return code


def match_pixels(
    first: NDArray[np.bool_], second: NDArray[np.bool_], distance: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which pixels of two maps (h, w) are matched one to one, at most ``distance`` pixels apart, in the most pairs.

    Their number is exact (Hopcroft and Karp 1973). The benchmark's ``correspondPixels`` asks for the smallest sum of
    distances too (CSA, Goldberg and Kennedy 1995, on candidates of which some are left out at random): that changes
    which pixels are matched, not how many. Here the nearest candidates are tried first.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    if not (first.any() and second.any()):
        return np.zeros_like(first), np.zeros_like(second)
    reach = int(distance)
    near = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    near = near[:, np.argsort((near**2).sum(0), kind="stable")]
    near = near[:, (near**2).sum(0) <= distance**2]
    numbers = np.full((second.shape[0] + 2 * reach, second.shape[1] + 2 * reach), -1, np.int32)
    inner = numbers[reach : reach + second.shape[0], reach : reach + second.shape[1]]
    inner[second] = np.arange(second.sum())
    places = np.argwhere(first).T[:, :, None] + reach + near[:, None]
    candidates = numbers[places[0], places[1]]
    there = candidates >= 0
    ends = np.concatenate([[0], there.sum(1).cumsum()])
    graph = csr_array((np.ones(ends[-1], np.int8), candidates[there], ends), shape=(len(candidates), second.sum()))
    partner = maximum_bipartite_matching(graph, perm_type="column")
    matched = np.zeros_like(first), np.zeros_like(second)
    matched[0][first] = partner >= 0
    matched[1][second] = np.isin(np.arange(second.sum()), partner)
    return matched


def count_matches(probability: NDArray[Any], drawn: NDArray[Any], thresholds: NDArray[Any]) -> Counts:
    """(thresholds, 4) of one image: ``probability`` (h, w), and what annotators have ``drawn`` (h, w) as bits."""
    distance = MAX_DISTANCE * float(np.hypot(*drawn.shape))
    maps = drawn >> np.arange(_BITS, dtype=drawn.dtype)[:, None, None] & 1 > 0
    annotators = thin(maps[maps.any((1, 2))])
    cuts = probability >= thresholds[:, None, None]
    _, first, which = np.unique(cuts.sum((1, 2)), return_index=True, return_inverse=True)  # each lies in those before
    found = np.zeros((len(first), 4), np.int64)
    for count, predicted in zip(found, thin(cuts[first]), strict=True):
        right = np.zeros_like(predicted)
        for lines in annotators:
            hit, met = match_pixels(predicted, lines, distance)
            right |= hit
            count[:2] += met.sum(), lines.sum()
        count[2:] = right.sum(), predicted.sum()
    return found[which]


def precision_recall(counts: Counts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall (...) of counts (..., 4); 0 where nothing is predicted or drawn."""
    met, drawn, right, predicted = np.moveaxis(counts.astype(np.float64), -1, 0)
    return right / np.maximum(predicted, 1), met / np.maximum(drawn, 1)


def f_measure(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> NDArray[np.float64]:
    """The harmonic mean, of any shape; 0 where both are 0."""
    total = precision + recall
    return 2 * precision * recall / np.where(total > 0, total, 1)


def area(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> float:
    """A hundredth of the sum of the precisions at recalls 0, 0.01, ... 1, between the thresholds'; 0 beyond them."""
    recalls, first = np.unique(recall, return_index=True)
    at = np.arange(_STEPS + 1) / _STEPS
    return float(np.interp(at, recalls, precision[first], left=0, right=0).sum() / _STEPS) if len(recalls) > 1 else 0.0
