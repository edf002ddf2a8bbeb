"""Identity: what makes two caches, or two results, the same thing.

A *recipe* holds everything that changes the numbers. Its digest names the cache. Circumstances (device, host, times,
library versions) are *provenance* and live elsewhere. A *protocol* is the same idea for a probe.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, ClassVar, NamedTuple, Self, TypeVar, get_args, get_origin, get_type_hints

from deapcache.errors import CorruptCacheError

SHORT = 12
"""Characters of a digest that names show."""

_BLOCK = 4096
"""Values of a long list that are encoded together."""

LAST = "last"
"""What the layer after all blocks of a backbone is called."""

SELECTED, NOT_TRAINED = "selected", "none"
"""What a protocol's optimiser has in place of a learning rate: one is chosen on a part of the training images, or the
readout is not trained."""

SUBSET_SEED = 0
"""``Protocol.train_subset`` of the subsets that commands and pipelines ask for."""

Value = TypeVar("Value")


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces; NaN and infinities raise ``ValueError``."""
    return canonical_text(value, allow_nan=False).encode()


def canonical_text(value: Any, *, allow_nan: bool) -> str:
    """JSON with sorted keys and no spaces: what digests are made of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=allow_nan)


def digest_of(value: Any) -> str:
    """sha256 of the canonical JSON of ``value``, 64 hexadecimal characters."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def digest_of_list(values: Iterable[Any]) -> str:
    """:func:`digest_of` of the list of ``values``, which are never all in memory: it may have a million."""
    found, remaining, comma = hashlib.sha256(b"["), iter(values), b""
    while block := list(itertools.islice(remaining, _BLOCK)):
        found.update(comma + canonical_json(block)[1:-1])
        comma = b","
    found.update(b"]")
    return found.hexdigest()


def image_set_digest(images: Iterable[tuple[str, str]]) -> str:
    """Digest of an ordered image set given as (image id, digest of the image file) pairs."""
    return digest_of_list(map(list, images))


def omit_if_default(default: Value) -> Value:
    """A field that earlier versions lacked: part of JSON and digest only where it has another value than this."""
    return field(default=default, metadata={"omit_if_default": True})


def not_in_digest(default: Value) -> Value:
    """A field that records how something came about and changes no number: part of the JSON, unless it has this
    default, and never of the digest.
    """
    return field(default=default, metadata={"omit_if_default": True, "not_in_digest": True})


def is_layer(name: str) -> bool:
    """Whether a layer can be called so: by the number of a block, from 1, or :data:`LAST`."""
    return name == LAST or (name.isdecimal() and int(name) > 0)


class Difference(NamedTuple):
    """One field in which two recipes differ; ``None`` where a recipe lacks it."""

    field: str
    left: Any
    right: Any

    def __str__(self) -> str:
        return f"{self.field}: {self.left!r} here, {self.right!r} there"


def differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[Difference]:
    """The fields in which two recipes, as JSON objects, differ."""
    names = sorted(set(left) | set(right))
    return [Difference(n, left.get(n), right.get(n)) for n in names if left.get(n) != right.get(n)]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Base of all recipes: frozen, keyword-only, JSON in and out, named by its digest."""

    kind: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field but those of :func:`omit_if_default` that have their default."""
        values = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if not f.metadata.get("omit_if_default") or getattr(self, f.name) != f.default
        }
        return dict(json.loads(canonical_json(values)))

    @property
    def digest(self) -> str:
        """sha256 of kind and fields, but for those of :func:`not_in_digest`; 64 hexadecimal characters."""
        left_out = {f.name for f in dataclasses.fields(self) if f.metadata.get("not_in_digest")}
        return digest_of({"kind": self.kind, **{k: v for k, v in self.to_json().items() if k not in left_out}})

    @classmethod
    def omitted_defaults(cls) -> dict[str, Any]:
        """The fields that earlier versions lacked, with what a recipe without them stands for; a JSON object."""
        defaults = {f.name: f.default for f in dataclasses.fields(cls) if f.metadata.get("omit_if_default")}
        return dict(json.loads(canonical_json(defaults)))

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """The recipe that :meth:`to_json` gave.

        Raises :class:`CorruptCacheError` on fields that are unknown, missing or of another type.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - known)
        if unknown:
            raise CorruptCacheError(
                f"{cls.kind} recipe has the unknown field(s) {', '.join(unknown)}: "
                "it was written by a newer deapcache; upgrade to read it"
            )
        values = {name: _as_tuple(value) for name, value in fields.items()}
        hints = _hints(cls)  # type: ignore[arg-type]  # a class is hashable
        if wrong := [name for name, value in values.items() if not _is(value, hints[name])]:
            raise CorruptCacheError(f"{cls.kind} recipe has a {wrong[0]} of another type than {hints[wrong[0]]}")
        try:
            return cls(**values)
        except TypeError as error:
            raise CorruptCacheError(f"{cls.kind} recipe is not whole: {error}") from None


@functools.cache
def _hints(cls: type[Recipe]) -> dict[str, Any]:
    return get_type_hints(cls)  # takes as long as all the rest of reading a recipe


def _is(value: Any, hint: Any) -> bool:
    """Whether a value from JSON, lists being tuples, is of a field's type."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is UnionType:
        return any(_is(value, each) for each in inner)
    if kind is tuple and isinstance(value, tuple):
        expected = inner[:1] * len(value) if Ellipsis in inner else inner
        return len(value) == len(expected) and all(map(_is, value, expected))
    if isinstance(value, bool) or hint is bool:
        return hint is bool and isinstance(value, bool)
    return isinstance(value, (int, float) if hint is float else kind or hint)


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True)
class ImageRecipe(Recipe):
    """Base images: decoded once, brought to one size, uint8 RGB."""

    kind: ClassVar[str] = "images"

    size: tuple[int, int]
    """Height and width in pixels."""
    fit: str
    """``squash``: both axes scaled to ``size`` on their own, as the paper does; ``crop``: the largest centred region of
    the shape of ``size`` is taken first (``deapcache.regions``)."""
    interpolation: str
    colour: str
    """How files become RGB: see ``deapcache.datasets.io``."""
    images: str
    """Image-set digest."""
    omitted: Mapping[str, Any] | None = not_in_digest(None)
    """What was left out of the split since it could not be read: ``images``, how many, and ``ids``, the first hundred.

    Not in the digest: ``images`` says which images are in.
    """


@dataclass(frozen=True, kw_only=True)
class TargetRecipe(Recipe):
    """Targets: one annotation kind brought to one size by nearest neighbour."""

    kind: ClassVar[str] = "targets"

    annotation: str
    """``instances``, ``boxes``, ``classes`` or ``depth``."""
    size: tuple[int, int]
    fit: str
    options: Mapping[str, Any]
    """What the dataset's reader chose: overlap order, crowds, units."""
    classes: tuple[str, ...]
    """Class names of ``classes`` maps, by value; empty otherwise."""
    images: str
    """Image-set digest."""
    annotations: str
    """Digest of the annotation content."""
    omitted: Mapping[str, Any] | None = not_in_digest(None)
    """As of :class:`ImageRecipe`."""


@dataclass(frozen=True, kw_only=True)
class FeatureRecipe(Recipe):
    """Feature volumes: everything from image file to stored number."""

    kind: ClassVar[str] = "features"

    backbone: str
    architecture: str
    """Library and model: ``timm:vit_base_patch16_224``."""
    arguments: Mapping[str, Any]
    """Keyword arguments of the architecture."""
    weights: str
    """Digest of the loaded parameters, or ``untrained:`` and the digest of the seeded initialisation."""
    calibration: str
    """What batch-norm statistics were re-estimated on; empty where they come with the weights."""
    layer: str
    """``last``, the number of a transformer's block from 1, or how the backbone calls the map."""
    final_norm: bool
    """Whether the backbone's final norm was applied to the feature map."""
    base_size: str
    """``224x224`` (height × width), or ``native``."""
    base_fit: str
    base_interpolation: str
    colour: str
    image_size: tuple[int, int]
    """Height and width that the backbone sees, pixels."""
    interpolation: str
    """From base image to ``image_size``, on the device."""
    antialias: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    precision: str
    """``fp32``, ``bf16`` or ``fp16`` autocast."""
    tf32: bool
    storage: str
    """``float16``, ``bfloat16`` (rounded to 7 mantissa bits in a float16 container), ``float32`` or ``int8``."""
    images: str
    """Image-set digest."""
    view: str = omit_if_default("original")
    """``original``, or ``hflip``: base images mirrored left to right before the backbone sees them."""
    tokens: str = omit_if_default("none")
    """What is kept beside the feature map: ``none``, or ``cls``, the class token."""
    omitted: Mapping[str, Any] | None = not_in_digest(None)
    """As of :class:`ImageRecipe`."""


@dataclass(frozen=True, kw_only=True)
class Protocol(Recipe):
    """A probe: everything but the features and the seed that decides its score."""

    kind: ClassVar[str] = "protocol"

    task: str
    task_options: Mapping[str, Any]
    dataset: str
    output_size: tuple[int, int]
    readout: str
    readout_options: Mapping[str, Any]
    optimiser: Mapping[str, Any]
    iterations: int
    batch_size: int
    order_seed: int
    """Seed of the order in which images are drawn: shared by all seeds of a run, which differ in initialisation."""
    train_limit: int | None
    """Number of training images (the first ones), ``None`` for all."""
    val_limit: int | None
    views: tuple[str, ...] = omit_if_default(("original",))
    """Views of the training images that are drawn from; scores are always of original images."""
    name: str = omit_if_default("")
    """The named protocol it follows (``deapcache.protocols.PROTOCOLS``), and what of it was changed; empty in results
    from before there were any."""
    name_digest: str = omit_if_default("")
    """Digest of all that this name stands for."""
    standardise: str = omit_if_default("cell")
    """Over what features are brought to mean 0 and variance 1: ``cell``, the channels of each cell; ``channel``, each
    channel over all cells of the training images."""
    selection: Mapping[str, Any] | None = omit_if_default(None)
    """What the learning rate was chosen from, and on which part of the training images; ``None``: it was given."""
    score_size: str = omit_if_default("output")
    """``output``: scores are over the targets of ``output_size``; ``native``: over each image's label map of its own
    size, to which outputs are resized bilinearly before anything is made of them."""
    train_subset: int | None = omit_if_default(None)
    """Seed of the order whose first ``train_limit`` images are trained on: subsets of one seed are nested. ``None``:
    that of the cache."""
