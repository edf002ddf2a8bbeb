"""How to extract: options, the base size, the part of the shards, the device. Nothing here reads or writes files."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from deapcache.backbones import BACKBONES, DEFAULT_LAYERS, LayerSelection, join_name, split_name
from deapcache.cache import ORIGINAL, STORAGE_FORMATS, check_views
from deapcache.cache.claims import CLAIM_SECONDS
from deapcache.errors import LEAVE_OUT, DataError, MissingDataError, UsageError, require_choice
from deapcache.locations import HomeDefaults
from deapcache.regions import FITS, SQUASH

BaseSize = tuple[int, int] | Literal["native"]
"""Height and width of base images, or ``native``: each file at its own size, resized for each backbone."""

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_ENDINGS = re.compile(r"(\.(pth|pt|bin|ckpt|tar|safetensors|index|json))+$")
"""Of checkpoints' files."""

ON_ERROR = ("stop", "skip")
"""On an image that cannot be read: raise an error, or leave it out of the image set."""


def base_size_name(size: BaseSize) -> str:
    """``224x224`` (height × width), or ``native``."""
    return "native" if size == "native" else f"{size[0]}x{size[1]}"


def parse_base_size(text: str) -> BaseSize:
    """``224``, ``216x288`` or ``native``; raises :class:`UsageError` for anything else."""
    if text == "native":
        return "native"
    sides = text.lower().split("x")
    if len(sides) <= 2 and all(side.isdecimal() and int(side) > 0 for side in sides):
        return int(sides[0]), int(sides[-1])
    raise UsageError(f"base size {text!r}: expected a side (224), HEIGHTxWIDTH (216x288) or native")


@dataclass(frozen=True, kw_only=True)
class ShardPartition:
    """The part of the shards that belongs to one of ``count`` runs, whether or not the others run too."""

    number: int = 1
    """From 1 to ``count``."""
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UsageError(f"shard {self}: expected a number from 1 to {max(self.count, 1)} before the slash")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def select(self, shards: Collection[int]) -> list[int]:
        """Those of ``shards`` that belong to it, in order."""
        return [shard for shard in sorted(shards) if shard % self.count == self.number - 1]


def parse_partition(text: str) -> ShardPartition:
    """``2/8``, the second of eight; raises :class:`UsageError` for anything else."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found:
        raise UsageError(f"shard {text!r}: expected NUMBER/COUNT with numbers from 1, such as 2/8")
    return ShardPartition(number=int(found[1]), count=int(found[2]))


@dataclass(frozen=True, kw_only=True)
class ExtractionSettings:
    """How to extract. The first group is part of the recipe, the second is not."""

    base_size: BaseSize | None = None
    """None: the dataset's own."""
    fit: str = SQUASH
    """How to bring images of any shape to the base size: one of ``FITS``."""
    storage: str = "float16"
    precision: str = "fp32"
    weights: Path | None = None
    """A checkpoint in place of the published weights."""
    weights_key: str = ""
    """Beginning of the keys in it that are the backbone's; empty: it is found."""
    name: str = ""
    """What the features are called, a label that no digest holds; empty: see :meth:`label`."""
    views: tuple[str, ...] = (ORIGINAL,)
    """Each is a cache of its own; unless splits are named, mirrored images are made of the training split alone."""
    selection: LayerSelection = DEFAULT_LAYERS
    """Which layers to keep, each a cache of its own from one forward, and whether to keep the class token."""

    compress: bool = True
    """Whether to compress the features of a new cache; an existing cache stays as it is."""
    batch_size: int | None = None
    """None: 32 on a GPU, 8 on a CPU."""
    device: str = "auto"
    limit: int | None = None
    """Only the first so many images of each split, rounded up to whole shards."""
    on_error: str = "stop"
    """What to do with images that cannot be read: one of ``ON_ERROR``."""
    rehash: bool = False
    """Whether to read again all files whose digests and checks the home remembers."""
    partition: ShardPartition = ShardPartition()
    """The shards that this run may compute, by default all."""
    claim_seconds: float = CLAIM_SECONDS
    """A claim of another run that was not renewed for so long is void."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", check_views(self.views))
        if self.weights is not None:
            object.__setattr__(self, "weights", Path(self.weights))
        if self.name and (self.name in BACKBONES or not _LABEL.fullmatch(self.name)):
            rule = "is no name: it takes letters, digits and . _ + -, and the size is added to it"
            what = "is a backbone's own" if self.name in BACKBONES else rule
            raise UsageError(f"--name {self.name!r} {what}; give a name for this checkpoint such as mine-ep100")
        if self.weights is None and (self.weights_key or self.name):
            raise UsageError("--name and --weights-key are for a checkpoint: give it with --weights FILE")
        require_choice("fit", self.fit, FITS)
        require_choice("storage format", self.storage, STORAGE_FORMATS)
        require_choice("on-error", self.on_error, ON_ERROR)
        for name, value in (("batch size", self.batch_size), ("limit", self.limit)):
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, found {value}")

    def label(self, backbone: str) -> str:
        """What the features of a backbone are called: by default its name, with ``+`` and the checkpoint's file."""
        model, seed, size = split_name(backbone)
        if self.weights is None:
            return backbone
        file = self.weights.absolute()
        stem = _ENDINGS.sub("", file.name)
        if stem in ("model", "pytorch_model"):  # as every folder of transformers calls it
            stem = file.parent.name
        return join_name(self.name or f"{model}+{stem}", seed, size)


def agreed_settings(home: HomeDefaults) -> dict[str, Any]:
    """The fields of :class:`ExtractionSettings` that ``deapcache.toml`` of a home gives other defaults."""
    fields = {"dtype": "storage", "precision": "precision", "compress": "compress", "views": "views"}
    found = {field: home.get(f"extract.{name}") for name, field in fields.items()}
    if found["views"] is not None:
        found["views"] = tuple(view.strip() for view in found["views"].split(","))
    return {field: value for field, value in found.items() if value is not None}


def choose_device(name: str) -> torch.device:
    """``auto`` takes the first GPU where there is one; raises :class:`UsageError` for a device torch cannot use."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} cannot be used here: {reason}; try --device cpu") from None
    return device


def default_batch_size(device: torch.device) -> int:
    """Images in one forward pass where the user does not say."""
    return 32 if device.type == "cuda" else 8


@contextmanager
def suggest_skipping() -> Iterator[None]:
    """Add to an error about the files of one image how to go on without that image."""
    try:
        yield
    except (DataError, MissingDataError) as error:
        raise type(error)(f"{error}; {LEAVE_OUT}", path=error.path) from error
