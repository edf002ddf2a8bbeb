"""Stage 2: train readouts from a cache alone, and score them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from deapcache.cache import CacheEntry
from deapcache.locations import Location
from deapcache.probing.batches import BatchStream, choose_residency
from deapcache.probing.evaluate import Scored, score_learners
from deapcache.probing.learner import Learner, Probed
from deapcache.probing.options import ProbeOptions, Residency, default_iterations
from deapcache.probing.progress import Progress, silent
from deapcache.probing.protocols import protocol_of
from deapcache.probing.run import ProbeRun
from deapcache.probing.sources import Request, Sources, resolve_sources
from deapcache.probing.train import image_independent_prior, train, training_bias
from deapcache.readouts import READOUTS
from deapcache.tasks import Task, get_task


def probe_backbone(
    home: Location,
    *,
    dataset: str,
    backbone: str,
    tasks: Sequence[str],
    readouts: Sequence[str],
    seeds: Sequence[int] = (0,),
    options: ProbeOptions | None = None,
    fields: Mapping[str, Any] | None = None,
    images_name: str | None = None,
    splits: tuple[str, str] = ("train", "val"),
    progress: Progress = silent,
) -> list[ProbeRun]:
    """Train and score every (task, readout, seed) on one backbone's cached features, in one pass over them.

    Neither a backbone nor an image is touched: features and targets are read from ``home``. A readout's weights and
    scores are those it would get alone.

    Parameters
    ----------
    fields
        Recipe fields that the features must have, where the home has several caches of the backbone.
    images_name
        Dataset that the features were extracted from, where ``dataset`` shares its images.
    splits
        Names of the splits to train and to score on.

    Raises :class:`deapcache.errors.UnknownNameError`, ``CacheMissError``, ``AmbiguousCacheError``,
    ``IncompleteCacheError``, ``CorruptCacheError``, ``TrainingError`` (a loss that is not finite), ``UsageError``.
    """
    options = options or ProbeOptions()
    chosen = [get_task(name) for name in dict.fromkeys(tasks)]
    for name in readouts:
        READOUTS.get(name)
    request = Request(
        home=home,
        dataset=dataset,
        backbone=backbone,
        annotations=tuple(dict.fromkeys(task.annotation for task in chosen)),
        fields=fields or {},
        images_name=images_name or dataset,
        splits=splits,
    )
    return _Probe(request, resolve_sources(request, options), options, progress).run(chosen, readouts, seeds)


class _Probe:
    """One backbone's probe: its caches, and what is derived from them."""

    def __init__(self, request: Request, sources: Sources, options: ProbeOptions, progress: Progress) -> None:
        self._request = request
        self._sources = sources
        self._options = options
        self._progress = progress
        self._device = torch.device(options.device)
        arrays = sources.train.arrays
        self._residency: Residency = options.residency or choose_residency(arrays.decoded_bytes())
        self._train_stream = BatchStream(arrays, self._residency, self._device)
        # the validation images are read once, so there is nothing to gain from holding them
        self._val_stream = BatchStream(sources.val.arrays, "stream", self._device)

    def run(self, tasks: Sequence[Task], readouts: Sequence[str], seeds: Sequence[int]) -> list[ProbeRun]:
        before = _backbone_counts()
        probed = [self._probed(task) for task in tasks]
        learners = [
            Learner(one, readout, seed, self._options)
            for one in probed
            for readout in dict.fromkeys(readouts)
            for seed in dict.fromkeys(seeds)
        ]
        rows = self._sources.train.arrays.rows
        trained = train(learners, self._train_stream, rows, self._options, self._progress)
        by_learner, by_task, scored = score_learners(
            learners,
            {one.task.name: self._prior(one) for one in probed},
            self._val_stream,
            self._sources.val.arrays.rows,
            batch_size=self._options.batch_size,
            progress=self._progress,
        )
        shared = self._shared_facts(learners, trained, scored, before)
        return [
            self._run(learner, outcome, by_task[learner.probed.task.name], shared)
            for learner, outcome in zip(learners, by_learner, strict=True)
        ]

    def _probed(self, task: Task) -> Probed:
        features = self._sources.train.arrays.features
        return Probed(
            task=task,
            backbone=self._request.backbone,
            classes=tuple(self._sources.target_recipe(task.annotation)["classes"]),
            output_size=self._sources.output_size(task.annotation),
            grid=features.grid,
            feature_dim=features.dim,
            output_bias=training_bias(task, self._train_stream, self._sources.train.arrays.rows),
            iterations=self._options.iterations or default_iterations(task.name),
        )

    def _prior(self, probed: Probed) -> torch.Tensor:
        rows = self._sources.train.arrays.rows
        batch_size = self._options.batch_size
        return image_independent_prior(probed.task, self._train_stream, rows, probed.classes, batch_size)

    def _shared_facts(
        self, learners: Sequence[Learner], trained: float, scored: float, before: tuple[int, int]
    ) -> dict[str, Any]:
        forwards, builds = (now - then for now, then in zip(_backbone_counts(), before, strict=True))
        images = max(learner.probed.iterations for learner in learners) * self._options.batch_size
        return {
            "seconds": {"train": trained, "score": scored},
            "readouts_sharing": len(learners),
            "images_per_second": images / max(trained, 1e-9),
            "device": _device_name(self._device),
            "residency": self._residency,
            "backbone_forwards": forwards,
            "backbone_builds": builds,
        }

    def _run(self, learner: Learner, outcome: Scored, prior: Scored, shared: Mapping[str, Any]) -> ProbeRun:
        task = learner.probed.task
        assert outcome.examples is not None  # set by score_learners
        return ProbeRun(
            protocol=protocol_of(learner, self._request.dataset, self._sources, self._options),
            seed=learner.seed,
            backbone=self._request.backbone,
            caches=self._caches(task.annotation),
            classes=learner.probed.classes,
            readout=learner.facts(),
            scores=outcome.scores,
            prior_scores=prior.scores,
            metrics={name: asdict(metric) for name, metric in task.metrics.items()},
            main_metric=task.main_metric,
            statistics=outcome.statistics,
            prior_statistics=prior.statistics,
            image_ids=self._sources.val.image_ids,
            train_images=len(self._sources.train.arrays.rows),
            loss_curve=tuple(learner.loss_curve()),
            sigma=learner.sigma(),
            parameters=sum(p.numel() for p in learner.model.parameters() if p.requires_grad),
            weights=learner.weights(),
            examples=outcome.examples,
            **shared,
        )

    def _caches(self, annotation: str) -> dict[str, Mapping[str, Any]]:
        train, val = self._sources.train, self._sources.val
        entries = {
            "train": train.features,
            "val": val.features,
            "train targets": train.targets[annotation],
            "val targets": val.targets[annotation],
        }
        return {name: _cache_facts(entry) for name, entry in entries.items()}


def _cache_facts(entry: CacheEntry) -> dict[str, Any]:
    return {"path": entry.path, "digest": entry.digest, "recipe": dict(entry.recipe)}


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _backbone_counts() -> tuple[int, int]:
    """Images forwarded and backbones built in this process; (0, 0) where nothing loaded the backbones' room."""
    room = sys.modules.get("deapcache.backbones")
    return (0, 0) if room is None else (room.forward_count(), room.build_count())
