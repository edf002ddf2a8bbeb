"""Backbones of plugins: built, held to what they said, and identified by weights and source."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from deapcache_plugins import CONVOLUTION, TEMPLATE, forgotten_plugins, write_plugin
from safetensors.torch import save_file

from deapcache import plugins
from deapcache.backbones import LayerSelection, build, describe, layers_of, weights_status
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
    "a dictionary": ("return self", "return {}, self", "gives dict, Tensor as layer last, expected a map"),
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


LAYERS = (
    "return self.layer(images).permute(0, 2, 3, 1)",
    "y = self.layer(images).permute(0, 2, 3, 1)\n"
    "        return {3: (y * 3, y.mean((1, 2)) * 3), 'last': (y, y.amax((1, 2)))}",
)
"""A forward that gives two layers with class tokens."""


def test_several_layers_and_class_tokens_of_one_forward(register) -> None:
    register(LAYERS)
    plain = build(NAME)
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    last = plain(images)
    assert [one.layer for one in plain.identities] == ["last"]
    backbone = build(NAME, selection=LayerSelection(layers=("last", "3"), tokens="cls"))
    assert [(one.layer, one.tokens) for one in backbone.identities] == [("last", "cls"), ("3", "cls")]
    (top, top_cls), (third, third_cls) = backbone.outputs(images)
    torch.testing.assert_close(top, last)
    torch.testing.assert_close(top_cls, last.amax((1, 2)))
    torch.testing.assert_close(third, 3 * last)
    torch.testing.assert_close(third_cls, 3 * last.mean((1, 2)))
    assert layers_of(NAME, LayerSelection(layers=("3",))) == (("3",), True)
    assert build(f"{NAME}@96", selection=LayerSelection(layers=("3",)))(images).shape == (2, 6, 6, 8)


@pytest.mark.parametrize(
    ("changes", "selection", "says"),
    [
        ([], {"layers": ("3",)}, "gives no layer 3: its module's forward returns last; let it return a mapping"),
        ([LAYERS], {"layers": ("3", "6", "9")}, "gives no layer 6, 9: its module's forward returns 3, last"),
        ([LAYERS], {"final_norm": False}, "applies its norms in its own forward: leave out --no-final-norm"),
        (
            [LAYERS, ("(y * 3, y.mean((1, 2)) * 3)", "y")],
            {"layers": ("3",), "tokens": "cls"},
            "no class token with layer 3",
        ),
    ],
)
def test_a_layer_that_it_does_not_give_is_one_line(register, changes, selection, says) -> None:
    register(*changes)
    with pytest.raises(UsageError, match=says) as raised:
        layers_of(NAME, LayerSelection(**selection))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("'last'", "'top'"), "gives the layers 3, top, expected numbers from 1, and last"),
        (("{3:", "{'three':"), "gives the layers three, last, expected numbers from 1, and last"),
        (("(y * 3,", "(y[:, ::2, ::2],"), r"gives \(1, 2, 2, 8\) as layer 3 and \(1, 4, 4, 8\) as last: .* one grid"),
        (("y.amax((1, 2))", "y"), r"gives a class token \(1, 4, 4, 8\) with layer last, expected \(1, 8\)"),
        (("y.amax((1, 2))", "5"), "gives Tensor, int as layer last, expected a map"),
    ],
)
def test_layers_that_cannot_be_are_told(register, tmp_path: Path, change, says) -> None:
    register(LAYERS, change)
    with pytest.raises(PluginError, match=says) as raised:
        build(NAME)
    assert str(tmp_path / "plugin.py") in str(raised.value)


def test_a_size_that_the_module_refuses_names_those_near_it(register) -> None:
    register(("return self", "assert images.shape[-1] % 16 == 0, 'no multiple of 16'\n        return self"))
    with pytest.raises(UsageError, match=r"cannot take images of 70x70 .*no multiple of 16.*: 64 or 80$"):
        build(f"{NAME}@70")


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
