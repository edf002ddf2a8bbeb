"""The features of one backbone over one split: which cache they are, and filling it."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import cast

from deapcache.backbones import CLS, Backbone, BackboneIdentity
from deapcache.cache import FeatureCache, feature_arrays, features_path, name_view, refresh_manifest
from deapcache.errors import IncompleteCacheError
from deapcache.extraction.creating import make_cache
from deapcache.extraction.hands import Hands
from deapcache.extraction.plan import item_bytes, require_space
from deapcache.extraction.prepare import PreparedSplit, complete_images, limited_rows
from deapcache.extraction.progress import Progress, ProgressEvent, Watch, said
from deapcache.extraction.recipes import feature_recipe, omitted_from
from deapcache.extraction.report import ExtractionReport
from deapcache.extraction.settings import ExtractionSettings
from deapcache.extraction.sharing import Share, Work, share
from deapcache.locations import Location


def extract_split(
    backbone: Backbone,
    calibration: str,
    prepared: PreparedSplit,
    home: Location,
    settings: ExtractionSettings,
    progress: Progress,
    hands: Hands,
) -> list[ExtractionReport]:
    """Make the features of a split that are missing, and report on each layer that is kept.

    ``calibration`` is what the recipe says of batch norm.
    """
    start = time.perf_counter()
    made = functools.partial(_feature_cache, backbone, calibration, prepared, home, settings, progress)
    caches = [made(identity) for identity in backbone.identities]
    length = caches[0].shard_images
    wanted = {row // length for row in limited_rows(len(prepared.image_ids), settings.limit)[::length]}
    # A layer may be whole, and even be read from a home that is not ours: it is neither computed nor written again.
    lacking = [cache for cache in caches if wanted - cache.present_shards()]
    missing = settings.sharing.portion.of(wanted - _in_all(lacking)) if lacking else []
    done = 0
    if missing:
        kept = backbone if lacking == caches else backbone.narrowed([c.recipe["layer"] for c in lacking])
        done = _extract_missing(lacking, missing, kept, prepared, settings, progress, hands)
        if lost := set(missing) - _in_all(lacking):
            raise IncompleteCacheError(
                f"{lacking[0].location} lacks {len(lost)} shards that were just made: somebody removed them meanwhile; "
                "run the same command again to make them anew"
            )
    seconds = time.perf_counter() - start
    return [
        _report(cache, prepared, wanted, extracted=done if cache in lacking else 0, seconds=seconds) for cache in caches
    ]


def _report(
    cache: FeatureCache, prepared: PreparedSplit, wanted: set[int], *, extracted: int, seconds: float
) -> ExtractionReport:
    present = cache.present_shards()
    return ExtractionReport(
        backbone=cache.backbone,
        dataset=prepared.dataset.images_name,
        split=prepared.split,
        view=prepared.view,
        layer=str(cache.recipe["layer"]),
        path=str(cache.location),
        digest=cache.digest,
        images=sum(len(cache.shard_rows(k)) for k in present),
        total=len(cache),
        left=sum(len(cache.shard_rows(k)) for k in wanted - present),
        extracted=extracted,
        stored_bytes=cache.stored_bytes(),
        seconds=seconds,
        omitted=dict(prepared.dataset.omitted.get(prepared.split, {})),
    )


def _in_all(caches: Sequence[FeatureCache]) -> set[int]:
    """The shards that none of the caches lacks."""
    return set.intersection(*(cache.present_shards() for cache in caches))


def _feature_cache(
    backbone: Backbone,
    calibration: str,
    prepared: PreparedSplit,
    home: Location,
    settings: ExtractionSettings,
    progress: Progress,
    identity: BackboneIdentity,
) -> FeatureCache:
    recipe = feature_recipe(
        identity,
        calibration=calibration,
        base_size=settings.base_size_for(prepared.dataset),
        base_fit=prepared.fit,
        colour=prepared.dataset.colour,
        precision=settings.precision,
        storage=settings.storage,
        images=prepared.images_digest,
        view=prepared.view,
        omitted=omitted_from(prepared.dataset, prepared.split),
    )
    path = features_path(prepared.dataset.images_name, prepared.split, backbone.name, recipe.digest)
    has_cls = identity.tokens == CLS
    arrays = feature_arrays(settings.storage, backbone.grid, backbone.dim, compress=settings.compress, cls=has_cls)
    ids = prepared.image_ids
    rows = limited_rows(len(ids), settings.limit)
    made = make_cache(home, path, recipe=recipe, arrays=arrays, image_ids=ids, rows=rows, progress=progress)
    return cast(FeatureCache, made)


def _extract_missing(
    caches: Sequence[FeatureCache],
    shards: Sequence[int],
    backbone: Backbone,
    prepared: PreparedSplit,
    settings: ExtractionSettings,
    progress: Progress,
    hands: Hands,
) -> int:
    first = caches[0]  # shards are claimed there, and are those of all
    images = sum(len(first.shard_rows(k)) for k in shards)
    require_space(first.location, images * sum(map(item_bytes, caches)))
    complete_images(prepared, [row for k in shards for row in first.shard_rows(k)], settings.sharing, progress)
    stage = name_view(f"{backbone.name} · {prepared.dataset.images_name}/{prepared.split}", prepared.view)
    work = Work(
        location=first.location,
        units=shards,
        present=lambda: _in_all(caches),
        images=lambda k: len(first.shard_rows(k)),
        caches=caches,
    )
    with refresh_manifest(*caches), share(work, settings.sharing, lambda text: progress(said(stage, text))) as mine:
        tally = _Tally(mine, progress, stage)
        hands.compute(caches, mine.rounds(), backbone, prepared, settings=settings, watch=tally.watch)
        tally.show()
        return tally.done


class _Tally:
    """How far the shards have come."""

    def __init__(self, mine: Share, progress: Progress, stage: str) -> None:
        self.done = 0
        self.watch = Watch(forwarded=self._forwarded, published=self._published)
        self._mine = mine
        self._progress = progress
        self._stage = stage
        self._bytes = 0

    def show(self) -> None:
        """Report it."""
        self._progress(ProgressEvent(stage=self._stage, done=self.done, total=self._mine.total, bytes=self._bytes))

    def _forwarded(self, images: int) -> None:
        self.done += images
        self.show()

    def _published(self, shard: int, size: int) -> None:
        self._bytes += size
        self._mine.finish(shard)
