"""Models of transformers from folders: each whole map is the model's own last hidden state."""

from __future__ import annotations

import hashlib
import http.server
import json
import sys
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import save_file

from deapcache.backbones import LayerSelection, build, describe, layers_of, weights_status
from deapcache.cli import main
from deapcache.errors import MissingWeightsError, UnknownNameError, UsageError, WeightsError

transformers = pytest.importorskip("transformers", reason="needs the package transformers")

TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
VIT = {**TINY, "image_size": 64, "patch_size": 16}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
WINDOWS = {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2], "image_size": 64}
VISION = {"vision_config": VIT, "text_config": {**TINY, "vocab_size": 99}}
# model type: configuration, grid, width, tokens before the map, whether a final norm is applied to it
MODELS = {
    "dinov2": ({**TINY, "image_size": 56, "patch_size": 14}, (4, 4), 32, 1, True),
    "dinov2_with_registers": ({**TINY, "image_size": 56, "patch_size": 14}, (4, 4), 32, 5, True),
    "dinov3_vit": ({**VIT, "num_register_tokens": 4}, (4, 4), 32, 5, True),
    "dinov3_convnext": ({**STAGES, "image_size": 64}, (2, 2), 32, 1, True),
    "siglip_vision_model": (VIT, (4, 4), 32, 0, True),
    "siglip2_vision_model": ({**TINY, "num_patches": 16, "patch_size": 16}, (4, 4), 32, 0, True),
    "clip_vision_model": (VIT, (4, 4), 32, 1, False),
    "clip": (VISION, (4, 4), 32, 1, False),
    "vit_mae": (VIT, (4, 4), 32, 1, True),
    "vit": (VIT, (4, 4), 32, 1, True),
    "swin": ({**WINDOWS, "window_size": 2}, (2, 2), 64, 0, True),
    "swinv2": ({**WINDOWS, "window_size": 2}, (2, 2), 64, 0, True),
    "convnext": ({**STAGES, "image_size": 64}, (2, 2), 32, None, False),
    "convnextv2": ({**STAGES, "image_size": 64}, (2, 2), 32, None, False),
    "hiera": ({**WINDOWS, "image_size": [64, 64]}, (2, 2), 64, 0, False),
    "ijepa": (VIT, (4, 4), 32, 0, True),
    "segformer": ({**STAGES, "num_attention_heads": [1, 1, 2, 2], "image_size": 64}, (2, 2), 32, None, False),
    "sam_vision_model": (
        {**VIT, "output_channels": 16, "window_size": 2, "global_attn_indexes": [1], "mlp_dim": 64},
        (4, 4), 16, None, False,
    ),
    "vjepa2": (
        {**TINY, "crop_size": 64, "pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1},
        (4, 4), 32, 0, True,
    ),
    "aimv2_vision_model": ({**TINY, "image_size": 56, "patch_size": 14}, (4, 4), 32, 0, True),
}  # fmt: skip
PROCESSOR = {"do_rescale": True, "rescale_factor": 1 / 127.5, "do_normalize": True}
PROCESSOR |= {"image_mean": [1.0, 0.9, 1.1], "image_std": [1.0, 0.8, 1.2], "image_processor_type": "ViTImageProcessor"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A function that gives the folder of a small random model, and the model as transformers loads it."""
    made: dict[str, Path] = {}

    def get(kind: str, **changes: object):
        if kind not in made or changes:
            torch.manual_seed(0)
            folder = tmp_path_factory.mktemp(kind)
            config = transformers.CONFIG_MAPPING[kind](**{**MODELS[kind][0], **changes})
            transformers.AutoModel.from_config(config).save_pretrained(folder)
            file = "video_preprocessor_config.json" if kind == "vjepa2" else "preprocessor_config.json"
            (folder / file).write_text(json.dumps(PROCESSOR))
            made[kind] = folder
        options = {"mask_ratio": 0.0} if kind == "vit_mae" else {}
        return made[kind], transformers.AutoModel.from_pretrained(made[kind], dtype=torch.float32, **options).eval()

    return get


def pictures(h, w):
    return torch.randint(0, 256, (2, h, w, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def own_output(kind, model, images, **options):
    """What the model itself gives for images that are normalised as the processor says."""
    mean, std = (torch.tensor(PROCESSOR[name]) for name in ("image_mean", "image_std"))
    pixels = ((images / 127.5 - mean) / std).permute(0, 3, 1, 2)
    if kind == "siglip2_vision_model":
        height, width = pixels.shape[-2:]
        places = [(y, x) for y in range(0, height, 16) for x in range(0, width, 16)]
        rows = [
            torch.stack([image[:, y : y + 16, x : x + 16].permute(1, 2, 0).reshape(-1) for y, x in places])
            for image in pixels
        ]
        options |= {"spatial_shapes": torch.tensor([[height // 16, width // 16]] * 2)}
        options |= {"pixel_attention_mask": torch.ones(2, len(rows[0]), dtype=torch.int64)}
        pixels = torch.stack(rows)
    if kind == "vjepa2":
        pixels, options = pixels[:, None].expand(-1, 2, -1, -1, -1), {**options, "skip_predictor": True}
    if kind == "vit_mae":
        options["noise"] = torch.arange(16.0).expand(2, 16)
    with torch.no_grad():
        return getattr(model, "vision_model", model)(pixels, **options)


def as_map(hidden, grid, prefix):
    if prefix is None:
        return hidden.permute(0, 2, 3, 1)
    return hidden[:, prefix:].reshape(len(hidden), *grid, -1)


@pytest.mark.parametrize("kind", MODELS)
def test_the_whole_map_is_the_models_own_output(saved, kind):
    folder, model = saved(kind)
    _, grid, dim, prefix, norm = MODELS[kind]
    name = f"hf:{folder}"
    entry = describe(name)
    assert (entry.grid, entry.dim, entry.final_norm) == (grid, dim, norm)
    backbone = build(name)
    images = pictures(*entry.image_size)
    expected = as_map(own_output(kind, model, images).last_hidden_state, grid, prefix)
    torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-5)
    assert backbone.identity.weights == build(name).identity.weights
    assert weights_status(name) == "here"


@pytest.mark.parametrize(
    "kind", ["dinov2", "dinov3_vit", "clip_vision_model", "siglip_vision_model", "convnext", "swin"]
)
def test_another_image_size(saved, kind):
    folder, model = saved(kind)
    *_, prefix, _ = MODELS[kind]
    side = describe(f"hf:{folder}").image_size[0]
    backbone = build(f"hf:{folder}@{side}x{side * 3 // 2}" if side != 64 else f"hf:{folder}@64x128")
    images = pictures(*backbone.image_size)
    options = {"interpolate_pos_encoding": True} if kind in ("clip_vision_model", "siglip_vision_model", "swin") else {}
    expected = as_map(own_output(kind, model, images, **options).last_hidden_state, backbone.grid, prefix)
    torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-5)


def test_layers_and_class_token_are_hidden_states(saved):
    for kind in ("dinov2", "clip_vision_model"):
        folder, model = saved(kind)
        selection = LayerSelection(layers=("1", "2", "last"), final_norm=False, tokens="cls")
        backbone = build(f"hf:{folder}", selection=selection)
        images = pictures(*backbone.image_size)
        states = own_output(kind, model, images, output_hidden_states=True).hidden_states
        for output, state in zip(backbone.outputs(images)[:2], states[1:3], strict=True):
            torch.testing.assert_close(output.features, as_map(state, backbone.grid, 1), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(output.cls, state[:, 0], rtol=1e-4, atol=1e-5)
        last = build(f"hf:{folder}", selection=LayerSelection(layers=("2", "last")))
        torch.testing.assert_close(last.outputs(images)[1].features, build(f"hf:{folder}")(images))
    with pytest.raises(UsageError, match="has no layers"):
        layers_of(f"hf:{saved('convnext')[0]}", LayerSelection(layers=("1",)))


def test_random_weights_and_a_checkpoint_of_ones_own(saved, tmp_path):
    folder, model = saved("dinov2")
    untrained = build(f"hf:{folder}@untrained:3")
    assert untrained.identity.weights.startswith("untrained:seed=3:sha256:")
    torch.save({"teacher": {f"backbone.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.pth")
    given = build(f"hf:{folder}", weights=tmp_path / "w.pth")
    assert given.identity.weights == build(f"hf:{folder}").identity.weights


def test_other_configurations_are_other_recipes(saved):
    one = describe(f"hf:{saved('vit')[0]}").arguments
    assert one != describe(f"hf:{saved('vit', hidden_act='relu')[0]}").arguments


def test_what_cannot_be_loaded_is_one_line(saved, tmp_path, monkeypatch):
    folder, _ = saved("ijepa", num_hidden_layers=2)
    with pytest.raises(UsageError, match=r"cannot take images of 70x70 .*: 64 or 80$"):
        describe(f"hf:{folder}@70")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    describe.__globals__["load_function"](  # the folder was described with two layers
        "deapcache.backbones.hf_models:describe"
    ).cache_clear()
    with pytest.raises(WeightsError, match=r"lacks \d+ of its weights \(.*layers?\.2\."):
        build(f"hf:{folder}")
    (folder / "preprocessor_config.json").unlink()
    describe.__globals__["load_function"]("deapcache.backbones.hf_models:describe").cache_clear()
    with pytest.raises(UsageError, match=r"lacks config\.json or preprocessor_config\.json"):
        describe(f"hf:{folder}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnknownNameError, match=r"a folder without config\.json: give one that save_pretrained wrote"):
        describe(f"hf:{tmp_path / 'empty'}")
    for name in ("./nowhere", ""):
        with pytest.raises(UnknownNameError, match="is no folder here: give hf:FOLDER, or hf:OWNER/NAME"):
            describe(f"hf:{name}")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ([], "cannot be read: its preprocessor_config.json must hold three numbers"),
        ({"image_mean": [0.5]}, r"has image_mean \[0\.5\] and image_std .*must hold three numbers of each"),
        ({"image_mean": ["a", "b", "c"]}, "must hold three numbers of each"),
        ({"image_std": [0, 0, 0]}, r"image_std \[0, 0, 0\]: .*the latter above 0"),
        ({"rescale_factor": 0}, "must hold three numbers of each"),
    ],
)
def test_an_odd_image_processor_is_one_line(saved, changes, says):
    folder, _ = saved("vit", num_hidden_layers=1)
    (folder / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, **changes} if changes else changes))
    with pytest.raises(UsageError, match=says):
        describe(f"hf:{folder}")


def test_a_folder_written_in_another_way_is_the_same_model(saved, monkeypatch):
    folder, _ = saved("vit", num_hidden_layers=1)
    monkeypatch.chdir(folder.parent)
    assert {describe(f"hf:{way}").name for way in (folder.name, f"./{folder.name}", f"{folder.name}/")} == {
        f"hf:{folder.name}"
    }


def test_weights_of_a_folder_that_are_not_whole_or_of_another_model(saved, tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    folder, model = saved("vit", num_hidden_layers=1)
    name, file, whole = f"hf:{folder}", folder / "model.safetensors", (folder / "model.safetensors").read_bytes()
    assert weights_status(name) == "here"
    file.write_bytes(whole[:-9])
    assert weights_status(name).startswith("damaged: put ")
    with pytest.raises(WeightsError, match=r"model\.safetensors is cut short: .*: get it again"):
        build(name)
    file.unlink()
    assert weights_status(name) == f"file missing: {file}"
    with pytest.raises(MissingWeightsError, match=r"has no weights: expected one of model\.safetensors, "):
        build(name)
    torch.save({**model.state_dict(), "x": Harmful()}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"checkpoint of tensors only .*: save them as safetensors") as refused:
        build(name)
    assert "weights_only" not in str(refused.value)
    assert not (tmp_path / "ran").exists()
    (folder / "pytorch_model.bin").unlink()
    state = {**model.state_dict(), "classifier.bias": torch.ones(3)}
    save_file(state, file, metadata={"format": "pt"})
    assert build(name).unused_keys == ("classifier.bias",)
    state[next(key for key, tensor in state.items() if tensor.shape == (48,))] = torch.ones(3)
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"of another shape than its config\.json says, 1 .*\(3,\) found, \(48,\) "):
        build(name)


def test_a_model_of_text_is_none(tmp_path):
    sizes = {**TINY, "vocab_size": 99}
    transformers.BertModel(transformers.BertConfig(**sizes)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    with pytest.raises(UsageError, match="is no vision model: BertModel takes input_ids"):
        describe(f"hf:{tmp_path}")


def test_licence_and_gate_of_a_folders_model_card(saved):
    folder, _ = saved("vit", num_hidden_layers=1)
    read = describe.__globals__["load_function"]("deapcache.backbones.hf_models:_read_card")
    assert read(str(folder), None) == ("see model card", False)
    for card, expected in (
        ("license: apache-2.0", ("apache-2.0", False)),
        ("license: other\nlicense_name: dinov3-license\nextra_gated_prompt: accept", ("dinov3-license", True)),
        ("license: [1, 2", ("see model card", False)),
    ):
        (folder / "README.md").write_text(f"---\n{card}\n---\n# A model\n")
        assert read(str(folder), None) == expected
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    assert describe(f"hf:{folder}").licence == "mit"


@pytest.fixture
def hub(saved, tmp_path, monkeypatch):
    """A hub with the gated model ``lab/gated``; its files are for whoever has a token, its card is for all."""
    from huggingface_hub import constants

    folder, _ = saved("ijepa", num_hidden_layers=1)
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: lab-license\n---\n")

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            file = folder / self.path.rpartition("/")[2]
            if self.path.startswith("/api/models/lab/gated"):
                self.answer(200, json.dumps({"id": "lab/gated", "gated": "manual", "sha": "c" * 40}).encode())
            elif not file.is_file():
                self.answer(404, b"", "EntryNotFound")
            elif file.name != "README.md" and "Authorization" not in self.headers:
                self.answer(401, b"", "GatedRepo")
            else:
                self.answer(200, file.read_bytes())

        def answer(self, status, content, problem=""):
            self.send_response(status)
            headers = {"X-Repo-Commit": "c" * 40, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
            headers |= {"Content-Length": str(len(content)), **({"X-Error-Code": problem} if problem else {})}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        yield
        server.shutdown()


def test_a_gated_model_is_told_before_anything_is_fetched(hub, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="1"):
        main(["list", "backbones", "hf:lab/gated"])
    assert capsys.readouterr().err.strip() == (
        "error: hf:lab/gated is gated, and there is no token: accept its terms at https://huggingface.co/lab/gated, "
        "make a token with read access there, set HF_TOKEN to it"
    )
    monkeypatch.setenv("HF_TOKEN", "hf_some")
    with pytest.raises(SystemExit, match="0"):
        main(["list", "backbones", "hf:lab/gated@80", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["licence"], row["gated"], row["weights"]) == ("lab-license", True, "download")
    assert (row["grid"], row["dim"]) == ([5, 5], 32)
    monkeypatch.delenv("HF_TOKEN")
    assert weights_status("hf:lab/gated").startswith("gated: accept its terms at https://huggingface.co/lab/gated")


def _refuse(error):
    def refused(*_, **__):
        raise error

    return refused


def test_gated_unknown_and_unreachable_repositories_are_one_line(tmp_path, monkeypatch):
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    from deapcache.backbones import hf_models

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    response = Mock(headers={})
    for error, kind, message in (
        (
            GatedRepoError("gated", response=response),
            MissingWeightsError,
            "accept its terms at https://huggingface.co/a/b",
        ),
        (RepositoryNotFoundError("none", response=response), UnknownNameError, "has no model a/b, or it is private"),
        (ConnectionError("no route"), MissingWeightsError, "hf:a/b cannot be loaded: ConnectionError: no route"),
    ):
        monkeypatch.setattr(hf_models, "get_hf_file_metadata", _refuse(error))
        with pytest.raises(kind, match=message) as refused:
            describe("hf:a/b")
        assert "\n" not in str(refused.value)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"need the package transformers.*pip install 'deapcache\[hf\]'"):
        describe("hf:owner/some-model")
