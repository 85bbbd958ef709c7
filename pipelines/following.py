"""Follows a run on a server: a line for each change of a step, and at the end why it failed."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from megl_core.errors import MeglError
from pipelines.client import Server
from pipelines.pods import RUN_LABEL, read_log

POLL_SECONDS = 5.0
LOG_LINES = 30
SINGLE_USER_NAMESPACE = "kubeflow"
"""Where a server for one user runs the pods."""
_ENDED = {"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"}
_WORDS = {
    "PENDING": "waits",
    "RUNNING": "runs",
    "SUCCEEDED": "done",
    "SKIPPED": "skipped",
    "CACHED": "reused",
    "FAILED": "failed",
    "CANCELING": "is being canceled",
    "CANCELED": "canceled",
    "PAUSED": "paused",
}


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        state: as the server says it: SUCCEEDED, FAILED, SKIPPED or CANCELED.
        steps: the last state of each step, in the order in which they were first seen.
        error: the server's words about the failure.
        log: last lines of the failed steps' logs, by step.
    """

    state: str
    steps: dict[str, str]
    error: str = ""
    log: dict[str, list[str]] = field(default_factory=dict)

    @property
    def succeeded(self) -> bool:
        return self.state in ("SUCCEEDED", "SKIPPED")


def follow(
    server: Server, run_id: str, tell: Callable[[str], None], poll_seconds: float = POLL_SECONDS
) -> Outcome:
    """Tell each change of a step, and what running steps write, until the run has ended.

    Logs come from the server's user interface or from Kubernetes; without both there are none on the way.

    Raises:
        MeglError: the server was away for longer than its patience, or forgot the run.
    """
    steps: dict[str, str] = {}
    num_told: dict[str, int] = {}  # lines of each pod's log
    while True:
        run = server.read("look at the run", server.runs.run_service_get_run, run_id)
        tasks = list(_tasks(run))
        for task in tasks:
            name, state = task.display_name, str(task.state)
            if steps.get(name) != state and state in _WORDS:
                steps[name] = state
                _tell_log(server, run_id, task, num_told, tell)
                tell(f"{_clock(task, state)}  {name}: {_WORDS[state]}")
            elif state == "RUNNING":
                _tell_log(server, run_id, task, num_told, tell)
        if run.state in _ENDED:
            return _outcome(server, run, tasks, steps)
        time.sleep(poll_seconds)


def failure(server: Server, run_id: str, outcome: Outcome) -> MeglError:
    """The error of a run that did not succeed."""
    failed = [name for name, state in outcome.steps.items() if state == "FAILED"]
    step = f" in {', '.join(failed)}" if failed else ""
    words = (
        f"the run {_WORDS[outcome.state]}{step}" if outcome.state != "CANCELED" else "the run was canceled"
    )
    told = "".join(
        f"\n  last lines of {name}:" + "".join(f"\n    {line}" for line in lines)
        for name, lines in outcome.log.items()
    )
    reason = f": {outcome.error}" if outcome.error else ""
    return MeglError(f"{words}{reason}{told}", where=server.page(run_id))


def _tasks(run: Any) -> Iterator[Any]:
    """The tasks that stand for steps: not the run itself, nor the drivers and executors within a step."""
    details = run.run_details
    for task in (details and details.task_details) or []:
        name = task.display_name or ""
        if name and name not in ("root", "executor") and not name.endswith("-driver"):
            yield task


def _tell_log(
    server: Server, run_id: str, task: Any, num_told: dict[str, int], tell: Callable[[str], None]
) -> None:
    """Tell the lines of a step's log that were not yet told."""
    try:
        pod, lines = _log(server, run_id, task)
    except MeglError:
        return
    for line in lines[num_told.get(pod, 0) :]:
        tell(f"          {task.display_name} | {line}")
    num_told[pod] = len(lines)


def _log(server: Server, run_id: str, task: Any) -> tuple[str, list[str]]:
    """A step's pod and the lines of its log, from the server or from Kubernetes.

    Raises:
        MeglError: neither has one.
    """
    why = MeglError("the server names no pod")
    # Servers name the pod with the task, or with the executor below it.
    for pod in filter(None, [task.pod_name, *(child.pod_name for child in task.child_tasks or [])]):
        try:
            return pod, server.log(run_id, pod).splitlines()
        except MeglError as error:
            why = error
    found = read_log(_namespace(server), run_id, task.display_name)
    if found is None:
        raise why
    pod, lines = found
    return pod, [server.clean(line) for line in lines]


def _namespace(server: Server) -> str:
    return server.namespace or SINGLE_USER_NAMESPACE


def _clock(task: Any, state: str) -> str:
    """When the state began, in this machine's time."""
    moment = task.end_time if state in _ENDED else task.start_time
    if moment is None or moment.year < 2000:  # the server's zero
        moment = datetime.now(UTC)
    return f"{moment.astimezone():%H:%M:%S}"


def _outcome(server: Server, run: Any, tasks: list[Any], steps: dict[str, str]) -> Outcome:
    outcome = Outcome(str(run.state), steps, server.clean(run.error.message or "") if run.error else "")
    if outcome.succeeded:
        return outcome
    for task in tasks:
        if task.state == "FAILED":
            outcome.log[task.display_name] = _last_lines(server, run.run_id, task)
            if task.error and task.error.message and not outcome.error:
                outcome.error = server.clean(task.error.message)
    return outcome


def _last_lines(server: Server, run_id: str, task: Any) -> list[str]:
    """The end of a step's log, or why there is none and how to see it."""
    try:
        return _log(server, run_id, task)[1][-LOG_LINES:]
    except MeglError as error:
        command = f"kubectl --namespace {_namespace(server)} logs --selector {RUN_LABEL}={run_id}"
        return [f"(no log from here: {error.what})", f"{command} --container main"]
