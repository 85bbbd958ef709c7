"""Logs of pods, read again and again: what was read before is left out by its timestamp."""

import time
from collections.abc import Iterator
from typing import Any

from megl_core.cluster.api import AbsentError, Api, UnansweredError
from megl_core.errors import ConfigError
from megl_core.redaction import redact

_MARGIN_SECONDS = 15
_TAIL_SECONDS = 30.0


class Follower:
    """The lines of one pod's log that were not yet told.

    A follow that hangs on one connection ends with it, without a word of where it was; a question for the
    last seconds has no state that could be lost.
    """

    def __init__(self, api: Api, namespace: str, pod: str) -> None:
        self.api, self.namespace, self.pod = api, namespace, pod
        self.last = ""
        self.told_at_last = 0
        self.read_at: float | None = None

    def new_lines(self) -> Iterator[str]:
        """What was written since the last call; nothing where there is no log (yet, or any more)."""
        now = time.monotonic()
        options = {}
        if self.read_at is not None:
            options["since_seconds"] = int(now - self.read_at) + _MARGIN_SECONDS
        lines = _read(self.api, self.namespace, self.pod, timestamps=True, **options)
        if lines is None:
            return
        self.read_at = now
        known = self.told_at_last
        before = self.last
        for line in lines:
            stamp, _, text = line.partition(" ")
            moment = _sortable(stamp)
            if moment < before:
                continue
            if moment == before and known:
                known -= 1
                continue
            self.told_at_last = self.told_at_last + 1 if moment == self.last else 1
            self.last = moment
            yield redact(text)


class Tails:
    """The last lines of many pods: read seldom while they run, and once more when they end."""

    def __init__(self, api: Api, namespace: str, num_lines: int) -> None:
        self.api, self.namespace, self.num_lines = api, namespace, num_lines
        self.lines: dict[str, list[str]] = {}
        self.read_at: dict[str, float] = {}

    def update(self, pod: Any) -> None:
        name = pod.metadata.name
        now = float("inf") if pod.status.phase in ("Failed", "Succeeded") else time.monotonic()
        before = self.read_at.get(name, float("-inf"))
        if pod.status.phase == "Pending" or before == now or now - before < _TAIL_SECONDS:
            return
        lines = _read(self.api, self.namespace, name, tail_lines=self.num_lines)
        if lines is not None:
            self.lines[name] = [redact(line) for line in lines]
            self.read_at[name] = now


def _read(api: Api, namespace: str, pod: str, **options: Any) -> list[str] | None:
    """Lines of the log; None where a node or container has none to give: that never stops a training."""

    def read(**more: Any) -> bytes:
        # Raw: the client would take a line that looks like JSON for an object, and end at broken UTF-8.
        answer = api.core.read_namespaced_pod_log(pod, namespace, _preload_content=False, **options, **more)
        data: bytes = answer.data
        return data

    try:
        text: str = api.ask("get", "pods/log", read).decode(errors="replace")
    except (AbsentError, UnansweredError, ConfigError):  # ConfigError: a 400, the container has not started
        return None
    return text.splitlines()


def _sortable(stamp: str) -> str:
    """Nanoseconds filled up: `05.1Z` would sort after `05.12Z`."""
    seconds, _, fraction = stamp.rstrip("Z").partition(".")
    return f"{seconds}.{fraction:0<9}"
