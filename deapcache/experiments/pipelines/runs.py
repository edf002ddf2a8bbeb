"""Which runs of a pass are there already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deapcache.errors import AmbiguousCacheError, CacheMissError, DeapcacheError, IncompleteCacheError, LocationError
from deapcache.experiments.pipelines.passes import Pass
from deapcache.locations import Location
from deapcache.probing import RunSpec, plan_runs
from deapcache.results.record import result_key, run_id


@dataclass(frozen=True, kw_only=True)
class PassRuns:
    """A pass, with its runs where the caches are there to name them."""

    unit: Pass
    fields: Mapping[str, Any]
    """Recipe fields that its features and targets have."""
    images_name: str
    """Dataset under whose name the features are cached."""
    runs: Mapping[str, RunSpec]
    """By name; empty while the caches are not there, for they are part of a run's name."""
    there: frozenset[str]
    """Names of the runs that have a result."""
    lacking: str
    """What the caches lack; empty where the runs are known."""
    problem: str
    """What no extraction can put right; empty as a rule."""

    @property
    def is_known(self) -> bool:
        """Whether the caches are there, and with them the names of the runs."""
        return not (self.lacking or self.problem)

    @property
    def missing(self) -> int:
        """Runs without a result."""
        return self.unit.count - len(self.there)

    @property
    def steps(self) -> int:
        """Training steps of the runs without a result."""
        if self.is_known:
            return sum(run.protocol.iterations for name, run in self.runs.items() if name not in self.there)
        return sum(self.unit.iterations(task) for task, _, _ in self.unit.wanted) * len(self.unit.options.lrs)

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        unit = self.unit
        return {
            "backbone": unit.backbone,
            "dataset": unit.dataset,
            "tasks": list(unit.tasks),
            "readouts": list(unit.readouts),
            "seeds": list(unit.seeds),
            "runs": unit.count,
            "there": sorted(self.there),
            "steps": self.steps,
            "lacking": self.lacking,
        }

    def is_settled(self, planned: RunSpec) -> bool:
        """Whether a run needs no training: its result is there, or the pipeline does not ask for it."""
        name = run_id(planned.to_json())
        return name not in self.runs or name in self.there


def find_runs(unit: Pass, home: Location, *, fields: Mapping[str, Any], images_name: str) -> PassRuns:
    """The runs of a pass by the caches that ``home`` holds now, and which of them have a result."""
    runs: Mapping[str, RunSpec] = {}
    lacking = problem = ""
    try:
        planned = plan_runs(home, unit.config(fields, images_name))
        wanted = set(unit.wanted)
        runs = {run_id(run.to_json()): run for run in planned if (run.task, run.readout, run.seed) in wanted}
    except (CacheMissError, IncompleteCacheError) as error:
        lacking = str(error)
    except LocationError:
        raise
    except AmbiguousCacheError as error:
        problem = f"{unit.name}: {error} (of a pipeline: --set where.FIELD=VALUE)"
    except DeapcacheError as error:
        problem = f"{unit.name}: {error}"
    return PassRuns(
        unit=unit,
        fields=fields,
        images_name=images_name,
        runs=runs,
        there=frozenset(name for name in runs if home.exists(result_key(name))),
        lacking=lacking,
        problem=problem,
    )
