"""An S3 server in a process of its own (moto's), with boto3 as a second opinion on what lies in its buckets."""

from __future__ import annotations

import functools
import json
import re
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from deapcache_servers import running

MOTO = """
import contextlib, sys, threading
sys.stderr = open(sys.argv[2], "a", buffering=1)
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

app, put = DomainDispatcherApplication(create_backend_app), threading.Lock()

def one_put_at_a_time(environ, start):
    with put if environ["REQUEST_METHOD"] == "PUT" else contextlib.nullcontext():
        return app(environ, start)

run_simple("127.0.0.1", int(sys.argv[1]), one_put_at_a_time, threaded=True, request_handler=MotoRequestHandler)
"""
"""moto's S3, whose log is that of its requests. S3 looks and puts in one step, moto in two: hence one at a time."""

KEYS = {"AWS_ACCESS_KEY_ID": "AKIAFAULTSANDTESTS00", "AWS_SECRET_ACCESS_KEY": "very/secret+key-of-the-fault-tests-0000"}
"""Any will do; none may ever be shown."""

_COLOUR = re.compile(r"\x1b\[\d+m")
_REQUEST = re.compile(r'"([A-Z]+) (\S+) HTTP/1\.1" (\d+)')


@functools.cache
def _client(url: str) -> Any:
    import boto3

    keys = {name.lower(): value for name, value in KEYS.items()}
    return boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)


@dataclass(frozen=True)
class S3Server:
    """A running server: its address and what it was asked."""

    url: str
    log: Path

    @property
    def place(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 0)

    def client(self) -> Any:
        """boto3's client of this server."""
        return _client(self.url)

    def requests(self) -> list[tuple[str, str, int]]:
        """(method, path with query, status) of every request so far."""
        text = _COLOUR.sub("", self.log.read_text(errors="replace"))
        return [(method, path, int(status)) for method, path, status in _REQUEST.findall(text)]


@dataclass(frozen=True)
class S3Bucket:
    """A bucket of one test."""

    server: S3Server
    name: str

    @property
    def url(self) -> str:
        """A home in the bucket: ``s3://NAME/home``."""
        return f"s3://{self.name}/home"

    def keys(self) -> list[str]:
        """All keys of the bucket, as boto3 lists them."""
        pages = self.server.client().get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return sorted(entry["Key"] for page in pages for entry in page.get("Contents", ()))

    def read(self, key: str) -> bytes:
        """The bytes of ``key``, as boto3 reads them."""
        return bytes(self.server.client().get_object(Bucket=self.name, Key=key)["Body"].read())

    def write(self, key: str, data: bytes, **options: Any) -> None:
        """Put an object behind deapcache's back."""
        self.server.client().put_object(Bucket=self.name, Key=key, Body=data, **options)

    def delete(self, key: str) -> None:
        """Delete an object behind deapcache's back."""
        self.server.client().delete_object(Bucket=self.name, Key=key)

    def deny(self, action: str) -> None:
        """Let nobody do ``action``, such as ``s3:PutObject``, in this bucket."""
        arn = f"arn:aws:s3:::{self.name}/*"
        statement = {"Effect": "Deny", "Principal": "*", "Action": action, "Resource": arn}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self.server.client().put_bucket_policy(Bucket=self.name, Policy=policy)

    def upload(self, folder: Path) -> None:
        """Put every file of ``folder`` into the home."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.write(f"home/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def requests(self, part: str = "") -> list[tuple[str, str, int]]:
        """What was read of this bucket so far, of paths that contain ``part``."""
        mine = [found for found in self.server.requests() if found[1].startswith(f"/{self.name}")]
        return [found for found in mine if part in found[1] and found[0] in ("GET", "HEAD")]


def environment_of(url: str) -> dict[str, str]:
    """Variables that let a process into the buckets behind ``url``: the server's own, or a proxy's."""
    return {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1", **KEYS}


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One server for all tests of a session."""
    log = tmp_path_factory.mktemp("s3") / "requests.log"
    with running(lambda port: [sys.executable, "-c", MOTO, str(port), str(log)], log) as server:
        yield S3Server(server.url, log)


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Bucket:
    """An empty bucket, and the environment that lets deapcache (and child processes) into it."""
    bucket = S3Bucket(s3_server, f"lab-{uuid.uuid4().hex[:12]}")
    s3_server.client().create_bucket(Bucket=bucket.name)
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment_of(s3_server.url).items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        (tmp_path / name).touch()
        monkeypatch.setenv(name, str(tmp_path / name))
    return bucket
