"""Layers and class tokens are what the blocks gave, to the last bit, and come from one forward."""

from __future__ import annotations

import pytest
import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from deapcache.backbones import Backbone, LayerSelection, build, describe, forward_count, layers_of
from deapcache.backbones.open_clip_models import transformer_blocks
from deapcache.errors import UsageError

VIT = "timm:test_vit@untrained"  # six blocks of width 64, a class token, a final norm
EVA = "timm:eva02_tiny_patch14_224@untrained"  # its norm comes after pooling
IMAGES = torch.randint(0, 256, (3, 90, 120, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def hooked(backbone: Backbone, blocks: nn.ModuleList) -> dict[int, list[Tensor]]:
    """What torch's own hooks see leave each block, by number from 1, as the backbone runs over the images."""
    seen: dict[int, list[Tensor]] = {}
    handles = [
        block.register_forward_hook(lambda _, __, output, n=number: seen.setdefault(n, []).append(output.clone()))
        for number, block in enumerate(blocks, start=1)
    ]
    backbone(IMAGES)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize(("name", "final_norm"), [(VIT, None), (VIT, True), (VIT, False), (EVA, None)])
def test_every_layer_is_what_left_its_block(name: str, final_norm: bool | None) -> None:
    backbone = build(name, selection=LayerSelection(layers=("5", "2", "last"), final_norm=final_norm, tokens="cls"))
    before = forward_count()
    outputs = backbone.outputs(IMAGES)
    assert forward_count() - before == len(IMAGES)
    seen = hooked(backbone, backbone.module.blocks)
    normed = describe(name).final_norm if final_norm is None else final_norm
    assert [(each.layer, each.final_norm, each.tokens) for each in backbone.identities] == [
        (layer, normed, "cls") for layer in ("5", "2", "last")
    ]
    height, width = backbone.grid
    for number, output in zip((5, 2, len(backbone.module.blocks)), outputs, strict=True):
        (tokens,) = seen[number]  # once
        with torch.inference_mode():
            tokens = backbone.module.norm(tokens) if normed else tokens
        assert output.features.shape == (3, height, width, backbone.dim)
        assert torch.equal(output.features, tokens[:, 1:].reshape(3, height, width, -1))
        assert torch.equal(output.cls, tokens[:, 0])


def test_the_last_layer_is_that_of_the_plain_backbone() -> None:
    plain = build(VIT)
    kept = build(VIT, selection=LayerSelection(layers=("3", "6")))
    assert kept.identities[1] == plain.identity
    assert torch.equal(kept.outputs(IMAGES)[1].features, plain(IMAGES))
    assert kept.outputs(IMAGES)[1].cls is None


def test_blocks_after_the_last_wanted_one_are_not_run() -> None:
    backbone = build(VIT, selection=LayerSelection(layers=("2", "3")))
    assert sorted(hooked(backbone, backbone.module.blocks)) == [1, 2, 3]


def test_open_clips_own_transformer() -> None:
    torch.manual_seed(0)
    tower = VisionTransformer(32, 8, width=24, layers=4, heads=2, mlp_ratio=2.0, output_dim=16).eval()
    found = transformer_blocks(tower)
    assert found is not None
    assert (found.depth, found.has_class_token) == (4, True)
    seen: list[Tensor] = []
    for block in tower.transformer.resblocks:
        block.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.inference_mode():
        first, third = found.forward(torch.randn(2, 3, 32, 32), [0, 2], True, True)
        assert len(seen) == 3
        for output, tokens in ((first, seen[0]), (third, seen[2])):
            normed = tower.ln_post(tokens)
            assert torch.equal(output[0], normed[:, 1:].reshape(2, 4, 4, 24).permute(0, 3, 1, 2))
            assert output[1] is not None
            assert torch.equal(output[1], normed[:, 0])


def test_layers_are_known_without_storage() -> None:
    selection = LayerSelection(layers=("1", "6", "last"), final_norm=False)
    assert layers_of(VIT, selection) == (("1", "last"), False)
    assert layers_of("dinov2", LayerSelection(layers=("3", "12"))) == (("3", "last"), True)
    assert layers_of("efficientnet-lite0-s16", LayerSelection()) == (("stride 16",), False)


@pytest.mark.parametrize(("name", "selection", "message"), [
    ("timm:test_resnet", LayerSelection(layers=("1",)), "only vision transformers have, of timm .* and hf:"),
    ("efficientnet-lite0-s16", LayerSelection(tokens="cls"), "only vision transformers have"),
    ("sam2-b+", LayerSelection(layers=("3",)), "only vision transformers have"),
    ("timm:test_vit", LayerSelection(layers=("3", "7")), "has 6 blocks, no layer 7: give 1 to 6"),
    ("timm:test_vit3", LayerSelection(tokens="cls"), "has no class token"),
    (EVA, LayerSelection(final_norm=True), "has no final norm"),
    ("timm:test_vit2", LayerSelection(final_norm=True), "has no final norm"),
])  # fmt: skip
def test_what_a_backbone_lacks_is_one_error(name: str, selection: LayerSelection, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        layers_of(name, selection)


@pytest.mark.parametrize("layers", [("0",), ("-1",), ("first",), ("2.5",), ()])
def test_layers_are_numbers(layers: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="expected a number of a block, from 1, or last"):
        LayerSelection(layers=layers)
    with pytest.raises(UsageError, match="unknown tokens 'registers': choose one of none, cls"):
        LayerSelection(tokens="registers")
