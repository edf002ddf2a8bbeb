"""Plugin files, and a process that forgets them again."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deapcache import plugins
from deapcache.annotations import ANNOTATIONS
from deapcache.backbones import BACKBONES
from deapcache.datasets import DATASETS
from deapcache.plugins import Registry
from deapcache.readouts import READOUTS
from deapcache.tasks import TASKS

TEMPLATE = Path(__file__).resolve().parents[2] / "docs" / "templates" / "my_backbone.py"

REGISTRIES: tuple[Registry, ...] = (BACKBONES, DATASETS, TASKS, READOUTS, ANNOTATIONS)

CONVOLUTION = """\
import torch
from torch import nn
from deapcache.backbones import register_backbone

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 16, stride=16)

    def forward(self, images):
        return self.layer(images).permute(0, 2, 3, 1)

register_backbone("one-convolution", Net, image_size=64, grid=4, dim=8)
"""
"""A whole plugin: the last line is the 13th."""


def write_plugin(folder: Path, source: str, name: str = "plugin.py") -> Path:
    """A plugin file with this source."""
    file = folder / name
    file.write_text(source)
    return file


@contextmanager
def forgotten_plugins() -> Iterator[None]:
    """Inside, no plugin was run; what is run there is forgotten afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(plugins.VARIABLE, raising=False)
        for name in [name for name in sys.modules if name.startswith("deapcache_plugin_")]:
            patch.delitem(sys.modules, name)
        for registry in REGISTRIES:
            own = {name: registry.get(name) for name in registry.names() if not registry.source(name)}
            patch.setattr(registry, "_entries", own)
            patch.setattr(registry, "_sources", {})
        patch.setattr(plugins, "_were_run", {})
        patch.setattr(plugins, "_all_run_of", None)
        yield
        os.environ.pop(plugins.VARIABLE, None)  # what was set in there; what was set before comes back
        for name in [name for name in sys.modules if name.startswith("deapcache_plugin_")]:
            del sys.modules[name]
