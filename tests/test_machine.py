"""What is noted beside a result."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

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
