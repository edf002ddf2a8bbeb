"""Checkpoints as people have them: wrappers, two encoders in one file, chunks of blocks, several files and an index."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from deapcache.backbones import build
from deapcache.errors import WeightsError

NAME = "timm:test_vit"


@pytest.fixture(scope="module")
def trained():
    return build(f"{NAME}@untrained", seed=7)


@pytest.fixture(scope="module")
def state(trained):
    return {key: tensor.clone() for key, tensor in trained.module.state_dict().items()}


def other(state):
    return {key: tensor + 1 for key, tensor in state.items()}


def before(prefix, state):
    return {prefix + key: tensor for key, tensor in state.items()}


def chunked(state):
    """As DINOv2 trains with blocks in chunks of four, numbered through."""
    return {
        re.sub(r"blocks\.(\d+)\.", lambda found: f"blocks.{int(found[1]) // 4}.{found[1]}.", key): tensor
        for key, tensor in state.items()
    }


HEAD = {"dino_head.mlp.0.weight": torch.ones(2), "ibot_head.last_layer.weight": torch.ones(2)}
LAYOUTS = {
    "DINOv2, chunked": lambda s: {
        "teacher": {**before("backbone.", chunked(s)), **HEAD},
        "student": {**before("backbone.", chunked(other(s))), **HEAD},
    },
    "DINO of several GPUs": lambda s: {
        "student": before("module.backbone.", other(s)),
        "teacher": before("backbone.", s),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
        "epoch": 3,
    },
    "flat keys": lambda s: {**before("student.backbone.", other(s)), **before("teacher.backbone.", s)},
    "Lightning": lambda s: {"state_dict": before("model.encoder.", s), "pytorch-lightning_version": "2.5"},
    "compiled": lambda s: {"model": before("_orig_mod.", s)},
    "MAE": lambda s: {"model": {**s, "mask_token": torch.ones(1, 1, 2), "decoder_embed.weight": torch.ones(2, 2)}},
    "MoCo": lambda s: {
        "state_dict": {
            **before("module.momentum_encoder.", other(s)),
            **before("module.base_encoder.", {**s, "head.0.weight": torch.ones(3, 3)}),
        }
    },
    "I-JEPA": lambda s: {"encoder": before("module.", other(s)), "target_encoder": before("module.", s)},
    "timm with an average": lambda s: {"state_dict": other(s), "state_dict_ema": s, "arch": "test_vit"},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_evaluated_encoder_is_found(tmp_path, trained, state, layout, legacy):
    path = tmp_path / "w.pth"
    torch.save(LAYOUTS[layout](state), path, _use_new_zipfile_serialization=not legacy)
    assert build(NAME, weights=path).identity.weights == trained.identity.weights.removeprefix("untrained:seed=7:")


def test_a_key_chooses_the_other_encoder(tmp_path, state):
    torch.save(LAYOUTS["DINOv2, chunked"](state), tmp_path / "w.pth")
    for key in ("student.backbone.", "student.backbone", "student"):
        student = build(NAME, weights=tmp_path / "w.pth", weights_key=key)
        assert torch.equal(student.module.pos_embed, state["pos_embed"] + 1)
    assert len(student.unused_keys) == 2
    expected = r"--weights-key backbone: no key of .*w\.pth begins so; they begin with teacher\.backbone\., teacher\.d"
    with pytest.raises(WeightsError, match=expected):
        build(NAME, weights=tmp_path / "w.pth", weights_key="backbone")


def test_what_is_not_used_is_known_and_what_is_strange_is_an_error(tmp_path, state):
    torch.save({"model": {**state, "head.weight": torch.ones(5, 64)}, "steps": torch.ones(1)}, tmp_path / "w.pth")
    assert sorted(build(NAME, weights=tmp_path / "w.pth").unused_keys) == ["model.head.weight", "steps"]
    torch.save({"model": {**state, "adapter.weight": torch.ones(5, 64)}}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w\.pth: .* 1 key\(s\) unexpected \(adapter\.weight\), below model\. Give"):
        build(NAME, weights=tmp_path / "w.pth")
    torch.save({**state, "norm.weight": torch.ones(64, dtype=torch.int8)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"1 key\(s\) of another kind \(norm\.weight: torch\.int8 found, torch\.fl"):
        build(NAME, weights=tmp_path / "w.pth")


def test_several_files_with_an_index(tmp_path, trained, state):
    keys = sorted(state)
    files = {"model-1-of-2.safetensors": keys[::2], "model-2-of-2.safetensors": keys[1::2]}
    for file, some in files.items():
        save_file({f"backbone.{key}": state[key].contiguous() for key in some}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {f"backbone.{key}": file for file in files for key in files[file]}}))
    assert build(NAME, weights=index).identity.weights == trained.identity.weights.removeprefix("untrained:seed=7:")
    (tmp_path / "model-2-of-2.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"names 2 files, of which model-2-of-2\.safetensors is not beside it: "):
        build(NAME, weights=index)
    index.write_text("[]")
    with pytest.raises(WeightsError, match="is no index of a checkpoint's files"):
        build(NAME, weights=index)


def test_a_plugins_own_submodule_is_no_wrapper(tmp_path):
    from deapcache.backbones.checkpoints import load_strictly
    from deapcache.backbones.registry import describe

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = torch.nn.Linear(2, 2)
            self.model = torch.nn.Linear(2, 2)

    module, given = Wrapped(), Wrapped()
    assert load_strictly(module, dict(given.state_dict()), describe(NAME)) == ()
    assert torch.equal(module.backbone.weight, given.backbone.weight)
