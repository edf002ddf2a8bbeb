"""Which caches of a home a probe is about: features of both splits that pair, and what was made from their images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from deapcache.cache import CacheEntry, find_caches, find_one
from deapcache.errors import CacheMissError, UsageError
from deapcache.probing.alike import fit_option, require_same_region, seen_alike
from deapcache.probing.options import ProbeOptions
from deapcache.recipe import Difference, FeatureRecipe, TargetRecipe, differences

if TYPE_CHECKING:
    from deapcache.probing.sources import Request

_OF_THE_SPLIT = {"images", "annotations", "digest"}
"""Fields that each split has for itself: ``images=ONE`` chooses a cache of one, ``images=ONE,OTHER`` one of each."""

TARGET_FIELDS = {f.name for f in fields(TargetRecipe)} - {f.name for f in fields(FeatureRecipe)}
"""Fields that only target recipes have: they choose targets, and say nothing about features."""


def feature_fields(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the wanted recipe fields that features can have; a target's ``fit`` is their ``base_fit``.

    Raises :class:`UsageError` where the two are asked for and differ: scores would be of other pixels than features.
    """
    found = {name: value for name, value in wanted.items() if name not in TARGET_FIELDS}
    if "fit" not in wanted:
        return found
    if found.setdefault("base_fit", wanted["fit"]) != wanted["fit"]:
        raise UsageError(
            f"fit={wanted['fit']} and base_fit={found['base_fit']} are asked for: targets must show the same part of "
            "the image as the features; name one of the two"
        )
    return found


def paired_features(request: Request) -> tuple[CacheEntry, CacheEntry]:
    """The features of both splits that belong together and are what is asked for.

    Raises :class:`CacheMissError` or :class:`AmbiguousCacheError` where there is not exactly one such pair.
    """
    dataset, name, wanted = request.images_name, request.backbone, feature_fields(request.fields)
    trains, vals = (
        find_caches(request.home, "features", dataset=dataset, split=split, name=name, fields=_shared(wanted))
        for split in request.splits
    )
    pairs = [(train, val) for train in trains for val in vals if not _pair_differences(train, val)]
    pairs = [pair for pair in pairs if _fits_either(request, pair)]
    if len(pairs) == 1:
        return pairs[0]
    # None, or several: where a split has not exactly one cache, say which there are; else say why the two do not pair.
    train, val = (
        find_one(
            request.home,
            "features",
            dataset=dataset,
            split=split,
            name=name,
            fields=of_split,
            next_step=f"`{request.extract_command}` makes it",
        )
        for split, of_split in zip(
            request.splits, (wanted, wanted if _is_of_both(wanted) else _shared(wanted)), strict=True
        )
    )
    check_pair(train, val, request)
    return train, val


def _shared(wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in wanted.items() if name not in _OF_THE_SPLIT}


def _fits_either(request: Request, pair: tuple[CacheEntry, CacheEntry]) -> bool:
    """Whether the fields that each split has for itself, such as a digest, are those of one of the two, or of both."""
    wanted = feature_fields(request.fields)
    fitting = [
        entry in find_caches(request.home, "features", dataset=entry.dataset, split=entry.split, fields=wanted)
        for entry in pair
    ]
    return all(fitting) if _is_of_both(wanted) else any(fitting)


def _is_of_both(wanted: Mapping[str, Any]) -> bool:
    return any("," in str(wanted.get(name, "")) for name in _OF_THE_SPLIT)


def _pair_differences(train: CacheEntry, val: CacheEntry) -> list[Difference]:
    of_each = {*_OF_THE_SPLIT, "omitted"}
    return [found for found in differences(train.recipe, val.recipe) if found.field not in of_each]


def check_pair(train: CacheEntry, val: CacheEntry, request: Request) -> None:
    """Raise :class:`CacheMissError` where the caches of the two splits were made with different settings."""
    if found := _pair_differences(train, val):
        listed = "; ".join(f"{d.field}: {d.left!r} in {train.split}, {d.right!r} in {val.split}" for d in found)
        raise CacheMissError(
            f"no {train.kind} of {train.name} that {request.dataset}'s {train.split} and {val.split} share: "
            f"{train.path} and {val.path} differ in {listed}. Extract both splits with the same settings: "
            f"`{request.extract_command}`"
        )


def find_targets(
    request: Request, split: str, annotation: str, features: CacheEntry, options: ProbeOptions
) -> CacheEntry:
    """The targets of the images that ``features`` are of, of the same part of each; raises as one cache's choice does.

    :class:`CacheMissError`, :class:`AmbiguousCacheError` and :class:`UsageError`, as :func:`find_one` says.
    """
    needed = seen_alike(features)
    if options.output_size:
        needed["size"] = list(options.output_size)
    chosen = _chosen_targets(request, split, annotation, needed)
    if len(chosen) == 1:
        found = chosen[0]
    else:
        command = f"`{request.extract_command}{fit_option(features)}`"
        found = find_one(
            request.home,
            "targets",
            dataset=request.dataset,
            split=split,
            name=annotation,
            fields=needed,
            next_step=f"{command} makes these targets, if {request.dataset} has the annotation {annotation}",
        )
    require_same_region(features, found)
    return found


def _chosen_targets(request: Request, split: str, annotation: str, needed: Mapping[str, Any]) -> list[CacheEntry]:
    """The targets that the request's fields of target recipes leave; each split has annotations of its own."""
    own = {name: value for name, value in request.fields.items() if name in TARGET_FIELDS}
    alternatives = [{**own, "annotations": digest} for digest in str(own.get("annotations", "")).split(",") if digest]
    return [
        entry
        for wanted in alternatives or [own]
        for entry in find_caches(
            request.home, "targets", dataset=request.dataset, split=split, name=annotation, fields={**needed, **wanted}
        )
    ]


def find_base_images(request: Request, split: str, features: CacheEntry) -> CacheEntry:
    """The base images that the features were made from, for readouts that are conditioned on them."""
    found = find_one(
        request.home,
        "images",
        dataset=request.images_name,
        split=split,
        name="",
        fields=seen_alike(features),
        next_step=f"a readout needs the base images: `{request.extract_command}{fit_option(features)}` makes them",
    )
    require_same_region(features, found)
    return found
