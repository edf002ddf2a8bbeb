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

from deapcache.backbones import BACKBONES, LayerSelection, build, describe
from deapcache.backbones.model import load_model
from deapcache.cli import main
from deapcache.errors import UsageError

MODERN = [name for name, entry in BACKBONES if entry.group == "modern"]
ALL = os.environ.get("DEAPCACHE_ALL_BACKBONES")
"""Set to look at every one, which takes minutes; else at one of each family."""
FAMILIES = ["dinov3-s", "dinov3-convnext-t", "siglip2-b-512", "pe-spatial-s", "c-radio-v3-b", "tipsv2-b", "eva02-b"]
PAGE = Path(__file__).parents[2] / "docs" / "backbones.md"


OWN_BUILDS = ("sam2", "vjepa2", "franca")
"""Names of those that timm does not build as they are."""


@pytest.mark.parametrize("name", [name for name in MODERN if not name.startswith(OWN_BUILDS)] if ALL else FAMILIES)
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


@pytest.mark.parametrize("name", ["vjepa2-l", "vjepa2-h", "vjepa2-g", "franca-b", "franca-l"])
def test_facts_are_those_of_the_built_model(name):
    if name.startswith("vjepa2"):
        pytest.importorskip("transformers", reason="needs the package transformers")
    entry = describe(name)
    with torch.device("meta"), torch.no_grad():
        loaded = load_model(entry)
        assert loaded.feature_map(torch.zeros(1, 3, *entry.image_size)).shape == (1, entry.dim, *entry.grid)
    assert sum(parameter.numel() for parameter in loaded.module.parameters()) == entry.parameters


def shallow(name, monkeypatch, **changes):
    """A backbone of the list with fewer and narrower blocks, under its own name."""
    entry = describe(name)
    monkeypatch.setitem(BACKBONES._entries, name, replace(entry, dim=64, arguments={**entry.arguments, **changes}))
    return describe(name)


def test_franca_is_dinov2_with_a_gated_mlp(monkeypatch, tmp_path):
    """Against transformers' DINOv2, by a checkpoint with the keys of Franca's: teacher, blocks in chunks, heads."""
    transformers = pytest.importorskip("transformers", reason="needs the package transformers")
    sizes = {"embed_dim": 64, "num_heads": 2, "depth": 2}
    hidden = 176  # two thirds of four times the width, up to a multiple of 8
    entry = shallow("franca-b", monkeypatch, **sizes, mlp_ratio=2 * hidden / 64)
    config = transformers.Dinov2Config(
        hidden_size=64, num_attention_heads=2, num_hidden_layers=2, image_size=518, use_swiglu_ffn=True
    )
    torch.manual_seed(0)
    model = transformers.Dinov2Model(config).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.05)
    state = {}
    for i, block in enumerate(model.encoder.layer):
        own, mlp = block.attention, block.mlp
        parts = {"attn.proj": own.o_proj, "norm1": block.norm1, "norm2": block.norm2, "mlp.w3": mlp.down_proj}
        chunk = f"blocks.{i}.{i}."
        for kind in ("weight", "bias"):
            joined = {"attn.qkv": (own.q_proj, own.k_proj, own.v_proj), "mlp.w12": (mlp.gate_proj, mlp.up_proj)}
            for part, layers in joined.items():
                state[f"{chunk}{part}.{kind}"] = torch.cat([getattr(layer, kind) for layer in layers])
            state |= {f"{chunk}{part}.{kind}": getattr(layer, kind) for part, layer in parts.items()}
        state |= {f"{chunk}ls1.gamma": block.layer_scale1.lambda1, f"{chunk}ls2.gamma": block.layer_scale2.lambda1}
    patches = model.embeddings.patch_embeddings.projection
    state |= {"patch_embed.proj.weight": patches.weight, "patch_embed.proj.bias": patches.bias}
    state |= {"norm.weight": model.layernorm.weight, "norm.bias": model.layernorm.bias}
    state |= {"cls_token": model.embeddings.cls_token, "pos_embed": model.embeddings.position_embeddings}
    state |= {"mask_token": model.embeddings.mask_token}
    teacher = {f"module.backbone.{key}": tensor.detach() for key, tensor in state.items()}
    teacher |= {"module.dino_head.last.weight": torch.zeros(1), "module.rasa_head.pos_pred.weight": torch.zeros(1)}
    torch.save({"teacher": teacher}, tmp_path / "franca.pth")
    backbone = build("franca-b", weights=tmp_path / "franca.pth")
    images = torch.randint(0, 256, (1, 518, 518, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = model(backbone.preprocess(images)).last_hidden_state[:, 1:].reshape(1, 37, 37, 64)
    torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-4)
    assert entry.licence == "Franca Research-Only RAIL-AMS"


def test_v_jepa_2_sees_an_image_as_a_video_of_one_frame(monkeypatch, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the package transformers")
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    shallow("vjepa2-l", monkeypatch, **sizes)
    images = torch.randint(0, 256, (2, 320, 320, 3), dtype=torch.uint8)
    for side in (256, 320):
        config = transformers.VJEPA2Config(**sizes, crop_size=side, pred_hidden_size=24, pred_num_attention_heads=2)
        torch.manual_seed(0)
        model = transformers.VJEPA2Model(config).eval()
        torch.save(model.state_dict(), tmp_path / "v.pth")  # with the predictor, as the published files
        backbone = build(f"vjepa2-l@{side}", weights=tmp_path / "v.pth", selection=LayerSelection(layers=("1", "last")))
        video = backbone.preprocess(images)[:, None].expand(-1, 2, -1, -1, -1)
        with torch.no_grad():
            found = model(video, skip_predictor=True, output_hidden_states=True)
        cells = side // 16
        expected = found.last_hidden_state.reshape(2, cells, cells, 64)
        torch.testing.assert_close(backbone.outputs(images)[1].features, expected, rtol=1e-4, atol=1e-4)
    assert build("vjepa2-l@untrained").identity.weights.startswith("untrained:seed=0:")
    with pytest.raises(UsageError, match=r"cannot take images of 256x320 \(its positions are those of a square\)"):
        describe("vjepa2-l@256x320")


def table_row(entry) -> str:
    """A row of the page, from the registry."""
    (height, _), (rows, _) = entry.image_size, entry.grid
    model = entry.architecture.removeprefix("timm:") + (f".{entry.pretrained_tag}" if entry.pretrained_tag else "")
    model = f"hf:{entry.source.repo}" if entry.architecture.startswith("hf:") else model
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
    with pytest.raises(SystemExit, match="0"):
        main(["list", "backbones"])
    assert f"{len(MODERN)} more of what is used since the paper" in capsys.readouterr().err
    assert not set(names[0]) & set(MODERN)
    with pytest.raises(SystemExit, match="0"):
        main(["list", "backbones", "--json", "dino,mae@112", "clip"])
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["dino", "mae@112", "clip"]
    with pytest.raises(SystemExit, match="2"):
        main(["list", "backbones", "--group", "old"])
    assert re.search("unknown group 'old'.*modern", capsys.readouterr().err)
