"""What messages tell the user to type works, once what is written in capitals is filled in."""

from __future__ import annotations

import re
import shlex

import pytest
import torch

from deapcache.backbones import build

VIT = "timm:test_vit"


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of random weights."""
    torch.save(build(f"{VIT}@untrained", seed=3).module.state_dict(), tmp_path / "ep100.pth")
    return tmp_path / "ep100.pth"


def advised(message: str) -> list[str]:
    """The arguments of the last command in backquotes."""
    return shlex.split(re.findall(r"`deapcache ([^`]*)`", message)[-1])


@pytest.mark.parametrize("given", [("--dataset", "coco"), ()])
@pytest.mark.parametrize("name", ["mine-ep100@112", f"{VIT}+ep100"])
def test_features_of_a_checkpoint_are_made_as_advised(cli, make_coco, home, checkpoint, given, name):
    probe = ["probe", "--task", "foreground", *given, "--backbone", name, "--home", home.path, "--device", "cpu"]
    probe += ["--data-root", make_coco(4, 2), "--iterations", 1, "--batch-size", 2, "--lr", "1e-3"]
    refused = cli(*probe)
    assert (refused.code, refused.out) == (1, "")
    words = advised(refused.err)
    assert ("ARCH" in refused.err) == name.startswith("mine"), "what the name tells stands there"
    filled = [word.replace("ARCH", VIT).replace("FILE", str(checkpoint)) for word in words]
    first = cli(*filled, "--limit", 1)
    assert first.code == 0, first.err
    refused = cli(*probe)
    assert refused.code == 1
    if given:
        assert "--limit" in refused.err, "features are there, and do not suffice"
        assert f"--backbone {VIT}" in refused.err
        filled = [word.replace("FILE", str(checkpoint)) for word in advised(refused.err.partition(", or probe")[0])]
    assert cli(*filled).code == 0
    done = cli(*probe)
    assert done.code == 0, done.err


def test_what_a_name_stands_for_is_known_from_another_dataset(cli, make_coco, home, checkpoint):
    made = ["extract", "--backbone", VIT, "--weights", checkpoint, "--name", "mine", "--dataset", "coco"]
    assert cli(*made, "--data-root", make_coco(2, 1), "--home", home.path, "--device", "cpu").code == 0
    for given in ((), ("--dataset", "nyuv2")):
        done = cli("probe", "--task", "depth", "--backbone", "mine", "--home", home.path, *given)
        assert f"--backbone {VIT} --weights FILE --name mine" in done.err
        assert "ARCH" not in done.err


def test_a_name_that_is_no_backbones_is_said_to_be_none(cli, home):
    done = cli("probe", "--task", "depth", "--backbone", "dinov2,mine", "--home", home.path)
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert "`deapcache extract --backbone dinov2 --dataset nyuv2 " in line
    assert "`deapcache extract --backbone ARCH --weights FILE --name mine --dataset nyuv2 " in line
    assert "mine: no backbone's name here" in line
