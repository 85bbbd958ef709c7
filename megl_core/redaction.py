"""URLs without their secrets, for messages, logs and reports."""

import re

# Greedy: a password may itself hold an "@".
_CREDENTIALS = re.compile(r"://[^\s'\"/?#]*@")
_QUERY = re.compile(r"(://[^\s?'\"]*)\?[^\s'\"]+")


def redact(text: str) -> str:
    """`text` with user, password and query of every URL in it left out."""
    return _QUERY.sub(r"\1?***", _CREDENTIALS.sub("://", text))
