"""The commands that make a run again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deapcache.backbones import split_name
from deapcache.recipe import SUBSET_SEED, Protocol
from deapcache.results.frame import known_entry, layers_of, model_of
from deapcache.results.record import Result

_FIXED = {"weight_decay": 1e-4, "order_seed": 0}
"""What no option of ``deapcache probe`` changes; a pipeline or the library may."""

_EXTRACTED = {"--base-size": "base_size", "--fit": "base_fit", "--dtype": "storage", "--precision": "precision"}
"""Options of ``deapcache extract`` → fields of a feature recipe."""

_CHOOSING = {"base_fit": "squash", "storage": "float16", "precision": "fp32", "tokens": "none"}
"""Fields that choose between several caches of a backbone → what needs no choice."""


def reproduce_commands(result: Result) -> list[str]:
    """``deapcache extract …`` and ``deapcache probe …`` that give this very run; [] where no command line can say it.

    That is so for a run of the library or of a pipeline with settings that have no option, and for an upsampler's file,
    which a result does not hold. Every value is quoted for a shell.
    """
    protocol = {**Protocol.omitted_defaults(), **result.protocol}
    fixed = {"weight_decay": protocol["optimiser"].get("weight_decay"), "order_seed": protocol["order_seed"]}
    limit = _limit(result, protocol)
    if fixed != _FIXED or limit is None or result.readout.partition(":")[0] == "featup":
        return []
    recipe = result.caches["train"]["recipe"]
    return [
        _line("extract", _extract(result, recipe, protocol)),
        _line("probe", _probe(result, recipe, protocol, limit)),
    ]


def _line(verb: str, options: Iterator[tuple[Any, ...]]) -> str:
    return shlex.join(["deapcache", verb, *(str(part) for option in options for part in option)])


def _extract(result: Result, recipe: Mapping[str, Any], protocol: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    yield "--backbone", model_of(result)
    if model_of(result) != result.backbone:
        yield "--weights", "FILE"
        if ":" not in (label := split_name(result.backbone)[0]):  # else it is named after the file
            yield "--name", label
    yield "--dataset", result.dataset
    for option, field in _EXTRACTED.items():
        if field in recipe and recipe[field] != _CHOOSING.get(field):
            yield option, recipe[field]
    if list(protocol["views"]) != ["original"]:
        yield "--views", ",".join(protocol["views"])
    yield from _taps(recipe["backbone"], recipe, layers_of(result))


def _taps(backbone: str, recipe: Mapping[str, Any], joined: Sequence[str] = ()) -> Iterator[tuple[str, ...]]:
    """Options of ``deapcache extract`` for other layers than the last, or class tokens, or another norm."""
    layer, norm, known = recipe.get("layer", ""), recipe.get("final_norm"), known_entry(backbone)
    if joined or layer.isdecimal():
        yield "--layers", ",".join(joined or [layer])
    if known and norm is not None and norm != known.final_norm:
        yield ("--final-norm" if norm else "--no-final-norm",)
    if recipe.get("tokens", "none") != "none":
        yield "--tokens", recipe["tokens"]


def _probe(
    result: Result, recipe: Mapping[str, Any], protocol: Mapping[str, Any], limit: int
) -> Iterator[tuple[Any, ...]]:
    yield from (("--task", result.task), ("--dataset", result.dataset), ("--backbone", result.backbone))
    yield from (("--readout", result.readout), ("--seed", result.seed))
    yield from (("--iterations", protocol["iterations"]), ("--batch-size", protocol["batch_size"]))
    yield "--protocol", protocol.get("name", "paper").partition(",")[0]  # the nearest to what there was before names
    if result.is_selected:
        yield ("--select",)
    else:
        yield "--lr", protocol["optimiser"]["lr"]
    yield "--standardise", protocol.get("standardise", "cell")
    if protocol.get("score_size", "output") != "output":
        yield "--score-size", protocol["score_size"]
    if protocol["train_subset"] is not None:
        yield "--train-limit", protocol["train_limit"]
    elif limit:
        yield "--limit", limit
    if list(protocol["views"]) != ["original"]:
        yield "--views", ",".join(protocol["views"])
    if joined := layers_of(result):
        yield "--layers", ",".join(joined)
    yield from (("--where", condition) for condition in _where(recipe["backbone"], recipe, is_joined=bool(joined)))
    for choice, value in result.build.get("task_options", {}).items():
        yield "--task-option", f"{result.task}.{choice}={value}"


def _where(backbone: str, recipe: Mapping[str, Any], *, is_joined: bool) -> Iterator[str]:
    """What chooses these features where the home has others of the backbone."""
    for field, usual in _CHOOSING.items():
        if recipe.get(field, usual) != usual:
            yield f"{field}={recipe[field]}"
    options = [option for option, *_ in _taps(backbone, recipe)]
    if "--layers" in options and not is_joined:
        yield f"layer={recipe['layer']}"
    if not {"--final-norm", "--no-final-norm"}.isdisjoint(options):
        yield f"final_norm={str(recipe['final_norm']).lower()}"


def _limit(result: Result, protocol: Mapping[str, Any]) -> int | None:
    """Of ``--limit``, which is one for both splits: 0 for none, ``None`` where two numbers are needed."""
    train, val = protocol["train_limit"], protocol["val_limit"]
    if (train is None or protocol["train_subset"] == SUBSET_SEED) and val is None:
        return 0
    wanted = train or val
    # a limit that leaves nothing out is recorded as none
    fits = all(own == wanted or (own is None and images <= wanted) for own, images in (
        (train, result.train_images), (val, result.val_images)
    ))  # fmt: skip
    return int(wanted) if fits else None
