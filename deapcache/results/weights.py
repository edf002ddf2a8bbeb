"""A trained readout from its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deapcache.errors import ResultsError
from deapcache.locations import Location
from deapcache.results.arrays import unpack_arrays
from deapcache.results.record import readout_key

if TYPE_CHECKING:
    from deapcache.readouts import Readout


@dataclass(frozen=True)
class ReadoutFile:
    """A readout at rest."""

    run: str
    backbone: str
    task: str
    readout: Mapping[str, Any]
    """``name``, ``options``, ``feature_dim``, ``out_channels``, ``grid``, ``cnn_width``, ``seed``, ``output_size``,
    ``classes``."""
    weights: Mapping[str, np.ndarray]

    @property
    def output_size(self) -> tuple[int, int]:
        """(height, width) that the readout was trained at, pixels."""
        height, width = self.readout["output_size"]
        return height, width

    def build(self) -> Readout:
        """The trained readout on the CPU, in evaluation mode."""
        import torch

        from deapcache.readouts import build_readout

        about = self.readout
        readout = build_readout(
            about["name"],
            feature_dim=about["feature_dim"],
            out_channels=about["out_channels"],
            grid=tuple(about["grid"]),
            cnn_width=about["cnn_width"],
            seed=about["seed"],
        )
        readout.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in self.weights.items()})
        return readout.eval()


def load_readout_file(home: Location, run: str) -> ReadoutFile:
    """The trained readout of ``run``; raises :class:`ResultsError` where its file is absent or damaged."""
    weights, facts = unpack_arrays(home, readout_key(run))
    try:
        return ReadoutFile(facts["run"], facts["backbone"], facts["task"], facts["readout"], weights)
    except KeyError as error:
        raise ResultsError(f"{home}/{readout_key(run)} is not a readout of deapcache: it lacks {error}") from None
