"""The group of modern backbones: facts as timm has them, maps as the models' own forward gives them."""

from __future__ import annotations

import gc
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deapcache.backbones import BACKBONES, build, describe
from deapcache.backbones.model import load_model
from deapcache.cli import main

MODERN = [name for name, entry in BACKBONES if entry.group == "modern"]
ALL = os.environ.get("DEAPCACHE_ALL_BACKBONES")
"""Set to look at every one, which takes minutes; else at one of each family."""
FAMILIES = ["dinov3-s", "dinov3-convnext-t", "siglip2-b-512", "pe-spatial-s", "c-radio-v3-b", "tipsv2-b", "eva02-b"]
PAGE = Path(__file__).parents[2] / "docs" / "backbones.md"


@pytest.mark.parametrize("name", [name for name in MODERN if not name.startswith("sam2")] if ALL else FAMILIES)
def test_facts_are_those_of_the_library(name):
    entry = describe(name)
    found = describe(f"{entry.architecture}.{entry.pretrained_tag}")
    for fact in ("image_size", "grid", "covered", "dim", "parameters", "mean", "std", "final_norm"):
        assert getattr(entry, fact) == getattr(found, fact), fact
    assert (entry.source.repo, entry.source.url) == (found.source.repo, found.source.url)


@pytest.mark.parametrize("name", ["sam2.1-t", "sam2.1-s", "sam2.1-b+", "sam2.1-l"])
def test_sam_2_1_by_its_neck(name):
    """The widths of the neck's convolutions are those of the trunk's stages, as in the official checkpoints."""
    entry = describe(name)
    with torch.device("meta"), torch.no_grad():
        loaded = load_model(entry)
        assert loaded.feature_map(torch.zeros(1, 3, 1024, 1024)).shape == (1, 256, 64, 64)
    assert sum(parameter.numel() for parameter in loaded.module.parameters()) == entry.parameters
    first = {"t": 96, "s": 96, "b+": 112, "l": 144}[name.removeprefix("sam2.1-")]
    widths = [layer.weight.shape[1] for layer in loaded.module.convs]
    assert widths == [8 * first, 4 * first, 2 * first, first]


@pytest.mark.parametrize("name", ["dinov3-s", "eva02-b", "dinov3-convnext-t"])
def test_the_map_is_the_librarys_own(name, monkeypatch):
    entry = describe(name)
    few = {"depths": [1, 1, 1, 1]} if "convnext" in name else {"depth": 2}
    monkeypatch.setitem(BACKBONES._entries, "shallow", replace(entry, name="shallow", arguments=few))
    backbone = build("shallow@untrained")
    height, width = entry.image_size
    images = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = backbone.module.forward_features(backbone.preprocess(images))
    if expected.ndim == 3:
        expected = expected[:, backbone.module.num_prefix_tokens :].reshape(1, *entry.grid, -1)
    else:
        expected = expected.permute(0, 2, 3, 1)
    torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-4)
    assert backbone.dim == entry.dim
    del backbone
    gc.collect()


def table_row(entry) -> str:
    """A row of the page, from the registry."""
    (height, _), (rows, _) = entry.image_size, entry.grid
    model = entry.architecture.removeprefix("timm:") + (f".{entry.pretrained_tag}" if entry.pretrained_tag else "")
    kind = f"{entry.category} {entry.objective}".strip() or "distilled"
    return (
        f"| `{entry.name}` | `{model}` | {height} | {rows} | {entry.dim} | {entry.parameters / 1e6:.1f} M | {kind} | "
        f"{entry.training_data} | {entry.licence} |"
    )


def test_the_page_lists_what_is_registered():
    listed = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert listed == [table_row(entry) for _, entry in BACKBONES if not entry.is_plugin]


def test_the_group_is_listed_on_request(capsys):
    names = {}
    for options in ([], ["--group", "modern"]):
        with pytest.raises(SystemExit, match="0"):
            main(["list", "backbones", "--json", *options])
        names[len(options)] = [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert names[2] == MODERN
    assert not set(names[0]) & set(MODERN)
    with pytest.raises(SystemExit, match="2"):
        main(["list", "backbones", "--group", "old"])
    assert re.search("unknown group 'old'.*modern", capsys.readouterr().err)
