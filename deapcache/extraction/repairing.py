"""Making anew what of a cache is damaged or missing, and nothing else."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import Any

from deapcache.backbones import NO_TOKENS, describe
from deapcache.cache import (
    ORIGINAL,
    CacheFolder,
    ShardListener,
    VerifyReport,
    open_cache,
    refresh_manifest,
    remove_bad_shards,
    require_own,
    restore_metadata,
    set_aside,
    verify_cache,
)
from deapcache.cache.names import PROVENANCE
from deapcache.cache.parallel import no_progress
from deapcache.errors import DeapcacheError, UsageError
from deapcache.extraction.makers import Maker, RepairSettings, maker_of
from deapcache.extraction.progress import Progress, silent
from deapcache.recipe import FeatureRecipe


@dataclass(frozen=True, kw_only=True)
class RepairReport:
    """What a repair came to."""

    verified: VerifyReport
    """What was found."""
    removed: tuple[int, ...] = ()
    """Damaged shards that were deleted."""
    set_aside: tuple[str, ...] = ()
    """Small files that were moved out of the way."""
    remade: tuple[int, ...] = ()
    """Shards that were made anew, or for the first time."""
    problem: str = ""
    """Why what is missing could not be made anew; empty where it could."""
    command: str = ""
    """What to run instead."""

    @property
    def is_whole(self) -> bool:
        """Whether everything that was to be made is there."""
        return not self.problem

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**vars(self), "verified": self.verified.to_json()}


def repair_cache(
    folder: CacheFolder,
    settings: RepairSettings | None = None,
    *,
    checking: ShardListener = no_progress,
    progress: Progress = silent,
) -> RepairReport:
    """Verify a cache, delete its damaged shards, and make anew what is missing.

    Features are made from the base images in the same home, base images and targets from the dataset's files. Where
    that cannot be done, damaged shards are deleted all the same, and the report says why and what to run. Small files
    are moved aside only where the cache cannot be opened with them, or can be made again.

    Raises :class:`ReadOnlyError`, :class:`StorageFullError` and :class:`LocationError`.
    """
    settings = settings or RepairSettings()
    require_own(folder.location)
    folder.location.sweep()
    found = verify_cache(folder.location, progress=checking)
    if found.is_sound and (settings.only_bad or not found.missing):
        return RepairReport(verified=found)
    try:
        maker = maker_of(folder, settings)
    except DeapcacheError as error:
        return _without_maker(folder, found, str(error), only_bad=settings.only_bad)
    return _with_maker(folder, found, maker, settings, checking, progress)


def _without_maker(folder: CacheFolder, found: VerifyReport, problem: str, *, only_bad: bool) -> RepairReport:
    metadata = _clear_provenance(folder, found)
    entry = folder.entry
    moved: tuple[str, ...] = ()
    if metadata and not found.digest and (entry is None or entry.kind == "features"):
        moved = set_aside(folder.location, metadata)  # what extract then finds are whole shards without a root
    removed = remove_bad_shards(open_cache(folder.location), found.bad) if found.digest else ()
    report = RepairReport(verified=found, removed=removed, set_aside=moved)
    if metadata or found.bad or (found.missing and not only_bad):
        return replace(report, problem=problem, command=extract_command(folder))
    return report


def _with_maker(
    folder: CacheFolder,
    found: VerifyReport,
    maker: Maker,
    settings: RepairSettings,
    checking: ShardListener,
    progress: Progress,
) -> RepairReport:
    moved: tuple[str, ...] = ()
    bad = found
    if metadata := _clear_provenance(folder, found):
        moved = set_aside(folder.location, metadata)
        cache = maker.create()
        bad = verify_cache(folder.location, progress=checking)  # the shards, by metadata that can be trusted
    else:
        cache = open_cache(folder.location)
    removed = remove_bad_shards(cache, bad.bad)
    lacking = removed if settings.only_bad else cache.missing_shards()
    shards = sorted(set(lacking) & set(cache.missing_shards()))
    with refresh_manifest(cache):
        if shards:
            maker.make(cache, shards, progress)
            restore_metadata(cache)
    return RepairReport(verified=found, removed=removed, set_aside=moved, remade=tuple(shards))


def _clear_provenance(folder: CacheFolder, found: VerifyReport) -> list[str]:
    """Delete what of the provenance cannot be read: nothing depends on it. Returns the other damaged small files."""
    unreadable = {key for key in found.problems if key.startswith(f"{PROVENANCE}/")}
    for key in unreadable:
        folder.location.delete(key)
    return [key for key in found.problems if key not in unreadable]


def extract_command(folder: CacheFolder) -> str:
    """The command line that makes what a cache lacks; for one that cannot be read, a sentence."""
    entry = folder.entry
    if entry is None:
        return "the deapcache extract that made it, with the same options: whole shards are found again"
    if entry.kind != "features":
        return shlex.join(["deapcache", "cache", "repair", entry.path, "--home", str(entry.home), "--data-root", "DIR"])
    recipe = FeatureRecipe.from_json(entry.recipe)
    words = ["deapcache", "extract", "--backbone", recipe.backbone, "--dataset", entry.dataset, "--split", entry.split]
    words += ["--base-size", recipe.base_size, "--fit", recipe.base_fit, "--dtype", recipe.storage]
    words += ["--precision", recipe.precision, "--home", str(entry.home)]
    words += ["--views", recipe.view] if recipe.view != ORIGINAL else []
    words += ["--on-error", "skip"] if recipe.omitted else []
    return shlex.join([*words, *_tap_words(recipe)])


def _tap_words(recipe: FeatureRecipe) -> list[str]:
    """The options that choose layer, class token and final norm, where they are not the backbone's own."""
    words = ["--layers", recipe.layer] if recipe.layer.isdecimal() else []
    words += ["--tokens", recipe.tokens] if recipe.tokens != NO_TOKENS else []
    try:
        own = describe(recipe.backbone).final_norm
    except UsageError:  # a backbone that is not known here
        return words
    return words if recipe.final_norm == own else [*words, f"--{'' if recipe.final_norm else 'no-'}final-norm"]
