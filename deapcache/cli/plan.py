"""``deapcache plan``, and what ``deapcache run --dry-run`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.console import bars, note, print_json
from deapcache.cli.plan_tables import print_plan
from deapcache.errors import MissingDataError, UsageError

if TYPE_CHECKING:
    from deapcache.experiments.planning import GridPlan, Rates, Speeds, StepGroup, Throughput
    from deapcache.locations import Location

_GIGA = 1e9


def plan_command(
    pipelines: Annotated[list[str], typer.Argument(help="Pipeline files, or names of shipped ones: table3 table4 …")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Replace a value in every pipeline, as `run` does. Repeatable.")
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus", help="GPUs of the machine that wall time is stated for.")] = 1,
    read: Annotated[
        float | None, typer.Option("--read", help="GB/s that the store gives to all readers. Default: no limit.")
    ] = None,
    write: Annotated[
        float | None, typer.Option("--write", help="GB/s that the store takes from all writers. Default: no limit.")
    ] = None,
    memory: Annotated[
        float, typer.Option("--memory", help="GB that a pass may hold its training arrays in; 0: every batch is read.")
    ] = 0.0,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Measure on this device what was not measured yet, and keep it: in --rates FILE, else in the home.",
        ),
    ] = False,
    rates: Annotated[
        Path | None, typer.Option("--rates", help="Measured rates. Default: those of this device in the home.")
    ] = None,
    tflops: Annotated[
        float | None,
        typer.Option("--tflops", help="For what was not measured: TFLOP/s of a GPU at its best, as you take it."),
    ] = None,
    utilisation: Annotated[
        float, typer.Option("--utilisation", help="The share of --tflops that forward passes sustain.")
    ] = 1.0,
    probe_utilisation: Annotated[
        float | None,
        typer.Option("--probe-utilisation", help="The share that training readouts sustains: many short operations."),
    ] = None,
    home: options.Home = None,
    plugin: options.Plugin = None,
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> int:
    """What pipelines cost: images forwarded, GPU hours, bytes, files and wall time, less what the home has already.

    Neither datasets nor weights are needed. Nothing is extracted or trained.
    """
    from deapcache.experiments import load_pipeline, plan_pipeline
    from deapcache.experiments.planning import Hardware, Throughput, plan_grid

    throughput = None
    if tflops is not None:
        throughput = Throughput(tflops=tflops, utilisation=utilisation, probe_utilisation=probe_utilisation)
    elif probe_utilisation is not None or utilisation != 1.0:
        raise UsageError("--utilisation and --probe-utilisation are shares of --tflops: give that, too")
    hardware = Hardware(gpus=gpus, read=_giga(read), write=_giga(write), memory=memory * _GIGA)
    place, root = locations.home(home), locations.data_root(data_root)
    plans = [plan_pipeline(load_pipeline(name, settings or []), place, root, device=device) for name in pipelines]
    source = RateSource(place, rates, plans[0].device, measure, throughput)
    plan = plan_grid(plans, hardware=hardware, speeds=source.speeds)
    show(plan, json)
    return 0


def show(plan: GridPlan, json: bool) -> None:
    """Print a plan."""
    from deapcache.experiments.planning import grid_json

    if json:
        print_json(grid_json(plan))
    else:
        print_plan(plan)


class RateSource:
    """Where a plan's speeds come from: a file of rates, measuring, or the throughput that the user states."""

    def __init__(
        self,
        home: Location,
        file: Path | None,
        device: str,
        measure: bool,
        throughput: Throughput | None = None,
        *,
        keep: bool = True,
    ) -> None:
        from deapcache.experiments.planning import machine_name, rates_key

        self._place, self._key = home, rates_key(machine_name(device))
        self._given = file
        if file is not None:
            self._place, self._key = locations.locate(file.parent), file.name
        self._device, self._measure, self._throughput, self._keep = device, measure, throughput, keep

    def speeds(self, forwards: Sequence[tuple[str, str]], groups: Sequence[StepGroup]) -> Speeds:
        """The speeds of these; what is measured now is kept."""
        from deapcache.experiments.planning import Speeds, read_rates

        rates = read_rates(self._place, self._key)
        if rates is None and self._given is not None and not self._measure:
            raise MissingDataError(f"--rates {self._given}: no such file; --measure makes it")
        if self._measure:
            rates = self._measured(rates, forwards, groups)
        speeds = Speeds(rates=rates, throughput=self._throughput)
        if self._throughput:
            _count(speeds, forwards)
        return speeds

    def _measured(
        self, rates: Rates | None, forwards: Sequence[tuple[str, str]], groups: Sequence[StepGroup]
    ) -> Rates | None:
        from deapcache.experiments.planning import lacking, machine_name, measure_rates, write_rates

        name = machine_name(self._device)
        if rates is not None and rates.device != name:
            raise UsageError(
                f"{self._place}/{self._key} holds rates of {rates.device}, and this device is {name}: "
                "give another file to --rates with --measure"
            )
        missing = lacking(rates, forwards, groups)
        if not any(missing):
            return rates
        with bars() as shown:
            pieces = measure_rates(
                *missing,
                self._device,
                told=lambda what, done, total: shown.show("measure", done, total, "rates", what),
                failed=lambda what, error: note(f"not measured: {what}: {str(error).splitlines()[0]}"),
            )
            for found in pieces:
                rates = found if rates is None else rates.merged(found)
                if self._keep:  # each at once, so that an interruption costs one
                    write_rates(self._place, self._key, rates)
        if self._keep and rates is not None:
            note(f"rates of {name} are kept in {self._place}/{self._key}")
        return rates


def _count(speeds: Speeds, forwards: Sequence[tuple[str, str]]) -> None:
    """Count the operations of backbones that were not measured, saying each: that of a large one takes seconds."""
    for backbone, precision in forwards:
        speed = speeds.forward(backbone, precision)
        if speed.gflops is not None:
            note(f"counted {backbone}: {speed.gflops:,.1f} GFLOP an image")


def _giga(value: float | None) -> float | None:
    return None if value is None else value * _GIGA
