"""A version as the registry would tell of it, and small manifests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from megl_core.data.manifest import SCHEMA, row_digest, write_manifest
from megl_core.lineage.record import Recorded
from megl_core.registry.history import Entry
from megl_core.registry.versions import RegisteredVersion
from megl_core.registry.vocabulary import Stage

RUN = "0123456789abcdef0123456789abcdef"


def entry(number: int, action: str, version: int, **details: Any) -> Entry:
    return Entry(
        number=number,
        time=f"2026-11-24T09:0{number}:00.000+00:00",
        actor="ann",
        action=action,
        version=version,
        reason=f"reason <{number}>",
        previous="",
        digest=f"{number}" * 64,
        details=details,
    )


def promotion(number: int, version: int, champion: int | None = None, forced: bool = False) -> Entry:
    gate = {"passed": not forced, "digest": "9" * 64, "failed": ["test.accuracy >= 0.9"] if forced else []}
    return entry(
        number,
        "promote",
        version,
        **{"from": "None", "to": "Production", "gate": gate, "forced": forced},
        approvals=["bob"],
        champion=champion,
    )


@pytest.fixture
def statement() -> dict[str, Any]:
    dataset = {
        "name": "dataset",
        "uri": "dvc+file:///data#scenes",
        "digest": {"sha256": "d" * 64, "dvcMd5": "5" * 32 + ".dir"},
        "annotations": {
            "repository": "/data",
            "path": "scenes",
            "revision": None,
            "num_files": 7,
            "size": 70,
        },
    }
    code = {
        "name": "code",
        "uri": "git+https://example.org/megl.git",
        "digest": {"gitCommit": "c" * 40},
        "annotations": {"dirty": True},
    }
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": "https://slsa.dev/provenance/v1",
        "subject": [{"name": "model.safetensors", "digest": {"sha256": "a" * 64}}],
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:megl:training:v1",
                "externalParameters": {"train": {"epochs": 3, "rate": 0.1}},
                "resolvedDependencies": [dataset, code, {"name": "lock", "digest": {"sha256": "b" * 64}}],
            },
            "runDetails": {
                "builder": {"id": "urn:megl:builder", "version": {"megl": "0.1.0"}},
                "metadata": {"startedOn": "2026-11-24T08:00:00Z", "finishedOn": "2026-11-24T08:30:00Z"},
                "byproducts": [
                    {"name": "mlflow run", "uri": f"runs:/{RUN}", "annotations": {"run_id": RUN}},
                    {"name": "evaluation.json", "digest": {"sha256": "e" * 64}},
                    {"name": "validation.json", "digest": {"sha256": "f" * 64}},
                ],
            },
        },
    }


@pytest.fixture
def recorded(statement: dict[str, Any]) -> Recorded:
    """Version 3 of `megl`, in Production, which nobody signed."""
    version = RegisteredVersion(
        name="megl",
        version=3,
        model_digest="1" * 64,
        run_id=RUN,
        uri="models:/megl/3",
        stage=Stage.PRODUCTION,
        aliases=("champion", "production"),
        created="2026-11-24T09:01:00+00:00",
        tags={},
    )
    entries = (entry(1, "register", 3), promotion(2, 3))
    return Recorded(version, entries, statement, (), {"test": {"accuracy": 0.9}})


def sample(id_: str, **changes: Any) -> dict[str, Any]:
    """A row of a manifest; its image's hash begins with the id's digits, twelve times."""
    row: dict[str, Any] = dict.fromkeys(SCHEMA.names)
    row |= {"id": id_, "line": 1, "label": "round", "split": "train", "image": f"images/{id_}.png"}
    row |= {"image_sha256": (id_[-1] * 12).ljust(64, "0"), "explanations": [], "extra": "{}"} | changes
    return row | {"row_sha256": row_digest(row)}


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows as a manifest."""

    def write(name: str, *rows: dict[str, Any]) -> Path:
        path = tmp_path / f"{name}.parquet"
        write_manifest(pa.Table.from_pylist(list(rows), schema=SCHEMA), path)
        return path

    return write
