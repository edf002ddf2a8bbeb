"""Planning: what pipelines cost on stated hardware, from measured rates or from arithmetic."""

from deapcache.experiments.planning.document import grid_json
from deapcache.experiments.planning.grid import GridPlan, plan_grid
from deapcache.experiments.planning.hardware import Hardware
from deapcache.experiments.planning.measuring import lacking, machine_name, measure_rates
from deapcache.experiments.planning.priced import FeatureWork, PricedPass
from deapcache.experiments.planning.rates import Rates, rates_key, read_rates, write_rates
from deapcache.experiments.planning.speeds import Speed, Speeds, Throughput
from deapcache.experiments.planning.stages import Stage
from deapcache.experiments.planning.work import PassWork, StepGroup

__all__ = [
    "FeatureWork",
    "GridPlan",
    "Hardware",
    "PassWork",
    "PricedPass",
    "Rates",
    "Speed",
    "Speeds",
    "Stage",
    "StepGroup",
    "Throughput",
    "grid_json",
    "lacking",
    "machine_name",
    "measure_rates",
    "plan_grid",
    "rates_key",
    "read_rates",
    "write_rates",
]
