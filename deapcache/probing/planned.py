"""What a probe would train, told before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deapcache.recipe import Protocol


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One (task, readout, seed, learning rate) of a backbone."""

    protocol: Protocol
    readout: str
    seed: int
    lr: float
    backbone: str
    caches: Mapping[str, Mapping[str, Any]]
    """As in :class:`deapcache.probing.ProbeRun`."""

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.protocol.task

    def facts(self) -> dict[str, Any]:
        """What names the run: those of ``ProbeRun.facts()`` that are known before training."""
        return naming_facts(self.protocol, self.seed, self.backbone, self.caches)


def naming_facts(
    protocol: Protocol, seed: int, backbone: str, caches: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """What :func:`deapcache.results.record.run_id` names a run by, before and after training, as JSON."""
    return {
        "protocol": protocol.to_json(),
        "protocol_digest": protocol.digest,
        "seed": seed,
        "backbone": backbone,
        "caches": {name: dict(facts) for name, facts in caches.items()},
    }
