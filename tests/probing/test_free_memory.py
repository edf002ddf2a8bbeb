"""What a job may take: the machine's memory and the limits of the control groups that hold it, as Linux lists them."""

from __future__ import annotations

from pathlib import Path

import pytest

from deapcache.probing.batches import free_host_memory

MACHINE = 1000 * 1024


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with 1,000 KiB available and no control groups."""
    _write(tmp_path, "proc/meminfo", "MemTotal:  9000 kB\nMemFree:  100 kB\nMemAvailable:  1000 kB\n")
    return tmp_path


def _write(root: Path, name: str, text: str) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def _group(root: Path, path: str, **files: object) -> None:
    for name, value in files.items():
        _write(root, f"sys/fs/cgroup/{path}/memory.{name}", f"{value}\n")


def test_the_page_cache_counts_as_free(root) -> None:
    assert free_host_memory(root) == MACHINE


def test_no_linux_at_all(tmp_path) -> None:
    assert free_host_memory(tmp_path) > 0


def test_a_job_of_slurm(root) -> None:
    """The job has the limit, the task the process: the limit is two groups up."""
    _write(root, "proc/self/cgroup", "0::/system.slice/slurmstepd.scope/job_7/step_0/task_0\n")
    job = "system.slice/slurmstepd.scope/job_7"
    _group(root, f"{job}/step_0/task_0", max="max", high="max", current=5)
    _group(
        root, job, max=500_000, high="max", current=200_000, stat="anon 150000\ninactive_file 30000\nactive_file 9\n"
    )
    assert free_host_memory(root) == 500_000 - 200_000 + 30_000


def test_the_tightest_of_all_limits_counts(root) -> None:
    _write(root, "proc/self/cgroup", "0::/a/b\n")
    _group(root, "a/b", max=900_000, high=300_000, current=100_000)
    _group(root, "a", max=400_000, high="max", current=250_000)
    assert free_host_memory(root) == 150_000


def test_the_first_version_of_control_groups(root) -> None:
    _write(root, "proc/self/cgroup", "4:memory:/slurm/job_7\n3:cpuset:/\n0::/\n")
    _group(
        root, "memory/slurm/job_7",
        limit_in_bytes=700_000, usage_in_bytes=300_000, stat="inactive_file 1\ntotal_inactive_file 40000",
    )  # fmt: skip
    _group(root, "memory", limit_in_bytes=9223372036854771712, usage_in_bytes=10)
    assert free_host_memory(root) == 440_000


def test_a_container_sees_its_own_group_at_the_top(root) -> None:
    """The path is the host's, and is not there."""
    _write(root, "proc/self/cgroup", "4:memory:/docker/0123abcd\n")
    _group(root, "memory", limit_in_bytes=200_000, usage_in_bytes=50_000)
    assert free_host_memory(root) == 150_000


def test_a_group_that_is_full(root) -> None:
    _write(root, "proc/self/cgroup", "0::/\n")
    _group(root, "", max=100, high="max", current=120)
    assert free_host_memory(root) == 0


def test_limits_beyond_the_machine_say_nothing(root) -> None:
    _write(root, "proc/self/cgroup", "0::/a\n")
    _group(root, "a", max=10 * MACHINE, high="max", current=0)
    assert free_host_memory(root) == MACHINE
