"""Instance discrimination against hand-made numbers, PyTorch and scikit-learn."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from deapcache.errors import DataError, UsageError
from deapcache.tasks import Task, get_task
from deapcache.tasks.discrimination import LARGE

PIXELS = 256


def ids(*maps: list[list[int]]) -> Tensor:
    return torch.tensor(maps, dtype=torch.int32)


def tables(*areas: list[float], image: tuple[int, int] = (100, 100), kind: int = 1) -> Tensor:
    """``boxes`` tables of images of one size whose objects have these areas."""
    rows = 1 + max(len(each) for each in areas)
    boxes = torch.zeros(len(areas), rows, 7, dtype=torch.float64)
    boxes[:, 0] = torch.tensor([0, 0, image[1], image[0], image[0] * image[1], 3, 0])
    for place, each in enumerate(areas):
        boxes[place, 1 : 1 + len(each), 4] = torch.tensor(each)
        boxes[place, 1 : 1 + len(each), 5] = kind
    return boxes


THREE_LARGE = [5000.0, 5000.0, 5000.0]


def target(instances: Tensor, boxes: Tensor | None = None) -> Any:
    boxes = tables(*[THREE_LARGE] * len(instances)) if boxes is None else boxes
    return get_task("discrimination").target({"instances": instances, "boxes": boxes})


def arrays(task: Task, output: Tensor, wanted: Any) -> dict[str, np.ndarray]:
    return {name: values.numpy() for name, values in task.statistics(output, wanted).items()}


def embedding_of(values: Tensor) -> Tensor:
    """(B, 32, h, w): a value's own direction at each pixel."""
    return F.one_hot(values.long() % 32, 32).permute(0, 3, 1, 2).float()


def scene(seed: int = 0, images: int = 3, size: tuple[int, int] = (24, 30)) -> Tensor:
    """Instance maps of five to seven rectangles; one in the second image is a crowd."""
    generator = np.random.default_rng(seed)
    maps = np.zeros((images, *size), np.int32)
    for one in maps:
        for number in range(1, int(generator.integers(6, 9))):
            y, x = generator.integers(0, size[0] - 6), generator.integers(0, size[1] - 6)
            one[y : y + generator.integers(3, 9), x : x + generator.integers(3, 9)] = number
    maps[1][maps[1] == 2] = -1
    return torch.from_numpy(maps)


# --- training -------------------------------------------------------------------------------------------------------


def surveyed(instances: Tensor, rows: list[int], batch: int = 2, **chosen: str) -> Task:
    task = get_task("discrimination", chosen)
    parts = range(0, len(rows), batch)
    task.scan_targets((np.array(rows[i : i + batch]), {"instances": instances[i : i + batch]}) for i in parts)
    return task


def test_each_training_instance_is_a_class() -> None:
    instances = ids([[1, 2, 0]], [[0, -1, 0]], [[3, 1, 0]], [[1, 0, 0]])  # id 2 of the third was lost on the way
    task = surveyed(instances, [7, 3, 9, 4])
    layer = task.criterion()
    assert isinstance(layer, nn.Linear)
    assert (layer.in_features, layer.out_features, layer.bias is not None) == (32, 2 + 0 + 3 + 1, True)
    drawn = task.training_target({"instances": instances[[3, 2, 1, 0]]}, np.array([4, 9, 3, 7]), torch.Generator())
    found = [sorted(set(classes.tolist())) for classes in drawn["classes"]]
    assert found == [[5], [2, 4], [-1], [0, 1]]


def test_two_layers_differ_and_are_drawn_from_the_global_generator() -> None:
    task = surveyed(scene(), [0, 1, 2])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first, second = task.criterion(), task.criterion()
        torch.manual_seed(1)
        again = task.criterion()
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    assert isinstance(again, nn.Linear)
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, second.weight)


def test_pixels_are_drawn_from_instances_alone_with_their_classes() -> None:
    instances = scene()
    task = surveyed(instances, [0, 1, 2])
    drawn = task.training_target({"instances": instances}, np.arange(3), torch.Generator().manual_seed(5))
    pixels, classes = drawn["pixels"], drawn["classes"]
    assert pixels.shape == classes.shape == (3, PIXELS)
    assert pixels.dtype == classes.dtype == torch.int64
    first = 0
    for image in range(3):
        at = instances[image].flatten()[pixels[image]]
        assert (at > 0).all()
        assert torch.equal(classes[image], first + at - 1)
        first += int(instances[image].max())
    again = task.training_target({"instances": instances}, np.arange(3), torch.Generator().manual_seed(5))
    assert torch.equal(again["pixels"], pixels)
    other = task.training_target({"instances": instances}, np.arange(3), torch.Generator().manual_seed(6))
    assert not torch.equal(other["pixels"], pixels)


def test_all_foreground_pixels_are_drawn_alike() -> None:
    instances = scene(images=2)[1:]
    task = surveyed(instances, [0])
    many = 400
    drawn = task.training_target({"instances": instances.expand(many, -1, -1)}, np.zeros(many, int), torch.Generator())
    counts = torch.bincount(drawn["pixels"].flatten(), minlength=instances.numel())
    foreground = instances.flatten() > 0
    assert (counts[~foreground] == 0).all()
    expected = many * PIXELS / int(foreground.sum())
    chi_square = ((counts[foreground] - expected) ** 2 / expected).sum()
    freedom = int(foreground.sum()) - 1
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("place", [0, 11])
def test_a_single_foreground_pixel(place: int) -> None:
    instances = torch.zeros(1, 3, 4, dtype=torch.int32)
    instances.view(-1)[place] = 1
    drawn = surveyed(instances, [0]).training_target({"instances": instances}, np.array([0]), torch.Generator())
    assert (drawn["pixels"] == place).all()
    assert (drawn["classes"] == 0).all()


@pytest.mark.parametrize("scale", ["30", "1"])
def test_the_loss_is_cross_entropy_over_all_instances(scale: str) -> None:
    instances = torch.cat([scene(), torch.zeros(1, 24, 30, dtype=torch.int32)])
    task = surveyed(instances, [0, 1, 2, 3], scale=scale)
    layer = task.criterion()
    drawn = task.training_target({"instances": instances}, np.arange(4), torch.Generator())
    output = torch.randn(4, 32, 24, 30, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = task.loss(output, drawn, layer)
    loss.backward()
    gradient, output.grad = output.grad, None
    assert isinstance(layer, nn.Linear)
    logits = layer(float(scale) * output.permute(0, 2, 3, 1)).flatten(1, 2)
    picked = logits[torch.arange(3)[:, None], drawn["pixels"][:3]]  # the last image has no instance
    expected = F.cross_entropy(picked.flatten(0, 1), drawn["classes"][:3].flatten())
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, output.grad)


def test_training_leads_to_embeddings_that_cluster_into_instances() -> None:
    instances = scene()
    task = surveyed(instances, [0, 1, 2])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = task.criterion()
        output = (0.1 * torch.randn(3, 32, 24, 30)).requires_grad_()
    assert layer is not None
    wanted, untrained = target(instances), output.detach().clone()
    optimiser = torch.optim.Adam([output, *layer.parameters()], lr=0.02)
    generator = torch.Generator()
    for _ in range(60):
        drawn = task.training_target({"instances": instances}, np.arange(3), generator)
        optimiser.zero_grad()
        task.loss(output, drawn, layer).backward()
        optimiser.step()
    assert task.scores(arrays(task, untrained, wanted))["ari"] < 0.1
    assert task.scores(arrays(task, output.detach(), wanted))["ari"] > 0.95


def test_a_dataset_without_instances_is_refused() -> None:
    with pytest.raises(DataError, match="no training target has an instance"):
        surveyed(ids([[0, -1]], [[0, 0]]), [0, 1])


# --- scores ---------------------------------------------------------------------------------------------------------


def test_a_perfect_prediction_scores_perfectly() -> None:
    task, instances = get_task("discrimination"), scene()
    statistics = arrays(task, embedding_of(instances), target(instances))
    assert statistics["ari"].tolist() == [1.0, 1.0, 1.0]
    assert statistics["objects"].tolist() == [len(one[one > 0].unique()) for one in instances]
    assert task.scores(statistics) == {
        "ari": 1.0,
        "ari_normalised": 1.0,
        "judged_images": 3.0,
        "images_share6": 3.0,
        "images_share5": 3.0,
        "images_area96": 0.0,
        "images_area96-four": 0.0,
        "images_two": 3.0,
    }


def test_score_computed_by_hand() -> None:
    # Instances of three pixels each; the clusters take one pixel of the first to the second. Of 15 pairs of pixels
    # 6 are together in the one, 7 in the other, 4 in both: (4 - 6·7/15) / ((6 + 7)/2 - 6·7/15).
    instances = ids([[1, 1, 1, 2, 2, 2, 0, -1]])
    output = embedding_of(ids([[1, 1, 2, 2, 2, 2, 3, 4]]))
    ari = arrays(get_task("discrimination"), output, target(instances))["ari"]
    assert ari.tolist() == [pytest.approx((4 - 2.8) / (6.5 - 2.8))]


def test_scores_are_those_of_scikit_learn() -> None:
    instances = scene()
    output = torch.randn(3, 32, 24, 30, generator=torch.Generator().manual_seed(0)) + 3 * embedding_of(instances)
    output[:, :, ::2] *= 1.5  # lengths that say nothing
    expected: dict[str, list[float]] = {"ari": [], "ari_normalised": []}
    for one, embedding in zip(instances.numpy(), output.permute(0, 2, 3, 1).numpy(), strict=True):
        count, points = len(np.unique(one[one > 0])), embedding[one > 0]
        for name, given in (("ari", points), ("ari_normalised", normalize(points))):
            with threadpool_limits(1):
                labels = KMeans(count, n_init=10, random_state=0).fit_predict(given)
            expected[name].append(adjusted_rand_score(one[one > 0], labels))
    assert 0.1 < min(expected["ari"]) < max(expected["ari"]) < 1
    assert np.mean(expected["ari_normalised"]) > np.mean(expected["ari"]) + 0.05
    found = arrays(get_task("discrimination"), output, target(instances))
    for name, values in expected.items():
        assert found[name] == pytest.approx(values)


def test_one_instance_is_always_found_and_none_leaves_no_score() -> None:
    task = get_task("discrimination")
    instances = ids([[1, 1, 0]], [[0, -1, 0]])
    statistics = arrays(task, torch.randn(2, 32, 1, 3), target(instances))
    np.testing.assert_array_equal(statistics["ari"], [1.0, np.nan])
    assert statistics["objects"].tolist() == [1, 0]
    assert task.scores(statistics)["ari"] == 1.0
    nothing = {name: values[[1, 1]] for name, values in statistics.items()}
    assert math.isnan(task.scores(nothing)["ari"])


def test_an_embedding_without_differences_and_instances_of_a_pixel() -> None:
    instances = ids([[1, 2, 3, 0]], [[1, 1, 2, 2]])
    ari = arrays(get_task("discrimination"), torch.ones(2, 32, 1, 4), target(instances))["ari"]
    assert ari.tolist() == [0.0, 0.0]


def test_crowds_and_background_change_nothing() -> None:
    task, instances = get_task("discrimination"), scene()
    output = torch.randn(3, 32, 24, 30, generator=torch.Generator().manual_seed(0))
    changed = torch.where((instances > 0)[:, None], output, 100 * torch.randn(output.shape))
    one, other = arrays(task, output, target(instances)), arrays(task, changed, target(instances))
    np.testing.assert_array_equal(one["ari"], other["ari"])


def test_statistics_do_not_depend_on_the_batch() -> None:
    task, instances = get_task("discrimination"), scene()
    output = torch.randn(3, 32, 24, 30, generator=torch.Generator().manual_seed(0))
    whole = arrays(task, output, target(instances))
    for image in range(3):
        part = slice(image, image + 1)
        for name, values in arrays(task, output[part], target(instances[part])).items():
            np.testing.assert_array_equal(values, whole[name][part])
    rows = [2, 2, 0]
    drawn = {name: values[rows] for name, values in whole.items()}
    assert task.scores(drawn)["ari"] == pytest.approx(whole["ari"][rows].mean())


# --- which images ---------------------------------------------------------------------------------------------------

# 100 × 100 pixels for the shares; 1000 × 1000 for the areas, 9216 of which are COCO's limit, which is not large.
CASES = {
    "three just above 6%": (tables([601, 602, 900]), "share6 share5"),
    "one of three at 6%": (tables([600, 602, 900]), "share5"),
    "one of three at 5%": (tables([500, 602, 900]), ""),
    "three above 96²": (tables([9217, 9217, 9217], image=(1000, 1000)), "area96"),
    "four above 96²": (tables([9217, 9217, 9217, 9217], image=(1000, 1000)), "area96 area96-four"),
    "one of four at 96²": (tables([9217, 9217, 9217, 9216], image=(1000, 1000)), "area96"),
    "two of all": (tables([300_000, 300_000], image=(1000, 1000)), ""),
    "crowds": (tables([300_000] * 5, image=(1000, 1000), kind=2), ""),
}


@pytest.mark.parametrize("case", CASES)
def test_three_large_objects(case: str) -> None:
    boxes, expected = CASES[case]
    assert [name for name, large in LARGE.items() if bool(large(boxes)) and name != "two"] == expected.split()


@pytest.mark.parametrize("name", LARGE)
def test_the_chosen_definition_decides_which_images_are_scored(name: str) -> None:
    task = get_task("discrimination", {"large": name})
    boxes = tables([70_000, 70_000, 70_000], [55_000, 70_000, 70_000], [9_300] * 3, [9_300] * 4, image=(1000, 1000))
    expected = {
        "share6": [True, False, False, False],
        "share5": [True, True, False, False],
        "area96": [True, True, True, True],
        "area96-four": [False, False, False, True],
        "two": [True, True, True, True],
    }
    instances = ids([[1, 2]]).expand(4, -1, -1)
    statistics = arrays(task, embedding_of(instances), target(instances, boxes))
    for score in ("ari", "ari_normalised"):
        assert (~np.isnan(statistics[score])).tolist() == expected[name]
    assert task.scores(statistics)["judged_images"] == sum(expected[name])
    for other, holds in expected.items():
        assert statistics[other].tolist() == holds
        assert task.scores(statistics)[f"images_{other}"] == sum(holds)
    assert task.options["large"] == name


def test_large_objects_of_real_photographs(coco_mini: Path) -> None:
    content = json.loads((coco_mini / "annotations" / "instances_val2017.json").read_text())
    areas = [[a["area"] for a in content["annotations"] if a["image_id"] == i["id"] and not a["iscrowd"]]
             for i in content["images"]]  # fmt: skip
    sizes = [(image["height"], image["width"]) for image in content["images"]]
    expected = {
        "share6": [sum(a / (h * w) > 0.06 for a in each) >= 3 for each, (h, w) in zip(areas, sizes, strict=True)],
        "share5": [sum(a / (h * w) > 0.05 for a in each) >= 3 for each, (h, w) in zip(areas, sizes, strict=True)],
        "area96": [sum(a > 9216 for a in each) >= 3 for each in areas],
        "area96-four": [sum(a > 9216 for a in each) > 3 for each in areas],
        "two": [sum(a > 0 for a in each) > 1 for each in areas],
    }
    for name, large in LARGE.items():
        found = [bool(large(tables(each, image=size))) for each, size in zip(areas, sizes, strict=True)]
        assert found == expected[name]
        assert 0 < sum(found) < len(found)


def test_a_rate_is_chosen_by_images_with_two_instances_where_few_are_judged() -> None:
    task, none_large = get_task("discrimination"), tables(*[[1.0]] * 3)
    instances = scene()
    instances[2] = (instances[2] > 0).int()  # a single instance: any clusters would be right
    noise = torch.randn(3, 32, 24, 30, generator=torch.Generator().manual_seed(0))
    found = {}
    for name, output in (
        ("right", embedding_of(instances)),
        ("half", embedding_of(instances) + 0.35 * noise),
        ("noise", noise),
    ):
        statistics = arrays(task, output, target(instances, none_large))
        scores = task.scores(statistics)
        assert math.isnan(scores["ari"])
        assert np.isnan(statistics["ari_quick"]).tolist() == [False, False, True]
        found[name] = task.selection_score(scores, statistics)
    assert found["right"] == 1.0
    assert 0.9 > found["half"] > 0.3 > found["noise"]
    judged = arrays(task, noise, target(instances))
    many = {name: np.repeat(values, 17, axis=0) for name, values in judged.items()}
    assert task.selection_score(task.scores(many), many) == task.scores(many)["ari"]
    nothing = arrays(task, noise[:1], target(torch.zeros(1, 24, 30, dtype=torch.int32)))
    assert task.selection_score(task.scores(nothing), nothing) == -math.inf


def test_results_of_before_have_scores_still() -> None:
    task = get_task("discrimination")
    statistics = arrays(task, embedding_of(scene()), target(scene()))
    older = {name: values for name, values in statistics.items() if name not in ("ari_normalised", "ari_quick")}
    assert set(task.scores(older)) == {"ari", *(f"images_{name}" for name in LARGE)}


# --- what it says ---------------------------------------------------------------------------------------------------


def test_the_prior_knows_where_a_pixel_is_and_no_more() -> None:
    task = get_task("discrimination")
    instances = torch.zeros(2, 12, 24, dtype=torch.int32)
    instances[0, :, 2:10], instances[0, :, 14:22] = 1, 2  # side by side: position tells them apart
    instances[1, ::2], instances[1, 1::2] = 1, 2  # interleaved: it does not
    prior = task.constant_baseline(iter([target(instances)]), ())
    assert prior.shape == (32, 12, 24)
    found = arrays(task, prior.expand(2, -1, -1, -1), target(instances))
    np.testing.assert_array_equal(found["ari"], found["ari_normalised"])
    assert found["ari"][0] == 1.0
    assert abs(found["ari"][1]) < 0.05


@pytest.mark.parametrize("axis", [0, 1])
def test_the_prior_is_the_position_that_agrees_best_with_training_images(axis: int) -> None:
    """Stripes across the longer side: both coordinates together would cut it where no instance ends."""
    instances = torch.zeros(3, 20, 60, dtype=torch.int32)
    instances[:, 2:8], instances[:, 12:18] = 1, 2
    instances = instances if axis == 0 else instances.transpose(1, 2).contiguous()
    task = get_task("discrimination")
    prior = task.constant_baseline(iter([target(instances[:2]), target(instances[2:])]), ())
    found = arrays(task, prior.expand(3, -1, -1, -1), target(instances))
    assert found["ari"].tolist() == found["ari_normalised"].tolist() == [1.0, 1.0, 1.0]
    empty = task.constant_baseline(iter([target(torch.zeros(1, 4, 6, dtype=torch.int32))]), ())
    assert empty.shape == (32, 4, 6)
    assert empty.isfinite().all()


def test_what_is_shown_are_instances_and_their_clusters() -> None:
    task, instances = get_task("discrimination"), scene()
    output = embedding_of(instances)
    truth, found = task.picture_values(output, target(instances, tables(*[[1.0]] * 3)))  # also where no object is large
    assert torch.equal(truth, instances)
    assert ((found > 0) == (instances > 0)).all()
    for one, labels in zip(instances, found, strict=True):
        pairs = set(zip(one[one > 0].tolist(), labels[one > 0].tolist(), strict=True))
        assert len(pairs) == len({label for _, label in pairs}) == len(one[one > 0].unique())
    torch.testing.assert_close(task.prediction(output), output)


def test_channels_and_choices() -> None:
    task = get_task("discrimination")
    assert task.heads(()) == (32,)
    assert task.cnn_width(()) is None
    assert task.output_bias(target(scene())) is None
    assert task.options["large"] == "share6"
    with pytest.raises(UsageError, match="large is 'huge', expected one of share6, share5, area96, area96-four, two"):
        get_task("discrimination", {"large": "huge"})
    with pytest.raises(UsageError, match="no option 'size': it has large, scale"):
        get_task("discrimination", {"size": "huge"})
