"""Sends what a run has for MLflow, so that a server that is gone, slow or stuck holds up no training.

A server that is stopped in the middle neither answers nor refuses: MLflow waits for it for minutes, and with
several processes the others would give up on the one that logs. So a thread sends, and whoever hands
something over goes on at once. What cannot be sent is kept in the outbox.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from megl_core.errors import MeglError
from megl_core.progress import get_reporter
from megl_core.redaction import redact
from megl_core.registry.connection import describe, is_mlflow_failure
from megl_core.registry.outbox import CHANNELS, Item, Outbox

if TYPE_CHECKING:
    from mlflow import MlflowClient

_END_SECONDS = 15.0  # that the end of a run waits for a server
_PAUSE = 60.0  # seconds without a try after a failure
_MAX_QUEUED = 8  # items in memory


class Sender:
    """Sends items to one MLflow run, or keeps them. Never raises for the sake of MLflow or the disk.

    Use from one thread, and `close` in the end.
    """

    def __init__(self, client: "MlflowClient", run_id: str, uri: str, outbox: Outbox) -> None:
        self._client = client
        self._run_id = run_id
        self._uri = uri
        self._outbox = outbox
        self._down_until: dict[tuple[str, ...], float] = {}  # of each channel
        self._warned = False
        self._queue: deque[Item] = deque()  # the first is on its way
        self._changed = threading.Condition()
        self._is_open = True
        threading.Thread(target=self._send_queued, name="mlflow", daemon=True).start()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on its way."""
        return not self._queue

    def send(self, item: Item) -> None:
        """Send an item, or keep it."""
        if not self._try(item):
            self._keep(item)

    def put(self, item: Item) -> None:
        """Let the thread send an item."""
        with self._changed:
            self._queue.append(item)
            if len(self._queue) > _MAX_QUEUED:
                self._keep_queued()
            self._changed.notify_all()

    def close(self, last: Item) -> None:
        """Send what is left and then the last item; keep what the server does not take in time."""
        self._down_until.clear()
        self.put(last)
        try:
            with self._changed:
                self._changed.wait_for(lambda: self.is_idle, _END_SECONDS)
        finally:
            with self._changed:
                self._keep_queued()
                self._is_open = False
                self._changed.notify_all()
        for channel in CHANNELS:
            if channel != last.channel and self._is_up(channel):
                with self._lenient():
                    self._outbox.flush(self._client, self._run_id, channel)
        if self._outbox.waiting(self._run_id):
            get_reporter().message(
                f"what run {self._run_id} could not send waits in {self._outbox.folder}: megl train sync"
            )

    def _send_queued(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or not self._is_open)
                if not self._queue:
                    return
                item = self._queue[0]
            is_sent = self._try(item)
            with self._changed:
                if self._queue and self._queue[0] is item:  # else it was kept meanwhile
                    if not is_sent:
                        self._keep(item)
                    self._queue.popleft()
                    self._changed.notify_all()

    def _try(self, item: Item) -> bool:
        """Send an item after those that wait for the same channel."""
        if not self._is_up(item.channel):
            return False
        is_sent = False
        with self._lenient():
            self._outbox.flush(self._client, self._run_id, item.channel)
            item.send(self._client, self._run_id)
            is_sent = True
        if not is_sent:
            self._down_until[item.channel] = time.monotonic() + _PAUSE
        return is_sent

    def _keep_queued(self) -> None:
        """Also what is on its way, of which nobody knows whether it arrives: twice is as well as once."""
        while self._queue:
            self._keep(self._queue.popleft())

    def _keep(self, item: Item) -> None:
        with self._lenient():
            self._outbox.put(self._run_id, item, self._uri)

    def _is_up(self, channel: tuple[str, ...]) -> bool:
        return time.monotonic() >= self._down_until.get(channel, 0.0)

    @contextlib.contextmanager
    def _lenient(self) -> Iterator[None]:
        """A failure of MLflow, even of its network or of the disk, becomes one warning for each run."""
        try:
            yield
        except Exception as error:
            if not (is_mlflow_failure(error) or isinstance(error, OSError | MeglError)):
                raise
            if not self._warned:
                get_reporter().message(
                    f"MLflow at {redact(self._uri)}: {describe(error)}; what it did not get is sent later"
                )
            self._warned = True
