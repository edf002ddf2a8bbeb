"""Lightning checkpoints: the tensors are read, and nothing else in the file comes to life."""

from __future__ import annotations

import collections
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from deapcache_featup import published_state, write_published

from deapcache.errors import MissingWeightsError, WeightsError
from deapcache.readouts.featup import read_state


class Hyperparameters(dict):
    """Like the attribute dictionaries that Lightning and OmegaConf keep."""

    alive = 0

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        Hyperparameters.alive += 1

    def __setstate__(self, state: dict[str, Any]) -> None:
        Hyperparameters.alive += 1


class Callback:
    """Older versions of Lightning used classes as keys."""

    def __init__(self) -> None:
        self.best = torch.ones(2)


def leave_a_mark(path: str) -> None:
    """What must not run."""
    Path(path).write_text("ran")


class Trap:
    """Runs a function when it is unpickled by ordinary means."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def test_objects_beside_the_weights_are_passed_over(tmp_path: Path) -> None:
    hyperparameters = Hyperparameters(lr=1e-3, nested=Hyperparameters(a=[1, 2]))
    hyperparameters.note = "kept in __dict__"
    path = write_published(
        tmp_path / "with.ckpt",
        hyper_parameters=hyperparameters,
        callbacks={Callback: Callback(), "ModelCheckpoint": {"best": torch.tensor(0.5), "path": Path("x.ckpt")}},
        loops=collections.defaultdict(list, a=[1]),
    )
    alive = Hyperparameters.alive
    found = read_state(path)
    assert Hyperparameters.alive == alive
    for name, tensor in published_state().items():
        assert torch.equal(found[f"upsampler.{name}"], tensor), name


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = write_published(tmp_path / "trap.ckpt", trap=Trap(leave_a_mark, str(mark)))
    assert "upsampler.up1.range_temp" in read_state(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()  # so the trap was a trap


def test_system_calls_are_refused_outright(tmp_path: Path) -> None:
    import os

    mark = tmp_path / "mark"
    path = write_published(tmp_path / "trap.ckpt", trap=Trap(os.system, f"touch {mark}"))
    with pytest.raises(
        WeightsError, match=r"trap\.ckpt cannot be read as a torch checkpoint of tensors .*(posix|nt)\.system"
    ):
        read_state(path)
    assert not mark.exists()


def save_elsewhere(path: Path, kind: str) -> None:
    {
        "text": lambda: path.write_text("not a checkpoint"),
        "empty": lambda: path.write_bytes(b""),
        "pickle": lambda: path.write_bytes(pickle.dumps({"state_dict": {}})),
        "cut": lambda: path.write_bytes(write_published(path).read_bytes()[:5000]),
        "list": lambda: torch.save([torch.zeros(2)], path),
        "bare": lambda: torch.save({"up1.range_temp": torch.zeros(())}, path),
    }[kind]()


@pytest.mark.parametrize("kind", ["text", "empty", "pickle", "cut", "list", "bare"])
def test_other_files_are_one_clear_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file.ckpt"
    save_elsewhere(path, kind)
    with pytest.raises(WeightsError) as refused:
        read_state(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match="is no file"):
        read_state(tmp_path)
