"""After training: scores from one pass over the validation images, and what each readout costs in time and memory."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deapcache.machine import seconds_of
from deapcache.openmp import sleep_if_cores_are_short
from deapcache.probing.batches import Batch, BatchStream, sequential
from deapcache.probing.config import ProbeProgress, Progress
from deapcache.probing.train import ReadoutTrainer, StackedGroup, TaskSpec, is_finite
from deapcache.readouts import Readout
from deapcache.tasks import Target, Task

NativeMaps = Callable[[str, int], np.ndarray]
"""Annotation and row of the validation caches → the label map (h, w) of its native size."""

EXAMPLES = 6
"""Validation images, the first ones, whose predictions are kept for pictures."""

COST_IMAGES = 4
"""Cost is measured on so many images of a batch at most."""

_NATIVE_BATCH = 4
"""Images whose native label maps are held at once: a few million pixels each."""

_REPEATS = 5
_SECONDS = 0.2
"""No repetition starts after so long."""


@dataclass(frozen=True)
class Examples:
    """What a readout predicts for the first validation images."""

    rows: np.ndarray
    """(n,) rows of the validation caches."""
    targets: np.ndarray
    """(n, ...) targets of the task, as ``Task.picture_values`` gives them."""
    predictions: np.ndarray
    """(n, ...): probability, class, metres, boxes or clusters."""


class Scorer:
    """Statistics and scores of one readout or baseline, batch by batch: of each image only its statistics are kept."""

    def __init__(self, task: Task, images: int) -> None:
        self.statistics: dict[str, np.ndarray] = {}
        """Name → (images, ...): what the scores, and bootstrap intervals, are computed from."""
        self._task = task
        self._images = images
        self._done = 0
        self._examples: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, output: Tensor, target: Target, rows: np.ndarray, native: Sequence[Target] | None = None) -> None:
        """Take the output (B, C, h, w) for the next images, which have these ``rows`` of the validation caches.

        Statistics are over ``target`` or, where they are given, over each image's ``native`` target (1, height, width).
        """
        self._keep(self._statistics(output, target, native))
        wanted = min(EXAMPLES - self._done, len(rows))
        if wanted > 0:
            is_mapping = isinstance(target, Mapping)
            first = {name: values[:wanted] for name, values in target.items()} if is_mapping else target[:wanted]
            shown, prediction = self._task.picture_values(output[:wanted], first)
            self._examples.append((rows[:wanted], shown.cpu().numpy(), prediction.cpu().numpy()))
        self._done += len(rows)

    def _statistics(self, output: Tensor, target: Target, native: Sequence[Target] | None) -> dict[str, Tensor]:
        if native is None:
            return self._task.statistics(output, target)
        of_each = [
            self._task.statistics(
                F.interpolate(one[None].float(), own.shape[-2:], mode="bilinear", align_corners=False), own
            )
            for one, own in zip(output, native, strict=True)
        ]
        return {name: torch.cat([one[name] for one in of_each]) for name in of_each[0]}

    def add_constant(
        self,
        outputs: Mapping[str, Tensor],
        target: Target,
        shape: tuple[int, ...],
        device: torch.device,
        native: Sequence[Target] | None = None,
    ) -> None:
        """Take constant outputs (C, h, w) or (C,), by metric, for the next images, which have the ``shape`` (B, h, w).

        Each metric's own statistics are of its own output, all others of the main metric's.
        """
        by_output: dict[int, dict[str, Tensor]] = {}
        for output in outputs.values():
            if id(output) not in by_output:
                constant = output.to(device) if output.ndim == 3 else output.to(device)[:, None, None]
                of_all = constant.expand(shape[0], -1, *shape[1:])
                by_output[id(output)] = self._statistics(of_all, target, native)
        found = dict(by_output[id(outputs[self._task.main_metric])])
        for metric, output in outputs.items():
            own = self._task.own_statistics.get(metric, ())
            found |= {name: by_output[id(output)][name] for name in own}
        self._keep(found)
        self._done += shape[0]

    def _keep(self, statistics: Mapping[str, Tensor]) -> None:
        for name, tensor in statistics.items():
            values = tensor.cpu().numpy()
            if name not in self.statistics:  # of all images at once: joining pieces at the end would hold them twice
                self.statistics[name] = np.empty((self._images, *values.shape[1:]), values.dtype)
            self.statistics[name][self._done : self._done + len(values)] = values

    def fit(self, training: Mapping[str, np.ndarray] | None) -> None:
        """Add what the task fits on the statistics of training images; ``None`` for a constant baseline."""
        self.statistics |= self._task.fitted_statistics(self.statistics, training)

    def scores(self) -> dict[str, float]:
        """The scores of all images that were added."""
        return {name: float(value) for name, value in self._task.scores(self.statistics).items()}

    def examples(self) -> Examples:
        """Targets and predictions of the first images."""
        rows, targets, predictions = (np.concatenate(parts) for parts in zip(*self._examples, strict=True))
        return Examples(rows, targets, predictions)


@sleep_if_cores_are_short()
def score(
    groups: Sequence[StackedGroup],
    baselines: Mapping[str, Mapping[str, Tensor]],
    specs: Mapping[str, TaskSpec],
    stream: BatchStream,
    rows: np.ndarray,
    *,
    training: Mapping[ReadoutTrainer, Mapping[str, np.ndarray]],
    batch_size: int,
    progress: Progress,
    native_maps: NativeMaps | None = None,
) -> tuple[dict[ReadoutTrainer, Scorer], dict[str, Scorer], float]:
    """Score every trainer's outputs and the constant baselines of tasks in one pass over ``rows``.

    ``baselines`` are task → metric → output, ``training`` is what :func:`training_statistics` gives; with
    ``native_maps`` scores are over these in place of the cached targets. Returns the scorers by trainer, those of the
    baselines by task, and the seconds it took. A trainer whose output cannot be scored gets a ``failure``; the others
    are scored on.
    """
    _to_evaluation(groups)
    scorers = {one: Scorer(one.spec.task, len(rows)) for group in groups for one in group.trainers}
    baseline_scorers = {name: Scorer(specs[name].task, len(rows)) for name in baselines}
    start, done = time.perf_counter(), 0
    at_once = batch_size if native_maps is None else min(batch_size, _NATIVE_BATCH)
    for batch in stream.batches(sequential(rows, at_once)):
        with torch.no_grad():
            features = batch.features.float()
            native = None if native_maps is None else _native_targets(native_maps, specs, batch, features.device)
            targets = {name: spec.task.target(batch.maps) for name, spec in specs.items()}
            for group in (one for one in groups if one.trainers):
                _score_group(group, features, batch, targets, scorers, native)
            for name, baseline in baselines.items():
                shape = len(features), *specs[name].output_size
                of_task = None if native is None else native[name]
                baseline_scorers[name].add_constant(baseline, targets[name], shape, features.device, of_task)
        done += len(batch.rows)
        progress(ProbeProgress(stage="score", done=done, total=len(rows)))
    for trainer in (one for group in groups for one in group.trainers if one in training):
        scorers[trainer].fit(training[trainer])
    for scorer in baseline_scorers.values():
        scorer.fit(None)
    return scorers, baseline_scorers, time.perf_counter() - start


def _native_targets(
    native_maps: NativeMaps, specs: Mapping[str, TaskSpec], batch: Batch, device: torch.device
) -> dict[str, list[Target]]:
    """Task → the target (1, height, width) of each image of a batch, at its native size."""
    annotations = dict.fromkeys(name for spec in specs.values() for name in spec.task.annotations)
    maps = [
        {name: torch.from_numpy(native_maps(name, int(row)))[None].to(device) for name in annotations}
        for row in batch.rows
    ]
    return {name: [spec.task.target(of_image) for of_image in maps] for name, spec in specs.items()}


def training_statistics(
    groups: Sequence[StackedGroup], stream: BatchStream, rows: np.ndarray, *, batch_size: int
) -> dict[ReadoutTrainer, dict[str, np.ndarray]]:
    """Statistics of the outputs for the first training ``rows``, of the trainers whose tasks fit something on them."""
    _to_evaluation(groups)
    fitting = [one for group in groups for one in group.trainers if one.spec.task.fit_images]
    tasks = {one.spec.task.name: one.spec.task for one in fitting}
    wanted = rows[: max((task.fit_images for task in tasks.values()), default=0)]
    scorers = {one: Scorer(one.spec.task, len(wanted)) for one in fitting}
    for batch in stream.batches(sequential(wanted, batch_size)) if fitting else ():
        with torch.no_grad():
            targets = {name: task.target(batch.maps) for name, task in tasks.items()}
            for group in (one for one in groups if any(trainer in scorers for trainer in one.trainers)):
                _score_group(group, batch.features.float(), batch, targets, scorers)
    return {trainer: scorer.statistics for trainer, scorer in scorers.items() if not trainer.failure}


def _to_evaluation(groups: Sequence[StackedGroup]) -> None:
    """Without the trainers that failed, and all others in evaluation mode."""
    for group in groups:
        for trainer in [one for one in group.trainers if one.failure]:
            group.drop(trainer)
        for head in (head for trainer in group.trainers for head in trainer.heads):
            head.eval()


def _score_group(
    group: StackedGroup,
    features: Tensor,
    batch: Batch,
    targets: Mapping[str, Target],
    scorers: Mapping[ReadoutTrainer, Scorer],
    native: Mapping[str, Sequence[Target]] | None = None,
) -> None:
    for trainer, output in zip(tuple(group.trainers), group.outputs(features, batch.guidance), strict=True):
        if trainer not in scorers:
            continue
        if not is_finite(output):  # weights may be finite
            trainer.diverge("the output for the images is not finite after the last iteration")
        else:
            try:
                task = trainer.spec.task.name
                scorers[trainer].add(output, targets[task], batch.rows, None if native is None else native[task])
            except Exception as error:  # a task's own code: it ends this run, not those that were trained beside it
                trainer.failure = error
        if trainer.failure:
            group.drop(trainer)


def costs_of(groups: Sequence[StackedGroup], batch: Batch) -> dict[ReadoutTrainer, dict[str, Any]]:
    """Time and memory of each trainer's readouts on one batch; measured once for those of one shape.

    Empty, with a warning, where the measurement fails, as a rule for lack of memory: it must not lose what was trained.
    """
    features = batch.features.float()
    costs: dict[ReadoutTrainer, dict[str, Any]] = {}
    for group in (one for one in groups if one.trainers):
        first = group.trainers[0]
        try:
            cost = measure_cost(first.heads, features, first.spec.output_size, batch.guidance)
        except RuntimeError as error:
            warnings.warn(f"the cost of readout {first.readout} could not be measured: {error}", stacklevel=2)
            cost = {}
        costs |= dict.fromkeys(group.trainers, cost)
    return costs


def measure_cost(
    readouts: Sequence[Readout], features_BHWD: Tensor, output_size: tuple[int, int], guidance: Tensor | None = None
) -> dict[str, Any]:
    """Cost of all ``readouts`` of one task together, on the first images of a batch, as JSON values.

    Takes three training steps and a prediction, and up to half a second for more of them where they are fast.
    Parameters, their gradients and the random state are left as they were. The paper holds FeatUp's cost against its
    parameters (section 5.2): it is four times that of dense attentive probing.

    Parameters
    ----------
    features_BHWD, output_size, guidance
        As :meth:`Readout.forward` takes them, on the readouts' device.

    Returns
    -------
    dict
        ``images``: how many were measured. ``train_ms_per_image``: forward and backward, the median of a few.
        ``predict_ms_per_image``. ``backward_bytes_per_image``: what the forward pass keeps for the backward pass, less
        parameters, buffers, features and guidance, which are there anyway. ``peak_bytes``: of device memory during a
        step, above what was in use before; ``None`` where the device does not count it. Where nothing is trained, only
        ``images`` and ``predict_ms_per_image``.
    """
    features, guide = features_BHWD[:COST_IMAGES], None if guidance is None else guidance[:COST_IMAGES]
    images, device = len(features), features.device
    learnable = [p for readout in readouts for p in readout.parameters() if p.requires_grad]

    def forward() -> Tensor:
        outputs = [readout(features, output_size, guide) for readout in readouts]
        return torch.stack([output.square().mean() for output in outputs]).sum()

    def step() -> None:
        torch.autograd.grad(forward(), learnable)

    @torch.no_grad()
    def predict() -> None:
        forward()

    cost: dict[str, Any] = {"images": images, "predict_ms_per_image": _median_ms(predict, device) / images}
    if not learnable:
        return cost
    state = [tensor for readout in readouts for tensor in (*readout.parameters(), *readout.buffers())]
    with _saved_storages([features, *([] if guide is None else [guide]), *state]) as saved:
        step()
    return cost | {
        "train_ms_per_image": _median_ms(step, device) / images,
        "backward_bytes_per_image": round(sum(saved.values()) / images),
        "peak_bytes": _peak_bytes(step, device),
    }


@contextmanager
def _saved_storages(present: Sequence[Tensor]) -> Iterator[dict[int, int]]:
    """Address → bytes of each storage that autograd saves a tensor of in the block; those ``present`` do not count."""
    known = {tensor.untyped_storage().data_ptr() for tensor in present}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield saved


def _median_ms(run: Callable[[], None], device: torch.device) -> float:
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < _REPEATS and (not times or time.perf_counter() - start < _SECONDS):
        times.append(1e3 * seconds_of(run, device))
    return statistics.median(times)


def _peak_bytes(step: Callable[[], None], device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    return torch.cuda.max_memory_allocated(device) - before
