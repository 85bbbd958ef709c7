"""Trainings on nodes: the step, the API, torchrun and the exchange are real, the nodes are processes here."""

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from megl_core.config import (
    BackboneConfig,
    ClusterConfig,
    Config,
    DecoderConfig,
    ModelConfig,
    RegistryConfig,
    StorageConfig,
    TrainConfig,
)
from megl_core.data.packed import read_info
from megl_core.errors import DataError, IntegrityError, MeglError
from megl_core.files import read_json, write_json
from megl_core.provenance.statement import check_subjects
from megl_core.registry.steps import Trained
from megl_core.remote.exchange import Exchange, open_exchange
from megl_core.remote.launch import train_anywhere
from megl_core.training import train
from tests.integration.machine import Machine, start_node

pytestmark = [pytest.mark.slow, pytest.mark.service]

# Without dropout, which is drawn by each process for itself: the number of processes changes nothing.
MODEL = ModelConfig(
    image_size=24,
    backbone=BackboneConfig(widths=[8, 16], depths=[1, 1]),
    decoder=DecoderConfig(width=16, dropout=0.0),
)
DISK = StorageConfig()  # of an exchange that is a folder
TRAIN = TrainConfig(epochs=4, batch_size=16, checkpoint_seconds=0)
STEPS = 12


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tracking store that the nodes reach too."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db"


@dataclass
class Step:
    """The train step of a pipeline, with its settings."""

    packed: Path
    folder: Path
    store: str
    train: TrainConfig = TRAIN
    storage: StorageConfig = DISK

    def run(self, output: str = "model", **cluster: object) -> Trained:
        config = Config(
            model=MODEL,
            train=self.train,
            registry=RegistryConfig(tracking_uri=self.store),
            cluster=ClusterConfig(**{"gpus_per_node": 0, "poll_seconds": 0.2, **cluster}),
            storage=self.storage,
        )
        return train_anywhere(
            self.packed,
            self.folder / output,
            config,
            self.folder / "workspace",
            digest=read_info(self.packed).digest,
            provenance=self.folder / f"{output}.provenance.json",
        )


@dataclass(frozen=True)
class Finished:
    """A training on two nodes that nobody disturbed."""

    step: Step
    trained: Trained
    exchange: Path
    job: dict[str, object]


@pytest.fixture(scope="module")
def finished(packed: Path, store: str, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    exchange = folder / "exchange"
    with pytest.MonkeyPatch.context() as patch, Machine(folder) as machine:
        patch.setenv("KUBECONFIG", str(machine.kubeconfig(folder)))
        patch.setenv("MEGL_PIPELINE_RUN", "run-of-the-pipeline")
        step = Step(packed, folder, store)
        trained = step.run(exchange=str(exchange), num_nodes=2)
        assert machine.jobs == {}
        return Finished(step, trained, exchange, machine.created[0])


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Runs jobs; its nodes are started anew twice."""
    with Machine(tmp_path, restarts=2) as one:
        monkeypatch.setenv("KUBECONFIG", str(one.kubeconfig(tmp_path)))
        yield one


def training_in(exchange: Exchange) -> Exchange:
    (name,) = exchange.folders("trainings")
    return exchange.below(f"trainings/{name}")


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def copied(exchange: Exchange) -> int:
    """The step of the newest checkpoint in the exchange, complete or not; 0 where there is none."""
    steps = [
        int(name.removeprefix("step-"))
        for training in exchange.folders("trainings")
        for run in exchange.folders(f"trainings/{training}/checkpoints")
        for name in exchange.folders(f"trainings/{training}/checkpoints/{run}")
    ]
    return max(steps, default=0)


# --- a training on two nodes ------------------------------------------------------------------


def test_two_nodes_train_what_one_process_trains(finished: Finished, packed: Path, tmp_path: Path) -> None:
    train(packed, tmp_path / "alone", MODEL, Config().objective, TRAIN)
    report = read_json(finished.trained.model / "training.json")
    assert report["processes"] == 2
    alone = read_json(tmp_path / "alone" / "training.json")["history"]
    for row, expected in zip(report["history"], alone, strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], abs=1e-4 * STEPS)


def test_the_run_is_in_mlflow_once_and_whole(finished: Finished, store: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(store)
    run = client.get_run(finished.trained.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.epochs"] == "4"
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 4
    assert run.data.tags["megl.model_digest"] == finished.trained.model_digest


def test_the_statement_names_model_and_pipeline(finished: Finished) -> None:
    statement = read_json(finished.step.folder / "model.provenance.json")
    check_subjects(statement, finished.trained.model, "the trained model")
    definition = statement["predicate"]["buildDefinition"]
    assert definition["internalParameters"] == {"processes": 2}
    assert "run-of-the-pipeline" in json.dumps(statement)


def test_order_and_job_hold_no_secrets_and_checkpoints_are_gone(finished: Finished) -> None:
    training = training_in(open_exchange(str(finished.exchange), DISK))
    assert training.folders("checkpoints") == []
    order = json.loads(training.read("order.json") or b"")
    assert set(order) == {
        *("model", "objective", "train", "registry", "digest", "code", "dvc", "run_id", "pipeline_run")
    }
    trainer = finished.job["spec"]["trainer"]  # type: ignore[index]
    assert trainer["command"][:3] == ["python", "-m", "megl_core.remote.node"]
    assert "env" not in trainer or trainer["env"] == []


def test_a_finished_training_is_fetched_and_not_repeated(finished: Finished, machine: Machine) -> None:
    again = finished.step.run("again", exchange=str(finished.exchange), num_nodes=2)
    assert machine.created == []
    assert (again.model_digest, again.run_id) == (finished.trained.model_digest, finished.trained.run_id)
    assert again.model.name == "again"


def test_a_result_that_was_changed_is_refused(finished: Finished, machine: Machine, tmp_path: Path) -> None:
    shutil.copytree(finished.exchange, tmp_path / "exchange")
    training = training_in(open_exchange(str(tmp_path / "exchange"), DISK))
    report = Path(training.address) / "provenance.json"
    write_json(report, {**read_json(report), "predicateType": "another"})
    step = Step(finished.step.packed, tmp_path, finished.step.store)
    with pytest.raises(IntegrityError, match="not what the nodes trained"):
        step.run(exchange=str(tmp_path / "exchange"), num_nodes=2)


def test_two_processes_on_this_machine_give_the_same_bytes(
    finished: Finished, packed: Path, store: str, tmp_path: Path
) -> None:
    trained = Step(packed, tmp_path, store).run(processes_per_node=2)
    assert trained.model_digest == finished.trained.model_digest
    assert trained.run_id != finished.trained.run_id
    assert not (tmp_path / "workspace" / "checkpoints").exists()


# --- what goes wrong --------------------------------------------------------------------------


def test_eviction_and_loss_of_nodes_cost_little_and_the_weights_are_the_same(
    finished: Finished, machine: Machine, packed: Path, store: str, tmp_path: Path, bucket: StorageConfig
) -> None:
    exchange = open_exchange("s3://exchange/team", bucket)
    evicted: list[int] = []

    def disturb() -> None:
        wait_until(lambda: copied(exchange) >= 2)
        node = machine.nodes[0]
        node.send_signal(signal.SIGTERM)
        evicted.append(node.wait(300))
        saved = copied(exchange)
        wait_until(lambda: copied(exchange) > saved)
        machine.kill(1)

    trouble = threading.Thread(target=disturb)
    trouble.start()
    step = Step(packed, tmp_path, store, storage=bucket)
    trained = step.run(exchange="s3://exchange/team", num_nodes=2)
    trouble.join()
    assert evicted == [128 + signal.SIGTERM]
    logs = [(tmp_path / f"node-0-{attempt}.log").read_text() for attempt in range(3)]
    saved = int(logs[0].partition("saved at step ")[2].split()[0])
    assert f"resuming at step {saved} of {STEPS}" in logs[1]
    assert "resuming at step" in logs[2]
    weights = [one.model / "model.safetensors" for one in (trained, finished.trained)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert training_in(exchange).folders("checkpoints") == []
    assert exchange.folders("data") == [read_info(packed).digest]


def test_a_training_that_fails_turns_the_step_red_with_its_cause(
    machine: Machine, packed: Path, store: str, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    step = Step(packed, tmp_path, store, TRAIN.model_copy(update={"batch_size": 64}))
    with pytest.raises(
        MeglError, match=r"ended with exit code 3: .*48 training rows do not fill a batch of 64"
    ):
        step.run(exchange=str(tmp_path / "exchange"))
    assert machine.jobs == {}
    assert machine.attempt == 0  # wrong data get no second try
    order = training_in(open_exchange(str(tmp_path / "exchange"), DISK)).read("order.json")
    run = MlflowClient(store).get_run(json.loads(order or b"")["run_id"])
    assert run.info.status == "FAILED"


def test_a_node_with_other_code_refuses_and_names_both(finished: Finished, tmp_path: Path) -> None:
    shutil.copytree(finished.exchange / "trainings", tmp_path / "trainings")
    training = training_in(open_exchange(str(tmp_path), DISK))
    order = json.loads(training.read("order.json") or b"")
    training.write("order.json", json.dumps({**order, "code": "f" * 64, "of another version": 1}).encode())
    name = Path(training.address).name
    log = tmp_path / "log"
    node = start_node(["python", "-m", "megl_core.remote.node", str(tmp_path), name, "{}"], log)
    assert node.wait(300) == 2
    assert f"this node runs the code {order['code'][:12]}, the order is for {'f' * 12}" in log.read_text()


def test_a_node_without_its_order_says_so(tmp_path: Path) -> None:
    log = tmp_path / "log"
    node = start_node(["python", "-m", "megl_core.remote.node", str(tmp_path), "0" * 16, "{}"], log)
    assert node.wait(300) == DataError.exit_code
    assert "there is no order" in log.read_text()
