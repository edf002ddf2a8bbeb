"""Readouts that are trained as one learn what each would learn alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deapcache.probing import ReadoutTrainer, StackedGroup, TaskSpec
from deapcache.probing.train import stack_trainers
from deapcache.tasks import get_task

GRID, DIM, SIZE, STEPS, BATCH = (5, 6), 24, (40, 48), 20, 3


def spec_of(name: str, *, iterations: int = STEPS, classes: tuple[str, ...] = ()) -> TaskSpec:
    return TaskSpec(
        task=get_task(name),
        backbone="toy",
        classes=classes,
        output_size=SIZE,
        grid=GRID,
        feature_dim=DIM,
        iterations=iterations,
    )


def trainer(spec: TaskSpec, readout: str = "deap", *, seed: int = 0, lr: float = 1e-2) -> ReadoutTrainer:
    made = ReadoutTrainer(spec, readout, seed=seed, lr=lr)
    for head in made.heads:
        head.double()
    return made


def batches() -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(STEPS):
        features = torch.randn(BATCH, *GRID, DIM, generator=generator, dtype=torch.float64)
        maps = (features[..., 0] > 0.3).repeat_interleave(8, 1).repeat_interleave(8, 2)
        targets = {
            "foreground": maps.to(torch.uint8),
            "boundaries": (~maps).to(torch.uint8),
            "depth": 2.0 + maps.double(),
            "segmentation": maps.long(),
        }
        made.append((features, targets))
    return made


def states(trainers: list[ReadoutTrainer]) -> list[dict[str, torch.Tensor]]:
    return [{n: v.clone() for n, v in head.state_dict().items()} for one in trainers for head in one.heads]


@pytest.mark.parametrize("readout", ["deap", "no-sigma", "no-indiv-sigma", "only-mask", "8-dim", "bicubic"])
def test_stacked_learn_what_each_learns_alone(readout: str) -> None:
    """Five of one shape, of two tasks, three seeds and two learning rates, in float64 over 20 steps."""
    foreground, depth = spec_of("foreground"), spec_of("depth")
    asked = [(foreground, 0, 1e-2), (foreground, 1, 1e-2), (depth, 0, 1e-2), (foreground, 2, 3e-3), (depth, 5, 1e-2)]

    def fresh() -> list[ReadoutTrainer]:
        return [trainer(spec, readout, seed=seed, lr=lr) for spec, seed, lr in asked]

    together, alone = fresh(), fresh()
    before = states(together)
    groups = [StackedGroup(together, 1e-4)], [StackedGroup([one], 1e-4) for one in alone]
    for features, targets in batches():
        for group in (*groups[0], *groups[1]):
            group.step(features, None, targets)
    for start, ours, theirs in zip(before, states(together), states(alone), strict=True):
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], rtol=1e-7, atol=1e-9, msg=name)
        assert not torch.equal(start["cnn.final.weight"], ours["cnn.final.weight"])
    for ours, theirs in zip(together, alone, strict=True):
        np.testing.assert_allclose(ours.loss_curve(), theirs.loss_curve(), rtol=1e-5)


def test_those_of_one_shape_are_a_group() -> None:
    foreground, depth = spec_of("foreground"), spec_of("depth")
    longer, segmentation = spec_of("boundaries", iterations=30), spec_of("segmentation", classes=("a", "b", "c"))
    one_channel = [trainer(foreground), trainer(depth), trainer(foreground, lr=1e-3), trainer(foreground, seed=1)]
    apart = [trainer(longer), trainer(segmentation), trainer(foreground, "deap:32")]
    groups = stack_trainers([one_channel[0], *apart, *one_channel[1:]], 1e-4)
    assert sorted(len(group.trainers) for group in groups) == [1, 1, 1, 4]
    assert next(group for group in groups if len(group.trainers) == 4).trainers == one_channel


def test_a_group_is_not_too_large() -> None:
    spec = spec_of("foreground")
    sizes = [len(group.trainers) for group in stack_trainers([trainer(spec, seed=s) for s in range(20)], 1e-4)]
    assert sizes == [16, 4]


@pytest.mark.parametrize(("trainers", "threads", "sizes"), [(8, 2, [4, 4]), (3, 64, [1, 1, 1]), (40, 2, [16, 16, 8])])
def test_groups_share_the_threads(trainers: int, threads: int, sizes: list[int]) -> None:
    spec = spec_of("foreground")
    groups = stack_trainers([trainer(spec, seed=s) for s in range(trainers)], 1e-4, threads=threads)
    assert [len(group.trainers) for group in groups] == sizes


def test_two_readouts_of_one_task_are_stacked_each_with_its_own_kind() -> None:
    """Detection's centres and sizes: the output is theirs side by side, whatever the company."""
    spec = spec_of("detection")
    pair = [trainer(spec, seed=0), trainer(spec, seed=1)]
    (group,) = stack_trainers(pair, 1e-4)
    features = batches()[0][0]
    with torch.no_grad():
        for one, output in zip(pair, group.outputs(features, None), strict=True):
            expected = torch.cat([head(features, SIZE) for head in one.heads], 1)
            assert output.shape == (BATCH, 3, *SIZE)
            torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)
