"""How fast things go, and how that is known: measured, or estimated from arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from deapcache.backbones import count_flops
from deapcache.errors import DeapcacheError, UsageError
from deapcache.experiments.planning.flops import count_step_flops
from deapcache.experiments.planning.hardware import require_above_zero
from deapcache.experiments.planning.rates import Rates
from deapcache.experiments.planning.work import StepGroup

MEASURED, ESTIMATED, UNKNOWN = "measured", "estimated", "unknown"


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """What the user takes a GPU to do; raises :class:`UsageError` for values out of range."""

    tflops: float
    """Its arithmetic at its best, TFLOP/s in the precision of the forward passes."""
    utilisation: float = 1.0
    """Share of it that forward passes sustain."""
    probe_utilisation: float | None = None
    """Share that training readouts sustains: they are many short operations; None: not stated."""

    def __post_init__(self) -> None:
        require_above_zero("--tflops", self.tflops)
        for option, share in (("--utilisation", self.utilisation), ("--probe-utilisation", self.probe_utilisation)):
            require_above_zero(option, share)
            if share is not None and share > 1:
                raise UsageError(f"{option} is {share:g}: expected a share of --tflops, at most 1")

    def sustained(self, share: float) -> float:
        """Floating-point operations a second."""
        return 1e12 * self.tflops * share


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds that one thing takes on one GPU, and how that is known."""

    seconds: float | None
    """Of one image forwarded, or of one training step; None: nothing tells."""
    known: str
    """``MEASURED``, ``ESTIMATED`` or ``UNKNOWN``."""
    gflops: float | None = None
    """Arithmetic of one image or step where it was counted, GFLOP."""
    teraflops: float | None = None
    """TFLOP/s that an estimate takes the GPU to sustain."""

    @property
    def how(self) -> str:
        """For people."""
        if self.known != ESTIMATED:
            return self.known
        count = 0.0 if self.gflops is None else self.gflops
        shown = f"{count:,.1f}" if count >= 10 else f"{count:.3g}"
        return f"estimated from {shown} GFLOP an image at {self.teraflops:.3g} TFLOP/s"


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """All that is known of speeds: what was measured comes first."""

    rates: Rates | None = None
    throughput: Throughput | None = None

    def forward(self, backbone: str, precision: str) -> Speed:
        """Of one image through a backbone."""
        measured = self.rates.forward(backbone, precision) if self.rates else None
        if measured is not None:
            return Speed(seconds=1 / measured, known=MEASURED)
        if self.throughput is None:
            return Speed(seconds=None, known=UNKNOWN)
        return _estimated(count_flops(backbone), self.throughput.sustained(self.throughput.utilisation))

    def step(self, group: StepGroup) -> Speed:
        """Of one training step of readouts that step together; measured ones by themselves, one after the other."""
        measured = self.rates.step(group.key) if self.rates else None
        if measured is None and self.rates and (alone := self.rates.step(group.alone)) is not None:
            measured = group.key.members * alone
        if measured is not None:
            return Speed(seconds=measured, known=MEASURED)
        if self.throughput is None or self.throughput.probe_utilisation is None:
            return Speed(seconds=None, known=UNKNOWN)
        try:
            flops = count_step_flops(group)
        except DeapcacheError:  # a readout that cannot be built here, as one whose published part is not at hand
            return Speed(seconds=None, known=UNKNOWN)
        return _estimated(flops, self.throughput.sustained(self.throughput.probe_utilisation))


def _estimated(flops: int, per_second: float) -> Speed:
    return Speed(seconds=flops / per_second, known=ESTIMATED, gflops=flops / 1e9, teraflops=per_second / 1e12)
