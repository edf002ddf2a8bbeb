"""Jobs run at the same time, each on its share of the cores."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from deapcache.probing.train import side_by_side, thread_count


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def _threads_of_a_new_thread() -> int:
    found: list[int] = []
    asked = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    asked.start()
    asked.join()
    return found[0]


def test_jobs_run_at_once_and_share_the_cores() -> None:
    meeting, shares = threading.Barrier(2, timeout=600), []

    def job() -> None:
        meeting.wait()  # nobody passes alone
        shares.append(torch.get_num_threads())

    with side_by_side(2, "cpu") as run:
        run([job, job])
        run([job, job])
    assert shares == [2, 2, 2, 2]
    assert (torch.get_num_threads(), _threads_of_a_new_thread()) == (4, 4)


def test_a_single_group_has_all_cores_in_this_thread() -> None:
    seen: list[object] = []
    with side_by_side(1, "cpu") as run:
        run([lambda: seen.extend([threading.current_thread(), torch.get_num_threads()])])
    assert seen == [threading.main_thread(), 4]


def test_the_first_error_is_raised_when_all_have_ended() -> None:
    done: list[int] = []

    def fail() -> None:
        raise ValueError("the loss is nan")

    with pytest.raises(ValueError, match="the loss is nan"), side_by_side(3, "cpu") as run:
        run([lambda: done.append(1), fail, lambda: done.append(3)])
    assert sorted(done) == [1, 3]
    assert _threads_of_a_new_thread() == 4


def test_an_accelerator_has_one_thread() -> None:
    assert (thread_count("cpu"), thread_count("cuda"), thread_count(torch.device("cuda:1"))) == (4, 1, 1)
