"""The train step, wherever it trains: in this process, in several on this machine, or on nodes."""

import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megl_core.code import code_digest
from megl_core.config import Config
from megl_core.errors import MeglError
from megl_core.files import read_json
from megl_core.registry.steps import Trained, train_tracked
from megl_core.remote.job import train_on_nodes
from megl_core.remote.order import Order
from megl_core.remote.torchrun import Nodes
from megl_core.remote.worker import Assignment, cause, run_workers


def train_anywhere(
    data: Path,
    output: Path,
    config: Config,
    workspace: Path,
    *,
    digest: str,
    provenance: Path,
    code: str = "",
    dvc: Mapping[str, Any] | None = None,
) -> Trained:
    """Train where `config.cluster` says, and log the run to MLflow.

    Args:
        digest: of the packed data.
        provenance: the file for the statement of what the model was made of.
        code: "": that of this process.

    Raises:
        MeglError: the training failed; the message names the cause.
        IntegrityError: data or model are not those with their digests.
        SystemExit: a signal asked for an end.
    """
    order = Order(
        model=config.model,
        objective=config.objective,
        train=config.train,
        registry=config.registry,
        digest=digest,
        code=code or code_digest(),
        dvc=dict(dvc) if dvc else None,
    )
    if config.cluster.exchange is not None:
        return train_on_nodes(order, data, output, config, workspace, provenance)
    checkpoints = workspace / "checkpoints"
    processes = config.cluster.processes_per_node or 1
    if processes > 1:
        with tempfile.TemporaryDirectory(prefix="megl-") as folder:
            assignment = Assignment(
                order=order,
                data=data,
                output=output,
                provenance=provenance,
                checkpoints=checkpoints,
                workspace=workspace,
                folder=Path(folder),
            )
            return _train_in_processes(assignment, processes)
    result = train_tracked(
        data,
        output,
        config,
        workspace,
        digest=digest,
        code=order.code,
        dvc=dvc,
        checkpoints=checkpoints,
        provenance=provenance,
    )
    if result is None:
        raise MeglError(
            "this process is one of several already (WORLD_SIZE is set)",
            fix="let cluster.processes_per_node start them",
        )
    return result


def _train_in_processes(assignment: Assignment, processes: int) -> Trained:
    end = run_workers(assignment, Nodes(processes))
    if end.code == 128 + signal.SIGTERM:
        raise SystemExit(end.code)
    if end.code != 0:
        raise cause(assignment, end)
    return Trained(assignment.output, **read_json(assignment.trained))
