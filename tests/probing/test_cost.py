"""What is deterministic about a readout's cost."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from deapcache_readouts import draw, draw_images, make
from torch import Tensor, nn

from deapcache.probing.evaluate import measure_cost
from deapcache.readouts import Readout, ReadoutConfig


class Keeps(torch.autograd.Function):
    """Keeps what it is told to, as fused attention does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor) -> Tensor:
        ctx.save_for_backward(kept)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class Toy(Readout):
    """Sums the channels, times one learned factor."""

    def __init__(self, *, extra: int = 0) -> None:
        super().__init__(ReadoutConfig(feature_dim=8, out_channels=1, grid=(3, 3)))
        self.factor = nn.Parameter(torch.ones(1))
        self.register_buffer("constant", torch.ones(1000))
        self.extra = extra
        self.batches: list[int] = []

    def forward(self, features_BHWD: Tensor, output_size: tuple[int, int], guidance: Tensor | None = None) -> Tensor:
        self.batches.append(len(features_BHWD))
        output = self.factor * features_BHWD * self.constant[0]
        if self.extra:
            output = Keeps.apply(output, torch.zeros(self.extra, len(features_BHWD)))
        return output.sum(-1)[:, None]

    def set_output_bias(self, values: Tensor) -> None:
        """There is none."""


def test_it_is_plain_data() -> None:
    cost = measure_cost([make("deap")], draw(6, 5, 5, 24), (32, 32))
    assert set(cost) == {
        "images", "train_ms_per_image", "predict_ms_per_image", "backward_bytes_per_image", "peak_bytes",
    }  # fmt: skip
    assert json.loads(json.dumps(cost)) == cost
    assert cost["train_ms_per_image"] > 0
    assert cost["predict_ms_per_image"] > 0
    assert cost["peak_bytes"] is None


@pytest.mark.parametrize(("batch", "images"), [(1, 1), (4, 4), (32, 4)])
def test_few_images_are_measured(batch: int, images: int) -> None:
    readout = Toy()
    assert measure_cost([readout], draw(batch, 3, 3, 8), (8, 8))["images"] == images
    assert set(readout.batches) == {images}
    assert len(readout.batches) <= 1 + 5 + 5


def kept(*readouts: Readout, batch: int = 4) -> int:
    return measure_cost(readouts, draw(batch, 3, 3, 8), (8, 8))["backward_bytes_per_image"]


def test_bytes_are_those_that_autograd_keeps() -> None:
    # of Toy: the product of factor and features, which the buffer multiplies, is not needed (the buffer is no leaf that
    # learns), features and the buffer are there anyway; the squared mean keeps its input, one number a pixel and image
    assert kept(Toy()) == 4 * 3 * 3
    # and what an autograd function keeps counts
    assert kept(Toy(extra=100)) == 4 * 3 * 3 + 4 * 100


def test_readouts_of_one_task_add_up() -> None:
    one = kept(Toy(extra=100))
    assert kept(Toy(extra=100), Toy(extra=100)) == 2 * one
    assert kept(Toy(extra=100), batch=1) == one


def test_attention_is_not_kept_for_every_image() -> None:
    """The heads' attention would take 8 · 784 · 196 numbers an image at this size."""
    cost = measure_cost([make("deap", grid=(14, 14))], draw(4, 14, 14, 24), (224, 224))
    assert cost["backward_bytes_per_image"] < 0.7 * 4 * 8 * 784 * 196


def test_guidance_reaches_the_readout() -> None:
    seen: list[tuple[int, ...]] = []

    class Guided(Toy):
        def forward(
            self, features_BHWD: Tensor, output_size: tuple[int, int], guidance: Tensor | None = None
        ) -> Tensor:
            assert guidance is not None
            seen.append(tuple(guidance.shape))
            return super().forward(features_BHWD, output_size)

    measure_cost([Guided()], draw(6, 3, 3, 8), (8, 8), draw_images(6, 16, 16, 3))
    assert set(seen) == {(4, 16, 16, 3)}


def test_nothing_is_left_behind() -> None:
    readout = make("bicubic")
    before = {name: tensor.clone() for name, tensor in readout.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    measure_cost([readout], draw(2, 5, 5, 24), (32, 32))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in readout.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in readout.state_dict().items())
