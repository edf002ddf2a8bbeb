"""Addresses as they may be shown: without the passwords and signatures that some carry."""

from __future__ import annotations

import re

HIDDEN = "***"

_USER = re.compile(r"(?<=://)[^/?#\s'\"]*@")
_QUERY = re.compile(r"(://[^?\s'\"]*\?)([^#\s'\"]+)")
_VALUE = re.compile(r"(?<==)[^&]+")


def redacted(text: str) -> str:
    """``text`` with what is secret in the addresses that it holds replaced by ``***``.

    That is what precedes an ``@`` in front of the host, and every value of a query: names of parameters are no guide to
    which of them is a signature.

    >>> redacted("cannot reach https://ann:pw@host/lab?X-Amz-Signature=ab12&part=3: refused")
    'cannot reach https://***@host/lab?X-Amz-Signature=***&part=***: refused'
    """
    without_user = _USER.sub(f"{HIDDEN}@", text)
    return _QUERY.sub(lambda found: found[1] + _VALUE.sub(HIDDEN, found[2]), without_user)
