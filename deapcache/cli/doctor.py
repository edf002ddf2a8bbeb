"""``deapcache doctor``: what this machine, home and data look like to deapcache."""

from __future__ import annotations

import os
import platform
import time
import uuid
from typing import Annotated, Any

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.console import out, print_json, size, table
from deapcache.cli.doctor_dataset import check_dataset
from deapcache.cli.listing import found
from deapcache.errors import DeapcacheError, UsageError
from deapcache.locations import Location
from deapcache.machine import cpu_count, versions

_PACKAGES = ("deapcache", "torch", "timm", "open_clip_torch", "zarr", "numcodecs", "obstore", "dask")
_ABSENT = "not installed"
_PROBE_BYTES = 64 * 1024 * 1024


def doctor_command(
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="Check the files of this dataset instead; exit code 1 where one is not fine."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="With --dataset: open every image and annotation, not 20 images a split.")
    ] = False,
    home: options.Home = None,
    plugin: options.Plugin = None,
    data_root: options.DataRoot = None,
    json: options.Json = False,
) -> int:
    """Check device, versions, cache home (free space, measured bandwidth), datasets and weights, or one dataset."""
    root = locations.data_root(data_root)
    if dataset is not None:
        return check_dataset(dataset, root, full=full, json=json)
    if full:
        raise UsageError("--full opens every file of one dataset: say which with --dataset")
    place = locations.home(home)
    report = {
        "device": _devices(),
        "versions": {"python": platform.python_version(), **dict.fromkeys(_PACKAGES, _ABSENT), **versions(*_PACKAGES)},
        "home": _home(place),
        "data_root": str(root),
        "datasets": _datasets(root),
        "weights": _weights(),
    }
    if json:
        print_json(report)
        return 0
    shown = table("", "")
    shown.show_header = False
    for topic, facts in report.items():
        for name, value in facts.items() if isinstance(facts, dict) else [("", facts)]:
            shown.add_row(f"{topic} {name}".strip(), str(value))
    out.print(shown)
    return 0


def _devices() -> dict[str, str]:
    import torch

    mine, all_of_them = cpu_count(), os.cpu_count()
    cores = f"{mine} of {all_of_them}" if mine != all_of_them else f"{mine}"
    found = {"cpu": f"{cores} cores, torch uses {torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{properties.name}, {size(properties.total_memory)}"
    return found


def _home(place: Location) -> dict[str, str]:
    facts = {"": str(place)}
    if others := place.layers[1:]:
        facts["read too"] = ", ".join(map(str, others))
    free = place.free_bytes()
    if free is not None:
        facts["free"] = size(free)
    try:
        facts.update(_bandwidth(place))
    except DeapcacheError as error:
        facts["writable"] = f"no: {error}"
    return facts


def _bandwidth(place: Location) -> dict[str, str]:
    """Write, synchronise and read back 64 MB that do not compress; the read may come from the page cache."""
    key, data = f"doctor-{uuid.uuid4().hex}", os.urandom(_PROBE_BYTES)
    start = time.perf_counter()
    place.publish(key, data)
    written = time.perf_counter()
    try:
        place.read(key)
        done = time.perf_counter()
    finally:
        place.delete(key)
    return {
        "writes": f"{size(len(data) / (written - start))}/s",
        "reads": f"{size(len(data) / (done - written))}/s (just written: may come from memory)",
    }


def _datasets(root: Any) -> dict[str, str]:
    from deapcache.datasets import DATASETS

    return {
        name: "; ".join(f"{split}: {what}" for split, what in found(entry, root).items()) for name, entry in DATASETS
    }


def _weights() -> dict[str, str]:
    from deapcache.backbones import BACKBONES, weights_status

    return {name: weights_status(name) for name in BACKBONES.names()}
