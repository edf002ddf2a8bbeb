"""Random initialisation: seeded where it counts, skipped where a checkpoint overwrites it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

_SKIPPED = {Tensor.erfinv_, init.normal_, init.uniform_, init.kaiming_uniform_}
"""Initialisers that torch hands to a mode whole, and what makes truncated normal values of uniform ones."""
_FILLED = {Tensor.normal_: "mean", Tensor.uniform_: "from"}
"""What other initialisers are made of → the name of its first parameter. Those of torch that truncate draw again until
all values are within their bounds: what memory held before may never be, and a mean or lower bound is."""


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
        named = kwargs or {}
        if func in _SKIPPED:
            return args[0] if args else named["tensor"]
        if func in _FILLED:
            return args[0].fill_(args[1] if len(args) > 1 else named.get(_FILLED[func], 0.0))
        return func(*args, **named)
