"""Building a backbone and running it: name in, frozen model out; images in, feature maps out."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import init
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from deapcache.backbones import weights as weight_files
from deapcache.backbones.checkpoints import State, keys_below, read_checkpoint, state_digest
from deapcache.backbones.layers import (
    DEFAULT_LAYERS,
    LayerOutput,
    LayerSelection,
    LoadedModel,
    patch_size,
    select_layers,
)
from deapcache.backbones.registry import (
    COUNTS,
    BackboneEntry,
    BackboneIdentity,
    at_size,
    describe,
    join_name,
    load_function,
    size_name,
    split_name,
)
from deapcache.errors import (
    DeapcacheError,
    MissingWeightsError,
    PluginError,
    UsageError,
    WeightsError,
    first_line,
    require_choice,
)
from deapcache.regions import Size

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precisions of the forward pass; TF32 is off in all of them."""

_LISTED = 6
"""Beginnings of unused keys that are shown."""

BatchNormStatistics = list[tuple[Tensor, Tensor]]
"""Running mean and variance of each BatchNorm layer, (channels,) float32 each."""


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
        self,
        entry: BackboneEntry,
        loaded: LoadedModel,
        weights: str,
        precision: str,
        selection: LayerSelection = DEFAULT_LAYERS,
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
        self.selection = selection
        self.unused_keys = loaded.unused
        """Of the checkpoint: what serves something else than the map."""
        self._loaded = loaded
        layers, norm, self._forward_layers = select_layers(entry, loaded, selection)
        identity = BackboneIdentity(
            backbone=entry.recipe_name,
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
            tokens=selection.tokens,
        )
        self.identities = tuple(replace(identity, layer=layer) for layer in layers)
        """What one forward gives, in order: one for each layer that is kept."""
        self.identity = self.identities[0]

    @property
    def unused(self) -> str:
        """Beginnings of the unused keys, with how many there are of each, for people; empty where all is used."""
        beginnings = Counter(".".join(key.split(".")[:2]) for key in self.unused_keys)
        listed = ", ".join(f"{beginning} ({count})" for beginning, count in beginnings.most_common(_LISTED))
        return listed + (", …" if len(beginnings) > _LISTED else "")

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
        """(B, h, w, 3) uint8 RGB to (B, 3, *image_size) float32, normalised, on the same device.

        Antialiased bicubic, clamped to [0, 1]: its overshoot is no colour. Images of that size are not resampled.
        """
        pixels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        if pixels.shape[-2:] != self.image_size:
            size = self.image_size
            pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True, align_corners=False).clamp_(0, 1)
        shift = torch.tensor(self.entry.mean, device=pixels.device).view(1, 3, 1, 1)
        scale = torch.tensor(self.entry.std, device=pixels.device).view(1, 3, 1, 1)
        return (pixels - shift) / scale

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

    def with_layers(self, layers: Sequence[str]) -> Backbone:
        """The same model, of which only some of the layers in ``identities`` are kept; nothing is built."""
        selection = replace(self.selection, layers=tuple(layers))
        return Backbone(self.entry, self._loaded, self.identity.weights, self.precision, selection)

    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Set each BatchNorm's statistics to the mean, over ``batches``, of the batch's mean and unbiased variance.

        Batches are (B, h, w, 3) uint8. Every layer sees inputs that were normalised with the statistics of their own
        batch, and nothing else leaves evaluation mode. Raises :class:`UsageError` where there is no batch.
        """
        layers = batch_norms(self.module)
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # torch's spelling of a cumulative average
            layer.train()
        seen = 0
        try:
            with torch.no_grad():
                for batch in batches:
                    self._forward(batch.to(self.device))
                    seen += 1
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
                layer.eval()
        if not seen:
            raise UsageError("BatchNorm statistics cannot be estimated from no images: give at least one batch")
        self.needs_calibration = False

    def statistics(self) -> BatchNormStatistics:
        """The BatchNorm statistics in the order of the layers, on the CPU, for another copy of this backbone."""
        return [
            (_buffer(layer.running_mean).cpu().clone(), _buffer(layer.running_var).cpu().clone())
            for layer in batch_norms(self.module)
        ]

    def adopt(self, statistics: BatchNormStatistics) -> None:
        """Take the statistics over from a copy that was calibrated."""
        for layer, (mean, variance) in zip(batch_norms(self.module), statistics, strict=True):
            _buffer(layer.running_mean).copy_(mean)
            _buffer(layer.running_var).copy_(variance)
        self.needs_calibration = False

    def _forward(self, images: Tensor) -> tuple[LayerOutput, ...]:
        pixels = self.preprocess(images)
        with arithmetic(self.precision, self.device):
            outputs = self._forward_layers(pixels)
        COUNTS["forwarded"] += len(images)
        return outputs


def build(
    name: str,
    *,
    weights: Path | None = None,
    weights_key: str = "",
    image_size: Size | None = None,
    seed: int | None = None,
    precision: str = "fp32",
    selection: LayerSelection = DEFAULT_LAYERS,
) -> Backbone:
    """Build the backbone ``name`` (see :func:`describe`) on the CPU, in evaluation mode, without gradients.

    ``weights`` (safetensors, or a torch checkpoint; of several files, their index) replaces the download, and of its
    keys those that begin with ``weights_key``, by default those that fit best. ``image_size`` (height, width) replaces
    the native size. ``seed`` initialises untrained ones, by default the one of the name, and the global random state
    stays as it is. ``precision`` is ``fp32`` (TF32 off), ``bf16`` or ``fp16`` (autocast). ``selection`` says which
    layers, and whether the class token, are kept.

    Raises :class:`UnknownNameError`, :class:`UsageError` (precision, image size),
    :class:`MissingWeightsError`, and :class:`WeightsError` for a checkpoint that does not fit.
    """
    require_choice("precision", precision, AUTOCAST)
    if image_size is not None:
        height, width = image_size
        if height < 1 or width < 1:
            raise UsageError(f"image size {height}x{width} is no size: give height and width in pixels, at least 1")
        name = at_size(name, (int(height), int(width)))
    entry = describe(name)
    seed = entry.seed if seed is None else seed
    checkpoint = _read_weights(entry, weights, weights_key)
    random = checkpoint is None or entry.is_plugin  # a plugin may draw what is no part of the checkpoint
    try:
        with initialisation(seed, skip=not random):
            loaded = load_model(entry, checkpoint)
    except WeightsError as error:
        if weights is None:
            raise
        raise WeightsError(f"{weights}: {error}") from None
    loaded.module.eval().requires_grad_(False)
    digest = f"sha256:{state_digest(loaded.module)}"
    COUNTS["built"] += 1
    weights_digest = f"untrained:seed={seed}:{digest}" if entry.untrained else digest
    return Backbone(entry, loaded, weights_digest, precision, selection)


def build_by_digest(name: str, digest: str, *, weights: Path, **options: Any) -> Backbone:
    """:func:`build` with those of the weights in a file that have ``digest``, wherever in it they are.

    So what was chosen with ``--weights-key`` is found again without. Where none have it, the result is as of
    :func:`build`, and it raises what that raises.
    """
    found, refused = None, None
    for key in _keys_to_try(name, weights):
        try:
            built = build(name, weights=weights, weights_key=key, **options)
        except WeightsError as error:
            refused = refused or error
            continue
        if built.identity.weights == digest:
            return built
        found = found or built
    if found is None:
        assert refused is not None  # one is tried at least
        raise refused
    return found


def _keys_to_try(name: str, weights: Path) -> Iterator[str]:
    """Beginnings of the keys in a file below which there are enough for the model; first none, which finds the best."""
    yield ""
    entry = describe(name)
    with _without_storage(entry):
        expected = len(load_model(entry).module.state_dict())
    counts = Counter(
        ".".join(parts[:end])
        for parts in (key.split(".") for key in read_checkpoint(weights))
        for end in range(1, len(parts))
    )
    yield from (key for key, count in counts.items() if 2 * count >= expected)


def _read_weights(entry: BackboneEntry, given: Path | None, key: str) -> State | None:
    if entry.untrained and given is not None:
        raise UsageError(f"backbone {entry.name!r} is untrained and takes no weights: leave out --weights {given}")
    if entry.untrained or (entry.own_weights and given is None):
        return None
    if given is not None:
        path = Path(given)
        if not path.is_file():
            if path.is_dir():
                raise MissingWeightsError(f"--weights {path} is a folder: give the file in it, or the index of several")
            raise MissingWeightsError(f"--weights {path} is no file: give a checkpoint of {entry.architecture}")
        state = read_checkpoint(path, remedy=f"give a whole checkpoint of {entry.architecture} with --weights FILE")
        return keys_below(state, key, path) if key else state
    path = weight_files.fetch(entry)
    return read_checkpoint(path, remedy=weight_files.remedy(entry, path))


def load_model(entry: BackboneEntry, checkpoint: State | None = None) -> LoadedModel:
    """The model of an entry as its loader builds it, with random weights where there is no checkpoint."""
    model: LoadedModel = load_function(entry.loader)(entry, checkpoint)
    return model


def resized_entry(entry: BackboneEntry, size: Size) -> BackboneEntry:
    """The entry with the facts that another image size changes, measured on a model without storage.

    Raises :class:`UsageError` that names the nearest sizes where the architecture takes none such.
    """
    model, seed, _ = split_name(entry.name)
    sized = replace(entry, name=join_name(model, seed, size), image_size=size, native_size=entry.image_size)
    try:
        grid, dim, parameters = _measure_at(sized)
    except _REFUSALS as error:
        if isinstance(error, DeapcacheError) and not isinstance(error, UsageError | PluginError):
            raise
        near = " or ".join(size_name(one) for one in _nearest_sizes(sized)) or "none near it"
        why = first_line(error).rstrip(".")
        raise UsageError(
            f"backbone {join_name(model, seed)!r} cannot take images of {size[0]}x{size[1]} ({why}): its own size is "
            f"{size_name(entry.image_size)}, the nearest that it takes: {near}"
        ) from None
    return replace(sized, grid=grid, dim=dim, parameters=parameters, covered=(1.0, 1.0))


def _measure_at(entry: BackboneEntry) -> tuple[Size, int, int]:
    """Grid, width and number of parameters of the model at the image size of ``entry``."""
    with _without_storage(entry), torch.no_grad():
        loaded = load_model(entry)
        loaded.module.eval()
        patch = patch_size(loaded.module)
        if any(side % cell for side, cell in zip(entry.image_size, patch, strict=True)):
            # the patch convolution would drop the pixels beyond the last whole patch
            raise ValueError(f"its patches are {patch[0]}x{patch[1]}")
        _, dim, height, width = loaded.feature_map(torch.zeros(1, 3, *entry.image_size)).shape
    return (height, width), dim, sum(parameter.numel() for parameter in loaded.module.parameters())


def _without_storage(entry: BackboneEntry) -> contextlib.AbstractContextManager[Any]:
    """Inside, models are built on the meta device; those of plugins, whose code may do what none there can, are not."""
    return contextlib.nullcontext() if entry.is_plugin else torch.device("meta")


_REFUSALS = (AssertionError, RuntimeError, ValueError, TypeError, PluginError)
"""What models raise where they do not take an image size."""

_STEPS = (8, 14, 16, 32, 64, 128, 256)
"""Of image sizes that architectures without patches of their own take: strides, and windows of them."""


def _nearest_sizes(entry: BackboneEntry) -> list[Size]:
    """The next smaller and the next larger size that the architecture takes, as far as they are near; tried out."""
    try:
        with _without_storage(entry):
            patch = patch_size(load_model(replace(entry, image_size=entry.native_size or entry.image_size)).module)
    except _REFUSALS:
        return []
    steps = [patch, *((step, step) for step in _STEPS if step > max(patch))]
    h, w = entry.image_size
    below = [(h // down * down, w // across * across) for down, across in steps]
    above = [(-(-h // down) * down, -(-w // across) * across) for down, across in steps]
    if h != w:  # some take squares alone
        below, above = [*below, *((min(size),) * 2 for size in below)], [*above, *((max(size),) * 2 for size in above)]
    found = [next((size for size in sizes if _takes(entry, size)), None) for sizes in (below, above)]
    return [size for size in dict.fromkeys(found) if size]


def _takes(entry: BackboneEntry, size: Size) -> bool:
    try:
        return all(size) and bool(_measure_at(replace(entry, image_size=size)))
    except _REFUSALS:
        return False


def layers_of(name: str, selection: LayerSelection) -> tuple[tuple[str, ...], bool]:
    """The layers that a backbone built with ``selection`` gives, as recipes name them, and whether they are normed.

    The model is built without storage; raises what :func:`build` raises for the name and the selection.
    """
    entry = describe(name)
    if selection == DEFAULT_LAYERS:
        return (entry.layer,), entry.final_norm
    with _without_storage(entry):
        loaded = load_model(entry)
    layers, norm, _ = select_layers(entry, loaded, selection)
    return layers, norm


@contextlib.contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """TF32 off, to which torch rounds float32 convolutions on a GPU, and autocast to ``precision`` on that device."""
    dtype = AUTOCAST[precision]
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers that keep running statistics.

    A randomly initialised network with BatchNorm passes its input through statistics that it never saw (mean 0,
    variance 1), and its features say nothing about the architecture: they are estimated first.
    """
    return [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]


def _buffer(statistic: Tensor | None) -> Tensor:
    assert statistic is not None  # of a layer that tracks running statistics
    return statistic


_SKIPPED = {Tensor.erfinv_, init.normal_, init.uniform_, init.kaiming_uniform_}
"""Initialisers that torch hands to a mode whole, and what makes truncated normal values of uniform ones."""
_FILLED = {Tensor.normal_: "mean", Tensor.uniform_: "from"}
"""What other initialisers are made of → the name of its first parameter. Those of torch that truncate draw again until
all values are within their bounds: what memory held before may never be, and a mean or lower bound is."""


@contextlib.contextmanager
def initialisation(seed: int, *, skip: bool = False) -> Iterator[None]:
    """Build models inside: random weights follow from ``seed``, and the global random state is left as it was.

    With ``skip`` the weights are not drawn at all, which saves half of the time to load a large checkpoint; the
    caller loads one strictly, so that no value is left undefined.
    """
    with torch.random.fork_rng(devices=[]), _SkipInitialisation() if skip else contextlib.nullcontext():
        torch.manual_seed(seed)
        yield


class _SkipInitialisation(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func in _SKIPPED:
            return args[0] if args else named["tensor"]
        if func in _FILLED:
            return args[0].fill_(args[1] if len(args) > 1 else named.get(_FILLED[func], 0.0))
        return func(*args, **named)
