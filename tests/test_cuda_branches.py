"""Every branch that only a GPU takes, run on the CPU with a stand-in: a typo cannot wait for a GPU to be found.

Values are real, so what a GPU would be given is compared with what the CPU computes; that copies are waited for is
looked at in the order of calls. ``tests/cuda`` has what only a GPU can show.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from deapcache_cuda import StandInGpu, stand_in_gpu
from deapcache_toys import COUNTS, TARGET_DTYPES, add_features, add_targets, probe
from typer.testing import CliRunner

from deapcache.backbones import arithmetic_key, build
from deapcache.cli.app import app
from deapcache.datasets import open_dataset
from deapcache.experiments import speed
from deapcache.experiments.plan import rates_for
from deapcache.extraction import (
    ExtractionSettings,
    choose_device,
    dask_cluster,
    default_batch_size,
    extract,
    untrained_rate,
)
from deapcache.locations import LocalLocation
from deapcache.machine import device_name, seconds_of
from deapcache.probing import TaskSpec
from deapcache.probing.batches import choose_residency, free_memory
from deapcache.probing.evaluate import measure_cost
from deapcache.readouts import build_readout, featup
from deapcache.results.speeds import Rates, StepKey, write_speed
from deapcache.tasks import TASKS, get_task

pytestmark = pytest.mark.usefixtures("one_thread")

GPU = torch.device("cuda")

BACKBONE = "efficientnet-lite0-s16@untrained@64"
"""Small, and its batch norm is calibrated."""


@pytest.fixture
def gpu():
    """A machine with one GPU."""
    with stand_in_gpu() as mode:
        yield mode


@pytest.fixture(scope="module")
def toys(tmp_path_factory) -> LocalLocation:
    """Features and targets of a toy backbone."""
    home = LocalLocation(tmp_path_factory.mktemp("toys"))
    for split in COUNTS:
        add_features(home, split)
        add_features(home, split, view="hflip")
        for annotation in TARGET_DTYPES:
            add_targets(home, split, annotation)
    return home


ASKED = {"tasks": ("segmentation", "depth", "boundaries"), "readouts": ("deap", "knn"), "seeds": (0, 1)}
ASKED |= {"views": ("original", "hflip"), "iterations": 6}


@pytest.fixture(scope="module")
def expected(toys):
    """What the CPU makes of it."""
    return probe(toys, **ASKED)


@pytest.mark.parametrize("residency", [None, "memory", "stream"])
def test_a_probe_gives_the_scores_and_losses_of_the_cpu(toys, expected, residency) -> None:
    """Two views: one is mirrored on the device. Copies are pinned, on a stream of their own, and waited for."""
    with stand_in_gpu() as gpu:
        found = probe(toys, **ASKED, device="cuda", residency=residency)
    for one, other in zip(found, expected, strict=True):
        # attention is computed in other blocks, so sums are rounded otherwise, and Adam divides by what is near 0
        assert one.scores == pytest.approx(other.scores, rel=1e-3, nan_ok=True)
        assert np.asarray(one.loss_curve) == pytest.approx(np.asarray(other.loss_curve), rel=1e-3)
        assert (one.device, one.residency) == ("cuda (Stand-in GPU)", residency or "gpu")
        assert one.cost.get("peak_bytes", 1_000) == 1_000
    assert ("mem_get_info" in gpu.calls) == (residency != "stream")
    one_copy = gpu.calls[gpu.calls.index("copy stream begins") : gpu.calls.index("copy stream ends")]
    assert set(one_copy) == {"copy stream begins", "pin_memory", "asynchronous copy", "record event of copy"}
    assert one_copy[-1] == "record event of copy"
    assert gpu.calls.count("computing waits for copy") == gpu.calls.count("record event of copy")
    assert "record_stream" in gpu.calls


def test_training_arrays_go_where_they_fit_in_the_gpus_free_memory() -> None:
    with stand_in_gpu(free=1000):
        host, gpu = free_memory(GPU)
        assert gpu == 1000
        assert choose_residency(500, None, host, gpu) == "gpu"
        assert choose_residency(501, None, host, gpu) == "memory"


@pytest.mark.parametrize("base_size", [(64, 64), "native"])
def test_extraction_writes_the_bytes_of_the_cpu(home, tmp_path, make_coco, base_size) -> None:
    """Also: untrained batch norm is calibrated, a shard's copy is waited for before it is encoded."""
    dataset = open_dataset("coco", make_coco(train=4, val=1))

    def shards(place: LocalLocation) -> dict[str, bytes]:
        keys = [key for key in place.keys("features") if "/c/" in key or "/c." in key]
        return {key: place.read(key) for key in keys}

    def run(device: str, place: LocalLocation) -> None:
        settings = ExtractionSettings(device=device, base_size=base_size, batch_size=2)
        list(extract([BACKBONE], dataset, place, splits=["train"], settings=settings))

    run("cpu", home)
    other = LocalLocation(tmp_path / "other")
    with stand_in_gpu() as gpu:
        run("cuda", other)
    assert shards(home)
    assert shards(other) == shards(home)
    assert gpu.calls.count("record event") == gpu.calls.count("wait for event") == 4
    assert gpu.calls.index("pin_memory") < gpu.calls.index("record event") < gpu.calls.index("wait for event")
    assert {"pinned buffer", "asynchronous copy", "get_device_name"} <= set(gpu.calls)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_backbone_is_timed_and_its_peak_is_that_of_the_gpu(gpu: StandInGpu, precision) -> None:
    found = speed.time_backbone(
        BACKBONE, device="cuda", threads=1, precision=precision, batch=2, batches=2,
        reference="imagenet", reference_seconds=1.0,
    )  # fmt: skip
    assert found.device == ("Stand-in GPU" if precision == "fp32" else "Stand-in GPU, bf16")
    assert (found.memory, found.peak_memory_bytes) == ("allocated on the GPU", 1_100)
    assert gpu.calls.index("reset_peak_memory_stats") < gpu.calls.index("synchronize")
    assert gpu.calls.count("synchronize") == 2 * 2


def test_a_plan_on_a_gpu_reads_the_speeds_that_were_measured_there(home, gpu: StandInGpu) -> None:
    measured = speed.time_backbone(
        BACKBONE, device="cuda", threads=1, precision="fp32", batch=2, batches=1, reference=BACKBONE,
        reference_seconds=None,
    )  # fmt: skip
    write_speed(home, measured)
    assert rates_for(home, "auto").forwards == {
        (arithmetic_key(BACKBONE), "fp32"): measured.images_per_second["median"]
    }
    assert rates_for(home, "cpu") == Rates(device=speed.device_label(torch.device("cpu")))


CLASSES = {"voc": 21, "coco-stuff": 171, "segmentation": 3}


@pytest.mark.parametrize("task", TASKS.names())
def test_a_training_step_of_every_task_is_timed_on_the_gpu(gpu: StandInGpu, task) -> None:
    size, grid = (16, 24), (2, 3)
    spec = TaskSpec(
        task=get_task(task), backbone="toy", classes=tuple(map(str, range(CLASSES.get(task, 0)))), output_size=size,
        grid=grid, feature_dim=16, iterations=9,
    )  # fmt: skip
    key = StepKey(
        task=task, readout="deap", dataset="toy", grid=grid, dim=16, output_size=size, batch_size=2, members=2,
        surveyed=5 if task == "discrimination" else 0,
    )  # fmt: skip
    assert speed.measure_step(key, spec, GPU) > 0
    assert gpu.calls.count("synchronize") % 2 == 0 < gpu.calls.count("synchronize")


def test_a_readouts_cost_has_the_memory_of_the_gpu(gpu: StandInGpu) -> None:
    readout = build_readout("deap", feature_dim=8, out_channels=1, grid=(3, 3), seed=0).to(GPU)
    cost = measure_cost([readout], torch.randn(2, 3, 3, 8, device=GPU), (24, 24))
    assert cost["peak_bytes"] == 1_100 - 100
    assert {"reset_peak_memory_stats", "memory_allocated", "max_memory_allocated", "synchronize"} <= set(gpu.calls)


def test_attention_in_the_blocks_of_an_accelerator(gpu: StandInGpu) -> None:
    """DeAP at 9×9 cells takes the separable attention on a CPU, and the general one with large blocks on a GPU."""
    readout = build_readout("deap", feature_dim=16, out_channels=2, grid=(9, 9), seed=0)
    features = torch.randn(2, 9, 9, 16, generator=torch.Generator().manual_seed(0))

    def outputs() -> list[torch.Tensor]:
        output = readout(features.to(next(readout.parameters()).device), (72, 72))
        parameters = [parameter for parameter in readout.parameters() if parameter.requires_grad]
        return [output, *torch.autograd.grad(output.square().sum(), parameters)]

    expected = outputs()
    readout.to(GPU)
    for one, other in zip(outputs(), expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-3, atol=1e-3)


def test_what_only_the_stand_in_sees_as_wrong_is_an_error_as_on_a_gpu(gpu: StandInGpu) -> None:
    """Else the tests above would show less than they say."""
    there, here = torch.ones(3, device=GPU), torch.ones(3)
    with pytest.raises(TypeError, match="can't convert a tensor on cuda to numpy"):
        there.numpy()
    with pytest.raises(RuntimeError, match="expected all tensors of"):
        there * 2 + here
    assert (there * 2 + torch.tensor(1.0)).cpu().numpy().tolist() == [3.0] * 3
    assert ((there + here.to(GPU)).device.type, here.device.type) == ("cuda", "cpu")


def test_the_published_upsampler_in_strips_of_an_accelerator(monkeypatch) -> None:
    upsampler = featup.JointBilateralUpsampler().eval()
    image = torch.randn(2, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(featup, "CPU_STRIP", 2 * 24 * 20)
    monkeypatch.setattr(featup, "DEVICE_STRIP", 2 * 24 * 3)
    expected = upsampler.kernels(image)
    with stand_in_gpu():
        found = upsampler.to(GPU).kernels(image.to(GPU)).cpu()
    torch.testing.assert_close(found, expected)


def test_a_dry_runs_rate_is_measured_on_the_gpu(gpu: StandInGpu) -> None:
    assert untrained_rate(BACKBONE, (64, 64), "fp32", 2, GPU) > 0
    batches, half = divmod(gpu.calls.count("synchronize"), 2)  # before and after each
    assert (2 <= batches <= 10, half) == (True, 0)


def test_a_gpu_is_chosen_named_waited_for_and_given_larger_batches(gpu: StandInGpu) -> None:
    assert choose_device("auto") == GPU
    assert choose_device("cuda:0") == torch.device("cuda:0")
    assert (default_batch_size(GPU), default_batch_size(torch.device("cpu"))) == (32, 8)
    assert device_name(GPU) == "Stand-in GPU"
    assert gpu.calls == ["get_device_name"]
    seconds_of(lambda: gpu.calls.append("work"), GPU)
    assert gpu.calls[1:] == ["synchronize", "work", "synchronize"]


def test_doctor_names_the_gpus(home) -> None:
    with stand_in_gpu(gpus=2, free=2**30):
        done = CliRunner().invoke(app, ["doctor", "--home", str(home), "--json"], catch_exceptions=False)
    report = json.loads(done.stdout)
    assert report["device"]["cuda:0"] == report["device"]["cuda:1"]
    assert report["device"]["cuda:0"].startswith("Stand-in GPU, 2.1")


def test_workers_have_a_gpu_each(monkeypatch) -> None:
    import distributed
    import distributed.utils

    addresses = [f"tcp://10.0.0.1:{port}" for port in (7001, 7002, 7003)]
    worker = SimpleNamespace(
        address=addresses[1], loop=None, scheduler=SimpleNamespace(identity=lambda: {"workers": addresses})
    )
    monkeypatch.setattr(distributed, "get_worker", lambda: worker)
    monkeypatch.setattr(distributed.utils, "sync", lambda _, asked: asked())
    with stand_in_gpu(gpus=2):
        assert dask_cluster.default_workers("auto") == dask_cluster.default_workers("cuda") == 2
        assert dask_cluster.default_workers("cpu") == 0
        assert dask_cluster.worker_device("auto") == torch.device("cuda:1")
        assert dask_cluster.worker_device("cuda:0") == torch.device("cuda:0")
    with stand_in_gpu() as gpu:
        assert dask_cluster.default_workers("auto") == 0, "one GPU is this process's"
        assert dask_cluster.worker_device("auto") == GPU
        dask_cluster.forget_models()
        assert gpu.calls == ["empty_cache"]


def test_float32_is_not_rounded_to_tf32_and_what_was_set_comes_back(gpu: StandInGpu) -> None:
    switch = torch.backends.cuda.matmul
    before = switch.fp32_precision
    seen: list[str] = []
    backbone = build(BACKBONE).to("cuda")
    assert backbone.device == torch.device("cuda", 0)
    convolution = next(layer for layer in backbone.module.modules() if isinstance(layer, torch.nn.Conv2d))
    convolution.register_forward_hook(lambda *_: seen.append(switch.fp32_precision))
    backbone(torch.zeros(1, 64, 64, 3, dtype=torch.uint8, device="cuda"))
    assert (seen, switch.fp32_precision) == (["ieee"], before)
