"""The named backbones: facts as in the paper and the models, maps as the libraries' own forward gives them."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from deapcache.backbones import BACKBONES, build, describe
from deapcache.backbones.model import load_model
from deapcache.backbones.timm_models import measure

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

# name: image side, feature side, width, parameters, mean and std, final norm, category
FACTS = {
    "random": (224, 14, 768, 85_798_656, HALF, True, "supervised"),
    "imagenet": (224, 14, 768, 85_798_656, HALF, True, "supervised"),
    "sam2-b+": (1024, 64, 256, 69_106_816, IMAGENET, False, "supervised"),
    "mocov3": (224, 14, 768, 85_798_656, IMAGENET, True, "self-supervised"),
    "dino": (224, 28, 768, 85_807_872, IMAGENET, True, "self-supervised"),
    "dinov2": (518, 37, 768, 86_582_016, IMAGENET, True, "self-supervised"),
    "dinov2-l": (518, 37, 1024, 304_370_688, IMAGENET, True, "self-supervised"),
    "mae": (224, 14, 768, 85_798_656, IMAGENET, True, "self-supervised"),
    "hiera-b+": (224, 7, 896, 68_999_616, IMAGENET, False, "self-supervised"),
    "clip": (224, 14, 768, 85_799_424, CLIP, True, "vision-language"),
    "clip-l-336": (336, 24, 1024, 303_507_456, CLIP, True, "vision-language"),
    "metaclip": (224, 14, 768, 85_799_424, CLIP, True, "vision-language"),
    "siglip-224": (224, 14, 768, 85_797_120, HALF, True, "vision-language"),
    "siglip-384": (384, 24, 768, 86_088_960, HALF, True, "vision-language"),
    "siglip-512": (512, 32, 768, 86_433_024, HALF, True, "vision-language"),
    "siglip-so": (512, 36, 1152, 413_640_432, HALF, True, "vision-language"),
    "aimv2": (336, 24, 1024, 309_525_504, CLIP, True, "vision-language"),
    "vitamin": (384, 24, 1024, 332_920_736, CLIP, False, "vision-language"),
    "efficientnet-lite0": (224, 7, 320, 2_958_848, HALF, False, "supervised"),
    "efficientnet-lite0-s16": (224, 14, 112, 700_768, HALF, False, "supervised"),
    "efficientnet-lite1": (240, 8, 320, 3_723_520, HALF, False, "supervised"),
    "efficientnet-lite1-s16": (240, 15, 112, 989_280, HALF, False, "supervised"),
}

FEW_BLOCKS = {
    "sam2-b+": {"stages": (1, 2, 3, 1), "global_att_blocks": (4,)},
    "hiera-b+": {},
    "efficientnet-lite0": {},
    "efficientnet-lite0-s16": {},
    "efficientnet-lite1": {},
    "efficientnet-lite1-s16": {},
}
"""Arguments that leave out most of the blocks; of all others, which are plain transformers, all but two."""


class QuickInitialisation(TorchFunctionMode):
    """Random weights from a repeated block of noise: drawing 400 million normal values would take most of a test."""

    def __init__(self):
        super().__init__()
        self.noise = torch.rand(999_983, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.erfinv_:
            return args[0]
        if func not in (Tensor.uniform_, Tensor.normal_):
            return func(*args, **(kwargs or {}))
        tensor, first, second = self._range(func, *args, **(kwargs or {}))
        flat = tensor.view(-1)
        for start in range(0, len(flat), len(self.noise)):
            piece = flat[start : start + len(self.noise)]
            piece.copy_(self.noise[: len(piece)] * second + first)
        return tensor

    @staticmethod
    def _range(func, tensor, a=0.0, b=1.0, **named):
        if func is Tensor.normal_:
            return tensor, named.get("mean", a), 1.7 * named.get("std", b)
        return tensor, (a + b) / 2, (b - a) / 2


@pytest.fixture
def quick_initialisation():
    with QuickInitialisation():
        yield


@pytest.fixture
def add_shallow(monkeypatch):
    """A function that registers a named backbone once more with few blocks, all else alike; gives its name."""

    def add(name: str) -> str:
        entry = describe(name)
        arguments = {**entry.arguments, **FEW_BLOCKS.get(name, {"depth": 2})}
        shallow = replace(entry, name=f"{name}-shallow", arguments=arguments)
        monkeypatch.setitem(BACKBONES._entries, shallow.name, shallow)
        return shallow.name

    return add


def test_exactly_these_are_registered():
    assert {name for name, entry in BACKBONES if not entry.group} == set(FACTS)


@pytest.mark.parametrize("name", FACTS)
def test_facts(name):
    side, cells, dim, parameters, (mean, std), norm, category = FACTS[name]
    entry = describe(name)
    assert entry.image_size == (side, side)
    assert entry.grid == (cells, cells)
    assert (entry.dim, entry.parameters) == (dim, parameters)
    assert (entry.mean, entry.std, entry.final_norm, entry.category) == (mean, std, norm, category)
    assert entry.interpolation == "bicubic"


@pytest.mark.parametrize("name", FACTS)
def test_the_whole_model_has_these_facts(name):
    """Without storage: shapes and numbers of parameters need no weights."""
    side, cells, dim, parameters, *_ = FACTS[name]
    with torch.device("meta"), torch.no_grad():
        loaded = load_model(describe(f"{name}@untrained"))
        found = loaded.feature_map(torch.zeros(1, 3, side, side))
    assert found.shape == (1, dim, cells, cells)
    assert sum(p.numel() for p in loaded.module.parameters()) == parameters


@pytest.mark.usefixtures("quick_initialisation")
@pytest.mark.parametrize("name", FACTS)
def test_the_map_is_the_librarys_own(name, add_shallow):
    """At the model's own size; with few blocks where there are many, for each does what the last one does."""
    side, cells, dim, _, statistics, norm, _ = FACTS[name]
    backbone = build(f"{add_shallow(name)}@untrained")
    images = torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = backbone(images)
    assert (features.shape, features.dtype) == ((1, cells, cells, dim), torch.float32)
    assert features.is_contiguous()
    assert not any(p.requires_grad for p in backbone.module.parameters())
    assert backbone.identity.final_norm is norm
    assert features.std() > 1e-3
    with torch.no_grad():
        expected = _independent(name, backbone.module, _plain_preprocess(images, statistics), cells)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    del backbone
    gc.collect()


def _plain_preprocess(images, statistics):
    mean, std = (torch.tensor(values) for values in statistics)
    return ((images / 255.0 - mean) / std).permute(0, 3, 1, 2)


def _independent(name, module, pixels, cells):
    """The map (B, H, W, D) without ``forward_intermediates``' last-block output."""
    if name == "sam2-b+":
        return _sam2_neck(module, pixels)
    if name.startswith("efficientnet"):
        x = module.bn1(module.conv_stem(pixels))
        return module.blocks(x).permute(0, 2, 3, 1)
    features = module.forward_features(pixels)
    tokens = features[:, getattr(module, "num_prefix_tokens", 0) :]
    return tokens.reshape(len(pixels), cells, cells, -1)


def _sam2_neck(module, pixels):
    x = module.trunk._pos_embed(module.trunk.patch_embed(pixels))
    stages = []
    for index, block in enumerate(module.trunk.blocks):
        x = block(x)  # (B, H, W, C)
        if index in module.trunk.stage_ends:
            stages.append(x)
    w0, b0 = module.convs[0].weight[:, :, 0, 0], module.convs[0].bias
    w1, b1 = module.convs[1].weight[:, :, 0, 0], module.convs[1].bias
    coarse = F.linear(stages[3], w0, b0)
    return F.linear(stages[2], w1, b1) + coarse.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)


@pytest.mark.parametrize("name", ["imagenet", "hiera-b+", "clip", "siglip-so", "aimv2", "vitamin", "dinov2"])
def test_recorded_norm_and_size_are_those_measured_on_the_model(name):
    entry = describe(name)
    from deapcache.backbones.timm_models import create

    with torch.device("meta"):
        model = create(entry.architecture.removeprefix("timm:"), entry.arguments)[0].eval()
        shape, norm = measure(model, entry.image_size, name)
    assert (shape[1], shape[2:]) == (entry.dim, entry.grid)
    assert norm is entry.final_norm


@pytest.mark.parametrize("name", [n for n, e in BACKBONES if e.source.repo.startswith(("timm/", "jienengchen/"))])
def test_source_is_the_librarys_own(name):
    import timm

    entry = describe(name)
    config = timm.get_pretrained_cfg(f"{entry.architecture.removeprefix('timm:')}.{entry.pretrained_tag}")
    assert entry.source.repo == config.hf_hub_id
    assert (entry.mean, entry.std) == (config.mean, config.std)


def test_sizes_of_downloads_are_near_the_parameters():
    assert describe("dinov2").weights_size_bytes == 4 * 86_582_016
    assert describe("sam2-b+").weights_size_bytes == 4 * 80_833_666
