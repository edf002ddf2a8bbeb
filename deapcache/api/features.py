"""Caches of features as a notebook wants them: opened, shown, by image, as dask array, torch dataset and picture."""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING, Any, Literal, cast

from deapcache import cache, locations
from deapcache.cache import CacheEntry, FeatureCache, find_one, name_view, related_caches
from deapcache.cache.format import Group, StoredArray, read_group
from deapcache.cache.names import DEPTH, KINDS, dataset_and_split
from deapcache.datasets import images_owner
from deapcache.errors import AmbiguousCacheError, CacheMissError, IncompleteCacheError, UsageError
from deapcache.locations import LocalLocation, Location
from deapcache.recipe import SHORT

if TYPE_CHECKING:
    import dask.array as da
    from matplotlib.figure import Figure

    from deapcache.api.torch_dataset import FeatureDataset

Home = str | os.PathLike[str] | Location | None
"""Path or URL of a home, or a location (``deapcache.home(…)``); None: as the command line finds it."""

IMAGES = "images"
"""What :meth:`Features.torch_dataset` calls base images, beside annotations."""


class Features(FeatureCache):
    """An open cache of features (N, H, W, D), its base images and targets at hand.

    :func:`deapcache.open_cache` makes it. It can be pickled: another process opens it for itself.
    """

    def __init__(
        self, location: Location, group: Group, arrays: Sequence[StoredArray], *, home: Location | None = None
    ) -> None:
        super().__init__(location, group, arrays)
        self._home = home
        self.entry = _entry(location, group, home)
        """The cache among those of its home."""

    def __reduce__(self) -> tuple[Callable[..., Features], tuple[Location | None, ...]]:
        return open_features, (self.location, self._home)

    def __repr__(self) -> str:
        facts = self._facts()
        width = max(len(name) for name, _ in facts)
        return "\n".join([self._title(), *(f"  {name:<{width}}  {value}" for name, value in facts)])

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th scope="row" style="text-align:left">{escape(name)}</th>'
            f'<td style="text-align:left">{escape(value)}</td></tr>'
            for name, value in self._facts()
        )
        return f"<table><caption>{escape(self._title())}</caption><tbody>{rows}</tbody></table>"

    def rows_of(self, image_ids: Sequence[str]) -> list[int]:
        """The rows of images; raises :class:`UsageError` for an id that is not there, with the nearest."""
        rows = {name: row for row, name in enumerate(self.image_ids)}
        for wanted in image_ids:
            if wanted not in rows:
                near = difflib.get_close_matches(str(wanted), self.image_ids, n=3) or self.image_ids[:3]
                raise UsageError(f"{self.location} has no image {wanted!r}: ids are such as {', '.join(near)}")
        return [rows[wanted] for wanted in image_ids]

    def present_rows(self) -> list[int]:
        """The rows that are there now, in order."""
        return [row for shard in sorted(self.present_shards()) for row in self.shard_rows(shard)]

    def dask(self, *, present_only: bool = False) -> da.Array:
        """The volumes as a lazy dask array (N, H, W, D) float32, one chunk a shard; nothing is read yet.

        float32 whatever the storage: sums in float16 overflow. ``present_only`` leaves out the rows that are not there
        (see :meth:`present_rows`); without it an incomplete cache raises :class:`IncompleteCacheError`.
        """
        from deapcache.cache.statistics import lazy_features

        if not present_only:
            self._require_complete()
        return lazy_features(self)

    def torch_dataset(
        self,
        targets: str | Sequence[str] | None = None,
        *,
        dataset: str | None = None,
        size: tuple[int, int] | None = None,
        dtype: Literal["float16", "float32"] | None = None,
        present_only: bool = False,
    ) -> FeatureDataset:
        """The cache as a map-style ``torch.utils.data.Dataset``, for a ``DataLoader`` with or without workers.

        Parameters
        ----------
        targets
            None: an item is the features alone, (H, W, D). A name, ``"classes"``, ``"instances"``, ``"depth"``,
            ``"boxes"`` or ``"images"``: a pair of features and that. Several names: features and a dictionary.
        dataset
            Whose targets, where two datasets annotate these images (``coco``, ``coco-stuff``).
        size
            (height, width) of the targets, where they are there in several.
        dtype
            Of the features; None: as they are read, float16 for 16-bit storage, else float32. Targets are as stored.
        present_only
            Leave out images that are not there yet; without it an incomplete cache is an error.

        Raises
        ------
        CacheMissError, AmbiguousCacheError
            Where the home has no such targets of these images, or several.
        IncompleteCacheError
            Where images are missing, of the features or of targets.
        """
        from deapcache.api.torch_dataset import FeatureDataset

        if not present_only:
            self._require_complete()
        names = [targets] if isinstance(targets, str) else list(targets or ())
        return FeatureDataset(
            self,
            {name: self._related_cache(name, dataset=dataset, size=size).open() for name in names},
            rows=self.present_rows(),
            dtype=dtype,
            form="features" if targets is None else "pair" if isinstance(targets, str) else "named",
        )

    def show(self, image_id: str, *more: str) -> Figure:
        """A matplotlib figure: each image, where base images are cached, beside the colours of its features.

        Colours are the first three principal components over all the images shown, so that equal colours mean similar
        features: name several images to compare them. Raises :class:`UsageError` for an unknown image.
        """
        from deapcache.results.draw import draw_volumes

        images = self._related_caches(IMAGES)
        return draw_volumes(self, self.entry, images[0] if images else None, self.rows_of([image_id, *more]))

    def _related_cache(
        self, name: str, *, dataset: str | None = None, size: tuple[int, int] | None = None
    ) -> CacheEntry:
        """The cache of the same images that holds targets ``name`` (``classes``, …), or their base ``images``.

        Raises :class:`CacheMissError` that says what there is instead, :class:`AmbiguousCacheError` where several fit.
        """
        found = [
            entry
            for entry in self._related_caches(name)
            if dataset in (None, entry.dataset) and size in (None, tuple(entry.recipe["size"]))
        ]
        if len(found) == 1:
            return found[0]
        asked = f"{name} of {dataset or 'these images'}" + (f" at {size[0]}x{size[1]}" if size else "")
        if found:
            listed = ", ".join(f"{each.path} ({each.dataset}, {each.recipe['size']})" for each in found)
            raise AmbiguousCacheError(
                f"{self.entry.home} has {asked} several times: {listed}; choose dataset= or size="
            )
        there = ", ".join(dict.fromkeys(f"{e.name or IMAGES} of {e.dataset}" for e in self._related_caches())) or "none"
        raise CacheMissError(
            f"{self.entry.home} has no {asked} for {self.entry.path}: there is {there}; deapcache extract makes all "
            "targets that a dataset has"
        )

    def _related_caches(self, name: str | None = None) -> list[CacheEntry]:
        found = related_caches(self.entry)
        return [entry for entry in found if name is None or (entry.name or IMAGES) == name]

    def _require_complete(self) -> None:
        if missing := self.missing_shards():
            lacking = sum(len(self.shard_rows(shard)) for shard in missing)
            raise IncompleteCacheError(
                f"{self.location} lacks {lacking:,} of {len(self):,} images: extract the rest (the same command goes "
                "on), or take those that are there with present_only=True"
            )

    def _title(self) -> str:
        of = f"{self.entry.dataset} {self.entry.split}".strip()
        return name_view(" · ".join(filter(None, (f"Features of {self.backbone}", of))), self.entry.fields["view"])

    def _facts(self) -> list[tuple[str, str]]:
        # Nothing is read for it: a repr that asks a server would be slow, and could fail.
        (height, width), (seen_height, seen_width) = self.grid, self.recipe["image_size"]
        pixels = (round(share * side) for share, side in zip(self.covered, (seen_height, seen_width), strict=True))
        covered = "" if self.covered == (1.0, 1.0) else "{} × {} of them, from the upper left".format(*pixels)
        norm = "final norm applied" if self.recipe["final_norm"] else "no final norm"
        size = sum(spec.item_bytes for spec in self.arrays.values())
        return [
            ("images", f"{len(self):,} in {self.shard_count:,} shards of {self.shard_images:,}"),
            ("volume", f"{height} × {width} × {self.dim}, {self.storage}, {size / 1e3:,.1f} kB an image"),
            ("layer", f"{self.recipe['layer']}, {norm}{', class token kept' if self.has_cls else ''}"),
            (
                "sees",
                f"{seen_height} × {seen_width} pixels, from {self.recipe['base_size']} ({self.recipe['base_fit']})",
            ),
            *([("covers", covered)] if covered else []),
            ("weights", str(self.recipe["weights"])),
            ("digest", self.digest[:SHORT]),
            ("location", str(self.location)),
        ]


def _entry(location: Location, group: Group, home: Location | None) -> CacheEntry:
    """The cache as its home lists it; one that is moved elsewhere is alone, of no dataset."""
    text = str(location.path.resolve()) if isinstance(location, LocalLocation) else location.url
    above, *parts = text.rsplit("/", DEPTH)
    if len(parts) != DEPTH or parts[0] not in KINDS:
        above, *parts = text.rsplit("/", 1)
    dataset, split = dataset_and_split("/".join(parts)) if len(parts) == DEPTH else ("", "")
    entry = CacheEntry(
        home=locations.locate(above or "/"),
        path="/".join(parts),
        kind=group.kind,
        dataset=dataset,
        split=split,
        name=group.name,
        recipe=group.recipe,
        digest=group.digest,
    )
    return entry if home is None else replace(entry, home=home)


def home_of(given: Home) -> Location:
    """The home that is meant; raises :class:`UsageError` for an address that cannot be used."""
    return given if isinstance(given, Location) else locations.home(given)


def open_cache(
    place: str | os.PathLike[str] | Location | None = None,
    *,
    backbone: str | None = None,
    dataset: str | None = None,
    split: str | None = None,
    home: Home = None,
    **fields: Any,
) -> Features:
    """The features at ``place``, or those of a backbone over a split of a dataset.

    >>> open_cache("cache/features/scenes/val/siglip-384-0123456789ab.zarr")  # doctest: +SKIP
    >>> open_cache(backbone="siglip-384", dataset="scenes", split="val", storage="float16")  # doctest: +SKIP

    Parameters
    ----------
    place
        Path, URL or location of one cache; nothing else is given then.
    backbone, dataset, split
        Names, as ``deapcache cache ls`` shows them; a dataset that annotates another's images has these features.
    home
        Where to look: a path, a URL or what ``deapcache.home(…)`` gave, read-homes included.
    fields
        Recipe fields that tell caches of one name apart, such as ``storage="float16"`` or ``view="hflip"``.

    Raises
    ------
    CacheMissError
        Where there is none; says which fields of the nearest caches differ.
    AmbiguousCacheError
        Where several fit; lists them.
    UsageError
        Where it is not said which cache is meant, or where it holds no features.
    """
    names = {"backbone": backbone, "dataset": dataset, "split": split}
    if place is not None:
        if given := [name for name, value in {**names, "home": home, **fields}.items() if value is not None]:
            raise UsageError(f"{place} is one cache: {', '.join(given)} would choose another; give either")
        return open_features(place if isinstance(place, Location) else locations.locate(place))
    if missing := [name for name, value in names.items() if value is None]:
        raise UsageError(
            f"which cache? {', '.join(missing)} not given: open_cache(PATH), or open_cache(backbone=…, dataset=…, "
            "split=…); deapcache.list_caches(deapcache.home()) lists what there is"
        )
    searched = home_of(home)
    owner = images_owner(str(dataset))
    entry = find_one(searched, "features", dataset=owner, split=str(split), name=backbone, fields=fields)
    return open_features(entry.location, searched)


def open_features(location: Location, home: Location | None = None) -> Features:
    """The features at ``location``; ``home`` is where base images and targets are looked for, by default its own."""
    if (kind := read_group(location).kind) != "features":
        raise UsageError(
            f"{location} holds {kind}, no features: deapcache.cache.open_cache opens it, and a cache of features "
            "finds its own (torch_dataset, show)"
        )
    return cast(Features, cache.open_cache(location, features=functools.partial(Features, home=home)))
