"""Datasets that list each split once, and leave images out of the listing itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, Self, TypeVar

from deapcache.datasets.base import Dataset

Row = TypeVar("Row")


class ListedDataset(Dataset, Generic[Row]):
    """A dataset of files under ``root`` whose rows are listed when first needed.

    A copy that is tolerant, or lacks some images, lists anew and shares the rest. What a subclass lists honours
    :attr:`omitted`, and is checked as a whole unless it ``_is_tolerant``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[str, tuple[Row, ...]] = {}
        self._is_tolerant = False

    def tolerant(self) -> Self:
        made = self._again()
        made._is_tolerant = True
        return made

    def without(self, omitted: Mapping[str, Mapping[str, str]]) -> Self:
        made = self._again()
        made.omitted = self.omitted_and(omitted)
        return made

    def _again(self) -> Self:
        made = copy.copy(self)
        made._listings = {}
        return made
