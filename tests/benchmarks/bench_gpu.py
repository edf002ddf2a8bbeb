"""What only a GPU can show: CUDA tests, then tables, each part in a process and a time of its own.

usage: python -m tests.benchmarks.bench_gpu [--dry-run] [--out FOLDER] [--seconds N] [--only PART,...]

``gpu.sh`` beside this file calls it on a bare machine. Parts come in the order of their worth; one that fails or takes
too long is reported, and the next one follows; when the time is up, the rest is skipped with a line. ``gpu.json`` and
``gpu.md`` are written after every part. ``--dry-run`` runs every part tiny on the CPU, where no figure means anything.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

NEEDED = (
    "torch", "numpy", "zarr", "numcodecs", "crc32c", "obstore", "dask", "pydantic", "yaml", "typer", "rich", "timm",
    "PIL", "psutil", "h5py", "pycocotools", "scipy", "sklearn", "safetensors", "threadpoolctl", "jinja2", "pandas",
)  # fmt: skip
"""Modules without which most parts do not run."""
WANTED = ("pytest", "transformers", "triton", "distributed", "open_clip")
"""Modules that some parts or tests need."""

TOTAL_SECONDS = 450.0
CUDA_TESTS = Path(__file__).parents[1] / "cuda"

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all parts get."""

    device: str
    dry: bool
    """Tiny sizes: only to see that everything runs."""


@dataclass(frozen=True)
class Part:
    """One table."""

    name: str
    title: str
    seconds: float
    """Most that it may take."""
    run: Callable[[Setting], Iterator[Row]]
    """Gives the rows, each as soon as it is known."""


@dataclass
class Outcome:
    """What became of a part."""

    name: str
    title: str
    status: str = "skipped"
    """``ok``, ``failed``, ``timeout`` or ``skipped``."""
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    problem: str = ""


def machine(setting: Setting) -> Iterator[Row]:
    """Device, versions, and the rates that floors are made of: measured here, not a data sheet's."""
    import torch

    from deapcache.machine import device_name, processor_model, versions

    device = torch.device(setting.device)
    yield {"what": "device", "value": device_name(device), "unit": ""}
    yield {"what": "processor", "value": f"{processor_model()}, {os.cpu_count()} cores", "unit": ""}
    for package, found in versions("torch", "numpy", "timm", "zarr", "transformers", "triton").items():
        yield {"what": package, "value": found, "unit": ""}
    bandwidth, rates = measured_rates(setting)
    yield {"what": "copy on the device, read and written", "value": bandwidth / 1e9, "unit": "GB/s"}
    for dtype, rate in rates.items():
        yield {"what": f"matrix product {dtype}", "value": rate / 1e12, "unit": "TFLOP/s"}


def measured_rates(setting: Setting) -> tuple[float, dict[str, float]]:
    """(bytes a second of a copy on the device, dtype → operations a second of a large matrix product, TF32 off)."""
    import torch

    device, side = torch.device(setting.device), 64 if setting.dry else 8192
    data = torch.empty(64 * side * side, dtype=torch.uint8, device=device)
    target = torch.empty_like(data)
    bandwidth = 2 * data.numel() / best_seconds(lambda: target.copy_(data), device)
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        rates[str(dtype).removeprefix("torch.")] = 2 * side**3 / best_seconds(partial(torch.mm, a, b), device)
    return bandwidth, rates


def best_seconds(run: Callable[[], object], device: Any, *, repeats: int = 5, inner: int = 10) -> float:
    """Of one call: the least over the repeats of the mean of several calls, the first three calls left out."""
    from deapcache.machine import seconds_of

    for _ in range(3):
        run()
    inner = inner if device.type == "cuda" else 1

    def several() -> None:
        for _ in range(inner):
            run()

    return min(seconds_of(several, device) for _ in range(repeats if device.type == "cuda" else 1)) / inner


def tests(setting: Setting) -> Iterator[Row]:
    """The tests in ``tests/cuda``, in this process, without others' fixtures, whose packages may be absent."""
    import pytest

    os.environ["DEAPCACHE_TEST_DEVICE"] = setting.device

    class Collected:
        rows: list[Row] = []  # noqa: RUF012

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.when == "call" or report.outcome != "passed":
                why = str(report.longrepr).strip().splitlines()[-1:] if report.outcome != "passed" else [""]
                row = {"test": report.nodeid.rpartition("::")[2], "outcome": report.outcome, "seconds": report.duration}
                self.rows.append({**row, "why": why[0] if why else ""})

    collected = Collected()
    code = pytest.main(
        ["--noconftest", "-p", "no:cacheprovider", "-q", "--tb=short", str(CUDA_TESTS)], plugins=[collected]
    )
    yield from collected.rows
    if code != 0:
        raise RuntimeError(f"pytest ended with {code!r}")


def extraction(setting: Setting) -> Iterator[Row]:
    """Extraction in bf16 against the bare forward of the same batches, untrained weights."""
    from tests.benchmarks import bench_extract

    trials = [("imagenet@untrained", 32), ("siglip-384@untrained", 32), ("dinov2@untrained", 32)]
    for name, batch in [("efficientnet-lite0-s16@untrained@64", 2)] if setting.dry else trials:
        shards, repeats = (2, 1) if setting.dry else (32, 3)
        speeds = bench_extract.run(name, shards, batch, setting.device, repeats, precision="bf16")
        yield {
            "backbone": name,
            "batch": batch,
            "forward images/s": median(speeds.forward),
            "extract images/s": median(speeds.extract),
            "ratio": speeds.ratio(speeds.extract),
            "slow store ratio": speeds.ratio(speeds.slow_store),
        }


def probe(setting: Setting) -> Iterator[Row]:
    """Ten thousand steps of 32 on VOC's 1,464 images, from each place that training arrays can be in."""
    import torch

    from deapcache.locations import LocalLocation
    from deapcache.machine import wait_for
    from deapcache.probing import ProbeConfig, ReadoutTrainer, TaskSpec
    from deapcache.probing.batches import BatchStream
    from deapcache.probing.train import stack_trainers, thread_count, train
    from deapcache.tasks import get_task
    from tests.benchmarks.bench_stack import QUICK, Sizes, make_caches

    device = torch.device(setting.device)
    classes = tuple(f"class {number}" for number in range(21))
    sizes = QUICK if setting.dry else Sizes(images=1464, batch=32, device=setting.device)
    ways = [("gpu", 10_000), ("memory", 1_000), ("stream", 1_000)]
    with tempfile.TemporaryDirectory() as folder:
        caches = make_caches(LocalLocation(Path(folder)), sizes, "classes", len(classes))
        for residency, asked in [("memory", 4)] if setting.dry else ways:
            begun = time.perf_counter()
            stream = BatchStream(caches, residency, device)  # type: ignore[arg-type]
            filled = time.perf_counter() - begun
            spec = TaskSpec(
                task=get_task("voc"), backbone="random", classes=classes, output_size=sizes.output,
                grid=sizes.features[:2], feature_dim=sizes.features[2], iterations=asked,
            )  # fmt: skip
            config = ProbeConfig(batch_size=sizes.batch, device=setting.device)
            trainer = ReadoutTrainer(spec, "deap", seed=0, lr=1e-3, device=device)
            groups = stack_trainers([trainer], config.weight_decay, threads=thread_count(device))
            seconds = train(groups, stream, caches.rows, config, lambda _: None)
            begun = time.perf_counter()
            wait_for(device)
            seconds += time.perf_counter() - begun
            yield {
                "arrays in": residency,
                "steps": asked,
                "fill s": filled,
                "train s": seconds,
                "ms a step": 1e3 * seconds / asked,
                "10,000 steps, s": 10_000 * seconds / asked,
                "loss": trainer.loss_curve()[-1][1],
            }


def readout(setting: Setting) -> Iterator[Row]:
    """Forward and backward of DeAP against the plain formula, compiled, with FlexAttention, and against the floors.

    The floor of bytes: features read twice, output written once and its gradient read once, parameters read and their
    gradients written. The floor of operations: those that PyTorch counts, at this device's float32 product.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from deapcache.readouts import build_readout
    from tests.benchmarks import bench_readout

    device = torch.device(setting.device)
    bandwidth, rates = measured_rates(setting)
    shapes = [(3, 1, 16)] if setting.dry else [(14, 32, 768), (24, 32, 768), (37, 8, 768)]
    output = (24, 24) if setting.dry else bench_readout.OUTPUT
    for cells, batch, dim in shapes:
        readout = build_readout("deap", feature_dim=dim, out_channels=1, grid=(cells, cells), seed=0).to(device)
        features = torch.randn(batch, cells, cells, dim, generator=torch.Generator().manual_seed(0)).to(device)

        def step(forward: Callable[[torch.Tensor], torch.Tensor], module: Any = readout, data: Any = features) -> Any:
            module.zero_grad(set_to_none=True)
            loss = forward(data).square().mean()
            loss.backward()
            return loss.detach()

        ours = partial(readout, output_size=output)
        plain = partial(bench_readout.plain, readout, output=output)
        with FlopCounterMode(display=False) as counter:
            expected = float(step(ours))
        parameters = sum(p.numel() for p in readout.parameters())
        moved = 4 * (2 * features.numel() + 2 * batch * output[0] * output[1] + 2 * parameters)
        floor = max(moved / bandwidth, counter.get_total_flops() / rates["float32"])
        ways: dict[str, Callable[[], Callable[[], object]]] = {
            "deapcache": lambda ours=ours, step=step: partial(step, ours),
            "plain": lambda plain=plain, step=step: partial(step, plain),
            "plain, compiled": lambda plain=plain, step=step: partial(step, compiled(plain, setting)),
            "plain with FlexAttention, compiled": lambda r=readout, step=step: partial(
                step, compiled(partial(bench_readout.plain, r, output=output, attend=flex_attend(setting)), setting)
            ),
        }
        for way, make in ways.items():
            row: Row = {"cells": cells, "batch": batch, "way": way}
            try:
                run = make()
                found = float(run())  # type: ignore[arg-type]
                seconds = best_seconds(run, device)
                row |= {"ms": 1e3 * seconds, "of the floor": seconds / floor, "floor ms": 1e3 * floor}
                row |= {"loss off by": abs(found - expected) / expected}
            except Exception as error:  # one way out of several, as a rule a compiler's
                row |= {"problem": first_line(error)}
            yield row


def compiled(function: Callable[..., Any], setting: Setting) -> Callable[..., Any]:
    """By ``torch.compile``; in a dry run with the backend that compiles nothing, which is quick."""
    import torch

    return torch.compile(function, backend="eager" if setting.dry else "inductor")


def flex_attend(setting: Setting) -> Callable[..., Any]:
    """FlexAttention with the learned mask as ``score_mod``; in a dry run compared alone: a CPU has no backward."""
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    def attend(queries_SQK: Any, keys_BSNK: Any, values_BSNV: Any, mask_SQN: Any) -> Any:
        batch, width = len(keys_BSNK), max(16, values_BSNV.shape[-1])
        pad = torch.nn.functional.pad
        given = (queries_SQK.expand(batch, -1, -1, -1), keys_BSNK, values_BSNV)
        # heads of less than 16 are not taken; zeros change neither product
        queries, keys, values = (pad(each, (0, width - each.shape[-1])) for each in given)
        mask = mask_SQN

        def score_mod(score: Any, b: Any, head: Any, query: Any, cell: Any) -> Any:
            return score + mask[head, query, cell]

        if setting.dry:
            plain = (queries @ keys.transpose(2, 3) + mask).softmax(-1) @ values
            queries, keys, values, mask = (each.detach() for each in (queries, keys, values, mask))
            found = flex_attention(queries, keys, values, score_mod=score_mod, scale=1.0)
            torch.testing.assert_close(found, plain.detach())
            return plain[..., : values_BSNV.shape[-1]]
        return flex_attention(queries, keys, values, score_mod=score_mod, scale=1.0)[..., : values_BSNV.shape[-1]]

    return attend


def replayed(step: Callable[[], Any], device: Any) -> Callable[[], Any]:
    """``step`` captured once as a CUDA graph, whose kernels are launched as one; a CPU runs it as it is."""
    import torch

    if device.type != "cuda":
        return step
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def replay() -> Any:
        graph.replay()
        return loss

    return replay


def stacks(setting: Setting) -> Iterator[Row]:
    """Readouts in one pass against as many passes of one, as ``bench_stack``; forward and backward as a CUDA graph."""
    import torch

    from deapcache.readouts import build_readout
    from tests.benchmarks import bench_stack

    device = torch.device(setting.device)
    sizes = bench_stack.QUICK if setting.dry else bench_stack.Sizes(device=setting.device, batch=32, repeats=2)
    times = bench_stack.run(sizes, (1, 2) if setting.dry else bench_stack.READOUTS)
    cells, _, dim = sizes.features
    features = torch.randn(sizes.batch, *sizes.features, generator=torch.Generator().manual_seed(0)).to(device)
    steps: dict[int, Callable[[], Any]] = {}
    for count, values in times.together.items():
        members = [
            build_readout("deap", feature_dim=dim, out_channels=1, grid=(cells, cells), seed=seed).to(device)
            for seed in range(count)
        ]

        def step(members: Any = members) -> Any:
            for member in members:
                member.zero_grad(set_to_none=True)
            outputs = type(members[0]).forward_stacked(members, features, sizes.output)
            loss = torch.stack([output.square().mean() for output in outputs]).sum()
            loss.backward()
            return loss.detach()

        row: Row = {
            "readouts": count,
            "ms a step": median(values),
            "of as many passes": median(times.ratio(count)),
            "forward and backward ms": 1e3 * best_seconds(step, device),
        }
        yield row
        steps[count] = step
    for count, step in steps.items():  # last: a capture that fails may leave the device unusable
        yield {"readouts": count, "as a CUDA graph ms": 1e3 * best_seconds(replayed(step, device), device)}


def reads(setting: Setting) -> Iterator[Row]:
    """Batches of 32 volumes from host memory, pinned or not, and from the cache to the device."""
    import torch

    from deapcache.locations import LocalLocation
    from deapcache.probing.batches import BatchStream, image_order
    from tests.benchmarks.bench_stack import QUICK, Sizes, make_caches

    device = torch.device(setting.device)
    sizes = QUICK if setting.dry else Sizes(images=512, features=(24, 24, 768), batch=32)
    batch = torch.randn(sizes.batch, *sizes.features).half()
    size = batch.numel() * batch.element_size()
    ways = {"pageable": lambda: batch.to(device)}
    if device.type == "cuda":
        pinned = batch.pin_memory()
        ways["pinned before"] = lambda: pinned.to(device, non_blocking=True)
        ways["pinned on the way"] = lambda: batch.pin_memory().to(device, non_blocking=True)
    for way, run in ways.items():
        yield {"way": way, "GB/s": size / best_seconds(run, device) / 1e9}
    steps = 2 if setting.dry else 200
    with tempfile.TemporaryDirectory() as folder:
        caches = make_caches(LocalLocation(Path(folder)), sizes)
        for residency in ("memory", "stream"):
            stream = BatchStream(caches, residency, device)  # type: ignore[arg-type]
            order = list(image_order(0, caches.rows, iterations=steps, batch_size=sizes.batch))

            def epoch(stream: Any = stream, order: Any = order) -> None:
                for _ in stream.features(order):
                    pass

            yield {
                "way": f"residency {residency}",
                "GB/s": steps * size / best_seconds(epoch, device, repeats=3, inner=1) / 1e9,
            }
    # int8 with a scale a cell: half the bytes to the device, where a product brings them back
    codes, scales = torch.randint(-127, 128, batch.shape, dtype=torch.int8), torch.rand(*batch.shape[:3], 1)
    on_device = codes.to(device), scales.to(device)
    seconds = best_seconds(lambda: on_device[0].float() * on_device[1], device)
    yield {"way": "int8 to float32 on the device", "GB/s": 2 * size / seconds / 1e9}


def decoding(setting: Setting) -> Iterator[Row]:
    """Base images from JPEG files on all cores, and how many cores a GPU's forward pass would keep at work."""
    import torch

    from deapcache.backbones import build
    from deapcache.extraction.plan import measure_rate
    from tests.benchmarks import bench_decode

    speeds = bench_decode.run(4, 1) if setting.dry else bench_decode.run(1600, 2)
    decoded = median(speeds.deapcache)
    yield {"what": "base images from JPEG", "images/s": decoded, "cores busy": median(speeds.busy)}
    yield {"what": "Pillow alone", "images/s": median(speeds.pillow)}
    names = ["efficientnet-lite0-s16@untrained@64"] if setting.dry else ["imagenet@untrained", "dinov2@untrained"]
    for name in names:
        backbone = build(name, precision="bf16").to(torch.device(setting.device))
        rate = measure_rate(backbone, bench_decode.SIZE, 2 if setting.dry else 32)
        limit = "the forward pass" if rate < decoded else "decoding"
        yield {"what": f"forward {name}", "images/s": rate, "of decoding": rate / decoded, "limit": limit}


PARTS = (
    Part("machine", "The machine", 40, machine),
    Part("tests", "CUDA tests", 120, tests),
    Part("probe", "A probe of VOC's shape", 80, probe),
    Part("extraction", "Extraction in bf16 against the forward alone", 110, extraction),
    Part("readout", "A readout's step: DeAP, forward and backward", 110, readout),
    Part("stacks", "Readouts in one pass", 60, stacks),
    Part("reads", "Reads to the device", 40, reads),
    Part("decoding", "Decoding against the forward pass", 60, decoding),
)


def first_line(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def _in_child(part: Part, setting: Setting, pipe: Any) -> None:
    """Send the rows one by one, then how it ended: ``(row, None)`` or ``(None, problem)``."""
    os.setsid()  # what it starts ends with it
    if setting.dry:
        import torch

        torch.set_num_threads(1)
    problem = ""
    try:
        for row in part.run(setting):
            pipe.send((row, None))
    except BaseException as error:
        traceback.print_exc()
        problem = first_line(error)
    pipe.send((None, problem))
    pipe.close()


def run_part(part: Part, setting: Setting, seconds: float) -> Outcome:
    """A forked process that is ended after so many seconds: a broken CUDA context or a hang is that part's alone.

    This process has imported PyTorch and never touched the GPU, which a fork would not survive.
    """
    outcome, begun = Outcome(part.name, part.title, status="failed"), time.perf_counter()
    import torch

    context = multiprocessing.get_context("spawn" if torch.cuda.is_initialized() else "fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(part, setting, theirs))
    child.start()
    theirs.close()
    try:
        while ours.poll(max(0.0, seconds - (time.perf_counter() - begun))):
            row, problem = ours.recv()
            if row is None:
                outcome.status, outcome.problem = ("failed" if problem else "ok"), problem
                break
            outcome.rows.append(row)
        else:
            outcome.status, outcome.problem = "timeout", f"ended after {seconds:.0f} s"
    except EOFError:
        outcome.problem = "its process died"
    if outcome.status != "timeout":
        child.join(10)
    with suppress(ProcessLookupError):
        os.killpg(child.pid or 0, signal.SIGKILL)
    child.join()
    outcome.seconds = time.perf_counter() - begun
    return outcome


def missing_modules(names: Sequence[str]) -> list[str]:
    """Those that cannot be imported here, with why."""
    lacking = []
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            lacking.append(f"{name} ({first_line(error)})")
    return lacking


def markdown(outcomes: Sequence[Outcome], lacking: Sequence[str], setting: Setting) -> str:
    """All tables."""
    lines = ["# deapcache on a GPU", ""]
    if setting.dry:
        lines += ["A dry run on the CPU, tiny: no figure here says anything of speed.", ""]
    if lacking:
        lines += [f"Lacking: {', '.join(lacking)}", ""]
    for one in outcomes:
        lines += [f"## {one.title}", "", f"{one.status}, {one.seconds:.1f} s {one.problem}".rstrip(), ""]
        if one.rows:
            columns = list(dict.fromkeys(name for row in one.rows for name in row))
            lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
            lines += [f"| {' | '.join(_shown(row.get(name, '')) for name in columns)} |" for row in one.rows] + [""]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/")


def main() -> int:
    """Run the parts, and give 1 where one failed or took too long."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="tiny, on the CPU")
    parser.add_argument("--out", type=Path, default=Path("gpu-figures"), help="folder for gpu.json and gpu.md")
    parser.add_argument("--seconds", type=float, default=TOTAL_SECONDS, help="for all parts together")
    parser.add_argument("--only", default="", help=f"some of {','.join(part.name for part in PARTS)}")
    options = parser.parse_args()
    only = [name for name in options.only.split(",") if name]
    if unknown := set(only) - {part.name for part in PARTS}:
        parser.error(f"unknown part {', '.join(sorted(unknown))}: choose from {', '.join(part.name for part in PARTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    setting = Setting(device="cpu" if options.dry_run else "cuda", dry=options.dry_run)
    outcomes: list[Outcome] = []
    end = time.perf_counter() + options.seconds
    lacking = [*missing_modules(NEEDED), *missing_modules(WANTED)]
    for each in lacking:
        print(f"lacks {each}", flush=True)
    # once for all parts, which are forked from here
    missing_modules(["deapcache.experiments.plan", "deapcache.readouts", "tests.benchmarks.bench_stack"])
    for part in PARTS:
        if only and part.name not in only:
            continue
        if end - time.perf_counter() < 5:
            outcomes.append(Outcome(part.name, part.title, problem=f"the {options.seconds:.0f} s were up"))
        else:
            print(f"== {part.name}", flush=True)
            outcomes.append(run_part(part, setting, min(part.seconds, end - time.perf_counter())))
        one = outcomes[-1]
        print(f"{one.name}: {one.status}, {one.seconds:.1f} s {one.problem}".rstrip(), flush=True)
        document = {"device": setting.device, "dry_run": setting.dry, "lacking": lacking}
        document |= {"parts": [asdict(each) for each in outcomes]}
        (options.out / "gpu.json").write_text(json.dumps(document, indent=1))
        (options.out / "gpu.md").write_text(markdown(outcomes, lacking, setting))
    print(f"written: {options.out / 'gpu.json'} and gpu.md", flush=True)
    return int(any(one.status in ("failed", "timeout") for one in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
