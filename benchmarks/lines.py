"""A file of JSON lines that is appended to and never rewritten."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from megl_core.errors import DataError

T = TypeVar("T")


class JsonLines:
    """Results, one a line. A last line without its end is what a killed run left; reading drops it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[bytes]:
        """The whole lines; none where there is no file."""
        if not self.path.is_file():
            return []
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(self.path, len(whole))
        return whole.splitlines()

    def parse(self, kind: type[T], line: bytes) -> T:
        """A line as a dataclass with its fields, `key` aside.

        Raises:
            DataError: it is none.
        """
        try:
            fields = json.loads(line)
            fields.pop("key", None)
            return kind(**fields)
        except (json.JSONDecodeError, AttributeError, TypeError) as error:
            raise DataError(
                f"not a result: {line[:80]!r} ({error})", where=str(self.path), fix="remove this line"
            ) from None

    def append(self, fields: Mapping[str, Any]) -> None:
        """Append a result; when this returns it is on the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(dict(fields), sort_keys=True) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
