"""Several processes on this machine, alone or as one of the nodes that torchrun's variables describe."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megl_core.errors import ConfigError

_SHUTDOWN_SECONDS = 100
"""From SIGTERM to SIGKILL for the processes: time for a checkpoint, and less than a pod has."""


@dataclass(frozen=True)
class Nodes:
    """How many machines train, which of them this one is, and where they meet (`host:port` of the first).

    Attributes:
        processes: on each of them.
    """

    processes: int = 1
    number: int = 1
    rank: int = 0
    address: str = ""


@dataclass(frozen=True)
class End:
    """How processes ended.

    Attributes:
        code: exit code of the first that failed, 128 + its number for a signal; 0: all ended well.
        rank: of that process.
    """

    code: int
    rank: int = 0


def nodes_from(environment: Mapping[str, str]) -> Nodes:
    """What PET_NNODES, PET_NPROC_PER_NODE, PET_NODE_RANK, PET_MASTER_ADDR and PET_MASTER_PORT say.

    Raises:
        ConfigError: a number is none, or the meeting point of several nodes is missing.
    """
    try:
        number, processes, rank = (
            int(environment.get(name, default))
            for name, default in (("PET_NNODES", "1"), ("PET_NPROC_PER_NODE", "1"), ("PET_NODE_RANK", "0"))
        )
        if number == 1:
            return Nodes(processes)
        address = f"{environment['PET_MASTER_ADDR']}:{int(environment['PET_MASTER_PORT'])}"
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"the nodes cannot find each other: {type(error).__name__}: {error}",
            where="PET_* in the environment",
            fix="let a TrainJob with a torch policy start the nodes",
        ) from None
    return Nodes(processes, number, rank, address)


def run_processes(command: Sequence[str], nodes: Nodes) -> End:
    """Run `python <command>` in this machine's processes, and wait until all have ended.

    When one fails, or a signal asks for an end, the others get SIGTERM. torchrun's own program would turn
    every failure into exit code 1 and a traceback.
    """
    import uuid

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    alone = nodes.number == 1
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    config = LaunchConfig(
        min_nodes=nodes.number,
        max_nodes=nodes.number,
        nproc_per_node=nodes.processes,
        run_id=uuid.uuid4().hex if alone else "megl",
        rdzv_backend="c10d" if alone else "static",
        rdzv_endpoint="localhost:0" if alone else nodes.address,
        rdzv_configs={} if alone else {"rank": nodes.rank},
        max_restarts=0,
        shutdown_timeout=_SHUTDOWN_SECONDS,
    )
    try:
        elastic_launch(config, sys.executable)(*command)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        return End(code, rank)
    except SignalException as stopped:  # its processes were stopped with it
        return End(128 + int(stopped.sigval))
    return End(0)
