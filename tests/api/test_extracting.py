"""``deapcache.extract``: names and modules to opened caches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from deapcache_plugins import forgotten_plugins
from torch import Tensor, nn

import deapcache
from deapcache.backbones import forward_count, register_module
from deapcache.errors import DeapcacheError


class Patches(nn.Module):
    """A plain module."""

    def __init__(self, seed: int = 0, *, last: bool = True) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.patches = nn.Conv2d(3, 8, kernel_size=16, stride=16)
        self.last = last

    def forward(self, images: Tensor) -> Tensor:
        features = self.patches(images)
        return features.permute(0, 2, 3, 1) if self.last else features


@pytest.fixture(autouse=True)
def forgotten():
    with forgotten_plugins():
        yield


def test_a_module_becomes_caches_of_what_it_gives(home, one_thread):
    module = Patches()
    train, val = deapcache.extract("scenes", backbones=[module], home=home, image_size=64, limit=2, storage="float32")
    assert train.backbone == "Patches"
    (images,) = deapcache.find_caches(home, "images", dataset="scenes", split="val")
    pixels = torch.from_numpy(images.open().read_async([0]).result()).permute(0, 3, 1, 2) / 255
    pixels = nn.functional.interpolate(pixels, size=(64, 64), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = module((pixels - mean) / std).numpy()
    np.testing.assert_allclose(val.read_features([0]), expected, atol=1e-5)
    before = forward_count()
    again = deapcache.extract("scenes", backbones=Patches(), home=home, image_size=64, limit=2, storage="float32")
    assert forward_count() == before
    assert [one.digest for one in again] == [train.digest, val.digest]
    (other,) = deapcache.extract("scenes", backbones=Patches(1), home=home, image_size=64, limit=2, splits=["val"])
    assert other.recipe["weights"] != val.recipe["weights"]


def test_a_module_of_a_name_stands_beside_a_registered_backbone(home, one_thread):
    register_module(Patches(), "mine", image_size=64)
    names = ["mine", "timm:test_vit@untrained"]
    found = deapcache.extract("scenes", backbones=names, home=home, limit=1, splits=["val"])
    assert [one.backbone for one in found] == names


class Layered(Patches):
    """A module that gives two layers and their class tokens."""

    def forward(self, images: Tensor) -> dict[str | int, tuple[Tensor, Tensor]]:
        features = super().forward(images)
        return {2: (features, features.mean((1, 2))), "last": (-features, -features.mean((1, 2)))}


def test_a_module_gives_layers_and_class_tokens(home, one_thread):
    how = {"home": home, "splits": ["val"], "image_size": 64, "limit": 1}
    second, last = deapcache.extract("scenes", backbones=[Layered()], layers=[2, "last"], tokens="cls", **how)
    assert [one.recipe["layer"] for one in (second, last)] == ["2", "last"]
    np.testing.assert_array_equal(second.read_features([0]), -last.read_features([0]))
    np.testing.assert_array_equal(second.read_cls([0]), -last.read_cls([0]))
    with pytest.raises(DeapcacheError, match="gives no layer 7: its module's forward returns 2, last"):
        deapcache.extract("scenes", backbones=[Layered()], layers=7, **how)


def hooked() -> nn.Module:
    """A module that does more than its source says."""
    module = Patches()
    module.patches.register_forward_hook(lambda *_: None)
    return module


def patched() -> nn.Module:
    """A module with a forward of its own."""
    module = Patches()
    module.forward = lambda images: images  # type: ignore[method-assign]
    return module


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: register_module(Patches(), "dinov2"), "'dinov2' is registered twice"),
        (lambda: register_module(Patches(), "a/b"), "a name has letters"),
        (lambda: register_module(hooked()), "has a hook or a forward that was put in afterwards"),
        (lambda: register_module(patched()), "has a hook or a forward that was put in afterwards"),
        (lambda: register_module(Patches(last=False)), "channels last"),
        (lambda: register_module(nn.Linear(3, 4), image_size=16), "its module failed on images"),
        (lambda: deapcache.extract("scenes", backbones=[]), "which backbones"),
        (lambda: deapcache.extract("scenes", backbones=[Patches]), "a name or a torch.nn.Module that is built"),
        (lambda: deapcache.extract("scenes", backbones="dinov2", limt=3), "no option limt"),
        (lambda: deapcache.extract("scenes", backbones=[Patches(), Patches()]), "two modules are called Patches: "),
        (
            lambda: deapcache.extract("scenes", backbones="dinov2", image_size=112.0),
            r"size 112\.0: expected a side",
        ),
        (lambda: deapcache.extract("scenes", backbones="dinov2", image_size=(8, 9, 10)), "expected a side in pixels"),
    ],
)
def test_what_cannot_be_is_one_line(call, says):
    with pytest.raises(DeapcacheError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
