"""A Kubernetes API in this process, for the official client: objects, pods, logs and a scripted controller.

Every GET of the TrainJob moves the script on by one `State`; the last one stays.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/megl/trainjobs"
STAMP = "2026-05-01T10:00:00.000000001Z"
Json = dict[str, Any]


@dataclass(frozen=True)
class State:
    """What the cluster shows between two looks of the launcher.

    Attributes:
        condition: type, reason and message of the TrainJob's one condition.
        logs: lines of each pod so far; a line's time has a digit more than the one before.
        before: runs when this state begins.
    """

    condition: tuple[str, str, str] | None = None
    pods: Sequence[Json] = ()
    logs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    before: Callable[[], None] | None = None


class Double:
    """Use as a context manager; `kubeconfig(folder)` writes the file that leads to it."""

    def __init__(self, *states: State) -> None:
        self.states = list(states)
        self.jobs: dict[str, Json] = {}
        self.created: list[Json] = []
        self.requests: list[tuple[str, str]] = []
        self.events: list[Json] = []
        self.workloads: list[Json] = []
        self.forbidden: set[tuple[str, str]] = set()
        self.answers: list[int] = []  # statuses given to the next requests; 0: the connection is reset
        self.reset_after_create = False
        self.away_seconds = 0.2  # from the first request that a halted server lost to its return
        self.looks_until_removed = 1
        self.step = -1
        self.lock = threading.Lock()
        self.server: ThreadingHTTPServer | None = None
        self.port = 0

    def __enter__(self) -> "Double":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.halt()

    def start(self) -> None:
        double = self

        class Handler(_Handler):
            api = double

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def halt(self) -> None:
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def kubeconfig(self, folder: Path) -> Path:
        path = folder / "kubeconfig"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "double",
            "clusters": [{"name": "double", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "double", "user": {"token": "none"}}],
            "contexts": [{"name": "double", "context": {"cluster": "double", "user": "double"}}],
        }
        path.write_text(yaml.safe_dump(content))
        return path

    def put(self, job: Json) -> None:
        """Store a job as the API server would."""
        name = job["metadata"]["name"]
        given = {"uid": f"uid-{len(self.created)}", "creationTimestamp": "2099-01-01T00:00:00Z"}
        self.created.append(job)
        self.jobs[name] = {**job, "metadata": {**job["metadata"], **given}}
        self.step = -1

    def state(self) -> State:
        return self.states[min(max(self.step, 0), len(self.states) - 1)]

    def verbs(self) -> list[str]:
        return [verb for verb, path in self.requests if path.startswith(JOBS)]


class _Handler(BaseHTTPRequestHandler):
    api: Double
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        with self.api.lock:
            self.api.requests.append((self.command, self.path))
            if self.api.server is None:
                self.close_connection = True
                threading.Timer(self.api.away_seconds, self.api.start).start()
                return
            if self.api.answers and (status := self.api.answers.pop(0)) != 200:
                self.refuse(status, "the test says so")
                return
            self.route(urlsplit(self.path).path, parse_qs(urlsplit(self.path).query), body)

    do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815 (the interface's names)

    def route(self, path: str, query: dict[str, list[str]], body: Any) -> None:
        api, name = self.api, path.removeprefix(JOBS).strip("/")
        resource = "trainjobs" if path.startswith(JOBS) else path.rpartition("/")[2]
        verb = {"POST": "create", "DELETE": "delete", "PATCH": "patch"}.get(self.command, "get")
        if (verb, resource) in api.forbidden:
            self.refuse(403, f'{resource} is forbidden: User "robot" cannot {verb} resource "{resource}"')
        elif resource == "selfsubjectaccessreviews":
            asked = body["spec"]["resourceAttributes"]
            kind = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
            self.reply({**body, "status": {"allowed": (asked["verb"], kind) not in api.forbidden}}, 201)
        elif resource == "trainjobs":
            getattr(self, verb)(name, body)
        elif resource == "log":
            self.log(path.split("/")[-2], query)
        elif resource == "pods":
            self.reply({"kind": "PodList", "items": list(api.state().pods) if api.jobs else []})
        elif resource == "events":
            self.reply({"kind": "EventList", "items": api.events})
        elif resource == "workloads":
            self.reply({"kind": "WorkloadList", "items": api.workloads})
        else:
            self.refuse(404, "the server could not find the requested resource")

    def create(self, name: str, body: Any) -> None:
        if body["metadata"]["name"] in self.api.jobs:
            self.refuse(409, "already exists")
            return
        self.api.put(body)
        if self.api.reset_after_create:
            self.api.reset_after_create = False
            self.refuse(0, "")
            return
        self.reply(self.api.jobs[body["metadata"]["name"]], 201)

    def get(self, name: str, body: Any) -> None:
        job = self.api.jobs.get(name)
        if job and "deletionTimestamp" in job["metadata"]:
            self.api.looks_until_removed -= 1
            if self.api.looks_until_removed <= 0:
                del self.api.jobs[name]
        elif job:
            self.api.step += 1
            state = self.api.state()
            if state.before and self.api.step < len(self.api.states):
                state.before()
            if state.condition:
                kind, reason, message = state.condition
                one = {"type": kind, "status": "True", "reason": reason, "message": message}
                job["status"] = {"conditions": [one]}
            else:
                job.pop("status", None)
        if job and name in self.api.jobs:
            self.reply(job)
        else:
            self.refuse(404, f"trainjobs {name} not found")

    def patch(self, name: str, body: Any) -> None:
        if self.headers["Content-Type"] != "application/merge-patch+json":
            self.refuse(415, "custom resources know no strategic merge")
            return
        self.api.jobs[name]["metadata"] |= body["metadata"]
        self.reply(self.api.jobs[name])

    def delete(self, name: str, body: Any) -> None:
        job = self.api.jobs.get(name)
        if job is None:
            self.refuse(404, "not found")
        elif body["preconditions"]["uid"] != job["metadata"]["uid"]:
            self.refuse(409, "the UID in the precondition does not match")
        else:
            assert body["propagationPolicy"] == "Foreground"
            job["metadata"] |= {"deletionTimestamp": STAMP, "finalizers": ["foregroundDeletion"]}
            self.reply(job)

    def log(self, pod: str, query: dict[str, list[str]]) -> None:
        lines = list(self.api.state().logs.get(pod, ()))
        if "timestamps" in query:
            lines = [f"2026-05-01T10:00:00.1{'2' * number}Z {line}" for number, line in enumerate(lines)]
        tail = int(query.get("tailLines", ["1000"])[0])
        self.send(
            "".join(f"{line}\n" for line in lines[-tail:]).encode(errors="surrogateescape"), "text/plain", 200
        )

    def reply(self, answer: Json, status: int = 200) -> None:
        self.send(json.dumps(answer).encode(), "application/json", status)

    def refuse(self, status: int, message: str) -> None:
        if status == 0:
            self.close_connection = True
            return
        self.reply({"kind": "Status", "message": message, "code": status}, status)

    def send(self, content: bytes, kind: str, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the interface's name)
        pass


def pod(rank: int, phase: str, *, attempt: int = 0, **status: Any) -> Json:
    """A pod of the job `digits` as JobSet labels it."""
    labels = {
        "jobset.sigs.k8s.io/jobset-name": "digits",
        "jobset.sigs.k8s.io/replicatedjob-name": "node",
        "jobset.sigs.k8s.io/restart-attempt": str(attempt),
        "batch.kubernetes.io/job-completion-index": str(rank),
    }
    name = f"digits-node-0-{rank}-{attempt}"
    return {"metadata": {"name": name, "labels": labels}, "status": {"phase": phase, **status}}


def ended(rank: int, exit_code: int, reason: str, *, second: int = 0, attempt: int = 0) -> Json:
    """A pod whose container ended; `second`: when, after ten o'clock."""
    end = {"exitCode": exit_code, "reason": reason, "finishedAt": f"2026-05-01T10:00:{second:02}Z"}
    return pod(
        rank,
        "Failed" if exit_code else "Succeeded",
        attempt=attempt,
        containerStatuses=[container({"terminated": end})],
    )


def image_error(rank: int, reason: str, message: str) -> Json:
    waits = {"waiting": {"reason": reason, "message": message}}
    return pod(rank, "Pending", containerStatuses=[container(waits)])


def unschedulable(rank: int, message: str) -> Json:
    one = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod(rank, "Pending", conditions=[one])


def container(state: Json) -> Json:
    return {
        "name": "node",
        "image": "registry/megl:1",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": state,
    }
