"""A process of a training, under torchrun: `python -m megl_core.remote.worker <assignment.json>`."""

import os
import sys
from pathlib import Path

from megl_core.config import Section, StorageConfig, parse
from megl_core.errors import MeglError
from megl_core.files import read_json, write_json
from megl_core.remote.checkpoints import CheckpointCopies
from megl_core.remote.exchange import open_exchange
from megl_core.remote.order import Order
from megl_core.remote.torchrun import End, Nodes, run_processes


class Assignment(Section):
    """An order, and where on this machine its data lie and its results go."""

    order: Order
    data: Path
    output: Path
    """The model folder."""
    provenance: Path
    checkpoints: Path
    workspace: Path
    """For the local tracking store, or for what a tracking server could not be told."""
    folder: Path
    """For what the processes tell whoever started them."""
    training: str | None = None
    """Address of the training in the exchange, for copies of the checkpoints. None: no copies."""
    storage: StorageConfig = StorageConfig()

    @property
    def trained(self) -> Path:
        """The file in which the main process says what came of it: model_digest, metrics, run_id."""
        return self.folder / "trained.json"

    def failed(self, rank: int) -> Path:
        """The file in which a process says why it failed: what, where, fix."""
        return self.folder / f"failed-{rank}.json"


def run_workers(assignment: Assignment, nodes: Nodes) -> End:
    """Train in this machine's processes, and wait for their end."""
    file = assignment.folder / "assignment.json"
    write_json(file, assignment.model_dump(mode="json"))
    return run_processes(["-m", __name__, str(file)], nodes)


def cause(assignment: Assignment, end: End) -> MeglError:
    """What the first process that failed said of it, or at least how it ended."""
    if assignment.failed(end.rank).is_file():
        return MeglError(**read_json(assignment.failed(end.rank)))
    return MeglError(
        f"rank {end.rank} of the training ended with exit code {end.code}", fix="see its last lines above"
    )


def main(file: Path) -> None:
    """Do the assignment in this file; a `MeglError` ends the process with its exit code."""
    assignment = parse(Assignment, read_json(file), where=str(file))
    try:
        work(assignment)
    except MeglError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        told = {"what": error.what, "where": error.where, "fix": error.fix}
        write_json(assignment.failed(int(os.environ.get("RANK", "0"))), told)
        sys.exit(error.exit_code)


def work(assignment: Assignment) -> None:
    """Train as one of the processes; the main process writes what came of it."""
    from megl_core.registry.steps import train_tracked

    order = assignment.order
    saved = None
    if assignment.training is not None:
        training = open_exchange(assignment.training, assignment.storage)
        saved = CheckpointCopies(training, order.train.keep_checkpoints).save
    result = train_tracked(
        assignment.data,
        assignment.output,
        order.settings,
        assignment.workspace,
        digest=order.digest,
        code=order.code,
        dvc=order.dvc,
        checkpoints=assignment.checkpoints,
        provenance=assignment.provenance,
        run_id=order.run_id,
        saved=saved,
    )
    if result is not None:
        told = {"model_digest": result.model_digest, "metrics": result.metrics, "run_id": result.run_id}
        write_json(assignment.trained, told)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
