"""``deapcache extract``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.console import Bars, bars, duration, note, out, print_json, show, size, table

if TYPE_CHECKING:
    from deapcache.extraction import ExtractionPlan, ExtractionReport, ExtractionSettings, Progress
    from deapcache.locations import HomeDefaults

_LISTED = 100
"""Images left out that are shown of each split."""


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """How features are extracted, which of them, and where."""

    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            help="Checkpoint (safetensors, torch, or the index of several files) instead of a download. Keys that do "
            "not fit are an error; --dry-run tries it.",
        ),
    ] = None
    weights_key: Annotated[
        str,
        typer.Option(
            "--weights-key",
            help="Beginning of the backbone's keys in that checkpoint: teacher.backbone. By default it is found.",
        ),
    ] = ""
    name: Annotated[
        str,
        typer.Option("--name", help="What to call the features of that checkpoint. Default: BACKBONE+FILE."),
    ] = ""
    image_size: options.ImageSize = None
    base_size: Annotated[
        str | None,
        typer.Option("--base-size", help="224, HEIGHTxWIDTH or native. Default: the dataset's (224x224)."),
    ] = None
    fit: Annotated[
        str,
        typer.Option(
            "--fit",
            help="squash: scale each axis to the base size on its own, as the paper does. crop: take the largest "
            "centred part of the base size's shape, then scale.",
        ),
    ] = "squash"
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            help="Storage: float16, bfloat16 (rounded, smaller), float32, int8. Default: the home's own, then float16.",
        ),
    ] = None
    compress: Annotated[
        bool | None,
        typer.Option(
            "--compress/--no-compress",
            help="Whether new caches of features are compressed. Without, reads from memory are fastest, and file "
            "systems that compress by themselves do it once. Default: the home's own, then compressed.",
        ),
    ] = None
    precision: Annotated[
        str | None,
        typer.Option("--precision", help="Compute: fp32, bf16 or fp16 autocast. Default: the home's own, then fp32."),
    ] = None
    views: Annotated[
        str | None,
        typer.Option(
            "--views",
            help="original, hflip (mirrored images; of the training split alone unless --split says more), or both. "
            "Default: the home's own, then original.",
        ),
    ] = None
    layers: Annotated[
        str,
        typer.Option(
            "--layers",
            help="Blocks of a vision transformer to keep, from 1: 3,6,9,12. Each is a cache; one forward gives all.",
        ),
    ] = "last"
    final_norm: Annotated[
        bool | None,
        typer.Option(
            "--final-norm/--no-final-norm",
            help="Whether the backbone's final norm is applied to these layers. Default: as for its last one.",
        ),
    ] = None
    tokens: Annotated[str, typer.Option("--tokens", help="cls: keep the class token beside the features; none.")] = (
        "none"
    )
    batch_size: options.BatchSize = None
    device: options.Device = "auto"
    limit: Annotated[
        int | None, typer.Option("--limit", help="Only the first N images of each split, rounded up to whole shards.")
    ] = None
    on_error: Annotated[
        str,
        typer.Option(
            "--on-error",
            help="Images that cannot be read, or an annotation of theirs: stop, or skip (left out, listed, recorded).",
        ),
    ] = "stop"
    rehash: Annotated[
        bool,
        typer.Option(
            "--rehash", help="Read every image and label file again for its digest, and trust none that is remembered."
        ),
    ] = False
    shard: Annotated[
        str | None,
        typer.Option("--shard", help="Only this part of the shards, 1/8 to 8/8: for the tasks of a Slurm array."),
    ] = None

    def for_extraction(self, home: HomeDefaults) -> ExtractionSettings:
        """The same as the library takes it, with the home's defaults where the command line says nothing.

        Raises :class:`UsageError` for values that it does not know.
        """
        from deapcache.backbones import LayerSelection
        from deapcache.extraction import (
            ExtractionSettings,
            ShardPartition,
            agreed_settings,
            parse_base_size,
            parse_partition,
        )

        given = {
            "storage": self.dtype,
            "compress": self.compress,
            "precision": self.precision,
            "views": tuple(options.names(self.views)) if self.views is not None else None,
        }
        agreed = agreed_settings(home)
        options.note_agreed(home, {field: value for field, value in agreed.items() if given[field] is None})
        chosen = {**agreed, **{field: value for field, value in given.items() if value is not None}}
        return ExtractionSettings(
            base_size=parse_base_size(self.base_size) if self.base_size else None,
            fit=self.fit,
            weights=self.weights,
            weights_key=self.weights_key,
            name=self.name,
            selection=LayerSelection(
                layers=tuple(options.names(self.layers)), final_norm=self.final_norm, tokens=self.tokens
            ),
            batch_size=self.batch_size,
            device=self.device,
            limit=self.limit,
            on_error=self.on_error,
            rehash=self.rehash,
            partition=parse_partition(self.shard) if self.shard else ShardPartition(),
            **chosen,
        )


def extract_command(
    *,
    backbone: Annotated[
        str,
        typer.Option(
            "--backbone",
            help="Name, or several: a,b (deapcache list backbones), NAME@untrained, NAME@untrained:SEED, NAME@512.",
        ),
    ],
    dataset: Annotated[str, typer.Option("--dataset", help="Name of the dataset (deapcache list datasets).")],
    split: Annotated[str | None, typer.Option("--split", help="Splits: train,val. Default: all it has.")] = None,
    data_root: options.DataRoot = None,
    caches: options.Caches,
    plugin: options.Plugin = None,
    trust_remote_code: options.TrustRemoteCode = False,
    settings: _Settings,
    processes: options.Processes,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print images, bytes, time estimate and free space; extract nothing.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Run frozen backbones once over a dataset and keep their feature volumes.

    What is there already is not made again: after an interruption the same command does the rest. Started on several
    hosts at once, the same command shares the work.
    """
    from deapcache.backbones import split_name
    from deapcache.datasets import open_dataset

    names = options.backbone_names(backbone, settings.image_size)
    if settings.weights is not None and len({split_name(name)[0] for name in names}) > 1:
        raise typer.BadParameter("--weights is the checkpoint of one backbone: give one --backbone with it")
    place, splits = caches.location(), options.names(split) or None
    opened = open_dataset(dataset, locations.data_root(data_root))
    how = settings.for_extraction(locations.home_defaults(place))
    from deapcache.extraction import extract, plan_extraction  # loads torch: wrong names are said before

    if dry_run:
        with bars() as display:
            plan = plan_extraction(names, opened, place, splits=splits, settings=how, progress=progress_on(display))
        _show_plan(plan, json)
        return
    with processes.cluster(settings.device) as cluster, bars() as display:
        progress = progress_on(display)
        reports = list(extract(names, opened, place, splits=splits, settings=how, progress=progress, executor=cluster))
    _show_reports(reports, json)
    if settings.shard:
        left = [f"{r.backbone} {r.dataset}/{r.split} {r.left:,} images" for r in reports if r.left]
        note(f"part {settings.shard} is done; left for the others: {', '.join(left) or 'nothing, all is there'}")


def progress_on(display: Bars) -> Progress:
    """Progress events as bars, with MB/s where bytes are written; a new cache beside others as a line."""
    from deapcache.cache import ProgressEvent

    def on_event(event: ProgressEvent) -> None:
        if event.new_cache or event.message:
            note(str(event.new_cache) if event.new_cache else f"{event.stage}: {event.message}")
            return
        seconds = display.seconds(event.stage)
        rate = f"{event.bytes / seconds / 1e6:.0f} MB/s" if seconds > 0 else ""
        display.show(event.stage, event.done, event.total, event.unit, rate)

    return on_event


def _show_plan(plan: ExtractionPlan, json: bool) -> None:
    if json:
        print_json(plan.to_json())
        return
    listing = table("what", "split", "images", "to do", "at most", right=("images", "to do", "at most"))
    for cache in plan.caches:
        listing.add_row(cache.what, cache.split, f"{cache.images:,}", f"{cache.to_do:,}", size(cache.bytes))
    out.print(listing)
    _show_omitted(plan.omitted)
    if plan.weights:
        out.print(plan.weights)
    for name, terms in plan.terms.items():
        out.print(f"{name}: {terms}")
    for name, rate in plan.images_per_second.items():
        out.print(f"{name}: {rate:.1f} images/s measured on {plan.device}")
    free = "unknown" if plan.free_bytes is None else size(plan.free_bytes)
    out.print(f"{plan.forwards:,} forwards, about {duration(plan.seconds())}; {size(plan.bytes)} at most")
    out.print(f"home {plan.home}: {free} free")
    if plan.free_bytes is not None and plan.bytes > plan.free_bytes:
        note("this does not fit: choose another --home, a smaller --dtype, or fewer images with --limit")


def _show_reports(reports: list[ExtractionReport], json: bool) -> None:
    """What each backbone over each split came to."""
    show(
        reports,
        json,
        {
            "backbone": lambda r: f"{r.backbone} · layer {r.layer}" if r.layer.isdecimal() else r.backbone,
            "dataset": lambda r: r.dataset,
            "split": lambda r: r.split,
            "view": lambda r: r.view,
            "images": lambda r: f"{r.images:,}" if r.images == r.total else f"{r.images:,} of {r.total:,}",
            "new": lambda r: f"{r.extracted:,}",
            "size": lambda r: size(r.stored_bytes),
            "images/s": lambda r: f"{r.extracted / r.seconds:.1f}" if r.extracted else "–",
            "cache": lambda r: r.path,
        },
        right=("images", "new", "size", "images/s"),
        document=lambda r: r.to_json(),
    )
    if not json:
        _show_omitted({f"{r.dataset}/{r.split}": r.omitted for r in reports})


def _show_omitted(omitted: Mapping[str, Mapping[str, str]]) -> None:
    """What was left out of each split, and why; the first of very many."""
    for place, reasons in omitted.items():
        if reasons:
            out.print(f"left out of {place}, since they cannot be read: {len(reasons):,} images")
        for name, reason in list(reasons.items())[:_LISTED]:
            out.print(f"  {name}: {reason}")
        if len(reasons) > _LISTED:
            out.print(f"  and {len(reasons) - _LISTED:,} more, which --json lists, and checks/ in the home")
