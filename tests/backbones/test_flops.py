"""A backbone's arithmetic against what its paper's formulas give."""

from __future__ import annotations

from deapcache.backbones import arithmetic_key, count_flops

TOKENS, CELLS, WIDTH, PATCH = 197, 196, 768, 3 * 16 * 16


def test_a_vision_transformer_is_counted_as_by_hand():
    embedding = 2 * CELLS * PATCH * WIDTH
    maps = 2 * TOKENS * WIDTH * (3 + 1 + 4 + 4) * WIDTH  # q k v, projection, two layers of the MLP
    attention = 2 * 2 * TOKENS * TOKENS * WIDTH
    assert count_flops("mae") == embedding + 12 * (maps + attention) == 35_126_120_448


def test_weights_do_not_matter_and_sizes_do():
    assert arithmetic_key("mae") == arithmetic_key("imagenet") == arithmetic_key("imagenet@untrained")
    assert arithmetic_key("siglip-224") != arithmetic_key("siglip-384")
    assert count_flops("timm:resnet18@untrained") == count_flops("timm:resnet18")
