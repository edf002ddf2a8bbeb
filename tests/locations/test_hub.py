"""Dataset repositories of the Hub, against a server that answers as the Hub does."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import deapcache_toys as toys
import numpy as np
import pytest
import yaml
from deapcache_caches import feature_cache, fill, volumes
from deapcache_hub import READ, WRITE, Hub, hub_served

from deapcache.cache import list_caches, open_cache
from deapcache.cli import main
from deapcache.errors import LocationError, ReadOnlyError, UsageError
from deapcache.locations import LocalLocation, locate
from deapcache.results import load_results, save_run

REPO = "lab/features"
URL = f"hf://datasets/{REPO}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_served() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_TOKEN", WRITE)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        # the Hub's own storage protocol needs its server; without, huggingface_hub uploads as Git LFS does
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield served


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return int(str(ended.value.code)), printed.out, printed.err

    return run


@pytest.fixture
def pushed(hub: Hub, home: LocalLocation, command: Command) -> Hub:
    """A cache of 130 volumes, pushed."""
    fill(feature_cache(home))
    code, out, err = command("cache", "push", "vit-b-16", "--to", URL, "--home", home)
    assert code == 0, err
    assert "44 files copied" in out
    assert "complete" in out
    return hub


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error)
    return str(error)


def test_a_pushed_cache_is_the_same_bytes_in_few_commits(pushed: Hub, home: LocalLocation, command: Command) -> None:
    files = pushed.files(REPO)
    local = {key: home.read(key) for key in home.keys("features")}
    assert {path: data for path, data in files.items() if path.startswith("features/")} == local
    assert files["index.json"] == home.read("index.json")
    assert len(pushed.messages) == 1
    assert pushed.private  # features may be of images that are not everybody's
    of_repository = [token for host, _, path, token, _ in pushed.requests if host == "hub" and REPO in path]
    assert set(of_repository) == {f"Bearer {WRITE}"}
    assert {token for host, _, _, token, _ in pushed.requests if host == "storage"} == {None}
    code, out, _ = command("cache", "push", "vit-b-16", "--to", URL, "--home", home)
    assert code == 0
    assert "0 files copied (0 B), 44 were there" in out
    assert len(pushed.messages) == 1


def test_shards_are_read_by_ranges_from_the_signed_address(pushed: Hub) -> None:
    pushed.requests.clear()
    (entry,) = list_caches(locate(URL), "features")
    cache = entry.open()
    assert cache.is_complete()
    rows = [3, 77, 129, 4]
    assert np.array_equal(cache.read_features(rows), volumes(rows).astype(np.float16))
    asked = [request for request in pushed.requests if request[0] == "storage"]
    ranged = [request for request in asked if request[4]]
    assert {request[2].partition("?")[0] for request in ranged if ".json" not in request[2]}
    assert len(ranged) >= 4 + 3  # the rows, and the index of each of their three shards
    assert pushed.sent < cache.stored_bytes() / 4
    assert {request[3] for request in asked} == {None}
    heads = [request for request in pushed.requests if request[1] == "HEAD"]
    assert len(heads) == len({request[2] for request in heads})  # a signed address is used again


def test_a_signed_address_that_has_run_out_is_asked_for_anew(pushed: Hub) -> None:
    (entry,) = list_caches(locate(URL), "features")
    cache = entry.open()
    expected = cache.read_features([0])
    pushed.signature = "signed-2"
    assert np.array_equal(cache.read_features([0]), expected)


def test_commands_read_the_home_and_a_cache_is_pulled(
    pushed: Hub, home: LocalLocation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setenv("HF_TOKEN", READ)
    code, out, err = command("cache", "ls", "--home", URL)
    assert (code, "130" in out) == (0, True), err
    other = LocalLocation(tmp_path / "other")
    code, _, err = command("cache", "pull", "vit-b-16", "--from", URL, "--home", other.path)
    assert code == 0, err
    assert {key: other.read(key) for key in other.keys("features")} == {
        key: home.read(key) for key in home.keys("features")
    }
    beside = locate(tmp_path / "mine").with_read_homes([locate(URL)])
    assert [entry.name for entry in list_caches(beside, "features")] == ["vit-b-16"]


def test_a_reader_stays_at_one_commit_and_a_commit_is_never_written(
    pushed: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = pushed.repositories[REPO][-1]
    place = locate(f"{URL}@{commit}")
    before = place.keys()
    branch = locate(f"{URL}@main")
    assert branch.keys() == before
    pushed.add_commit(REPO, {})
    assert (place.keys(), branch.keys()) == (before, before)
    monkeypatch.setattr("deapcache.locations.hub._BURST", 0.0)
    assert branch.refresh()
    assert branch.keys() == []
    with pytest.raises(ReadOnlyError, match=f"is one commit, which never changes: leave @{commit} out"), place.batch():
        place.require_writable()
    with pytest.raises(LocationError, match="no such revision"):
        locate(f"{URL}@draft").keys()


def test_the_card_says_what_is_there_and_keeps_the_owners_words(
    pushed: Hub, home: LocalLocation, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def card() -> tuple[dict[str, object], str]:
        _, header, text = pushed.files(REPO)["README.md"].decode().split("---\n", 2)
        return yaml.safe_load(header), text

    header, text = card()
    assert header == {
        "license": "other", "tags": ["deapcache", "dense-features", "vision-backbones"], "viewer": False
    }  # fmt: skip
    assert f"deapcache cache ls --home {URL}" in text
    assert "| features | coco | train | vit-b-16 | 130 | " in text
    assert "images and labels of coco: annotations CC BY 4.0" in text
    owner = b"---\nlicense: cc-by-4.0\ntags: [birds]\n---\n# Ours\n\nCite us.\n"
    files = pushed.files(REPO)
    changed = files["README.md"].replace(b"# Cached features", b"# Edited")
    ours = owner + changed[changed.index(b"<!-- deapcache") :] + b"\nThe end.\n"
    tree = dict(pushed.trees[pushed.repositories[REPO][-1]])
    pushed.add_commit(REPO, {**tree, "README.md": (ours, False)})
    monkeypatch.setattr("deapcache.locations.hub._BURST", 0.0)
    locate(URL).refresh()  # as another process would begin
    fill(feature_cache(home, "int8"))
    code, _, err = command("cache", "push", "--filter", "kind=features", "--to", URL, "--home", home)
    assert code == 0, err
    header, text = card()
    assert header["license"] == "cc-by-4.0"
    assert header["tags"] == ["birds", "deapcache", "dense-features", "vision-backbones"]
    assert text.strip().startswith("# Ours\n\nCite us.")
    assert "The end." in text
    assert "# Edited" not in text
    assert text.count("| features | coco | train | vit-b-16 | 130 | ") == 2


def test_a_refusal_is_one_line_that_says_what_to_do(
    pushed: Hub, home: LocalLocation, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    def refusal(url: str) -> str:
        with pytest.raises(LocationError) as raised:
            list_caches(locate(url))
        return one_line(raised.value)

    monkeypatch.setattr("deapcache.locations.hub._BURST", 0.0)
    locate(URL).refresh()  # as another process would begin
    monkeypatch.delenv("HF_TOKEN")
    assert "or it is private (401): check the name; no token is sent: set HF_TOKEN" in refusal(URL)
    monkeypatch.setenv("HF_TOKEN", "hf_of_another")
    assert "(404): check the name; the token in use (HF_TOKEN" in refusal(URL)
    assert "(404)" in refusal("hf://datasets/lab/nothing")
    monkeypatch.setenv("HF_TOKEN", READ)
    fill(feature_cache(home, "float32"))
    code, out, err = command("cache", "push", "--filter", "kind=features", "--to", URL, "--home", home)
    assert (code, out) == (1, "")
    assert "lacks the right to write there" in err.splitlines()[-1]
    assert READ not in err
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    pushed.refuse = 429
    assert "too many requests (429): wait some minutes; with HF_TOKEN" in refusal("hf://datasets/lab/other")


@pytest.mark.parametrize(
    "url", ["hf://lab/features", "hf://datasets/lab", "hf://models/lab/features", "hf://datasets/lab/features@"]
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match="give hf://datasets/OWNER/REPO"):
        locate(url)


def test_nothing_but_push_and_submit_writes(pushed: Hub, command: Command) -> None:
    commits = len(pushed.messages)
    for arguments in (
        ("extract", "--backbone", "timm:test_vit@untrained", "--dataset", "scenes", "--limit", 1),
        ("cache", "index"),
        ("cache", "rm", "vit-b-16", "--yes"),
    ):
        code, _, err = command(*arguments, "--home", URL)
        assert code != 0
        assert "read only but for `deapcache cache push" in err, err
    assert len(pushed.messages) == commits


def test_a_bundle_is_submitted_and_can_be_merged(
    hub: Hub, home: LocalLocation, tmp_path: Path, command: Command
) -> None:
    hub.add_commit("board/results", {})
    for split in toys.COUNTS:
        toys.add_features(home, split)
        toys.add_targets(home, split, "instances")
    (one,) = toys.probe(home, seeds=(0,), iterations=1)
    run = save_run(
        home, one.to_json(), statistics=one.statistics, prior_statistics=one.baseline_statistics,
        image_ids=one.image_ids, weights=one.weights,
    ).run  # fmt: skip
    target = "hf://datasets/board/results/submissions/ours.zip"
    code, out, err = command("submit", run, "--out", target, "--home", home)
    assert code == 0, err
    assert f"packed: {target}, 1 runs" in out
    bundle = tmp_path / "ours.zip"
    bundle.write_bytes(hub.files("board/results")["submissions/ours.zip"])
    merged = LocalLocation(tmp_path / "merged")
    code, _, err = command("leaderboard", "--add", bundle, "--home", merged.path)
    assert code == 0, err
    assert [result.run for result in load_results(merged)] == [run]
    code, _, err = command("submit", run, "--out", target, "--home", home)
    assert code == 2
    assert "is there already: give another name, or --overwrite" in err


def test_another_process_opens_the_same_cache(pushed: Hub) -> None:
    import pickle

    cache = open_cache(list_caches(locate(URL), "features")[0].location)
    again = pickle.loads(pickle.dumps(cache))
    assert np.array_equal(again.read_features([5]), cache.read_features([5]))


@pytest.mark.slow
def test_the_walk_of_the_page(hub: Hub, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of docs/sharing.md in order, with toy features in the place of dinov2's over COCO."""
    page = (Path(__file__).parents[2] / "docs" / "sharing.md").read_text()
    section = page.partition("### The Hugging Face Hub")[2].partition("\n## ")[0]
    fences = re.findall(r"^```\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    lines = "".join(fences).replace("\\\n", " ").splitlines()
    own = LocalLocation(tmp_path / "own")
    for split in toys.COUNTS:
        toys.add_features(own, split, backbone="dinov2")
        toys.add_targets(own, split, "classes")
    for name, value in {"HOME": tmp_path, "DEAPCACHE_HOME": own.path}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(tmp_path)
    ran = []
    for line in lines:
        words = shlex.split(line.replace("/scratch", str(tmp_path)).replace("coco", "toys"), comments=True)
        if words[0] == "hf":  # the Hub's own command
            (tmp_path / words[3]).parent.mkdir()
            (tmp_path / words[3]).write_bytes(hub.files(words[2])[words[3]])
        if words[0] != "deapcache":
            continue
        if words[1] == "probe":
            words += shlex.split("--dataset toys --iterations 2 --batch-size 8 --lr 1e-3 --readout linear")
        code, _, err = command(*words[1:])
        assert code == 0, f"{line}\n{err}"
        ran.append(" ".join(words[1:3]))
    assert ran == [
        "cache push", "cache ls", "probe --task", "probe --task", "cache pull", "submit segmentation-toys-dinov2",
        "leaderboard --add",
    ]  # fmt: skip
    assert {path.partition("/")[0] for path in hub.files("lab/features")} >= {"features", "targets", "README.md"}
    assert len(load_results(LocalLocation(tmp_path / "mine"))) == 1
    assert len(load_results(own)) == 1
