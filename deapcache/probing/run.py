"""What one probe came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from deapcache.probing.evaluate import Examples
from deapcache.probing.planned import naming_facts
from deapcache.recipe import Protocol


@dataclass(frozen=True, kw_only=True)
class ProbeRun:
    """One readout of one seed, trained and scored: plain data and arrays."""

    protocol: Protocol
    seed: int
    backbone: str
    caches: Mapping[str, Mapping[str, Any]]
    """``train``, ``val``, ``train hflip`` (where mirror images are drawn), ``train instances targets``, … → path inside
    the home, digest and recipe."""
    classes: tuple[str, ...]
    """Class names of ``classes`` maps, by value; empty otherwise."""
    readout: Mapping[str, Any]
    """What restores the readouts (``restore_readout``'s arguments, and ``heads``), as JSON."""
    scores: Mapping[str, float]
    prior_scores: Mapping[str, float]
    """Scores of the best output that does not look at the image, by the same code."""
    metrics: Mapping[str, Mapping[str, Any]]
    """Metric → label, unit and whether higher is better."""
    main_metric: str
    statistics: Mapping[str, np.ndarray]
    """Name → (validation images, ...): per-image sufficient statistics of the scores."""
    prior_statistics: Mapping[str, np.ndarray]
    image_ids: tuple[str, ...]
    """Ids of the validation images scored, in the order of the statistics."""
    train_images: int
    loss_curve: tuple[tuple[int, float], ...]
    """At most 200 (iteration, mean loss since the point before)."""
    sigma: tuple[float, ...] | None
    """Learned width of each attention head, in image fractions; ``None`` for a readout without."""
    parameters: int
    """Learnable parameters of the readout."""
    cost: Mapping[str, float | None]
    """Time and memory of the readout alone on one batch, see :func:`deapcache.probing.cost.measure_cost`."""
    seconds: Mapping[str, float]
    """``train`` and ``score``: of the pass that ``readouts_sharing`` readouts shared."""
    readouts_sharing: int
    images_per_second: float
    """Training images per second of that pass."""
    device: str
    residency: str
    """``gpu``, ``pinned``, ``memory`` or ``stream``: where the training arrays lived."""
    backbone_forwards: int
    """Images that a backbone was run on in this process while probing."""
    backbone_builds: int
    weights: Mapping[str, np.ndarray]
    """The readout's state."""
    examples: Examples
    """Predictions for the first validation images."""

    def facts(self) -> dict[str, Any]:
        """Everything but the arrays, as a JSON object: what :func:`deapcache.results.save_run` takes."""
        return {
            **naming_facts(self.protocol, self.seed, self.backbone, self.caches),
            "classes": list(self.classes),
            "readout": dict(self.readout),
            "scores": dict(self.scores),
            "prior": dict(self.prior_scores),
            "metrics": {name: dict(metric) for name, metric in self.metrics.items()},
            "main_metric": self.main_metric,
            "train_images": self.train_images,
            "val_images": len(self.image_ids),
            "loss_curve": [list(point) for point in self.loss_curve],
            "sigma": None if self.sigma is None else list(self.sigma),
            "parameters": self.parameters,
            "cost": dict(self.cost),
            "seconds": dict(self.seconds),
            "readouts_sharing": self.readouts_sharing,
            "images_per_second": self.images_per_second,
            "device": self.device,
            "residency": self.residency,
            "backbone_forwards": self.backbone_forwards,
            "backbone_builds": self.backbone_builds,
        }
