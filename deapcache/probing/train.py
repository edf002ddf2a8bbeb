"""Training: one stream of cached batches trains every readout of a backbone; those of one shape step as one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deapcache.errors import TrainingError
from deapcache.openmp import sleep_if_cores_are_short
from deapcache.probing.batches import BatchStream, image_order, sequential
from deapcache.probing.config import GRADIENT_CLIP, WARM_UP, ProbeConfig, ProbeProgress, Progress
from deapcache.readouts import Readout, build_readout, seeded
from deapcache.tasks import Target, Task

MAX_STACK = 16
"""Most trainers of one group: more share hardly more, and hold the activations of all."""

_NEXT_HEAD = 1_000_003
"""Between the seeds of the readouts of one task."""

_BIAS_SAMPLE = 256
"""Training images whose targets decide where a readout's output bias starts."""

_CURVE_POINTS = 200
"""Most points of a loss curve."""

_CHECK_EVERY = 50
"""Steps between checks of the losses: each check waits for the device."""

_REPORT_EVERY = 10


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One task on one dataset and backbone, with the sizes that its readouts must have."""

    task: Task
    backbone: str
    classes: tuple[str, ...]
    """Class names of ``classes`` maps, by value; empty otherwise."""
    output_size: tuple[int, int]
    """(height, width) of targets and outputs, pixels."""
    grid: tuple[int, int]
    feature_dim: int
    covered: tuple[float, float] = (1.0, 1.0)
    """Share of the image's height and width that the cells cover, from the upper left."""
    parts: tuple[int, ...] = ()
    """Channels of each layer where features of several are joined; empty for one."""
    iterations: int
    upsampler: Path | None = None
    """Checkpoint for the readouts that are built around a published upsampler."""
    standardise: str = "cell"
    """Over what readouts standardise features: ``cell`` or ``channel``."""
    feature_statistics: tuple[torch.Tensor, torch.Tensor] | None = None
    """Mean and standard deviation of each channel over the training images, (D',) float32, for ``channel``."""

    @property
    def heads(self) -> tuple[int, ...]:
        """Output channels of each of the task's readouts."""
        return self.task.heads(self.classes)

    def shortened(self, fraction: float) -> TaskSpec:
        """The same with a ``fraction`` of the iterations, rounded up."""
        return replace(self, iterations=math.ceil(fraction * self.iterations))

    def build(self, readout: str, seed: int, output_bias: torch.Tensor | None = None) -> list[Readout]:
        """Fresh readouts of that name, one a head; their outputs start at ``output_bias`` (sum of heads,)."""
        built = [
            build_readout(
                readout,
                feature_dim=self.feature_dim,
                out_channels=channels,
                grid=self.grid,
                cnn_width=self.task.cnn_width(self.classes),
                seed=seed + place * _NEXT_HEAD,
                upsampler=self.upsampler,
                standardise=self.standardise,
                covered=self.covered,
                parts=self.parts,
            )
            for place, channels in enumerate(self.heads)
        ]
        for head in built:
            head.trained_size = self.output_size
            if head.training_free:
                head.output_of_mean = self.task.output_of_mean
            if self.feature_statistics is not None:
                head.set_feature_statistics(*self.feature_statistics)
        if output_bias is not None:
            for head, values in zip(built, output_bias.split(self.heads), strict=True):
                head.set_output_bias(values)
        return built

    def prepare(self, stream: BatchStream, rows: np.ndarray, batch_size: int) -> torch.Tensor | None:
        """Let the task scan all training targets; returns where its outputs start, from the first 256 of them."""
        self.task.scan_targets(stream.maps(self.task.annotations, sequential(rows, batch_size)))
        _, sample = next(stream.maps(self.task.annotations, [rows[:_BIAS_SAMPLE]]))
        return self.task.output_bias(self.task.target(sample))

    def constant_baselines(self, stream: BatchStream, rows: np.ndarray, batch_size: int) -> Mapping[str, torch.Tensor]:
        """Metric → the best output (C, h, w) or (C,) that does not look at the image; one pass over the targets."""
        maps = stream.maps(self.task.annotations, sequential(rows, batch_size))
        found = self.task.constant_baseline((self.task.target(some) for _, some in maps), self.classes)
        return found if isinstance(found, Mapping) else {self.task.main_metric: found}


class ReadoutTrainer:
    """The readouts of one (task, readout, seed, learning rate); shares nothing random with another trainer."""

    def __init__(
        self,
        spec: TaskSpec,
        readout: str,
        *,
        seed: int,
        lr: float,
        device: torch.device | str = "cpu",
        output_bias: torch.Tensor | None = None,
    ) -> None:
        self.spec = spec
        self.readout = readout
        self.seed = seed
        self.lr = lr
        self.heads: list[Readout] = [head.to(device) for head in spec.build(readout, seed, output_bias)]
        with seeded(seed):
            criterion = spec.task.criterion()
        self.criterion = None if criterion is None else criterion.to(device)
        self._losses = torch.empty(spec.iterations, device=device)
        self._checked = 0
        self.iteration = 0
        self.failure: Exception | None = None
        """Why there is no result: training diverged, or the output cannot be scored; other trainers go on."""

    @property
    def done(self) -> bool:
        """Whether all steps are taken."""
        return self.iteration == self.spec.iterations

    @property
    def trainable(self) -> list[torch.nn.Parameter]:
        """Learnable parameters of all heads."""
        return [p for head in self.heads for p in head.parameters() if p.requires_grad]

    def fit(self, stream: BatchStream, rows: np.ndarray, batch_size: int) -> None:
        """Fill readouts that are not trained from one pass over training images: :attr:`Readout.training_free`."""
        task = self.spec.task
        for head in self.heads:
            pairs = ((batch, task.target(batch.maps)) for batch in stream.batches(sequential(rows, batch_size)))
            labelled = ((one.features.float(), *task.dense_values(target, self.spec.classes)) for one, target in pairs)
            head.fit(labelled, torch.Generator().manual_seed(self.seed))

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """All that is trained, in groups as ``torch.optim.AdamW`` takes them."""
        groups = [group for head in self.heads for group in head.parameter_groups(self.lr, weight_decay)]
        if self.criterion is not None:
            groups.append({"params": list(self.criterion.parameters()), "lr": self.lr, "weight_decay": weight_decay})
        return groups

    def record(self, loss: torch.Tensor) -> None:
        """Count one step; a loss that is not finite, or weights after the last step, become a :attr:`failure` soon."""
        self._losses[self.iteration] = loss
        self.iteration += 1
        if self.failure is None and (self.done or self.iteration % _CHECK_EVERY == 0):
            finite = torch.isfinite(self._losses[self._checked : self.iteration])
            if not bool(finite.all()):
                first = self._checked + int((~finite).nonzero()[0])
                loss_there = float(self._losses[first])
                self.diverge(f"the loss is {loss_there} at iteration {first + 1} of {self.spec.iterations}")
            self._checked = self.iteration
            if self.done and not all(bool(torch.isfinite(weights).all()) for weights in self.trainable):
                self.diverge(f"weights are not finite after iteration {self.iteration}, the last one")

    def diverge(self, what: str) -> None:
        """Set the :attr:`failure`; the first one stays."""
        self.failure = self.failure or TrainingError(
            f"{self.spec.task.name} on {self.spec.backbone} with readout {self.readout}, seed {self.seed}: {what}; "
            f"try a smaller learning rate (--lr) than {self.lr:g}"
        )

    def recent_loss(self) -> float:
        """Mean of the losses of the last steps that were checked; NaN before the first check."""
        losses = self._losses[max(0, self._checked - _CHECK_EVERY) : self._checked]
        return float(losses.mean()) if len(losses) else math.nan

    def loss_curve(self) -> list[tuple[int, float]]:
        """At most 200 (iteration, mean loss since the point before)."""
        losses = self._losses[: self.iteration].cpu().numpy()
        pieces = np.array_split(losses, min(_CURVE_POINTS, len(losses))) if len(losses) else []
        ends = np.cumsum([len(piece) for piece in pieces])
        return [(int(end), float(piece.mean())) for end, piece in zip(ends, pieces, strict=True)]

    def weights(self) -> dict[str, np.ndarray]:
        """The readouts' state: number of the head, a dot, and the parameter's name → array."""
        return {
            f"{place}.{name}": value.detach().cpu().numpy()
            for place, head in enumerate(self.heads)
            for name, value in head.state_dict().items()
        }

    def sigma(self) -> tuple[float, ...] | None:
        """Learned width of each attention head of all readouts in image fractions; ``None`` for readouts without."""
        found = [sigma.detach().cpu() for head in self.heads if (sigma := head.sigma()) is not None]
        return tuple(float(value) for value in torch.cat(found)) if found else None

    def build_facts(self) -> dict[str, Any]:
        """What :func:`deapcache.readouts.restore_readout` needs to build the readouts again, and ``heads``; JSON."""
        spec = self.spec
        return {
            "name": self.readout,
            "options": dict(self.heads[0].options),
            "feature_dim": spec.feature_dim,
            "heads": list(spec.heads),
            "grid": list(spec.grid),
            "cnn_width": spec.task.cnn_width(spec.classes),
            "seed": self.seed,
            "standardise": spec.standardise,
            "covered": list(spec.covered),
            **({"parts": list(spec.parts)} if spec.parts else {}),
            "output_size": list(spec.output_size),
            "classes": list(spec.classes),
            "task_options": dict(spec.task.chosen),
        }


class StackedGroup:
    """Trainers whose readouts have one shape: one forward pass, one backward pass, one optimiser.

    What each learns is what it would learn alone, up to rounding. Losses are summed, so that every parameter gets the
    gradient of its own trainer's loss and nothing else; gradient norms are clipped for each readout by itself. A
    trainer that diverges leaves: others would get its numbers that are not finite.
    """

    def __init__(self, trainers: Sequence[ReadoutTrainer], weight_decay: float) -> None:
        self.trainers = list(trainers)
        """Those that have not diverged."""
        groups: dict[Hashable, dict[str, Any]] = {}
        for group in (group for trainer in trainers for group in trainer.parameter_groups(weight_decay)):
            settings = {name: value for name, value in group.items() if name != "params"}
            # groups with equal settings become one: an optimiser's step costs by the group
            merged = groups.setdefault(tuple(sorted(settings.items())), {**settings, "params": []})
            merged["params"] += group["params"]
        # one without parameters is that of readouts that are not trained, which take no step
        self._optimiser = torch.optim.AdamW(list(groups.values()) or [{"params": [torch.zeros(1)]}], fused=True)
        self._peaks = [group["lr"] for group in groups.values()]
        self._clipped = {
            head: [p for p in head.parameters() if p.requires_grad] for one in trainers for head in one.heads
        }

    @property
    def done(self) -> bool:
        """Whether all steps are taken, or all trainers failed."""
        return all(trainer.failure for trainer in self.trainers) or self.trainers[0].done

    def step(self, features: torch.Tensor, guidance: torch.Tensor | None, targets: Mapping[str, Target]) -> None:
        """One step on (B, H, W, D) features and each task's target, by name.

        A trainer whose loss is not finite gets a ``failure``, where it is alone some steps later.
        """
        first = self.trainers[0]
        factor = learning_rate_factor(first.iteration, first.spec.iterations)
        for group, peak in zip(self._optimiser.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        self._optimiser.zero_grad(set_to_none=True)
        losses, norms = self._backward(self.trainers, features, guidance, targets)
        if len(self.trainers) > 1 and not _all_finite([*losses, *norms]):
            losses = self._backward_one_by_one(features, guidance, targets)
        self._optimiser.step()
        for trainer, loss in zip(self.trainers, losses, strict=True):
            trainer.record(loss.detach())

    def _backward(
        self,
        trainers: Sequence[ReadoutTrainer],
        features: torch.Tensor,
        guidance: torch.Tensor | None,
        targets: Mapping[str, Target],
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Each trainer's loss, and the norm of each readout's gradient before it is clipped."""
        losses: list[torch.Tensor] = []
        for outputs in _forward_in_turn(trainers, features, guidance):
            some = [
                trainer.spec.task.loss(output, targets[trainer.spec.task.name], trainer.criterion)
                for trainer, output in zip(trainers[len(losses) :], outputs, strict=False)
            ]
            torch.stack(some).sum().backward()
            losses += some
        heads = [head for trainer in trainers for head in trainer.heads]
        return losses, [torch.nn.utils.clip_grad_norm_(self._clipped[head], GRADIENT_CLIP) for head in heads]

    def _backward_one_by_one(
        self, features: torch.Tensor, guidance: torch.Tensor | None, targets: Mapping[str, Target]
    ) -> list[torch.Tensor]:
        """The losses of the trainers that do not diverge in this step; the others leave the group."""
        self._optimiser.zero_grad(set_to_none=True)
        kept = []
        for trainer in tuple(self.trainers):
            (loss,), norms = self._backward([trainer], features, guidance, targets)
            if _all_finite([loss, *norms]):
                kept.append(loss)
            else:
                what = "the gradient is not finite" if _all_finite([loss]) else f"the loss is {float(loss.detach())}"
                trainer.diverge(f"{what} at iteration {trainer.iteration + 1} of {trainer.spec.iterations}")
                self.drop(trainer)
        return kept

    def drop(self, trainer: ReadoutTrainer) -> None:
        """Go on without a trainer."""
        self.trainers.remove(trainer)
        for parameter in (p for head in trainer.heads for p in self._clipped[head]):
            parameter.grad = None  # the optimiser leaves it as it is

    def outputs(self, features: torch.Tensor, guidance: torch.Tensor | None) -> list[torch.Tensor]:
        """Each trainer's output, (B, sum of its heads, h, w); what is not finite of one touches no other."""
        outputs = _forward(self.trainers, features, guidance)
        if len(outputs) > 1 and not all(map(is_finite, outputs)):
            return [_forward([trainer], features, guidance)[0] for trainer in self.trainers]
        return outputs


def _forward(
    trainers: Sequence[ReadoutTrainer], features: torch.Tensor, guidance: torch.Tensor | None
) -> list[torch.Tensor]:
    """Each trainer's output, all run as one."""
    size, stacks = trainers[0].spec.output_size, zip(*(trainer.heads for trainer in trainers), strict=True)
    by_head = [type(stack[0]).forward_stacked(stack, features, size, guidance) for stack in stacks]
    return [parts[0] if len(parts) == 1 else torch.cat(parts, 1) for parts in zip(*by_head, strict=True)]


def _forward_in_turn(
    trainers: Sequence[ReadoutTrainer], features: torch.Tensor, guidance: torch.Tensor | None
) -> Iterator[list[torch.Tensor]]:
    """The outputs of some trainers after the others', as :meth:`Readout.forward_in_turn`."""
    if len(trainers[0].heads) > 1:  # one loss of several readouts
        yield _forward(trainers, features, guidance)
        return
    heads = [trainer.heads[0] for trainer in trainers]
    yield from type(heads[0]).forward_in_turn(heads, features, trainers[0].spec.output_size, guidance)


def is_finite(output: torch.Tensor) -> bool:
    """Whether all of a large tensor is; as a rule without another tensor of its size, as its sum is finite then too."""
    return bool(torch.isfinite(output.sum())) or bool(torch.isfinite(output).all())


def _all_finite(numbers: Sequence[torch.Tensor]) -> bool:
    return bool(torch.isfinite(torch.stack([number.detach() for number in numbers])).all())


def learning_rate_factor(iteration: int, iterations: int) -> float:
    """Share of the peak learning rate at step ``iteration`` of ``iterations``: linear up, then a cosine to 0."""
    rising = math.ceil(WARM_UP * iterations)
    if iteration < rising:
        return (iteration + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (iteration - rising) / max(1, iterations - rising)))


def stack_trainers(trainers: Sequence[ReadoutTrainer], weight_decay: float, *, threads: int = 1) -> list[StackedGroup]:
    """Groups of at most 16 trainers of one shape, output size and number of steps; the trainers' order stays.

    Where ``threads`` groups can step at the same time, no group has more than its share of the trainers.
    """
    most = min(MAX_STACK, -(-len(trainers) // threads))
    shapes = [_shape(trainer) for trainer in trainers]
    places = sorted(range(len(trainers)), key=lambda place: shapes.index(shapes[place]))
    groups = []
    for _, same in groupby(places, key=lambda place: shapes.index(shapes[place])):
        members = [trainers[place] for place in same]
        groups += [StackedGroup(members[i : i + most], weight_decay) for i in range(0, len(members), most)]
    return groups


def _shape(trainer: ReadoutTrainer) -> Hashable:
    keys = [(type(head), head.stack_key()) for head in trainer.heads]
    # a readout that cannot be stacked has a shape of its own
    alone = tuple(id(head) for head, (_, key) in zip(trainer.heads, keys, strict=True) if key is None)
    return tuple(keys), alone, trainer.spec.output_size, trainer.spec.iterations


@sleep_if_cores_are_short()
def train(
    groups: Sequence[StackedGroup],
    stream: BatchStream,
    draws: np.ndarray,
    config: ProbeConfig,
    progress: Progress,
    *,
    stage: str = "train",
) -> float:
    """Train all ``groups`` to the end on the same batches of ``draws``; returns the seconds it took.

    Each batch is read once and each task's target made once, whatever the number of readouts; on a CPU groups step side
    by side. A trainer that diverges has a ``failure``; the others go on.
    """
    trainers = [trainer for group in groups for trainer in group.trainers]
    iterations = max(trainer.spec.iterations for trainer in trainers)
    order = image_order(config.order_seed, draws, iterations=iterations, batch_size=config.batch_size)
    start = time.perf_counter()
    with side_by_side(len(groups), config.device) as run:
        for iteration, batch in enumerate(stream.batches(order), start=1):
            features, unfinished = batch.features.float(), [group for group in groups if not group.done]
            if not unfinished:
                break
            tasks = {one.spec.task.name: one.spec.task for group in unfinished for one in group.trainers}
            # a task draws the same whatever other tasks are trained beside it
            seed = int(np.random.SeedSequence([config.order_seed, iteration]).generate_state(1)[0])
            targets = {
                name: task.training_target(batch.maps, batch.rows, torch.Generator().manual_seed(seed))
                for name, task in tasks.items()
            }
            run([partial(group.step, features, batch.guidance, targets) for group in unfinished])
            if iteration % _REPORT_EVERY == 0 or iteration == iterations:
                losses = [one.recent_loss() for one in trainers if one.failure is None]
                finite = [loss for loss in losses if math.isfinite(loss)]
                mean = sum(finite) / len(finite) if finite else None
                progress(ProbeProgress(stage=stage, done=iteration, total=iterations, mean_loss=mean))
    return time.perf_counter() - start


def thread_count(device: torch.device | str) -> int:
    """How many groups can step at the same time: as many as PyTorch uses threads on a CPU, one on an accelerator."""
    return torch.get_num_threads() if torch.device(device).type == "cpu" else 1


@contextmanager
def side_by_side(most: int, device: torch.device | str) -> Iterator[Callable[[Sequence[Callable[[], None]]], None]]:
    """A function that runs up to ``most`` jobs at once and returns when all are done.

    The operations of a small readout are short: two cores that share each of them wait for each other at its end, two
    cores with a readout each don't. The first error of a job is raised, after the others have ended.
    """
    cores = torch.get_num_threads()
    threads = min(most, thread_count(device))
    if threads <= 1:

        def run_in_turn(jobs: Sequence[Callable[[], None]]) -> None:
            for job in jobs:
                job()

        yield run_in_turn
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(cores // threads,)) as pool:

            def run_at_once(jobs: Sequence[Callable[[], None]]) -> None:
                running = [pool.submit(job) for job in jobs]
                errors = [error for job in running if (error := job.exception()) is not None]
                if errors:
                    raise errors[0]

            yield run_at_once
    finally:
        torch.set_num_threads(cores)  # each worker's share became what new threads start with
