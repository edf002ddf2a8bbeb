"""Backbones of plugins: built, held to what they said, and identified by weights and source."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from deapcache_plugins import CONVOLUTION, TEMPLATE, forgotten_plugins, write_plugin
from safetensors.torch import save_file

from deapcache import plugins
from deapcache.backbones import build, describe, weights_status
from deapcache.errors import DeapcacheError, MissingWeightsError, PluginError, UsageError, WeightsError

NAME = "one-convolution"


@pytest.fixture(autouse=True)
def _forget():
    with forgotten_plugins():
        yield


@pytest.fixture
def register(tmp_path: Path):
    """A function that runs a plugin with parts of its source replaced."""

    def run(*changes: tuple[str, str], name: str = "plugin.py") -> Path:
        source = CONVOLUTION
        for old, new in changes:
            assert old in source
            source = source.replace(old, new)
        file = write_plugin(tmp_path, source, name)
        plugins.use([file])
        return file

    return run


def test_its_features_are_what_its_module_gives_for_normalised_images(register) -> None:
    register(("dim=8", "dim=8, mean=(0.1, 0.2, 0.3), std=(1, 2, 3)"))
    backbone = build(NAME)
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    pixels = (images.permute(0, 3, 1, 2) / 255 - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)) / torch.tensor(
        [1.0, 2.0, 3.0]
    ).view(1, 3, 1, 1)
    layer = backbone.module.layer
    expected = torch.nn.functional.conv2d(pixels, layer.weight, layer.bias, stride=16).permute(0, 2, 3, 1)
    torch.testing.assert_close(backbone(images), expected)


def test_a_changed_source_is_another_backbone_and_unchanged_is_the_same(register) -> None:
    register()
    one, again = build(NAME).identity, build(NAME).identity
    assert one == again
    with forgotten_plugins():
        register((NAME, NAME), ("import torch\n", "import torch  # a remark\n"))
        other = build(NAME).identity
    assert one.weights == other.weights
    assert one.arguments != other.arguments


def test_weights_come_from_the_file_beside_it_and_untrained_does_without(register, tmp_path: Path) -> None:
    state = {"layer.weight": torch.full((8, 3, 16, 16), 0.5), "layer.bias": torch.zeros(8)}
    save_file(state, tmp_path / "mine.safetensors")
    register(("dim=8", "dim=8, weights='mine.safetensors'"))
    assert weights_status(NAME) == "here"
    assert torch.equal(build(NAME).module.layer.weight, state["layer.weight"])
    untrained = build(f"{NAME}@untrained")
    assert untrained.identity.weights.startswith("untrained:seed=0:")
    assert untrained.module.layer.weight.std() > 0


def test_a_missing_or_unfit_weight_file_is_told(register, tmp_path: Path) -> None:
    register(("dim=8", "dim=8, weights='mine.safetensors'"))
    assert weights_status(NAME) == f"file missing: {tmp_path / 'mine.safetensors'}"
    with pytest.raises(MissingWeightsError, match=r"mine\.safetensors.*there is no such file"):
        build(NAME)
    save_file({"layer.weight": torch.zeros(8, 3, 16, 16)}, tmp_path / "mine.safetensors")
    with pytest.raises(WeightsError, match=r"1 key\(s\) missing \(layer\.bias\)"):
        build(NAME)


def test_a_plugin_that_brings_its_weights_takes_others_and_has_no_untrained_copy(register, tmp_path: Path) -> None:
    register()
    assert weights_status(NAME) == "with the plugin"
    save_file({"layer.weight": torch.ones(8, 3, 16, 16), "layer.bias": torch.zeros(8)}, tmp_path / "w.safetensors")
    assert build(NAME, weights=tmp_path / "w.safetensors").module.layer.weight.min() == 1
    with pytest.raises(UsageError, match="does not say how to build it without"):
        build(f"{NAME}@untrained")


def test_another_image_size_gives_another_grid(register) -> None:
    register()
    assert build(NAME, image_size=(96, 128)).grid == (6, 8)


WRONG = {
    "channels first": (".permute(0, 2, 3, 1)", "", r"gives \(1, 8, 4, 4\).*= \(1, 4, 4, 8\): end it with \.permute"),
    "grid": ("grid=4", "grid=8", r"gives \(1, 4, 4, 8\).*register it with grid=\(4, 4\), dim=8"),
    "tokens": (".permute(0, 2, 3, 1)", ".flatten(2)", "it must be a map: leave out class tokens"),
    "a dictionary": ("return self", "return {}, self", "gives tuple, expected a tensor"),
    "no module": ('"one-convolution", Net,', '"one-convolution", dict,', "gave dict, expected a torch.nn.Module"),
    "no parameters": ("nn.Conv2d(3, 8, 16, stride=16)", "nn.Identity()", "has no parameters"),
    "their number": ("dim=8", "dim=8, parameters=5", "has 6152 parameters, it was registered with 5"),
    "in forward": (
        "return self.layer",
        "return self.layr",
        r"on images \(1, 3, 64, 64\): .*plugin\.py, line 11: ",
    ),
    "in building": ("nn.Conv2d(3,", "nn.Conv(3,", r"building it failed: .*plugin\.py, line 8: AttributeError"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_module_that_is_not_what_was_registered_is_told(register, tmp_path: Path, case: str) -> None:
    old, new, expected = WRONG[case]
    register((old, new))
    with pytest.raises(PluginError, match=expected) as raised:
        build(NAME)
    assert str(tmp_path / "plugin.py") in str(raised.value)
    assert "\n" not in str(raised.value)


def test_random_numbers_that_are_no_part_of_a_checkpoint_are_drawn(register, tmp_path: Path) -> None:
    state = {"layer.weight": torch.ones(8, 3, 16, 16), "layer.bias": torch.zeros(8)}
    save_file(state, tmp_path / "w.safetensors")
    buffer = "stride=16)\n        self.register_buffer('noise', torch.empty(9999).normal_(), persistent=False)"
    register(("stride=16)", buffer), ("dim=8", "dim=8, weights='w.safetensors'"))
    one, two = build(NAME).module.noise, build(NAME).module.noise
    assert torch.equal(one, two)
    assert abs(float(one.std()) - 1) < 0.1


def test_the_template_is_a_backbone() -> None:
    plugins.use([TEMPLATE])
    assert build("my-backbone")(torch.zeros(2, 50, 60, 3, dtype=torch.uint8)).shape == (2, 14, 14, 64)
    assert describe("my-backbone").is_plugin


def test_registering_needs_a_file(tmp_path: Path) -> None:
    with pytest.raises(DeapcacheError, match="from a file alone"):
        exec(CONVOLUTION, {"__name__": "__main__"})
