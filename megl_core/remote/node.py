"""One node of a training: `python -m megl_core.remote.node <exchange> <fingerprint> <storage as JSON>`.

It fetches the order, the data and the newest checkpoint once for all its processes, to MEGL_CACHE (a
temporary folder without it), and lets torchrun's variables (PET_*) tell it its place among the nodes. The
first node writes the result.

The first process of a container ignores SIGTERM until it says otherwise, so that comes before anything
that takes time: this module imports no framework.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from megl_core.code import code_digest
from megl_core.config import StorageConfig, parse
from megl_core.errors import ConfigError, DataError, IntegrityError, MeglError
from megl_core.files import read_json, sha256_file
from megl_core.provenance.source import PIPELINE_RUN_VARIABLE
from megl_core.remote.checkpoints import CHECKPOINTS, fetch_newest
from megl_core.remote.exchange import Exchange, open_exchange
from megl_core.remote.order import ORDER, RESULT, Order, Result, read_tree, write_section
from megl_core.remote.torchrun import nodes_from
from megl_core.remote.worker import Assignment, cause, run_workers

CACHE_VARIABLE = "MEGL_CACHE"


def main(address: str, fingerprint: str, storage: str) -> None:
    """Train as this node; a `MeglError` ends the process with its exit code, SIGTERM with 143."""
    signal.signal(signal.SIGTERM, _leave)
    try:
        with _cache() as cache:
            code = run(
                address, fingerprint, parse(StorageConfig, json.loads(storage), where="storage"), cache
            )
    except MeglError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        code = error.exit_code
    sys.exit(code)


def run(address: str, fingerprint: str, storage: StorageConfig, cache: Path) -> int:
    """Train as this node, with files of its own in `cache`; returns the exit code of its processes.

    Raises:
        ConfigError: this node runs other code than the order is for.
        DataError: there is no order, or no data.
        IntegrityError: what was fetched is not what the order names.
        UnavailableError: the exchange does not answer.
    """
    nodes = nodes_from(os.environ)
    exchange = open_exchange(address, storage)
    training = exchange.below(f"trainings/{fingerprint}")
    order = _accept(training)
    data = _fetch_data(exchange, order.digest, cache)
    folder = cache / "trainings" / fingerprint
    shutil.rmtree(folder, ignore_errors=True)  # all nodes go on from what the exchange has
    fetch_newest(training, folder / CHECKPOINTS)
    assignment = Assignment(
        order=order,
        data=data,
        output=folder / "model",
        provenance=folder / "provenance.json",
        checkpoints=folder / CHECKPOINTS,
        workspace=cache / "workspace",
        folder=folder,
        training=training.address,
        storage=storage,
    )
    end = run_workers(assignment, nodes)
    if end.code == 0 and nodes.rank == 0:
        _deliver(training, assignment)
    if end.code not in (0, 128 + signal.SIGTERM):  # the last line of a pod is what its launcher shows
        print(f"rank {end.rank} failed: {cause(assignment, end).what}", file=sys.stderr, flush=True)
    return end.code


def _accept(training: Exchange) -> Order:
    """The order, if this node runs the code that it is for: other code may not even be able to read it."""
    where = f"{training.address}/{ORDER}"
    tree = read_tree(training, ORDER)
    if tree is None:
        raise DataError("there is no order", where=where, fix="run the pipeline's step again")
    if tree.get("code") != code_digest():
        raise ConfigError(
            f"this node runs the code {code_digest()[:12]}, the order is for {str(tree.get('code'))[:12]}",
            where=where,
            fix="let the ClusterTrainingRuntime name an image of the pipeline's own version",
        )
    order = parse(Order, tree, where=where)
    if order.pipeline_run:
        os.environ[PIPELINE_RUN_VARIABLE] = order.pipeline_run  # for the provenance of the model
    return order


def _fetch_data(exchange: Exchange, digest: str, cache: Path) -> Path:
    from megl_core.data.packed import verify

    data = cache / "data" / digest
    exchange.fetch(f"data/{digest}", data)
    found = verify(data).digest
    if found != digest:
        raise IntegrityError(
            f"the packed data have the digest {found[:12]}, not {digest[:12]}",
            where=f"{exchange.address}/data/{digest}",
            fix="pack again: megl pipeline run --no-cache",
        )
    return data


def _deliver(training: Exchange, assignment: Assignment) -> None:
    training.put("model", assignment.output)
    training.write("provenance.json", assignment.provenance.read_bytes())
    told = read_json(assignment.trained)
    result = Result(**told, provenance_digest=sha256_file(assignment.provenance))
    write_section(training, RESULT, result)


@contextlib.contextmanager
def _cache() -> Iterator[Path]:
    if named := os.environ.get(CACHE_VARIABLE):
        yield Path(named)
        return
    with tempfile.TemporaryDirectory(prefix="megl-") as folder:
        yield Path(folder)


def _leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (the interface's arguments)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main(*sys.argv[1:])
