"""S3 as a location: boto3 sees what deapcache wrote, deapcache what boto3 wrote, and refusals say what to do."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from deapcache_bucket import S3Bucket

from deapcache.errors import LocationError, ReadOnlyError, UsageError
from deapcache.locations import RemoteLocation, locate


@pytest.fixture
def place(s3: S3Bucket) -> RemoteLocation:
    found = locate(s3.url)
    assert isinstance(found, RemoteLocation)
    return found


def test_boto3_and_deapcache_see_the_same(s3: S3Bucket, place: RemoteLocation) -> None:
    data = os.urandom(300_000)
    assert place.publish("a/b é+.json", data)
    assert s3.read("home/a/b é+.json") == data
    s3.write("home/a/c", b"theirs")
    assert place.read("a/c") == b"theirs"
    assert place.keys("a") == ["a/b é+.json", "a/c"]
    assert place.exists("a/c")
    assert not place.exists("a")
    place.delete("a/c")
    place.delete("a/c")
    assert s3.keys() == ["home/a/b é+.json"]
    with pytest.raises(FileNotFoundError):
        place.read("a/c")


def test_the_first_one_published_stays(s3: S3Bucket, place: RemoteLocation) -> None:
    assert place.publish("key", b"first")
    assert not place.publish("key", b"second")
    assert s3.read("home/key") == b"first"
    assert place.publish("key", b"third", replace=True)
    assert s3.read("home/key") == b"third"


def test_sizes_and_etags_fetch_nothing(s3: S3Bucket, place: RemoteLocation) -> None:
    s3.write("home/key", bytes(123_456))
    assert place.size("key") == 123_456
    before = place.etag("key")
    assert before == place.etag("key") == place.read_with_etag("key")[1]
    s3.write("home/key", bytes(123_455) + b"x")
    assert place.etag("key") != before
    asked = s3.requests("/home/key")
    assert [status for method, _, status in asked if method == "GET"] == [200]  # one whole read: read_with_etag's
    for question in (place.size, place.etag):
        with pytest.raises(FileNotFoundError):
            question("nothing")


def test_a_listing_serves_for_a_moment_and_ends_with_a_write(s3: S3Bucket, place: RemoteLocation) -> None:
    place.publish("f/a/b.zarr/zarr.json", b"{}")
    place.publish("f/a/b.zarr/features/c.0", b"x")
    for _ in range(5):
        assert place.find("f/*/*.zarr/zarr.json") == ["f/a/b.zarr/zarr.json"]
    assert len(s3.requests("list-type=2")) == 1
    place.publish("f/c/d.zarr/zarr.json", b"{}")
    assert len(place.find("f/*/*.zarr/zarr.json")) == 2


def test_whether_it_can_be_written_is_tried(s3: S3Bucket, place: RemoteLocation) -> None:
    place.require_writable()
    assert s3.keys() == []
    s3.deny("s3:PutObject")
    with pytest.raises(ReadOnlyError, match=r"cannot write .*AWS_PROFILE.*give another --home"):
        place.require_writable()
    with pytest.raises(ReadOnlyError, match="is a read-home"):
        place.with_options(read_only=True).require_writable()


def test_public_objects_are_read_without_credentials(s3: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.write("home/open", b"for all", ACL="public-read")
    s3.write("home/closed", b"for some")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    place = locate(f"s3://anonymous@{s3.name}/home")
    assert place.read("open") == b"for all"
    with pytest.raises(LocationError, match=r"cannot read s3://anonymous@.*/closed: 403 Forbidden; check whose"):
        place.read("closed")


def test_a_profile_brings_its_endpoint_region_and_keys(s3: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    config, keys = (Path(os.environ[name]) for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"))
    config.write_text(f"[profile lab]\nregion = eu-central-1\nendpoint_url = {s3.server.url}\n")
    keys.write_text("[lab]\naws_access_key_id = one\naws_secret_access_key = two\n")
    for name in ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    named = locate(f"s3://lab@{s3.name}/home")
    assert named.publish("key", b"x")
    assert s3.read("home/key") == b"x"
    assert json.loads(named.origin)["config"]["region"] == "eu-central-1"
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert locate(s3.url).read("key") == b"x"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # after a profile in the address, before $AWS_PROFILE
    assert named.read("key") == b"x"
    assert json.loads(locate(s3.url).origin)["config"]["endpoint"] == "http://127.0.0.1:1"
    with pytest.raises(UsageError, match="no AWS profile 'labb'"):
        locate(f"s3://labb@{s3.name}/home")


def test_addresses_that_cannot_be_meant_are_refused_and_not_repeated() -> None:
    for address, said in (
        ("s3://AKIAKEY:hush@bucket/home", "must not hold keys"),
        ("s3:///home", "needs a bucket"),
        ("s3://bucket/home?anonymous", "s3://anonymous@bucket/prefix"),
        ("gs://hush@bucket/home", "must not hold keys"),
    ):
        with pytest.raises(UsageError, match=said) as raised:
            locate(address)
        assert "hush" not in str(raised.value)


def test_a_bucket_that_is_not_there_is_explained_without_the_servers_words(s3: S3Bucket) -> None:
    with pytest.raises(
        LocationError, match=r"cannot reach s3://no-such-bucket/home/: 404 Not Found \(NoSuchBucket\)"
    ) as raised:
        locate("s3://no-such-bucket/home").keys()
    assert "RequestId" not in str(raised.value)
