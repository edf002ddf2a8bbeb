"""Pipelines as files: what they say is what is parsed, and every mistake is one line that says where and what."""

from __future__ import annotations

from pathlib import Path

import pytest

from deapcache.errors import PipelineError, UsageError
from deapcache.experiments import load_pipeline, shipped_pipelines
from deapcache.probing import ProbeConfig

GOOD = """\
name: mine
description: "two probes"
layout: [plain, table5]
backbones: [dinov2, mae]
readouts: [deap, no-sigma]
seeds: [0, 1]
iterations: 200
lr: [1e-3, 0.0003]
limit: 64
storage: int8
probes:
  - tasks: [depth, segmentation]
    dataset: scenes
  - tasks: boundaries
    dataset: coco
    backbones: timm:resnet18@untrained
    seeds: 7
    batch_size: 8
    limit:
"""


def test_a_probe_takes_the_pipelines_values_and_its_own_win(write):
    pipeline = load_pipeline(write(GOOD))
    assert (pipeline.name, pipeline.layout, pipeline.storage) == ("mine", ("plain", "table5"), "int8")
    first, second = pipeline.probes
    assert [one.label for one in first.backbones] == ["dinov2", "mae"]
    assert first.readouts == second.readouts == ("deap", "no-sigma")
    assert first.options == ProbeConfig(iterations=200, lrs=(1e-3, 3e-4), train_limit=64, val_limit=64)
    assert second.options == ProbeConfig(iterations=200, lrs=(1e-3, 3e-4), batch_size=8)
    assert (second.tasks, second.backbones[0].label, second.seeds) == (("boundaries",), "timm:resnet18@untrained", (7,))


def test_what_is_not_said_has_the_defaults_of_probe_and_extract(write):
    pipeline = load_pipeline(write("backbones: [mae]\nprobes: [{tasks: [depth], dataset: scenes}]\n"))
    (probe,) = pipeline.probes
    assert (pipeline.name, pipeline.layout) == ("small", ("plain",))
    assert (pipeline.fit, pipeline.storage, pipeline.precision, pipeline.where) == ("squash", "float16", "fp32", {})
    assert pipeline.on_error == "stop"
    assert (probe.readouts, probe.seeds, probe.options) == (("deap",), (0,), ProbeConfig())


def test_one_name_for_one_readout(write):
    text = "backbones: [mae]\nreadouts: [deap:16, deap:32]\nprobes: [{tasks: [depth], dataset: scenes}]\n"
    assert load_pipeline(write(text)).probes[0].readouts == ("deap", "deap:32")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("seeds: [0, 1]", "seed: [0, 1]", ["line 6: seed: unknown key 'seed': did you mean seeds?", "here: name,"]),
        ("    batch_size: 8", "    batchsize: 8", ["line 18: probes.1.batchsize: unknown key", "mean batch_size?"]),
        ("seeds: [0, 1]", "seeds: [0, zero]", ["line 6: seeds.1: expected a whole number", "found 'zero'"]),
        ("seeds: [0, 1]", "seeds: [0, true]", ["seeds.1", "found true"]),
        ("seeds: [0, 1]", "seeds: [0, -1]", ["seeds.1", "0 or more, found -1"]),
        ("seeds: [0, 1]", "seeds: [0, 0]", ["seeds.1: 0 is in the list twice"]),
        ("seeds: [0, 1]", "seeds: []", ["line 6: seeds: expected a list such as [0, 1, 2], found an empty list"]),
        ("seeds: [0, 1]", "seeds:", ["seeds: expected a list", "found nothing"]),
        ("iterations: 200", "iterations: many", ["line 7: iterations: expected a whole number of 1 or more", "'many'"]),
        ("iterations: 200", "iterations: 0", ["found 0"]),
        ("lr: [1e-3, 0.0003]", "lr: fast", ["line 8: lr: expected a number above 0, found 'fast'"]),
        ("lr: [1e-3, 0.0003]", "lr: [.nan]", ["lr.0: expected a number above 0, found nan"]),
        ("limit: 64", "views: [original, vflip]", ["views.1: expected one of original, hflip, found 'vflip'"]),
        ("limit: 64", "views: hflip", ["line 9: views: ", "training draws from these as well"]),
        ("limit: 64", "limit: 6.4", ["line 9: limit", "found 6.4"]),
        ("storage: int8", "storage: int4", ["line 10: storage: expected one of float16", "found 'int4'"]),
        ("storage: int8", "fit: letterbox", ["fit: expected one of squash, crop, found 'letterbox'"]),
        ("storage: int8", "on_error: ignore", ["on_error: expected one of stop, skip, found 'ignore'"]),
        ("storage: int8", "precision: fp8", ["precision: expected one of fp32, bf16, fp16, found 'fp8'"]),
        ("layout: [plain, table5]", "layout: table6", ["line 3: layout: expected one of plain, table3", "'table6'"]),
        ("[dinov2, mae]", "[dinov, mae]", ["line 4: backbones.0: unknown backbone 'dinov'", "dinov2"]),
        ("[deap, no-sigma]", "[deap, no-sigmar]", ["line 5: readouts.1: unknown readout", "mean no-sigma"]),
        ("[deap, no-sigma]", "[deap:12]", ["readouts.0", "deap:12", "expected one of 8, 16"]),
        ("[depth, segmentation]", "[dept]", ["line 12: probes.0.tasks.0: unknown task 'dept': did you mean depth?"]),
        ("dataset: scenes", "dataset: [scenes]", ["line 13: probes.0.dataset: expected text, found ['scenes']"]),
        ("    dataset: coco\n", "", ["line 14: probes.1: dataset is missing: say which"]),
        ("    dataset: coco", "    dataset: coco\n    choices: {crop: eigen}", ["1.choices: task boundaries", "crop"]),
        ("backbones: [dinov2, mae]\n", "", ["probes.0: backbones is missing", "for the whole pipeline"]),
        ("seeds: [0, 1]", "seeds: [0, 1]\nseeds: [2]", ["line 7: seeds is there twice (first on line 6)"]),
        ("    seeds: 7", "    seeds: 7\n    seeds: 8", ["line 18: probes.1.seeds is there twice"]),
        ("seeds: [0, 1]", "seeds: [0, 1", ["line 7: is no YAML that can be read"]),
        ("storage: int8", "where: {weights: [1]}", ["where.weights: expected one value"]),
        ("storage: int8", "when: 2024-99-99", ["is no YAML that can be read"]),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(write, old, new, says):
    assert old in GOOD
    file = write(GOOD.replace(old, new, 1))
    with pytest.raises(PipelineError) as told:
        load_pipeline(file)
    line = str(told.value)
    assert "\n" not in line
    for words in [file, *says]:
        assert words in line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected keys such as `backbones` and `probes`, found nothing"),
        ("[1, 2]", "found [1, 2]"),
        ("backbones: [mae]", "probes: expected a list of what to probe, found nothing"),
        ("backbones: [mae]\nprobes: []", "line 2: probes: expected a list of what to probe, found []"),
        ("backbones: [mae]\nprobes: [depth]", "line 2: probes.0: expected keys such as `tasks` and `dataset`"),
        ("probes: [{a: 1}]", "line 1: probes.0.a: unknown key 'a': known here: tasks, dataset"),
        ('probes: [{"\\ud800": 1}]', "line 1: probes.0.\\ud800: unknown key"),
        ("limit: no\nseeds: x\nprobes: [{}]", "line 1: limit: expected a whole number of 1 or more, found false"),
        ("true: 1\nprobes: [1]", "line 1: True: unknown key True"),
        ("a: &a [*a]", "holds more than 100,000 values"),
        ("x: !!python/object/apply:os.getcwd []", "is no YAML that can be read"),
        ("a: " + "[" * 2000, "is no YAML that can be read"),
    ],
)
def test_a_file_that_is_no_pipeline_is_refused(write, text, says):
    with pytest.raises(PipelineError) as told:
        load_pipeline(write(text))
    assert says in str(told.value)
    assert "small.yaml" in str(told.value)


def test_a_file_that_expands_without_end_is_refused_at_once(write):
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40))
    with pytest.raises(PipelineError, match="holds more than 100,000 values once its aliases"):
        load_pipeline(write(bomb))


def test_files_and_names_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(PipelineError, match=r"nowhere\.yaml: no such file; .* by name: .*table5"):
        load_pipeline("nowhere.yaml")
    with pytest.raises(PipelineError, match="unknown pipeline 'tabel5': did you mean table5"):
        load_pipeline("tabel5")
    with pytest.raises(PipelineError, match="cannot be read: Is a directory"):
        load_pipeline(f"{tmp_path}/")
    (tmp_path / "odd.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PipelineError, match="it is not UTF-8 text"):
        load_pipeline(str(tmp_path / "odd.yaml"))
    monkeypatch.chdir(tmp_path)
    Path("table5").mkdir()
    assert load_pipeline("table5").name == "table5", "a folder of that name does not hide the shipped pipeline"


def test_settings_replace_values(write):
    settings = [
        "seeds=3,4", "iterations=7", "probes.1.limit=16", "readouts=deap:32", "limit=null", "where.weights=0a1b",
        "probes.0.tasks=[depth]", "backbones=timm:resnet18@untrained,mae", "description=one, two",
    ]  # fmt: skip
    pipeline = load_pipeline(write(GOOD), settings)
    first, second = pipeline.probes
    assert (first.seeds, second.seeds) == ((3, 4), (7,)), "a probe's own value still wins"
    assert first.options.iterations == second.options.iterations == 7
    assert (first.limit, second.limit) == (None, 16)
    assert (first.readouts, first.tasks) == (("deap:32",), ("depth",))
    assert [one.label for one in first.backbones] == ["timm:resnet18@untrained", "mae"]
    assert pipeline.where == {"weights": "0a1b"}
    assert pipeline.description == "one, two"


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("seeds=zero", ["--set seeds=zero: seeds.0: expected a whole number", "small.yaml"]),
        ("seed=1", ["--set seed=1: unknown key 'seed': did you mean seeds?", "known here: name,"]),
        ("probes.0.limt=1", ["unknown key 'limt': did you mean limit?", "known here: tasks, dataset"]),
        ("probes.7.limit=1", ["there is no probes.7: the pipeline has 2"]),
        ("probes.x.limit=1", ["there is no probes.x"]),
        ("seeds.0=1", ["seeds holds no further keys"]),
        ("probes.0.limit.a=1", ["probes.0.limit holds no further keys"]),
        ("seeds=", ["found an empty list"]),
        ("iterations=", []),
        ("lr={a", ["--set lr={a", "is no YAML that can be read"]),
        ("probes=[]", ["--set probes=[]: probes: expected a list"]),
        ("probes.0=depth", ["--set probes.0=depth: probes.0: expected keys"]),
    ],
)
def test_settings_that_cannot_be(write, setting, says):
    if not says:
        assert load_pipeline(write(GOOD), [setting]).probes[0].options.iterations is None
        return
    with pytest.raises(PipelineError) as told:
        load_pipeline(write(GOOD), [setting])
    for words in says:
        assert words in str(told.value)


@pytest.mark.parametrize("setting", ["seeds", "=1", ""])
def test_settings_without_key_or_value(write, setting):
    with pytest.raises(UsageError, match="--set takes KEY=VALUE"):
        load_pipeline(write(GOOD), [setting])


def test_the_papers_experiments_and_the_demo_are_shipped():
    names = set(shipped_pipelines())
    assert {"table3", "table4", "table5", "figure4", "demo"} <= names
    for name in names:
        pipeline = load_pipeline(name)
        assert pipeline.name == name
        assert pipeline.description


SHORT = "backbones: [mae]\nprobes: [{tasks: [depth], dataset: scenes}]\n"
HEX = "0x" + "f" * 100_000
ALIASES = "x0: &x0 [1, 1]\n" + "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 12))
MERGES = "m0: &m0 {a: 1, b: 2}\n" + "".join(
    f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}], k{i}: 1}}\n" for i in range(1, 9)
)
BOMBS = {
    "aliases": ALIASES + "probes: *x11\n",
    "aliases where a value should be": ALIASES + "name: *x11\n",
    "merges": MERGES + "where: *m8\n",
    "holds itself": "where: &w {a: *w}\n",
    "digits": f"iterations: {'9' * 5000}\n",
    "hexadecimal digits": f"iterations: {HEX}\n",
    "a key of digits": f"{HEX}: 1\n",
    "beyond int64": "iterations: 99999999999999999999\n",
    "beyond what is meant": "iterations: 9999999999\n",
    "a learning rate": f"lr: {HEX}\n",
    "a learning rate beyond floats": "lr: 1e999\n",
    "a selection": f"where: {{a: {HEX}}}\n",
    "nested": f"where: {'[' * 5000}\n",
    "binary": f"limit: 0b{'1' * 100_000}\n",
}


@pytest.mark.parametrize("name", BOMBS)
def test_values_that_grow_and_numbers_that_cannot_be_are_one_short_line(write, name):
    with pytest.raises(PipelineError) as told:
        load_pipeline(write(BOMBS[name] + (SHORT if "probes" not in BOMBS[name] else "backbones: [mae]\n")))
    assert "is there twice" not in str(told.value)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 600


@pytest.mark.parametrize("setting", [f"iterations={HEX}", f"seeds=1,{'9' * 4000}", "lr=1e999", "where.a=[&a [*a]]"])
def test_so_they_are_as_settings(write, setting):
    with pytest.raises(PipelineError) as told:
        load_pipeline(write(GOOD), [setting])
    assert "\n" not in str(told.value)


def test_an_alias_that_repeats_a_value_is_fine(write):
    found = load_pipeline(write(f"name: &n again\ndescription: *n\nseeds: [{2**40}]\n{SHORT}"))
    assert (found.name, found.description, found.probes[0].seeds) == ("again", "again", (2**40,))
