"""Stage 2: cached features in; trained readouts, scores and per-image statistics out. Never runs a backbone."""

from deapcache.probing.evaluate import Examples
from deapcache.probing.finding import feature_fields
from deapcache.probing.mirrored import require_original
from deapcache.probing.options import ProbeOptions, default_iterations
from deapcache.probing.planned import PlannedRun
from deapcache.probing.probe import planned_runs, probe_backbone
from deapcache.probing.progress import ProbeProgress
from deapcache.probing.run import ProbeRun

__all__ = [
    "Examples",
    "PlannedRun",
    "ProbeOptions",
    "ProbeProgress",
    "ProbeRun",
    "default_iterations",
    "feature_fields",
    "planned_runs",
    "probe_backbone",
    "require_original",
]
