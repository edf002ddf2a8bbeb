"""``deapcache extract``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.console import Bars, bars, duration, note, out, print_json, size, table
from deapcache.cli.workers import Scheduler, Workers, cluster_for

_LISTED = 100
"""Images left out that are shown of each split."""

if TYPE_CHECKING:
    from deapcache.extraction import ExtractionPlan, ExtractionReport, Progress


def extract_command(
    backbone: Annotated[str, typer.Option("--backbone", help="Name, or several: a,b (deapcache list backbones).")],
    dataset: Annotated[str, typer.Option("--dataset", help="Name of the dataset (deapcache list datasets).")],
    split: Annotated[str | None, typer.Option("--split", help="Splits: train,val. Default: all it has.")] = None,
    data_root: options.DataRoot = None,
    home: options.Home = None,
    read_home: options.ReadHomes = None,
    local_tier: options.TierFolder = None,
    local_tier_size: options.TierSize = None,
    plugin: options.Plugin = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Checkpoint file (safetensors or torch) instead of a download.")
    ] = None,
    base_size: Annotated[
        str | None,
        typer.Option("--base-size", help="224, HEIGHTxWIDTH or native. Default: the dataset's (224x224)."),
    ] = None,
    fit: Annotated[
        str,
        typer.Option(
            "--fit",
            help="squash: scale each axis to the base size on its own, as the paper does. crop: take the largest "
            "centred part of the base size's shape, then scale.",
        ),
    ] = "squash",
    dtype: Annotated[
        str, typer.Option("--dtype", help="Storage: float16, bfloat16 (rounded, smaller), float32, int8.")
    ] = "float16",
    compress: Annotated[
        bool,
        typer.Option(
            "--compress/--no-compress",
            help="Whether new caches of features are compressed. Without, reads from memory are fastest, and file "
            "systems that compress by themselves do it once.",
        ),
    ] = True,
    precision: Annotated[str, typer.Option("--precision", help="Compute: fp32, bf16 or fp16 autocast.")] = "fp32",
    views: Annotated[
        str,
        typer.Option(
            "--views",
            help="original, hflip (mirrored images; of the training split alone unless --split says more), or both.",
        ),
    ] = "original",
    layers: Annotated[
        str,
        typer.Option(
            "--layers",
            help="Blocks of a vision transformer to keep, from 1: 3,6,9,12. Each is a cache; one forward gives all.",
        ),
    ] = "last",
    final_norm: Annotated[
        bool | None,
        typer.Option(
            "--final-norm/--no-final-norm",
            help="Whether the backbone's final norm is applied to these layers. Default: as for its last one.",
        ),
    ] = None,
    tokens: Annotated[
        str, typer.Option("--tokens", help="cls: keep the class token beside the features; none.")
    ] = "none",
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Images in one forward. Default: 32 on a GPU, 8 on a CPU.")
    ] = None,
    device: options.Device = "auto",
    limit: Annotated[
        int | None, typer.Option("--limit", help="Only the first N images of each split, rounded up to whole shards.")
    ] = None,
    on_error: Annotated[
        str,
        typer.Option(
            "--on-error",
            help="Images that cannot be read, or an annotation of theirs: stop, or skip (left out, listed, recorded).",
        ),
    ] = "stop",
    rehash: Annotated[
        bool,
        typer.Option(
            "--rehash", help="Read every image and label file again for its digest, and trust none that is remembered."
        ),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option("--shard", help="Only this part of the shards, 1/8 to 8/8: for the tasks of a Slurm array."),
    ] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print images, bytes, time estimate and free space; extract nothing.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Run frozen backbones once over a dataset and keep their feature volumes.

    What is there already is not made again: after an interruption the same command does the rest. Started on several
    hosts at once, the same command shares the work.
    """
    from deapcache.backbones import LayerSelection
    from deapcache.datasets import open_dataset
    from deapcache.extraction import (
        ExtractionSettings,
        ShardPartition,
        extract,
        parse_base_size,
        parse_partition,
        plan_extraction,
    )

    names = options.names(backbone)
    if weights is not None and len(names) > 1:
        raise typer.BadParameter("--weights is the checkpoint of one backbone: give one --backbone with it")
    settings = ExtractionSettings(
        base_size=parse_base_size(base_size) if base_size else None,
        fit=fit,
        storage=dtype,
        compress=compress,
        precision=precision,
        weights=weights,
        views=tuple(options.names(views)),
        selection=LayerSelection(layers=tuple(options.names(layers)), final_norm=final_norm, tokens=tokens),
        batch_size=batch_size,
        device=device,
        limit=limit,
        on_error=on_error,
        rehash=rehash,
        partition=parse_partition(shard) if shard else ShardPartition(),
    )
    opened = open_dataset(dataset, locations.data_root(data_root))
    place = options.place(home, read_home, local_tier, local_tier_size)
    splits = options.names(split) or None
    if dry_run:
        with bars() as shown:
            plan = plan_extraction(names, opened, place, splits=splits, settings=settings, progress=progress_on(shown))
        _show_plan(plan, json)
        return
    with cluster_for(scheduler, workers, device) as cluster, bars() as shown:
        progress = progress_on(shown)
        done = extract(names, opened, place, splits=splits, settings=settings, progress=progress, executor=cluster)
        reports = list(done)
    show_reports(reports, json)
    if shard:
        _note_left(reports, shard)


def progress_on(shown: Bars) -> Progress:
    """Progress events as bars, with MB/s where bytes are written; a new cache beside others as a line."""
    from deapcache.extraction import ProgressEvent

    def show(event: ProgressEvent) -> None:
        if event.new_cache or event.message:
            note(str(event.new_cache) if event.new_cache else f"{event.stage}: {event.message}")
            return
        seconds = shown.seconds(event.stage)
        rate = f"{event.bytes / seconds / 1e6:.0f} MB/s" if seconds > 0 else ""
        shown.show(event.stage, event.done, event.total, "images", rate)

    return show


def _show_plan(plan: ExtractionPlan, json: bool) -> None:
    if json:
        print_json(plan.to_json())
        return
    shown = table("what", "split", "images", "to do", "at most", right=("images", "to do", "at most"))
    for cache in plan.caches:
        shown.add_row(cache.what, cache.split, f"{cache.images:,}", f"{cache.to_do:,}", size(cache.bytes))
    out.print(shown)
    _show_omitted(plan.omitted)
    for name, rate in plan.images_per_second.items():
        out.print(f"{name}: {rate:.1f} images/s measured on {plan.device}")
    free = "unknown" if plan.free_bytes is None else size(plan.free_bytes)
    out.print(f"{plan.forwards:,} forwards, about {duration(plan.seconds())}; {size(plan.bytes)} at most")
    out.print(f"home {plan.home}: {free} free")
    if plan.free_bytes is not None and plan.bytes > plan.free_bytes:
        note("this does not fit: choose another --home, a smaller --dtype, or fewer images with --limit")


def show_reports(reports: list[ExtractionReport], json: bool) -> None:
    """What each backbone over each split came to."""
    if json:
        documents: list[dict[str, Any]] = [report.to_json() for report in reports]
        print_json(documents)
        return
    shown = table(
        "backbone", "dataset", "split", "view", "images", "new", "size", "images/s", "cache",
        right=("images", "new", "size", "images/s"),
    )  # fmt: skip
    for r in reports:
        rate = f"{r.extracted / r.seconds:.1f}" if r.extracted else "–"
        images = f"{r.images:,}" if r.images == r.total else f"{r.images:,} of {r.total:,}"
        made = f"{r.extracted:,}"
        name = f"{r.backbone} · layer {r.layer}" if r.layer.isdecimal() else r.backbone
        shown.add_row(name, r.dataset, r.split, r.view, images, made, size(r.stored_bytes), rate, r.path)
    out.print(shown)
    _show_omitted({f"{r.dataset}/{r.split}": r.omitted for r in reports})


def _note_left(reports: list[ExtractionReport], shard: str) -> None:
    """What the other parts of the work still have to do."""
    left = [f"{r.backbone} {r.dataset}/{r.split} {r.left:,} images" for r in reports if r.left]
    note(f"part {shard} is done; left for the others: {', '.join(left) or 'nothing, all is there'}")


def _show_omitted(omitted: Mapping[str, Mapping[str, str]]) -> None:
    """What was left out of each split, and why; the first of very many."""
    for place, reasons in omitted.items():
        if reasons:
            out.print(f"left out of {place}, since they cannot be read: {len(reasons):,} images", markup=False)
        for name, reason in list(reasons.items())[:_LISTED]:
            out.print(f"  {name}: {reason}", markup=False)
        if len(reasons) > _LISTED:
            out.print(
                f"  and {len(reasons) - _LISTED:,} more, which --json lists, and checks/ in the home", markup=False
            )
