"""Dense nearest neighbours against scikit-learn's search and the plain formula."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from deapcache_readouts import count, draw, draw_uneven, enlarged, fitted, make
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from deapcache.errors import UsageError, WeightsError
from deapcache.readouts import neighbours, restore_readout

GRID, SIZE = (4, 5), (24, 30)


def batches(count: int = 4, *, channels: int = 3, seed: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Features whose cells resemble their values, and values with pixels that have none (NaN)."""
    for number in range(count):
        features = draw_uneven(2, *GRID, 24, seed=seed + 10 * number)
        values = draw(2, channels, *SIZE, seed=seed + 10 * number + 5)
        valid = draw(2, *SIZE, seed=seed + 10 * number + 6) > -1
        valid[:, :6, :6] = False  # a cell that sees nothing
        yield features, values.masked_fill(~valid[:, None], torch.nan), valid


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bank_by_formula(shares: tuple[float, float] = (1.0, 1.0)) -> tuple[np.ndarray, np.ndarray]:
    """Every cell's features and mean value, pixel by pixel; cells must be whole pixels."""
    keys, means = [], []
    height, width = (round(side * share / cells) for side, share, cells in zip(SIZE, shares, GRID, strict=True))
    for features, values, valid in batches():
        for b, i, j in np.ndindex(2, *GRID):
            rows, columns = slice(i * height, (i + 1) * height), slice(j * width, (j + 1) * width)
            inside = valid[b, rows, columns].numpy()
            if inside.any():
                keys.append(features[b, i, j].double().numpy())
                means.append(values[b, :, rows, columns].double().numpy()[:, inside].mean(1))
    return np.stack(keys), np.stack(means)


@pytest.mark.parametrize("covered", [(1.0, 1.0), (20 / 24, 25 / 30)])
@pytest.mark.parametrize("standardise", ["cell", "channel"])
@pytest.mark.parametrize("block", [7, 10_000])
def test_outputs_are_those_of_a_plain_search(
    block: int, standardise: str, covered: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "_QUERIES", block)
    monkeypatch.setattr(neighbours, "_KEYS", max(block, 31))
    readout = make("knn", out_channels=3, grid=GRID, standardise=standardise, covered=covered)
    fitted(readout, torch.cat([features for features, _, _ in batches()]))
    readout.fit(batches(), seeded())
    keys, means = bank_by_formula(covered)
    assert readout.keys.shape == keys.shape
    queries = draw_uneven(3, *GRID, 24, seed=99)
    flat = queries.flatten(0, 2).double().numpy()
    if standardise == "channel":
        mean, std = readout.feature_mean.double().numpy(), readout.feature_std.double().numpy()
        keys, flat = (np.where(std > 0, (each - mean) / np.where(std > 0, std, 1), 0) for each in (keys, flat))
    distances, found = NearestNeighbors(n_neighbors=30, metric="cosine", algorithm="brute").fit(keys).kneighbors(flat)
    weights = np.exp((1 - distances) / 0.02)
    expected = np.einsum("qk,qkc->qc", weights / weights.sum(1, keepdims=True), means[found])
    expected = torch.from_numpy(expected).unflatten(0, (3, *GRID)).permute(0, 3, 1, 2)
    output = readout(queries, SIZE)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.double(), enlarged(expected, SIZE, covered), rtol=2e-2, atol=2e-2)


def test_a_training_cell_finds_itself() -> None:
    readout = make("knn", grid=(4, 4))
    features, labels = draw(3, 4, 4, 24), (draw(3, 1, 4, 4, seed=1) > 0).float()
    readout.fit([(features, labels, torch.ones(3, 4, 4, dtype=torch.bool))], seeded())
    assert ((readout(features, (4, 4)) > 0.5) == (labels > 0.5)).all()


def test_of_more_cells_a_seeded_uniform_sample_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BANK", 40)
    ones = torch.ones(1, 10, 10, dtype=torch.bool)
    numbered = [
        (draw(1, 10, 10, 24, seed=number), torch.arange(100.0).view(1, 1, 10, 10) + 100 * number, ones)
        for number in range(5)
    ]
    kept = []
    for seed in (*range(200), 0):
        readout = make("knn", grid=(10, 10))
        readout.fit(numbered, seeded(seed))
        assert readout.keys.shape == (40, 24)
        kept.append(sorted(readout.values[:, 0].tolist()))
        assert len(set(kept[-1])) == 40
    assert kept[0] == kept[-1] != kept[1]
    for value, key in zip(readout.values[:, 0].long(), readout.keys, strict=True):  # each key has its own value
        cell = numbered[value // 100][0].flatten(0, 2)[value % 100]
        torch.testing.assert_close(key.float(), cell / cell.norm(), rtol=1e-2, atol=1e-3)
    shares = np.bincount(np.concatenate(kept).astype(int) // 100, minlength=5) / (40 * len(kept))
    assert np.abs(shares - 0.2).max() < 0.02  # five standard deviations


def test_the_task_makes_an_output_of_the_mean() -> None:
    readout = make("knn", out_channels=2, grid=GRID)
    assert readout.training_free
    assert count(readout) == 0
    readout.fit(batches(channels=1), seeded())
    mean = readout(draw(1, *GRID, 24), SIZE)
    readout.output_of_mean = lambda mean: torch.cat([mean, 1 - mean], 1)
    torch.testing.assert_close(readout(draw(1, *GRID, 24), SIZE), torch.cat([mean, 1 - mean], 1))


def test_a_fitted_one_comes_back_from_its_state() -> None:
    readout = make("knn", out_channels=3, grid=GRID)
    readout.fit(batches(), seeded())
    shape = {"feature_dim": 24, "out_channels": 3, "grid": GRID, "options": readout.options}
    restored = restore_readout("knn", **shape, state=readout.state_dict())
    torch.testing.assert_close(restored(draw(1, *GRID, 24), SIZE), readout(draw(1, *GRID, 24), SIZE))
    for wrong in ({"keys": torch.zeros(5, 23)}, {"values": torch.zeros(3, 1)}, {"keys": torch.zeros(0, 24)}):
        with pytest.raises(WeightsError, match=r"expected \(M, 24\) and \(M, channels\)"):
            restore_readout("knn", **shape, state={**readout.state_dict(), **wrong})


def test_without_cells_it_says_so() -> None:
    readout = make("knn", grid=GRID)
    with pytest.raises(UsageError, match="fit it first"):
        readout(draw(1, *GRID, 24), SIZE)
    with pytest.raises(UsageError, match="no pixel with a value"):
        readout.fit([(f, v, torch.zeros_like(valid)) for f, v, valid in batches()], seeded())
    with pytest.raises(UsageError, match="no pixel with a value"):
        readout.fit([], seeded())
    with pytest.raises(UsageError, match="Deap readout is trained"):
        make("deap").fit(batches(), seeded())
