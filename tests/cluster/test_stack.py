"""The dev overlay on a real cluster: it comes up, keeps models, and our image trains in it."""

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import Space, fit, write_overlay
from tests.infra.manifests import KUBERNETES, OVERLAYS, Object, find, objects, render

pytestmark = [pytest.mark.service, pytest.mark.slow]


def job(space: Space, name: str, command: list[str]) -> Object:
    """The check's Job, doing something else under another name."""
    made: Object = yaml.safe_load((KUBERNETES / "jobs" / "check" / "job.yaml").read_text())
    made["metadata"].update(name=name, namespace=space.name)
    made["spec"]["backoffLimit"] = 0
    container = made["spec"]["template"]["spec"]["containers"][0]
    container.update(image=space.image, imagePullPolicy="IfNotPresent", command=command)
    container.pop("args")
    return made


def stored(space: Space) -> list[str]:
    """The keys in the bucket."""
    found: list[str] = json.loads(space.kubectl("exec", "deployment/s3", "--", "python", "-c", LIST))
    return found


def pod(space: Space, name: str) -> Any:
    (found,) = [
        one
        for one in space.get("pods", f"--selector=app.kubernetes.io/name={name}")["items"]
        if "deletionTimestamp" not in one["metadata"] and one["status"]["phase"] == "Running"
    ]
    return found


def is_ready(found: Any) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in found["status"]["conditions"])


LIST = """
import boto3, json

s3 = boto3.client("s3", endpoint_url="http://127.0.0.1:9000", region_name="us-east-1")
pages = s3.get_paginator("list_objects_v2").paginate(Bucket="megl")
print(json.dumps([one["Key"] for page in pages for one in page.get("Contents", [])]))
"""

REGISTER = """
import mlflow
from mlflow import MlflowClient

client = MlflowClient()
run = client.create_run(client.create_experiment("through-the-service"))
client.log_text(run.info.run_id, "weights", "model/weights.txt")
client.create_registered_model("by-hand")
version = client.create_model_version("by-hand", f"runs:/{run.info.run_id}/model", run.info.run_id)
path = mlflow.artifacts.download_artifacts(f"models:/by-hand/{version.version}/weights.txt")
print("version", version.version, version.status, open(path).read())
"""

LOOK = """
from mlflow import MlflowClient

for one in MlflowClient().search_model_versions("name = 'megl-check'"):
    print(one.name, one.version, one.status)
"""

NODE = """
import os
import torch
import torch.distributed as distributed

distributed.init_process_group("gloo")
rank = distributed.get_rank()
total = torch.tensor(rank + 1)
distributed.all_reduce(total)
for folder in ("/tmp", "/dev/shm", "/cache", "/workspace"):
    open(f"{folder}/{rank}", "w").write("written")
try:
    open("/opt/megl/written", "w")
except OSError as error:
    line = f"sum {int(total)} user {os.getuid()} {error.strerror}\\n"
    os.write(1, line.encode())  # in one piece: the other process writes to the same log
"""


def test_database_and_server_are_ready_without_a_restart(space: Space) -> None:
    for name in ("postgres", "mlflow"):
        found = pod(space, name)
        assert is_ready(found)
        states = found["status"]["containerStatuses"] + found["status"].get("initContainerStatuses", [])
        assert [one["restartCount"] for one in states] == [0] * len(states)


def test_what_the_cluster_does_not_know_is_said(space: Space) -> None:
    known = set(space.kubectl("api-resources", "--output=name").split())
    has_runtimes = "clustertrainingruntimes.trainer.kubeflow.org" in known
    assert any(one.startswith("ClusterTrainingRuntime") for one in space.left_out) is not has_runtimes
    assert not any(one.startswith(("Deployment", "Service", "NetworkPolicy")) for one in space.left_out)


def test_a_model_is_registered_through_the_service_and_lies_in_the_bucket(space: Space) -> None:
    log = space.run(job(space, "register", ["python", "-c", REGISTER]), seconds=180)
    assert "version 1 READY weights" in log
    assert any(key.startswith("mlflow/") and key.endswith("model/weights.txt") for key in stored(space))


def test_a_training_of_our_image_ends_with_a_registered_version(space: Space) -> None:
    (check,) = objects("jobs/check")
    whole = job(space, "megl-check", [])
    original = check["spec"]["template"]["spec"]["containers"][0]
    whole["spec"]["template"]["spec"]["containers"][0].update(
        command=original["command"], args=original["args"]
    )
    log = space.run(whole, seconds=600)
    assert "megl-check version 1" in " ".join(log.split())
    log = space.run(job(space, "look", ["python", "-c", LOOK]), seconds=180)
    assert log.splitlines()[-1] == "megl-check 1 READY"

    assert any(key.endswith("model.safetensors") for key in stored(space)), stored(space)


def test_a_node_of_the_training_runtime_runs_processes_and_writes_only_where_it_may(space: Space) -> None:
    (replicated,) = find("overlays/dev", "ClusterTrainingRuntime", "megl")["spec"]["template"]["spec"][
        "replicatedJobs"
    ]
    spec = copy.deepcopy(replicated["template"]["spec"])
    del spec["podFailurePolicy"]  # unknown before Kubernetes 1.26
    pod_spec = spec["template"]["spec"]
    torchrun = ["python", "-m", "torch.distributed.run", "--nproc-per-node=2", "--no-python"]
    pod_spec["containers"][0].update(image=space.image, command=[*torchrun, "python", "-c", NODE])
    if "PersistentVolumeClaim megl-workspace" in space.left_out:
        pod_spec["volumes"][-1] = {"name": "workspace", "emptyDir": {}}
    metadata = {"name": "node", "namespace": space.name}
    node = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
    assert space.run(node, seconds=240).count("sum 3 user 10001 Read-only file system") == 2


def test_a_new_server_finds_the_database_as_the_old_one_left_it(space: Space) -> None:
    before = pod(space, "mlflow")["metadata"]["name"]
    space.kubectl("rollout", "restart", "deployment/mlflow")
    space.kubectl("rollout", "status", "deployment/mlflow", "--timeout=300s", timeout=320)
    found = pod(space, "mlflow")
    assert found["metadata"]["name"] != before
    assert is_ready(found)


def test_of_two_migrations_that_start_at_once_one_makes_the_tables(space: Space) -> None:
    space.kubectl("exec", "postgres-0", "--", "createdb", "--username=mlflow", "fresh")
    spec = copy.deepcopy(space.get("deployment", "mlflow")["spec"]["template"]["spec"])
    migrate = spec["initContainers"].pop()
    migrate["env"].append({"name": "PGDATABASE", "value": "fresh"})
    spec.update(containers=[migrate], restartPolicy="Never")
    labels = {"app.kubernetes.io/name": "mlflow"}  # for the way to the database
    template = {"metadata": {"labels": labels}, "spec": spec}
    made = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "migrate", "namespace": space.name},
        "spec": {"parallelism": 2, "completions": 2, "backoffLimit": 0, "template": template},
    }
    space.run(made, seconds=120)
    logs = space.kubectl("logs", "--selector=job-name=migrate", "--tail=-1")
    assert logs.count("Creating initial MLflow database tables") == 1
    tables = "SELECT count(*) FROM alembic_version"
    psql = ["psql", "--username=mlflow", "--dbname=fresh", "--tuples-only", "--command", tables]
    assert space.kubectl("exec", "postgres-0", "--", *psql).strip() == "1"


def test_without_its_database_the_server_gets_no_requests_but_is_not_restarted(space: Space) -> None:
    def sql(text: str) -> None:
        space.kubectl(
            "exec", "postgres-0", "--", "psql", "--username=mlflow", "--dbname=postgres", "-c", text
        )

    def wait(ready: bool) -> None:
        end = time.monotonic() + 120
        while is_ready(pod(space, "mlflow")) is not ready:
            assert time.monotonic() < end, f"not {'ready' if ready else 'unready'} after 120 s"
            time.sleep(2)

    sql("ALTER DATABASE mlflow ALLOW_CONNECTIONS false")
    try:
        sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'mlflow'")
        wait(ready=False)
        assert not space.get("endpoints", "mlflow")["subsets"][0].get("addresses")
    finally:
        sql("ALTER DATABASE mlflow ALLOW_CONNECTIONS true")
    wait(ready=True)
    assert pod(space, "mlflow")["status"]["containerStatuses"][0]["restartCount"] == 0


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_api_server_would_take_every_object_that_it_knows(
    space: Space, tmp_path: Path, overlay: str
) -> None:
    taken, left_out = fit(render(write_overlay(tmp_path, space.name, space.image, overlay)))
    answer = space.kubectl("apply", "--dry-run=server", "--filename=-", input_=yaml.safe_dump_all(taken))
    assert len(answer.splitlines()) == len(taken) > len(left_out)


@pytest.mark.parametrize(
    ("account", "verb", "resource", "may"),
    [
        ("megl-pipeline", "create", "trainjobs.trainer.kubeflow.org", True),
        ("megl-pipeline", "update", "trainjobs.trainer.kubeflow.org", False),
        ("megl-pipeline", "get", "pods/log", True),
        ("megl-pipeline", "delete", "pods", False),
        ("megl-pipeline", "get", "secrets/mlpipeline-minio-artifact", True),
        ("megl-pipeline", "get", "secrets/mlflow-database", False),
        ("megl-training", "list", "pods", False),
        ("mlflow", "get", "secrets/mlflow-database", False),
        ("megl-schedule", "create", "jobs.pipelines.kubeflow.org", True),
        ("megl-schedule", "create", "jobs.batch", False),
    ],
)
def test_the_api_server_grants_and_refuses_as_the_roles_say(
    space: Space, account: str, verb: str, resource: str, may: bool
) -> None:
    name, _, instance = resource.partition("/")
    attributes: dict[str, str] = {"namespace": space.name, "verb": verb}
    attributes["resource"], _, attributes["group"] = name.partition(".")
    if instance == "log":
        attributes["subresource"] = instance
    elif instance:
        attributes["name"] = instance
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{space.name}:{account}",
            "resourceAttributes": attributes,
        },
    }
    answer = space.kubectl("create", "--filename=-", "--output=json", input_=json.dumps(review))
    assert json.loads(answer)["status"]["allowed"] is may
