"""What combines the two stages."""

from deapcache.experiments.demo import run_demo
from deapcache.experiments.probe import Probed, ProbeRequest, Report, probe
from deapcache.extraction import choose_device

__all__ = ["ProbeRequest", "Probed", "Report", "choose_device", "probe", "run_demo"]
