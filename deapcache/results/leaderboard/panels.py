"""What the page's panel of an entry shows, as data that the page's script writes out as text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

from deapcache.recipe import SHORT
from deapcache.results.frame import layer_of, tokens_of
from deapcache.results.leaderboard.columns import millions, milliseconds
from deapcache.results.leaderboard.embedding import Pictures
from deapcache.results.leaderboard.entries import Comparison, Entry
from deapcache.results.leaderboard.repeating import recorded_command, repeat_commands
from deapcache.results.leaderboard.speeds import speed_facts
from deapcache.results.record import Result, plain_json, result_key
from deapcache.results.tables import NOTHING, interval

_POINTS = 300
"""Of a training curve that are drawn."""


class Run(TypedDict):
    """One seed."""

    run: str
    seed: int
    score: str
    facts: list[tuple[str, str]]
    aspect: float
    """Height to width of the output."""
    sigma: list[float]
    loss: list[tuple[float, float]]
    repeat: list[str]
    recorded: str
    picture: str
    no_picture: str


class Panel(TypedDict):
    """One entry."""

    title: str
    subtitle: str
    facts: list[tuple[str, str]]
    score_heads: list[str]
    scores: list[list[str]]
    runs: list[Run]
    documents: list[tuple[str, str]]
    """Title and text of what is long: protocol, recipes."""


def panel(entry: Entry, comparison: Comparison, pictures: Pictures) -> Panel:
    """Everything that is known of ``entry``."""
    return Panel(
        title=f"{entry.backbone.label} · {entry.name}",
        subtitle=comparison.title,
        facts=list(_facts(entry, comparison)),
        score_heads=["metric", "score", "95% interval", "prior"],
        scores=[list(row) for row in _scores(entry, comparison)],
        runs=list(_runs(entry, comparison, pictures)),
        documents=list(_documents(entry)),
    )


def _facts(entry: Entry, comparison: Comparison) -> Iterator[tuple[str, str]]:
    backbone = entry.backbone
    yield "from", f"the paper, {entry.printed}" if entry.printed else "result files"
    yield "category", backbone.category
    yield "trained on", backbone.training_data
    yield "backbone parameters", _with_unit(millions(backbone.parameters, 1), "M")
    yield "feature volume", backbone.size
    yield "layer", _layer(entry)
    yield from speed_facts(backbone)
    yield "learnable parameters", _with_unit(millions(entry.parameters, 3), "M")
    yield "training", _with_unit(milliseconds(entry.cost("train_ms_per_image")), "ms/image, the readout alone")
    yield "prediction", _with_unit(milliseconds(entry.cost("predict_ms_per_image")), "ms/image, the readout alone")
    yield "seeds", ", ".join(map(str, entry.seeds))
    yield "protocol", entry.protocol
    yield "versions", entry.versions
    yield from (note.split(": ", 1) for note in comparison.notes if note.startswith("images: "))  # type: ignore[misc]
    yield "no interval", entry.problem


def _layer(entry: Entry) -> str:
    """Which layer of the backbone the run read; empty for the paper's, and where the result does not say."""
    if entry.summary is None:
        return ""
    first = entry.summary.first
    kept = tokens_of(first)
    return layer_of(first) + (f", {kept} kept beside it" if layer_of(first) and kept != "none" else "")


def _with_unit(text: str, unit: str) -> str:
    return "" if text == NOTHING else f"{text} {unit}"


def _scores(entry: Entry, comparison: Comparison) -> Iterator[Sequence[str]]:
    for metric in comparison.metrics:
        if score := entry.scores.get(metric.name):
            prior = comparison.prior.get(metric.name)
            yield str(metric), str(score), interval(score.interval), NOTHING if prior is None else f"{prior:.4f}"


def _runs(entry: Entry, comparison: Comparison, pictures: Pictures) -> Iterator[Run]:
    results = entry.summary.results if entry.summary else ()
    for result, home in zip(results, entry.homes, strict=True):
        picture, problem = pictures.embed(home, result.run)
        yield Run(
            run=result.run,
            seed=result.seed,
            score=f"{result.scores[comparison.main.name]:.4f}",
            facts=[
                ("date", result.date),
                ("device", result.device),
                ("time", f"{result.seconds.get('train', 0):.0f} s, shared by {result.readouts_sharing} readouts"),
                ("result file", f"{home}/{result_key(result.run)}"),
            ],
            aspect=result.protocol["output_size"][0] / result.protocol["output_size"][1],
            sigma=[float(value) for value in result.sigma or ()],
            loss=_curve(result),
            repeat=repeat_commands(result),
            recorded=recorded_command(result),
            picture=picture,
            no_picture=problem,
        )


def _curve(result: Result) -> list[tuple[float, float]]:
    step = max(1, -(-len(result.loss_curve) // _POINTS))
    return [(float(at), float(loss)) for at, loss in result.loss_curve[::step] if loss is not None]


def _documents(entry: Entry) -> Iterator[tuple[str, str]]:
    if entry.summary is None:
        return
    first = entry.summary.first
    yield f"Protocol {first.protocol_digest[:SHORT]}", _indented(first.protocol)
    for name, cache in first.caches.items():
        yield f"Cache: {name} ({cache['digest'][:SHORT]})", _indented(cache["recipe"])


def _indented(document: Mapping[str, Any]) -> str:
    return json.dumps(plain_json(document), indent=1, ensure_ascii=False)
