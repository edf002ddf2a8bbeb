"""What a pipeline trains, pass by pass: everything of one backbone and dataset that has the same options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from deapcache.experiments.pipelines.pipeline import Pipeline, ProbeSpec
from deapcache.probing import ProbeConfig, default_iterations
from deapcache.readouts import canonical_readout
from deapcache.results.record import largest_key, run_name

Wanted = tuple[str, str, int]
"""Task, readout, seed."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Readouts that train from one stream of cached features."""

    backbone: str
    dataset: str
    options: ProbeConfig
    wanted: tuple[Wanted, ...]
    """Without repetition; each is trained once for each learning rate."""

    @property
    def name(self) -> str:
        """For people: ``dinov2 · coco``."""
        return f"{self.backbone} · {self.dataset}"

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks, in order."""
        return tuple(dict.fromkeys(task for task, _, _ in self.wanted))

    @property
    def readouts(self) -> tuple[str, ...]:
        """All readouts, in order."""
        return tuple(dict.fromkeys(readout for _, readout, _ in self.wanted))

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds, in order."""
        return tuple(dict.fromkeys(seed for _, _, seed in self.wanted))

    @property
    def count(self) -> int:
        """Runs of this pass."""
        return len(self.wanted) * len(self.options.lrs)

    def config(self, where: Mapping[str, Any], images_name: str) -> ProbeConfig:
        """The probe of this pass, on caches that have the recipe fields ``where``."""
        return replace(
            self.options,
            tasks=self.tasks,
            dataset=self.dataset,
            backbones=(self.backbone,),
            readouts=self.readouts,
            seeds=self.seeds,
            where=where,
            images_name=images_name,
        )

    def largest_keys(self) -> Iterator[str]:
        """Of each run's files the one with the longest name, with another digest in it."""
        for task, readout, seed in self.wanted:
            yield largest_key(run_name(task, self.dataset, self.backbone, canonical_readout(readout), seed))

    def iterations(self, task: str) -> int:
        """Training steps of each readout of ``task``."""
        return self.options.iterations or default_iterations(task)


def passes_of(pipeline: Pipeline, device: str) -> list[Pass]:
    """The passes of a pipeline, to be run on ``device``; in the order of its probes and their backbones."""
    groups: dict[tuple[str, str], list[list[ProbeSpec]]] = {}
    for spec in pipeline.probes:
        for backbone in spec.backbones:
            alike = groups.setdefault((spec.dataset, backbone), [])
            members = next((found for found in alike if found[0].options == spec.options), None)
            if members is None:
                alike.append(members := [])
            members.append(spec)
    passes = [_pass(backbone, members, device) for (_, backbone), alike in groups.items() for members in alike]
    return [one for one in passes if one.wanted]


def _pass(backbone: str, members: list[ProbeSpec], device: str) -> Pass:
    wanted = [
        (task, readout, seed)
        for spec in members
        for task in spec.tasks
        for readout in spec.readouts
        if readout not in spec.left_out
        for seed in spec.seeds
    ]
    return Pass(
        backbone=backbone,
        dataset=members[0].dataset,
        options=replace(members[0].options, device=device),
        wanted=tuple(dict.fromkeys(wanted)),
    )
