"""Names and shapes of what a saved readout holds: trained readouts are read again by these."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from deapcache_featup import published_state, write_published
from deapcache_golden import Golden, quiet_surroundings, readout_state, run


@pytest.fixture(scope="module", autouse=True)
def _surroundings() -> Iterator[None]:
    with quiet_surroundings():
        yield


def test_state_of_every_readout(golden: Golden, tmp_path: Path) -> None:
    upsampler = write_published(tmp_path / "featup.ckpt", published_state(24))
    lines = []
    for row in run("list", "readouts", "--json").json:
        for name in [row["name"], *(f"{row['name']}:{size}" for size in row["sizes"][2:3])]:
            state = readout_state(
                name, feature_dim=24, out_channels=3, grid=(5, 6), cnn_width=None, seed=0, upsampler=upsampler
            )
            lines += [name, *(f"  {key} {shape}" for key, shape in state.items())]
    golden.text("readouts/states.txt", "\n".join(lines))
