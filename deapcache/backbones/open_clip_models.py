"""Vision towers of open_clip: its own ViT and ResNet, and those that wrap a timm model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import CLIPVisionCfg, _build_vision_tower, resize_pos_embed
from open_clip.modified_resnet import ModifiedResNet
from open_clip.pretrained import get_pretrained_cfg
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from deapcache.backbones import timm_models
from deapcache.backbones.checkpoints import State, load_strictly
from deapcache.backbones.layers import LayerOutput, LoadedModel, TransformerBlocks, covered_share
from deapcache.backbones.registry import CLIP_MEAN, CLIP_STD, BackboneEntry, WeightsSource
from deapcache.errors import UnknownNameError, did_you_mean
from deapcache.regions import Size

LOADER = f"{__name__}:load"
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


@cache
def describe(name: str) -> BackboneEntry:
    """The entry of ``MODEL/TAG`` or ``MODEL``, measured once on a tower without storage (meta device).

    Raises :class:`UnknownNameError` with the nearest models or the tags of the model.
    """
    model, tag = _parse(name)
    config = get_pretrained_cfg(model, tag)
    # An openai tag on a plain name means QuickGELU weights in a GELU model; the weights decide.
    quick_gelu = bool(open_clip.get_model_config(model).get("quick_gelu") or config.get("quick_gelu"))
    with torch.device("meta"):
        tower: Any = _build_tower(model, quick_gelu)
        size: Size = (tower.image_size,) * 2 if isinstance(tower.image_size, int) else tuple(tower.image_size)
        module = _without_head(tower)
        if isinstance(module, VisionTransformer):
            norm = not isinstance(module.ln_post, nn.Identity)
        else:
            norm = not isinstance(module, ModifiedResNet) and timm_models.measure(module, size, f"open_clip:{name}")[1]
        shape = _feature_map(module, norm)(torch.zeros(1, 3, *size)).shape
    return BackboneEntry(
        name=f"open_clip:{name}",
        architecture=f"open_clip:{model}",
        pretrained_tag=tag,
        arguments={"quick_gelu": quick_gelu},
        image_size=size,
        grid=(shape[2], shape[3]),
        covered=covered_share(module, size, (shape[2], shape[3])),
        dim=shape[1],
        parameters=sum(p.numel() for p in module.parameters()),
        mean=tuple(config.get("mean", CLIP_MEAN)),
        std=tuple(config.get("std", CLIP_STD)),
        category="vision-language",
        final_norm=norm,
        source=_source(config),
        loader=LOADER,
    )


def load(entry: BackboneEntry, checkpoint: State | None) -> LoadedModel:
    """Build the vision tower without its projection and load its part of ``checkpoint``, if any."""
    arguments: dict[str, Any] = dict(entry.arguments)
    native = None
    model = entry.architecture.removeprefix("open_clip:")
    is_resnet = isinstance(open_clip.get_model_config(model)["vision_cfg"].get("layers"), list)
    if entry.resized and not is_resnet:  # a ResNet takes any, its attention pooling is not built for one
        native = arguments["image_size"] = list(entry.resized)
    tower = _build_tower(model, arguments["quick_gelu"], native)
    keys = set((tower.trunk if isinstance(tower, TimmModel) else tower).state_dict())
    module = _without_head(tower)
    heads = keys - set(module.state_dict())
    unused = load_strictly(module, checkpoint, entry, convert=partial(_tower_state, tower), heads=heads)
    if checkpoint is not None and isinstance(tower, VisionTransformer) and entry.pretrained_tag:
        _warn_of_activation(entry, arguments["quick_gelu"])
    if entry.resized and isinstance(tower, TimmModel):
        tower.set_input_size(entry.resized)
    return LoadedModel(module, _feature_map(module, entry.final_norm), arguments, transformer_blocks(module), unused)


def _warn_of_activation(entry: BackboneEntry, quick_gelu: bool) -> None:
    """Warn where open_clip says two things of the activation; that of weights with QuickGELU is always built."""
    model = entry.architecture.removeprefix("open_clip:")
    if quick_gelu and not get_pretrained_cfg(model, entry.pretrained_tag).get("quick_gelu"):
        warnings.warn(
            f"backbone {entry.name!r} is built with QuickGELU, as open_clip's configuration of the model says; "
            f"its list of weights does not say so of {entry.pretrained_tag}",
            stacklevel=2,
        )


def _parse(name: str) -> tuple[str, str]:
    model, _, tag = name.partition("/")
    if model not in open_clip.list_models():
        hint = did_you_mean(model, open_clip.list_models(), prefix="open_clip:")
        raise UnknownNameError(f"open_clip has no model {model!r}: {hint or 'see open_clip.list_models()'}")
    if tag and not get_pretrained_cfg(model, tag):
        tags = open_clip.list_pretrained_tags_by_model(model)
        raise UnknownNameError(f"open_clip has no weights {tag!r} of {model}: its tags are {', '.join(tags) or 'none'}")
    return model, tag


def _build_tower(model: str, quick_gelu: bool, image_size: list[int] | None = None) -> nn.Module:
    config = open_clip.get_model_config(model)
    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    if image_size and "timm_model_name" not in vision:
        vision["image_size"] = tuple(image_size)
    # The whole CLIP would also need the text tower, which may be another library's.
    return _build_vision_tower(config["embed_dim"], CLIPVisionCfg(**vision), quick_gelu).eval()


def _without_head(tower: Any) -> nn.Module:
    """The part of the tower that makes the map."""
    if isinstance(tower, TimmModel):
        tower.trunk.reset_classifier(0, "")
        return tower.trunk
    if isinstance(tower, ModifiedResNet):
        tower.attnpool = None
        return tower
    if tower.attn_pool is not None or tower.final_ln_after_pool:  # the norm follows pooling
        tower.ln_post = nn.Identity()
    tower.proj, tower.attn_pool, tower.attn_pool_contrastive = None, None, None
    return tower


def _feature_map(module: nn.Module, norm: bool) -> Callable[[Tensor], Tensor]:
    """(B, 3, h, w) normalised images to (B, D, H, W), without the class token."""
    if not isinstance(module, (ModifiedResNet, VisionTransformer)):
        return partial(timm_models.feature_map, module, norm=norm)

    def forward(images: Tensor) -> Tensor:
        output = module.forward_intermediates(
            images, indices=[-1], normalize_intermediates=norm, intermediates_only=True, output_fmt="NCHW"
        )
        return output["image_intermediates"][-1]

    return forward


def transformer_blocks(module: nn.Module) -> TransformerBlocks | None:
    """The blocks of open_clip's own vision transformer, or of timm's; None for any other tower."""
    if not isinstance(module, VisionTransformer):
        return timm_models.transformer_blocks(module)

    def forward(images: Tensor, indices: list[int], norm: bool, cls: bool) -> list[LayerOutput]:
        output = module.forward_intermediates(
            images, indices=indices, normalize_intermediates=norm, intermediates_only=True, output_fmt="NCHW",
            stop_early=True, output_extra_tokens=cls,
        )  # fmt: skip
        maps = output["image_intermediates"]
        tokens = [prefix[:, 0] for prefix in output["image_intermediates_prefix"]] if cls else [None] * len(maps)
        return list(zip(maps, tokens, strict=True))

    return TransformerBlocks(module.transformer.layers, module.ln_post, True, forward)


def _tower_state(tower: nn.Module, state: State) -> State:
    holder = SimpleNamespace(visual=tower)
    state = convert_state_dict(holder, state)  # Apple's first MobileCLIP files
    visual = {key: tensor for key, tensor in state.items() if key.startswith("visual.")}
    visual = visual or {f"visual.{key}": tensor for key, tensor in state.items()}
    resize_pos_embed(visual, holder)
    inner = {key.removeprefix("visual."): tensor for key, tensor in visual.items()}
    if not isinstance(tower, TimmModel):
        return inner
    trunk = {key.removeprefix("trunk."): tensor for key, tensor in inner.items() if key.startswith("trunk.")}
    return trunk or inner


def _source(config: dict[str, Any]) -> WeightsSource:
    if repository := config.get("hf_hub"):
        repo, _, file = repository.rpartition("/")
        return WeightsSource(repo=repo, files=(file,) if file else HUB_FILES)
    return WeightsSource(url=config.get("url", ""))
