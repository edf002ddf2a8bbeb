"""Creating a key that is not there: of several processes one does, where the store can tell; else no harm is done."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import deapcache_gcs
import pytest
from deapcache_bucket import S3Bucket, environment_of
from deapcache_faults import environment
from deapcache_gcs import gcs_served
from deapcache_proxy import FaultyProxy, always, proxied

from deapcache.locations import locate

CHILD = Path(__file__).with_name("create_child.py")
KEYS = 60
NAMES = ("ann", "bob")


def _race(address: str, **variables: str) -> dict[str, set[int]]:
    """Which keys each of two processes has created, as it believes."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment(**variables)}
    commands = [[sys.executable, str(CHILD), address, name, str(KEYS)] for name in NAMES]
    children = [subprocess.Popen(command, **pipes) for command in commands]
    assert [child.stdout.readline() for child in children] == ["READY\n"] * 2
    for child in children:
        child.stdin.write("GO\n")
        child.stdin.flush()
    said = [child.communicate(timeout=300)[0] for child in children]
    return {name: set(json.loads(one)) for name, one in zip(NAMES, said, strict=True)}


def _written(bucket: S3Bucket) -> dict[int, str]:
    return {number: bucket.read(f"home/key-{number}").decode() for number in range(KEYS)}


def test_one_of_two_processes_creates_a_key_on_s3(s3: S3Bucket) -> None:
    won = _race(s3.url)
    assert won["ann"] | won["bob"] == set(range(KEYS))
    assert not won["ann"] & won["bob"]
    assert all(number in won[name] for number, name in _written(s3).items())
    assert 412 in [status for method, _, status in s3.server.requests() if method == "PUT"], "they never met"


def test_one_of_two_processes_creates_a_key_on_google_cloud_storage() -> None:
    with gcs_served() as (url, objects, _):
        won = _race("gs://lab/home", **deapcache_gcs.environment_of(url))
        assert won["ann"] | won["bob"] == set(range(KEYS))
        assert not won["ann"] & won["bob"]
        assert all(number in won[objects[f"home/key-{number}"][0].decode()] for number in range(KEYS))


def _ignore_conditions(proxy: FaultyProxy) -> None:
    proxy.dropped = "if-none-match"


def _refuse_conditions(proxy: FaultyProxy) -> None:
    proxy.plan = always("501", "if-none-match")


@pytest.mark.parametrize("habit", [_ignore_conditions, _refuse_conditions])
def test_a_server_without_conditions_lets_both_create_and_one_stays(s3: S3Bucket, habit) -> None:
    with proxied(s3.server.place) as proxy:
        habit(proxy)
        won = _race(s3.url, **environment_of(proxy.url))
        refusals = proxy.injected["501"]
    assert won["ann"] | won["bob"] == set(range(KEYS))
    assert all(number in won[name] for number, name in _written(s3).items())
    assert refusals == (len(NAMES) if habit is _refuse_conditions else 0)  # who was told once does not ask again


def test_a_server_without_conditions_keeps_what_is_there(s3: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxied(s3.server.place) as proxy:
        _refuse_conditions(proxy)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        place = locate(s3.url)
        assert [place.publish("key", data) for data in (b"first", b"second")] == [True, False]
        assert place.publish("other", b"third")
    assert s3.read("home/key") == b"first"
    assert s3.read("home/other") == b"third"
