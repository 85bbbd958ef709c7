"""A training on nodes: the order goes into the exchange, a TrainJob does it, the result comes back."""

import json
from pathlib import Path

from megl_core.cluster.launcher import run_train_job
from megl_core.config import Config, RegistryConfig, StorageConfig
from megl_core.errors import ConfigError, IntegrityError, MeglError
from megl_core.files import sha256_file, sha256_tree, write_bytes
from megl_core.progress import get_reporter
from megl_core.provenance.source import pipeline_run
from megl_core.redaction import redact
from megl_core.registry.steps import Trained
from megl_core.registry.tracking import resolve_tracking_uri, start_run
from megl_core.remote.checkpoints import CHECKPOINTS
from megl_core.remote.exchange import Exchange, open_exchange
from megl_core.remote.order import ORDER, Order, read_order, read_result, write_section


def train_on_nodes(
    order: Order, data: Path, output: Path, config: Config, workspace: Path, provenance: Path
) -> Trained:
    """Let a TrainJob do the order, or take the result of an earlier try; write model folder and statement.

    Tried again, it goes on with the job that still runs, with its MLflow run, and with its checkpoints.

    Raises:
        MeglError: the training failed; the message names rank and cause.
        IntegrityError: what came back is not what the nodes trained.
    """
    exchange = open_exchange(str(config.cluster.exchange), config.storage)
    order = order.model_copy(update={"registry": _reachable(config.registry, workspace)})
    training = exchange.below(f"trainings/{order.fingerprint}")
    if read_result(training) is None:
        exchange.put(f"data/{order.digest}", data)
        _train(exchange, training, order, config, workspace)
    else:
        get_reporter().message(f"an earlier try has trained this already: {training.address}")
    trained = _fetch(training, output, provenance)
    training.remove(CHECKPOINTS)
    return trained


def _reachable(config: RegistryConfig, workspace: Path) -> RegistryConfig:
    """The registry's section with the address that this step logs to."""
    uri = resolve_tracking_uri(config, workspace)
    if uri != redact(uri):
        raise ConfigError(
            "the address of the tracking server holds credentials, which would be stored in the exchange",
            where="MLFLOW_TRACKING_URI",
            fix="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, here and in the runtime",
        )
    return config.model_copy(update={"tracking_uri": uri})


def _train(exchange: Exchange, training: Exchange, order: Order, config: Config, workspace: Path) -> None:
    """The step opens the MLflow run, so that there is one however often nodes start anew, and ends it."""
    earlier = read_order(training)
    with start_run(
        order.registry,
        workspace,
        run_id=earlier.run_id if earlier else None,
        tags={"megl.code_digest": order.code},
        system_metrics=False,
    ) as tracker:
        if earlier is None:
            about = {"run_id": tracker.run_id, "pipeline_run": pipeline_run()}
            write_section(training, ORDER, order.model_copy(update=about))
        run_train_job(f"megl-{order.fingerprint}", _command(exchange, order, config.storage), config.cluster)


def _command(exchange: Exchange, order: Order, storage: StorageConfig) -> list[str]:
    settings = json.dumps(storage.model_dump(mode="json", exclude_defaults=True))
    return ["python", "-m", "megl_core.remote.node", exchange.address, order.fingerprint, settings]


def _fetch(training: Exchange, output: Path, provenance: Path) -> Trained:
    result = read_result(training)
    if result is None:
        raise MeglError(
            "the training job is complete and left no result",
            where=training.address,
            fix="let the pipeline and the nodes share cluster.exchange",
        )
    training.fetch("model", output)
    write_bytes(provenance, training.read("provenance.json") or b"")
    found = (sha256_tree(output), sha256_file(provenance))
    if found != (result.model_digest, result.provenance_digest):
        raise IntegrityError(
            "model or provenance are not what the nodes trained",
            where=training.address,
            fix="remove this folder and run the step again",
        )
    return Trained(output, result.model_digest, result.metrics, result.run_id)
