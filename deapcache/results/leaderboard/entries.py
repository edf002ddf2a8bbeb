"""What a leaderboard consists of: entries (a readout on a backbone), what they may be compared with, and boards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deapcache.locations import Location
from deapcache.recipe import digest_of
from deapcache.results.frame import Summary
from deapcache.results.intervals import Interval
from deapcache.results.leaderboard.facts import BackboneFacts

MEASURED, PAPER = "measured", "paper"
"""Where an entry's scores are from: result files, or the paper's tables."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric of an entry."""

    mean: float
    """Over seeds."""
    spread: float = math.nan
    """Sample standard deviation over seeds; NaN for a single one, and where it is not known."""
    interval: Interval | None = None
    """95%, over images."""
    decimals: int = 4
    """That are known."""

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "–"
        text = f"{self.mean:.{self.decimals}f}"
        return text if math.isnan(self.spread) else f"{text} ± {self.spread:.{self.decimals}f}"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One readout on one backbone for one task, over its seeds."""

    source: str
    """:data:`MEASURED` or :data:`PAPER`."""
    backbone: BackboneFacts
    readout: str
    variant: str
    """What tells it apart from others of the same backbone and readout; mostly empty."""
    scores: Mapping[str, Score]
    """Metric → score; the paper prints some of them only."""
    parameters: float | None
    """Learnable parameters of the readout."""
    summary: Summary | None = None
    """What was measured; ``None`` for the paper's."""
    homes: tuple[Location, ...] = ()
    """Where each seed's result lies."""
    printed: str = ""
    """``Table 3``, for the paper's."""
    problem: str = ""
    """Why there is no interval."""

    @property
    def key(self) -> str:
        """A name that is safe in a page's addresses and the same in every leaderboard that has this entry."""
        told = self.summary.protocol_digest if self.summary else self.printed
        runs = [result.run for result in self.summary.results] if self.summary else sorted(self.scores)
        return digest_of([self.source, self.backbone.name, self.readout, told, runs])[:10]

    @property
    def name(self) -> str:
        """Readout with what tells it apart."""
        return f"{self.readout} ({self.variant})" if self.variant else self.readout

    @property
    def row(self) -> tuple[str, str, str, str]:
        """What the entries of one line of a board share."""
        return self.source, self.backbone.label, self.readout, self.variant

    @property
    def origin(self) -> str:
        """``results``, or ``paper, Table 3``."""
        return f"paper, {self.printed}" if self.source == PAPER else "results"

    @property
    def seeds(self) -> tuple[int, ...]:
        """Empty for the paper's: it does not say."""
        return self.summary.seeds if self.summary else ()

    @property
    def protocol(self) -> str:
        """Digest; empty for the paper's."""
        return self.summary.protocol_digest if self.summary else ""

    @property
    def date(self) -> str:
        """Of the last seed, ``2026-01-31``; empty for the paper's."""
        return max(result.date for result in self.summary.results)[:10] if self.summary else ""

    @property
    def versions(self) -> str:
        """``deapcache 0.1.0, torch 2.9.0``; empty for the paper's."""
        if self.summary is None:
            return ""
        found = [f"{name} {number}" for result in self.summary.results for name, number in result.versions.items()]
        return ", ".join(dict.fromkeys(found))

    def cost(self, name: str) -> float | None:
        """Of :attr:`Summary.cost`, ``None`` where it was not measured."""
        return self.summary.cost.get(name) if self.summary else None


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A column of scores."""

    name: str
    label: str
    unit: str
    higher_is_better: bool

    def __str__(self) -> str:
        unit = f" [{self.unit}]" if self.unit else ""
        return f"{self.label}{unit} {'↑' if self.higher_is_better else '↓'}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Entries that were measured the same way, and so may stand beside each other."""

    task: str
    dataset: str
    conditions: str
    """Digest of what they share; ``paper`` where there are none but the paper's."""
    told_apart: str
    """In what it differs from others of its task and dataset; empty where it is the only one."""
    metrics: tuple[Metric, ...]
    main: Metric
    prior: Mapping[str, float]
    """Metric → score of the best output that does not look at the image; empty for the paper's alone."""
    entries: tuple[Entry, ...]
    """The best first."""
    notes: tuple[str, ...]

    @property
    def key(self) -> str:
        """A name that is safe in a page's addresses."""
        return digest_of([self.task, self.dataset, self.conditions])[:10]

    @property
    def has_paper(self) -> bool:
        """Whether the paper's rows are among them."""
        return any(entry.source == PAPER for entry in self.entries)

    @property
    def title(self) -> str:
        """``depth · nyuv2``, with what tells it apart."""
        return " · ".join(filter(None, (self.task, self.dataset, self.told_apart)))

    def values(self) -> list[float]:
        """The main scores that are known, the best first."""
        means = [e.scores[self.main.name].mean for e in self.entries if self.main.name in e.scores]
        return sorted((v for v in means if not math.isnan(v)), reverse=self.main.higher_is_better)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One backbone with one readout over the tasks of a board."""

    first: Entry
    cells: Mapping[str, Entry]
    """Key of a comparison → entry."""

    @property
    def origin(self) -> str:
        """As :attr:`Entry.origin`, of all its tasks."""
        tables = sorted({entry.printed for entry in self.cells.values()})
        if self.first.source != PAPER or len(tables) == 1:
            return self.first.origin
        return f"paper, Tables {', '.join(table.removeprefix('Table ') for table in tables)}"


@dataclass(frozen=True, kw_only=True)
class Board:
    """Backbones × tasks on related data."""

    title: str
    comparisons: tuple[Comparison, ...]
    lines: tuple[Line, ...]

    @property
    def key(self) -> str:
        """A name that is safe in a page's addresses."""
        return digest_of(self.title)[:10]


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """Everything that is shown."""

    boards: tuple[Board, ...]
    device: str = ""
    """Whose speeds are shown; empty where none was measured."""
    devices: tuple[str, ...] = ()
    """On which any backbone was measured, the shown one first."""
    notes: tuple[str, ...] = field(default=())

    @property
    def comparisons(self) -> Sequence[Comparison]:
        """Of all boards, in order."""
        return [comparison for board in self.boards for comparison in board.comparisons]
