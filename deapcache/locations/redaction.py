"""Addresses as they may be shown: without the passwords and signatures that some carry."""

from __future__ import annotations

import os
import re

HIDDEN = "***"

_USER = re.compile(r"(\w*)://([^/?#\s'\"]*)@")
_QUERY = re.compile(r"(://[^?\s'\"]*\?)([^#\s'\"]+)")
_VALUE = re.compile(r"(?<==)[^&]+")
_SIGNED = re.compile(
    r"<(AWSAccessKeyId|SignatureProvided|StringToSign(?:Bytes)?|CanonicalRequest(?:Bytes)?)>.*?(</\1>|$)", re.DOTALL
)
"""What a store repeats to explain that it did not accept a signature."""
_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_SHORTEST = 16
"""Characters of a key; a shorter value is a stand-in, such as the word test."""


def redacted(text: str) -> str:
    """``text`` with what is secret in it replaced by ``***``.

    In addresses that is what precedes an ``@`` in front of the host, unless it is a profile's name, and every value of
    a query: names of parameters are no guide to which of them is a signature. Elsewhere it is what a store says of
    signatures, and the keys of the environment.

    >>> redacted("cannot reach https://ann:pw@host/lab?X-Amz-Signature=ab12&part=3: refused")
    'cannot reach https://***@host/lab?X-Amz-Signature=***&part=***: refused'
    """
    text = _USER.sub(_without_user, text)
    text = _QUERY.sub(lambda found: found[1] + _VALUE.sub(HIDDEN, found[2]), text)
    text = _SIGNED.sub(rf"<\1>{HIDDEN}\2", text)
    for variable in _VARIABLES:
        if len(secret := os.environ.get(variable, "")) >= _SHORTEST:
            text = text.replace(secret, HIDDEN)
    return text


def _without_user(found: re.Match[str]) -> str:
    scheme, user = found.groups()
    is_profile = scheme == "s3" and ":" not in user  # s3://PROFILE@bucket
    return found[0] if is_profile else f"{scheme}://{HIDDEN}@"
