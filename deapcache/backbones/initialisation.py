"""Random initialisation: seeded where it counts, skipped where a checkpoint overwrites it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

_RANDOM_FILLS = {Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, init.normal_, init.uniform_, init.kaiming_uniform_}
"""What initialisers are made of, and those that torch hands to a mode whole; erfinv_ makes truncated normal values."""


@contextlib.contextmanager
def initialisation(seed: int, *, wanted: bool) -> Iterator[None]:
    """Build models inside: random weights follow from ``seed``, and the global random state is left as it was.

    Without ``wanted`` the weights are not drawn at all, which saves half of the time to load a large checkpoint; the
    caller loads one strictly, so that no value is left undefined.
    """
    with torch.random.fork_rng(devices=[]), contextlib.nullcontext() if wanted else _Undrawn():
        torch.manual_seed(seed)
        yield


class _Undrawn(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _RANDOM_FILLS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
