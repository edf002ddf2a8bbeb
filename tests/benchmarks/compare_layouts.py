"""The two readout layouts that give the paper's parameter counts, compared on the embedded scenes.

usage: python -m tests.benchmarks.compare_layouts HOME [--iterations 400]

HOME must hold efficientnet-lite0-s16 over ``scenes``. The first layout is ``deap``; the second has no entry
convolution, transposed convolutions of 3×3, blocks of C/2, C and C channels, a code of 16 numbers a cell and linear
layers without bias. Both are trained in one pass for foreground, segmentation and depth, three seeds each.
"""

from __future__ import annotations

import math
import sys
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deapcache.locations import locate
from deapcache.probing import ProbeConfig, probe_backbone
from deapcache.readouts import READOUTS, SIZES, Readout, ReadoutConfig
from deapcache.readouts.deap import SIGMA_FLOOR, SIGMA_LEARNING_RATE
from deapcache.readouts.regions import locate_regions_and_cells
from deapcache.readouts.separable import attend_from_grid

CELL_CODE, QUERY_CODE, HEADS = 16, 8, 8
TASKS = ("foreground", "segmentation", "depth")


class SecondLayout(Readout):
    """DeAP with the second layout."""

    summary = "the second layout"
    sizes = SIZES

    def __init__(self, config: ReadoutConfig) -> None:
        super().__init__(config)
        code, width = config.code_dim, config.feature_dim + CELL_CODE
        self.norm = nn.LayerNorm(width)
        self.key, self.value = nn.Linear(width, code, bias=False), nn.Linear(width, 2 * code, bias=False)
        self.query = nn.Linear(QUERY_CODE, code, bias=False)
        widths = torch.logspace(math.log10(max(0.03, 0.5 / min(config.grid))), math.log10(0.5), HEADS)
        self.log_sigma = nn.Parameter((widths - SIGMA_FLOOR).log())
        self.ffn = nn.Sequential(
            nn.Linear(2 * code, 4 * code, bias=False), nn.GELU(), nn.Linear(4 * code, code, bias=False)
        )
        C = config.width
        channels = (code, C // 2, C, C)
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in pairwise(channels))
        self.upsamplings = nn.ModuleList(
            nn.ConvTranspose2d(o, o, 3, stride=2, padding=1, output_padding=1) for o in channels[1:]
        )
        self.final = nn.Conv2d(C, config.out_channels, 1)
        self.skip = nn.Conv2d(code, config.out_channels, 1, bias=False)
        for layer in (*self.convolutions, *self.upsamplings, self.final):
            nn.init.zeros_(layer.bias)
        self.options = {"layout": "second"}

    def forward(self, features_BHWD: Tensor, output_size: tuple[int, int], guidance: Tensor | None = None) -> Tensor:
        B, H, W, _ = features_BHWD.shape
        geometry = locate_regions_and_cells(output_size, (H, W), device=features_BHWD.device)
        cells = self.standardise(features_BHWD).flatten(1, 2)
        codes = _codes(geometry.cell_rows, geometry.cell_columns).expand(B, -1, -1)
        normed = self.norm(torch.cat([codes, cells], -1))
        keys, values = (layer(normed).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.key, self.value))
        rows, columns = (
            self.query(codes).unflatten(-1, (HEADS, -1)).transpose(0, 1) / math.sqrt(keys.shape[-1])
            for codes in geometry.axis_codes()
        )
        sigma = SIGMA_FLOOR + self.log_sigma.exp()
        mixed = attend_from_grid(rows, columns, geometry.gaussian_mask(sigma), keys, values)
        tokens = self.ffn(mixed.transpose(1, 2).flatten(2)).unflatten(1, geometry.region_grid).permute(0, 3, 1, 2)
        fine = tokens.contiguous(memory_format=torch.channels_last)
        for convolution, upsampling in zip(self.convolutions, self.upsamplings, strict=True):
            fine = F.relu(upsampling(convolution(fine)))
        coarse = F.interpolate(self.skip(tokens), scale_factor=8, mode="bilinear", align_corners=False)
        return (self.final(fine) + coarse)[..., : output_size[0], : output_size[1]]

    def set_output_bias(self, values: Tensor) -> None:
        with torch.no_grad():
            self.final.bias.copy_(values)

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict]:
        others = [p for p in self.parameters() if p is not self.log_sigma]
        sigma = {"params": [self.log_sigma], "lr": SIGMA_LEARNING_RATE * lr, "weight_decay": 0.0}
        return [{"params": others, "lr": lr, "weight_decay": weight_decay}, sigma]


def _codes(rows: Tensor, columns: Tensor) -> Tensor:
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    angles = torch.stack([axis * math.pi * 2**n for axis in (y, x) for n in range(4)], -1).flatten(0, 1)
    return torch.cat([angles.sin(), angles.cos()], -1)


def register() -> None:
    """Make the second layout known as ``second-layout``."""
    READOUTS["second-layout"] = SecondLayout


def main() -> None:
    """Print mean and spread of the main metrics of both layouts."""
    arguments = sys.argv[1:]
    iterations = int(arguments[arguments.index("--iterations") + 1]) if "--iterations" in arguments else 400
    register()
    runs = list(
        probe_backbone(
            locate(arguments[0]),
            ProbeConfig(
                dataset="scenes",
                backbones=["efficientnet-lite0-s16"],
                tasks=TASKS,
                readouts=["deap", "second-layout"],
                seeds=[0, 1, 2],
                iterations=iterations,
                batch_size=8,
            ),
        )
    )
    for task in TASKS:
        for readout in ("deap", "second-layout"):
            mine = [run for run in runs if (run.protocol.task, run.protocol.readout) == (task, readout)]
            found = torch.tensor([run.scores[run.main_metric] for run in mine])
            print(
                f"{task:<14}{readout:<16}{mine[0].main_metric:<10}{found.mean():.4f} ± {found.std():.4f}"
                f"   {mine[0].parameters:,} parameters"
            )


if __name__ == "__main__":
    main()
