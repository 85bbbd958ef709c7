"""The train step in a pod trains on nodes that are pods: they die, are refused, and are cleaned up."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import Space, apply, kubectl
from tests.cluster.trainer import CRD, Trainer
from tests.infra.manifests import KUBERNETES, Object

pytestmark = [pytest.mark.service, pytest.mark.slow]

STEP = """
import sys
from pathlib import Path
from megl_core.config import DataConfig, PackConfig, ScenesConfig, load_config
from megl_core.data.importers import import_dataset
from megl_core.data.manifest import scan, write_manifest
from megl_core.data.pack import pack
from megl_core.files import read_json
from megl_core.remote.launch import train_anywhere

folder = Path("/workspace")
data = DataConfig(scenes=ScenesConfig(num_train=48, num_val=8, num_test=8, size=24, mask_share=0.25))
import_dataset(data.importer, None, folder / "dataset", data)
write_manifest(scan(folder / "dataset", data.split), folder / "manifest")
packed = pack(folder / "dataset", folder / "manifest", folder / "packed", PackConfig())
trained = train_anywhere(
    folder / "packed", folder / "model", load_config(None, sys.argv[1:]), folder,
    digest=packed.digest, provenance=folder / "provenance.json",
)
report = read_json(trained.model / "training.json")
print("trained by", report["processes"], "processes in", report["steps"], "steps, run", trained.run_id)
"""

SETTINGS = {
    "train.epochs": 8,
    "train.batch_size": 16,
    "train.checkpoint_seconds": 0,
    "model.image_size": 24,
    "model.backbone.widths": "[8,16]",
    "model.backbone.depths": "[1,1]",
    "model.decoder.width": 16,
    "cluster.num_nodes": 2,
    "cluster.gpus_per_node": 0,
    "cluster.poll_seconds": 1,
    "storage.endpoint_url": "http://s3:9000",
    "storage.region": "us-east-1",
    "storage.addressing_style": "path",
}
STEPS = 24


@pytest.fixture(scope="module")
def trainer(space: Space) -> Iterator[Trainer]:
    """Starts the nodes of TrainJobs in the namespace; the cluster knows these while it lasts."""
    if "trainjobs.trainer.kubeflow.org" in kubectl("api-resources", "--output=name"):
        pytest.skip("this cluster has a Kubeflow Trainer of its own")
    apply([CRD])
    try:
        kubectl("wait", "--for=condition=Established", f"crd/{CRD['metadata']['name']}", "--timeout=60s")
        images = {"megl": space.image, "missing": "megl:of-nowhere"}
        claims = "PersistentVolumeClaim megl-workspace" not in space.left_out
        with Trainer(space.name, images, claims=claims) as running:
            yield running
    finally:
        kubectl("delete", "crd", CRD["metadata"]["name"], "--ignore-not-found", timeout=180)


def start(space: Space, name: str, *, account: str = "megl-pipeline", **settings: Any) -> None:
    """A pod that runs the step, with the rights and settings of the pipeline's steps."""
    made: Object = yaml.safe_load((KUBERNETES / "jobs" / "check" / "job.yaml").read_text())
    made["metadata"].update(name=name, namespace=space.name)
    made["spec"]["backoffLimit"] = 0
    spec = made["spec"]["template"]["spec"]
    spec.update(serviceAccountName=account, automountServiceAccountToken=True)
    given = {
        **SETTINGS,
        "cluster.namespace": space.name,
        "cluster.exchange": f"s3://megl/exchange/{name}",
        **{key.replace("__", "."): value for key, value in settings.items()},
    }
    container = spec["containers"][0]
    container.update(
        image=space.image,
        imagePullPolicy="IfNotPresent",
        command=["python", "-c", STEP],
        args=[f"{key}={value}" for key, value in given.items()],
        envFrom=[{"secretRef": {"name": "s3"}}],
        resources={"requests": {"cpu": "50m", "memory": "256Mi"}},
    )
    apply([made])


def wait(space: Space, what: str, happened: Callable[[], Any], seconds: float = 300) -> Any:
    """What `happened` returns, once that is true; fails with the pods' state after a generous time."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < deadline, (
            f"{what} never happened\n{space.kubectl('describe', 'pods')[-6000:]}"
        )
        time.sleep(0.5)
    return found


def end(space: Space, name: str) -> tuple[bool, str]:
    """Whether the step turned green, and its log."""

    def ended() -> list[str]:
        conditions = space.get("job", name).get("status", {}).get("conditions", [])
        return [one["type"] for one in conditions if one["status"] == "True"]

    kinds = wait(space, f"the end of {name}", ended, 400)
    return "Complete" in kinds, space.kubectl("logs", f"job/{name}")


def copied(space: Space, name: str) -> int:
    """Checkpoints of a training that are complete in the bucket."""
    keys = json.loads(space.kubectl("exec", "deployment/s3", "--", "python", "-c", LIST, f"exchange/{name}"))
    return sum("/checkpoints/" in key and key.endswith(".index.json") for key in keys)


LIST = """
import boto3, json, sys

s3 = boto3.client("s3", endpoint_url="http://127.0.0.1:9000", region_name="us-east-1")
pages = s3.get_paginator("list_objects_v2").paginate(Bucket="megl", Prefix=sys.argv[1])
print(json.dumps([one["Key"] for page in pages for one in page.get("Contents", [])]))
"""


def test_a_training_outlives_the_death_of_a_pod(space: Space, trainer: Trainer) -> None:
    start(space, "outlives")
    wait(space, "a checkpoint in the bucket", lambda: copied(space, "outlives"))
    (job,) = trainer.jobs()
    victim = next(one for one in trainer.pods(job["metadata"]["name"]) if "-node-0-1-" in one.metadata.name)
    space.kubectl("delete", "pod", victim.metadata.name, "--grace-period=0", "--force", "--wait=false")
    is_green, log = end(space, "outlives")
    assert is_green, log
    assert "fetched step-" in log
    assert f" of {STEPS}" in log[log.index("resuming at step") :]
    assert f"trained by 2 processes in {STEPS} steps" in log
    assert trainer.jobs() == []
    assert copied(space, "outlives") == 0
    run = log.split()[-1]
    shown = space.kubectl("exec", "deployment/mlflow", "--", "python", "-c", LOOK.format(run=run))
    assert shown.split() == ["FINISHED", "8"]


LOOK = """
from mlflow import MlflowClient

client = MlflowClient("http://127.0.0.1:5000")
epochs = {{point.step for point in client.get_metric_history("{run}", "loss")}}
print(client.get_run("{run}").info.status, len(epochs))
"""


def test_nodes_that_fail_turn_the_step_red_with_the_cause(space: Space, trainer: Trainer) -> None:
    start(space, "fails", train__batch_size=64)
    is_green, log = end(space, "fails")
    assert not is_green
    assert "exit code 3" in log
    assert "48 training rows do not fill a batch of 64" in log
    assert trainer.jobs() == []


def test_an_image_that_is_nowhere_is_named(space: Space, trainer: Trainer) -> None:
    start(space, "pulls", cluster__runtime="missing", cluster__start_minutes=0.2, cluster__num_nodes=1)
    is_green, log = end(space, "pulls")
    assert not is_green
    assert "was given up after 0.2 minutes" in log
    assert "megl:of-nowhere" in log
    assert trainer.jobs() == []


def test_an_account_without_the_right_is_told_which(space: Space, trainer: Trainer) -> None:
    start(space, "denied", account="megl-training")
    is_green, log = end(space, "denied")
    assert not is_green
    assert "may not create trainjobs.trainer.kubeflow.org" in log


def test_a_step_that_is_cancelled_leaves_no_job_and_no_nodes(space: Space, trainer: Trainer) -> None:
    start(space, "cancelled", train__epochs=2000)
    wait(space, "a checkpoint in the bucket", lambda: copied(space, "cancelled"))
    (job,) = trainer.jobs()
    space.kubectl("delete", "job", "cancelled", "--wait=false")
    wait(space, "the end of the TrainJob", lambda: not trainer.jobs())
    wait(space, "the end of its nodes", lambda: not trainer.pods(job["metadata"]["name"]))
