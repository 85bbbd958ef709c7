"""What settle() makes of a task, read from the compiled YAML as a cluster reads it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl

from components import IMAGE
from components.notify.component import notify
from components.prerequisites.component import prerequisites
from components.promote.component import promote
from components.validate.component import validate
from megl_core.config import PodsConfig, parse
from megl_core.errors import ConfigError
from pipelines.tasks import gpus, settle

SITE = {
    "image": "registry.example/megl@sha256:abc",
    "pull_policy": "IfNotPresent",
    "pull_secrets": ["registry"],
    "workspace_claim": "megl-workspace",
    "secrets": {"megl-s3": {"id": "AWS_ACCESS_KEY_ID", "key": "AWS_SECRET_ACCESS_KEY"}},
    "env": {"MLFLOW_TRACKING_URI": "http://mlflow:5000"},
    "user": 10001,
    "group": 10001,
    "node_selector": {"pool": "cpu"},
    "tolerations": [{"key": "batch", "operator": "Exists", "effect": "NoSchedule"}],
    "steps": {
        "train": {"gpus": 2, "image": "registry.example/megl:cuda", "node_selector": {"pool": "gpu"}},
        "promote": {"cpu_limit": "3", "memory_request": "2Gi", "timeout_minutes": 1.5, "retries": 0},
        "notify": {"secrets": {"megl-notify": {"url": "MEGL_WEBHOOK_URL"}}},
    },
}
NO_SITE = PodsConfig(workspace_claim=None, secrets={}, env={})
Compiled = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[[PodsConfig | None], Compiled]:
    """A small pipeline's specification, and its settings for Kubernetes by executor."""

    def compile_with(pods: PodsConfig | None) -> Compiled:
        @dsl.pipeline(name="megl-small")
        def small(text: str) -> None:
            end = notify(workspace=text)
            settle(end, "notify", pods)
            with dsl.ExitHandler(end, name="run"):
                checked = prerequisites(
                    workspace=text, data=text, train=text, registry=text, cluster=text, storage=text
                )
                settle(checked, "prerequisites", pods)
                promoted = promote(
                    version=text, passed=True, stage=text, workspace=text, registry=text,
                    evaluation=text, gate=text, promotion=text,
                ).after(checked)  # fmt: skip
                settle(promoted, "promote", pods)

        target = tmp_path / "small.yaml"
        compiler.Compiler().compile(small, str(target))
        spec, *platforms = yaml.safe_load_all(target.read_text())
        if not platforms:
            return spec, {}
        return spec, platforms[0]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]

    return compile_with


def container(spec: dict[str, Any], step: str) -> dict[str, Any]:
    found: dict[str, Any] = spec["deploymentSpec"]["executors"][f"exec-{step}"]["container"]
    return found


def task(spec: dict[str, Any], step: str) -> dict[str, Any]:
    found: dict[str, Any] = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"][step]
    return found


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["value"] for item in container.get("env", ())}


def secrets(executor: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {
        secret["secretName"]: {pair["secretKey"]: pair["envVar"] for pair in secret["keyToEnv"]}
        for secret in executor.get("secretAsEnv", ())
    }


def test_on_this_machine_a_step_is_neither_limited_nor_tried_again(
    compiled: Callable[[PodsConfig | None], Compiled],
) -> None:
    """kfp.local would wait between the tries of a step whose input is wrong."""
    spec, kubernetes = compiled(None)
    assert kubernetes == {}
    assert "retryPolicy" not in task(spec, "promote")
    assert "resources" not in container(spec, "promote")


def test_metadata_becomes_name_resources_retries_and_timeout(
    compiled: Callable[[PodsConfig | None], Compiled],
) -> None:
    spec, kubernetes = compiled(PodsConfig())
    promoted = task(spec, "promote")
    assert promoted["taskInfo"]["name"] == "Promote the model"
    assert promoted["cachingOptions"] == {}
    assert promoted["retryPolicy"] == {
        "maxRetryCount": 3, "backoffDuration": "30s", "backoffFactor": 2.0, "backoffMaxDuration": "600s",
    }  # fmt: skip
    resources = container(spec, "promote")["resources"]
    assert resources["resourceCpuRequest"] == "250m"
    assert resources["resourceCpuLimit"] == "1"
    assert resources["resourceMemoryRequest"] == "512Mi"
    assert resources["resourceMemoryLimit"] == "4Gi"
    assert "accelerator" not in resources
    assert kubernetes["exec-promote"]["activeDeadlineSeconds"] == str(30 * 60)


def test_a_result_may_be_used_again_where_metadata_says_so() -> None:
    @dsl.pipeline(name="megl-one")
    def one(text: str) -> None:
        found = dsl.importer(artifact_uri=text, artifact_class=dsl.Dataset).output
        settle(
            validate(dataset=found, manifest=found, digest=text, code=text, labels=[], validation=text),
            "validate",
            None,
        )

    tasks = one.pipeline_spec.root.dag.tasks
    assert tasks["validate"].caching_options.enable_cache


def test_a_pod_knows_its_run_itself_and_its_image(
    compiled: Callable[[PodsConfig | None], Compiled],
) -> None:
    spec, kubernetes = compiled(NO_SITE)
    for step in ("notify", "prerequisites", "promote"):
        fields = {item["name"]: item["fieldPath"] for item in kubernetes[f"exec-{step}"]["fieldPathAsEnv"]}
        assert fields == {
            "MEGL_PIPELINE_RUN": "metadata.labels['pipeline/runid']",
            "POD_NAME": "metadata.name",
            "POD_UID": "metadata.uid",
            "POD_NAMESPACE": "metadata.namespace",
        }
        assert variables(container(spec, step)) == {"MEGL_IMAGE": IMAGE}
        assert container(spec, step)["image"] == IMAGE


def test_nothing_of_a_site_is_in_a_pipeline_that_was_told_of_none(
    compiled: Callable[[PodsConfig | None], Compiled],
) -> None:
    _, kubernetes = compiled(NO_SITE)
    for settings in kubernetes.values():
        assert set(settings) == {"activeDeadlineSeconds", "fieldPathAsEnv"}


def test_a_sites_settings_reach_every_pod(compiled: Callable[[PodsConfig | None], Compiled]) -> None:
    spec, kubernetes = compiled(parse(PodsConfig, SITE))
    promoted = kubernetes["exec-promote"]
    assert container(spec, "promote")["image"] == SITE["image"]
    assert variables(container(spec, "promote")) == {
        "MLFLOW_TRACKING_URI": "http://mlflow:5000", "MEGL_IMAGE": SITE["image"],
    }  # fmt: skip
    assert promoted["imagePullPolicy"] == "IfNotPresent"
    assert [item["secretName"] for item in promoted["imagePullSecret"]] == ["registry"]
    (claim,) = promoted["pvcMount"]
    assert (claim["constant"], claim["mountPath"]) == ("megl-workspace", "/workspace")
    assert promoted["securityContext"] == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}
    assert promoted["nodeSelector"]["labels"] == {"pool": "cpu"}
    assert promoted["tolerations"] == SITE["tolerations"]
    assert secrets(promoted) == SITE["secrets"]


def test_a_steps_own_settings_win_and_its_secrets_are_its_own(
    compiled: Callable[[PodsConfig | None], Compiled],
) -> None:
    spec, kubernetes = compiled(parse(PodsConfig, SITE))
    resources = container(spec, "promote")["resources"]
    assert (resources["resourceCpuLimit"], resources["resourceMemoryRequest"]) == ("3", "2Gi")
    assert (resources["resourceCpuRequest"], resources["resourceMemoryLimit"]) == ("250m", "4Gi")
    assert kubernetes["exec-promote"]["activeDeadlineSeconds"] == "90"
    assert "retryPolicy" not in task(spec, "promote")
    assert "megl-notify" not in secrets(kubernetes["exec-promote"])
    assert secrets(kubernetes["exec-notify"])["megl-notify"] == {"url": "MEGL_WEBHOOK_URL"}


def test_the_prerequisites_try_what_the_training_will_get(
    compiled: Callable[[PodsConfig | None], Compiled],
) -> None:
    """A check on another kind of node says nothing of the GPUs there."""
    pods = parse(PodsConfig, SITE)
    spec, kubernetes = compiled(pods)
    checked = container(spec, "prerequisites")
    assert gpus(pods) == gpus(pods, "prerequisites") == 2
    assert checked["image"] == "registry.example/megl:cuda"
    assert checked["resources"]["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert checked["resources"]["accelerator"]["resourceCount"] == "2"
    assert kubernetes["exec-prerequisites"]["nodeSelector"]["labels"] == {"pool": "gpu"}
    assert gpus(pods, "promote") == gpus(PodsConfig()) == 0


@pytest.mark.parametrize(
    "wrong",
    [{"user": 0}, {"pull_policy": "Sometimes"}, {"steps": {"train": {"cpu_limit": "many"}}}, {"stepz": {}}],
)
def test_settings_that_no_cluster_takes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        parse(PodsConfig, wrong)


def test_settings_of_a_step_that_does_not_exist_are_told(
    compiled: Callable[[PodsConfig | None], Compiled],
) -> None:
    with pytest.raises(ConfigError, match="no such step: trian"):
        compiled(parse(PodsConfig, {"steps": {"trian": {"gpus": 8}}}))
