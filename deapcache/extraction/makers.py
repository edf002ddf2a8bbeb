"""What makes the shards of one cache that is there already: a backbone, or a dataset's files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from deapcache.backbones import CLS
from deapcache.cache import Cache, CacheEntry, CacheFolder, FeatureCache, create_cache, feature_arrays, refresh_manifest
from deapcache.datasets import Dataset, DigestIndex, open_dataset
from deapcache.errors import MissingDataError, UsageError
from deapcache.extraction.checking import without_unreadable
from deapcache.extraction.circumstances import Record, circumstances, new_writer_name
from deapcache.extraction.filling import IMAGES, fill
from deapcache.extraction.pipeline import extract_shards
from deapcache.extraction.progress import Progress, ProgressEvent, Watch, said
from deapcache.extraction.rebuilding import base_images, rebuild_backbone
from deapcache.extraction.recipes import image_array, image_recipe, omitted_from, target_array, target_recipe
from deapcache.extraction.settings import choose_device, default_batch_size
from deapcache.extraction.sharing import Sharing, Work, share
from deapcache.extraction.sources import CachedImages
from deapcache.extraction.views import viewed
from deapcache.extraction.windows import Part, Windows
from deapcache.recipe import FeatureRecipe, ImageRecipe, TargetRecipe, differences, image_set_digest


@dataclass(frozen=True, kw_only=True)
class RepairSettings:
    """With what to repair."""

    data_root: Path | None = None
    """Where the dataset's files lie: base images and targets are made from them."""
    weights: Path | None = None
    """The checkpoint, where one was given for the extraction."""
    device: str = "auto"
    batch_size: int | None = None
    only_bad: bool = False
    """Leave alone the shards that were not there before the repair."""


class Maker(ABC):
    """Makes one cache's shards."""

    @abstractmethod
    def create(self) -> Cache:
        """The cache; its small files are made where they are missing."""

    @abstractmethod
    def make(self, cache: Cache, shards: Sequence[int], progress: Progress) -> None:
        """Make and publish some shards."""


def maker_of(folder: CacheFolder, settings: RepairSettings) -> Maker:
    """What makes the cache's shards; raises a :class:`DeapcacheError` that says what is missing for it."""
    if folder.entry is None:
        raise UsageError("its root zarr.json, which says what the cache is, cannot be used")
    makers: dict[str, Callable[[CacheEntry, RepairSettings], Maker]] = {
        "features": _FeatureMaker,
        "images": _ImageMaker,
        "targets": _TargetMaker,
    }
    return makers[folder.entry.kind](folder.entry, settings)


class _FeatureMaker(Maker):
    """Features, from base images in the same home."""

    def __init__(self, entry: CacheEntry, settings: RepairSettings) -> None:
        self._entry = entry
        self._settings = settings
        self._recipe = FeatureRecipe.from_json(entry.recipe)
        self._images = base_images(self._recipe, entry.home)
        device = choose_device(settings.device)
        self._backbone = rebuild_backbone(self._recipe, entry.home, weights=settings.weights, device=device)

    def create(self) -> Cache:
        return create_cache(
            self._entry.home,
            self._entry.path,
            recipe=self._recipe,
            arrays=feature_arrays(
                self._recipe.storage, self._backbone.grid, self._backbone.dim, cls=self._recipe.tokens == CLS
            ),
            image_ids=self._images.image_ids,
        )

    def make(self, cache: Cache, shards: Sequence[int], progress: Progress) -> None:
        batch_size = self._settings.batch_size or default_batch_size(self._backbone.device)
        facts = {**circumstances(self._backbone.device, batch_size), "repair": True}
        source = viewed(CachedImages(self._images), self._recipe.view)
        total = sum(len(cache.shard_rows(k)) for k in shards)
        done = 0

        def forwarded(images: int) -> None:
            nonlocal done
            done += images
            progress(ProgressEvent(stage=f"repair {self._entry.path}", done=done, total=total))

        with refresh_manifest(cache), Record(cache, new_writer_name(), facts) as record:
            watch = Watch(forwarded=forwarded, published=lambda shard, _: record.add(shard))
            features = cast(FeatureCache, cache)
            extract_shards([features], shards, self._backbone, source, batch_size=batch_size, watch=watch)


class _FileMaker(Maker):
    """Base images or targets, from the dataset's files."""

    def __init__(self, entry: CacheEntry, settings: RepairSettings) -> None:
        if settings.data_root is None:
            raise MissingDataError(f"{entry.kind} are made from the dataset's files: say where they lie (--data-root)")
        self._entry = entry
        self._dataset = self._opened(settings.data_root)
        self._size: tuple[int, int] = tuple(entry.recipe["size"])
        index = DigestIndex(entry.home)
        ids = self._dataset.image_ids(entry.split)
        digests = self._dataset.image_digests(entry.split, index=index)
        self._recipe = self._made(image_set_digest(zip(ids, digests, strict=True)), index)
        if self._recipe.digest != entry.digest:
            told = "; ".join(str(one) for one in differences(self._recipe.to_json(), entry.recipe))
            raise UsageError(f"the files in {settings.data_root} are not those that {entry.path} was made of ({told})")

    def _opened(self, root: Path) -> Dataset:
        dataset = open_dataset(self._entry.dataset, root)
        if not self._entry.fields["omitted"]:
            return dataset
        return without_unreadable(dataset, [self._entry.split], self._entry.home)

    @abstractmethod
    def _made(self, images: str, index: DigestIndex) -> ImageRecipe | TargetRecipe:
        """The recipe of what would be made of the files as they are now."""

    @abstractmethod
    def _part(self) -> str:
        """What :class:`Part` calls it."""

    def create(self) -> Cache:
        array = (
            image_array(self._size)
            if self._part() == IMAGES
            else target_array(self._dataset, self._entry.split, self._part(), self._size)
        )
        return create_cache(
            self._entry.home,
            self._entry.path,
            recipe=self._recipe,
            arrays=[array],
            image_ids=self._dataset.image_ids(self._entry.split),
        )

    def make(self, cache: Cache, shards: Sequence[int], progress: Progress) -> None:
        windows = Windows([Part(name=self._part(), cache=cache)])  # of one part, a window is a shard
        stage, split = f"repair {self._entry.path}", self._entry.split
        work = Work(
            location=cache.location,
            units=shards,
            present=cache.present_shards,
            images=lambda shard: len(cache.shard_rows(shard)),
        )
        with share(work, Sharing(), lambda text: progress(said(stage, text))) as mine:
            fill(self._dataset, split, windows, mine, progress=progress, stage=stage)


class _ImageMaker(_FileMaker):
    def _made(self, images: str, index: DigestIndex) -> ImageRecipe:
        omitted = omitted_from(self._dataset, self._entry.split)
        return image_recipe(self._dataset, self._size, images, fit=self._entry.recipe["fit"], omitted=omitted)

    def _part(self) -> str:
        return IMAGES


class _TargetMaker(_FileMaker):
    def _made(self, images: str, index: DigestIndex) -> TargetRecipe:
        fit, annotation = self._entry.recipe["fit"], self._part()
        return target_recipe(self._dataset, self._entry.split, annotation, self._size, images, fit=fit, index=index)

    def _part(self) -> str:
        return str(self._entry.recipe["annotation"])
