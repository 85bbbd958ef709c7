"""What tracking decides before it meets a server."""

from pathlib import Path

import pytest

from megl_core.cli import data, lineage, models
from megl_core.config import RegistryConfig
from megl_core.errors import DataError, UnavailableError
from megl_core.registry.connection import artifact_root, mlflow_errors
from megl_core.registry.tracking import flatten, resolve_registry, resolve_tracking_uri


def test_tracking_uri_by_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from.environment")
    configured = RegistryConfig(tracking_uri="http://from.config")
    assert resolve_tracking_uri(configured, tmp_path) == "http://from.config"
    assert resolve_tracking_uri(RegistryConfig(), tmp_path) == "http://from.environment"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert resolve_tracking_uri(RegistryConfig(), tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_relative_workspace_means_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert resolve_tracking_uri(RegistryConfig(), Path("ws")) == f"sqlite:///{tmp_path}/ws/mlflow.db"


@pytest.mark.parametrize("uri", [None, "sqlite:///typo.db", "sqlite:////typo/of/a.db"])
def test_who_looks_for_a_model_makes_no_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str | None
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no MLflow database here"):
        models.list_(tracking_uri=uri, workspace=Path("typo"))
    with pytest.raises(DataError, match="no MLflow database here"):
        models.gates("megl", "1", tracking_uri=uri, workspace=Path("typo"))
    with pytest.raises(DataError, match="no MLflow database here"):
        lineage.impact(sample="train-00000", tracking_uri=uri, workspace=Path("typo"))
    with pytest.raises(DataError, match="no MLflow database here"):
        data.restore(
            "megl/1", Path("out"), workspace=Path("typo"), set_=uri and [f"registry.tracking_uri={uri}"]
        )
    assert not list(tmp_path.iterdir())


def test_a_database_that_is_there_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").touch()
    uri = f"sqlite:///{tmp_path}/mlflow.db?timeout=9"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert resolve_registry(RegistryConfig(), tmp_path) == uri


def test_artifacts_lie_beside_a_sqlite_file() -> None:
    assert artifact_root("sqlite:////data/ws/mlflow.db") == "file:///data/ws/mlartifacts"
    assert artifact_root("https://mlflow.example.org") is None


def test_flatten() -> None:
    tree = {"train": {"epochs": 3, "inner": {"a": [1, {"b": 2}]}}, "seed": 0}
    assert flatten(tree) == {"train.epochs": 3, "train.inner.a": [1, {"b": 2}], "seed": 0}


def test_only_failures_of_mlflow_are_translated() -> None:
    import requests

    with (
        pytest.raises(UnavailableError) as caught,
        mlflow_errors("http://me:s3cret@host", "list the models"),
    ):
        raise requests.ConnectionError("no route to http://me:s3cret@host/api")
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__
    with pytest.raises(ZeroDivisionError), mlflow_errors("http://host", "list the models"):
        raise ZeroDivisionError
