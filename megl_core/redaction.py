"""Texts without their secrets, for messages, logs and reports."""

import re

# Greedy: a password may itself hold an "@".
_CREDENTIALS = re.compile(r"://[^\s'\"/?#]*@")
_QUERY = re.compile(r"(://[^\s?'\"]*)\?[^\s'\"]+")
_KEY = re.compile(r"-----BEGIN.*?(-----END[^-]*-----|\Z)", re.DOTALL)


def redact(text: str) -> str:
    """`text` with user, password and query of every URL in it left out, and keys in PEM."""
    return _QUERY.sub(r"\1?***", _CREDENTIALS.sub("://", _KEY.sub("(a key)", text)))
