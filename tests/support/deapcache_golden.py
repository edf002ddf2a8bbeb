"""Golden files: what deapcache printed and wrote when they were made, compared with what it prints and writes now.

Everything goes through doors that stay when the package is rearranged: the command line, the names of ``deapcache``
itself, and files on disk. The functions under "Inner doors" are the exception, and the only ones to be moved along.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import io
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from deapcache_plugins import forgotten_plugins
from deapcache_testing import without_stages

from deapcache.cli import main

FOLDER = Path(__file__).resolve().parents[1] / "golden"
EXPECTED = FOLDER / "expected"
EXACT = FOLDER / "exact_backbone.py"
"""Plugin with the backbones ``exact`` and ``exact-b``."""
VARIABLE = "DEAPCACHE_GOLDEN"

TOLERANCE = 1e-4
"""Relative, of numbers that were trained: another CPU adds in another order."""

_ADVICE = f"where this change is meant: {VARIABLE}=write python -m pytest tests/golden, and look at the difference"


class Golden:
    """Compares with the files of a folder, or writes them where the environment says ``DEAPCACHE_GOLDEN=write``."""

    def __init__(self, folder: Path = EXPECTED, mode: str = "") -> None:
        self.folder = folder
        self.writes = mode == "write"
        if mode not in ("", "write"):
            raise ValueError(f"{VARIABLE}={mode}: expected write, or nothing")
        if self.writes and os.environ.get("CI") == "true":
            raise RuntimeError(f"{VARIABLE}=write on CI: golden files are made by people, who look at them")

    def text(self, name: str, found: str) -> None:
        """The file ``name`` holds this text, to the letter."""
        text = found if found.endswith("\n") or not found else f"{found}\n"
        if not self._written(name, text):
            _require_equal(name, self._expected(name), text)

    def texts(self, name: str, found: Mapping[str, str]) -> None:
        """The folder ``name`` holds these files, and no other."""
        place = self.folder / name
        there = {file.name for file in place.iterdir()} if place.is_dir() else set()
        if self.writes:
            for gone in there - set(found):
                (place / gone).unlink()
        else:
            assert there == set(found), f"golden files of {name}; {_ADVICE}"
        for file, text in found.items():
            self.text(f"{name}/{file}", text)

    def json(self, name: str, found: Any, *, tolerance: float = 0.0, absolute: float | None = None) -> None:
        """The file ``name`` holds this JSON value.

        Numbers with a point may differ by ``tolerance``, relatively, and by ``absolute``: a hundredth of that unless
        given, for numbers near 0.
        """
        text = json.dumps(found, indent=1, ensure_ascii=False)
        if self._written(name, f"{text}\n"):
            return
        expected = self._expected(name)
        if not tolerance or not _is_close(
            json.loads(expected), json.loads(text), tolerance, tolerance / 100 if absolute is None else absolute
        ):
            _require_equal(name, expected, f"{text}\n")

    def _written(self, name: str, text: str) -> bool:
        if self.writes:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(text, encoding="utf-8")
        return self.writes

    def _expected(self, name: str) -> str:
        file = self.folder / name
        assert file.is_file(), f"no golden file {name}; {_ADVICE}"
        return file.read_text(encoding="utf-8")


def _require_equal(name: str, expected: str, found: str) -> None:
    if expected != found:
        lines = difflib.unified_diff(expected.splitlines(), found.splitlines(), "golden", "now", n=2, lineterm="")
        pytest.fail(f"{name} has changed; {_ADVICE}\n" + "\n".join(lines), pytrace=False)


def _is_close(expected: Any, found: Any, relative: float, absolute: float) -> bool:
    if type(expected) is not type(found):
        return False
    if isinstance(expected, dict):
        pairs = zip(expected.values(), found.values(), strict=False)
        return list(expected) == list(found) and all(_is_close(a, b, relative, absolute) for a, b in pairs)
    if isinstance(expected, list):
        pairs = zip(expected, found, strict=False)
        return len(expected) == len(found) and all(_is_close(a, b, relative, absolute) for a, b in pairs)
    if isinstance(expected, float):
        return math.isclose(expected, found, rel_tol=relative, abs_tol=absolute)
    return bool(expected == found)


@dataclass(frozen=True)
class Ran:
    """Exit code and what was printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The document that was printed; fails where the command did."""
        assert self.code == 0, self.err
        return json.loads(self.out)


def run(*arguments: object) -> Ran:
    """``deapcache ARGUMENTS`` in this process."""
    out, err, words = io.StringIO(), io.StringIO(), [str(argument) for argument in arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["deapcache", *words])  # usage names it, and results keep it
        patch.setattr(sys.modules["__main__"], "__package__", None, raising=False)  # of a runner of tests
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main(words)
    assert isinstance(ended.value.code, int)
    return Ran(ended.value.code, out.getvalue(), without_stages(err.getvalue()))


@contextlib.contextmanager
def quiet_surroundings(plugin: Path | None = None) -> Iterator[None]:
    """No setting of the user's, a terminal of fixed width, one thread, and no plugin but this one."""
    import torch

    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, forgotten_plugins():
        for name in [name for name in os.environ if name.startswith("DEAPCACHE_")]:
            patch.delenv(name)
        patch.setenv("COLUMNS", "240")
        if plugin:
            patch.setenv("DEAPCACHE_PLUGINS", str(plugin))
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


def shown(text: str, places: Mapping[str, object] | None = None) -> str:
    """Printed text with these places (name → path) by name, and without the blanks that ends of lines have."""
    for name, path in (places or {}).items():
        text = text.replace(str(path), name)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def masked(value: Any, names: Sequence[str]) -> Any:
    """A JSON value in which everything under a key of ``names`` is ``"*"``: times, hosts, versions, rates."""
    if isinstance(value, dict):
        return {key: "*" if key in names else masked(item, names) for key, item in value.items()}
    return [masked(item, names) for item in value] if isinstance(value, list) else value


def sha256(data: bytes) -> str:
    """The first 16 hexadecimal characters."""
    return hashlib.sha256(data).hexdigest()[:16]


# Inner doors: what neither the command line nor the package's own names show. Where a module moves, this moves along.


def unweighted_recipe(backbone: str, **selection: Any) -> list[dict[str, Any]]:
    """The feature recipes of a backbone with one stand-in for its weights and images, which would have to be there.

    The model is built without memory for its weights, so that this takes no time to speak of.
    """
    import torch

    from deapcache.backbones import DEFAULT_LAYERS, Backbone, LayerSelection, describe
    from deapcache.backbones.model import load_model
    from deapcache.extraction import ExtractionSettings, feature_recipe

    entry = describe(backbone)
    with torch.device("meta"):
        loaded = load_model(entry)
    built = Backbone(
        entry, loaded, f"sha256:{'00' * 32}", "fp32", LayerSelection(**selection) if selection else DEFAULT_LAYERS
    )
    recipes = [
        feature_recipe(
            identity, ExtractionSettings(), calibration="", base_size=(224, 224), colour="rgb", images="11" * 32
        )
        for identity in built.identities
    ]
    return [{"digest": recipe.digest, **recipe.to_json()} for recipe in recipes]


def recipe_digest(kind: str, fields: Mapping[str, Any]) -> str:
    """The digest of a recipe of features, images or targets with these fields."""
    from deapcache import recipe

    classes = {"features": recipe.FeatureRecipe, "images": recipe.ImageRecipe, "targets": recipe.TargetRecipe}
    return classes[kind].from_json(fields).digest


def planned_runs(pipeline: str, settings: Sequence[str], home: Path, data_root: Path) -> dict[str, str]:
    """The runs that a pipeline would train → the digest of each one's protocol."""
    from deapcache.experiments import load_pipeline, plan_pipeline
    from deapcache.locations import LocalLocation

    plan = plan_pipeline(load_pipeline(pipeline, settings), LocalLocation(home), data_root, device="cpu")
    assert not plan.problems, plan.problems
    assert all(one.is_known for one in plan.passes), [one.lacking for one in plan.passes]
    return {name: run.protocol.digest for one in plan.passes for name, run in one.runs.items()}


def readout_state(name: str, **arguments: Any) -> dict[str, list[int]]:
    """Parameters and buffers of a readout → their shapes."""
    from deapcache.readouts import build_readout

    return {key: list(value.shape) for key, value in build_readout(name, **arguments).state_dict().items()}
