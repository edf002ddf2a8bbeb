"""``deapcache extract`` as a function: names of backbones, or modules, to opened caches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from deapcache import locations
from deapcache.api.features import Features, Home, home_of, open_features
from deapcache.backbones import LAST, NO_TOKENS
from deapcache.datasets import Dataset, open_dataset
from deapcache.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from deapcache.extraction import Executor, ExtractionReport, ExtractionSettings, Progress
    from deapcache.extraction.extract import OnFailure
    from deapcache.locations import Location


@overload
def extract(
    dataset: str | Dataset,
    *,
    backbones: str | nn.Module | Sequence[str | nn.Module],
    home: Home = None,
    splits: Sequence[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    layers: int | str | Sequence[int | str] | None = None,
    tokens: str = NO_TOKENS,
    data_root: Path | None = None,
    settings: ExtractionSettings | None = None,
    **options: Any,
) -> list[Features]: ...


@overload
def extract(
    dataset: Sequence[str],
    of: Dataset,
    home: Location,
    /,
    *,
    splits: Sequence[str] | None = None,
    settings: ExtractionSettings | None = None,
    progress: Progress = ...,
    on_failure: OnFailure | None = None,
    executor: Executor | None = None,
) -> Iterator[ExtractionReport]: ...


def extract(
    dataset: Any,
    *of: Any,
    backbones: Any = (),
    home: Any = None,
    splits: Sequence[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    layers: int | str | Sequence[int | str] | None = None,
    tokens: str = NO_TOKENS,
    data_root: Path | None = None,
    settings: ExtractionSettings | None = None,
    **options: Any,
) -> Any:
    """Extract the features of backbones over a dataset, as far as they are not there, and open them.

    >>> extract("scenes", backbones=["dinov2", MyModel()], limit=64)  # doctest: +SKIP

    Parameters
    ----------
    dataset
        A name, or what ``deapcache.open_dataset`` gave.
    backbones
        Names (``"dinov2"``, ``"timm:resnet18"``, ``"dinov2@512"``), or modules: (B, 3, h, w) float32 images, normalised
        as ImageNet's, to the map (B, H, W, D), each called by its class. ``deapcache.register_module`` gives a module
        another name, size or normalisation.
    home, splits
        Where to, and which splits; by default the home of the commands, and all.
    image_size
        What the backbones see, pixels: a side, or (height, width). Default: each one's own; 224 of a module.
    layers, tokens
        As ``--layers`` and ``--tokens``: numbers of blocks, from 1, and ``"last"``, the default; ``"cls"`` or none.
    data_root
        Where the files of datasets are.
    settings, options
        A whole ``ExtractionSettings``, or some of its fields: ``limit``, ``storage``, ``device``, ``weights``. Of
        fields that are not given, ``deapcache.toml`` of the home has the defaults.

    Returns the caches: by backbone, split, view and layer. Raises what the command says: ``UsageError``,
    ``MissingDataError``, ``WeightsError``, ``PluginError``, ``FeatureError`` and others.

    ``extract(NAMES, DATASET, HOME)`` is :func:`deapcache.extraction.extract`, which yields reports.
    """
    from deapcache.backbones import LayerSelection
    from deapcache.extraction import ExtractionSettings, agreed_settings
    from deapcache.extraction import extract as run

    if of:
        return run(dataset, *of, splits=splits, settings=settings, **options)
    place = home_of(home)
    given = [backbones] if isinstance(backbones, str) or not isinstance(backbones, Sequence) else list(backbones)
    if not given:
        raise UsageError("which backbones? give extract(DATASET, backbones=[NAME or module, …])")
    if layers is not None or tokens != NO_TOKENS:
        wanted = (layers if layers is not None else LAST,) if isinstance(layers, int | str | None) else layers
        options["selection"] = LayerSelection(layers=tuple(map(str, wanted)), tokens=tokens)
    if settings is not None and options:
        raise UsageError(
            f"{', '.join(options)} is given beside ExtractionSettings, which have all options: put it there"
        )
    if unknown := set(options) - set(ExtractionSettings.__dataclass_fields__):
        known = ", ".join(ExtractionSettings.__dataclass_fields__)
        raise UsageError(f"extract has no option {', '.join(sorted(unknown))}: those of ExtractionSettings are {known}")
    names = [_name(one, image_size) for one in given]
    modules = [name for name, one in zip(names, given, strict=True) if not isinstance(one, str)]
    if twice := [name for place, name in enumerate(modules) if name in modules[:place]]:
        raise UsageError(
            f"two modules are called {twice[0]}: give names that deapcache.register_module(module, NAME) has given them"
        )
    opened = open_dataset(dataset, locations.data_root(data_root)) if isinstance(dataset, str) else dataset
    settings = settings or ExtractionSettings(**{**agreed_settings(locations.home_defaults(place)), **options})
    reports = run(names, opened, place, splits=splits, settings=settings)
    return [open_features(locations.locate(report.path), place) for report in reports]


def _name(backbone: str | nn.Module, image_size: int | tuple[int, int] | None) -> str:
    """The name of a backbone, at the size; a module is registered under that of its class."""
    from torch import nn

    from deapcache.backbones import at_size, parse_image_size, register_module

    size = None if image_size is None else parse_image_size(image_size)
    if isinstance(backbone, str):
        return backbone if size is None else at_size(backbone, size)
    if not isinstance(backbone, nn.Module):
        raise UsageError(f"a backbone is a name or a torch.nn.Module that is built, found {backbone!r:.60}")
    return register_module(backbone, image_size=size or 224).name
