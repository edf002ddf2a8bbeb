"""A pipeline, parsed: backbones × tasks × readouts × seeds, with every default filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deapcache.probing import ProbeConfig
from deapcache.readouts import needs_upsampler


@dataclass(frozen=True, kw_only=True)
class ProbeSpec:
    """One entry of ``probes``: all its tasks × backbones × readouts × seeds on one dataset."""

    tasks: tuple[str, ...]
    dataset: str
    backbones: tuple[str, ...]
    readouts: tuple[str, ...]
    seeds: tuple[int, ...]
    options: ProbeConfig
    """All choices of training; its device is chosen when it runs."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """Readouts that cannot be built: those around a published upsampler whose file is not given."""
        if self.options.upsampler is not None:
            return ()
        return tuple(name for name in self.readouts if needs_upsampler(name))

    @property
    def count_left_out(self) -> int:
        """Runs of these readouts."""
        others = len(self.tasks) * len(self.backbones) * len(self.seeds) * len(self.options.lrs)
        return len(self.left_out) * others

    @property
    def limit(self) -> int | None:
        """Images of each split that are used; None: all."""
        return self.options.train_limit


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """An experiment as data."""

    name: str
    source: str
    """The file it came from."""
    description: str
    layouts: tuple[str, ...]
    """How its results are shown: ``plain``, or as a table or figure of the paper."""
    probes: tuple[ProbeSpec, ...]
    fit: str
    """How images are brought to the base size."""
    storage: str
    precision: str
    on_error: str
    """What becomes of images that cannot be read: ``stop`` or ``skip``."""
    where: Mapping[str, str]
    """Recipe fields that caches must have, where the home holds several of a backbone or an annotation."""

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of all datasets, in the order of the probes."""
        return tuple(dict.fromkeys(probe.dataset for probe in self.probes))

    def backbones_of(self, dataset: str) -> tuple[str, ...]:
        """All backbones that are probed on a dataset, in order."""
        return tuple(dict.fromkeys(name for probe in self.of(dataset) for name in probe.backbones))

    def limit_of(self, dataset: str) -> int | None:
        """Images of each split that must be cached for a dataset's probes; None: all."""
        limits = [probe.limit for probe in self.of(dataset)]
        return None if None in limits else max(limit for limit in limits if limit is not None)

    def views_of(self, dataset: str) -> tuple[str, ...]:
        """Views of the training images that must be cached for a dataset's probes."""
        return tuple(dict.fromkeys(view for probe in self.of(dataset) for view in probe.options.views))

    def of(self, dataset: str) -> tuple[ProbeSpec, ...]:
        """The probes on a dataset."""
        return tuple(probe for probe in self.probes if probe.dataset == dataset)
