"""Train readouts from a cache alone, and score them: from a config to its runs, from a run to its result."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch

from deapcache.errors import TrainingError, UsageError
from deapcache.locations import Location
from deapcache.machine import device_name
from deapcache.plugins import Registry
from deapcache.probing.batches import BatchStream, channel_statistics, outlier_ratio
from deapcache.probing.caches import SplitCaches, cache_records, cached_targets, open_caches
from deapcache.probing.config import NATIVE, ProbeConfig, Progress
from deapcache.probing.evaluate import Examples, NativeMaps, costs_of, score, training_statistics
from deapcache.probing.selection import select_rates
from deapcache.probing.train import ReadoutTrainer, TaskSpec, stack_trainers, thread_count, train
from deapcache.readouts import READOUTS, canonical_readout, readout_entry
from deapcache.recipe import SELECTED, Protocol
from deapcache.regions import SQUASH
from deapcache.tasks import TASKS, Task, get_task

OpenNativeMaps = Callable[[Mapping[str, Mapping[str, Any]], tuple[str, ...]], NativeMaps]
"""Annotation → recipe of the validation targets, and their image ids → the label maps that they were made from."""


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run before it is trained: a (task, readout, seed, learning rate) of a backbone, with all that decides it."""

    protocol: Protocol
    seed: int
    backbone: str
    caches: Mapping[str, Mapping[str, Any]]
    """``train``, ``val``, ``train hflip`` (where mirror images are drawn), ``train layer 9`` (of layers joined with the
    first), ``train instances targets``, … → path inside the home, digest and recipe."""

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.protocol.task

    @property
    def readout(self) -> str:
        """Name of the readout."""
        return self.protocol.readout

    @property
    def lr(self) -> float | None:
        """Peak learning rate; ``None``: it is chosen on a part of the training images, or nothing is trained."""
        lr = self.protocol.optimiser["lr"]
        return lr if isinstance(lr, float) else None

    @property
    def is_selected(self) -> bool:
        """Whether the learning rate is chosen on a part of the training images."""
        return bool(self.protocol.optimiser["lr"] == SELECTED)

    def to_json(self) -> dict[str, Any]:
        """What :func:`deapcache.results.record.run_id` names the run by, before and after training."""
        return {
            "protocol": self.protocol.to_json(),
            "protocol_digest": self.protocol.digest,
            "seed": self.seed,
            "backbone": self.backbone,
            "caches": {name: dict(record) for name, record in self.caches.items()},
        }


@dataclass(frozen=True, kw_only=True)
class ProbeResult(RunSpec):
    """A run, trained and scored: plain data and arrays."""

    classes: tuple[str, ...]
    """Class names of ``classes`` maps, by value; empty otherwise."""
    build: Mapping[str, Any]
    """What restores the readouts (``restore_readout``'s arguments, and ``heads``), as JSON."""
    scores: Mapping[str, float]
    baseline_scores: Mapping[str, float]
    """Scores of the best output that does not look at the image, by the same code."""
    metrics: Mapping[str, Mapping[str, Any]]
    """Metric → label, unit and whether higher is better."""
    main_metric: str
    statistics: Mapping[str, np.ndarray]
    """Name → (validation images, ...): per-image sufficient statistics of the scores."""
    baseline_statistics: Mapping[str, np.ndarray]
    image_ids: tuple[str, ...]
    """Ids of the validation images scored, in the order of the statistics."""
    selection: Mapping[str, Any]
    """How the learning rate was chosen: ``lr``, ``metric``, ``images`` that rates were scored on, ``candidates`` (each
    with ``lr`` and ``score``, ``None`` where training diverged), ``range``, from the lowest to the highest score,
    ``fraction`` of the steps that are trained, and ``longer``, the trial that decided it (``fraction``, ``score``,
    ``error`` of its difference); empty where the rate was given."""
    features: Mapping[str, float]
    """What was seen of the training features (:func:`deapcache.probing.batches.outlier_ratio`); empty where they are
    standardised per cell."""
    train_images: int
    loss_curve: tuple[tuple[int, float], ...]
    """At most 200 (iteration, mean loss since the point before)."""
    sigma: tuple[float, ...] | None
    """Learned width of each attention head, in image fractions; ``None`` for a readout without."""
    parameters: int
    """Learnable parameters of the readout."""
    cost: Mapping[str, float | None]
    """Time and memory of the readout alone on one batch (:func:`deapcache.probing.evaluate.measure_cost`)."""
    seconds: Mapping[str, float]
    """``train`` and ``score``: of the pass that ``readouts_sharing`` readouts shared."""
    readouts_sharing: int
    images_per_second: float
    """Training images per second of that pass."""
    device: str
    residency: str
    """``gpu``, ``memory`` or ``stream``: where the training arrays lived."""
    backbone_forwards: int
    """Images that a backbone was run on in this process while probing."""
    backbone_builds: int
    weights: Mapping[str, np.ndarray]
    """The readout's state."""
    examples: Examples
    """Predictions for the first validation images."""

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays, as :func:`deapcache.results.save_run` takes it."""
        own = {name: value for name, value in vars(self).items() if name not in RunSpec.__dataclass_fields__}
        for name in ("statistics", "baseline_statistics", "weights", "examples"):
            del own[name]
        ids, build, prior = own.pop("image_ids"), own.pop("build"), own.pop("baseline_scores")
        own |= {"classes": list(self.classes), "loss_curve": [list(point) for point in self.loss_curve]}
        own |= {"sigma": None if self.sigma is None else list(self.sigma), "readout": build, "prior": prior}
        return {**super().to_json(), **own, "val_images": len(ids)}


def probe_backbone(
    home: Location,
    config: ProbeConfig,
    *,
    skip: Callable[[RunSpec], bool] = lambda _: False,
    progress: Progress = lambda _: None,
    open_native: OpenNativeMaps | None = None,
) -> Iterator[ProbeResult]:
    """Train and score every (task, readout, seed, learning rate) on one backbone's cached features, in one pass.

    Neither a backbone nor an image file is touched: features and targets are read from ``home``. A readout's weights
    and scores are those it would get alone, up to rounding. Each result is given as soon as the run is scored; where
    some runs fail, the error is raised after all others were given.

    Parameters
    ----------
    config
        With one dataset and one backbone.
    skip
        Runs for which it is true are left out; where it leaves none, nothing is read.
    open_native
        Gives the label maps of their native size that ``score_size`` ``native`` scores over.

    Raises :class:`deapcache.errors.UnknownNameError`, ``CacheMissError``, ``AmbiguousCacheError``,
    ``IncompleteCacheError``, ``CorruptCacheError``, ``UsageError``; after the last run ``TrainingError`` that names
    those that diverged, or what a task's own code raised.
    """
    probe = _Probe(home, config)
    runs = [run for run in probe.runs() if not skip(run)]
    return probe.results(runs, progress, open_native) if runs else iter(())


def plan_runs(home: Location, config: ProbeConfig) -> list[RunSpec]:
    """What :func:`probe_backbone` would train and score, task by task, readout by readout; raises as it does."""
    return _Probe(home, config).runs()


class _Probe:
    """The tasks, readouts and open caches of a config with one dataset and one backbone."""

    def __init__(self, home: Location, config: ProbeConfig) -> None:
        if config.dataset is None:
            raise UsageError("one pass probes one dataset, and none is given")
        tasks = [get_task(name, config.options_of(name)) for name in dict.fromkeys(config.tasks)]
        if any(task.alternatives for task in tasks):  # else the home need not be listed
            cached = cached_targets(home, config)
            tasks = [task.choose_annotations(cached) for task in tasks]
        self._config = config
        self._readouts = list(dict.fromkeys(canonical_readout(name) for name in config.readouts))
        if config.upsampler is not None and not any(readout_entry(name).needs_upsampler for name in self._readouts):
            raise UsageError(
                f"an upsampler is given ({config.upsampler}), but none of the readouts {', '.join(self._readouts)} is "
                "built around one: leave --upsampler out, or add --readout featup"
            )
        if not config.layers and (several := [name for name in self._readouts if readout_entry(name).needs_layers]):
            raise UsageError(
                f"readout {several[0]} decodes several layers, and one is read: say which with --layers, such as "
                "--layers 3,6,9,last (deapcache extract --layers makes them), or leave the readout out"
            )
        self._train, self._val = open_caches(
            home,
            config,
            tuple(dict.fromkeys(annotation for task in tasks for annotation in task.annotations)),
            with_images=any(readout_entry(name).needs_guidance for name in self._readouts),
        )
        self._specs = {task.name: self._task_spec(task) for task in tasks}

    def _task_spec(self, task: Task) -> TaskSpec:
        targets = [self._train.entries[name].recipe for name in task.annotations]
        height, width = targets[0]["size"]
        spec = TaskSpec(
            task=task,
            backbone=self._config.backbone,
            classes=next((tuple(recipe["classes"]) for recipe in targets if recipe["classes"]), ()),
            output_size=(height, width),
            grid=self._train.features.grid,
            feature_dim=self._train.features.dim,
            covered=self._train.features.covered,
            parts=self._train.parts,
            iterations=self._config.iterations or task.iterations,
            upsampler=self._config.upsampler,
            standardise=self._config.standardisation,
        )
        task.heads(spec.classes)  # raises for a dataset that does not suit the task
        if task.needs_whole_image and targets[0]["fit"] != SQUASH:
            raise UsageError(
                f"task {task.name}: {task.chosen} is about places in the whole image, and these features and targets "
                f"are of a part of it (fit {targets[0]['fit']}): leave the choice out, or extract with --fit {SQUASH}"
            )
        if self._config.score_size == NATIVE and not (task.scores_at_native_size and targets[0]["fit"] == SQUASH):
            why = (
                f"these targets are of a part of the image (fit {targets[0]['fit']})"
                if task.scores_at_native_size
                else "its scores are of another size by nature, or count pixels of the output"
            )
            raise UsageError(
                f"task {task.name} cannot be scored at native size: {why}; leave out --score-size, or probe "
                f"segmentation, foreground, depth or normals on images of fit {SQUASH}"
            )
        return spec

    def runs(self) -> list[RunSpec]:
        """Every run of the config."""
        config, found = self._config, []
        for spec, readout in product(self._specs.values(), self._readouts):
            readout_options = spec.build(readout, 0)[0].options
            caches = cache_records(self._train, self._val, spec.task.annotations)
            for lr, seed in product(config.rates_of(readout), dict.fromkeys(config.seeds)):
                protocol = self._protocol(spec, readout, readout_options, lr)
                found.append(RunSpec(protocol=protocol, seed=seed, backbone=config.backbone, caches=caches))
        return found

    def _protocol(self, spec: TaskSpec, readout: str, readout_options: Mapping[str, Any], lr: float | str) -> Protocol:
        """Everything but features and seed that decides a score; the same for all seeds and backbones."""
        config, task = self._config, spec.task
        recipes = {name: self._train.entries[name].recipe for name in task.annotations}
        targets = {name: {part: recipe[part] for part in ("fit", "options")} for name, recipe in recipes.items()}
        return Protocol(
            task=task.name,
            task_options={**task.options, "targets": targets, **_plugin_source(TASKS, task.name)},
            dataset=str(config.dataset),
            output_size=spec.output_size,
            readout=readout,
            readout_options={**readout_options, **_plugin_source(READOUTS, readout.partition(":")[0])},
            optimiser=config.optimiser(lr),
            iterations=spec.iterations,
            batch_size=config.batch_size,
            order_seed=config.order_seed,
            train_limit=(limit := _effective_limit(config.train_limit, self._train)),
            train_subset=None if limit is None else config.train_subset,
            val_limit=_effective_limit(config.val_limit, self._val),
            views=config.views,
            name=config.protocol_name(task.name),
            name_digest=config.named.digest,
            standardise=config.standardisation,
            selection=asdict(config.selection) if config.selection else None,
            score_size=config.score_size,
        )

    def results(
        self, runs: Sequence[RunSpec], progress: Progress, open_native: OpenNativeMaps | None
    ) -> Iterator[ProbeResult]:
        """Train and score ``runs`` in one pass over the features; raises at the end what made some of them fail."""
        native_maps = self._native_maps(open_native)
        config, device, counts_before = self._config, torch.device(self._config.device), _backbone_counts()
        rows, batch_size = self._train.rows, config.batch_size
        stream = BatchStream(self._train, config.residency, device)
        specs = {run.task: self._specs[run.task] for run in runs}
        channels = channel_statistics(stream, rows, batch_size) if config.standardisation == "channel" else None
        if channels:
            specs = {name: replace(spec, feature_statistics=channels) for name, spec in specs.items()}
        biases = {name: spec.prepare(stream, rows, batch_size) for name, spec in specs.items()}
        open_rates = [(run.task, run.readout) for run in runs if run.is_selected]
        chosen = (
            select_rates(open_rates, specs, stream, rows, self._train.draws, config, biases, progress)
            if open_rates
            else {}
        )
        trainers = [
            ReadoutTrainer(
                specs[run.task].shortened(_share_of_steps(run, chosen)),
                run.readout,
                seed=run.seed,
                lr=chosen[run.task, run.readout]["lr"] if run.is_selected else run.lr or 0.0,
                device=device,
                output_bias=biases[run.task],
            )
            for run in runs
        ]
        groups = stack_trainers(trainers, config.weight_decay, threads=thread_count(device))
        train_seconds = train(groups, stream, self._train.draws, config, progress)
        for trainer in trainers:
            if readout_entry(trainer.readout).training_free:
                trainer.fit(stream, rows, batch_size)
        if all(trainer.failure for trainer in trainers):
            raise _combined_error(trainers)
        baselines = {name: spec.constant_baselines(stream, rows, batch_size) for name, spec in specs.items()}
        fitted = training_statistics(groups, stream, rows, batch_size=batch_size)
        # the validation images are read once, so there is nothing to gain from holding them
        val_stream = BatchStream(self._val, "stream", device)
        scorers, baseline_scorers, score_seconds = score(
            groups,
            baselines,
            specs,
            val_stream,
            self._val.rows,
            training=fitted,
            batch_size=batch_size,
            progress=progress,
            native_maps=native_maps,
        )
        baseline_scores = {name: scorer.scores() for name, scorer in baseline_scorers.items()}
        forwards, builds = (now - before for now, before in zip(_backbone_counts(), counts_before, strict=True))
        pass_facts: dict[str, Any] = {
            "features": {"outlier_ratio": outlier_ratio(*channels)} if channels else {},
            "train_images": len(rows),
            "image_ids": self._val.image_ids,
            "seconds": {"train": train_seconds, "score": score_seconds},
            "readouts_sharing": len(trainers),
            "images_per_second": max(one.iteration for one in trainers) * batch_size / max(train_seconds, 1e-9),
            "device": f"{device} ({device_name(device)})" if device.type == "cuda" else str(device),
            "residency": stream.residency,
            "backbone_forwards": forwards,
            "backbone_builds": builds,
        }
        costs = costs_of(groups, next(iter(stream.batches([rows[:batch_size]]))))
        for run, trainer in zip(runs, trainers, strict=True):
            if trainer.failure:
                continue
            task, scorer, baseline = trainer.spec.task, scorers[trainer], baseline_scorers[run.task]
            try:
                scores, examples = scorer.scores(), scorer.examples()
            except Exception as error:  # a task's own code: it ends this run, not those that were trained beside it
                trainer.failure = error
                continue
            yield ProbeResult(
                **vars(run),
                **pass_facts,
                selection=chosen.get((run.task, run.readout), {}),
                classes=trainer.spec.classes,
                build=trainer.build_facts(),
                scores=scores,
                baseline_scores=baseline_scores[run.task],
                metrics={name: asdict(metric) for name, metric in task.metrics.items()},
                main_metric=config.named.main_metrics.get(run.task, task.main_metric),
                statistics=scorer.statistics,
                baseline_statistics=baseline.statistics,
                loss_curve=tuple(trainer.loss_curve()),
                sigma=trainer.sigma(),
                parameters=sum(weights.numel() for weights in trainer.trainable),
                cost=costs[trainer],
                weights=trainer.weights(),
                examples=examples,
            )
        if any(trainer.failure for trainer in trainers):
            raise _combined_error(trainers)

    def _native_maps(self, open_native: OpenNativeMaps | None) -> NativeMaps | None:
        if self._config.score_size != NATIVE:
            return None
        if open_native is None:
            raise UsageError("scores at native size need the dataset's files: probe by deapcache.probe or the command")
        annotations = {name for spec in self._specs.values() for name in spec.task.annotations}
        recipes = {name: self._val.entries[name].recipe for name in sorted(annotations)}
        return open_native(recipes, self._val.features.image_ids)


def _share_of_steps(run: RunSpec, chosen: Mapping[tuple[str, str], Mapping[str, Any]]) -> float:
    if readout_entry(run.readout).training_free:
        return 0
    return float(chosen[run.task, run.readout]["fraction"]) if run.is_selected else 1


def _plugin_source(registry: Registry[Any], name: str) -> dict[str, str]:
    """The source of the plugin that registered ``name``: part of the protocol, as it may change; else empty."""
    source = registry.source(name)
    return {"plugin": source} if source else {}


def _effective_limit(asked: int | None, caches: SplitCaches) -> int | None:
    """``None`` for a limit that leaves nothing out: both are the same probe."""
    return asked if asked is not None and asked < len(caches.features) else None


def _backbone_counts() -> tuple[int, int]:
    """Images forwarded and backbones built in this process; (0, 0) where nothing imported the backbones' room."""
    room = sys.modules.get("deapcache.backbones")
    return (0, 0) if room is None else (room.forward_count(), room.build_count())


def _combined_error(trainers: Sequence[ReadoutTrainer]) -> Exception:
    """One error of all trainers that failed; what a task's own code raised comes first, as it is."""
    failures = [trainer.failure for trainer in trainers if trainer.failure]
    unforeseen = [failure for failure in failures if not isinstance(failure, TrainingError)]
    return unforeseen[0] if unforeseen else TrainingError("\n".join(map(str, failures)))
