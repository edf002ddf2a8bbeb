"""What a GPU computes, against the CPU and float64: only a GPU can show it, so without one these tests are skipped.

``tests/benchmarks/gpu.sh`` runs them first. They need no other test's fixture, whose packages a bare machine may lack.
With ``DEAPCACHE_TEST_DEVICE=cpu`` they run on the CPU, to see that they run at all.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from deapcache_plugins import CONVOLUTION, forgotten_plugins, write_plugin
from deapcache_toys import COUNTS, TARGET_DTYPES, add_features, add_targets, probe, target_maps, volumes
from PIL import Image
from torch import Tensor

from deapcache import plugins
from deapcache.backbones import LayerSelection, build
from deapcache.backbones.model import arithmetic
from deapcache.cache import list_caches
from deapcache.datasets import open_dataset
from deapcache.extraction import ExtractionSettings, extract
from deapcache.locations import LocalLocation
from deapcache.machine import device_name
from deapcache.probing import ProbeConfig
from deapcache.probing.batches import BatchStream, image_order
from deapcache.probing.caches import open_caches
from deapcache.probing.evaluate import measure_cost
from deapcache.readouts import build_readout
from deapcache.readouts.attention import attend, attend_masked
from deapcache.readouts.regions import Geometry

DEVICE = torch.device(os.environ.get("DEAPCACHE_TEST_DEVICE") or "cuda")
ON_GPU = DEVICE.type == "cuda"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(ON_GPU and not torch.cuda.is_available(), reason="needs a GPU"),
]

VIT = "timm:test_vit@untrained"
RESIDENCIES = ("gpu", "memory", "stream") if ON_GPU else ("memory", "stream")
HEADS, KEY, VALUE, IMAGES = 8, 2, 4, 3


@pytest.fixture
def home(tmp_path: Path) -> LocalLocation:
    """An empty one; as that of ``tests/conftest.py``."""
    (tmp_path / "home").mkdir()
    return LocalLocation(tmp_path / "home")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of small training images, and one of validation."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 200 if ON_GPU else 12), ("val", 1)):
        folder = tmp_path / "data" / "photographs" / split / "images"
        folder.mkdir(parents=True)
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            coarse.resize((96, 72), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.png")
    return tmp_path / "data"


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal float64 numbers, made on the CPU."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Of a weighted sum of the output."""
    weights = random(*output.shape, seed=9).to(output)
    return list(torch.autograd.grad((output * weights).sum(), inputs))


def assert_close(found: Tensor, expected: Tensor, rtol: float) -> None:
    """Within ``rtol`` of the largest expected number; what is 0 but for rounding, as keys' bias gets, within 1e-6."""
    atol = rtol * float(expected.detach().abs().max()) + 1e-6
    torch.testing.assert_close(found.detach().cpu().double(), expected.detach().double(), rtol=0, atol=atol)


@pytest.fixture
def without_tf32() -> Iterator[None]:
    """Convolutions in float32, which a GPU rounds to TF32 unless told otherwise."""
    with arithmetic("fp32", DEVICE):
        yield


@pytest.mark.parametrize("cells", [7, 14, 37] if ON_GPU else [7])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_and_its_gradients_are_those_of_the_formula_in_float64(cells: int, masked: bool) -> None:
    """With a bias, and with masks that are made block by block; at 37 cells they take several blocks."""
    regions = 28 if ON_GPU else 4
    q, k, v = (
        random(HEADS, regions**2, KEY),
        random(IMAGES, HEADS, cells**2, KEY),
        random(IMAGES, HEADS, cells**2, VALUE),
    )
    places = [(torch.arange(side, dtype=torch.float64) + 0.5) / side for side in (regions, cells)]
    squares = (places[0][:, None] - places[1]) ** 2
    sigma = torch.linspace(0.05, 0.6, HEADS, dtype=torch.float64)

    def density(width: Tensor) -> Tensor:
        width = width[:, None, None]
        plane = squares.to(width)[:, None, :, None] + squares.to(width)[None, :, None, :]
        plane = plane.reshape(regions**2, cells**2)
        return torch.exp(-plane / (2 * width**2)) / (width * math.sqrt(2 * math.pi))

    inputs = [each.clone().requires_grad_() for each in (q, sigma, k, v)]
    output = (inputs[0] @ inputs[2].transpose(2, 3) + density(inputs[1])).softmax(-1) @ inputs[3]
    theirs = gradients(output, inputs)
    ours_in = [each.detach().float().to(DEVICE).requires_grad_() for each in inputs]
    regions_at, cells_at = (place.to(DEVICE) for place in places)
    geometry = Geometry(region_rows=regions_at, region_columns=regions_at, cell_rows=cells_at, cell_columns=cells_at)
    if masked:
        found = attend_masked(ours_in[0], ours_in[1], geometry, ours_in[2], ours_in[3])
    else:
        found = attend(ours_in[0], density(ours_in[1]), ours_in[2], ours_in[3])
    assert found.device.type == DEVICE.type
    assert_close(found, output, 1e-5)
    for one, other in zip(gradients(found, ours_in), theirs, strict=True):
        assert_close(one, other, 1e-4)


@pytest.mark.usefixtures("without_tf32")
@pytest.mark.parametrize("name", ["deap", "linear", "linear-bn"])
def test_a_readout_computes_what_it_does_on_a_cpu(name: str) -> None:
    readout = build_readout(name, feature_dim=64, out_channels=3, grid=(14, 14), seed=0)
    features = random(2, 14, 14, 64).float()

    def run(device: torch.device) -> list[Tensor]:
        readout.to(device)
        output = readout(features.to(device), (112, 112))
        return [output, *gradients(output, [p for p in readout.parameters() if p.requires_grad])]

    expected = [each.cpu() for each in run(torch.device("cpu"))]
    for one, other in zip(run(DEVICE), expected, strict=True):
        assert_close(one, other, 1e-3)


@pytest.mark.usefixtures("without_tf32")
def test_readouts_that_are_stacked_compute_what_each_does_alone() -> None:
    members = [
        build_readout("deap", feature_dim=64, out_channels=2, grid=(14, 14), seed=seed).to(DEVICE) for seed in range(4)
    ]
    features = random(3, 14, 14, 64).float().to(DEVICE)
    together = type(members[0]).forward_stacked(members, features, (112, 112))
    sums = torch.stack([output.square().mean() for output in together]).sum()
    parameters = [[p for p in member.parameters() if p.requires_grad] for member in members]
    found = iter(torch.autograd.grad(sums, [p for own in parameters for p in own]))
    for member, own, output in zip(members, parameters, together, strict=True):
        alone = member(features, (112, 112))
        assert_close(output, alone.cpu(), 1e-4)
        for expected in torch.autograd.grad(alone.square().mean(), own):
            assert_close(next(found), expected.cpu(), 2e-3)


@pytest.fixture
def toys(home: LocalLocation) -> LocalLocation:
    """Features in two views and targets of a toy backbone."""
    for split in COUNTS:
        for view in ("original", "hflip"):
            add_features(home, split, view=view)
        for annotation in TARGET_DTYPES:
            add_targets(home, split, annotation)
    return home


def test_every_residency_gives_the_cached_bytes_and_equal_scores(toys: LocalLocation) -> None:
    """Every batch is changed when it was looked at: a copy that was not waited for, or a reused buffer, would show."""
    caches = open_caches(toys, ProbeConfig(dataset="toys", backbones=["toy"]), ("instances", "depth"))[0]
    order = list(image_order(0, caches.rows, iterations=100 if ON_GPU else 9, batch_size=7))
    scores = []
    for residency in RESIDENCIES:
        stream = BatchStream(caches, residency, DEVICE)
        for rows, batch in zip(order, stream.batches(order), strict=True):
            np.testing.assert_array_equal(batch.features.cpu().numpy(), volumes("train")[rows].astype(np.float16))
            np.testing.assert_array_equal(batch.maps["depth"].cpu().numpy(), target_maps("train", "depth")[rows])
            batch.features.zero_()
        more = {"views": ("original", "hflip"), "iterations": 40 if ON_GPU else 4, "device": str(DEVICE)}
        (found,) = probe(toys, ("foreground",), residency=residency, **more)
        assert found.residency == residency
        scores.append(found.scores)
    for one in scores[1:]:
        assert one == pytest.approx(scores[0], rel=1e-2), "sums on a GPU have no fixed order"


@pytest.mark.parametrize("selection", [LayerSelection(), LayerSelection(layers=("1", "3", "last"), tokens="cls")])
def test_a_backbone_and_its_layers_are_those_of_the_cpu_and_bf16_is_close(selection: LayerSelection) -> None:
    backbone = build(VIT, selection=selection)
    images = torch.randint(0, 256, (4, 100, 120, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = backbone.outputs(images)
    found = backbone.to(DEVICE).outputs(images.to(DEVICE))
    rounded = build(VIT, selection=selection, precision="bf16").to(DEVICE).outputs(images.to(DEVICE))
    assert len(found) == len(expected) == len(selection.layers)
    for one, low, other in zip(found, rounded, expected, strict=True):
        assert_close(one.features, other.features, 1e-4)
        assert_close(low.features, other.features, 5e-2)
        if other.cls is not None:
            assert_close(one.cls, other.cls, 1e-4)


def test_a_model_of_transformers_and_one_of_a_plugin(tmp_path: Path) -> None:
    with forgotten_plugins():
        plugins.use([write_plugin(tmp_path, CONVOLUTION)])
        names = ["one-convolution"]
        try:
            import transformers
        except ImportError:
            print("transformers is not installed: hf: models are not tested")
        else:
            sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
            config = transformers.ViTConfig(**sizes, image_size=64, patch_size=16)
            transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
            processor = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
            processor |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "image_processor_type": "ViTImageProcessor"}
            (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(processor))
            names.append(f"hf:{tmp_path / 'vit'}")
        for name in names:
            backbone = build(name)
            images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
            expected = backbone(images)
            assert_close(backbone.to(DEVICE)(images.to(DEVICE)), expected, 1e-4)


def run_extraction(root: Path, home: LocalLocation, device: str, **changes: object) -> dict[str, np.ndarray]:
    """Extract the photographs' training images with the tiny ViT; name of each cache → its features."""
    settings = ExtractionSettings(device=device, base_size=(64, 64), batch_size=4, **changes)  # type: ignore[arg-type]
    list(extract([VIT], open_dataset("folder:photographs", root), home, splits=["train"], settings=settings))
    caches = [entry.open() for entry in list_caches(home, "features")]
    return {str(cache.recipe["layer"]): cache.read_features(range(len(cache))) for cache in caches}  # type: ignore[attr-defined]


def test_extraction_gives_the_features_of_the_cpu(photographs: Path, home: LocalLocation, tmp_path: Path) -> None:
    layers = {"selection": LayerSelection(layers=("2", "last"))}
    found = run_extraction(photographs, home, str(DEVICE), **layers)
    expected = run_extraction(photographs, LocalLocation(tmp_path / "cpu"), "cpu", **layers)
    assert len(found) == 2
    for layer, values in expected.items():
        assert_close(torch.from_numpy(found[layer]), torch.from_numpy(values), 2e-3)


KILLED = """
import os, signal, sys
from pathlib import Path
from deapcache.datasets import open_dataset
from deapcache.extraction import ExtractionSettings, extract
from deapcache.locations import LocalLocation

def kill(event):
    if event.bytes and "decode" not in event.stage and event.done > 5:
        os.kill(os.getpid(), signal.SIGKILL)

root, home, device, backbone = sys.argv[1:]
settings = ExtractionSettings(device=device, base_size=(64, 64), batch_size=4)
dataset = open_dataset("folder:photographs", Path(root))
list(extract([backbone], dataset, LocalLocation(home), splits=["train"], settings=settings, progress=kill))
"""


def test_an_extraction_that_is_killed_goes_on(photographs: Path, home: LocalLocation, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(photographs), str(home), str(DEVICE), VIT]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (entry,) = list_caches(home, "features")
    cache = entry.open()
    missing = len(cache.missing_shards(range(len(cache))))
    assert 0 < missing < cache.shard_count
    resumed = run_extraction(photographs, home, str(DEVICE))
    whole = run_extraction(photographs, LocalLocation(tmp_path / "whole"), str(DEVICE))
    np.testing.assert_array_equal(resumed["last"], whole["last"])


def test_a_cost_has_the_peak_of_the_gpu_and_a_name() -> None:
    readout = build_readout("deap", feature_dim=64, out_channels=1, grid=(14, 14), seed=0).to(DEVICE)
    cost = measure_cost([readout], random(4, 14, 14, 64).float().to(DEVICE), (112, 112))
    assert device_name(DEVICE)
    assert (cost["peak_bytes"] or 0) > 0 if ON_GPU else cost["peak_bytes"] is None
