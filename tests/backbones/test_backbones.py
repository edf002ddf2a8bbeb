"""Names, seeds, preprocessing, precision, calibration and counters."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from deapcache.backbones import BACKBONES, arithmetic_key, build, build_count, describe, forward_count
from deapcache.backbones.model import initialisation, load_model
from deapcache.errors import UnknownNameError, UsageError


def pictures(h, w, n=1, seed=1):
    return torch.randint(0, 256, (n, h, w, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


ALL_TIMM = os.environ.get("DEAPCACHE_ALL_TIMM")

TINY = "timm:vit_tiny_patch16_224@untrained"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("siglip384", "siglip-384"),
        ("timm:resnet81", "timm:resnet"),
        ("timm:resnet18.a9_in1k", "timm:resnet18.a1_in1k"),
        ("open_clip:ViT-B-31", "open_clip:ViT-B-32"),
        ("open_clip:ViT-B-32/laion", "laion2b_s34b_b79k"),
        ("torch_hub:x", "timm:NAME"),
    ],
)
def test_unknown_names_offer_near_ones(name, near):
    with pytest.raises(UnknownNameError, match=near):
        describe(name)


def test_an_unknown_name_with_none_near_it_names_a_few():
    with pytest.raises(UnknownNameError) as error:
        describe("qqqq")
    found = str(error.value)
    assert "`deapcache list backbones` shows all" in found
    assert 1 <= sum(f"{name}, " in found or f"{name} (" in found for name in BACKBONES.names()) <= 3
    assert len(found) < 250


def test_listing_needs_neither_torch_nor_a_model_library():
    code = (
        "import sys; from deapcache.backbones import BACKBONES, describe, weights_status, forward_count\n"
        "assert describe('dinov2@untrained').untrained and weights_status('mocov3')\n"
        "assert len(BACKBONES.names()) >= 20 and forward_count() == 0\n"
        "assert not {'torch', 'timm', 'open_clip'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tags_and_conv_nets():
    tagged = describe("timm:resnet18.a2_in1k")
    assert (tagged.pretrained_tag, tagged.grid, tagged.dim, tagged.final_norm) == ("a2_in1k", (7, 7), 512, False)
    assert tagged.source.repo == "timm/resnet18.a2_in1k"
    assert tagged.parameters == 11_689_512 - 513_000
    assert describe("timm:resnet18").pretrained_tag == "a1_in1k"
    assert describe("timm:swin_tiny_patch4_window7_224").final_norm
    assert describe("timm:vit_tiny_patch16_224@untrained").name == TINY


def test_models_that_keep_their_pooling_or_have_no_head():
    assert (describe("timm:efficientvit_b0").grid, describe("timm:efficientvit_b0").dim) == ((7, 7), 128)
    assert describe("timm:mobilenetv5_300m_enc").dim == 1280
    assert describe("timm:crossvit_9_240").grid == (14, 14)


def test_resnet_map_is_its_last_stage():
    backbone = build("timm:resnet18@untrained")
    images = pictures(224, 224, 2)
    with torch.no_grad():
        expected = backbone.module.forward_features(backbone.preprocess(images))
    assert torch.equal(backbone(images), expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    "name", ["timm:vit_dlittle_patch16_reg1_gap_256", "timm:convnext_atto", "timm:swin_tiny_patch4_window7_224"]
)
def test_other_timm_families(name):
    backbone = build(f"{name}@untrained")
    images = pictures(100, 100)
    with torch.no_grad():
        expected = backbone.module.forward_features(backbone.preprocess(images))
    if expected.ndim == 3:
        expected = expected[:, backbone.module.num_prefix_tokens :].reshape(1, *backbone.grid, -1)
    elif expected.shape[1] == backbone.dim:
        expected = expected.permute(0, 2, 3, 1)
    torch.testing.assert_close(backbone(images), expected)


def test_open_clip_vit_is_its_own_forward():
    backbone = build("open_clip:ViT-B-32@untrained")
    assert (backbone.grid, backbone.dim, backbone.identity.final_norm) == ((7, 7), 768, True)
    tower, images = backbone.module, pictures(64, 80, 2)
    tower.output_tokens = True
    with torch.no_grad():
        _, tokens = tower(backbone.preprocess(images))
    torch.testing.assert_close(backbone(images), tokens.reshape(2, 7, 7, 768), rtol=1e-4, atol=1e-4)


def test_open_clip_norm_after_pooling_is_not_the_maps():
    entry = describe("open_clip:ViT-L-14-CLIPA")
    assert (entry.final_norm, entry.grid, entry.dim) == (False, (16, 16), 1024)
    assert describe("open_clip:coca_ViT-B-32").dim == 768


def test_open_clip_resnet_and_timm_towers():
    images = pictures(224, 224)
    backbone = build("open_clip:RN50@untrained")
    tower = backbone.module
    pixels = backbone.preprocess(images)
    with torch.no_grad():
        x = tower.layer4(tower.layer3(tower.layer2(tower.layer1(tower.stem(pixels)))))
    assert torch.equal(backbone(images), x.permute(0, 2, 3, 1))
    assert backbone.needs_calibration
    siglip = build("open_clip:ViT-B-16-SigLIP@untrained")
    with torch.no_grad():
        tokens = siglip.module.forward_features(siglip.preprocess(images))
    torch.testing.assert_close(siglip(images), tokens.reshape(1, 14, 14, 768), rtol=1e-4, atol=1e-4)


def test_open_clip_weights_decide_the_activation():
    assert describe("open_clip:ViT-B-32/openai").arguments["quick_gelu"]
    assert not describe("open_clip:ViT-B-32/laion2b_s34b_b79k").arguments["quick_gelu"]


def test_open_clip_checkpoint_of_the_whole_model(tmp_path):
    import open_clip

    torch.manual_seed(5)
    whole = open_clip.create_model("ViT-S-32-alt", pretrained=None, pretrained_text=False).eval()
    torch.save(whole.state_dict(), tmp_path / "w.pt")
    backbone = build("open_clip:ViT-S-32-alt", weights=tmp_path / "w.pt")
    images = pictures(224, 224)
    whole.visual.output_tokens = True
    with torch.no_grad():
        _, tokens = whole.visual(backbone.preprocess(images))
    torch.testing.assert_close(backbone(images).flatten(1, 2), tokens, rtol=1e-4, atol=1e-4)


def test_seeds_and_the_global_random_state():
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first = build(TINY)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(12)
    again, other = build(TINY), build(TINY, seed=1)
    assert first.identity == again.identity
    assert torch.equal(first(pictures(224, 224)), again(pictures(224, 224)))
    assert first.identity.weights.startswith("untrained:seed=0:sha256:")
    assert first.identity.weights.split(":")[3] != other.identity.weights.split(":")[3]
    assert not first.needs_calibration


def test_preprocessing_is_antialiased_bicubic():
    backbone = build(TINY)
    images = pictures(300, 410, 2)
    pixels = backbone.preprocess(images)
    assert (pixels.dtype, pixels.shape) == (torch.float32, (2, 3, 224, 224))
    for image, found in zip(images.numpy(), pixels.numpy(), strict=True):
        for channel in range(3):
            plane = Image.fromarray(image[:, :, channel].astype(np.float32) / 255)
            plane = np.clip(np.asarray(plane.resize((224, 224), Image.Resampling.BICUBIC)), 0, 1)
            np.testing.assert_allclose(found[channel], (plane - 0.5) / 0.5, atol=1e-4)


def test_images_of_native_size_are_not_resampled():
    backbone = build(TINY)
    images = pictures(224, 224)
    assert torch.equal(backbone.preprocess(images), ((images / 255.0 - 0.5) / 0.5).permute(0, 3, 1, 2))


def test_other_image_sizes():
    wide = build("timm:resnet18@untrained", image_size=(96, 160))
    assert (wide.image_size, wide.grid, wide.identity.arguments) == ((96, 160), (3, 5), {})
    assert wide(pictures(216, 288)).shape == (1, 3, 5, 512)
    tiny = build(TINY, image_size=(64, 96))
    assert tiny.grid == (4, 6)
    assert tiny.identity.arguments == {"img_size": [64, 96]}
    assert tiny.parameters < describe(TINY).parameters
    clip = build("open_clip:ViT-B-32@untrained", image_size=(64, 96))
    assert clip(pictures(10, 20)).shape == (1, 2, 3, 768)
    with pytest.raises(UsageError, match=r"50x64.*16x16"):
        build(TINY, image_size=(50, 64))
    with pytest.raises(UsageError, match="no size"):
        build(TINY, image_size=(0, 50))


def test_precision():
    images = pictures(224, 224)
    full, half = build(TINY)(images), build(TINY, precision="bf16")(images)
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    cosine = torch.nn.functional.cosine_similarity(full, half, dim=-1)
    assert cosine.min() > 0.99
    with pytest.raises(UsageError, match="fp32, bf16, fp16"):
        build(TINY, precision="int4")


def test_tf32_is_off_inside_and_restored_outside():
    backbone = build(TINY)
    seen = []
    backbone.module.patch_embed.register_forward_hook(
        lambda *_: seen.append((torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision))
    )
    before = torch.backends.cudnn.conv.fp32_precision
    backbone(pictures(224, 224))
    assert seen == [("ieee", "ieee")]
    assert torch.backends.cudnn.conv.fp32_precision == before


def test_calibration_is_the_mean_of_the_batches_statistics():
    backbone = build("timm:resnet18@untrained")
    assert backbone.needs_calibration
    batches = [pictures(64, 64, 3, seed) for seed in (1, 2)]
    backbone.calibrate(iter(batches))
    assert not backbone.needs_calibration
    stem = [backbone.module.conv1(backbone.preprocess(batch)) for batch in batches]
    mean = torch.stack([x.mean(dim=(0, 2, 3)) for x in stem]).mean(dim=0)
    variance = torch.stack([x.var(dim=(0, 2, 3), unbiased=True) for x in stem]).mean(dim=0)
    torch.testing.assert_close(backbone.module.bn1.running_mean, mean)
    torch.testing.assert_close(backbone.module.bn1.running_var, variance)
    assert not backbone.module.training
    assert not backbone.module.bn1.training
    again = build("timm:resnet18@untrained")
    again.calibrate(batches)
    assert torch.equal(again(batches[0]), backbone(batches[0]))
    assert again.identity == build("timm:resnet18@untrained").identity
    with pytest.raises(UsageError, match="no images"):
        again.calibrate([])


def test_counters():
    built, forwarded = build_count(), forward_count()
    backbone = build(TINY)
    backbone(pictures(224, 224, 3))
    backbone(pictures(224, 224, 2))
    assert (build_count() - built, forward_count() - forwarded) == (1, 5)
    describe("timm:resnet18")
    assert (build_count() - built, forward_count() - forwarded) == (1, 5)


@pytest.mark.parametrize(
    ("name", "dim", "grid"),
    [
        ("samvit_base_patch16", 256, (64, 64)),
        ("samvit_large_patch16.sa1b", 256, (64, 64)),
        ("samvit_base_patch16_224", None, (14, 14)),
        ("swin_tiny_patch4_window7_224", 768, (7, 7)),
        ("convnext_atto", 320, (7, 7)),
        ("maxvit_nano_rw_256", 512, (8, 8)),
        ("xcit_nano_12_p16_224", 128, (14, 14)),
        ("davit_tiny", 768, (7, 7)),
        ("pvt_v2_b0", 256, (7, 7)),
        ("levit_128s", 384, (4, 4)),
        ("mobilenetv4_conv_small", None, (7, 7)),
        ("vitamin_small_224", 384, (14, 14)),
        ("hiera_tiny_224", 768, (7, 7)),
        ("eva02_tiny_patch14_224", 192, (16, 16)),
        ("beit_base_patch16_224", 768, (14, 14)),
        ("coat_tiny", None, None),
        ("fastvit_t8", None, None),
        ("twins_svt_small", None, None),
    ],
)
def test_the_map_that_is_used_has_the_shape_that_is_described(name, dim, grid):
    """SAM's final norm comes with a neck that changes the width: the shape is measured on the path that is taken."""
    entry = describe(f"timm:{name}@untrained")
    with torch.device("meta"), torch.no_grad():
        loaded = load_model(entry)
        loaded.module.eval()
        shape = loaded.feature_map(torch.zeros(1, 3, *entry.image_size)).shape
    assert tuple(shape) == (1, entry.dim, *entry.grid)
    assert dim in (None, entry.dim)
    assert grid in (None, entry.grid)


GEMMA = "it reads a number out of a tensor as it runs, which a model without storage does not have"
WITHOUT_A_MAP = dict.fromkeys(
    ("gemma4_vit_167m", "gemma4_vit_167m_enc", "gemma4_vit_570m", "gemma4_vit_570m_enc"), GEMMA
)
"""Architectures of timm → why they cannot be measured."""


def test_a_model_without_a_map_is_one_clear_line():
    with pytest.raises(UsageError, match="has no feature map that can be measured: RuntimeError"):
        describe("timm:gemma4_vit_167m")


@pytest.mark.skipif(not ALL_TIMM, reason="takes half an hour: set DEAPCACHE_ALL_TIMM to look at all models of timm")
@pytest.mark.parametrize("name", timm.list_models() if ALL_TIMM else [])
def test_every_architecture_of_timm_with_a_feature_map(name):
    if name in WITHOUT_A_MAP:
        with pytest.raises(UsageError, match="has no feature map"):
            describe(f"timm:{name}@untrained")
        return
    entry = describe(f"timm:{name}@untrained")
    with torch.device("meta"), torch.no_grad():
        loaded = load_model(entry)
        loaded.module.eval()
        shape = loaded.feature_map(torch.zeros(1, 3, *entry.image_size)).shape
    assert tuple(shape) == (1, entry.dim, *entry.grid)


def test_a_backbone_is_built_once_to_be_described(monkeypatch):
    from deapcache.backbones import timm_models

    before = describe("timm:swin_tiny_patch4_window7_224")
    monkeypatch.setattr(timm_models, "create", None)
    assert describe("timm:swin_tiny_patch4_window7_224") is before
    assert describe("timm:swin_tiny_patch4_window7_224@untrained").untrained


def test_weights_that_a_checkpoint_replaces_are_not_drawn():
    with initialisation(0, skip=True):
        before = torch.random.get_rng_state()
        layers = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 4), torch.nn.Embedding(4, 4)
        for layer in layers:
            torch.nn.init.kaiming_normal_(layer.weight)
            torch.nn.init.xavier_uniform_(layer.weight)
        assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "bounds", [(0.0, 1.0, -2.0, 2.0), (3.0, 0.1, 2.9, 3.1), (0.0, 1.0, 1.5, 1.6), (9.0, 1.0, -2, 2)]
)
@pytest.mark.parametrize("held", [float("nan"), float("inf"), 1e30, -7.0])
@pytest.mark.filterwarnings("ignore:mean is more than 2 std")
def test_no_initialiser_waits_for_values_that_are_not_drawn(bounds, held):
    """torch draws truncated values again until all are within their bounds, whatever the memory held before."""
    mean, std, low, high = bounds
    with initialisation(0, skip=True):
        found = torch.nn.init.trunc_normal_(torch.full((8, 8), held), mean, std, low, high)
    assert found.shape == (8, 8)


def test_weights_do_not_matter_to_arithmetic_and_sizes_do():
    assert arithmetic_key("mae") == arithmetic_key("imagenet") == arithmetic_key("imagenet@untrained")
    assert arithmetic_key("siglip-224") != arithmetic_key("siglip-384")
