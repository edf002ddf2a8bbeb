"""Which caches a probe reads: features of both splits that belong together, and the targets and images beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from deapcache.cache import HFLIP, Cache, CacheEntry, FeatureCache, Reading, find_caches, find_one, list_caches
from deapcache.cache.features import CLS
from deapcache.errors import CacheMissError, CorruptCacheError, IncompleteCacheError, UsageError
from deapcache.locations import Location
from deapcache.probing.config import ProbeConfig
from deapcache.recipe import LAST, Difference, FeatureRecipe, TargetRecipe, differences
from deapcache.regions import CROP, SQUASH, have_one_shape, parse_size

FEATURES, MIRRORED, GUIDANCE = "features", "mirrored features", "base images"
"""Names of arrays that are no targets; those of targets are their annotations."""

_LAYER = "layer "
"""How names of further layers' features begin: ``layer 9``."""

_OF_THE_SPLIT = {"images", "annotations", "digest"}
"""Fields that each split has for itself: ``images=ONE`` chooses a cache of one, ``images=ONE,OTHER`` one of each."""

_TARGET_FIELDS = {f.name for f in fields(TargetRecipe)} - {f.name for f in fields(FeatureRecipe)}
"""Fields that only target recipes have: they choose targets, and say nothing about features."""

_EXTRACT_OPTIONS = {"base_size": "--base-size", "base_fit": "--fit", "storage": "--dtype", "precision": "--precision"}
"""Recipe field → the option of ``deapcache extract`` that sets it."""


class JoinedFeatures:
    """The features of several layers of one backbone as one volume, joined along channels in the order given.

    Where the caches hold class tokens, that of each layer stands beside the layer's features in every cell, as in
    DINOv2's depth heads and in DPT (Ranftl et al. 2021, "project"). It reads as a :class:`FeatureCache` does. Raises
    :class:`UsageError` for layers of unlike grids.
    """

    def __init__(self, layers: Mapping[str, FeatureCache]) -> None:
        self._caches = tuple(layers.values())
        first = self._caches[0]
        self.image_ids, self.grid, self.covered = first.image_ids, first.grid, first.covered
        self._with_tokens = first.has_cls
        self.parts = tuple(cache.dim * (2 if self._with_tokens else 1) for cache in self._caches)
        """Channels of each layer, those of its class token among them."""
        self.dim = sum(self.parts)
        if any((cache.grid, cache.covered) != (self.grid, self.covered) for cache in self._caches):
            grids = ", ".join(f"{c.grid[0]}x{c.grid[1]} in layer {name}" for name, c in layers.items())
            raise UsageError(
                f"layers of {first.backbone} have unlike grids and cannot be joined: {grids}; choose layers of one grid"
            )

    def __len__(self) -> int:
        return len(self.image_ids)

    def read_features(self, rows: np.ndarray) -> np.ndarray:
        """(len(rows), H, W, sum of all D) as :meth:`FeatureCache.read_features` has it."""
        return self.read_features_async(rows).result()

    def read_features_async(self, rows: np.ndarray) -> Reading:
        """Begin to read all layers, and come back at once."""
        begun = [
            (cache.read_features_async(rows), cache.read_async(rows, CLS) if self._with_tokens else None)
            for cache in self._caches
        ]

        def join() -> np.ndarray:
            layers = ((features.result(), None if token is None else token.result()) for features, token in begun)
            return np.concatenate([part for layer in layers for part in with_class_token(*layer)], -1)

        return Reading(join)


def with_class_token(features: np.ndarray, tokens: np.ndarray | None) -> list[np.ndarray]:
    """Features (n, H, W, D) and the class tokens (n, D) in every cell; the features alone where there are none."""
    if tokens is None:
        return [features]
    return [features, np.broadcast_to(tokens[:, None, None].astype(features.dtype), features.shape)]


@dataclass(frozen=True)
class SplitCaches:
    """The open caches of one split, and the rows of them that a probe uses."""

    features: FeatureCache | JoinedFeatures
    others: Mapping[str, Cache]
    """Name of an array → its cache, whose rows are those of ``features``: targets by annotation and, where a readout
    needs them, the base images as :data:`GUIDANCE`."""
    rows: np.ndarray
    mirrored: FeatureCache | None = None
    """Features of the mirror images, whose rows are those of ``features``; ``None``: no mirror image is drawn."""
    entries: Mapping[str, CacheEntry] = field(default_factory=dict)
    """Name of an array → where its cache lies in the home."""

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Ids of the rows used, in order."""
        ids = self.features.image_ids
        return tuple(ids[row] for row in self.rows)

    @property
    def draws(self) -> np.ndarray:
        """What an epoch draws once each: the rows and, where there are mirror images, the rows + the number of images.

        A number is a row of the caches and a view in one, so that one permutation goes over rows × views.
        """
        return np.concatenate([self.rows + view * len(self.features) for view in range(len(self.feature_views))])

    @property
    def feature_views(self) -> dict[str, FeatureCache | JoinedFeatures]:
        """The features of each view, by the names under which batches hold them."""
        return {FEATURES: self.features, **({} if self.mirrored is None else {MIRRORED: self.mirrored})}

    @property
    def parts(self) -> tuple[int, ...]:
        """Channels of each layer where several are joined; empty for one."""
        return self.features.parts if isinstance(self.features, JoinedFeatures) else ()

    def decoded_bytes(self) -> int:
        """Bytes that the used rows take in memory."""
        one = self.rows[:1]
        sample = [cache.read_features(one) for cache in self.feature_views.values()]
        sample += [cache.read(one) for cache in self.others.values()]
        return sum(array.nbytes for array in sample) * len(self.rows)


def open_caches(
    home: Location, config: ProbeConfig, annotations: Sequence[str], *, with_images: bool = False
) -> tuple[SplitCaches, SplitCaches]:
    """The caches of the training and of the validation split, with the rows that the limits select.

    Raises :class:`CacheMissError` or :class:`AmbiguousCacheError` where the caches are not there, or not one of each,
    or where those of the two splits do not belong together; :class:`IncompleteCacheError` where they lack rows;
    :class:`CorruptCacheError` where features and targets list different images; :class:`UsageError` where targets of
    another part of the images are asked for.
    """
    found_layers = [_find_features(home, config, layer) for layer in config.layers or (None,)]
    pair = found_layers[0]
    _require_one_forward(config, [train for train, _ in found_layers])
    targets = [{name: _find_targets(home, config, name, features) for name in annotations} for features in pair]
    for name in annotations:
        _require_one_setting(home, config, targets[0][name], targets[1][name])
    later = [(_LAYER + layer, found) for layer, found in zip(config.layers[1:], found_layers[1:], strict=True)]
    train, val = (
        {FEATURES: pair[split], **{name: found[split] for name, found in later}, **targets[split]} for split in (0, 1)
    )
    if with_images:
        for entries in (train, val):
            entries[GUIDANCE] = _find_base_images(home, config, entries[FEATURES])
    if HFLIP in config.views:  # nothing is scored on mirror images, so those of val need not be there
        train[MIRRORED] = _find_mirrored(home, config, train[FEATURES])
    return (
        _open_split(home, config, train, annotations, config.train_limit, config.train_subset),
        _open_split(home, config, val, annotations, config.val_limit),
    )


def subset_rows(images: int, limit: int | None, seed: int | None) -> Sequence[int]:
    """The rows of ``limit`` of so many images, in order: the first ones, or with a ``seed`` nested random subsets."""
    if limit is None or limit >= images:
        return range(images)
    return range(limit) if seed is None else sorted(np.random.default_rng(seed).permutation(images)[:limit].tolist())


def _open_split(
    home: Location,
    config: ProbeConfig,
    entries: Mapping[str, CacheEntry],
    annotations: Sequence[str],
    limit: int | None,
    subset: int | None = None,
) -> SplitCaches:
    caches = {name: entry.open() for name, entry in entries.items()}
    layers = [name for name in caches if name.startswith(_LAYER)]
    for name in (*annotations, MIRRORED, *layers):
        if name in caches:
            _require_same_images(entries[FEATURES], caches[FEATURES], entries[name], caches[name])
    features = caches[FEATURES]
    rows = subset_rows(len(features), limit, subset)
    needed = range(len(features))[: limit if subset is None else None]  # a subset is drawn from all
    for name, cache in caches.items():
        if not cache.is_complete(needed):
            found = entries[FEATURES]
            command = _mirror_command(home, config, found) if name == MIRRORED else _command(home, config, found)
            command += "" if limit is None or subset is not None else f" --limit {limit}"
            raise _incomplete(command, entries[name].path, cache, needed, caches.values())
    volumes = {name: cache for name, cache in caches.items() if isinstance(cache, FeatureCache)}
    others = {name: cache for name, cache in caches.items() if name not in volumes}
    joined = dict(zip(config.layers, (volumes[name] for name in (FEATURES, *layers)), strict=bool(config.layers)))
    read = JoinedFeatures(joined) if joined else volumes[FEATURES]
    return SplitCaches(read, others, np.asarray(rows), volumes.get(MIRRORED), entries)


def cache_records(train: SplitCaches, val: SplitCaches, annotations: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What a result keeps of the caches that a task of these annotations reads, as JSON.

    ``train``, ``val``, ``train hflip`` (where mirror images are drawn), ``train layer 9`` (of layers joined with the
    first), ``train instances targets``, … → path inside the home, digest and recipe.
    """
    entries = {"train": train.entries[FEATURES], "val": val.entries[FEATURES]}
    if MIRRORED in train.entries:
        entries[f"train {HFLIP}"] = train.entries[MIRRORED]
    for layer in (name for name in train.entries if name.startswith(_LAYER)):
        entries |= {f"train {layer}": train.entries[layer], f"val {layer}": val.entries[layer]}
    for annotation in annotations:
        entries[f"train {annotation} targets"] = train.entries[annotation]
        entries[f"val {annotation} targets"] = val.entries[annotation]
    return {
        name: {"path": entry.path, "digest": entry.digest, "recipe": dict(entry.recipe)}
        for name, entry in entries.items()
    }


def feature_fields(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the wanted recipe fields that features can have; a target's ``fit`` is their ``base_fit``.

    Raises :class:`UsageError` where the two are asked for and differ: scores would be of other pixels than features.
    """
    found = {name: value for name, value in wanted.items() if name not in _TARGET_FIELDS}
    if "fit" not in wanted:
        return found
    if found.setdefault("base_fit", wanted["fit"]) != wanted["fit"]:
        raise UsageError(
            f"fit={wanted['fit']} and base_fit={found['base_fit']} are asked for: targets must show the same part of "
            "the image as the features; name one of the two"
        )
    return found


def model_of(home: Location, name: str) -> str:
    """The backbone in the recipe of features of that name, of whatever dataset; empty where the home holds none."""
    return next((str(entry.recipe["backbone"]) for entry in list_caches(home, "features", name=name)), "")


def _find_features(home: Location, config: ProbeConfig, layer: str | None) -> tuple[CacheEntry, CacheEntry]:
    """The features of both splits, of one layer where it is given, that belong together and have the fields asked for.

    Raises :class:`CacheMissError` or :class:`AmbiguousCacheError` where there is not exactly one such pair.
    """
    wanted = feature_fields(config.where) | ({} if layer is None else {"layer": layer})
    shared = {name: value for name, value in wanted.items() if name not in _OF_THE_SPLIT}
    of_both = any("," in str(wanted.get(name, "")) for name in _OF_THE_SPLIT)
    asked = {"dataset": config.images_name or str(config.dataset), "name": config.backbone}
    trains, vals = (find_caches(home, "features", split=split, fields=shared, **asked) for split in config.splits)
    pairs = [(train, val) for train in trains for val in vals if not _setting_differences(train, val)]
    if shared != wanted:  # fields such as a digest are those of one of the two, or of both
        chosen = [find_caches(home, "features", split=split, fields=wanted, **asked) for split in config.splits]
        enough = all if of_both else any
        pairs = [pair for pair in pairs if enough(entry in some for entry, some in zip(pair, chosen, strict=True))]
    if len(pairs) == 1:
        return pairs[0]
    step = f"`{config.extract_command(home, model_of(home, config.backbone))}` makes it"
    if layer not in (None, LAST):
        step += f" (that of the last block is called {LAST})"
    # None, or several: where a split has not exactly one cache, say which there are; else say why the two do not pair.
    train, val = (
        find_one(home, "features", split=split, fields=named, next_step=step, **asked)
        for split, named in zip(config.splits, (wanted, wanted if of_both else shared), strict=True)
    )
    _require_one_setting(home, config, train, val)
    return train, val


def _require_one_forward(config: ProbeConfig, layers: Sequence[CacheEntry]) -> None:
    """Raise :class:`CacheMissError` where features of several layers differ in more than their layer."""
    for layer, entry in zip(config.layers, layers, strict=False):
        found = [one for one in differences(layers[0].recipe, entry.recipe) if one.field not in ("layer", "omitted")]
        if found:
            listed = "; ".join(f"{d.field}: {d.left!r} in {config.layers[0]}, {d.right!r} in {layer}" for d in found)
            raise CacheMissError(
                f"layers {','.join(config.layers)} of {entry.name} cannot be joined: {layers[0].path} and {entry.path} "
                f"differ in {listed}; extract them in one run with the same settings, and choose those with --where"
            )


def _setting_differences(train: CacheEntry, val: CacheEntry) -> list[Difference]:
    of_each = {*_OF_THE_SPLIT, "omitted"}
    return [found for found in differences(train.recipe, val.recipe) if found.field not in of_each]


def _require_one_setting(home: Location, config: ProbeConfig, train: CacheEntry, val: CacheEntry) -> None:
    """Raise :class:`CacheMissError` where the caches of the two splits were made with different settings."""
    if found := _setting_differences(train, val):
        listed = "; ".join(f"{d.field}: {d.left!r} in {train.split}, {d.right!r} in {val.split}" for d in found)
        raise CacheMissError(
            f"no {train.kind} of {train.name} that {config.dataset}'s {train.split} and {val.split} share: "
            f"{train.path} and {val.path} differ in {listed}. Extract both splits with the same settings: "
            f"`{config.extract_command(home, train.recipe.get('backbone', ''))}`"
        )


def cached_targets(home: Location, config: ProbeConfig) -> set[str]:
    """The label types of which the dataset has targets in ``home``."""
    return {
        entry.name
        for split in ("train", "val")
        for entry in find_caches(home, "targets", dataset=str(config.dataset), split=split)
    }


def _find_targets(home: Location, config: ProbeConfig, annotation: str, features: CacheEntry) -> CacheEntry:
    """The targets of the images that ``features`` are of, of the same part of each; raises as :func:`find_one` does."""
    needed = _base_image_fields(features)
    if config.output_size:
        needed["size"] = list(config.output_size)
    asked: dict[str, Any] = {"dataset": str(config.dataset), "split": features.split, "name": annotation}
    own = {name: value for name, value in config.where.items() if name in _TARGET_FIELDS}
    # each split has annotations of its own
    digests = [digest for digest in str(own.get("annotations", "")).split(",") if digest]
    chosen = [
        entry
        for fields_of_one in [{**own, "annotations": digest} for digest in digests] or [own]
        for entry in find_caches(home, "targets", fields={**needed, **fields_of_one}, **asked)
    ]
    found = chosen[0] if len(chosen) == 1 else None
    if found is None:
        command = f"{_command(home, config, features)}{_fit_option(features)}"
        step = f"`{command}` makes these targets, if {config.dataset} has the annotation {annotation}"
        found = find_one(home, "targets", fields=needed, next_step=step, **asked)
    _require_same_region(features, found)
    return found


def _find_base_images(home: Location, config: ProbeConfig, features: CacheEntry) -> CacheEntry:
    """The base images that the features were made from, for readouts that are conditioned on them."""
    command = f"{_command(home, config, features)}{_fit_option(features)}"
    found = find_one(
        home,
        "images",
        dataset=features.dataset,
        split=features.split,
        name="",
        fields=_base_image_fields(features),
        next_step=f"a readout needs the base images: `{command}` makes them",
    )
    _require_same_region(features, found)
    return found


def _find_mirrored(home: Location, config: ProbeConfig, features: CacheEntry) -> CacheEntry:
    """The cache that differs from ``features``, those of original images, in its view and in nothing else.

    Raises :class:`CacheMissError` with the command that makes it.
    """
    digest = FeatureRecipe.from_json({**features.recipe, "view": HFLIP}).digest
    asked = {"dataset": features.dataset, "split": features.split, "name": features.name}
    mirrored = find_caches(home, features.kind, fields={"view": HFLIP}, **asked)
    for entry in mirrored:
        if entry.digest == digest:
            return entry
    wanted = {**features.fields, "view": HFLIP}
    near = [(entry.path, ", ".join(d.field for d in differences(wanted, entry.fields))) for entry in mirrored]
    lines = [
        f"{home} has no features of {features.name} of the mirrored images of {features.dataset} "
        f"{features.split} that were made as {features.path} was.",
        *(f"  near: {path}, which differs in {differing}" for path, differing in near),
        f"`{_mirror_command(home, config, features)}` makes them",
    ]
    raise CacheMissError("\n".join(lines))


def _mirror_command(home: Location, config: ProbeConfig, features: CacheEntry) -> str:
    """The command that makes the mirror images' features as ``features`` were made, and continues where it stopped."""
    settings = [f"{option} {features.recipe[name]}" for name, option in _EXTRACT_OPTIONS.items()]
    if features.recipe.get("omitted"):
        settings.append("--on-error skip")  # else an image that cannot be read would end it
    return " ".join([_command(home, config, features), f"--split {features.split} --views {HFLIP}", *settings])


def _command(home: Location, config: ProbeConfig, features: CacheEntry) -> str:
    """The command that makes the rest of what there is of the backbone of ``features``."""
    return config.extract_command(home, features.recipe["backbone"])


def _base_image_fields(features: CacheEntry) -> dict[str, Any]:
    """Recipe fields of the targets and base images that show the same part of the same images as ``features``."""
    needed = {"images": features.recipe["images"], "fit": features.recipe["base_fit"]}
    size = parse_size(features.recipe["base_size"])  # none of images of native size
    return {**needed, "size": list(size)} if size else needed


def _require_same_region(features: CacheEntry, entry: CacheEntry) -> None:
    """Raise :class:`UsageError` where images were cropped to another shape for ``entry`` than for the features."""
    height, width = parse_size(features.recipe["base_size"]) or features.recipe["image_size"]
    size = entry.recipe["size"]
    if entry.recipe["fit"] == CROP and not have_one_shape((height, width), size):
        raise UsageError(
            f"{entry.path} shows images cropped to the shape of {size[0]}x{size[1]}, and {features.path} is of images "
            f"cropped to that of {height}x{width}: choose an output size of the features' shape, or extract with "
            f"--fit {SQUASH}"
        )


def _fit_option(features: CacheEntry) -> str:
    """The option that a command needs to make targets or images beside ``features``; empty for the default fit."""
    fit = features.recipe["base_fit"]
    return "" if fit == SQUASH else f" --fit {fit}"


def _require_same_images(features: CacheEntry, volumes: Cache, entry: CacheEntry, cache: Cache) -> None:
    """Raise :class:`CorruptCacheError` where a cache lists other images than the features, or in another order."""
    if cache.image_ids != volumes.image_ids:
        pairs = zip(volumes.image_ids, cache.image_ids, strict=False)
        row = next((row for row, (left, right) in enumerate(pairs) if left != right), None)
        found = (
            f"{len(volumes)} and {len(cache)} images"
            if row is None
            else f"row {row} is image {volumes.image_ids[row]} there and {cache.image_ids[row]} here"
        )
        raise CorruptCacheError(
            f"{entry.path} does not list the images of {features.path}, though both name the same image set: {found}. "
            f"Delete {entry.path} and make it again"
        )


def _incomplete(command: str, path: str, cache: Cache, rows: range, caches: Iterable[Cache]) -> IncompleteCacheError:
    """The error of a cache that lacks some of ``rows``; it names how many rows all ``caches`` have from the first."""

    def missing(one: Cache) -> list[int]:
        return [row for shard in one.missing_shards(rows) for row in one.shard_rows(shard) if row in rows]

    usable = min(row for one in caches for row in [*missing(one)[:1], len(rows)])
    instead = f", or probe only the first {usable} with --limit {usable}" if usable else ""
    return IncompleteCacheError(
        f"{path} holds {len(rows) - len(missing(cache))} of the {len(rows)} images asked for: "
        f"`{command}` does the rest{instead}"
    )
