"""Results as one data frame: which are meant, what may be compared, and means over seeds.

:func:`results_frame` has a line for each run and score, :func:`table_rows` one for each row of a table and score. Every
table, in whatever form, is a pivot of the second. ``comparison_key`` alone tells which lines may stand in one table.
"""

from __future__ import annotations

import functools
import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deapcache.backbones import BACKBONES, BackboneEntry, describe, labelled_model
from deapcache.errors import DeapcacheError, ResultsError
from deapcache.recipe import SHORT, Difference, Protocol, differences, digest_of
from deapcache.results.intervals import UncertaintyOf, holm
from deapcache.results.marks import (
    DIVERGED,
    FALLING,
    FEW_JUDGED,
    FEWEST_JUDGED,
    LARGEST_P,
    NOT_ABOVE,
    has_diverged,
    is_falling,
)
from deapcache.results.record import Result

if TYPE_CHECKING:
    from pandas import DataFrame

Identity = dict[str, Any]
"""``outer.inner`` → value."""

_OF_THE_ROW = ("protocol.readout.", "protocol.readout_options.", "protocol.optimiser.lr.", "protocol.train_subset.")
"""Protocol fields in which the rows of one table differ: each says which readout, learning rate and images it is of."""

CONTROL = re.compile(r"@untrained(?::(\d+)(?:,\d+)*)?")
"""Of a backbone's name: random weights, and the first of their seeds where it is not 0. Controls of all seeds are one
row."""

CATEGORIES = ("supervised", "self-supervised", "vision-language", "checkpoint", "untrained", "other")
"""The paper's three (Table 2), weights of one's own, the control, and what is not known."""

_TABLE = ["task", "dataset"]
_ORDER = [*_TABLE, "backbone", "depth", "display_name", "readout", "lr_text", "left_out", "run"]
"""Layer 3 before layer 12, and both before the last; all training images before parts of them."""


def is_subset(result: Result) -> bool:
    """Whether a run was trained on a drawn part of the training images: a point of a learning curve."""
    return result.protocol.get("train_subset") is not None


def feature_recipe(result: Result) -> Mapping[str, Any]:
    """How the features were made that a result has read; of joined layers, ``layer`` is ``6+9+last``."""
    recipe: Mapping[str, Any] = result.caches["train"]["recipe"]
    joined = layers_of(result)
    return {**recipe, "layer": "+".join(joined)} if joined else recipe


def model_of(result: Result) -> str:
    """The backbone that made its features: where they are called after a checkpoint, the model that it is of."""
    return labelled_model(result.backbone, feature_recipe(result)["backbone"])


@functools.cache
def known_entry(name: str) -> BackboneEntry | None:
    """``None`` for a backbone that is not known on this machine: a plug-in's, or of another version."""
    try:
        return describe(name)
    except DeapcacheError:
        return None


def entry_category(entry: BackboneEntry) -> str:
    """One of :data:`CATEGORIES`, of a backbone with the weights of its entry."""
    return "untrained" if entry.untrained else entry.category or "other"


def about_backbone(result: Result) -> dict[str, Any]:
    """``category`` (one of :data:`CATEGORIES`), ``parameters`` (``None``: not known) and ``training_data``.

    Of a registered backbone they are the registry's, of another those that the result says, if it does.
    """
    model, told = model_of(result), dict(result.about)
    if (model in BACKBONES or not told) and (entry := known_entry(model)):
        told = {name: getattr(entry, name) for name in ("parameters", "training_data")}
        told["category"] = entry_category(entry)
    category, training_data = told.get("category"), told.get("training_data", "")
    if model != result.backbone:
        category, training_data = "checkpoint", ""
    elif CONTROL.search(result.backbone):
        category = "untrained"
    return {
        "category": category if category in CATEGORIES else "other",
        "parameters": told.get("parameters") or None,
        "training_data": training_data,
    }


def layers_of(result: Result) -> tuple[str, ...]:
    """The layers whose features were joined, as recipes name them; empty where one was read."""
    names = [name for name in result.caches if name.startswith("train layer ")]
    layers = [str(result.caches[name]["recipe"].get("layer", "")) for name in ("train", *names)]
    return tuple(sorted(layers, key=lambda layer: depth_in({"layer": layer}))) if names else ()


def layer_of(result: Result) -> str:
    """``last``, a block's number, or how the backbone calls its map; empty in results that do not say."""
    return str(feature_recipe(result).get("layer", ""))


def tokens_of(result: Result) -> str:
    """``none``, or ``cls``, what was kept beside the features that were read."""
    return str(feature_recipe(result).get("tokens", "none"))


def inner_layer(result: Result) -> str:
    """``layer 6`` of a run that read a layer by number, ``layers 6+9``; empty for the one the backbone is known by."""
    return _named_layer(layer_of(result))


def _named_layer(layer: str) -> str:
    several = "s" if "+" in layer else ""
    return f"layer{several} {layer}" if several or layer.isdecimal() else ""


def depth_in(recipe: Mapping[str, Any]) -> int:
    """A number by which the layers of a backbone are in order, the last one behind."""
    layer = str(recipe.get("layer", ""))
    return int(layer) if layer.isdecimal() else 1_000_000 + ("+" in layer)


def reading_in(recipe: Mapping[str, Any]) -> str:
    """What tells two runs of one backbone apart: ``layer 6 without norm``, ``layers 6+9``, ``cls kept``; mostly empty.

    It does not depend on what stands beside a run: a backbone's name alone is its last layer everywhere.
    """
    named, tokens = _named_layer(str(recipe.get("layer", ""))), str(recipe.get("tokens", "none"))
    norm = " without norm" if recipe.get("final_norm") is False else ""
    shown = f"{named}{norm}" if named else ""
    return ", ".join(filter(None, (shown, "" if tokens == "none" else f"{tokens} kept")))


def display_name(result: Result) -> str:
    """Backbone and what was read of it: ``dinov2``, ``dinov2 · layer 6``."""
    return display_name_in(result.backbone, feature_recipe(result))


def display_name_in(backbone: str, recipe: Mapping[str, Any]) -> str:
    """:func:`display_name` of what has read features of that recipe, which are called ``backbone``."""
    return " · ".join(filter(None, (backbone, reading_in(recipe))))


def weights_seed(backbone: str) -> int | None:
    """The seed of random weights, from the backbone's name; ``None`` for trained ones."""
    found = CONTROL.search(backbone)
    return int(found[1] or 0) if found else None


def _joint_name(backbones: Iterable[str]) -> str:
    """One name for a backbone's random weights of all seeds: ``dinov2@untrained:0,1,2``; of a single one its own."""
    names = sorted(set(backbones), key=lambda name: weights_seed(name) or 0)
    seeds = ",".join(str(weights_seed(name)) for name in names)
    return names[0] if len(names) == 1 else CONTROL.sub(f"@untrained:{seeds}", names[0])


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What results must have; an empty list asks for nothing."""

    tasks: Sequence[str] = ()
    datasets: Sequence[str] = ()
    backbones: Sequence[str] = ()
    readouts: Sequence[str] = ()
    protocols: Sequence[str] = ()
    """First characters of protocol digests, or of names."""
    caches: Sequence[str] = ()
    """First characters of digests of feature or target caches that a result has read."""


def select(results: Iterable[Result], wanted: Selection) -> list[Result]:
    """The results that have everything that is wanted: of each list, one of its entries.

    Raises :class:`ResultsError` where nothing is left, with what there is instead.
    """

    def values(result: Result) -> list[str]:
        if kind == "protocols":
            return [result.protocol_digest, *filter(None, [result.protocol.get("name")])]
        if kind == "caches":
            return [cache["digest"] for cache in result.caches.values()]
        return [getattr(result, kind.removesuffix("s"))]

    left = list(results)
    for kind, names in vars(wanted).items():
        if kind == "backbones":  # the seed 0 of random weights is none in a name
            names = [re.sub(r"@untrained:0(?!\d)", "@untrained", name) for name in names]
        digests = kind in ("protocols", "caches")
        kept = [
            result
            for result in left
            if not names
            or any(value.startswith(name) if digests else value == name for value in values(result) for name in names)
        ]
        if left and not kept:
            found = {value for result in left for value in values(result)}
            there = sorted(value[:SHORT] if len(value) == 64 and digests else value for value in found)
            raise ResultsError(f"no result of the {kind} {', '.join(names)}: there are {', '.join(there)}")
        left = kept
    return left


def row_identity(result: Result) -> Identity:
    """What the seeds of one row share: protocol and the recipes of all caches, less the seed of random weights."""
    identity = run_identity(result)
    if weights_seed(result.backbone) is not None:
        for name in result.caches:
            identity.pop(f"{name}.weights", None)
            if f"{name}.backbone" in identity:
                identity[f"{name}.backbone"] = CONTROL.sub("@untrained", identity[f"{name}.backbone"])
    return identity


def run_identity(result: Result) -> Identity:
    """What all seeds of a readout on one backbone share: protocol and the recipes of all caches."""
    recipes = {name: cache["recipe"] for name, cache in result.caches.items()}
    return dict(_flat({"protocol": _protocol(result), **recipes}))


def comparison_identity(result: Result) -> Identity:
    """What the rows of one table share: the protocol but for readout and learning rate, and the targets' recipes."""
    targets = {name: cache["recipe"] for name, cache in result.caches.items() if "targets" in name}
    # rows may be of growing parts of the same training images
    whole = {"train_limit": None} if is_subset(result) else {}
    flat = _flat({"protocol": {**_protocol(result), **whole}, **targets})
    return {name: value for name, value in flat if not f"{name}.".startswith(_OF_THE_ROW)}


def _protocol(result: Result) -> dict[str, Any]:
    """The protocol with all its fields, also those that were added after it was written."""
    return {**_protocol_defaults(), **result.protocol}


_protocol_defaults = functools.cache(Protocol.omitted_defaults)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as one, ``outer.inner`` → value, so that a difference can be named."""
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    for name, inner in value.items():
        yield from _flat(inner, f"{prefix}.{name}" if prefix else str(name))


PUBLIC_COLUMNS = (
    *("run", "task", "dataset", "backbone", "layer", "readout", "seed", "lr", "iterations"),
    *("metric", "score", "prior", "unit", "higher_is_better"),
    *("parameters", "train_images", "val_images", "features", "protocol", "device", "date"),
)
"""Of a data frame of results for users, in order."""
COLUMNS = (
    *PUBLIC_COLUMNS,
    *("is_metric", "is_main", "display_name", "depth", "lr_text", "left_out", "row_name", "row_key", "run_key"),
    *("comparison_key", "result"),
)
"""Of :func:`results_frame`."""


def results_frame(results: Iterable[Result]) -> DataFrame:
    """A line for each run and score, in the order of ``results``: metrics first, then scores that no table shows.

    ``features`` is the digest of the features that were scored, ``protocol`` the protocol's. Lines of one
    ``comparison_key`` (digest of :func:`comparison_identity`) may be compared, those of one ``row_key`` (digest of
    :func:`row_identity`) are seeds of the same measurement. ``row_name`` is what a table calls the row.
    """
    import pandas as pd

    return pd.DataFrame([line for result in results for line in _lines(result)], columns=list(COLUMNS))


def _lines(result: Result) -> Iterator[dict[str, Any]]:
    features, lr, name = result.caches["val"], result.lr, display_name(result)
    lr_text = "lr selected" if result.is_selected else "not trained" if math.isnan(lr) else f"lr {lr:g}"
    joint_name = CONTROL.sub("@untrained", name)
    of_images = [f"{result.train_images} train images"] if is_subset(result) else []
    of_the_run = {column: getattr(result, column) for column in COLUMNS if hasattr(result, column)} | {
        "layer": layer_of(result) or None,
        "features": features["digest"],
        "protocol": result.protocol_digest,
        "lr": lr,
        "iterations": result.protocol["iterations"],
        "display_name": name,
        "depth": depth_in(feature_recipe(result)),
        "lr_text": lr_text,
        "left_out": -result.train_images if is_subset(result) else -math.inf,
        "row_name": (result.task, result.dataset, joint_name, result.readout, lr_text, *of_images),
        "row_key": digest_of(row_identity(result)),
        "run_key": digest_of(run_identity(result)),
        "comparison_key": digest_of(comparison_identity(result)),
        "result": result,
    }
    for metric in dict.fromkeys([*result.metrics, *result.scores]):
        about = result.metrics.get(metric, {})
        yield of_the_run | {
            "metric": metric,
            "score": result.scores.get(metric, math.nan),
            "prior": result.prior.get(metric, math.nan),
            "unit": about.get("unit"),
            "higher_is_better": about.get("higher_is_better"),
            "is_metric": metric in result.metrics,
            "is_main": metric == result.main_metric,
        }


def grouped(lines: Iterable[Any], *columns: str) -> list[list[Any]]:
    """Lines of a frame, as ``itertuples`` gives them, by their values in ``columns``; groups and lines in order."""
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for line in lines:
        groups.setdefault(tuple(getattr(line, column) for column in columns), []).append(line)
    return list(groups.values())


def require_comparable(frame: DataFrame) -> None:
    """Refuse a frame of :func:`results_frame` that would put different measurements together.

    Raises :class:`ResultsError` that lists the fields in which they differ, where the lines of one task and dataset
    have several comparison keys, or those of one layer of a backbone, readout and learning rate several row keys.
    """
    # tables first: the error then names the protocols of all their rows
    for name, key, identity in (
        (_TABLE, "comparison_key", comparison_identity),
        (["row_name"], "row_key", row_identity),
        (["row_name", "backbone"], "run_key", run_identity),
    ):
        mixed = frame[frame.groupby(name, sort=False)[key].transform("nunique") > 1]
        for _, lines in mixed.groupby(name, sort=False):
            results = list(lines.drop_duplicates("run")["result"])
            for other in results[1:]:
                if found := differences(identity(results[0]), identity(other)):
                    named = " · ".join(lines["row_name"].iloc[0][: len(_TABLE) if name is _TABLE else None])
                    raise ResultsError(
                        f"results of {named} were not measured the same way and are not put together: "
                        f"{results[0].run} and {other.run} differ in {_listed(found)}. "
                        f"{_keep_one(results, results[0], other, identity)}, "
                        "or show them apart with deapcache results --allow-mixed"
                    )


def _keep_one(results: Sequence[Result], one: Result, other: Result, identity: Callable[[Result], Identity]) -> str:
    """How to keep one side, as options of ``deapcache results``: by protocol, by cache where protocols agree."""
    sides = [[r for r in results if identity(r) == identity(kept)] for kept in (one, other)]
    flag, digests = "--protocol", [{r.protocol_digest for r in side} for side in sides]
    if digests[0] & digests[1]:
        differing = {d.field.partition(".")[0] for d in differences(identity(one), identity(other))}
        flag, digests = "--cache", [{r.caches[name]["digest"] for name in differing} for r in (one, other)]
    ways = (f"{flag} {','.join(sorted(digest[:SHORT] for digest in side))}" for side in digests)
    return f"Keep one side with {' or '.join(ways)}"


def _listed(found: Sequence[Difference], joined: str = "or") -> str:
    """Differences in one line: ``protocol.iterations: 100 or 7; train.storage: 'float16' or 'int8'``."""
    return "; ".join(f"{d.field}: {d.left!r} {joined} {d.right!r}" for d in found)


def table_rows(
    results: Iterable[Result], *, allow_mixed: bool = False, uncertainty: UncertaintyOf | None = None
) -> DataFrame:
    """Seeds averaged: a line for each row of a table and score, sorted by task, dataset, backbone, layer and readout.

    The columns of :func:`results_frame`, of the lowest seed, and: ``row`` (its number), ``mean`` and ``spread`` (sample
    standard deviation, n − 1; NaN for a single seed) over seeds, ``results`` and ``seeds`` (tuples), ``cost`` (mean
    over seeds of what every one of them measured, see :class:`Result`), ``uncertainty`` of the row (``None`` where it
    is not asked for) and ``interval`` of the mean (``None`` where there is none); ``difference`` of mean and prior, of
    which ``p_holm`` is adjusted for all rows of its comparison key; the row's learning ``rate`` as text, and its
    ``marks`` (:mod:`.marks`). A row is
    one task, dataset, backbone, layer, readout and learning rate of one row key. Random weights of several seeds are
    one row, ``NAME@untrained:1,2,3``, whose ``spread`` is over the means of these.

    Raises what :func:`require_comparable` does; ``allow_mixed`` gives rows of their own instead.
    """
    import pandas as pd

    frame = results_frame(results).sort_values(_ORDER, kind="stable")
    if not allow_mixed:
        require_comparable(frame)
    # of one backbone's name, random weights that differ are no seeds of each other
    versions = frame.groupby(["row_name", "row_key", "backbone"], sort=False)["run_key"]
    frame["version"] = versions.transform(lambda found: pd.factorize(found)[0])
    frame["row"] = frame.groupby(["row_name", "row_key", "version"], sort=False).ngroup()
    frame = frame.sort_values(["row", "seed"], kind="stable")
    runs = frame.drop_duplicates(["row", "run"]).groupby("row")
    scores = frame.groupby(["row", "metric"], sort=False)["score"]
    # pandas' own mean and std leave out what is not defined, and round otherwise
    frame["mean"] = scores.transform(lambda found: np.mean(found.to_numpy()))
    frame["spread"] = scores.transform(lambda found: np.std(found.to_numpy(), ddof=1) if len(found) > 1 else math.nan)
    # of random weights of several seeds, over the means of each
    several = frame[frame.groupby("row")["backbone"].transform("nunique") > 1]
    means = several.groupby(["row", "metric", "backbone"])["score"].agg(lambda found: np.mean(found.to_numpy()))
    over_weights = means.groupby(["row", "metric"]).agg(lambda found: np.std(found.to_numpy(), ddof=1))
    over_weights = over_weights.reindex(pd.MultiIndex.from_frame(frame[["row", "metric"]]))
    frame["spread"] = frame["spread"].where(over_weights.isna().to_numpy(), over_weights.to_numpy())
    incomplete = scores.transform("size") < frame["row"].map(runs.size())  # another version of a task left it out
    frame.loc[incomplete, ["mean", "spread"]] = math.nan
    rows = frame[frame["run"] == frame["row"].map(runs["run"].first())].reset_index(drop=True)
    shared = {"results": runs["result"].agg(tuple), "seeds": runs["seed"].agg(tuple)}
    shared["cost"] = shared["results"].map(_mean_cost)
    shared["rate"] = shared["results"].map(_rate)
    shared["backbone"] = runs["backbone"].agg(_joint_name)
    shared["display_name"] = runs["display_name"].agg(_joint_name)
    shared["uncertainty"] = shared["results"].map(uncertainty) if uncertainty else None
    for column, values in shared.items():
        rows[column] = None if values is None else rows["row"].map(values)
    known = list(zip(rows["uncertainty"], rows["metric"], strict=True))
    for column, kind in (("interval", "intervals"), ("difference", "differences")):
        found = (getattr(one, kind).get(metric) if one else None for one, metric in known)
        rows[column] = np.fromiter(found, object, len(rows))
    rows["p"] = [math.nan if one is None else one.p for one in rows["difference"]]
    rows["p_holm"] = rows.groupby(["comparison_key", "metric"], sort=False)["p"].transform(
        lambda found: np.array(holm(found.tolist()))
    )
    rows["marks"] = rows["row"].map({line.row: _marks(line) for line in rows[rows["is_main"]].itertuples()})
    return rows


def _marks(line: Any) -> str:
    """Of a row, by the line of its main metric; mostly empty."""
    gain = (line.mean - line.prior) * (1 if line.higher_is_better else -1)
    is_above = math.isnan(gain) or (gain > 0 and (line.difference is None or line.p_holm < LARGEST_P))
    curves = [[loss for _, loss in result.loss_curve] for result in line.results]
    found = {
        NOT_ABOVE: not is_above,
        FEW_JUDGED: any(result.scores.get("judged_images", math.inf) < FEWEST_JUDGED for result in line.results),
        FALLING: any(map(is_falling, curves)),
        DIVERGED: any(map(has_diverged, curves)),
    }
    return "".join(mark for mark, applies in found.items() if applies)


def _mean_cost(results: Sequence[Result]) -> dict[str, float]:
    costs = {name: [result.cost.get(name) for result in results] for name in results[0].cost}
    return {
        name: statistics.fmean(value for value in found if value is not None)
        for name, found in costs.items()
        if None not in found
    }


def _rate(results: Sequence[Result]) -> str:
    """``0.01 (of 5, 0.2610)``: the learning rate that was chosen, of how many, and the range of their scores.

    ``largest of 5`` or ``least of 5`` where others beyond might do better, ``0.01 (of 5, 0.2610; 0.2 of the steps)``
    where fewer were trained. Where it was given ``0.01``; a dash for a readout that is not trained.
    """
    found: dict[str, None] = {}
    for result in results:
        tried, span = [one["lr"] for one in result.selection.get("candidates", ())], result.selection.get("range")
        ends = {max(tried): "largest ", min(tried): "least "} if len(tried) > 1 else {}
        share = result.selection.get("fraction", 1)
        steps = f"; {share:g} of the steps" if share < 1 else ""
        about = f" ({ends.get(result.lr, '')}of {len(tried)}, {span:.4f}{steps})" if tried and span is not None else ""
        found["–" if math.isnan(result.lr) else f"{result.lr:g}{about}"] = None
    return "; ".join(found)


def rate_note(rows: Iterable[Sequence[Result]]) -> list[str]:
    """What ``rate`` means, for the ``results`` of some rows; [] where no rate was chosen."""
    found = next((result for results in rows for result in results if result.is_selected), None)
    if found is None:
        return []
    held = f"{found.selection['images']:,} training images" if "images" in found.selection else "training images"
    metric = found.metrics.get(str(found.selection.get("metric")), {}).get("label", "score")
    return [f"lr: chosen on {held} that were held out for it; of so many, with the range of their {metric}"]


def protocols_of(rows: Iterable[Any]) -> str:
    """``deapcache-2: 75de1c5e4d86 (deap, linear), 0c2c2d1bb6e0 (no-sigma)`` of lines of a frame."""
    found: dict[str, list[str]] = {}
    for group in grouped(rows, "protocol"):
        readouts = ", ".join(dict.fromkeys(row.readout for row in group))
        name = group[0].results[0].protocol.get("name", "")
        found.setdefault(name, []).append(f"{group[0].protocol[:SHORT]} ({readouts})")
    return "; ".join(f"{name}: {', '.join(each)}" if name else ", ".join(each) for name, each in found.items())


def seeds_of(rows: Iterable[Any]) -> str:
    """``0, 1, 2``."""
    return ", ".join(map(str, sorted({seed for row in rows for seed in row.seeds})))


def protocol_mismatches(rows: DataFrame, every: DataFrame) -> list[str]:
    """For each of ``rows`` in what it was measured unlike the first of ``every`` that it could be taken for.

    That is the first of its task and dataset where comparison keys differ, else of its name. Empty where nothing is
    mixed.
    """
    first_of_table, first_of_name = every.drop_duplicates(_TABLE), every.drop_duplicates("row_name")
    of_table = {(line.task, line.dataset): line for line in first_of_table.itertuples()}
    of_name = {line.row_name: line for line in first_of_name.itertuples()}
    notes: list[str] = []
    for line in rows.drop_duplicates("row").itertuples():
        table = line.task, line.dataset
        for name, first, key, identity in (
            (table, of_table[table], "comparison_key", comparison_identity),
            (line.row_name, of_name[line.row_name], "row_key", row_identity),
        ):
            if getattr(line, key) == getattr(first, key):
                continue
            if found := differences(identity(line.result), identity(first.result)):
                notes.append(f"mixed: {' · '.join(name)} measured unlike the first, {_listed(found, 'here, there')}")
                break
    return list(dict.fromkeys(notes))
