"""Where training arrays live while readouts are trained: chosen by what fits, or asked for."""

from __future__ import annotations

import torch

from deapcache.errors import UsageError
from deapcache.probing.arrays import SplitArrays
from deapcache.probing.free_memory import FreeMemory, free_memory
from deapcache.probing.options import Residency

_HOST_SHARE = 0.25
"""Part of the host's free memory that training arrays take unasked: others work there, and files are cached in it."""

_DEVICE_SHARE = 0.5
"""Part of a GPU's free memory that they take unasked: readouts, their activations and scoring need the rest."""


def residency_of(arrays: SplitArrays, asked: Residency | None, device: torch.device) -> Residency:
    """Where ``arrays`` live: as asked for, or by what fits now; raises :class:`UsageError` where there is no room."""
    if asked == "stream":
        return asked
    needed, free = arrays.decoded_bytes(), free_memory(device)
    if asked is None:
        return choose_residency(needed, free)
    require_room(asked, needed, free)
    return asked


def choose_residency(needed: int, free: FreeMemory) -> Residency:
    """The first that has room for ``needed`` bytes.

    On a GPU: ``gpu`` where they fit in half of its free memory, ``pinned`` where they fit in a quarter of the host's,
    else ``stream``. Elsewhere: ``memory`` where they fit in a quarter of the host's, else ``stream``. All training
    arrays, of features, targets and base images, are in one place.
    """
    if free.device is not None and needed <= free.device * _DEVICE_SHARE:
        return "gpu"
    if needed <= free.host * _HOST_SHARE:
        return "memory" if free.device is None else "pinned"
    return "stream"


def require_room(residency: Residency, needed: int, free: FreeMemory) -> None:
    """Raise :class:`UsageError` where training arrays of ``needed`` bytes cannot live in the memory asked for."""
    room = free.device if residency == "gpu" else free.host
    if room is not None and needed > room:
        where = "GPU memory" if residency == "gpu" else "host memory"
        raise UsageError(
            f"residency {residency}: the training arrays take {needed:,} bytes, and {room:,} bytes of {where} are "
            "free: choose --residency stream, train on fewer images (--limit), or leave the choice to deapcache"
        )
