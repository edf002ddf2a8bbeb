"""Reading checkpoints, loading them strictly, and the digest of what was loaded."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from deapcache.backbones.registry import BackboneEntry
from deapcache.backbones.weights import find_damage, is_safetensors
from deapcache.errors import WeightsError
from deapcache.locations import require_reached

State = dict[str, Tensor]

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher")
"""Entries under which training scripts keep the weights; moving averages first, as timm does."""

SCRIPT_PREFIXES = ("_orig_mod.", "module.", "_orig_mod.")
"""What torch.compile and DistributedDataParallel put before each key."""

ENCODERS = ("base_encoder.", "backbone.")
"""Where MoCo v3 and DINO keep the encoder beside the momentum encoder or the projection head."""

PRETRAINING_PARTS = ("head.", "fc.", "classifier.", "projector.", "predictor.", "decoder_", "mask_token")
"""First parts of keys that serve the pretraining task only."""

MAX_LISTED_KEYS = 4


def read_checkpoint(path: Path, *, remedy: str = "give a whole file") -> State:
    """The tensors of a safetensors file or a torch checkpoint (read weights-only), without wrappers and prefixes.

    Content decides which of the two it is. Raises :class:`WeightsError` where the file is neither, or needs code to be
    run; ``remedy`` says what to do about a file that is damaged.
    """
    if damage := find_damage(path):
        raise WeightsError(f"{path} {damage}: {remedy}")
    content = _read_safetensors(path, remedy) if is_safetensors(path) else _read_torch(path, remedy)
    state = _unwrap(content)
    if not state:
        raise WeightsError(f"{path} holds no tensors: expected the state dict of a model")
    return _only_encoder({_without_prefix(key): tensor for key, tensor in state.items()})


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
        reason = _reason(error)
        if "global" in reason.lower() or "torchscript" in reason.lower():  # it names classes that are not tensors
            remedy = "save its state dict with safetensors.torch.save_file and give that"
        raise WeightsError(
            f"{path} cannot be read as a torch checkpoint of tensors only ({reason}): {remedy}"
        ) from None


def _reason(error: Exception) -> str:
    """What torch found, without its terminal codes and its advice to run what is in the file."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    found = re.search(r"WeightsUnpickler error: *([^\n]+)", text)
    line = found[1] if found else (text.strip().splitlines() or [type(error).__name__])[0]
    return line.partition(". ")[0].rstrip(". ")


def _unwrap(content: Any) -> State:
    if not isinstance(content, Mapping):
        return {}
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            return _unwrap(content[wrapper])
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _without_prefix(key: str) -> str:
    for prefix in SCRIPT_PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _only_encoder(state: State) -> State:
    for prefix in ENCODERS:
        inside = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
        if inside:
            return inside
    return state


def convert_keys(convert: Callable[[State], State], state: State, entry: BackboneEntry) -> State:
    """``convert(state)``; raises :class:`WeightsError` where it cannot make sense of the checkpoint."""
    try:
        return convert(state)
    except Exception as error:  # the libraries' converters fail in any way on keys they do not know
        reason = f"{type(error).__name__}: {error}"
        raise misfit_error(entry, f"converting its keys failed ({reason}); its first keys are {_some(state)}") from None


def load_strictly(module: nn.Module, state: State, entry: BackboneEntry, *, heads: Iterable[str] = ()) -> None:
    """Load ``state`` into ``module``: every key, nothing beside, in the right shapes.

    Keys that begin with one of ``heads`` or of :data:`PRETRAINING_PARTS` and that ``module`` lacks are left out.
    Raises :class:`WeightsError` that lists the first keys which do not fit.
    """
    expected = module.state_dict()
    dropped = (*heads, *PRETRAINING_PARTS)
    state = {key: tensor for key, tensor in state.items() if key in expected or not key.startswith(dropped)}
    for key in expected.keys() - state.keys():
        if key.endswith("num_batches_tracked"):  # old checkpoints lack it, and inference does not use it
            state[key] = expected[key]
    mismatches = _mismatches(expected, state)
    if mismatches:
        raise misfit_error(entry, "; ".join(mismatches))
    module.load_state_dict(state)


def misfit_error(entry: BackboneEntry, problem: str) -> WeightsError:
    """The error where a checkpoint is of another architecture than the backbone."""
    return WeightsError(
        f"the checkpoint does not fit backbone {entry.name!r} ({entry.architecture}): {problem}. "
        f"Give a checkpoint of {entry.architecture} with --weights FILE"
    )


def _mismatches(expected: State, found: State) -> list[str]:
    shared = [key for key in expected if key in found]
    wrong = [
        f"{key}: {tuple(found[key].shape)} found, {tuple(expected[key].shape)} expected"
        for key in shared
        if found[key].shape != expected[key].shape
    ]
    groups = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [key for key in found if key not in expected],
        "of another shape": wrong,
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
