"""A Kubeflow Pipelines API server (v2beta1) in this process, for the generated client over HTTP."""

import email
import email.policy
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Json = dict[str, Any]
ROOT = "/apis/v2beta1/"


def task(name: str, state: str, pod: str = "", error: str = "") -> Json:
    """A step as the server shows it: its pod stands with its child, the executor."""
    return {
        "display_name": name,
        "task_id": f"task-{name}",
        "state": state,
        "start_time": "2026-11-24T10:00:00Z",
        "end_time": "2026-11-24T10:01:00Z" if state in ("SUCCEEDED", "FAILED") else "1970-01-01T00:00:00Z",
        "child_tasks": [{"pod_name": pod}] if pod else [],
        **({"error": {"code": 2, "message": error}} if error else {}),
    }


class Double:
    """Use as a context manager. Each look at a run shows the next of `script`; the last one stays."""

    def __init__(self, *script: Json, token: str = "") -> None:
        self.script = list(script)
        self.token = token
        self.answers: list[int] = []  # statuses given to the next requests; 0: the connection is reset
        self.requests: list[tuple[str, str]] = []
        self.authorizations: list[str] = []
        self.items: dict[str, list[Json]] = {
            name: [] for name in ("pipelines", "versions", "experiments", "runs", "recurringruns")
        }
        self.packages: list[bytes] = []
        self.logs: dict[str, str] = {}
        self.looks = 0

    def __enter__(self) -> "Double":
        double = self

        class Handler(_Handler):
            api = double

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def writes(self) -> list[str]:
        return [path for verb, path in self.requests if verb != "GET"]


class _Handler(BaseHTTPRequestHandler):
    api: Double
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        self.api.requests.append((self.command, parts.path))
        self.api.authorizations.append(self.headers.get("Authorization", ""))
        if self.api.answers and (status := self.api.answers.pop(0)) != 200:
            if status == 0:
                self.close_connection = True
                return
            self.refuse(status, f"the test says so to {self.headers.get('Authorization')}")
        elif self.api.token and self.headers.get("Authorization") != f"Bearer {self.api.token}":
            self.refuse(401, "Request header error: there is no user identity header.")
        elif parts.path == "/k8s/pod/logs":
            pod = parse_qs(parts.query)["podname"][0]
            if pod in self.api.logs:
                self.send(200, self.api.logs[pod].encode())
            else:
                self.refuse(404, "pod not found")
        else:
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            self.route(unquote(parts.path.removeprefix(ROOT)), query, body)

    do_GET = do_POST = do_DELETE = handle_any  # noqa: N815 (the interface's names)

    def route(self, path: str, query: dict[str, str], body: bytes) -> None:
        kind, _, rest = path.partition("/")
        if path == "pipelines/upload_version":
            self.upload(query, body)
        elif kind == "pipelines" and rest.endswith("/versions"):
            owner = rest.partition("/")[0]
            self.listed("pipeline_versions", [v for v in self.items("versions") if v["pipeline_id"] == owner])
        elif self.command == "POST" and not rest:
            self.create(kind, json.loads(body))
        elif not rest:
            self.listed("recurringRuns" if kind == "recurringruns" else kind, self.filtered(kind, query))
        else:
            self.one(kind, *rest.partition(":")[::2])

    def items(self, kind: str) -> list[Json]:
        return self.api.items[kind]

    def filtered(self, kind: str, query: dict[str, str]) -> list[Json]:
        found = self.items(kind)
        for predicate in json.loads(query.get("filter", "{}")).get("predicates", []):
            assert predicate["operation"] == "EQUALS"
            found = [one for one in found if one[predicate["key"]] == predicate["string_value"]]
        return found

    def create(self, kind: str, body: Json) -> None:
        if kind == "pipelines" and any(
            one["display_name"] == body["display_name"] for one in self.items(kind)
        ):
            self.refuse(409, "Already exist error")
            return
        key = {"recurringruns": "recurring_run_id"}.get(kind, f"{kind[:-1]}_id")
        made = body | {key: f"{kind[:-1]}-{len(self.items(kind))}", "created_at": "2026-11-24T10:00:00Z"}
        if kind == "recurringruns":
            made |= {"status": "ENABLED"}
        self.items(kind).append(made)
        self.reply(made)

    def upload(self, query: dict[str, str], body: bytes) -> None:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        (part,) = email.message_from_bytes(head + body, policy=email.policy.HTTP).iter_parts()
        assert part.get_param("name", header="content-disposition") == "uploadfile"
        self.api.packages.append(part.get_payload(decode=True))
        if any(one["name"] == query["name"] for one in self.items("versions")):
            self.refuse(409, "Already exist error: the name must be unique")
            return
        made = {
            "pipeline_id": query["pipelineid"],
            "pipeline_version_id": f"version-{len(self.items('versions'))}",
            "name": query["name"],
            "display_name": query["display_name"],
        }
        self.items("versions").append(made)
        self.reply(made)

    def one(self, kind: str, name: str, verb: str) -> None:
        key = {"recurringruns": "recurring_run_id"}.get(kind, f"{kind[:-1]}_id")
        found = next((one for one in self.items(kind) if one[key] == name), None)
        if found is None:
            self.refuse(404, f"{name} not found")
        elif self.command == "DELETE":
            self.items(kind).remove(found)
            self.reply({})
        elif verb:
            found["status"] = {"enable": "ENABLED", "disable": "DISABLED"}[verb]
            self.reply({})
        elif kind == "runs":
            shown = self.api.script[min(self.api.looks, len(self.api.script) - 1)]
            self.api.looks += 1
            self.reply(found | shown)
        else:
            self.reply(found)

    def listed(self, field: str, items: list[Json]) -> None:
        self.reply({field: items, "total_size": len(items)} if items else {})

    def refuse(self, status: int, message: str) -> None:
        self.send(status, json.dumps({"error": message, "code": 2, "message": message}).encode())

    def reply(self, value: Json) -> None:
        self.send(200, json.dumps(value).encode())

    def send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the interface's name)
        pass
