"""Reading the state dict of a Lightning checkpoint, without running or keeping anything else in it."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deapcache.errors import MissingWeightsError, WeightsError


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors under ``state_dict``, on the CPU.

    Lightning keeps hyperparameters and callbacks beside the weights, as objects of classes that need not be installed
    here. PyTorch's weights-only reader, which calls nothing but what is on its list, gets a stand-in for each of them.

    Raises :class:`MissingWeightsError` where there is no file, :class:`WeightsError` where it is no such checkpoint.
    """
    if not path.is_file():
        raise MissingWeightsError(f"{path} is no file: give the checkpoint of an upsampler")
    try:
        others = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(_StandIn, name) for name in others]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError) as error:
        raise WeightsError(f"{path} cannot be read as a torch checkpoint of tensors ({_reason(error)})") from None
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        raise WeightsError(f"{path} is no Lightning checkpoint: it has no state_dict")
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def _reason(error: Exception) -> str:
    """One line; PyTorch puts what happened behind advice that would be bad advice here."""
    text = str(error).strip()
    if text.startswith("Weights only load failed"):
        _, _, text = text.partition("\n")
        text = text.rpartition("WeightsUnpickler error:")[2]
    return (text.strip() or type(error).__name__).splitlines()[0]


class _StandIn:
    """Whatever it stands in for, calling it gives an empty dictionary of a kind that the reader fills as it is told."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()
