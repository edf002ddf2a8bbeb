"""FeatUp's stack tap by tap against unfold and einsum, forward and backward, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from deapcache_featup import published_state, upsampled_by_formula
from deapcache_readouts import draw

from deapcache.readouts import featup
from deapcache.readouts.featup import JointBilateralStack, filter_locally


@pytest.mark.parametrize(("batch", "channels", "height", "width"), [(1, 1, 1, 1), (2, 3, 5, 4), (3, 2, 2, 9)])
def test_the_local_filter_is_unfold_and_einsum(batch: int, channels: int, height: int, width: int) -> None:
    source = draw(batch, channels, height + 6, width + 6).double().requires_grad_()
    kernels = draw(batch, 49, height, width, seed=1).double()
    unfolded = F.unfold(source, 7).view(batch, channels, 49, height, width)
    expected = torch.einsum("bcphw,bphw->bchw", unfolded, kernels)
    filtered = filter_locally(source, kernels)
    torch.testing.assert_close(filtered, expected, rtol=1e-12, atol=1e-12)
    weights = draw(*filtered.shape, seed=2).double()
    (ours,) = torch.autograd.grad((filtered * weights).sum(), source)
    (theirs,) = torch.autograd.grad((expected * weights).sum(), source)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(filter_locally, (source, kernels))


# An image as fine as the output; one that is coarser than it, pooled to a larger size; and one that is not square.
@pytest.mark.parametrize(("grid", "image"), [((3, 3), (48, 48)), ((3, 4), (20, 30)), ((2, 5), (64, 48))])
def test_the_stack_is_the_published_one(grid: tuple[int, int], image: tuple[int, int]) -> None:
    state = {name: tensor.double() for name, tensor in published_state(6).items()}
    stack = JointBilateralStack(6).double()
    stack.load_state_dict(state, strict=False)
    source, guide = draw(2, 5, *grid).double().requires_grad_(), draw(2, 3, *image, seed=1).double()
    output, expected = stack.upsample(source, guide), upsampled_by_formula(state, source, guide)
    assert output.shape == (2, 5, 16 * grid[0], 16 * grid[1])
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)
    weights = draw(*output.shape, seed=2).double()
    (ours,) = torch.autograd.grad((output * weights).sum(), source)
    (theirs,) = torch.autograd.grad((expected * weights).sum(), source)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("strip", [1, 100, 10**9])
def test_strips_make_no_difference(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    upsampler, image = JointBilateralStack(6).up1, draw(2, 3, 22, 14)
    monkeypatch.setattr(featup, "CPU_STRIP", 7 * 2 * 14)  # seven rows, and a last strip of one
    expected = upsampler.kernels(image)
    monkeypatch.setattr(featup, "CPU_STRIP", strip)
    torch.testing.assert_close(upsampler.kernels(image), expected)


def test_extreme_temperatures_are_clamped_as_published() -> None:
    state = {name: tensor.double() for name, tensor in published_state(6).items()}
    state["up1.range_temp"], state["up2.range_temp"] = torch.tensor(30.0).double(), torch.tensor(-30.0).double()
    stack = JointBilateralStack(6).double()
    stack.load_state_dict(state, strict=False)
    source, guide = draw(1, 2, 2, 2).double(), draw(1, 3, 32, 32, seed=1).double()
    torch.testing.assert_close(stack.upsample(source, guide), upsampled_by_formula(state, source, guide))


def test_the_names_are_the_published_ones_and_nothing_is_trainable() -> None:
    stack = JointBilateralStack(24)
    ours = {name: tensor.shape for name, tensor in stack.state_dict().items() if not name.startswith("norm.")}
    assert ours == {name: tensor.shape for name, tensor in published_state(24).items()}
    assert not any(parameter.requires_grad for parameter in stack.parameters())
