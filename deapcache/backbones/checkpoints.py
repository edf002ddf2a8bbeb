"""Reading checkpoints, loading them strictly, and the digest of what was loaded."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from deapcache.backbones.registry import BackboneEntry
from deapcache.backbones.weights import INDEX, find_damage, is_safetensors, weight_map
from deapcache.errors import WeightsError
from deapcache.locations import require_reached

State = dict[str, Tensor]

WRAPPERS = (
    "state_dict_ema", "model_ema", "state_dict", "model", "teacher", "module", "_orig_mod", "base_encoder", "backbone",
)  # fmt: skip
"""Under which training scripts keep the weights of the encoder, as entries or as beginnings of keys; moving averages
first, as timm does. What torch.compile and DistributedDataParallel put before each key is among them."""

AVERAGED = {"state_dict_ema", "model_ema", "ema", "ema_model", "teacher", "target_encoder"}
"""Parts of keys of a moving average, which is what is evaluated; of MoCo it is the encoder that was trained."""
TRAINED_WITH = {"student", "momentum_encoder"}
"""Parts of keys of the other one of such a pair."""

PRETRAINING_PARTS = (
    "head.", "fc.", "classifier.", "projector.", "predictor.", "decoder_", "mask_token", "dino_head.", "ibot_head.",
    "rasa_head.",
)  # fmt: skip
"""First parts of keys that serve the pretraining task only, and are left out without an error."""

MAX_LISTED_KEYS = 4

_CHUNK = re.compile(r"\bblocks\.\d+\.(\d+)\.")
"""DINOv2 and DINOv3 train in chunks of blocks, and number the blocks through: ``blocks.1.6.`` is block 6."""


def read_checkpoint(path: Path, *, remedy: str = "give a whole file") -> State:
    """The tensors of a safetensors file, a torch checkpoint (read weights-only) or the index of several such files.

    Those in nested dictionaries have dotted keys: ``teacher.backbone.blocks.0.norm1.weight``. Content decides which of
    the two formats a file has. Raises :class:`WeightsError` where it is neither, or needs code to be run; ``remedy``
    says what to do about a file that is damaged.
    """
    if damage := find_damage(path):
        raise WeightsError(f"{path} {damage}: {remedy}")
    if path.name.endswith(INDEX):
        places, state = weight_map(path), State()
        for file in sorted(set(places.values())):
            state |= read_checkpoint(path.parent / file, remedy=remedy)
        if lacking := [key for key in places if key not in state]:
            raise WeightsError(f"{path} names tensors that its files lack ({_some(lacking)}): {remedy}")
        return state
    content = _read_safetensors(path, remedy) if is_safetensors(path) else _read_torch(path, remedy)
    state = dict(_tensors(content))
    if not state:
        raise WeightsError(f"{path} holds no tensors: expected the state dict of a model")
    return state


def _tensors(content: Any, before: str = "") -> Iterator[tuple[str, Tensor]]:
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Tensor):
            yield f"{before}{key}", value
        else:
            yield from _tensors(value, f"{before}{key}.")


def keys_below(state: State, key: str, path: Path) -> State:
    """The tensors whose keys begin with ``key``, without it; raises :class:`WeightsError` where there is none."""
    found = _below(state, key.rstrip(".") + ".")
    if not found:
        beginnings = dict.fromkeys(".".join(name.split(".")[:2]) + "." for name in state if name.count(".") > 1)
        raise WeightsError(f"--weights-key {key}: no key of {path} begins so; they begin with {_some(beginnings)}")
    return found


def _below(state: State, prefix: str) -> State:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def _beginnings(state: State, expected: Collection[str]) -> list[str]:
    """What may stand before all keys of the encoder in a checkpoint, likeliest first.

    That is what stands before most of the ``expected`` keys; of several, before those of a moving average, else the
    shortest. A checkpoint with the keys of another library, which is still to be converted, has few of them: then, the
    wrappers that training scripts use, and nothing at all.
    """
    counts: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        counts.update(
            "".join(f"{part}." for part in parts[:start])
            for start in range(len(parts))
            if ".".join(parts[start:]) in expected
        )

    def rank(prefix: str) -> tuple[int, bool, bool, int]:
        parts = set(prefix.split("."))
        return -counts[prefix], not parts & AVERAGED, bool(parts & TRAINED_WITH), len(prefix)

    best, wrappers = min(counts, key=rank, default=""), ""
    while found := next((w for w in WRAPPERS if any(key.startswith(f"{wrappers}{w}.") for key in state)), ""):
        wrappers += f"{found}."
    return list(dict.fromkeys([best, wrappers, ""] if 2 * counts[best] >= len(expected) else [wrappers, ""]))


def _read_safetensors(path: Path, remedy: str) -> State:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        require_reached(error, path)
        raise WeightsError(f"{path} cannot be read as safetensors ({error}): {remedy}") from None


def _read_torch(path: Path, remedy: str) -> Any:
    try:
        # argparse.Namespace holds the options of a training script in many published checkpoints; it runs no code
        # the open file: by its name, torch takes .safetensors for what it says
        with torch.serialization.safe_globals([argparse.Namespace]), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        require_reached(error, path)
        reason = torch_reason(error)
        if "global" in reason.lower() or "torchscript" in reason.lower():  # it names classes that are not tensors
            remedy = "save its state dict with safetensors.torch.save_file and give that"
        raise WeightsError(
            f"{path} cannot be read as a torch checkpoint of tensors only ({reason}): {remedy}"
        ) from None


def torch_reason(error: BaseException) -> str:
    """What torch found, without its terminal codes and its advice to run what is in the file."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    found = re.search(r"(?:WeightsUnpickler error:|Trying to load) *([^\n]+)", text)
    line = found[1] if found else (text.strip().splitlines() or [type(error).__name__])[0]
    return line.partition(". ")[0].rstrip(". ")


def load_strictly(
    module: nn.Module,
    checkpoint: State | None,
    entry: BackboneEntry,
    *,
    convert: Callable[[State], State] = dict,
    heads: Iterable[str] = (),
) -> tuple[str, ...]:
    """Load the encoder in ``checkpoint`` into ``module``: every key, nothing beside, in the right shapes.

    ``convert`` brings its keys, without what stands before all of them, into the form of ``module``. Keys that begin
    with one of ``heads`` or of :data:`PRETRAINING_PARTS` and that ``module`` lacks are left out. Gives the keys of the
    checkpoint that were not used; raises :class:`WeightsError` that lists the first keys which do not fit. Without a
    checkpoint ``module`` stays as it is.
    """
    if checkpoint is None:
        return ()
    expected, dropped_parts = module.state_dict(), (*heads, *PRETRAINING_PARTS)
    if not any(map(_CHUNK.search, expected)):
        checkpoint = {_CHUNK.sub(r"blocks.\1.", key): tensor for key, tensor in checkpoint.items()}
    refused: WeightsError | None = None
    for prefix in _beginnings(checkpoint, expected.keys()):
        try:
            state = _convert_keys(convert, _below(checkpoint, prefix), entry)
            dropped = {key for key in state if key not in expected and key.startswith(dropped_parts)}
            state = {key: tensor for key, tensor in state.items() if key not in dropped}
            for key in expected.keys() - state.keys():
                if key.endswith("num_batches_tracked"):  # old checkpoints lack it, and inference does not use it
                    state[key] = expected[key]
            if mismatches := _mismatches(expected, state):
                raise misfit_error(entry, "; ".join(mismatches) + (f", below {prefix.rstrip('.')}" if prefix else ""))
        except WeightsError as error:
            refused = refused or error
            continue
        module.load_state_dict(state)
        outside = (key for key in checkpoint if not key.startswith(prefix))
        return (*outside, *(f"{prefix}{key}" for key in sorted(dropped)))
    assert refused is not None  # there is one beginning at least
    raise refused


def _convert_keys(convert: Callable[[State], State], state: State, entry: BackboneEntry) -> State:
    """``convert(state)``; raises :class:`WeightsError` where it cannot make sense of the checkpoint."""
    try:
        return convert(state)
    except WeightsError:
        raise
    except Exception as error:  # the libraries' converters fail in any way on keys they do not know
        reason = f"{type(error).__name__}: {error}"
        raise misfit_error(entry, f"converting its keys failed ({reason}); its first keys are {_some(state)}") from None


def misfit_error(entry: BackboneEntry, problem: str) -> WeightsError:
    """The error where a checkpoint is of another architecture than the backbone."""
    return WeightsError(
        f"the checkpoint does not fit backbone {entry.name!r} ({entry.architecture}): {problem}. "
        f"Give a checkpoint of {entry.architecture} with --weights FILE"
    )


def _mismatches(expected: State, found: State) -> list[str]:
    shared = [key for key in expected if key in found]
    other_kind = [
        f"{key}: {found[key].dtype} found, {expected[key].dtype} expected"
        for key in shared
        if found[key].is_complex() or found[key].is_floating_point() != expected[key].is_floating_point()
    ]
    wrong = [
        f"{key}: {tuple(found[key].shape)} found, {tuple(expected[key].shape)} expected"
        for key in shared
        if found[key].shape != expected[key].shape
    ]
    groups = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [key for key in found if key not in expected],
        "of another shape": wrong,
        "of another kind": other_kind,  # quantised ones are integers, and mean something only with their scales
    }
    return [f"{len(keys)} key(s) {what} ({_some(keys)})" for what, keys in groups.items() if keys]


def _some(keys: Iterable[str]) -> str:
    listed = list(keys)
    return ", ".join(listed[:MAX_LISTED_KEYS]) + (", …" if len(listed) > MAX_LISTED_KEYS else "")


def state_digest(module: nn.Module) -> str:
    """sha256 over (name, dtype, shape, bytes) of the state dict sorted by name, 64 hexadecimal characters."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name}\0{str(tensor.dtype).removeprefix('torch.')}\0{tuple(tensor.shape)}\0".encode())
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
