"""Results as tables: one for each task and dataset, of everything that was measured the same way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, Any

from deapcache.recipe import SHORT
from deapcache.results.aggregate import Summary, mixture
from deapcache.results.blocks import Block, print_blocks
from deapcache.results.cells import cost_columns, heading, interval, score
from deapcache.results.reading import layer_of, tokens_of
from deapcache.results.record import Result, plain_json
from deapcache.results.uncertainty import Uncertainty, UncertaintyOf

PRIOR_ROW = "image-independent prior"

_NAMED = 10
"""Images left out that are named beneath a table."""


def make_blocks(summaries: Sequence[Summary], *, uncertainty: UncertaintyOf | None = None) -> list[Block]:
    """One block for each task, dataset and conditions, in the order of ``summaries``.

    Mixed results (``summarise(..., allow_mixed=True)``) so stand in blocks of their own, never beside each other, and
    the notes say in what they differ. ``uncertainty`` adds the 95% interval of the main metric.
    """
    groups: dict[tuple[str, str, str], list[Summary]] = {}
    for summary in summaries:
        groups.setdefault((summary.task, summary.dataset, summary.conditions), []).append(summary)
    return [
        _block(f"{task} · {dataset}", group, uncertainty, mixture(group, summaries))
        for (task, dataset, _), group in groups.items()
    ]


def print_tables(
    summaries: Sequence[Summary], *, file: IO[str] | None = None, uncertainty: UncertaintyOf | None = None
) -> None:
    """Print a table for each task: in colour on a terminal, else as plain text that is never wrapped or cut."""
    print_blocks(make_blocks(summaries, uncertainty=uncertainty), file=file)


def tables_json(summaries: Sequence[Summary], *, uncertainty: UncertaintyOf | None = None) -> list[dict[str, Any]]:
    """The rows of all tables as JSON objects, in the order of ``summaries``."""
    return [_row_json(summary, uncertainty) for summary in summaries]


def _row_json(summary: Summary, uncertainty: UncertaintyOf | None) -> dict[str, Any]:
    first = summary.first
    known = uncertainty(summary) if uncertainty else None
    row = {
        **{name: getattr(summary, name) for name in ("task", "dataset", "backbone", "readout", "lr")},
        **{name: getattr(summary, name) for name in ("protocol_digest", "conditions", "seeds", "mean", "spread")},
        "layer": layer_of(first),
        "tokens": tokens_of(first),
        "runs": [result.run for result in summary.results],
        "metrics": first.metrics,
        "main_metric": first.main_metric,
        "prior": first.prior,
        "parameters": first.parameters,
        "cost": summary.cost,
        "train_images": first.train_images,
        "val_images": first.val_images,
    }
    if known is not None:
        row |= {"intervals": known.intervals, "problem": known.problem}
    return dict(plain_json(row))


def _block(title: str, summaries: Sequence[Summary], uncertainty: UncertaintyOf | None, mixed: Sequence[str]) -> Block:
    known = [uncertainty(summary) for summary in summaries] if uncertainty else []
    header, *rows = zip(*_columns(summaries, known), strict=True)
    notes = list(mixed)
    if known:
        notes.append("95% interval: of the mean over seeds, bootstrap over the val images")
        notes += dict.fromkeys(f"no interval: {one.problem}" for one in known if one.problem)
    return Block(title, header, tuple(rows), (*notes, *_run_notes(summaries)), frozenset([len(summaries)]))


def _columns(summaries: Sequence[Summary], known: Sequence[Uncertainty]) -> Iterator[tuple[str, ...]]:
    """Header, a cell for each summary, and one for the prior."""
    first = summaries[0].first
    yield "backbone", *(summary.label for summary in summaries), PRIOR_ROW
    yield "readout", *_told_apart(summaries), ""
    if len({summary.lr for summary in summaries}) > 1:
        yield "lr", *(f"{summary.lr:g}" for summary in summaries), ""
    for name, metric in first.metrics.items():
        scores = (score(summary.mean[name], summary.spread[name]) for summary in summaries)
        yield heading(metric), *scores, score(first.prior[name])
        if known and name == first.main_metric:
            yield "95% interval", *(interval(one.intervals.get(name)) for one in known), ""
    yield "seeds", *(str(len(summary.seeds)) for summary in summaries), ""
    yield "parameters", *(f"{summary.first.parameters:,}" for summary in summaries), "0"
    yield from cost_columns(summaries)


def _told_apart(summaries: Sequence[Summary]) -> list[str]:
    """A name for the readout of each row, numbered where mixed results share one."""
    keys = [(summary.label, summary.readout, summary.lr) for summary in summaries]
    numbers = [keys[: place + 1].count(key) for place, key in enumerate(keys)]
    return [
        f"{key[1]} ({number})" if keys.count(key) > 1 else key[1] for key, number in zip(keys, numbers, strict=True)
    ]


def _run_notes(summaries: Sequence[Summary]) -> Iterator[str]:
    """Protocols, seeds, images, forwards and caches behind a table."""
    results = [result for summary in summaries for result in summary.results]
    protocols: dict[str, list[str]] = {}
    for summary in summaries:
        protocols.setdefault(summary.protocol_digest[:SHORT], []).append(summary.readout)
    named = ", ".join(f"{digest} ({', '.join(dict.fromkeys(readouts))})" for digest, readouts in protocols.items())
    caches = dict.fromkeys(cache["path"] for result in results for cache in result.caches.values())
    spread = "; ± is the sample standard deviation over seeds" if any(len(s.seeds) > 1 for s in summaries) else ""
    seeds = ", ".join(str(seed) for seed in sorted({seed for summary in summaries for seed in summary.seeds}))
    first = results[0]
    yield f"protocol: {named}"
    yield f"seeds: {seeds}{spread}"
    yield f"images: {first.train_images:,} train, {first.val_images:,} val"
    yield from dict.fromkeys(note for result in results for note in _left_out(result))
    if any(summary.cost for summary in summaries):
        devices = ", ".join(sorted({result.device for result in results if result.cost}))
        yield f"time and memory of a training step: of the readout alone, measured on {devices}"
    yield f"backbone forwards: {sum(result.backbone_forwards for result in results)}"
    yield "caches:"
    yield from (f"  {path}" for path in caches)


def _left_out(result: Result) -> Iterator[str]:
    """Of each split the images that could not be read when its caches were made."""
    for name, cache in result.caches.items():
        if omitted := cache["recipe"].get("omitted"):
            count, ids = omitted["images"], omitted["ids"][:_NAMED]
            more = f" and {count - len(ids):,} more" if count > len(ids) else ""
            yield f"left out of {name.split()[0]}, not readable when extracted: {count:,} ({', '.join(ids)}{more})"
