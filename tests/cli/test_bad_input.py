"""Every kind of bad input: one clear line, the right exit code, nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from deapcache_testing import mounted
from PIL import Image
from safetensors.torch import save_file

from deapcache.locations import LocalLocation

BACKBONE = "efficientnet-lite0-s16"
DEAPCACHE = Path(sys.executable).with_name("deapcache")


def one_line(text: str) -> str:
    (line,) = [line for line in text.splitlines() if line.strip()]
    assert line.startswith("error: ")
    return line


def test_a_wrong_backbone_offers_the_nearest(cli, make_coco, home):
    root = make_coco(1, 1)
    done = cli("extract", "--backbone", "dinov", "--dataset", "coco", "--data-root", root, "--home", home)
    assert done.code == 2
    assert "dinov2" in one_line(done.err)


def test_a_wrong_dataset_offers_the_nearest(cli, home):
    done = cli("extract", "--backbone", BACKBONE, "--dataset", "coc", "--home", home)
    assert done.code == 2
    assert "did you mean coco" in one_line(done.err)


@pytest.mark.parametrize("verb", [["--task", "edge"], ["--task", "depth", "--readout", "deep"]])
def test_wrong_tasks_and_readouts_offer_the_nearest(cli, home, verb):
    done = cli("probe", *verb, "--dataset", "coco", "--home", home)
    assert done.code == 2
    assert "unknown" in one_line(done.err)


def test_views_that_there_are_not(cli, make_coco, home):
    root = make_coco(1, 1)
    extract = ["extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", root, "--home", home]
    done = cli(*extract, "--views", "vflip")
    assert done.code == 2
    assert "unknown view 'vflip': choose among original, hflip" in one_line(done.err)
    assert cli(*extract).code == 0
    probe = ["probe", "--task", "foreground", "--dataset", "coco", "--home", home]
    done = cli(*probe, "--views", "original,hflip")
    assert done.code == 1
    assert "--split train --views hflip" in done.err
    done = cli(*probe, "--views", "hflip")
    assert done.code == 2
    assert "scores are of original images" in one_line(done.err)
    done = cli(*probe, "--where", "view=hflip")
    assert done.code == 2
    assert "--views" in one_line(done.err)


def test_a_missing_data_root_says_what_is_expected_where(cli, tmp_path, home):
    done = cli(
        "extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", tmp_path / "nowhere", "--home", home
    )
    assert done.code == 1
    line = one_line(done.err)
    assert "nowhere" in line
    assert "annotations/instances_train2017.json" in line
    assert "--data-root" in line


def test_a_truncated_jpeg_is_named(cli, make_coco, home):
    root = make_coco()
    victim = sorted((root / "train2017").glob("*.jpg"))[3]
    victim.write_bytes(victim.read_bytes()[:300])
    done = cli("extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", root, "--home", home)
    assert done.code == 1
    assert str(victim) in one_line(done.err)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA"])
def test_greyscale_cmyk_and_rgba_images_extract(cli, make_coco, home, mode):
    root = make_coco(2, 1)
    odd = sorted((root / "train2017").glob("*.jpg"))[0]
    Image.open(odd).convert(mode).save(odd, format="PNG" if mode == "RGBA" else "JPEG")
    done = cli("extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", root, "--home", home)
    assert (done.code, done.err) == (0, "")


def test_weights_of_another_architecture_list_the_keys(cli, make_coco, home, tmp_path):
    root = make_coco(1, 1)
    other = tmp_path / "other.safetensors"
    save_file({"layer.weight": torch.zeros(3, 3)}, other)
    done = cli(
        "extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", root, "--home", home, "--weights", other
    )
    assert done.code == 1
    line = one_line(done.err)
    assert "other.safetensors" in line
    assert "layer.weight" in line
    assert not LocalLocation(Path(str(home))).keys("features")


def test_a_read_only_home_is_refused_before_any_work(cli, make_coco, tmp_path):
    root = make_coco(1, 1)
    with mounted(tmp_path / "ro", "size=1m,ro") as home:
        done = cli("extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", root, "--home", home)
    assert done.code == 1
    assert "--home" in one_line(done.err)


IMAGES_BEYOND = 16
"""Shards of an image each, of which half of those of the second backbone (50 kB each) have room."""


@pytest.mark.parametrize("free_space_is_known", [True, False])
def test_a_full_disk_loses_nothing_and_the_rest_follows(cli, make_coco, tmp_path, monkeypatch, free_space_is_known):
    root = make_coco(train=IMAGES_BEYOND, val=1)
    command = ["extract", "--dataset", "coco", "--data-root", root, "--split", "train", "--backbone"]
    second = "timm:resnet18@untrained"
    with mounted(tmp_path / "small", "size=24m") as home:
        assert cli(*command, BACKBONE, "--home", home).code == 0  # images and targets are there
        filler = home / "filler"
        filler.write_bytes(b"\0" * (os.statvfs(home).f_bavail * os.statvfs(home).f_frsize - 400_000))
        if not free_space_is_known:
            monkeypatch.setattr(LocalLocation, "free_bytes", lambda self: None)
        done = cli(*command, second, "--home", home)
        assert done.code == 1
        # a claim may meet the full disk first, which is a note of its own and stops nothing
        *notes, error = done.err.splitlines()
        assert "some space" in error
        assert all("work is not shared" in note for note in notes)
        assert not list(home.rglob("*.partial"))
        whole = shards(home)
        assert (len([key for key in whole if "resnet18" in key]) > 0) is not free_space_is_known
        filler.unlink()
        assert cli(*command, second, "--home", home).code == 0
        now = shards(home)
    assert {key: now[key] for key in whole} == whole
    assert len(now) == 2 * IMAGES_BEYOND


def shards(home: Path) -> dict[str, bytes]:
    location = LocalLocation(home)
    return {key: location.read(key) for key in location.keys("features") if "/features/c." in key}


def test_no_cache_at_all_prints_the_command_to_run(cli, home):
    done = cli("probe", "--task", "boundaries", "--home", home)
    assert done.code == 1
    line = one_line(done.err)
    assert "deapcache extract --backbone" in line
    assert "--dataset coco" in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--base-size", "big"], "HEIGHTxWIDTH"),
        (["--fit", "letterbox"], "squash, crop"),
        (["--dtype", "float8"], "float16, bfloat16, float32, int8"),
        (["--precision", "fp8"], "fp32"),
        (["--batch-size", "0"], "at least 1"),
        (["--device", "warp"], "--device cpu"),
        (["--split", "train,,val"], "a,b,c"),
    ],
)
def test_unusable_options_are_usage_errors(cli, make_coco, home, arguments, says):
    root = make_coco(1, 1)
    done = cli("extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", root, "--home", home, *arguments)
    assert done.code == 2
    assert says in one_line(done.err)


def test_seeds_must_be_numbers(cli, home):
    done = cli("probe", "--task", "boundaries", "--home", home, "--seed", "zero")
    assert done.code == 2
    assert "whole numbers" in one_line(done.err)


def test_an_unknown_option_is_a_usage_error_of_the_shell_command(tmp_path):
    done = subprocess.run([DEAPCACHE, "extract", "--bakbone", "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--bakbone" in done.stderr
    assert "Traceback" not in done.stderr
