"""An S3 store, as moto serves it, behind a proxy that fails as networks and stores do."""

import http.client
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from megl_core.config import StorageConfig
from megl_core.storage.s3 import open_client

SECRET = "not-to-be-shown"


@dataclass
class Proxy:
    """Forwards to a store; `faults` are used up by the requests whose line holds `on`."""

    store: tuple[str, int]
    url: str = ""
    on: str = "GET"
    faults: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, on: str, *faults: str) -> None:
        self.on, self.faults = on, list(faults)
        self.requests.clear()
        self.ranges.clear()

    def next_fault(self, line: str, byte_range: str | None) -> str:
        with self.lock:
            self.requests.append(line)
            if byte_range:
                self.ranges.append(byte_range)
            return self.faults.pop(0) if self.on in line and self.faults else ""


def handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = proxy.next_fault(f"{self.command} {self.path}", self.headers.get("Range"))
            if fault == "503":
                self.reply(503, {}, b"<Error><Code>SlowDown</Code><Message>no</Message></Error>")
                return
            if fault == "whole":
                del self.headers["Range"]
            upstream = http.client.HTTPConnection(*proxy.store)
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            content = answer.read()
            headers = {name: value for name, value in answer.getheaders() if name.lower() in KEPT}
            if fault == "wrong bytes":
                content = bytes(len(content))
            if fault == "empty":
                content, headers = b"", {name: headers[name] for name in headers if name != "Content-Length"}
            self.reply(answer.status, headers, content, fault)
            upstream.close()

        def reply(self, status: int, headers: dict[str, str], content: bytes, fault: str = "") -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if fault not in ("reset", "truncated", "stall"):
                self.wfile.write(content)
                return
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            if fault == "stall":
                threading.Event().wait(2)
            if fault == "reset":
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 (http.server's names)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


KEPT = {"content-length", "content-type", "etag", "content-range", "last-modified", "accept-ranges"}


@contextmanager
def faulty_store() -> Iterator[Proxy]:
    """A proxy in front of a store with the bucket `datasets`."""
    from moto.server import ThreadedMotoServer

    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    upstream = http.client.HTTPConnection(*store.get_host_and_port())
    upstream.request("POST", "/moto-api/reset")  # moto keeps its buckets for the whole process
    assert upstream.getresponse().status == 200
    upstream.close()
    proxy = Proxy(store.get_host_and_port())
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(proxy))
    server.daemon_threads = True
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    open_client(settings(proxy)).create_bucket(Bucket="datasets")
    yield proxy
    server.shutdown()
    server.server_close()
    store.stop()


def settings(proxy: Proxy, **changes: Any) -> StorageConfig:
    plain = {
        "endpoint_url": proxy.url,
        "addressing_style": "path",
        "read_timeout": 1,
        "retries": 2,
        "threads": 2,
    }
    return StorageConfig.model_validate(plain | changes)
