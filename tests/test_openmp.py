"""Threads sleep while they wait for each other as long as cores are short, and results do not change by it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import torch
from deapcache_testing import require

from deapcache import openmp


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    require(sys.platform == "linux", "Linux, whose OpenMP of PyTorch it is about")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@dataclass
class Waiting:
    """What the kernel would tell: ``share`` is the part of the time that a thread waits for a core."""

    share: float = 0.0
    seconds: float = 0.0
    last: float = field(default_factory=time.perf_counter)

    def __call__(self) -> dict[str, float]:
        now = time.perf_counter()
        self.seconds, self.last = self.seconds + self.share * (now - self.last), now
        return {"7": self.seconds}


@pytest.fixture
def waiting(monkeypatch) -> Waiting:
    waiting = Waiting()
    monkeypatch.setattr(openmp, "_waiting_times", waiting)
    monkeypatch.setattr(openmp, "_INTERVAL", 0.02)
    return waiting


def has_second_team() -> bool:
    return any(thread.name == "deapcache-idle" for thread in threading.enumerate())


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def processor_seconds() -> float:
    """Of operations with pauses between them, in which threads spin or sleep."""
    numbers, start = torch.ones(2**17), time.process_time()
    for _ in range(50):
        numbers.neg_()
        time.sleep(0.002)
    return time.process_time() - start


def test_a_second_team_is_there_while_cores_are_short(waiting) -> None:
    with openmp.sleep_if_cores_are_short():
        time.sleep(0.2)
        assert not has_second_team()
        waiting.share = 0.5
        wait_until(has_second_team)
        waiting.share = 0.3  # threads that sleep wait less: no reason yet to spin again
        time.sleep(0.2)
        assert has_second_team()
        waiting.share = 0.1
        wait_until(lambda: not has_second_team())
        waiting.share = 0.5
        wait_until(has_second_team)
    assert not has_second_team()
    assert not any(thread.name == "deapcache-cores" for thread in threading.enumerate())


def test_threads_sleep_between_operations_while_it_is_there(waiting) -> None:
    spinning = processor_seconds()
    waiting.share = 0.5
    with openmp.sleep_if_cores_are_short():
        wait_until(has_second_team)
        asleep = processor_seconds()
    assert asleep < spinning / 4
    assert processor_seconds() > 4 * asleep


def test_no_result_changes(waiting) -> None:
    def gradients() -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(4, 8, 40, 40, generator=generator)
        weights = torch.randn(16, 8, 3, 3, generator=generator).requires_grad_()
        matrix = torch.randn(40, 300, generator=generator).requires_grad_()
        (torch.conv2d(images, weights)[..., :38] @ matrix[:38]).softmax(-1).square().sum().backward()
        return [weights.grad, matrix.grad]

    alone = gradients()
    waiting.share = 0.5
    with openmp.sleep_if_cores_are_short():
        wait_until(has_second_team)
        assert all(map(torch.equal, gradients(), alone))


def test_the_kernel_tells_how_long_threads_wait() -> None:
    times = openmp._waiting_times()
    assert str(threading.get_native_id()) in times
    assert all(seconds >= 0 for seconds in times.values())
