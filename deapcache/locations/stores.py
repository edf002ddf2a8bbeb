"""What obstore is told about a bucket or a web server: address, region, credentials, patience.

``s3://PROFILE@bucket/prefix`` takes credentials, region and endpoint of that profile of the AWS configuration, so that
one command can use homes of different servers; ``s3://anonymous@bucket/prefix`` signs nothing, for public buckets.
"""

from __future__ import annotations

import configparser
import functools
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deapcache.errors import UsageError
from deapcache.locations.files import file_state

RETRIES: dict[str, Any] = {"max_retries": 5, "initial_seconds": 0.5, "most_seconds": 4.0}
"""A hiccup is waited out for some ten seconds; a server that is gone is told after that."""

SILENCE_SECONDS = "DEAPCACHE_SILENCE_SECONDS"
"""Environment variable: a connection without a byte for so long is given up and made anew; 30 unless set."""

_ANSWER_SECONDS = 3600
"""No single answer takes longer: a server that sends a byte now and then does not hold a command for ever."""

ANONYMOUS = "anonymous"
"""In the place of a profile: requests are not signed."""

_CONFIG, _CREDENTIALS = "~/.aws/config", "~/.aws/credentials"


def store_settings(url: str) -> dict[str, Any]:
    """The store of an address as plain JSON: ``scheme``, what else tells it apart, and no secret.

    Raises :class:`UsageError` for an address that cannot be used.
    """
    scheme = urlsplit(url).scheme
    if scheme == "s3":
        return _s3_settings(url)
    if scheme == "gs":
        parts = urlsplit(url)
        _check_address(scheme, parts.netloc, has_secret="@" in parts.netloc, has_query=bool(parts.query))
        return {"scheme": "gs", "bucket": parts.netloc, "prefix": parts.path.strip("/")}
    return {"scheme": scheme, "url": url}


def open_store(settings: Mapping[str, Any], *, retries: int | None = None) -> Any:
    """obstore's store of :func:`store_settings`; one is kept for each, and for each number of retries."""
    limits = {**RETRIES, **({} if retries is None else {"max_retries": retries})}
    return _open(json.dumps(dict(settings), sort_keys=True), json.dumps(limits), silence_seconds())


def silence_seconds() -> float:
    """Seconds for which a silent connection is borne; raises :class:`UsageError` where the variable is no number."""
    given = os.environ.get(SILENCE_SECONDS) or "30"
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"{SILENCE_SECONDS}={given!r}: expected a number of seconds above 0")
    return seconds


@functools.lru_cache(maxsize=1024)
def _open(settings: str, limits: str, silence: float) -> Any:
    from obstore.store import GCSStore, HTTPStore, S3Store

    store, retry = json.loads(settings), json.loads(limits)
    options: dict[str, Any] = {
        "client_options": {
            "allow_http": True,
            "connect_timeout": timedelta(seconds=silence),
            "read_timeout": timedelta(seconds=silence),
            "timeout": timedelta(seconds=_ANSWER_SECONDS),
        },
        "retry_config": {
            "max_retries": retry["max_retries"],
            "retry_timeout": timedelta(seconds=_ANSWER_SECONDS),
            "backoff": {
                "init_backoff": timedelta(seconds=retry["initial_seconds"]),
                "max_backoff": timedelta(seconds=retry["most_seconds"]),
                "base": 2,
            },
        },
    }
    if store["scheme"] == "s3":
        config: Any = {**store["config"], "disable_bulk_delete": "true"}
        if store["config"].get("region") is None and "endpoint" not in config:
            config["region"] = _region_of_bucket(store["bucket"])
        credentials = _credentials_of(store["profile"]) if store["profile"] is not None else None
        return S3Store(
            store["bucket"], prefix=store["prefix"] or None, config=config, credential_provider=credentials, **options
        )
    if store["scheme"] == "gs":
        return GCSStore(store["bucket"], prefix=store["prefix"] or None, **options)
    return HTTPStore.from_url(store["url"], **options)


def _s3_settings(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    who, at, bucket = parts.netloc.rpartition("@")
    _check_address(parts.scheme, bucket, has_secret=":" in who, has_query=bool(parts.query or parts.fragment))
    profile = who if at else os.environ.get("AWS_PROFILE", "")
    found = {} if who == ANONYMOUS else _profile(profile, required=bool(at))
    # A profile named in the address goes before the environment, one of $AWS_PROFILE after it, as with Amazon's tools.
    given = {
        "endpoint_url": os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        "region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
    }
    environment = {name: value for name, value in given.items() if value}
    chosen = {**environment, **found} if at else {**found, **environment}
    config: dict[str, Any] = {}
    if endpoint := chosen.get("endpoint_url"):
        config["endpoint"] = endpoint.rstrip("/")
    if region := chosen.get("region"):
        config["region"] = region
    if who == ANONYMOUS:
        config["skip_signature"] = "true"
    from_profile = who != ANONYMOUS and (bool(who) or (not os.environ.get("AWS_ACCESS_KEY_ID") and bool(found)))
    return {
        "scheme": "s3",
        "bucket": bucket,
        "prefix": parts.path.strip("/"),
        "config": config,
        "profile": profile if from_profile else None,
    }


def _check_address(scheme: str, bucket: str, *, has_secret: bool, has_query: bool) -> None:
    # None of these messages repeats the address: it may hold a secret.
    if has_secret:
        raise UsageError(
            f"a {scheme}:// address must not hold keys: give them in the environment or in a profile "
            "(s3://PROFILE@bucket/prefix)"
        )
    if not bucket:
        raise UsageError(f"a {scheme}:// address needs a bucket: {scheme}://bucket/prefix")
    if has_query:
        raise UsageError(
            f"a {scheme}:// address has nothing behind '?' or '#': public buckets are s3://{ANONYMOUS}@bucket/prefix; "
            "endpoint and region are AWS_ENDPOINT_URL and AWS_REGION, or those of a profile: s3://PROFILE@bucket/prefix"
        )


@functools.lru_cache(maxsize=8)
def _parse_configuration(files: tuple[tuple[Any, ...], ...]) -> configparser.ConfigParser:
    """The AWS configuration in files, each with what changes when it is written; raises :class:`UsageError`."""
    parser, paths = configparser.ConfigParser(interpolation=None, strict=False), [path for path, *_ in files]
    try:
        parser.read(paths)
    except configparser.Error as error:
        raise UsageError(f"{' or '.join(paths)} cannot be read: {type(error).__name__}") from None
    return parser


def _profile(profile: str, *, required: bool) -> Mapping[str, str]:
    """What the AWS configuration says of a profile; of ``default`` where none is named."""
    config = os.environ.get("AWS_CONFIG_FILE") or _CONFIG
    credentials = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or _CREDENTIALS
    # not expanded(): where no home folder is known these files are simply not there
    paths = [Path(os.path.expanduser(path)) for path in (config, credentials)]  # noqa: PTH111
    # asked before every request of a store: files that did not change are not parsed again
    parser = _parse_configuration(tuple((str(path), *file_state(path.stat())) for path in paths if path.is_file()))
    # A section of the configuration is called "profile NAME", one of the credentials NAME.
    sections = [name for name in (f"profile {profile}", profile or "default") if parser.has_section(name)]
    if required and not sections:
        raise UsageError(
            f"there is no AWS profile {profile!r} in {_CONFIG} or {_CREDENTIALS} (or where AWS_CONFIG_FILE and "
            f"AWS_SHARED_CREDENTIALS_FILE say); s3://{ANONYMOUS}@bucket/prefix is for public buckets"
        )
    return {name: value for section in sections for name, value in parser[section].items()}


def _credentials_of(profile: str) -> Any:
    """What gives obstore the keys of a profile: those of its files, else what boto3 makes of it (SSO, roles).

    None where a default profile holds no keys and boto3 is not there: obstore then asks the machine for its role.
    Raises :class:`UsageError` where a named profile needs boto3.
    """
    found = _profile(profile, required=False)
    if found.get("aws_access_key_id") and found.get("aws_secret_access_key"):
        keys = {
            "access_key_id": found["aws_access_key_id"],
            "secret_access_key": found["aws_secret_access_key"],
            "token": found.get("aws_session_token"),
            "expires_at": None,
        }
        return lambda: keys
    if not any(name.startswith(("sso_", "role_", "credential_", "source_profile", "login_")) for name in found):
        return None
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        raise UsageError(
            f"the AWS profile {profile or 'default'!r} gets its keys by SSO, a role or a program, which needs boto3: "
            "pip install 'deapcache[aws]'"
        ) from None
    return Boto3CredentialProvider(boto3.Session(profile_name=profile or None))


@functools.cache
def _region_of_bucket(bucket: str) -> str:
    """Where a bucket of Amazon's lies: it says so to anybody who asks, even in a refusal."""
    asked = urllib.request.Request(f"https://{bucket}.s3.amazonaws.com", method="HEAD")
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            headers = answer.headers
    except urllib.error.HTTPError as error:
        headers = error.headers
    except (OSError, ValueError):
        return "us-east-1"
    return str(headers.get("x-amz-bucket-region") or "us-east-1")
