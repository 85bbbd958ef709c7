"""Models by MLflow URI, out of a real registry."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from megl_core import MEGL
from megl_core.config import RegistryConfig
from megl_core.errors import ConfigError, IntegrityError
from megl_core.registry.connection import artifact_root, global_uri
from megl_core.registry.models import RegisteredVersion, Stage, promote
from megl_core.registry.tracking import start_run
from tests.integration.conftest import SmallModel

IMAGES = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def registered(
    store: str, make_model: Callable[..., SmallModel], tmp_path: Path, request: pytest.FixtureRequest
) -> tuple[RegisteredVersion, SmallModel]:
    name = "by-uri-" + ("server" if store.startswith("http") else "sqlite") + f"-{request.node.originalname}"
    with start_run(RegistryConfig(tracking_uri=store), tmp_path, system_metrics=False) as tracker:
        run_id = tracker.run_id
    model = make_model()
    version = model.register(name, store, run_id, licence="cc-by-4.0")
    return promote(version.name, version.version, Stage.STAGING, store, reason="a test", force=True), model


def test_a_model_comes_by_alias_number_and_run(
    store: str, registered: tuple[RegisteredVersion, SmallModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    version, model = registered
    expected = MEGL.from_pretrained(model.folder).explain(IMAGES)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    for uri in (
        f"models:/{version.name}@staging",
        f"models:/{version.name}/{version.version}",
        f"runs:/{version.run_id}/{version.name}",
    ):
        explanation = MEGL.from_pretrained(uri).explain(IMAGES)
        assert torch.equal(explanation.probabilities, expected.probabilities), uri
        assert explanation.rationale == expected.rationale
    assert model.folder.is_dir()


def test_a_uri_that_leads_nowhere_says_so(
    store: str,
    registered: tuple[RegisteredVersion, SmallModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version, _ = registered
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    for uri, reason in (
        (f"models:/{version.name}@production", "is in Production"),
        (f"models:/{version.name}/7", "has no version '7'"),
        (f"runs:/0123/{version.name}", "comes from run 0123"),
        (f"models:/{version.name}", "write models:/name@alias"),
    ):
        with pytest.raises(ConfigError, match=reason):
            MEGL.from_pretrained(uri)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="set MLFLOW_TRACKING_URI"):
        MEGL.from_pretrained(f"models:/{version.name}/1")
    assert sorted(tmp_path.iterdir()) == before  # no database of MLflow's own


def test_changed_bytes_are_refused(
    sqlite_uri: str, make_model: Callable[..., SmallModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_run(RegistryConfig(tracking_uri=sqlite_uri), tmp_path, system_metrics=False) as tracker:
        run_id = tracker.run_id
    model = make_model(3)
    model.register("changed", sqlite_uri, run_id)
    root = Path(str(artifact_root(sqlite_uri)).removeprefix("file://"))
    stored = MlflowClient(sqlite_uri).get_model_version("changed", "1").source.removeprefix("models:/")
    (weights,) = [path for path in root.rglob("model.safetensors") if stored in path.parts]
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri)
    with pytest.raises(IntegrityError, match="bytes have changed"):
        MEGL.from_pretrained("models:/changed/1")


def test_a_registered_model_carries_its_card(
    store: str, registered: tuple[RegisteredVersion, SmallModel], tmp_path: Path
) -> None:
    version, model = registered
    with global_uri(store):
        folder = Path(download_artifacts(artifact_uri=version.uri, dst_path=str(tmp_path / "fetched")))
    (card,) = folder.rglob("artifacts/README.md")
    _, front, text = card.read_text().split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "cc-by-4.0"
    assert "On `test`, 95.0% of the images are classified right." in text
    assert f"| model | `{model.digest}` |" in text
