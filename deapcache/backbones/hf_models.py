"""Vision models of transformers, ``hf:OWNER/NAME[@REVISION]`` or ``hf:FOLDER``: what one forward gives, as a map.

The map is the model's own ``last_hidden_state``: a map as it is, or tokens, of which those before the patches (class
token, registers) are left out. Needs the package transformers (the extra ``hf``).
"""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import pickle
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    get_token,
    hf_hub_download,
    hf_hub_url,
    metadata_load,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from torch import Tensor, nn

from deapcache.backbones.checkpoints import State, load_strictly, torch_reason
from deapcache.backbones.layers import LayerOutput, LoadedModel, TransformerBlocks, covered_share
from deapcache.backbones.registry import BackboneEntry, Channels, WeightsSource, split_name
from deapcache.backbones.weights import TIMEOUT_SECONDS, accept_terms, find, find_damage
from deapcache.errors import DeapcacheError, MissingWeightsError, UnknownNameError, UsageError, WeightsError
from deapcache.recipe import digest_of
from deapcache.regions import Size

TRUST = "DEAPCACHE_TRUST_REMOTE_CODE"
"""Environment variable that lets models bring code of their own, which is run; worker processes inherit it."""

VJEPA2 = "vjepa2"
"""Type of a model of videos, which sees an image as a video of one frame."""

FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

_TOWERS = ("vision_model", "vision_encoder", "vision_tower")
"""What models of images and text, and SAM, call the part that sees the image."""
_POOLERS = ("pooler", "head")
"""Parts that make one vector of the map, as checkpoints of other tasks may lack them."""
_NORMS = ("layernorm", "post_layernorm", "norm", "rms_norm", "layer_norm")
_VOLATILE = ("transformers_version", "_name_or_path", "torch_dtype", "dtype", "architectures", "id2label", "label2id")
"""Of a ``config.json``: what changes no number of the map."""
_STRIDES = (4, 8, 14, 16, 32, 64)
_MOST_PREFIX = 16


@cache
def describe(name: str) -> BackboneEntry:
    """The entry of a repository or folder, measured once on a model without storage (meta device).

    Of a repository its ``config.json`` and ``preprocessor_config.json`` are fetched where they are not in the hub's
    cache. Raises :class:`UsageError` where transformers is not installed or the model gives no map,
    :class:`UnknownNameError` for what is not there and :class:`MissingWeightsError` for what may not be fetched.
    """
    transformers = _transformers()
    place, revision = _place(name)
    if Path(place).is_dir():
        name = str(Path(name))  # the same without ./ before it and / after it, as a shell completes it
    with _loading(name):
        raw, _ = transformers.PretrainedConfig.get_config_dict(place, revision=revision)
        is_of_videos = raw.get("model_type") == VJEPA2
        file = {"image_processor_filename": "video_preprocessor_config.json"} if is_of_videos else {}
        processor, _ = transformers.BaseImageProcessor.get_image_processor_dict(place, revision=revision, **file)
    config = _config(name)
    mean, std = _normalisation(name, processor)
    size = _native_size(config, processor)
    with torch.device("meta"), _no_map(name), torch.no_grad():
        tower = _tower(transformers.AutoModel.from_config(config, trust_remote_code=_is_trusted()))
        takes = str(getattr(tower, "main_input_name", "pixel_values"))
        if not takes.startswith("pixel_values"):
            raise UsageError(f"hf:{name} is no vision model: {type(tower).__name__} takes {takes}")
        norm = _applies_norm(tower, size)
        _, dim, height, width = _feature_map(tower, torch.zeros(1, 3, *size), size=size).shape
    licence, gated = _read_card(place, revision)
    described = {key: value for key, value in raw.items() if key not in (*_VOLATILE, "text_config")}
    return BackboneEntry(
        name=f"hf:{name}",
        architecture=f"hf:{type(tower).__name__}",
        arguments={"config": f"sha256:{digest_of(described)}"},
        image_size=size,
        grid=(height, width),
        covered=covered_share(tower, size, (height, width)),
        dim=dim,
        parameters=sum(p.numel() for p in tower.parameters()),
        mean=mean,
        std=std,
        licence=licence,
        gated=gated,
        final_norm=norm,
        source=WeightsSource(path=Path(place), files=FILES)
        if Path(place).is_dir()
        else WeightsSource(repo=place, revision=revision, files=FILES),
        own_weights=True,
        loader=f"{__name__}:load",
    )


def load(entry: BackboneEntry, checkpoint: State | None) -> LoadedModel:
    """Build the part of the model that sees images: with its own weights, those of ``checkpoint``, or random ones."""
    transformers = _transformers()
    name = split_name(entry.name)[0].removeprefix("hf:")
    config = _at_size(_config(name), entry.resized)
    unused: tuple[str, ...] = ()
    if entry.untrained or checkpoint is not None or torch.get_default_device().type == "meta":
        with _no_map(name):
            tower = _tower(transformers.AutoModel.from_config(config, trust_remote_code=_is_trusted()))
    else:
        model, unused = _pretrained(name, config)
        tower = _tower(model)
    if checkpoint is not None:
        unused = load_strictly(tower, checkpoint, entry, heads=tuple(f"{part}." for part in _POOLERS))
    return _loaded(entry, tower, unused)


def load_registered(entry: BackboneEntry, checkpoint: State | None) -> LoadedModel:
    """Build the part that sees images of a model whose configuration is in the arguments of ``entry``."""
    options = {"crop_size": entry.image_size[0], **entry.arguments}
    config = _at_size(_transformers().AutoConfig.for_model(**options), entry.resized)
    tower = _tower(_transformers().AutoModel.from_config(config))
    return _loaded(entry, tower, load_strictly(tower, checkpoint, entry))


def _loaded(entry: BackboneEntry, tower: Any, unused: tuple[str, ...]) -> LoadedModel:
    native = entry.native_size or entry.image_size
    forward = partial(_feature_map, tower, size=native)
    return LoadedModel(tower, forward, dict(entry.arguments), _blocks(tower, native, entry.final_norm), unused)


def _at_size(config: Any, image_size: Size | None) -> Any:
    """The configuration for another image size, where the model's positions follow from it."""
    if image_size and config.model_type == VJEPA2:
        if image_size[0] != image_size[1]:
            raise UsageError("its positions are those of a square")
        config.crop_size = image_size[0]
    return config


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise UsageError(
            "models of Hugging Face (hf:…) need the package transformers, which is not installed: "
            "pip install 'deapcache[hf]'"
        ) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _place(name: str) -> tuple[str, str | None]:
    """A folder, or a repository with its revision, of which ``config.json`` can be had."""
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UnknownNameError(f"hf:{name} is a folder without config.json: give one that save_pretrained wrote")
        return str(folder), None
    repo, _, revision = name.partition("@")
    if repo.count("/") != 1 or not all(repo.split("/")) or repo.startswith((".", "~")):
        raise UnknownNameError(f"hf:{name} is no folder here: give hf:FOLDER, or hf:OWNER/NAME of the Hugging Face hub")
    if isinstance(try_to_load_from_cache(repo, "config.json", revision=revision or None), str):
        return repo, revision or None
    if constants.HF_HUB_OFFLINE:
        raise MissingWeightsError(f"hf:{name} is not in the cache of the hub, and HF_HUB_OFFLINE forbids to fetch it")
    with _loading(name):  # one request without retries: transformers would try for long without network
        get_hf_file_metadata(hf_hub_url(repo, "config.json", revision=revision or None), timeout=TIMEOUT_SECONDS)
    return repo, revision or None


@contextlib.contextmanager
def _loading(name: str) -> Iterator[None]:
    """Say of whatever the hub or transformers raise in one line what to do."""
    try:
        yield
    except DeapcacheError:
        raise
    except Exception as error:  # of several libraries, by version
        causes: list[BaseException] = []
        cause: BaseException | None = error
        while cause is not None and cause not in causes:
            causes.append(cause)
            cause = cause.__cause__ or cause.__context__
        repo, _, revision = name.partition("@")
        if any(isinstance(one, GatedRepoError) for one in causes):
            token = "the account of HF_TOKEN has no access to it" if get_token() else "there is no token"
            raise MissingWeightsError(f"hf:{name} is gated, and {token}: {accept_terms(repo)}") from None
        if any(isinstance(one, RevisionNotFoundError) for one in causes):
            raise UnknownNameError(f"hf:{name}: {repo} has no revision {revision!r}") from None
        if any(isinstance(one, RepositoryNotFoundError) for one in causes):
            raise UnknownNameError(
                f"the Hugging Face hub has no model {repo}, or it is private: look at the name, or set HF_TOKEN"
            ) from None
        text = " ".join(str(error).split()) or type(error).__name__
        if "trust_remote_code" in text:
            raise UsageError(
                f"hf:{name} brings code of its own, which would be run with your rights: read it, and give "
                f"--trust-remote-code if you trust it (from Python, set {TRUST}=1)"
            ) from None
        if isinstance(error, pickle.UnpicklingError):
            raise WeightsError(
                f"the weights of hf:{name} are no torch checkpoint of tensors only ({torch_reason(error)}): save them "
                "as safetensors (save_pretrained)"
            ) from None
        absent = [one for one in causes if isinstance(one, EntryNotFoundError)]
        # a file that the cache lacks may be in the repository
        if [one for one in absent if not isinstance(one, LocalEntryNotFoundError)] or "preprocessor_config" in text:
            raise UsageError(
                f"hf:{name} lacks config.json or preprocessor_config.json, which say what model it is, and how images "
                "are normalised: save its image processor beside it (AutoImageProcessor…save_pretrained)"
            ) from None
        raise MissingWeightsError(
            f"hf:{name} cannot be loaded: {type(error).__name__}: {text[:300].rstrip('.')}: get its files on a machine "
            "where that works, and give their folder as hf:FOLDER"
        ) from None


def _read_card(place: str, revision: str | None) -> tuple[str, bool]:
    """Licence of the weights as their model card says it, and whether they are gated.

    The card is the folder's README.md, that in the hub's cache, or what the hub answers.
    """
    licence, gated = "", False
    if Path(place).is_dir():
        file: Any = Path(place) / "README.md"
    else:
        file = try_to_load_from_cache(place, "README.md", revision=revision)
        if not isinstance(file, str) and not constants.HF_HUB_OFFLINE:
            with contextlib.suppress(Exception):  # it is for information alone; of several libraries, by version
                gated = bool(HfApi().model_info(place, revision=revision, timeout=TIMEOUT_SECONDS).gated)
                file = hf_hub_download(place, "README.md", revision=revision, etag_timeout=TIMEOUT_SECONDS)
    if isinstance(file, str | Path) and Path(file).is_file():
        with contextlib.suppress(Exception):  # front matter that cannot be read
            card = metadata_load(file) or {}
            gated = gated or any(key.startswith("extra_gated_") for key in card)
            named = card.get("license_name") if card.get("license") == "other" else card.get("license")
            licence = named if isinstance(named, str) else ""
    return licence or "see model card", gated


@contextlib.contextmanager
def _no_map(name: str) -> Iterator[None]:
    try:
        yield
    except DeapcacheError:
        raise
    except (AttributeError, TypeError, ValueError, IndexError, RuntimeError, KeyError, NotImplementedError) as error:
        if "trust_remote_code" in str(error):
            with _loading(name):
                raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UsageError(f"backbone 'hf:{name}' gives no feature map: {reason}") from None


def _is_trusted() -> bool:
    return os.environ.get(TRUST, "") not in ("", "0")


def _config(name: str) -> Any:
    place, revision = _place(name)
    with _loading(name):
        config = _transformers().AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=_is_trusted())
    if hasattr(config, "mask_ratio"):
        config.mask_ratio = 0.0  # MAE sees the whole image
    return config


def _pretrained(name: str, config: Any) -> tuple[nn.Module, tuple[str, ...]]:
    """The model with all its weights in float32, and the keys in its files that it has no place for.

    Raises :class:`WeightsError` where some are not in its files, or do not fit its configuration.
    """
    place, revision = _place(name)
    if Path(place).is_dir():
        file = find(WeightsSource(path=Path(place), files=FILES))
        if file is None:
            raise MissingWeightsError(f"hf:{name} has no weights: expected one of {', '.join(FILES)} in that folder")
        if damage := find_damage(file):
            raise WeightsError(f"{file} {damage}: get it again")
    with _loading(name):
        model, found = _transformers().AutoModel.from_pretrained(
            place,
            config=config,
            revision=revision,
            dtype=torch.float32,
            trust_remote_code=_is_trusted(),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below
        )
    prefix = next((f"{part}." for part in _TOWERS if hasattr(model, part)), "")
    shapes = {key: f"{key}: {tuple(has)} found, {tuple(own)} expected" for key, has, own in found["mismatched_keys"]}
    for keys, what in ((found["missing_keys"], "lacks"), (shapes, "has, of another shape than its config.json says,")):
        tower = (key for key in keys if key.startswith(prefix))
        ours = sorted(key for key in tower if not key.removeprefix(prefix).startswith(_POOLERS))
        if ours:
            listed = ", ".join(shapes.get(key, key) for key in ours[:4])
            raise WeightsError(f"hf:{name} {what} {len(ours)} of its weights ({listed}): get them again")
    return model, tuple(sorted(found["unexpected_keys"]))


def _tower(model: nn.Module) -> Any:
    """The part of a model that sees images, without what makes one vector of the map."""
    if model.config.model_type == VJEPA2:  # type: ignore[union-attr]
        model = model.encoder  # type: ignore[assignment]
    tower = next((getattr(model, part) for part in _TOWERS if isinstance(getattr(model, part, None), nn.Module)), model)
    if isinstance(inner := getattr(tower, "vision_encoder", None), nn.Module):  # of SAM, which wraps it once more
        tower = inner
    for part in _POOLERS:
        if isinstance(pooler := getattr(tower, part, None), nn.Module) and any(True for _ in pooler.parameters()):
            setattr(tower, part, _NoPooler())
    return tower.eval()


class _NoPooler(nn.Module):
    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden


def _native_size(config: Any, processor: Mapping[str, Any]) -> Size:
    """Of the config, which says what position embeddings are for; else what the image processor makes."""
    vision = getattr(config, "vision_config", config)
    patches = getattr(vision, "num_patches", None)
    found = vision.crop_size if config.model_type == VJEPA2 else getattr(vision, "image_size", None)
    if found is None and patches and isinstance(getattr(vision, "patch_size", None), int):
        found = int(patches**0.5) * vision.patch_size
    for asked in ("crop_size", "size") if found is None else ():
        sides = processor.get(asked) or {}
        if isinstance(sides, int):
            found = sides
        elif sides:
            found = [sides[key] for key in ("height", "width") if key in sides] or sides.get("shortest_edge")
        if found:
            break
    sides = found if isinstance(found, list | tuple) else (found or 224,) * 2
    return int(sides[0]), int(sides[-1])


def _normalisation(name: str, processor: Any) -> tuple[Channels, Channels]:
    """Mean and standard deviation for pixels in [0, 1], whatever the processor scales them by."""
    given = ""
    try:
        scale = 255 * float(processor.get("rescale_factor", 1 / 255)) if processor.get("do_rescale", True) else 255.0
        plain = not processor.get("do_normalize", True)
        mean = (0.0,) * 3 if plain else processor.get("image_mean")
        std = (1.0,) * 3 if plain else processor.get("image_std")
        given = f" has image_mean {mean} and image_std {std}"
        (r, g, b), (dr, dg, db) = ([float(value) / scale for value in values] for values in (mean, std))
        if not (all(map(math.isfinite, (r, g, b))) and all(0 < value < math.inf for value in (dr, dg, db))):
            raise ValueError
    except (TypeError, ValueError, ZeroDivisionError, AttributeError):
        raise UsageError(
            f"the image processor of hf:{name}{given or ' cannot be read'}: its preprocessor_config.json must hold "
            "three numbers of each of image_mean and image_std, the latter above 0"
        ) from None
    return (r, g, b), (dr, dg, db)


def _forward(tower: Any, images: Tensor, size: Size) -> Any:
    """The model's output for (B, 3, h, w) images; ``size`` is the one that its position embeddings are for."""
    parameters = inspect.signature(tower.forward).parameters
    given: dict[str, Any] = {}
    if "interpolate_pos_encoding" in parameters and tuple(images.shape[-2:]) != size:
        given["interpolate_pos_encoding"] = True
    patch: Any = getattr(tower.config, "patch_size", None)
    if "noise" in parameters and isinstance(patch, int):  # MAE shuffles by it: in rising order, tokens stay in place
        count = (images.shape[-2] // patch) * (images.shape[-1] // patch)
        given["noise"] = torch.arange(count, device=images.device, dtype=torch.float32).expand(len(images), -1)
    if "spatial_shapes" in parameters:  # SigLIP 2 takes patches, each a row of pixels after the other
        cells = images.shape[2] // patch, images.shape[3] // patch
        patches = images.unflatten(3, (cells[1], patch)).unflatten(2, (cells[0], patch)).permute(0, 2, 4, 3, 5, 1)
        images = patches.reshape(len(images), cells[0] * cells[1], -1)
        given["spatial_shapes"] = torch.tensor([cells], device="cpu").expand(len(images), -1)
        given["pixel_attention_mask"] = None  # all patches are of the image
    if "pixel_values_videos" in parameters:
        images = images[:, None]  # one frame, which the model repeats
    return tower(images, **given)


def _feature_map(tower: Any, images: Tensor, *, size: Size) -> Tensor:
    """(B, 3, h, w) normalised images to (B, D, H, W)."""
    return _as_map(tower, _forward(tower, images, size).last_hidden_state, images)[0]


def _as_map(tower: Any, hidden: Tensor, images: Tensor) -> tuple[Tensor, int]:
    """A map (B, D, H, W) of tokens (B, N, D), and how many tokens are before those of the map."""
    if hidden.ndim == 4:
        return hidden, 0
    patch = getattr(tower.config, "patch_size", 0)
    height, width = images.shape[-2:]
    for stride in (patch if isinstance(patch, int) else 0, *_STRIDES):
        cells = (height // stride, width // stride) if stride else (0, 0)
        prefix = hidden.shape[1] - cells[0] * cells[1]
        if all(cells) and 0 <= prefix <= _MOST_PREFIX and (prefix <= 1 or stride == patch):
            return hidden[:, prefix:].transpose(1, 2).unflatten(2, cells), prefix
    raise ValueError(f"{hidden.shape[1]} tokens are no map of an image of {height}x{width}")


def _applies_norm(tower: Any, size: Size) -> bool:
    """Whether a final norm is applied to what becomes the map; that of CLIP is of the class token alone."""
    seen: list[bool] = []
    norms = [getattr(tower, name) for name in _NORMS if isinstance(getattr(tower, name, None), nn.Module)]
    hooks = [norm.register_forward_hook(lambda _, given, __: seen.append(given[0].ndim >= 3)) for norm in norms]
    try:
        _forward(tower, torch.zeros(1, 3, *size), size)
    finally:
        for hook in hooks:
            hook.remove()
    return any(seen)


def _blocks(tower: Any, native: Size, has_norm: bool) -> TransformerBlocks | None:
    """The blocks of a plain vision transformer; None for a model of stages."""
    depth: Any = getattr(tower.config, "num_hidden_layers", None)
    lists = [module for module in tower.modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    if not lists or getattr(tower.config, "depths", None) or hasattr(tower.config, "output_channels"):
        return None
    norms = [getattr(tower, name) for name in _NORMS if isinstance(getattr(tower, name, None), nn.Module)]
    final = norms[-1] if has_norm and norms else nn.Identity()
    embeddings = getattr(tower, "embeddings", None)
    has_class_token = any(hasattr(embeddings, name) for name in ("cls_token", "class_embedding"))

    def forward(images: Tensor, indices: list[int], norm: bool, cls: bool) -> list[LayerOutput]:
        seen: dict[int, Tensor] = {}

        def keep(index: int, output: Any) -> None:
            seen[index] = output[0] if isinstance(output, tuple) else output

        hooks = [lists[0][i].register_forward_hook(lambda _, __, out, i=i: keep(i, out)) for i in indices]
        try:
            _forward(tower, images, native)
        finally:
            for hook in hooks:
                hook.remove()
        outputs = []
        for index in indices:
            tokens = final(seen[index]) if norm else seen[index]
            outputs.append((_as_map(tower, tokens, images)[0], tokens[:, 0] if cls else None))
        return outputs

    return TransformerBlocks(depth, final, has_class_token, forward)
