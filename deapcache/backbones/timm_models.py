"""Backbones of timm: any architecture, through ``forward_intermediates``."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any

import timm
import torch
from timm.models import _builder
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from deapcache.backbones.checkpoints import State, load_strictly, misfit_error
from deapcache.backbones.layers import LayerOutput, LoadedModel, TransformerBlocks, covered_share
from deapcache.backbones.registry import BackboneEntry, WeightsSource
from deapcache.errors import UnknownNameError, UsageError, did_you_mean
from deapcache.regions import Size

LOADER = f"{__name__}:load"


@cache  # building a large model takes seconds, also on the meta device
def describe(name: str) -> BackboneEntry:
    """The entry of ``NAME`` or ``NAME.TAG``, measured once on a model without storage (meta device).

    Raises :class:`UnknownNameError`, and :class:`UsageError` for a model that gives no feature map.
    """
    config = _pretrained_config(name)
    architecture = name.partition(".")[0]
    size: Size = tuple(config.input_size[-2:])
    with torch.device("meta"):
        model = create(architecture, {})[0].eval()
        shape, final_norm = measure(model, size, f"timm:{name}")
    return BackboneEntry(
        name=f"timm:{name}",
        architecture=f"timm:{architecture}",
        pretrained_tag=config.tag or "",
        image_size=size,
        grid=(shape[2], shape[3]),
        covered=covered_share(model, size, (shape[2], shape[3])),
        dim=shape[1],
        parameters=sum(p.numel() for p in model.parameters()),
        mean=tuple(config.mean),
        std=tuple(config.std),
        licence=config.license or "see model card",
        final_norm=final_norm,
        source=_source(config),
        loader=LOADER,
    )


def load(entry: BackboneEntry, checkpoint: State | None) -> LoadedModel:
    """Build the model of ``entry`` and load ``checkpoint`` into it, if any."""
    name = entry.architecture.removeprefix("timm:")
    arguments = dict(entry.arguments)
    if entry.resized and accepts_size(name):
        arguments["img_size"] = list(entry.resized)
    tagged = f"{name}.{entry.pretrained_tag}" if entry.pretrained_tag else name
    model, convert, heads = create(tagged, arguments)

    def convert_same(state: State) -> State:
        # timm would resample the patch embedding of another architecture, and load it without a word
        key = "patch_embed.proj.weight"
        shapes = [tuple(one[key].shape) for one in (state, model.state_dict()) if key in one]
        if len(shapes) == 2 and len(shapes[0]) == len(shapes[1]) and shapes[0][2:] != shapes[1][2:]:
            raise misfit_error(
                entry, f"{key} has the shape {shapes[0]}, {shapes[1]} expected; it is of another architecture"
            )
        return convert(state)

    unused = load_strictly(model, checkpoint, entry, convert=convert_same, heads=heads)
    if checkpoint is not None and entry.pretrained_tag and "quickgelu" not in name:
        _warn_of_notes(entry, name)
    forward = partial(feature_map, model, norm=entry.final_norm)
    return LoadedModel(model, forward, arguments, transformer_blocks(model), unused)


def _warn_of_notes(entry: BackboneEntry, name: str) -> None:
    """Warn where timm notes that weights were trained with QuickGELU, and the model has another activation."""
    notes = _pretrained_config(f"{name}.{entry.pretrained_tag}").notes or ()
    variants = [model for model in timm.list_models("*quickgelu*") if model.replace("_quickgelu", "") == name]
    variant = f"; timm:{variants[0]}.{entry.pretrained_tag} is that variant" if variants else ""
    for note in (notes,) if isinstance(notes, str) else notes:
        if "quickgelu" in note.lower():
            warnings.warn(f"backbone {entry.name!r}: timm notes on its weights: {note}{variant}", stacklevel=2)


def create(name: str, arguments: Mapping[str, Any]) -> tuple[nn.Module, Callable[[State], State], tuple[str, ...]]:
    """The model without classifier and pooling, randomly initialised.

    With it come timm's own conversion of a checkpoint (old key names, position embeddings of another size), and the
    beginnings of the keys that dropping the classifier took away.
    """
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
    if "mlp_layer" in options:
        options["mlp_layer"] = getattr(timm.layers, options["mlp_layer"])  # timm takes the class, recipes its name
    with _capture_loading() as captured:
        model: Any = timm.create_model(name, pretrained=True, num_classes=0, **options)
    before = set(model.state_dict())
    if hasattr(model, "reset_classifier"):  # timm's bare encoders have none
        try:
            # Not global_pool="" in the constructor: ViTamin, BEiT and EVA-02 would gain a norm that no checkpoint has.
            model.reset_classifier(0, "")
        except AssertionError:  # EfficientViT, PiT and a few others cannot go without pooling; it comes after the map
            model.reset_classifier(0)
    convert = captured.get("filter_fn")
    classifier = model.pretrained_cfg.get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return (
        model,
        (lambda state: dict(convert(dict(state), model))) if convert else dict,
        tuple(f"{name}." for name in names) + tuple(sorted(before - set(model.state_dict()))),
    )


def feature_map(model: Any, images: Tensor, *, norm: bool, index: int = -1) -> Tensor:
    """(B, 3, h, w) normalised images to the (B, D, H, W) map after block ``index``, without prefix tokens."""
    maps = model.forward_intermediates(
        images, indices=[index], norm=norm, output_fmt="NCHW", intermediates_only=True, stop_early=index != -1
    )
    return maps[-1]


def transformer_blocks(model: nn.Module) -> TransformerBlocks | None:
    """The blocks of a plain vision transformer; None for any other architecture."""
    if isinstance(model, VisionTransformer):
        has_class_token = model.has_class_token
    elif isinstance(model, Eva):
        has_class_token = model.cls_token is not None
    else:
        return None

    def forward(images: Tensor, indices: list[int], norm: bool, cls: bool) -> list[LayerOutput]:
        outputs: Any = model.forward_intermediates(
            images, indices=indices, norm=norm, output_fmt="NCHW", intermediates_only=True, stop_early=True,
            return_prefix_tokens=cls,
        )  # fmt: skip
        # the class token is the first of the prefix, registers follow
        return [(each[0], each[1][:, 0]) if cls else (each, None) for each in outputs]

    return TransformerBlocks(len(model.blocks), model.norm, has_class_token, forward)


def measure(model: nn.Module, size: Size, name: str) -> tuple[tuple[int, ...], bool]:
    """Shape (1, D, H, W) of the feature map, and whether asking for the final norm applies one.

    The shape is that of the map which is used: SAM's norm comes with a neck that changes D. Raises :class:`UsageError`
    where there is no such map.
    """
    images = torch.zeros(1, 3, *size)
    try:
        plain, shape = _module_calls(model, images, norm=False)
        try:
            normed, normed_shape = _module_calls(model, images, norm=True)
        except AssertionError:  # Hiera has no norm that fits its map, and says so
            normed, normed_shape = plain, shape
    except (AttributeError, TypeError, ValueError, IndexError, RuntimeError, AssertionError, NotImplementedError) as e:
        raise UsageError(
            f"backbone {name!r} has no feature map that can be measured: {type(e).__name__}: {e}"
        ) from None
    if normed > plain:
        shape = normed_shape
    if len(shape) != 4:
        raise UsageError(f"backbone {name!r} gives features of shape {shape}, not a map (B, D, H, W)")
    return shape, normed > plain


@cache
def accepts_size(name: str) -> bool:
    """Whether the architecture is built for a size (``img_size``); convolutional networks take any."""
    try:
        with torch.device("meta"):
            timm.create_model(name, img_size=224)
    except TypeError as error:
        if "img_size" in str(error):
            return False
        raise
    except AssertionError:  # 224 does not suit its patches or windows
        return True
    return True


def _module_calls(model: nn.Module, images: Tensor, *, norm: bool) -> tuple[int, tuple[int, ...]]:
    calls: list[int] = []
    # A norm that timm moved behind the pooling leaves an Identity in its old place.
    modules = [module for module in model.modules() if not isinstance(module, nn.Identity)]
    hooks = [module.register_forward_hook(lambda *_: calls.append(1)) for module in modules]
    try:
        with torch.no_grad():
            shape = tuple(feature_map(model, images, norm=norm).shape)
    finally:
        for hook in hooks:
            hook.remove()
    return len(calls), shape


@contextlib.contextmanager
def _capture_loading() -> Iterator[dict[str, Any]]:
    """Take over from timm where it would fetch weights, and learn how it would convert them.

    timm loads a headless model without strictness and keeps the conversion of an architecture to itself.
    """
    captured: dict[str, Any] = {}
    original = _builder.load_pretrained
    _builder.load_pretrained = lambda model, **options: captured.update(options)
    try:
        yield captured
    finally:
        _builder.load_pretrained = original


def _pretrained_config(name: str) -> Any:
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        hint = did_you_mean(architecture, timm.list_models(), prefix="timm:")
        raise UnknownNameError(f"timm has no model {architecture!r}: {hint or 'see timm.list_models()'}")
    try:
        return timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:
        hint = did_you_mean(name, timm.list_pretrained(f"{architecture}.*"), cutoff=0.0, prefix="timm:")
        raise UnknownNameError(f"timm has no weights {name!r}: {hint or 'see timm.list_models()'}") from None


def _source(config: Any) -> WeightsSource:
    if config.hf_hub_id:
        files = (config.hf_hub_filename,) if config.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")
        return WeightsSource(repo=config.hf_hub_id, files=files)
    return WeightsSource(url=config.url if isinstance(config.url, str) else "")
