"""Seeds and image sizes in names: what they stand for, which maps they give, and what no model takes."""

from __future__ import annotations

import pytest
import torch

from deapcache.backbones import at_size, build, describe, extract_options, join_name, split_name, weights_status
from deapcache.backbones.layers import covered_share
from deapcache.backbones.model import load_model
from deapcache.cli.options import names
from deapcache.errors import UsageError

VIT = "timm:test_vit"  # patches of 16, made for 160x160


@pytest.mark.parametrize(("name", "parts"), [
    ("dinov2", ("dinov2", None, None)),
    ("dinov2@untrained", ("dinov2", 0, None)),
    ("timm:a.b@untrained:7", ("timm:a.b", 7, None)),
    ("open_clip:A/b@384x512", ("open_clip:A/b", None, (384, 512))),
    ("dinov2@untrained:2@224", ("dinov2", 2, (224, 224))),
    ("hf:owner/name@main", ("hf:owner/name@main", None, None)),
    ("hf:owner/name@main@512", ("hf:owner/name@main", None, (512, 512))),
])  # fmt: skip
def test_parts_of_a_name(name, parts):
    assert split_name(name) == parts
    assert join_name(*parts) == name


@pytest.mark.parametrize(("name", "model", "options"), [
    ("sam2-b+", "", "--backbone sam2-b+"),
    ("dinov2@untrained:1@224", "", "--backbone dinov2@untrained:1@224"),
    (f"{VIT}@112", "", f"--backbone {VIT}@112"),
    ("mine", "", "--backbone ARCH --weights FILE --name mine"),
    ("mine@112", "", "--backbone ARCH@112 --weights FILE --name mine"),
    ("mine@112", VIT, f"--backbone {VIT}@112 --weights FILE --name mine"),
    ("dinov2+ep100@224", "", "--backbone dinov2@224 --weights FILE"),
    (f"{VIT}+ep100", "", f"--backbone {VIT} --weights FILE"),
    (f"{VIT}+ep100@112", VIT, f"--backbone {VIT}@112 --weights FILE"),
    ("of-a-plugin", "of-a-plugin", "--backbone of-a-plugin"),
])  # fmt: skip
def test_how_features_of_a_name_are_made(name, model, options):
    assert extract_options(name, model) == options


def test_several_seeds_of_one_control():
    given = "dinov2,dinov2@untrained:1,2,3,mae"
    expected = ["dinov2", "dinov2@untrained:1", "dinov2@untrained:2", "dinov2@untrained:3", "mae"]
    assert names(given) == expected
    assert names("0,1,2") == ["0", "1", "2"]


def test_a_size_is_a_name_of_its_own_and_part_of_the_same_recipe_as_before():
    entry = describe(f"{VIT}@untrained@96x128")
    assert (entry.image_size, entry.grid, entry.name) == ((96, 128), (6, 8), f"{VIT}@untrained@96x128")
    by_name, by_argument = build(entry.name), build(f"{VIT}@untrained", image_size=(96, 128))
    assert by_name.identity == by_argument.identity
    assert by_name.identity.backbone == f"{VIT}@untrained"
    assert by_name.identity.image_size == (96, 128)
    assert by_name.parameters == entry.parameters
    assert describe(f"{VIT}@160").name == VIT
    assert at_size(VIT, (96, 96)) == f"{VIT}@96"
    assert weights_status(f"{VIT}@96") == weights_status(VIT)
    with pytest.raises(UsageError, match="names another image size than 128: give one"):
        at_size(f"{VIT}@96", (128, 128))


def test_seeds_of_random_weights():
    first, same, second = (build(f"{VIT}{ending}") for ending in ("@untrained", "@untrained:0", "@untrained:2"))
    assert first.identity == same.identity
    assert second.name == f"{VIT}@untrained:2"
    assert second.identity.weights == build(f"{VIT}@untrained", seed=2).identity.weights
    assert second.identity.weights.startswith("untrained:seed=2:sha256:")
    assert not torch.equal(first.module.pos_embed, second.module.pos_embed)
    assert describe(f"{VIT}@untrained:2@96").as_untrained(5).name == f"{VIT}@untrained:5@96"


@pytest.mark.parametrize("name", [f"{VIT}@96x128", "timm:swin_tiny_patch4_window7_224@128x160", "timm:test_resnet@96"])
def test_the_map_at_another_size_is_the_librarys_own(name):
    model, _, size = split_name(name)
    backbone = build(join_name(model, 0, size))
    images = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = backbone.module.forward_features(backbone.preprocess(images))
    if expected.ndim == 3:
        expected = expected[:, backbone.module.num_prefix_tokens :].reshape(1, *backbone.grid, -1)
    elif expected.shape[1] == backbone.dim:
        expected = expected.permute(0, 2, 3, 1)
    torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "message"), [
    (f"{VIT}@100", r"cannot take images of 100x100 \(its patches are 16x16\): its own size is 160, .*: 96 or 112$"),
    (f"{VIT}@96x100", r"cannot take images of 96x100 .*: 96 or 96x112$"),
    (f"{VIT}@5", r"cannot take images of 5x5 .*: 16$"),
    ("timm:hiera_tiny_224@300", r"cannot take images of 300x300 .*: 288 or 320$"),
    ("timm:nest_tiny@224x288", r"cannot take images of 224x288 .*: 224 or 288$"),
    (f"{VIT}@0", "0x0 is no size"),
])  # fmt: skip
def test_a_size_that_is_refused_names_the_nearest(name, message):
    with pytest.raises(UsageError, match=message) as refused:
        describe(name)
    assert "\n" not in str(refused.value)


def test_share_of_the_image_that_cells_cover():
    with torch.device("meta"):
        vit = load_model(describe(VIT)).module
        conv = load_model(describe("timm:test_resnet")).module
    assert covered_share(vit, (100, 160), (6, 10)) == (0.96, 1.0)
    assert covered_share(conv, (100, 100), (4, 4)) == (1.0, 1.0)
    assert describe("timm:pvt_v2_b0@192x256").grid == (6, 8), "its patches overlap"
    assert describe("open_clip:RN50/openai@96x128").grid == (3, 4)
    assert describe("siglip-so").covered == (504 / 512, 504 / 512)
    assert describe("siglip-so@504").covered == (1.0, 1.0)
