"""Rendered rooms: an embedded dataset with exact instances, classes and depth."""

from deapcache.datasets.scenes.dataset import Scenes
from deapcache.datasets.scenes.world import CLASSES

__all__ = ["CLASSES", "Scenes"]
