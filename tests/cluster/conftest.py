"""A namespace of a real cluster with the dev overlay in it.

KUBECONFIG names the cluster. MEGL_CLUSTER_LOAD is the command that copies an image of the local Docker engine
to its nodes, such as `kind load docker-image`, or `true` where they have the images already.
MEGL_CLUSTER_IMAGE is our image, if not the one that `make images` makes.
"""

import json
import os
import secrets
import shlex
import shutil
import subprocess
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.images.build import NAMES
from tests.infra.manifests import KUBERNETES, Object, render

SERVICES = Path(__file__).parent / "services"
SERVICES_IMAGE = "megl-test-services:1"
_READY_SECONDS = 240


@dataclass(frozen=True)
class Space:
    """One namespace of the cluster, and what of the overlay that cluster does not know."""

    name: str
    image: str
    left_out: tuple[str, ...]

    def kubectl(self, *arguments: str, input_: str | None = None, timeout: float = 120) -> str:
        return kubectl("--namespace", self.name, *arguments, input_=input_, timeout=timeout)

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def run(self, job: Object, seconds: float) -> str:
        """Run a Job to its end and return its log; fail with that log unless it completes."""
        name = job["metadata"]["name"]
        apply([job])
        for _ in range(max(1, int(seconds / 5))):
            conditions = self.get("job", name).get("status", {}).get("conditions", [])
            ended = [one["type"] for one in conditions if one["status"] == "True"]
            if ended:
                break
            time.sleep(5)
        log = self.kubectl("logs", f"job/{name}", "--all-containers")
        assert "Complete" in ended, f"job {name}: {ended}\n{log}\n{self.kubectl('describe', 'pods')[-3000:]}"
        return log


def kubectl(*arguments: str, input_: str | None = None, timeout: float = 120) -> str:
    """kubectl's standard output; fails with its standard error."""
    done = subprocess.run(
        ["kubectl", *arguments], input=input_, capture_output=True, text=True, check=False, timeout=timeout
    )
    assert done.returncode == 0, f"kubectl {shlex.join(arguments)}\n{done.stderr}{done.stdout}"
    return done.stdout


def apply(objects: Sequence[Object]) -> None:
    kubectl("apply", "--filename=-", input_=yaml.safe_dump_all(objects))


@pytest.fixture(scope="session")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """The dev overlay with database, bucket and MLflow server, all ready; its deletion is not waited for."""
    image = require_cluster_and_images()
    name = f"megl-test-{secrets.token_hex(3)}"
    folder = tmp_path_factory.mktemp("overlay")
    objects, left_out = fit(render(write_overlay(folder, name, image)))
    for one in left_out:
        warnings.warn(f"the cluster does not have what {one} needs: left out or replaced", stacklevel=1)
    try:
        apply([one for one in objects if one["kind"] == "Namespace"])
        apply([*passwords(name), *bucket(name)])
        apply([one for one in objects if one["kind"] != "Namespace"])
        made = Space(name, image, tuple(left_out))
        wait_until_ready(made)
        yield made
    finally:
        kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")


def require_cluster_and_images() -> str:
    """Our image's name, once it and the services' are on the nodes; skips without cluster or engine."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster")
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    if subprocess.run(["kubectl", "version"], capture_output=True, check=False).returncode:
        pytest.skip("the cluster that KUBECONFIG names does not answer")
    load = os.environ.get("MEGL_CLUSTER_LOAD")
    if not load:
        pytest.skip("MEGL_CLUSTER_LOAD names no command that copies an image to the nodes")
    image = os.environ.get("MEGL_CLUSTER_IMAGE", NAMES["cpu"])
    if shutil.which("docker") is None or _fails("docker", "image", "inspect", image):
        pytest.skip(f"the Docker engine has no image {image}: make images")
    subprocess.run(["docker", "build", "--quiet", "--tag", SERVICES_IMAGE, SERVICES], check=True)
    for one in (image, SERVICES_IMAGE):
        subprocess.run([*shlex.split(load), one], check=True, timeout=600, stdout=subprocess.DEVNULL)
    return image


def _fails(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode != 0


def write_overlay(folder: Path, namespace: str, image: str, base: str = "overlays/dev") -> Path:
    """A kustomization over an overlay: another namespace, a bucket of our own, images that are here."""
    repository, _, tag = image.partition(":")
    services, _, version = SERVICES_IMAGE.partition(":")
    content = {
        "namespace": namespace,
        "resources": [os.path.relpath(KUBERNETES / base, folder)],
        "images": [
            {"name": "megl", "newName": repository, "newTag": tag},
            {"name": "docker.io/library/postgres", "newName": services, "newTag": version},
        ],
        "patches": [
            {
                "target": {"kind": "ConfigMap", "name": "mlflow"},
                "patch": json.dumps(
                    [{"op": "add", "path": "/data/MLFLOW_S3_ENDPOINT_URL", "value": "http://s3:9000"}]
                ),
            }
        ],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return folder


def fit(objects: Sequence[Object]) -> tuple[list[Object], list[str]]:
    """The objects without the kinds that this cluster does not know, and without claims where it has no class
    of storage to meet them; and what that was."""
    lines = kubectl("api-resources", "--no-headers").splitlines()
    known = {tuple(line.split()[-3::2]) for line in lines}  # the last three: version, namespaced, kind
    no_storage = not kubectl("get", "storageclass", "--output=name").strip()
    fitted, left_out = [], []
    for one in objects:
        name = f"{one['kind']} {one['metadata']['name']}"
        if (one["apiVersion"], one["kind"]) not in known:
            left_out.append(f"{name} ({one['apiVersion']})")
        elif no_storage and one["kind"] == "PersistentVolumeClaim":
            left_out.append(name)
        else:
            if no_storage and one["kind"] == "StatefulSet":
                left_out.append(f"the storage of {name}")
                names = [claim["metadata"]["name"] for claim in one["spec"].pop("volumeClaimTemplates")]
                one["spec"]["template"]["spec"]["volumes"] += [{"name": n, "emptyDir": {}} for n in names]
            fitted.append(one)
    return fitted, left_out


def passwords(namespace: str) -> list[Object]:
    """The secrets that a person makes by hand: docs/cluster.md."""

    def secret(name: str, **values: str) -> Object:
        metadata = {"name": name, "namespace": namespace}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}

    return [
        secret("mlflow-database", password=secrets.token_urlsafe(24)),
        secret("s3", AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY=secrets.token_urlsafe(24)),
    ]


def bucket(namespace: str) -> list[Object]:
    """An S3 server in the namespace, and the way to it through the network policies."""
    text = (SERVICES / "s3.yaml").read_text().replace("SERVICES_IMAGE", SERVICES_IMAGE)
    found: list[Object] = list(yaml.safe_load_all(text))
    for one in found:
        one["metadata"]["namespace"] = namespace
    return found


def wait_until_ready(space: Space) -> None:
    """Database, bucket and server are ready, or the test fails with what they say."""
    try:
        for one in ("deployment/s3", "statefulset/postgres", "deployment/mlflow"):
            space.kubectl(
                "rollout", "status", one, f"--timeout={_READY_SECONDS}s", timeout=_READY_SECONDS + 30
            )
            if one == "deployment/s3":
                space.kubectl("exec", one, "--", "python", "-c", _MAKE_BUCKET)
    except AssertionError as error:
        told = [space.kubectl("describe", "pods")[-6000:]]
        for pod in space.get("pods")["items"]:
            name = pod["metadata"]["name"]
            told.append(_say("kubectl", "-n", space.name, "logs", name, "--all-containers", "--tail=40"))
        raise AssertionError("\n".join([str(error), *told])) from None


def _say(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return shlex.join(command) + "\n" + done.stdout + done.stderr


_MAKE_BUCKET = """
import boto3
boto3.client("s3", endpoint_url="http://127.0.0.1:9000", region_name="us-east-1").create_bucket(Bucket="megl")
"""
