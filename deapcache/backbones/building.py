"""Building backbones: name in, frozen model out."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Self, cast

import torch
from torch import Tensor, nn

from deapcache.backbones import weights as weight_files
from deapcache.backbones.calibration import Statistics, adopt, batch_norms, recalibrate, statistics_of
from deapcache.backbones.checkpoints import State, read_checkpoint, state_digest
from deapcache.backbones.counting import count_build, count_forward
from deapcache.backbones.entries import BackboneEntry, BackboneIdentity, Size
from deapcache.backbones.initialisation import initialisation
from deapcache.backbones.loaded import Loaded
from deapcache.backbones.names import describe
from deapcache.backbones.numerics import arithmetic, check_precision, preprocess
from deapcache.backbones.taps import REGISTERED, Tapped, Taps, tapped_forward
from deapcache.errors import UsageError, WeightsError

Loader = Callable[[BackboneEntry, State | None, Size | None], Loaded]


class Output(NamedTuple):
    """What a forward gives of one layer."""

    features: Tensor
    """(B, H, W, D) float32, contiguous."""
    cls: Tensor | None
    """(B, D) float32, contiguous; None unless it is kept."""


class Backbone:
    """A built, frozen backbone: images (B, h, w, 3) uint8 RGB to features (B, H, W, D) float32.

    Built by :func:`build`. ``entry`` holds the facts as built (image size, grid, parameters); ``identity`` is what a
    feature recipe needs.
    """

    def __init__(
        self, entry: BackboneEntry, loaded: Loaded, weights: str, precision: str, taps: Taps = REGISTERED
    ) -> None:
        self.entry = entry
        self.name = entry.name
        self.image_size = entry.image_size
        self.grid = entry.grid
        self.dim = entry.dim
        self.parameters = entry.parameters
        self.precision = precision
        self.module = loaded.module
        self.needs_calibration = entry.untrained and bool(batch_norms(loaded.module))
        self.taps = taps
        self._loaded = loaded
        layers, norm, self._forward_tapped = tapped_forward(entry, loaded, taps)
        identity = BackboneIdentity(
            backbone=entry.name,
            architecture=entry.architecture,
            arguments=dict(loaded.arguments),
            weights=weights,
            layer=entry.layer,
            final_norm=norm,
            image_size=entry.image_size,
            interpolation=entry.interpolation,
            antialias=True,
            mean=entry.mean,
            std=entry.std,
            tokens=taps.tokens,
        )
        self.identities = tuple(replace(identity, layer=layer) for layer in layers)
        """What one forward gives, in order: one for each layer that is kept."""
        self.identity = self.identities[0]

    def __repr__(self) -> str:
        (h, w), (H, W) = self.image_size, self.grid
        return f"Backbone({self.name!r}, image {h}x{w}, grid {H}x{W}, dim {self.dim}, {self.precision})"

    @property
    def device(self) -> torch.device:
        """Where the parameters are, and images must be."""
        return next(self.module.parameters()).device

    def to(self, device: torch.device | str) -> Self:
        """Move the backbone to ``device``; images must be there too."""
        self.module.to(device)
        return self

    def preprocess(self, images: Tensor) -> Tensor:
        """(B, h, w, 3) uint8 RGB to (B, 3, *image_size) float32, normalised, on the same device."""
        return preprocess(images, self.image_size, self.entry.mean, self.entry.std)

    def __call__(self, images: Tensor) -> Tensor:
        """(B, h, w, 3) uint8 RGB on this backbone's device to (B, H, W, D) float32, contiguous; of the first layer."""
        return self.outputs(images)[0].features

    def outputs(self, images: Tensor) -> tuple[Output, ...]:
        """The same for every layer that is kept, in the order of ``identities``, from one forward."""
        with torch.inference_mode():
            return tuple(
                Output(
                    features.float().permute(0, 2, 3, 1).contiguous(),
                    None if cls is None else cls.float().contiguous(),
                )
                for features, cls in self._forward(images)
            )

    def narrowed(self, layers: Sequence[str]) -> Backbone:
        """The same model, of which only some of the layers in ``identities`` are kept; nothing is built."""
        taps = replace(self.taps, layers=tuple(layers))
        return Backbone(self.entry, self._loaded, self.identity.weights, self.precision, taps)

    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Re-estimate the BatchNorm statistics on batches (B, h, w, 3) uint8 (cumulative average over batches).

        Raises :class:`UsageError` where there is no batch.
        """
        recalibrate(self.module, self._forward, (batch.to(self.device) for batch in batches))
        self.needs_calibration = False

    def statistics(self) -> Statistics:
        """The BatchNorm statistics, for another copy of this backbone to adopt."""
        return statistics_of(self.module)

    def adopt(self, statistics: Statistics) -> None:
        """Take the statistics over from a copy that was calibrated."""
        adopt(self.module, statistics)
        self.needs_calibration = False

    def _forward(self, images: Tensor) -> tuple[Tapped, ...]:
        pixels = self.preprocess(images)
        with arithmetic(self.precision, self.device):
            found = self._forward_tapped(pixels)
        count_forward(len(images))
        return found


def build(
    name: str,
    *,
    weights: Path | None = None,
    image_size: Size | None = None,
    seed: int = 0,
    precision: str = "fp32",
    taps: Taps = REGISTERED,
) -> Backbone:
    """Build the backbone ``name`` (see :func:`describe`) on the CPU, in evaluation mode, without gradients.

    ``weights`` (safetensors, or a torch checkpoint) replaces the download; ``image_size`` (height, width) the native
    size; ``seed`` initialises untrained ones, and the global random state stays as it is. ``precision`` is ``fp32``
    (TF32 off), ``bf16`` or ``fp16`` (autocast). ``taps`` says which layers, and whether the class token, are kept.

    Raises :class:`UnknownNameError`, :class:`UsageError` (precision, image size),
    :class:`MissingWeightsError`, and :class:`WeightsError` for a checkpoint that does not fit.
    """
    check_precision(precision)
    entry = describe(name)
    checkpoint = _read_weights(entry, weights)
    size = None if image_size is None or tuple(image_size) == entry.image_size else _checked_size(image_size)
    drawn = checkpoint is None or entry.is_plugged  # a plugin may draw what is no part of the checkpoint
    with initialisation(seed, wanted=drawn), _naming(weights):
        loaded = load_model(entry, checkpoint, size)
    loaded.module.eval().requires_grad_(False)
    if size:
        entry = _resized(entry, loaded, size)
    digest = f"sha256:{state_digest(loaded.module)}"
    count_build()
    return Backbone(entry, loaded, f"untrained:seed={seed}:{digest}" if entry.untrained else digest, precision, taps)


def _read_weights(entry: BackboneEntry, given: Path | None) -> State | None:
    if entry.untrained and given is not None:
        raise UsageError(f"backbone {entry.name!r} is untrained and takes no weights: leave out --weights {given}")
    if entry.untrained or (entry.own_weights and given is None):
        return None
    if given is not None:
        path = weight_files.require_file(Path(given), entry)
        return read_checkpoint(path, remedy=f"give a whole checkpoint of {entry.architecture} with --weights FILE")
    path = weight_files.fetch(entry)
    return read_checkpoint(path, remedy=weight_files.remedy(entry, path))


@contextlib.contextmanager
def _naming(weights: Path | None) -> Iterator[None]:
    """Say which file a refused checkpoint was, where the user gave one."""
    try:
        yield
    except WeightsError as error:
        if weights is None:
            raise
        raise WeightsError(f"{weights}: {error}") from None


def _checked_size(size: Size) -> Size:
    height, width = size
    if height < 1 or width < 1:
        raise UsageError(f"image size {height}x{width} is no size: give height and width in pixels, at least 1")
    return int(height), int(width)


def load_model(entry: BackboneEntry, checkpoint: State | None, size: Size | None) -> Loaded:
    """The model of an entry as its loader builds it, with random weights where there is no checkpoint."""
    module, _, function = entry.loader.partition(":")
    loader = cast(Loader, getattr(importlib.import_module(module), function))
    if size is None:
        return loader(entry, checkpoint, None)
    with _size_errors(entry, size):
        return loader(entry, checkpoint, size)


def _resized(entry: BackboneEntry, loaded: Loaded, size: Size) -> BackboneEntry:
    """The entry with the facts that another image size changes, measured on an empty image."""
    _check_patches(entry, loaded.module, size)
    with _size_errors(entry, size), torch.inference_mode():
        _, dim, height, width = loaded.feature_map(torch.zeros(1, 3, *size)).shape
    parameters = sum(parameter.numel() for parameter in loaded.module.parameters())
    return replace(entry, image_size=size, grid=(height, width), dim=dim, parameters=parameters)


def _check_patches(entry: BackboneEntry, module: nn.Module, size: Size) -> None:
    # The patch convolution would drop the pixels beyond the last whole patch, and the map would not cover the image.
    owner = getattr(module, "patch_embed", module)
    patch = getattr(owner, "patch_size", 1)
    height, width = (patch, patch) if isinstance(patch, int) else patch
    if size[0] % height or size[1] % width:
        raise _size_error(entry, size, f"its patches are {height}x{width}")


@contextlib.contextmanager
def _size_errors(entry: BackboneEntry, size: Size) -> Iterator[None]:
    """Turn an architecture's refusal of an image size into one clear error."""
    try:
        yield
    except (AssertionError, RuntimeError) as error:
        raise _size_error(entry, size, str(error)) from None


def _size_error(entry: BackboneEntry, size: Size, reason: str) -> UsageError:
    (h, w), (H, W) = size, entry.image_size
    return UsageError(f"backbone {entry.name!r} cannot take images of {h}x{w} ({reason}): its own size is {H}x{W}")
