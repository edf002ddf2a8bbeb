"""What is noted beside a result."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from deapcache import machine


def test_versions_are_those_that_the_packages_tell_and_absent_ones_are_left_out() -> None:
    found = machine.versions("torch", "no-such-package-anywhere", "numpy")
    assert list(found) == ["torch", "numpy"]
    assert torch.__version__.startswith(found["torch"])


def test_the_time_is_utc_to_the_second() -> None:
    told = datetime.fromisoformat(machine.now())
    assert told.utcoffset() == datetime.now(UTC).utcoffset()
    assert told.microsecond == 0
    assert abs((datetime.now(UTC) - told).total_seconds()) < 60


def test_a_processor_has_a_kind_and_a_model_in_one_line() -> None:
    assert machine.device_name(torch.device("cpu")) == machine.processor_kind()
    for name in (machine.processor_kind(), machine.processor_model()):
        assert name.strip()
        assert len(name.splitlines()) == 1


def test_versions_are_told_without_torch() -> None:
    script = "import sys; from deapcache.machine import versions; versions('torch'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_cores_are_those_of_the_affinity() -> None:
    some = {min(os.sched_getaffinity(0))}
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, some)
    try:
        assert machine.cpu_count() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
        ("0::/job/step\n", {"job/cpu.max": "300000 100000\n", "job/step/cpu.max": "max 100000\n"}, 3),
        ("0::/not/mounted/here\n", {"cpu.max": "400000 100000\n"}, 4),
        ("4:cpu,cpuacct:/job\n", {"cpu/job/cpu.cfs_quota_us": "500000\n", "cpu/job/cpu.cfs_period_us": "100000\n"}, 5),
        ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ("4:memory:/\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ("0::/\n", {"cpu.max": "damaged"}, 64),
        ("0::/\n", {}, 64),
    ],
)
def test_cores_are_no_more_than_the_quota_of_the_control_groups(monkeypatch, tmp_path, cgroup, files, expected) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    assert machine.cpu_count(tmp_path) == expected


def test_no_other_code_counts_the_cores_of_the_whole_machine() -> None:
    """Workers are as many as a batch system lends; a machine's cores are named where a machine is described."""
    package = Path(machine.__file__).parent
    uses = {str(file.relative_to(package)) for file in package.rglob("*.py") if "os.cpu_count" in file.read_text()}
    assert uses == {"machine.py", "cli/doctor.py", "experiments/speed.py"}
