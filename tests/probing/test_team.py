"""Readouts that are trained as one learn what each would learn alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deapcache.probing.learner import Learner
from deapcache.probing.posed import PosedTask
from deapcache.probing.team import Team, form_teams
from deapcache.tasks import get_task

GRID, DIM, SIZE, STEPS, BATCH = (5, 6), 24, (40, 48), 20, 3


def pose(name: str, *, iterations: int = STEPS, classes: tuple[str, ...] = ()) -> PosedTask:
    return PosedTask(
        task=get_task(name),
        backbone="toy",
        classes=classes,
        output_size=SIZE,
        grid=GRID,
        feature_dim=DIM,
        iterations=iterations,
    )


def learner(posed: PosedTask, readout: str = "deap", *, seed: int = 0, lr: float = 1e-2) -> Learner:
    made = Learner(posed, readout, seed=seed, lr=lr)
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


def states(learners: list[Learner]) -> list[dict[str, torch.Tensor]]:
    return [{n: v.clone() for n, v in head.state_dict().items()} for one in learners for head in one.heads]


@pytest.mark.parametrize("readout", ["deap", "no-sigma", "no-indiv-sigma", "only-mask", "8-dim", "bicubic"])
def test_stacked_learn_what_each_learns_alone(readout: str) -> None:
    """Five of one shape, of two tasks, three seeds and two learning rates, in float64 over 20 steps."""
    foreground, depth = pose("foreground"), pose("depth")
    asked = [(foreground, 0, 1e-2), (foreground, 1, 1e-2), (depth, 0, 1e-2), (foreground, 2, 3e-3), (depth, 5, 1e-2)]

    def fresh() -> list[Learner]:
        return [learner(posed, readout, seed=seed, lr=lr) for posed, seed, lr in asked]

    together, alone = fresh(), fresh()
    before = states(together)
    teams = [Team(together, 1e-4)], [Team([one], 1e-4) for one in alone]
    for features, targets in batches():
        for team in (*teams[0], *teams[1]):
            team.step(features, None, targets)
    for start, ours, theirs in zip(before, states(together), states(alone), strict=True):
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], rtol=1e-7, atol=1e-9, msg=name)
        assert not torch.equal(start["cnn.final.weight"], ours["cnn.final.weight"])
    for ours, theirs in zip(together, alone, strict=True):
        np.testing.assert_allclose(ours.loss_curve(), theirs.loss_curve(), rtol=1e-5)


def test_those_of_one_shape_are_a_team() -> None:
    foreground, depth = pose("foreground"), pose("depth")
    longer, segmentation = pose("boundaries", iterations=30), pose("segmentation", classes=("a", "b", "c"))
    one_channel = [learner(foreground), learner(depth), learner(foreground, lr=1e-3), learner(foreground, seed=1)]
    apart = [learner(longer), learner(segmentation), learner(foreground, "deap:32")]
    teams = form_teams([one_channel[0], *apart, *one_channel[1:]], 1e-4)
    assert sorted(len(team.learners) for team in teams) == [1, 1, 1, 4]
    assert next(team for team in teams if len(team.learners) == 4).learners == one_channel


def test_a_team_is_not_too_large() -> None:
    posed = pose("foreground")
    sizes = [len(team.learners) for team in form_teams([learner(posed, seed=s) for s in range(20)], 1e-4)]
    assert sizes == [16, 4]


@pytest.mark.parametrize(("learners", "lanes", "sizes"), [(8, 2, [4, 4]), (3, 64, [1, 1, 1]), (40, 2, [16, 16, 8])])
def test_teams_share_the_lanes(learners: int, lanes: int, sizes: list[int]) -> None:
    posed = pose("foreground")
    teams = form_teams([learner(posed, seed=s) for s in range(learners)], 1e-4, lanes=lanes)
    assert [len(team.learners) for team in teams] == sizes


def test_two_readouts_of_one_task_are_stacked_each_with_its_own_kind() -> None:
    """Detection's centres and sizes: the output is theirs side by side, whatever the company."""
    posed = pose("detection")
    pair = [learner(posed, seed=0), learner(posed, seed=1)]
    (team,) = form_teams(pair, 1e-4)
    features = batches()[0][0]
    with torch.no_grad():
        for one, output in zip(pair, team.outputs(features, None), strict=True):
            expected = torch.cat([head(features, SIZE) for head in one.heads], 1)
            assert output.shape == (BATCH, 3, *SIZE)
            torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)
