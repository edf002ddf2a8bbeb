"""What docs/reproducing.md says of the paper's tables is what these tables say."""

from __future__ import annotations

import json
import math
import re
from importlib.resources import files
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from deapcache_results import save_depth

from deapcache.backbones import BACKBONES, describe
from deapcache.results.paper import DATA, paper_ablation, paper_backbones, paper_parameters, paper_score
from deapcache.tasks import get_task

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reproducing.md").read_text()
TEXT = " ".join(PAGE.split())

ARI, CE, IOU, AP = (
    ("discrimination", "ari"),
    ("boundaries", "cross_entropy"),
    ("boundaries", "iou"),
    ("detection", "ap_large"),
)
SEMANTIC = tuple(product(("voc", "coco-stuff"), ("cross_entropy", "mean_iou")))
RMSE = ("depth", "rmse")
COLUMNS = (ARI, CE, IOU, AP, *SEMANTIC, RMSE)
ABLATED = tuple(product((AP, ("voc", "mean_iou"), RMSE), ("dinov2", "siglip-384", "mae")))

NAMES = paper_backbones()
SELF_SUPERVISED = [name for name in NAMES if describe(name).category == "self-supervised"]
VISION_LANGUAGE = [name for name in NAMES if describe(name).category == "vision-language"]
OTHERS = [name for name in SELF_SUPERVISED if not name.startswith("dinov2")]


def goodness(name: str, column: tuple[str, str]) -> float:
    """The printed score, so that more is better."""
    task, metric = column
    value = paper_score(name, task, metric).value
    return value if get_task(task).metrics[metric].higher_is_better else -value


def beats(left: str, right: str, column: tuple[str, str]) -> bool:
    return goodness(left, column) > goodness(right, column)


def rank(name: str, column: tuple[str, str]) -> int:
    return 1 + sum(beats(other, name, column) for other in NAMES)


def printed(name: str, column: tuple[str, str], *, percent: bool = False) -> str:
    number = paper_score(name, *column)
    return f"{100 * number.value:.1f}" if percent else str(number)


def pairs_won(left: list[str], right: list[str], column: tuple[str, str]) -> int:
    return sum(beats(a, b, column) for a, b in product(left, right))


def spearman(column: tuple[str, str], fact: str) -> float:
    """Rank correlation (mean ranks where there are ties) of a printed fact and a score over the trained backbones."""
    trained = [name for name in NAMES if name != "random"]
    rows = json.loads(files("deapcache.results").joinpath("paper.json").read_text())["backbones"]
    facts = [rows[name][fact] for name in trained]
    scores = [goodness(name, column) for name in trained]
    ranks = [[np.mean([sorted(v).index(x), len(v) - 1 - sorted(v)[::-1].index(x)]) for x in v] for v in (facts, scores)]
    return float(np.corrcoef(*ranks)[0, 1])


def losses(readout: str) -> list[float]:
    """For each cell of Table 5 how much worse than the full readout, as a share of it."""
    found = []
    for (column, backbone), sign in ((cell, -1 if cell[0] == RMSE else 1) for cell in ABLATED):
        base, other = (paper_ablation(name, backbone, *column).value for name in ("deap", readout))
        found.append(sign * (base - other) / base)
    return found


def says(text: str) -> None:
    assert text in TEXT


def test_parameters() -> None:
    cells = {(n, t): paper_parameters(n, t).value for n, t in product(NAMES, DATA)}
    large = {cell: value for cell, value in cells.items() if value >= 0.1}
    says(f"its {len(cells)} cells")
    says(
        f"{len(cells) - len(large)} of {len(cells)} cells are under 0.1 M, "
        f"{sum(value < 0.05 for value in cells.values())} under 0.05 M"
    )
    says(f"the other {len(large)} are COCO-Stuff and detection on the widest backbones, up to {max(large.values())} M")
    assert {task for _, task in large} == {"coco-stuff", "detection"}
    widest = sorted({describe(name).dim for name in NAMES})[-2:]
    assert {describe(name).dim for name, _ in large} == set(widest)
    says(f"yes for the parameters: {paper_parameters('clip', 'voc')} M")


def test_dinov2() -> None:
    best = [c for c in COLUMNS if 1 in (rank("dinov2", c), rank("dinov2-l", c))]
    assert set(COLUMNS) - set(best) == {ARI}
    sam, mae, dino = (printed(n, ARI, percent=True) for n in ("sam2-b+", "mae", "dinov2"))
    says(f"in {len(best)} of {len(COLUMNS)} columns; not in ARI: SAM 2 {sam}, MAE {mae}, DINOv2 {dino}")
    base = [n for n in NAMES if describe(n).architecture.startswith("timm:vit_base") or n in ("clip", "metaclip")]
    assert len(base) == 11
    lost = {(n, c) for n, c in product(base, COLUMNS) if beats(n, "dinov2", c)}
    assert lost == {("mae", ARI)}
    says(f"in 8 of 9; ARI is MAE's, and AP is a tie: {printed('dinov2', AP)} against MAE's {printed('mae', AP)}")
    better = [c for c in COLUMNS if beats("dinov2-l", "dinov2", c)]
    aris = ", ".join(printed(n, ARI, percent=True) for n in ("dinov2-l", "dinov2"))
    entropies = ", ".join(printed(n, CE) for n in ("dinov2-l", "dinov2"))
    says(f"in {len(better)} of 9; worse in ARI ({aris}) and boundary CE ({entropies})")


def test_self_supervised_against_vision_language() -> None:
    pairs = len(SELF_SUPERVISED) * len(VISION_LANGUAGE)
    ari, ap, ce, iou = (pairs_won(SELF_SUPERVISED, VISION_LANGUAGE, column) for column in (ARI, AP, CE, IOU))
    says(f"of {pairs} pairs: ARI {ari}, AP {ap}, but boundary CE {ce} and IoU {iou}")
    ari, ap, ce, iou = (pairs_won(OTHERS, VISION_LANGUAGE, column) for column in (ARI, AP, CE, IOU))
    says(f"without DINOv2, of {len(OTHERS) * len(VISION_LANGUAGE)}: {ari}, {ap}, {ce} and {iou}")
    won = sum(pairs_won(VISION_LANGUAGE, OTHERS, column) for column in SEMANTIC)
    says(f"yes: {won} of {4 * 36} pairs (36 in each of four columns)")


def test_single_backbones() -> None:
    assert [rank("sam2-b+", column) for column in (ARI, CE, IOU)] == [1, 2, 3]
    says(f"first in ARI ({printed('sam2-b+', ARI, percent=True)}), second in boundary CE, third in IoU; "
         f"{rank('sam2-b+', AP)}th of 18 in AP")  # fmt: skip
    assert all(beats("mae", "hiera-b+", column) for column in (ARI, CE, IOU, AP))
    lost = [column for column in (*SEMANTIC, RMSE) if not beats("hiera-b+", "mae", column)]
    assert lost == [("coco-stuff", "cross_entropy")]
    mae, hiera = (printed(name, lost[0]) for name in ("mae", "hiera-b+"))
    says(f"4 of 4, and 4 of 5: COCO-Stuff CE is {mae} for MAE, {hiera} for Hiera")
    aris, aps = ([goodness(n, c) for n in ("clip", "metaclip", "siglip-224")] for c in (ARI, AP))
    says(
        f"in ARI ({100 * min(aris):.1f} to {100 * max(aris):.1f}) and boundaries; AP goes from {min(aps)} to {max(aps)}"
    )
    siglip = ("siglip-224", "siglip-384", "siglip-512", "siglip-so")
    voc, stuff = ([printed(n, (t, "mean_iou"), percent=True) for n in siglip] for t in ("voc", "coco-stuff"))
    assert (voc, stuff) == (sorted(voc), sorted(stuff))
    says(f"VOC {', '.join(voc)}; COCO-Stuff {', '.join(stuff)}")
    ranks = [rank("imagenet", column) for column in COLUMNS]
    says(f"yes: {min(ranks)}th to {max(ranks)}th of 18")


def test_sizes() -> None:
    sides = {column: spearman(column, "feature_side") for column in COLUMNS}
    weak = [sides[column] for column in (*SEMANTIC, AP, RMSE)]
    says(
        f"Spearman {min(weak):.2f} to {max(weak):.2f}; on boundaries F decides: "
        f"{sides[CE]:.2f} (CE) and {sides[IOU]:.2f} (IoU)"
    )
    smallest = min(NAMES, key=lambda name: describe(name).grid)
    says(f"Hiera-B+ is no example: its F of {describe(smallest).grid[0]} is the smallest")
    assert smallest == "hiera-b+"
    next_best = max((n for n in NAMES if not n.startswith("dinov2")), key=lambda name: goodness(name, RMSE))
    assert next_best == "vitamin"
    dinov2, vitamin = (printed(name, RMSE) for name in ("dinov2", "vitamin"))
    says(f"yes: Spearman {spearman(RMSE, 'params_M'):.2f}; {dinov2} m, the next family ViTamin {vitamin} m, "
         f"Hiera-B+ {rank('hiera-b+', RMSE)}th of 18")  # fmt: skip
    assert float(dinov2) < 0.9 * float(vitamin)


def test_reconstruction_and_small_budgets() -> None:
    assert all(beats(a, b, ARI) for a, b in product(("mae", "hiera-b+"), ("mocov3", "dino")))
    assert all(beats("dino", "hiera-b+", column) for column in (AP, CE, IOU))
    assert all(beats("dino", "mae", column) for column in (CE, IOU))
    says(f"in boundaries also MAE (CE {printed('dino', CE)} against {printed('mae', CE)})")
    small = [name for name in NAMES if describe(name).image_size == (224, 224)]
    best = {column: max(small, key=lambda name: goodness(name, column)) for column in COLUMNS}
    assert [best[column] for column in (ARI, AP, CE, IOU)] == ["mae", "mae", "dino", "dino"]
    voc, stuff = (("voc", "mean_iou"), ("coco-stuff", "mean_iou"))
    assert (best[voc], best[stuff], best[RMSE]) == ("metaclip", "siglip-224", "hiera-b+")
    says(f"MetaCLIP on VOC ({printed('metaclip', voc, percent=True)}), SigLIP-224 on COCO-Stuff "
         f"({printed('siglip-224', stuff, percent=True)}); Hiera in depth ({printed('hiera-b+', RMSE)} m)")  # fmt: skip


@pytest.mark.parametrize(
    ("readout", "sentence"),
    [
        ("no-sigma", "yes: {worse} of 9 cells, median loss {median:.0f}%"),
        (
            "no-indiv-sigma",
            "{worse} of 9 cells, median loss {median:.1f}%; DINOv2 on VOC is better without: 83.8, 83.4",
        ),
        ("8-dim", "{worse} of 9 cells, median loss {median:.1f}%"),
        (
            "only-mask",
            "hardly: {worse} of 9 cells, median loss {median:.1f}%; in {better} cells the mask alone is better",
        ),
    ],
)
def test_ablations(readout, sentence) -> None:
    found = losses(readout)
    worse, median = sum(loss > 0 for loss in found), 100 * float(np.median(found))
    (row,) = [line for line in PAGE.splitlines() if line.startswith("|") and f"`{readout}`" in line]
    assert sentence.format(worse=worse, better=9 - worse, median=median) in row
    assert str(paper_ablation("no-indiv-sigma", "dinov2", "voc", "mean_iou")) == "0.838"


def test_what_looks_wrong() -> None:
    stuff, voc = (printed("random", (task, "cross_entropy")) for task in ("coco-stuff", "voc"))
    says(f"COCO-Stuff CE is {stuff}, and knowing nothing of 171 classes costs ln 171 = {math.log(171):.4f}")
    says(f"VOC is {voc}, of ln 21 = {math.log(21):.4f}")
    entropy = float(printed("random", CE))
    rates = np.linspace(0.001, 0.5, 100_000)
    guessed = rates[np.abs(-rates * np.log(rates) - (1 - rates) * np.log(1 - rates) - entropy).argmin()]
    says(f"Its boundary CE of {entropy} is that of guessing a rate of {guessed:.1%} everywhere")
    depths = sorted(printed(name, RMSE) for name in NAMES)
    says(f"{depths[0]} to {depths[-1]} m are plausible as RMSE")
    says(f"its image encoder, all that is used, has {describe('sam2-b+').parameters / 1e6:.1f} M")
    for column, backbone in ABLATED:
        cell = paper_score(backbone, *column)
        assert abs(paper_ablation("deap", backbone, *column).value - cell.value) <= cell.rounding + 1e-9
    says(f"in all {len(ABLATED)} cells")


def test_the_example_of_a_paired_difference_runs(home, monkeypatch) -> None:
    for readout, further in (("deap", 0.0), ("no-sigma", 0.5)):
        save_depth(home, further=further, readout=readout)
    monkeypatch.setenv("DEAPCACHE_HOME", str(home))
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    found: dict[str, float] = {}
    exec(example, found)
    assert (found["low"], found["high"]) == (pytest.approx(0.5), pytest.approx(0.5))


def test_every_name_in_code_marks_exists() -> None:
    readouts = {"deap", "no-sigma", "no-indiv-sigma", "8-dim", "only-mask", "featup", "base"}
    other = {"image-independent prior", "seconds.train", "-384", "-512"}
    names = set(re.findall(r"`([^`\n]+)`", PAGE.split("## Parameters and cost")[1]))
    unknown = {n for n in names if not n.startswith("deapcache ")} - set(BACKBONES.names()) - readouts - other
    assert unknown == set()
