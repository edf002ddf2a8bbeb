"""Repair: verify a cache, delete its damaged shards, and extract again what is damaged or missing, and nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from deapcache.backbones import CLS, NO_TOKENS, describe, extract_options
from deapcache.cache import (
    ORIGINAL,
    ArraySpec,
    Cache,
    CacheEntry,
    CacheFolder,
    FeatureCache,
    VerifyReport,
    create_cache,
    feature_arrays,
    open_cache,
    refresh_manifest,
    remove_bad_shards,
    require_inside_home,
    set_aside,
    verify_cache,
)
from deapcache.cache.format import read_group
from deapcache.cache.names import PROVENANCE
from deapcache.cache.progress import Progress, no_progress
from deapcache.datasets import DigestIndex, open_dataset
from deapcache.errors import DeapcacheError, MissingDataError, UsageError
from deapcache.extraction.create import item_bytes, require_space
from deapcache.extraction.extract import LocalExecutor, compute_features
from deapcache.extraction.images_targets import (
    IMAGES,
    fill_caches,
    image_array,
    image_recipe,
    omitted_from,
    target_array,
    target_recipe,
)
from deapcache.extraction.pipeline import CachedImages, FeatureJob, in_view
from deapcache.extraction.readable import without_unreadable
from deapcache.extraction.recompute import base_images, rebuild_backbone
from deapcache.extraction.settings import ExtractionSettings, choose_device
from deapcache.recipe import FeatureRecipe, ImageRecipe, Recipe, TargetRecipe, differences, image_set_digest


@dataclass(frozen=True, kw_only=True)
class RepairSettings:
    """How to repair."""

    data_root: Path | None = None
    """The folder of the dataset's files, from which repair makes base images and targets."""
    weights: Path | None = None
    """The checkpoint, where one was given for the extraction."""
    device: str = "auto"
    batch_size: int | None = None
    only_bad: bool = False
    """Leave alone the shards that were not there before the repair."""


@dataclass(frozen=True, kw_only=True)
class RepairReport:
    """What a repair came to."""

    verified: VerifyReport
    """What the verification found."""
    removed: tuple[int, ...] = ()
    """Damaged shards that repair deleted."""
    set_aside: tuple[str, ...] = ()
    """Small files that repair moved out of the way."""
    remade: tuple[int, ...] = ()
    """Shards that were damaged or missing, and are there now."""
    problem: str = ""
    """Why repair could not make what is missing; empty where it could."""
    command: str = ""
    """What to run instead."""

    @property
    def is_whole(self) -> bool:
        """Whether everything that repair was to make is there."""
        return not self.problem

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**vars(self), "verified": self.verified.to_json()}


def repair_cache(
    folder: CacheFolder,
    settings: RepairSettings | None = None,
    *,
    progress: Progress = no_progress,
) -> RepairReport:
    """Verify a cache, delete its damaged shards, and extract what is missing.

    Features come from the base images in the same home, base images and targets from the dataset's files. Where these
    are missing, repair deletes damaged shards all the same, and the report says why and what to run. It moves small
    files aside only where the cache cannot be opened with them, or where it can make them again.

    It divides the shards with other runs on the same cache, as an extraction does. Raises :class:`ReadOnlyError`,
    :class:`StorageFullError` and :class:`LocationError`.
    """
    settings = settings or RepairSettings()
    require_inside_home(folder.location)
    folder.location.sweep()
    found = verify_cache(folder.location, progress=progress)
    if found.is_sound and (settings.only_bad or not found.missing):
        return RepairReport(verified=found)
    entry = folder.entry
    try:
        if entry is None:
            raise UsageError("its root zarr.json, which says what the cache is, cannot be used")
        find = _find_base_images if entry.kind == "features" else _find_files
        recipe, arrays, image_ids, extract = find(entry, settings, progress)
    except DeapcacheError as error:
        return _delete_damage(folder, found, str(error), only_bad=settings.only_bad)
    moved: tuple[str, ...] = ()
    bad = found.bad
    if metadata := _clear_provenance(folder, found):
        attributes = read_group(folder.location).attributes
        moved = set_aside(folder.location, metadata)
        cache = create_cache(
            entry.home, entry.path, recipe=recipe, arrays=arrays, image_ids=image_ids, attributes=attributes
        )
        bad = verify_cache(folder.location, progress=progress).bad  # now by metadata that can be trusted
    else:
        cache = open_cache(folder.location)
    removed = remove_bad_shards(cache, bad)
    missing = cache.missing_shards()
    shards = sorted(set(missing).intersection(removed)) if settings.only_bad else missing
    with refresh_manifest(cache):
        if shards:
            extract(cache, shards)
    return RepairReport(verified=found, removed=removed, set_aside=moved, remade=tuple(shards))


def _delete_damage(folder: CacheFolder, found: VerifyReport, problem: str, *, only_bad: bool) -> RepairReport:
    """Delete the damaged shards of a cache that cannot be extracted again because of ``problem``."""
    metadata = _clear_provenance(folder, found)
    entry = folder.entry
    moved: tuple[str, ...] = ()
    if metadata and not found.digest and (entry is None or entry.kind == "features"):
        moved = set_aside(folder.location, metadata)  # an extraction then finds whole shards without a root
    removed = remove_bad_shards(open_cache(folder.location), found.bad) if found.digest else ()
    report = RepairReport(verified=found, removed=removed, set_aside=moved)
    if metadata or found.bad or (found.missing and not only_bad):
        return replace(report, problem=problem, command=extract_command(folder))
    return report


def _clear_provenance(folder: CacheFolder, found: VerifyReport) -> list[str]:
    """Delete provenance that cannot be read: nothing depends on it. Returns the other damaged small files."""
    unreadable = {key for key in found.problems if key.startswith(f"{PROVENANCE}/")}
    for key in unreadable:
        folder.location.delete(key)
    return [key for key in found.problems if key not in unreadable]


_Source = tuple[Recipe, Sequence[ArraySpec], Sequence[str], Callable[[Cache, Sequence[int]], None]]
"""What to extract a cache from again: recipe, arrays, image ids, and what makes and publishes some shards."""


def _find_base_images(entry: CacheEntry, settings: RepairSettings, progress: Progress) -> _Source:
    """The backbone of features, and their base images in the same home."""
    recipe = FeatureRecipe.from_json(entry.recipe)
    images = base_images(recipe, entry.home)
    device = choose_device(settings.device)
    backbone = rebuild_backbone(recipe, entry.home, weights=settings.weights, device=device)

    def extract(cache: Cache, shards: Sequence[int]) -> None:
        rows = sum(len(cache.shard_rows(shard)) for shard in shards)
        require_space(cache.location, rows * item_bytes(cache))
        job = FeatureJob(
            caches=[cast(FeatureCache, cache)],
            backbone=backbone,
            source=in_view(CachedImages(images), recipe.view),
            settings=ExtractionSettings(batch_size=settings.batch_size),
        )
        executor = LocalExecutor({"repair": True})
        compute_features(job, shards, stage=f"repair {entry.path}", progress=progress, executor=executor)

    arrays = feature_arrays(recipe.storage, backbone.grid, backbone.dim, cls=recipe.tokens == CLS)
    return recipe, arrays, images.image_ids, extract


def _find_files(entry: CacheEntry, settings: RepairSettings, progress: Progress) -> _Source:
    """The dataset's files that base images or targets are from."""
    if settings.data_root is None:
        raise MissingDataError(f"{entry.kind} are made from the dataset's files: say where they lie (--data-root)")
    split, size, fit = entry.split, cast(tuple[int, int], tuple(entry.recipe["size"])), entry.recipe["fit"]
    dataset = open_dataset(entry.dataset, settings.data_root)
    if entry.fields["omitted"]:
        dataset = without_unreadable(dataset, [split], entry.home)
    index = DigestIndex(entry.home)
    ids = dataset.image_ids(split)
    digest = image_set_digest(zip(ids, dataset.image_digests(split, index=index), strict=True))
    recipe: ImageRecipe | TargetRecipe
    if entry.kind == "images":
        name, array = IMAGES, image_array(size)
        recipe = image_recipe(dataset, size, digest, fit=fit, omitted=omitted_from(dataset, split))
    else:
        name = str(entry.recipe["annotation"])
        array = target_array(dataset, split, name, size)
        recipe = target_recipe(dataset, split, name, size, digest, fit=fit, index=index)
    if recipe.digest != entry.digest:
        differing = "; ".join(str(one) for one in differences(recipe.to_json(), entry.recipe))
        raise UsageError(f"the files in {settings.data_root} are not those that {entry.path} was made of ({differing})")

    def extract(cache: Cache, shards: Sequence[int]) -> None:
        rows = [row for shard in shards for row in cache.shard_rows(shard)]
        fill_caches(
            dataset,
            split,
            {name: cache},
            rows,
            settings=ExtractionSettings(),
            progress=progress,
            stage=f"repair {entry.path}",
        )

    return recipe, [array], ids, extract


def extract_command(folder: CacheFolder) -> str:
    """The command line that makes what a cache lacks; for one that cannot be read, a sentence."""
    entry = folder.entry
    if entry is None:
        return "the deapcache extract that made it, with the same options: whole shards are found again"
    if entry.kind != "features":
        return shlex.join(["deapcache", "cache", "repair", entry.path, "--home", str(entry.home), "--data-root", "DIR"])
    recipe = FeatureRecipe.from_json(entry.recipe)
    words = ["deapcache", "extract", *shlex.split(extract_options(entry.name, recipe.backbone))]
    words += ["--dataset", entry.dataset, "--split", entry.split]
    words += ["--base-size", recipe.base_size, "--fit", recipe.base_fit, "--dtype", recipe.storage]
    words += ["--precision", recipe.precision, "--home", str(entry.home)]
    words += ["--views", recipe.view] if recipe.view != ORIGINAL else []
    words += ["--on-error", "skip"] if recipe.omitted else []
    words += ["--layers", recipe.layer] if recipe.layer.isdecimal() else []
    words += ["--tokens", recipe.tokens] if recipe.tokens != NO_TOKENS else []
    with suppress(UsageError):  # a backbone that is not known here
        if recipe.final_norm != describe(recipe.backbone).final_norm:
            words.append(f"--{'' if recipe.final_norm else 'no-'}final-norm")
    return shlex.join(words)
