"""A trained readout from its file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from deapcache.errors import ResultsError
from deapcache.locations import Location
from deapcache.results.arrays import unpack_arrays
from deapcache.results.documents import ReadoutDocument
from deapcache.results.record import readout_key
from deapcache.untrusted import first_problem

if TYPE_CHECKING:
    from deapcache.readouts import Readout


_READOUT: TypeAdapter[ReadoutDocument] = TypeAdapter(ReadoutDocument)


@dataclass(frozen=True)
class ReadoutFile:
    """A readout at rest."""

    run: str
    backbone: str
    task: str
    readout: Mapping[str, Any]
    """``name``, ``options``, ``feature_dim``, ``heads``, ``grid``, ``cnn_width``, ``seed``, ``output_size``,
    ``classes``."""
    weights: Mapping[str, np.ndarray]

    @property
    def output_size(self) -> tuple[int, int]:
        """(height, width) that the readout was trained at, pixels."""
        height, width = self.readout["output_size"]
        return height, width

    def build(self) -> list[Readout]:
        """The trained readouts of the task, one a head, on the CPU and in evaluation mode.

        The task takes their outputs side by side: ``torch.cat([head(features, size) for head in heads], 1)``. Raises
        :class:`ResultsError` where the weights are those of another readout, and what :func:`restore_readout` raises.
        """
        import torch

        from deapcache.readouts import restore_readout

        about = self.readout
        try:
            heads = [
                restore_readout(
                    about["name"],
                    feature_dim=about["feature_dim"],
                    out_channels=channels,
                    grid=tuple(about["grid"]),
                    cnn_width=about["cnn_width"],
                    options=about["options"],
                    state={name: torch.from_numpy(array.copy()) for name, array in self._head(place)},
                )
                for place, channels in enumerate(about["heads"])
            ]
        except (RuntimeError, KeyError, TypeError) as error:  # of load_state_dict, and of options that are lacking
            raise ResultsError(
                f"the readout of {self.run} does not hold the weights of a {about['name']!r} readout as it says "
                f"({' '.join(str(error).split())[:200]}): run its probe again"
            ) from None
        for head in heads:
            head.trained_size = self.output_size
        return heads

    def _head(self, place: int) -> Iterator[tuple[str, np.ndarray]]:
        prefix = f"{place}."
        return ((n.removeprefix(prefix), array) for n, array in self.weights.items() if n.startswith(prefix))


def load_readout_file(home: Location, run: str) -> ReadoutFile:
    """The trained readout of ``run``; raises :class:`ResultsError` where its file is absent or damaged."""
    key = readout_key(run)
    weights, facts = unpack_arrays(home, key)
    try:
        _READOUT.validate_json(json.dumps(facts), strict=True)
    except ValidationError as error:
        raise ResultsError(f"{home}/{key} is not a readout of deapcache: {first_problem(error)}") from None
    if facts["run"] != run:
        raise ResultsError(f"{home}/{key} is a copy of the readout of {facts['run']} under another name")
    return ReadoutFile(facts["run"], facts["backbone"], facts["task"], facts["readout"], weights)
