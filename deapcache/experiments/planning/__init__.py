"""Planning: what pipelines cost, and how long they take at measured rates."""

from deapcache.experiments.planning.document import grid_json
from deapcache.experiments.planning.grid import GridPlan, plan_grid
from deapcache.experiments.planning.measuring import lacking, machine_name, measure_rates
from deapcache.experiments.planning.priced import FeatureWork, PricedPass
from deapcache.experiments.planning.rates import Rates, rates_key, read_rates, write_rates
from deapcache.experiments.planning.speeds import Speed, Speeds
from deapcache.experiments.planning.stages import Stage
from deapcache.experiments.planning.work import PassWork, StepGroup

__all__ = [
    "FeatureWork",
    "GridPlan",
    "PassWork",
    "PricedPass",
    "Rates",
    "Speed",
    "Speeds",
    "Stage",
    "StepGroup",
    "grid_json",
    "lacking",
    "machine_name",
    "measure_rates",
    "plan_grid",
    "rates_key",
    "read_rates",
    "write_rates",
]
