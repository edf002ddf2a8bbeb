"""The task of surface normals, against plain NumPy with arc cosines over all pixels together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deapcache.errors import DataError, UsageError
from deapcache.tasks import get_task

SIZE = (6, 7)


def _maps(seed: int, images: int = 3) -> torch.Tensor:
    """(B, h, w, 3) float16 unit vectors, a fifth of them unknown."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal((0, 0, -1), size=(images, *SIZE, 3))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    vectors[rng.random((images, *SIZE)) < 0.2] = 0
    return torch.from_numpy(vectors.astype(np.float16))


def _degrees(output: torch.Tensor, maps: torch.Tensor) -> np.ndarray:
    wanted = maps.double().numpy()
    known = (wanted != 0).any(-1)
    wanted = wanted[known] / np.linalg.norm(wanted[known], axis=-1, keepdims=True)
    found = output.double().permute(0, 2, 3, 1).numpy()[known]
    found /= np.linalg.norm(found, axis=-1, keepdims=True)
    return np.degrees(np.arccos(np.clip((found * wanted).sum(-1), -1, 1)))


def test_scores_are_those_of_all_known_pixels_together() -> None:
    task, maps = get_task("normals"), _maps(0)
    output = F.normalize(maps.float().permute(0, 3, 1, 2), dim=1) + 0.7 * torch.randn(3, 3, *SIZE)
    statistics = {name: v.numpy() for name, v in task.statistics(5 * output, task.target({"normals": maps})).items()}
    scores, degrees = task.scores(statistics), _degrees(output, maps)
    assert scores["angle"] == pytest.approx(degrees.mean(), abs=0.03)  # float16 targets
    assert scores["rms_angle"] == pytest.approx(np.sqrt((degrees**2).mean()), abs=0.03)
    assert scores["median_angle"] == pytest.approx(np.median(degrees), abs=2.5)  # of few angles, some degrees apart
    for name, limit in (("within_11", 11.25), ("within_22", 22.5), ("within_30", 30)):
        assert scores[name] == pytest.approx((degrees < limit).mean(), abs=1e-9)
    once = task.scores({name: values[[1, 1]] for name, values in statistics.items()})
    assert once["angle"] == pytest.approx(_degrees(output[1:2], maps[1:2]).mean(), abs=0.03)


def test_the_median_of_many_angles_is_exact_to_a_tenth_of_a_degree() -> None:
    task = get_task("normals")
    target = torch.tensor([0.0, 0.0, -1.0]).expand(1, 100, 100, 3)
    output = F.normalize(torch.randn(1, 3, 100, 100, generator=torch.Generator().manual_seed(0)), dim=1)
    scores = task.scores({n: v.numpy() for n, v in task.statistics(output, task.target({"normals": target})).items()})
    assert scores["median_angle"] == pytest.approx(np.median(_degrees(output, target)), abs=0.1)


@pytest.mark.parametrize("loss", ["cosine", "angular"])
def test_losses_and_their_gradients(loss: str) -> None:
    task, maps = get_task("normals", {"loss": loss}), _maps(1)
    target = task.target({"normals": maps})
    output = torch.randn(3, 3, *SIZE, requires_grad=True)
    degrees = _degrees(output.detach(), maps)
    expected = (1 - np.cos(np.radians(degrees))).mean() if loss == "cosine" else np.radians(degrees).mean()
    assert task.loss(output, target).item() == pytest.approx(expected, abs=1e-3)
    exact = target.clone().requires_grad_()  # perfect, and zero vectors where nothing is known
    task.loss(exact, target).backward()
    assert torch.isfinite(exact.grad).all()
    assert task.loss(output, torch.zeros_like(target)).item() == 0
    assert task.options["loss"] == loss


def test_what_the_image_does_not_tell() -> None:
    task = get_task("normals")
    maps = torch.zeros(4, 1, 2, 3)
    maps[:, 0, 0] = torch.tensor([0.0, 0.6, -0.8])  # the second pixel is known in one image
    maps[0, 0, 1] = torch.tensor([1.0, 0.0, 0.0])
    target = task.target({"normals": maps})
    baseline = task.constant_baseline([target[:2], target[2:]], ())
    torch.testing.assert_close(
        baseline[:, 0, 0], F.normalize(torch.tensor([0.05, 0.6, -0.8]), dim=0), atol=0.05, rtol=0
    )
    assert baseline[0, 0, 1] > 0.5
    torch.testing.assert_close(F.normalize(task.output_bias(target), dim=0), task.output_bias(target))
    with pytest.raises(DataError, match="no training target has a pixel with a known normal"):
        task.output_bias(torch.zeros(1, 3, 2, 2))
    with pytest.raises(UsageError, match="loss is 'l1', expected one of cosine, angular"):
        get_task("normals", {"loss": "l1"})
    nothing = {n: v.numpy() for n, v in task.statistics(torch.randn(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)).items()}
    assert np.isnan(list(task.scores(nothing).values())).all()


def test_the_prior_has_a_smaller_mean_angle_than_the_mean_direction() -> None:
    """Two walls, at right angles: the one that is seen more often is the answer, not what lies between them."""
    task = get_task("normals")
    walls = torch.eye(3)[(torch.rand(300, generator=torch.Generator().manual_seed(0)) < 0.35).long()]
    target = task.target({"normals": walls[:, None, None]})
    baseline = task.constant_baseline(target.split(32), ())
    mean = F.normalize(target.mean(0), dim=0)
    angle = {}
    for name, output in (("prior", baseline), ("mean", mean)):
        statistics = task.statistics(output.expand(300, -1, -1, -1), target)
        angle[name] = task.scores({key: values.numpy() for key, values in statistics.items()})["angle"]
    assert angle["prior"] < angle["mean"] - 3
    assert angle["prior"] == pytest.approx(90 * 0.35, abs=4)


def test_means_of_neighbours_are_outputs() -> None:
    task = get_task("normals")
    target = task.target({"normals": _maps(2)})
    values, valid = task.dense_values(target)
    assert values.shape == (3, 3, *SIZE)
    assert valid.shape == (3, *SIZE)
    statistics = task.statistics(task.output_of_mean(values), target)
    assert task.scores({name: each.numpy() for name, each in statistics.items()})["angle"] < 0.1
