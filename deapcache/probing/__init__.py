"""Stage 2: cached features in; trained readouts, scores and per-image statistics out. Never runs a backbone.

Read from top to bottom: ``config``, ``caches``, ``batches``, ``train``, ``evaluate``, ``selection``, ``probe``. A
:class:`ProbeConfig` becomes :class:`RunSpec` s, which name what is trained, and these become :class:`ProbeResult` s.
"""

from deapcache.probing.caches import feature_fields, model_of
from deapcache.probing.config import ProbeConfig, ProbeProgress, Residency
from deapcache.probing.probe import ProbeResult, RunSpec, plan_runs, probe_backbone
from deapcache.probing.train import MAX_STACK, ReadoutTrainer, StackedGroup, TaskSpec

__all__ = [
    "MAX_STACK",
    "ProbeConfig",
    "ProbeProgress",
    "ProbeResult",
    "ReadoutTrainer",
    "Residency",
    "RunSpec",
    "StackedGroup",
    "TaskSpec",
    "feature_fields",
    "model_of",
    "plan_runs",
    "probe_backbone",
]
