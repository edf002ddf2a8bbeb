"""The ablations of Table 5: DeAP less one thing each."""

from __future__ import annotations

from functools import partial

from deapcache.readouts.config import READOUTS, ReadoutEntry
from deapcache.readouts.deap import DeapConfig

READOUTS.add(
    "8-dim",
    ReadoutEntry(
        summary="ablation of deap: D = 8, the same as deap:8", config=partial(DeapConfig, code_dim=8), sizes=()
    ),
)
READOUTS.add(
    "no-sigma",
    ReadoutEntry(summary="ablation of deap: attention without Gaussian masks", config=partial(DeapConfig, mask=False)),
)
READOUTS.add(
    "no-indiv-sigma",
    ReadoutEntry(
        summary="ablation of deap: one width of the mask for all heads", config=partial(DeapConfig, shared_sigma=True)
    ),
)
READOUTS.add(
    "only-mask",
    ReadoutEntry(
        summary="ablation of deap: attention by the mask alone, without queries and keys",
        config=partial(DeapConfig, content=False),
    ),
)
