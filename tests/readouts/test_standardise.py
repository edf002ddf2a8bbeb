"""Features standardised per channel over the training images; the formulas of each readout are in its own tests."""

from __future__ import annotations

import pytest
import torch
from deapcache_featup import write_published
from deapcache_readouts import count, draw, draw_images, draw_uneven, fitted, make, shake

from deapcache.errors import UsageError
from deapcache.readouts import learnable_parameters, restore_readout

SCALED = ("deap", "8-dim", "no-sigma", "no-indiv-sigma", "only-mask", "bicubic", "transposed-conv", "linear")
TRAINED = (*SCALED, "linear-bn")


@pytest.mark.parametrize("name", TRAINED)
def test_neither_constants_nor_scales_of_channels_change_an_output(name: str) -> None:
    """An outlier channel, of 60 standard deviations, is worth as much as any; a constant one is worth nothing."""
    readout, features = shake(make(name, out_channels=3, standardise="channel")), draw(2, 5, 5, 24)
    features[..., 1] = 0.0
    expected = fitted(readout, features)(features, (32, 32))
    for constant in (60.0, -1e4):
        changed = features * torch.logspace(-2, 2, 24) + draw(24, seed=1)
        changed[..., 5] = 60 * features[..., 5] + 300
        changed[..., 1] = constant
        torch.testing.assert_close(fitted(readout, changed)(changed, (32, 32)), expected, rtol=1e-3, atol=1e-3)


def test_per_cell_an_outlier_channel_takes_the_place_of_the_others() -> None:
    """What the mode is for: the same change to a readout that standardises per cell."""
    readout, features = shake(make("linear")), draw(2, 5, 5, 24)
    changed = torch.cat([features[..., :1] * 60, features[..., 1:]], -1)
    outputs = readout(features, (5, 5)), readout(changed, (5, 5))
    correlation = torch.corrcoef(torch.stack([output.flatten() for output in outputs]))[0, 1]
    assert correlation < 0.9


@pytest.mark.parametrize("name", TRAINED)
def test_no_parameter_is_learned_more(name: str) -> None:
    readout = make(name, feature_dim=768, out_channels=21, standardise="channel")
    assert count(readout) == learnable_parameters(name, feature_dim=768, out_channels=21, grid=(5, 5))
    assert set(readout.state_dict()) - set(make(name).state_dict()) == {"feature_mean", "feature_std"}
    same = make(name, feature_dim=768, out_channels=21)
    assert all(torch.equal(a, b) for a, b in zip(readout.parameters(), same.parameters(), strict=True))


@pytest.mark.parametrize("name", SCALED)
def test_options_say_how_features_are_standardised(name: str) -> None:
    there, here = make(name).options, make(name, standardise="channel").options
    assert there == {**here, "features": "standardised per cell"}
    assert here["features"] == "standardised per channel over the training images"


@pytest.mark.parametrize("name", TRAINED)
def test_several_at_once_give_what_each_gives_alone(name: str) -> None:
    features = draw_uneven(2, 5, 5, 24)
    members = [
        fitted(shake(make(name, seed=seed, out_channels=3, standardise="channel")), features) for seed in range(3)
    ]
    assert members[0].stack_key() == members[1].stack_key()
    assert members[0].stack_key() != make(name, out_channels=3).stack_key()
    together = type(members[0]).forward_stacked(members, features, (40, 32))
    for member, output in zip(members, together, strict=True):
        torch.testing.assert_close(output, member(features, (40, 32)), rtol=1e-4, atol=1e-5)


def test_a_trained_one_comes_back_with_its_statistics() -> None:
    features = draw_uneven(2, 5, 5, 24)
    trained = fitted(shake(make("deap", standardise="channel")), features)
    shape = {"feature_dim": 24, "out_channels": 1, "grid": (5, 5), "standardise": "channel"}
    restored = restore_readout("deap", **shape, options=trained.options, state=trained.state_dict())
    torch.testing.assert_close(restored(features, (40, 32)), trained(features, (40, 32)))


def test_autocast_and_half_precision_change_little() -> None:
    features = draw_uneven(2, 5, 5, 24).half()
    readout = fitted(make("bicubic", standardise="channel"), features.float())
    expected = readout(features.float(), (32, 32))
    torch.testing.assert_close(readout(features, (32, 32)), expected, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(readout(features, (32, 32)), expected, rtol=0.05, atol=0.02)


def test_featup_upsamples_standardised_features(tmp_path) -> None:
    path = write_published(tmp_path / "dinov2_jbu_stack_cocostuff.ckpt")
    features, images = draw_uneven(2, 3, 3, 24), draw_images(2, 48, 48, 3)
    readout = fitted(make("featup", upsampler=path, standardise="channel"), features)
    plain = make("featup", upsampler=path)
    z = readout.standardise(features)
    torch.testing.assert_close(readout(features, (32, 32), images), plain(z, (32, 32), images))
    assert readout.options["features"] == "standardised per channel over the training images"
    assert readout.stack_key() != plain.stack_key()


@pytest.mark.parametrize(
    ("mean", "std", "says"),
    [
        (torch.zeros(23), torch.ones(24), r"the mean of the feature channels is \(23,\), expected \(24,\) finite"),
        (torch.zeros(24), torch.ones(1), r"the standard deviation of the feature channels is \(1,\)"),
        (torch.zeros(24), torch.full((24,), torch.nan), "finite numbers"),
    ],
)
def test_wrong_statistics_are_refused(mean: torch.Tensor, std: torch.Tensor, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make("linear", standardise="channel").set_feature_statistics(mean, std)


def test_statistics_are_of_no_use_per_cell_and_other_standardisations_unknown() -> None:
    with pytest.raises(UsageError, match="standardises features per cell"):
        make("linear").set_feature_statistics(torch.zeros(24), torch.ones(24))
    with pytest.raises(UsageError, match="unknown standardisation of features 'image': choose one of cell, channel"):
        make("linear", standardise="image")
