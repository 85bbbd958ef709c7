"""A Kubernetes API whose TrainJobs run: each node is a process here, with the variables of a pod."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from megl_core.remote.node import CACHE_VARIABLE
from tests.integration.cluster.double import Double, Json, State, ended, pod
from tests.integration.conftest import free_port

HOPELESS = {2, 3, 4, 6}
"""Exit codes after which the runtime starts no nodes anew."""


class Machine(Double):
    """Use as a context manager; nodes that are still there at its end are killed."""

    def __init__(self, folder: Path, restarts: int = 0) -> None:
        super().__init__()
        self.folder = folder
        self.restarts = restarts
        self.attempt = 0
        self.nodes: list[subprocess.Popen[bytes]] = []

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        for rank in range(len(self.nodes)):
            self.kill(rank)

    def put(self, job: Json) -> None:
        super().put(job)
        self._start_nodes(job)

    def state(self) -> State:
        codes = [node.poll() for node in self.nodes]
        logs = {f"digits-node-0-0-{self.attempt}": self.log(0).splitlines()}
        if None in codes:
            pods = [self._pod(rank, code) for rank, code in enumerate(codes)]
            return State(pods=pods, logs=logs)
        pods = [self._pod(rank, code) for rank, code in enumerate(codes)]
        if not any(codes):
            return State(("Complete", "JobsCompleted", ""), pods, logs)
        if self.attempt < self.restarts and HOPELESS.isdisjoint(codes):
            self.attempt += 1
            self._start_nodes(self.created[-1])
            return State(pods=pods, logs=logs)
        return State(("Failed", "JobsFailed", "a job has failed"), pods, logs)

    def kill(self, rank: int) -> None:
        """End a node with all its processes, as the loss of its machine would."""
        node = self.nodes[rank]
        if node.poll() is None:
            for child in psutil.Process(node.pid).children(recursive=True):
                child.kill()
            node.kill()
            node.wait()

    def log(self, rank: int) -> str:
        path = self._log(rank)
        return path.read_text() if path.is_file() else ""

    def _log(self, rank: int) -> Path:
        return self.folder / f"node-{rank}-{self.attempt}.log"

    def _pod(self, rank: int, code: int | None) -> Any:
        if code is None:
            return pod(rank, "Running", attempt=self.attempt)
        one = ended(rank, code if code >= 0 else 128 - code, "Error", attempt=self.attempt)
        if code:
            state = one["status"]["containerStatuses"][0]["state"]["terminated"]
            state["message"] = self.log(rank)[-300:]
        return one

    def _start_nodes(self, job: Json) -> None:
        trainer = job["spec"]["trainer"]
        port = str(free_port())
        self.nodes = [
            start_node(
                trainer["command"],
                self._log(rank),
                PET_NNODES=str(trainer["numNodes"]),
                PET_NPROC_PER_NODE=str(trainer["numProcPerNode"]),
                PET_NODE_RANK=str(rank),
                PET_MASTER_ADDR="127.0.0.1",
                PET_MASTER_PORT=port,
                **{CACHE_VARIABLE: str(self.folder / f"cache-{rank}")},
            )
            for rank in range(trainer["numNodes"])
        ]


def start_node(command: list[str], log: Path, **environment: str) -> "subprocess.Popen[bytes]":
    assert command[0] == "python"
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, *command[1:]],
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            stdout=output,
            stderr=output,
        )
