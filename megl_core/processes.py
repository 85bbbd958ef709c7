"""Processes that do not outlive the one that started them."""

import os
import threading
import time
from collections.abc import Callable

_POLL_SECONDS = 0.5


def when_parent_ends(act: Callable[[], None]) -> None:
    """Call `act` in a thread when the process that started this one is gone.

    `kill -9` leaves that one no time to tell, and its children in a session of their own hear of nothing.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        act()

    threading.Thread(target=watch, name="parent", daemon=True).start()
