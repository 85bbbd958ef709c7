"""Texts without their secrets, for messages, logs and reports."""

import re
from pathlib import Path

# Greedy: a password may itself hold an "@".
_CREDENTIALS = re.compile(r"://[^\s'\"/?#]*@")
_QUERY = re.compile(r"(://[^\s?'\"]*)\?[^\s'\"]+")
_SCP = re.compile(r"(?:[^@/:]+@)?(?P<host>[^@/:]+):(?P<path>[^/].*)")  # git@github.com:owner/name
_KEY = re.compile(r"-----BEGIN.*?(-----END[^-]*-----|\Z)", re.DOTALL)


def redact(text: str) -> str:
    """`text` with user, password and query of every URL in it left out, and keys in PEM."""
    return _QUERY.sub(r"\1?***", _CREDENTIALS.sub("://", _KEY.sub("(a key)", text)))


def location_uri(tool: str, location: str) -> str:
    """A path or URL that a tool knows as one URI, such as `git+https://...`, without credentials.

    "" for what has none: nothing, or a relative path.
    """
    if "://" not in location:
        if match := _SCP.fullmatch(location):
            location = f"ssh://{match['host']}/{match['path']}"
        elif Path(location).is_absolute():
            location = Path(location).as_uri()
        else:
            return ""
    return f"{tool}+{redact(location)}"
