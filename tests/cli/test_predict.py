"""``deapcache predict``: what it prints, where files go, and exit codes."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from deapcache_predictions import Trained, train
from PIL import Image


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two readouts with one beginning."""
    torch.set_num_threads(1)
    return train(tmp_path_factory.mktemp("trained"), ["depth", "detection"], iterations=2)


@pytest.fixture
def predict(cli, trained: Trained, tmp_path: Path):
    """A function that asks a readout about images, and writes into ``out``."""

    def run(*arguments: object, readout: str = "depth"):
        return cli("predict", "--readout", readout, "--home", trained.home, "--out", tmp_path / "out", *arguments)

    return run


def one_line(text: str) -> str:
    (line,) = [line for line in text.splitlines() if line.strip()]
    assert line.startswith("error: ")
    return line


def test_a_shells_list_of_files_is_taken_whole(predict, trained: Trained, tmp_path: Path) -> None:
    files = [trained.dataset.path("val", row) for row in range(3)]
    done = predict("--image", *files, "--size", "28x32,112x128")
    assert (done.code, done.err) == (0, "")
    pictures = [str(tmp_path / "out" / f"photo-{row}-depth.png") for row in range(3)]
    assert done.out.splitlines() == [f"picture: {picture}" for picture in pictures]
    for picture in pictures:
        with Image.open(picture) as opened:
            assert opened.format == "PNG"


def test_json_names_every_file(predict, trained: Trained, tmp_path: Path) -> None:
    file = trained.dataset.path("val", 0)
    done = predict("--image", file, "--save-arrays", "--json")
    out = tmp_path / "out"
    assert json.loads(done.out) == [
        {
            "image": str(file),
            "picture": f"{out}/photo-0-depth.png",
            "arrays": [f"{out}/photo-0-depth-56x64.npy"],
            "facts": f"{out}/photo-0-depth.json",
            "error": None,
        }
    ]
    assert np.load(out / "photo-0-depth-56x64.npy").shape == (56, 64)
    assert {path.name for path in out.iterdir()} == {
        "photo-0-depth.png", "photo-0-depth-56x64.npy", "photo-0-depth.json",
    }  # fmt: skip


def test_a_broken_image_is_named_and_the_others_are_done(predict, trained: Trained, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(trained.dataset.path("val", 0).read_bytes()[:200])
    done = predict("--image", broken, "--image", trained.dataset.path("val", 1), "--json")
    assert done.code == 1
    assert str(broken) in one_line(done.err)
    first, second = json.loads(done.out)
    assert (first["picture"], str(broken) in first["error"]) == (None, True)
    assert Path(second["picture"]).exists()


def test_a_missing_image_stops_all_before_anything_is_written(predict, trained: Trained, tmp_path: Path) -> None:
    done = predict("--image", trained.dataset.path("val", 1), tmp_path / "absent.jpg")
    assert done.code == 1
    assert "absent.jpg" in one_line(done.err)
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_kept_unless_overwrite_is_given(predict, trained: Trained) -> None:
    file = trained.dataset.path("val", 0)
    assert predict("--image", file).code == 0
    again = predict("--image", file)
    assert again.code == 2
    assert "--overwrite" in one_line(again.err)
    assert predict("--image", file, "--overwrite").code == 0


@pytest.mark.parametrize(
    ("readout", "size", "code", "says"),
    [
        ("depth", "big", 2, "expected a side (224)"),
        ("depth", "100000", 2, "1 to 4096 pixels"),
        ("de", "56", 2, "2 runs"),
        ("detpth", "56", 2, "no run in"),
        ("/nowhere/x.safetensors", "56", 2, "HOME/readouts/RUN.safetensors"),
        ("/nowhere/readouts/x.safetensors", "56", 1, "/nowhere has no readouts/x.safetensors"),
    ],
)
def test_bad_input_is_one_clear_line(predict, trained: Trained, readout: str, size: str, code: int, says: str) -> None:
    done = predict("--image", trained.dataset.path("val", 0), "--size", size, readout=readout)
    assert done.code == code
    assert says in one_line(done.err)


def test_a_file_in_the_folders_place_is_one_clear_line(cli, trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = cli(
        "predict", "--readout", "depth", "--home", trained.home, "--out", tmp_path / "file",
        "--image", trained.dataset.path("val", 0),
    )  # fmt: skip
    assert done.code in (1, 2)
    assert str(tmp_path / "file") in one_line(done.err)


def test_a_photograph_with_odd_tags_is_seen_upright(predict, trained: Trained, tmp_path: Path) -> None:
    photograph = Image.open(trained.dataset.path("val", 0))
    entries = [(0x010F, 2, 9, 2**31), (0x0112, 3, 1, 6), (0x8769, 4, 1, 7), (0x8825, 13, 3, 1)]
    packed = [struct.pack("<HHII", *entry) for entry in entries]
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(packed)) + b"".join(packed)
    photograph.save(tmp_path / "turned.jpg", exif=exif)
    done = predict("--image", tmp_path / "turned.jpg", "--save-arrays")
    assert (done.code, done.err) == (0, "")
    facts = json.loads((tmp_path / "out" / "turned-depth.json").read_text())
    assert tuple(facts["image_size"]) == photograph.size  # height is what was width


def test_a_picture_that_cannot_be_drawn_costs_no_array(predict, trained: Trained, tmp_path: Path, monkeypatch) -> None:
    module = "deapcache.results.draw.make_painter"
    files = [trained.dataset.path("val", row) for row in range(2)]
    assert predict("--image", *files, "--save-arrays").code == 0
    monkeypatch.setattr(module, lambda *_, **__: 1 / 0)
    done = predict("--image", *files, "--save-arrays", "--overwrite")
    assert done.code == 0
    assert done.err.splitlines() == [f"no picture of {file}: division by zero" for file in files]
    assert [line.partition(": ")[0] for line in done.out.splitlines()] == ["array", "facts"] * 2
    assert sorted({path.suffix for path in (tmp_path / "out").iterdir()}) == [".json", ".npy"], "an old picture stays"
    assert np.load(tmp_path / "out" / "photo-1-depth-56x64.npy").shape == (56, 64)


@pytest.mark.parametrize("name", ["a$b_{$.png", "_$x_{.png", "鳥.png", "photo\x1b[1m.png"])
def test_an_image_may_have_any_name(predict, trained: Trained, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(trained.dataset.path("val", 0).read_bytes())
    done = predict("--image", file, "--save-arrays")
    assert done.code == 0
    assert "no picture" not in done.err
    assert json.loads((tmp_path / "out" / f"{file.stem}-depth.json").read_bytes())["image"] == str(file)
    assert (tmp_path / "out" / f"{file.stem}-depth.png").is_file()


def test_a_name_too_long_for_its_files_is_told_before_anything_is_built(predict, trained: Trained, tmp_path) -> None:
    file = tmp_path / f"{'a' * 250}.png"
    file.write_bytes(trained.dataset.path("val", 0).read_bytes())
    done = predict("--image", trained.dataset.path("val", 1), file)
    assert done.code == 1
    assert "takes no name of 260 bytes" in one_line(done.err)
    assert not (tmp_path / "out").exists()


def test_predictions_go_to_a_bucket(cli, trained: Trained, s3, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    file = trained.dataset.path("val", 0)
    done = cli("predict", "--readout", "depth", "--home", trained.home, "--image", file, "--out", f"{s3.url}/pictures")
    assert (done.code, done.out.strip()) == (0, f"picture: {s3.url}/pictures/photo-0-depth.png")
    assert s3.keys() == ["home/pictures/photo-0-depth.png"]
    assert not list((tmp_path / "here").iterdir())
