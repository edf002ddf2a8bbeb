"""What a readout costs: time and memory of a training step and of a prediction, measured where it is trained.

The paper holds FeatUp's cost against its parameters (section 5.2): it is four times that of dense attentive probing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from deapcache.machine import seconds_of
from deapcache.readouts import Readout

IMAGES = 4
"""Measured on so many images of a batch at most."""

_REPEATS = 5
_SECONDS = 0.2
"""No repetition is begun after so long."""


def measure_cost(
    readouts: Sequence[Readout], features_BHWD: Tensor, output_size: tuple[int, int], guidance: Tensor | None = None
) -> dict[str, Any]:
    """Cost of all ``readouts`` of one task together, on the first images of a batch, as JSON values.

    Takes three training steps and a prediction, and up to half a second for more of them where they are fast.
    Parameters, their gradients and the random state are left as they were.

    Parameters
    ----------
    features_BHWD, output_size, guidance
        As :meth:`Readout.forward` takes them, on the readouts' device.

    Returns
    -------
    dict
        ``images``: how many were measured. ``train_ms_per_image``: forward and backward, the median of a few.
        ``predict_ms_per_image``. ``backward_bytes_per_image``: what the forward pass keeps for the backward pass, less
        parameters, buffers, features and guidance, which are there anyway. ``peak_bytes``: of device memory during a
        step, above what was in use before; ``None`` where the device does not count it.
    """
    features, guide = features_BHWD[:IMAGES], None if guidance is None else guidance[:IMAGES]
    images, device = len(features), features.device
    learnable = [p for readout in readouts for p in readout.parameters() if p.requires_grad]

    def forward() -> Tensor:
        outputs = [readout(features, output_size, guide) for readout in readouts]
        return torch.stack([output.square().mean() for output in outputs]).sum()

    def step() -> None:
        torch.autograd.grad(forward(), learnable)

    @torch.no_grad()
    def predict() -> None:
        forward()

    present = [features, *([] if guide is None else [guide]), *_state_of(readouts)]
    with _kept_bytes(present) as kept:
        step()
    return {
        "images": images,
        "train_ms_per_image": _median_ms(step, device) / images,
        "predict_ms_per_image": _median_ms(predict, device) / images,
        "backward_bytes_per_image": round(sum(kept.values()) / images),
        "peak_bytes": _peak_bytes(step, device),
    }


def _state_of(readouts: Sequence[Readout]) -> Iterator[Tensor]:
    for readout in readouts:
        yield from readout.parameters()
        yield from readout.buffers()


@contextmanager
def _kept_bytes(present: Sequence[Tensor]) -> Iterator[dict[int, int]]:
    """Address → bytes of each storage that autograd keeps a tensor of in the block; one counts once."""
    known = {tensor.untyped_storage().data_ptr() for tensor in present}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield kept


def _median_ms(run: Callable[[], None], device: torch.device) -> float:
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < _REPEATS and (not times or time.perf_counter() - begun < _SECONDS):
        times.append(1e3 * seconds_of(run, device))
    return statistics.median(times)


def _peak_bytes(step: Callable[[], None], device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    return torch.cuda.max_memory_allocated(device) - before
