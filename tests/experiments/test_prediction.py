"""A saved readout says of an image file what the probe said, and what its formula gives at any other size."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from deapcache_featup import published_state, write_published
from deapcache_predictions import BACKBONE, BASE, NATIVE, Trained, save, train
from PIL import Image

from deapcache.backbones import Output, describe, forward_count
from deapcache.backbones.checkpoints import read_checkpoint
from deapcache.backbones.weights import fetch
from deapcache.cache import FeatureCache, list_caches
from deapcache.cli.options import sizes
from deapcache.datasets import decode_image
from deapcache.errors import (
    CacheMissError,
    FeatureError,
    MissingDataError,
    ResultsError,
    UnknownNameError,
    UsageError,
    WeightsError,
)
from deapcache.experiments import Predictor, PredictRequest, find_run, load_predictor, predict_files
from deapcache.locations import LocalLocation

DIM = 112


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Readouts of all kinds of task."""
    torch.set_num_threads(1)
    return train(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def depth(trained: Trained) -> Predictor:
    """The depth readout, loaded."""
    return load_predictor(find_run(trained.home, "depth"))


def copied(trained: Trained, folder: Path) -> Trained:
    """A home of one's own to spoil."""
    shutil.copytree(trained.home.path, folder / "home")
    return replace(trained, home=LocalLocation(folder / "home"))


def outputs(trained: Trained, task: str, row: int, size: tuple[int, int]) -> torch.Tensor:
    """The readouts' output for the cached features of a validation image."""
    (entry,) = [entry for entry in list_caches(trained.home, "features") if entry.split == "val"]
    cache = entry.open()
    assert isinstance(cache, FeatureCache)
    features = torch.from_numpy(cache.read_features([row])).float()
    heads = find_run(trained.home, task).readouts.build()
    with torch.no_grad():
        return torch.cat([head(features, size) for head in heads], 1)[0]


def check_like_the_probe(trained: Trained, task: str, atol: float = 2e-6, **given: Any) -> None:
    predictor = load_predictor(find_run(trained.home, trained.names[task]), device="cpu", **given)
    for row, expected in enumerate(trained.runs[task].examples.predictions):
        (found,) = predictor(decode_image(trained.dataset.path("val", row)))
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("task", ["foreground", "segmentation", "depth", "detection"])
def test_it_says_what_the_probe_said(trained: Trained, task: str) -> None:
    assert np.ptp(trained.runs[task].examples.predictions) > 0.01, "a constant would tell nothing"
    check_like_the_probe(trained, task)


@pytest.mark.parametrize("settings", [{"storage": "int8"}, {"storage": "bfloat16"}, {"base_size": "native"}])
def test_features_are_made_and_rounded_as_the_cache_has_them(tmp_path: Path, settings: dict[str, Any]) -> None:
    # without the rounding the differences are ten to a hundred times as large
    check_like_the_probe(train(tmp_path, ["depth"], **settings), "depth")


@pytest.mark.parametrize("size", [(1, 1), (13, 21), (64, 48), (100, 200)])
def test_any_size_is_the_readouts_own_output(trained: Trained, size: tuple[int, int]) -> None:
    formulas = {
        "depth": lambda output: F.softplus(output[0]),
        "segmentation": lambda output: output.argmax(0),
        "foreground": lambda output: output[0].sigmoid(),
        "discrimination": lambda output: output,
    }
    image = decode_image(trained.dataset.path("val", 1))
    for task, formula in formulas.items():
        (found,) = load_predictor(find_run(trained.home, task))(image, [size])
        expected = formula(outputs(trained, task, 1, size)).numpy()
        assert found.shape == expected.shape
        assert np.isclose(found, expected, rtol=1e-4, atol=1e-4).mean() > 0.999


def test_one_forward_serves_several_sizes(trained: Trained, depth: Predictor) -> None:
    image, before = decode_image(trained.dataset.path("val", 0)), forward_count()
    found = depth(image, [(8, 8), (56, 64), (17, 30)])
    assert forward_count() - before == 1
    assert [one.shape for one in found] == [(8, 8), (56, 64), (17, 30)]
    np.testing.assert_array_equal(found[1], depth(image)[0])


def test_an_untrained_control_is_calibrated_again_or_refused(tmp_path: Path) -> None:
    trained = train(tmp_path, ["depth"], backbone=f"{BACKBONE}@untrained")
    check_like_the_probe(trained, "depth")
    shutil.rmtree(trained.home.path / "images" / "photographs" / "train")
    with pytest.raises(CacheMissError, match=r"first 6 images of \w+, and .* base images of 56x64: `deapcache extract"):
        load_predictor(find_run(trained.home, "depth"))


def test_a_guided_readout_gets_the_base_image(tmp_path: Path) -> None:
    upsampler = write_published(tmp_path / "some.ckpt", published_state(DIM))
    trained = train(tmp_path, ["depth"], readout="featup", upsampler=upsampler, iterations=1)
    upsampler.unlink()
    check_like_the_probe(trained, "depth", atol=2e-5)


def test_only_the_checkpoint_of_the_features_will_do(trained: Trained, tmp_path: Path) -> None:
    state = read_checkpoint(fetch(describe(BACKBONE)))
    torch.save(state, tmp_path / "same.pth")
    check_like_the_probe(trained, "foreground", weights=tmp_path / "same.pth")
    state["_conv_stem.weight"].mul_(1.01)
    torch.save(state, tmp_path / "other.pth")
    run = find_run(trained.home, "foreground")
    with pytest.raises(ResultsError) as refused:
        load_predictor(run, weights=tmp_path / "other.pth")
    message = str(refused.value)
    assert message.count("sha256:") == 2
    assert f"weights: '{run.recipe.weights}' there" in message
    assert "--weights FILE" in message
    torch.save({"a": torch.zeros(2)}, tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="does not fit"):
        load_predictor(run, weights=tmp_path / "none.pth")


def test_features_that_were_made_otherwise_are_refused(trained: Trained, tmp_path: Path) -> None:
    spoiled = copied(trained, tmp_path)
    path = spoiled.home.path / "results" / f"{spoiled.names['depth']}.json"
    document = json.loads(path.read_text())
    document["caches"]["train"]["recipe"] |= {"mean": [0.1, 0.2, 0.3], "tf32": True}
    path.write_text(json.dumps(document))
    with pytest.raises(ResultsError, match=r"mean: \[0.1, 0.2, 0.3\] there, \[0.5, 0.5, 0.5\] here; tf32: True there"):
        load_predictor(find_run(spoiled.home, "depth"))


def test_features_of_another_width_are_refused(trained: Trained, tmp_path: Path) -> None:
    from deapcache.readouts import build_readout

    narrow = build_readout("deap", feature_dim=100, out_channels=1, grid=(14, 14), seed=0, standardise="channel")
    weights = {f"0.{name}": tensor.numpy() for name, tensor in narrow.state_dict().items()}
    run = replace(trained.runs["depth"], weights=weights)
    home = LocalLocation(tmp_path)
    name = save(home, run, readout={**run.build, "feature_dim": 100})
    with pytest.raises(ResultsError, match="feature width: 100 there, 112 here"):
        load_predictor(find_run(home, name))


def test_features_that_cannot_be_stored_name_the_image(trained: Trained, depth: Predictor) -> None:
    class Broken:
        device, image_size = depth.backbone.device, depth.backbone.image_size

        def outputs(self, images: torch.Tensor) -> tuple[Output, ...]:
            return (Output(torch.full((1, 14, 14, DIM), float("nan")), None),)

    broken = replace(depth, backbone=Broken())
    with pytest.raises(FeatureError, match="x\\.jpg"):
        broken(decode_image(trained.dataset.path("val", 0)), name="x.jpg")


def test_a_size_beyond_the_memory_is_one_clear_error(trained: Trained, depth: Predictor) -> None:
    class Greedy(torch.nn.Module):
        def forward(self, *_: Any) -> torch.Tensor:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 353 bytes")

    greedy = replace(depth, heads=[Greedy()])
    with pytest.raises(UsageError, match="4000x3000 needs more memory"):
        greedy(decode_image(trained.dataset.path("val", 0)), [(4000, 3000)])


class TestFindingARun:
    def test_by_name_beginning_and_file(self, trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
        name, home = trained.names["depth"], trained.home
        file = home.path / "readouts" / f"{name}.safetensors"
        monkeypatch.chdir(file.parent)
        elsewhere = LocalLocation(Path("/nowhere"))
        for found in (
            find_run(home, name),
            find_run(home, "depth-photo"),
            find_run(elsewhere, str(file)),
            find_run(elsewhere, file.name),
        ):
            assert (found.result.run, found.readouts.run, found.home) == (name, name, home)

    def test_a_beginning_that_several_have_lists_them(self, trained: Trained) -> None:
        with pytest.raises(UsageError, match=r"2 runs in .* begin with 'de'") as refused:
            find_run(trained.home, "de")
        assert all(trained.names[task] in str(refused.value) for task in ("depth", "detection"))

    def test_an_unknown_one_offers_the_nearest(self, trained: Trained) -> None:
        with pytest.raises(UnknownNameError, match=f"near it are {trained.names['depth']}"):
            find_run(trained.home, trained.names["depth"][2:])
        with pytest.raises(UnknownNameError, match=f"near it are {trained.names['depth']}$"):
            find_run(trained.home, "depht")
        with pytest.raises(UnknownNameError, match=r"there are depth.*, segmentation"):
            find_run(trained.home, "zzz")

    def test_a_home_without_readouts_says_what_makes_them(self, tmp_path: Path) -> None:
        with pytest.raises(ResultsError, match="deapcache probe"):
            find_run(LocalLocation(tmp_path), "depth")

    @pytest.mark.parametrize("given", ["/somewhere/else.safetensors", "/a/readouts/b/c.safetensors"])
    def test_a_file_outside_of_a_home_is_refused(self, tmp_path: Path, given: str) -> None:
        with pytest.raises(UsageError, match=r"expected HOME/readouts/RUN.safetensors"):
            find_run(LocalLocation(tmp_path), given)

    def test_a_readout_without_its_result_is_refused(self, trained: Trained, tmp_path: Path) -> None:
        spoiled = copied(trained, tmp_path)
        (spoiled.home.path / "results" / f"{spoiled.names['depth']}.json").unlink()
        with pytest.raises(ResultsError, match=f"has no results/{spoiled.names['depth']}.json"):
            find_run(spoiled.home, "depth")


def test_sizes_are_read() -> None:
    assert sizes("56, 224,448X672,56") == [(56, 56), (224, 224), (448, 672)]
    for text in ("", "0", "4097", "56x", "1x2x3", "-5", "5.5", "native", "56,,64"):
        with pytest.raises(UsageError, match="expected a side"):
            sizes(text)


class TestFiles:
    @pytest.fixture
    def request_for(self, trained: Trained, tmp_path: Path):
        """A function that makes a request for the first two validation images."""

        def made(**changes: Any) -> PredictRequest:
            images = [trained.dataset.path("val", row) for row in (0, 1)]
            given = {"images": images, "out": LocalLocation(tmp_path / "out"), "sizes": [(20, 30), (64, 64)], **changes}
            return PredictRequest(device="cpu", **given)

        return made

    @pytest.fixture
    def run(self, trained: Trained):
        return find_run(trained.home, "depth")

    def test_pictures_alone_unless_arrays_are_asked_for(self, run, request_for, tmp_path: Path) -> None:
        first, second = predict_files(run, request_for())
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["photo-0-depth.png", "photo-1-depth.png"]
        assert (first.picture, first.arrays, first.facts, first.error) == (
            str(tmp_path / "out" / "photo-0-depth.png"), (), None, None,
        )  # fmt: skip
        with Image.open(second.picture) as picture:
            assert picture.format == "PNG"

    def test_arrays_are_the_predictions_and_facts_say_what_they_are(self, run, depth, request_for, tmp_path) -> None:
        request = request_for(save_arrays=True)
        first, _ = predict_files(run, request)
        expected = depth(decode_image(request.images[0]), request.sizes)
        for file, values in zip(first.arrays, expected, strict=True):
            np.testing.assert_array_equal(np.load(file, allow_pickle=False), values)
        facts = json.loads(Path(first.facts).read_text())
        assert [entry["file"] for entry in facts["arrays"]] == [Path(file).name for file in first.arrays]
        assert [(entry["size"], entry["shape"]) for entry in facts["arrays"]] == [([20, 30],) * 2, ([64, 64],) * 2]
        assert (facts["run"], facts["unit"], facts["values"]) == (run.result.run, "m", "depth")
        assert (facts["image"], facts["image_size"]) == (str(request.images[0]), list(NATIVE))
        assert facts["classes"] == []

    def test_classes_come_with_their_names(self, trained: Trained, request_for) -> None:
        run = find_run(trained.home, "segmentation")
        (first, _) = predict_files(run, request_for(sizes=(), save_arrays=True))
        facts = json.loads(Path(first.facts).read_text())
        assert facts["classes"] == ["background", "one", "two"]
        assert np.load(first.arrays[0]).shape == BASE

    def test_an_image_is_seen_upright(self, run, request_for, trained: Trained, tmp_path: Path) -> None:
        upright = Image.open(trained.dataset.path("val", 0))
        turned, exif = upright.transpose(Image.Transpose.ROTATE_90), Image.Exif()
        exif[0x0112] = 6
        turned.save(tmp_path / "turned.png", exif=exif)
        (found,) = predict_files(run, request_for(images=[tmp_path / "turned.png"], save_arrays=True))
        (expected, _) = predict_files(run, request_for(save_arrays=True))
        for one, other in zip(found.arrays, expected.arrays, strict=True):
            np.testing.assert_array_equal(np.load(one), np.load(other))

    def test_nothing_is_overwritten_unless_asked_for(self, run, request_for, tmp_path: Path) -> None:
        taken = tmp_path / "out" / "photo-1-depth-64x64.npy"
        taken.parent.mkdir()
        taken.write_text("mine")
        with pytest.raises(UsageError, match=f"{taken} is there already: give --overwrite"):
            list(predict_files(run, request_for(save_arrays=True)))
        assert [path.name for path in taken.parent.iterdir()] == [taken.name]
        list(predict_files(run, request_for(save_arrays=True, overwrite=True)))
        assert np.load(taken).shape == (64, 64)

    def test_an_image_is_never_overwritten(self, run, request_for, trained: Trained, tmp_path: Path) -> None:
        image, other = tmp_path / "a.png", tmp_path / "a-depth.png"
        for path in (image, other):
            shutil.copy(trained.dataset.path("val", 0), path)
        request = request_for(images=[image, other], out=LocalLocation(tmp_path), overwrite=True)
        with pytest.raises(UsageError, match="is one of the images"):
            list(predict_files(run, request))

    def test_images_of_one_name_are_refused(self, run, request_for, trained: Trained) -> None:
        images = [trained.dataset.path(split, 0) for split in ("val", "train")]
        with pytest.raises(UsageError, match=r"would both be written as photo-0-depth.png"):
            list(predict_files(run, request_for(images=images)))
        assert len(list(predict_files(run, request_for(images=[images[0]] * 3)))) == 1

    def test_a_broken_image_does_not_stop_the_others(self, run, request_for, tmp_path: Path) -> None:
        broken = tmp_path / "broken.jpg"
        broken.write_text("no image")
        first, second, third = predict_files(run, request_for(images=[broken, *request_for().images]))
        assert str(broken) in str(first.error)
        assert (first.picture, first.arrays) == (None, ())
        assert second.error is third.error is None
        assert len(list((tmp_path / "out").iterdir())) == 2

    @pytest.mark.parametrize("name", ["absent.png", "."])
    def test_a_missing_image_stops_before_anything_is_written(self, run, request_for, tmp_path, name) -> None:
        images = [*request_for().images, tmp_path / name]
        with pytest.raises(MissingDataError, match=str(tmp_path)):
            list(predict_files(run, request_for(images=images)))
        assert not (tmp_path / "out").exists()
