"""The DeAP readout: parameter counts of the paper, equality with the formula, geometry, training behaviour."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from deapcache_readouts import WAYS, draw_uneven, fitted, standardised
from torch import Tensor

from deapcache.errors import UnknownNameError
from deapcache.readouts import READOUTS, Readout, build_readout


def make(name: str = "deap", *, feature_dim: int = 24, out_channels: int = 1, grid: tuple[int, int] = (5, 5), **more):
    return build_readout(name, feature_dim=feature_dim, out_channels=out_channels, grid=grid, **{"seed": 0, **more})


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def count(readout: torch.nn.Module) -> int:
    return sum(p.numel() for p in readout.parameters())


@pytest.mark.parametrize(
    ("out_channels", "cnn_width", "expected"),
    [(1, None, 43_264), (2, None, 43_272), (32, None, 53_448), (21, None, 47_159), (171, 32, 87_758)],
)
def test_parameter_counts_of_vit_b(out_channels: int, cnn_width: int | None, expected: int) -> None:
    assert count(make(feature_dim=768, out_channels=out_channels, cnn_width=cnn_width)) == expected


# Tables 3 and 4, millions: discrimination, boundaries and depth, detection, VOC, COCO-Stuff, by feature width.
PRINTED = {
    256: (0.028, 0.018, 0.035, 0.022, 0.062),
    768: (0.053, 0.043, 0.087, 0.047, 0.088),
    896: (0.060, 0.050, 0.099, 0.054, 0.094),
    1024: (0.066, 0.056, 0.112, 0.060, 0.101),
    1152: (0.073, 0.062, 0.125, 0.066, 0.107),
}


@pytest.mark.parametrize("feature_dim", PRINTED)
def test_every_printed_parameter_count_of_the_paper(feature_dim: int) -> None:
    def millions(*shapes: tuple[int, int | None]) -> float:
        parts = (count(make(feature_dim=feature_dim, out_channels=out, cnn_width=width)) for out, width in shapes)
        return round(sum(parts) / 1e6, 3)

    ours = (
        millions((32, None)),
        millions((1, None)),
        millions((1, None), (2, None)),
        millions((21, None)),
        millions((171, 32)),
    )
    assert ours == PRINTED[feature_dim]


def formula(readout: Readout, features: Tensor, size: tuple[int, int]) -> Tensor:
    """The readout as section 3 writes it, image by image and head by head."""
    H, W = features.shape[1:3]
    rows, columns = math.ceil(size[0] / 8), math.ceil(size[1] / 8)
    longer = max(size)

    def centres(n_rows: int, n_columns: int, pitch: tuple[float, float]) -> Tensor:
        return torch.tensor(
            [
                [(i + 0.5) * pitch[0] / longer, (j + 0.5) * pitch[1] / longer]
                for i in range(n_rows)
                for j in range(n_columns)
            ],
            dtype=features.dtype,
        )

    def code(places: Tensor) -> Tensor:
        y, x = places.T * math.pi
        angles = [y, 2 * y, x, 2 * x]
        return torch.stack([a.sin() for a in angles] + [a.cos() for a in angles], -1)

    tall, wide = readout.config.covered
    regions, cells = centres(rows, columns, (8, 8)), centres(H, W, (tall * size[0] / H, wide * size[1] / W))
    squares = torch.cdist(regions, cells) ** 2
    queries = readout.query(code(regions))
    outputs = []
    for image in features.flatten(1, 2):
        tokens = readout.norm(torch.cat([code(cells), standardised(image, readout)], -1))
        keys, values, heads = readout.key(tokens), readout.value(tokens), []
        for h in range(8):
            logits = queries[:, 2 * h : 2 * h + 2] @ keys[:, 2 * h : 2 * h + 2].T / math.sqrt(2)
            if readout.sigma() is not None:
                sigma = readout.sigma()[h]
                logits = logits + torch.exp(-squares / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
            heads.append(logits.softmax(-1) @ values[:, 4 * h : 4 * h + 4])
        x = readout.ffn(torch.cat(heads, -1)).T.reshape(1, 16, rows, columns)
        entered = x = readout.cnn.entry(x)
        for block in readout.cnn.blocks:
            x = block.upsampling(block.convolution(x)).clamp(min=0)
        skip = F.interpolate(readout.cnn.skip(entered), scale_factor=8, mode="bilinear", align_corners=False)
        outputs.append((readout.cnn.final(x) + skip)[0, :, : size[0], : size[1]])
    return torch.stack(outputs)


@WAYS
@pytest.mark.parametrize("name", ["deap", "no-sigma"])
@pytest.mark.parametrize(("size", "grid"), [((64, 64), (5, 5)), ((40, 72), (6, 3)), ((21, 13), (2, 3))])
def test_output_and_gradients_are_those_of_the_formula(
    name: str, size: tuple[int, int], grid: tuple[int, int], way: dict[str, Any]
) -> None:
    features = draw_uneven(3, *grid, 24)
    readout = fitted(make(name, out_channels=3, grid=grid, **way), features)
    with torch.no_grad():  # away from the neutral start
        readout.norm.weight.copy_(draw(32, seed=1))
        readout.norm.bias.copy_(draw(32, seed=2))
    expected = formula(copy.deepcopy(readout).double(), features.double(), size)
    output = readout(features, size)
    assert output.shape == (3, 3, *size)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-5)

    reference = copy.deepcopy(readout).double()
    weights = draw(*output.shape, seed=3)
    (output * weights).sum().backward()
    (formula(reference, features.double(), size) * weights).sum().backward()
    for (label, ours), theirs in zip(readout.named_parameters(), reference.parameters(), strict=True):
        scale = theirs.grad.abs().max().clamp(min=1e-3)
        assert (ours.grad - theirs.grad).abs().max() < 1e-3 * scale, label


def test_feature_scale_and_offset_drop_out() -> None:
    readout, features = make(), draw(2, 5, 5, 24)
    expected = readout(features, (32, 32))
    torch.testing.assert_close(readout(features * 1e-3 + 0.01, (32, 32)), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(readout(features * 1e3, (32, 32)), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(readout(features.half(), (32, 32)), expected, rtol=1e-2, atol=1e-2)


def test_a_constant_cell_gives_a_finite_output() -> None:
    assert make()(torch.zeros(1, 5, 5, 24), (32, 32)).isfinite().all()


def test_autocast_keeps_attention_and_output_in_float32() -> None:
    readout, features = make(), draw(2, 5, 5, 24)
    with torch.no_grad():
        readout.log_sigma.fill_(-8.0)  # a mask of 40 logits, beyond bfloat16's steps
    expected = readout(features, (32, 32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = readout(features, (32, 32))
        output.sum().backward()
    assert output.dtype == torch.float32
    assert readout.log_sigma.grad.isfinite().all()
    torch.testing.assert_close(output, expected, rtol=0.05, atol=0.02)


def test_another_grid_and_size_may_be_asked_for_after_training() -> None:
    readout = make(grid=(5, 5))
    assert readout(draw(1, 9, 4, 24), (112, 56)).shape == (1, 1, 112, 56)
    seen = []
    readout.ffn.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    readout(draw(1, 5, 5, 24), (64, 64))
    readout(draw(1, 5, 5, 24), (192, 192))
    coarse, fine = seen[0].view(8, 8, 32), seen[1].view(24, 24, 32)
    torch.testing.assert_close(fine[1::3, 1::3], coarse)  # regions at the same places see the same


def test_sigma_starts_spread_and_stays_above_its_floor() -> None:
    torch.testing.assert_close(
        make(grid=(37, 37)).sigma().detach(), torch.logspace(math.log10(0.03), math.log10(0.5), 8)
    )
    assert math.isclose(make(grid=(7, 9)).sigma()[0].item(), 0.5 / 7, rel_tol=1e-5)
    readout = make()
    with torch.no_grad():
        readout.log_sigma.fill_(-50.0)
    assert (readout.sigma() >= 0.01).all()
    assert make("no-sigma").sigma() is None


def test_sigma_learns_ten_times_as_fast_without_weight_decay() -> None:
    readout = make()
    others, sigma = readout.parameter_groups(1e-3, 1e-4)
    assert (others["lr"], others["weight_decay"]) == (1e-3, 1e-4)
    assert (sigma["lr"], sigma["weight_decay"]) == (1e-2, 0.0)
    assert [id(p) for p in sigma["params"]] == [id(readout.log_sigma)]
    assert sum(p.numel() for g in (others, sigma) for p in g["params"]) == count(readout)
    assert len(make("no-sigma").parameter_groups(1e-3, 1e-4)) == 1
    torch.optim.AdamW([others, sigma])


def test_no_sigma_is_deap_less_eight_parameters() -> None:
    assert count(make()) - count(make("no-sigma")) == 8


def test_the_output_bias_is_set_once() -> None:
    readout, features = make(out_channels=2), draw(1, 5, 5, 24)
    before = readout(features, (16, 16))
    readout.set_output_bias(torch.tensor([2.0, -3.0]))
    after = readout(features, (16, 16))
    torch.testing.assert_close(after - before, torch.tensor([2.0, -3.0]).view(1, 2, 1, 1).expand_as(before))
    biases = sorted([readout.cnn.final.bias.abs().sum().item(), readout.cnn.skip.bias.abs().sum().item()])
    assert biases == [0.0, 5.0]


def test_convolution_biases_start_at_zero() -> None:
    biases = [m.bias for m in make().modules() if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d)]
    assert len(biases) == 9
    assert all((b == 0).all() for b in biases)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_dead_at_the_start(seed: int) -> None:
    readout, features = make(seed=seed), draw(2, 5, 5, 24, seed=seed)
    readout(features, (64, 64)).square().sum().backward()
    # a channel that the last ReLU holds at 0 gives the final weight no gradient
    assert (readout.cnn.final.weight.grad != 0).all()
    for label, parameter in readout.named_parameters():
        # A bias of the keys adds one number to all logits of a query, which the softmax takes away again.
        assert label == "key.bias" or parameter.grad.abs().max() > 1e-6, label


def test_a_seed_decides_the_start_and_disturbs_nothing() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second, other = make(seed=1), make(seed=1), make(seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.key.weight, other.key.weight)


def test_it_learns_which_cells_are_bright() -> None:
    readout, features = make(), draw(4, 5, 5, 24)
    target = F.interpolate((features[..., :1] > 0).float().permute(0, 3, 1, 2), size=(40, 40), mode="nearest")
    optimiser = torch.optim.AdamW(readout.parameter_groups(1e-2, 1e-4))
    losses = []
    for _ in range(40):
        loss = F.binary_cross_entropy_with_logits(readout(features, (40, 40)), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_options_are_json_and_the_same_for_every_backbone() -> None:
    assert make(grid=(7, 7), feature_dim=8).options == make(grid=(37, 37), feature_dim=16).options
    assert make().options != make("no-sigma").options
    assert make(out_channels=21).options["cnn_width"] == 10
    assert make(out_channels=171, cnn_width=32).options["cnn_width"] == 32


def test_names() -> None:
    assert {"deap", "no-sigma"} <= set(READOUTS.names())
    with pytest.raises(UnknownNameError, match="no-sigma"):
        make("nosigma")
