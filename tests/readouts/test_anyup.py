"""The example plugin of a readout, AnyUp, as far as it goes without its hub: a stand-in for the upsampler."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from deapcache_plugins import TEMPLATE, forgotten_plugins
from deapcache_readouts import (
    check_gradients,
    check_nothing_is_dead,
    count,
    draw,
    draw_images,
    draw_uneven,
    fitted,
    make,
    shake,
    standardised,
)
from torch import Tensor, nn

from deapcache import plugins
from deapcache.errors import MissingWeightsError, UnknownNameError, UsageError, WeightsError
from deapcache.readouts import READOUTS, canonical_readout, learnable_parameters, readout_entry, restore_readout

PLUGIN = TEMPLATE.with_name("anyup.py")


class StandIn(nn.Module):
    """Called as the hub's model is; its output depends on the image and on all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.7))
        self.calls: list[tuple[tuple[int, ...], bool, bool]] = []

    def forward(self, image: Tensor, features: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        self.calls.append((tuple(features.shape), torch.is_grad_enabled(), self.training))
        assert output_size is not None
        fine = F.interpolate(features, output_size, mode="nearest")
        brightness = F.interpolate(image, output_size, mode="bilinear").mean(1, keepdim=True)
        return fine * (1 + self.gain * brightness) + F.normalize(fine, dim=1)


@pytest.fixture(autouse=True)
def anyup() -> Iterator[ModuleType]:
    """The plugin's module, freshly run."""
    with forgotten_plugins():
        plugins.use([PLUGIN])
        yield sys.modules[READOUTS.get("anyup").__module__]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    """A hub that has the stand-in, and that it was fetched from."""
    upsampler = StandIn()
    (tmp_path / "wimmerth_anyup_main").mkdir()
    (tmp_path / "wimmerth_anyup_main" / "hubconf.py").touch()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "load", lambda *_, **__: upsampler)
    return upsampler


def test_without_the_plugin_the_name_leads_to_it() -> None:
    with forgotten_plugins():
        for read in (canonical_readout, readout_entry, make):
            for name in ("anyup", "anyup:32"):
                with pytest.raises(UnknownNameError, match=r"docs/templates/anyup.py .* --plugin .*docs/readouts.md"):
                    read(name)
        assert PLUGIN.is_file()


def test_it_is_a_readout_like_any_other() -> None:
    assert readout_entry("anyup:32").needs_guidance
    assert learnable_parameters("anyup:8", feature_dim=768, out_channels=21, grid=(37, 37)) == 6_341


def formula(readout, upsampler: nn.Module, features: Tensor, size: tuple[int, int], images: Tensor) -> Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    image = ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        fine = upsampler(image, features.permute(0, 3, 1, 2), output_size=size).to(readout.output.weight.dtype)
    for linear in (readout.project, readout.output):
        fine = F.conv2d(fine, linear.weight[:, :, None, None], linear.bias)
    return fine


@pytest.mark.parametrize("size", [(32, 48), (21, 13)])
def test_it_is_the_upsampler_and_a_linear_map(size: tuple[int, int], hub: StandIn) -> None:
    readout, features, images = shake(make("anyup", out_channels=3)), draw(3, 4, 5, 24), draw_images(3, 40, 56, 3)
    reference = copy.deepcopy(readout).double()
    output = readout(features, size, images)
    expected = formula(reference, copy.deepcopy(hub), features, size, images)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-4)
    check_gradients(readout, output, expected, reference)


def test_cells_that_cover_a_part_are_guided_by_that_part(hub: StandIn) -> None:
    whole, part = (make("anyup", out_channels=3, covered=share) for share in ((1.0, 1.0), (0.5, 0.75)))
    features, images = draw(2, 4, 5, 24), draw_images(2, 40, 56, 3)
    output, inner = part(features, (32, 48), images), whole(features, (16, 36), images[:, :20, :42])
    torch.testing.assert_close(output[..., :16, :36], inner)
    assert torch.equal(output[..., 16:, :], output[..., 15:16, :].expand(-1, -1, 16, -1))
    assert torch.equal(output[..., 36:], output[..., 35:36].expand(-1, -1, -1, 12))


def test_statistics_of_channels_come_before_the_upsampler(hub: StandIn) -> None:
    features, images = draw_uneven(2, 4, 5, 24), draw_images(2, 40, 56, 3)
    readout, plain = fitted(make("anyup", standardise="channel"), features), make("anyup")
    torch.testing.assert_close(
        readout(features, (16, 24), images), plain(standardised(features, readout), (16, 24), images)
    )
    assert readout.options["features"] == "standardised per channel over the training images"


def test_the_upsampler_is_frozen_and_sees_one_image_at_a_time(hub: StandIn) -> None:
    readout = make("anyup:32", out_channels=3).train()
    readout(draw(3, 4, 5, 24), (16, 16), draw_images(3, 32, 32, 3)).sum().backward()
    assert set(hub.calls) == {((1, 24, 4, 5), False, False)}
    assert hub.gain.grad is None
    assert count(readout) == 32 * 25 + 3 * 33
    assert set(readout.state_dict()) == {"project.weight", "project.bias", "output.weight", "output.bias"}


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_dead_at_the_start(seed: int, hub: StandIn) -> None:
    readout = make("anyup", seed=seed)
    check_nothing_is_dead(readout, readout(draw(2, 3, 3, 24, seed=seed), (24, 24), draw_images(2, 24, 24, 3)))


def test_a_trained_one_comes_back_with_the_same_upsampler_only(hub: StandIn) -> None:
    trained = shake(make("anyup", out_channels=3))
    shape = {"feature_dim": 24, "out_channels": 3, "grid": (5, 5)}
    restored = restore_readout("anyup", **shape, options=trained.options, state=trained.state_dict())
    features, images = draw(1, 3, 3, 24), draw_images(1, 24, 24, 3)
    torch.testing.assert_close(restored(features, (16, 16), images), trained(features, (16, 16), images))
    with torch.no_grad():
        hub.gain.fill_(0.1)
    with pytest.raises(WeightsError, match="train it again"):
        restore_readout("anyup", **shape, options=trained.options, state=trained.state_dict())


def test_a_trained_one_fetches_no_code(hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = make("anyup", out_channels=3)
    (tmp_path / "wimmerth_anyup_main" / "hubconf.py").unlink()
    monkeypatch.setattr(torch.hub, "load", lambda *_, **__: pytest.fail("code was fetched"))
    shape = {"feature_dim": 24, "out_channels": 3, "grid": (5, 5)}
    with pytest.raises(MissingWeightsError, match=r"fetch it yourself: python -c .*wimmerth/anyup") as raised:
        restore_readout("anyup", **shape, options=trained.options, state=trained.state_dict())
    assert "\n" not in str(raised.value)


def test_the_base_images_are_required(hub: StandIn) -> None:
    with pytest.raises(UsageError, match="readout anyup is conditioned on the image"):
        make("anyup")(draw(1, 3, 3, 24), (16, 16))
    assert make("anyup").needs_guidance


def test_the_hub_is_asked_for_the_authors_model_and_prints_no_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def load(*arguments: str, **_: object) -> nn.Module:
        print("Downloading")
        asked.append(arguments)
        return StandIn()

    monkeypatch.setattr(torch.hub, "load", load)
    make("anyup")
    make("anyup")
    assert asked == [("wimmerth/anyup", "anyup_multi_backbone")]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("error", [OSError("no route to host\nat all"), ImportError("No module named 'einops'")])
def test_a_hub_out_of_reach_is_one_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> nn.Module:
        raise error

    monkeypatch.setattr(torch.hub, "load", fail)
    with pytest.raises(MissingWeightsError) as refused:
        make("anyup")
    message = str(refused.value)
    assert "\n" not in message
    for words in ("wimmerth/anyup", "anyup_multi_backbone", str(error).splitlines()[0], torch.hub.get_dir(), "linear"):
        assert words in message
