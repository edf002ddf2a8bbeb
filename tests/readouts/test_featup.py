"""The FeatUp baseline: upsample-then-project, published checkpoints, refusals."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from deapcache_featup import published_state, upsampled_by_formula, write_published
from deapcache_readouts import check_gradients, check_nothing_is_dead, count, draw, draw_images, enlarged, make, shake
from torch import Tensor

from deapcache.errors import MissingWeightsError, UsageError, WeightsError
from deapcache.readouts import Readout, featup, restore_readout
from deapcache.readouts.featup import JointBilateralUpsampler


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, in a file like the published ones."""
    return write_published(tmp_path_factory.mktemp("featup") / "dinov2_jbu_stack_cocostuff.ckpt")


def formula(readout: Readout, features: Tensor, size: tuple[int, int], image: Tensor) -> Tensor:
    """Upsample all D' channels, then map to D and to D_out, as the paper says."""
    state = {name: tensor.double() for name, tensor in published_state().items()}
    normalised = F.layer_norm(features, features.shape[-1:]).permute(0, 3, 1, 2)
    fine = upsampled_by_formula(state, normalised, image)
    fine = fine + 0.1 * F.conv2d(fine, state["fixup_proj.1.weight"], state["fixup_proj.1.bias"])
    for linear in (readout.project, readout.output):
        fine = F.conv2d(fine, linear.weight[:, :, None, None], linear.bias)
    return F.interpolate(fine, size, mode="bilinear", align_corners=False)


def normalised(images: Tensor) -> Tensor:
    channels = [
        (images[..., c].double() / 255 - mean) / std
        for c, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)])
    ]
    return torch.stack(channels, 1)


# D_out below D, and above: the narrower of the two is upsampled. An output finer than the stack's, and a coarser one.
@pytest.mark.parametrize(("name", "out_channels"), [("featup", 3), ("featup:8", 11)])
@pytest.mark.parametrize(("size", "grid"), [((64, 64), (3, 3)), ((24, 40), (2, 4))])
def test_projecting_first_is_upsampling_first(
    name: str, out_channels: int, size: tuple[int, int], grid: tuple[int, int], checkpoint: Path
) -> None:
    readout = shake(make(name, out_channels=out_channels, grid=grid, upsampler=checkpoint))
    features, images = 3 * draw(3, *grid, 24) + 1, draw_images(3, 72, 80, 3)
    reference = copy.deepcopy(readout).double()
    output = readout(features, size, images)
    expected = formula(reference, features.double(), size, normalised(images))
    assert output.shape == (3, out_channels, *size)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.double(), expected, rtol=1e-3, atol=1e-4)
    check_gradients(readout, output, expected, reference)


def test_a_base_image_coarser_than_the_stack_is_brought_up_bicubically(checkpoint: Path) -> None:
    readout, features, images = make("featup", upsampler=checkpoint), draw(2, 4, 3, 24), draw_images(2, 40, 56, 3)
    enlarged = F.interpolate(normalised(images), (64, 56), mode="bicubic", align_corners=False)
    expected = formula(copy.deepcopy(readout).double(), features.double(), (32, 32), enlarged)
    torch.testing.assert_close(readout(features, (32, 32), images).double(), expected, rtol=1e-3, atol=1e-4)


def test_cells_that_cover_a_part_are_guided_by_that_part(checkpoint: Path) -> None:
    readout = make("featup", out_channels=3, grid=(2, 3), covered=(0.5, 0.75), upsampler=checkpoint)
    whole = make("featup", out_channels=3, grid=(2, 3), upsampler=checkpoint)
    features, images = draw(2, 2, 3, 24), draw_images(2, 64, 64, 3)
    fine = whole(features, (32, 48), images[:, :32, :48])
    expected = enlarged(fine.double(), (40, 40), (0.5, 0.75))
    torch.testing.assert_close(readout(features, (40, 40), images).double(), expected, rtol=1e-3, atol=1e-4)
    assert readout.stack_key() != whole.stack_key()


@pytest.mark.parametrize("pixels", [1, 2 * 16 * 16 * 4, 10**9])
def test_images_are_independent_of_each_other(pixels: int, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readout, features, images = make("featup", upsampler=checkpoint), draw(3, 2, 2, 24), draw_images(3, 32, 32, 3)
    alone = [readout(features[i : i + 1], (32, 32), images[i : i + 1]) for i in range(3)]
    monkeypatch.setattr(featup, "_PIXELS_AT_ONCE", pixels)
    torch.testing.assert_close(readout(features, (32, 32), images), torch.cat(alone))


def test_readouts_that_run_together_share_the_filters(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [shake(make("featup:8", seed=seed, out_channels=11, upsampler=checkpoint)) for seed in range(3)]
    features, images = draw(2, 3, 3, 24), draw_images(2, 48, 48, 3)
    alone = [member(features, (32, 40), images) for member in members]
    made = []
    kernels = JointBilateralUpsampler.kernels
    monkeypatch.setattr(
        JointBilateralUpsampler, "kernels", lambda self, image: made.append(image.shape) or kernels(self, image)
    )
    together = type(members[0]).forward_stacked(members, features, (32, 40), images)
    assert len(made) == 4
    for ours, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_readouts_run_together_with_one_shape_and_one_upsampler(checkpoint: Path, tmp_path: Path) -> None:
    other = write_published(tmp_path / "other.ckpt", published_state(seed=1))
    key = make("featup", upsampler=checkpoint).stack_key()
    assert make("featup", seed=1, upsampler=checkpoint).stack_key() == key
    assert make("featup", upsampler=other).stack_key() != key
    assert make("featup:8", upsampler=checkpoint).stack_key() != key
    assert make("featup", out_channels=2, upsampler=checkpoint).stack_key() != key


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_dead_at_the_start(seed: int, checkpoint: Path) -> None:
    readout = make("featup", seed=seed, upsampler=checkpoint)
    check_nothing_is_dead(readout, readout(draw(2, 3, 3, 24, seed=seed), (48, 48), draw_images(2, 48, 48, 3)))


def test_the_upsampler_is_kept_but_neither_counted_nor_trained(checkpoint: Path) -> None:
    readout = make("featup:32", out_channels=3, upsampler=checkpoint)
    assert count(readout) == 32 * 25 + 3 * 33
    assert sum(len(group["params"]) for group in readout.parameter_groups(1e-3, 1e-4)) == 4
    kept = readout.state_dict()
    for name, tensor in published_state().items():
        assert torch.equal(kept[f"upsampler.{name}"], tensor), name


def test_the_digest_of_the_upsampler_is_an_option(tmp_path: Path, checkpoint: Path) -> None:
    first = make("featup", upsampler=checkpoint).options
    again = make("featup", upsampler=write_published(tmp_path / "again.ckpt", epoch=7), out_channels=5).options
    other = make("featup", upsampler=write_published(tmp_path / "other.ckpt", published_state(seed=1))).options
    assert first["upsampler"].startswith("sha256:")
    assert first == again
    assert first != other
    assert {**first, "upsampler": ""} == {**other, "upsampler": ""}


def test_a_trained_one_comes_back_without_the_checkpoint(checkpoint: Path) -> None:
    trained = shake(make("featup:8", out_channels=3, upsampler=checkpoint))
    shape = {"feature_dim": 24, "out_channels": 3, "grid": (5, 5)}
    restored = restore_readout("featup:8", **shape, options=trained.options, state=trained.state_dict())
    features, images = draw(1, 3, 3, 24), draw_images(1, 48, 48, 3)
    assert restored.options == trained.options
    torch.testing.assert_close(restored(features, (32, 32), images), trained(features, (32, 32), images))


def test_a_norm_in_the_file_is_used(tmp_path: Path) -> None:
    path = write_published(tmp_path / "plain.ckpt")
    content = torch.load(path)
    content["state_dict"] |= {"model.1.norm.weight": torch.full((24,), 2.0), "model.1.norm.bias": torch.ones(24)}
    torch.save(content, path)
    with_norm = make("featup", upsampler=path)
    without = make("featup", upsampler=write_published(tmp_path / "without.ckpt"))
    features, images = draw(1, 3, 3, 24), draw_images(1, 48, 48, 3)
    without.upsampler.norm.load_state_dict({"weight": torch.full((24,), 2.0), "bias": torch.ones(24)})
    torch.testing.assert_close(with_norm(features, (32, 32), images), without(features, (32, 32), images))


def test_the_output_bias_is_the_last_one(checkpoint: Path) -> None:
    readout = make("featup", out_channels=2, upsampler=checkpoint)
    readout.set_output_bias(torch.tensor([2.0, -3.0]))
    assert readout.output.bias.tolist() == [2.0, -3.0]
    assert (readout.project.bias == 0).all()


def test_without_a_checkpoint_it_says_which_there_are() -> None:
    with pytest.raises(UsageError) as refused:
        make("featup")
    for word in ("dino16", "dinov2", "clip", "maskclip", "vit", "resnet50", "--upsampler FILE", "linear"):
        assert word in str(refused.value)


def test_a_checkpoint_for_another_width_is_refused(checkpoint: Path) -> None:
    with pytest.raises(WeightsError, match=r"cocostuff.ckpt upsamples features of width 24, these have 768"):
        make("featup", feature_dim=768, upsampler=checkpoint)


def changed(**tensors: Tensor | None) -> dict[str, Tensor]:
    state: dict[str, Any] = {**published_state(), **{name.replace("__", "."): t for name, t in tensors.items()}}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({}, "lacks upsampler.fixup_proj.1.bias and 41 more"),
        (changed(up3__range_temp=None), "lacks upsampler.up3.range_temp;"),
        (changed(up2__range_temp=torch.zeros(1)), r"upsampler.up2.range_temp is \(1,\), expected \(\)"),
    ],
)
def test_other_checkpoints_are_refused(tmp_path: Path, state: dict[str, Tensor], says: str) -> None:
    path = write_published(tmp_path / "other.ckpt", state)
    with pytest.raises(WeightsError, match=says) as refused:
        make("featup", upsampler=path)
    assert str(path) in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match=r"nowhere\.ckpt is no file"):
        make("featup", upsampler=tmp_path / "nowhere.ckpt")


@pytest.mark.parametrize(
    ("guidance", "says"),
    [
        (None, "give the base images"),
        (torch.zeros(1, 48, 48, 3), r"\(1, 48, 48, 3\) torch.float32, expected base images \(2, h, w, 3\)"),
        (torch.zeros(2, 3, 48, 48, dtype=torch.uint8), r"\(2, 3, 48, 48\) torch.uint8"),
        (torch.zeros(1, 48, 48, 3, dtype=torch.uint8), r"expected base images \(2, h, w, 3\)"),
    ],
)
def test_wrong_guidance_is_refused(guidance: Tensor | None, says: str, checkpoint: Path) -> None:
    readout = make("featup", upsampler=checkpoint)
    assert readout.needs_guidance
    with pytest.raises(UsageError, match=says):
        readout(draw(2, 3, 3, 24), (32, 32), guidance)
