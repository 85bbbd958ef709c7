"""Whatever is changed behind a version is found and named: MLflow on SQLite, artifacts and DVC on S3."""

import hashlib
import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from megl_core.cli import app
from megl_core.config import DataConfig, RegistryConfig, RetrainingConfig, ScenesConfig, StorageConfig
from megl_core.data.ingest import Ingested, ingest
from megl_core.data.manifest import SCHEMA, read_manifest, root_digest, row_digest, write_manifest
from megl_core.files import sha256_file, sha256_tree, tree_digests, write_json
from megl_core.lineage.diff import compare_versions
from megl_core.lineage.impact import EVALUATED, SELECTED, TRAINED, impact_of_dataset, impact_of_sample
from megl_core.lineage.novelty import Novelty, find_novelty
from megl_core.lineage.record import read_record
from megl_core.lineage.verify import Check, first_broken, verify
from megl_core.provenance.signing import load_signer, load_verifier, write_key_pair
from megl_core.provenance.statement import Training, training_statement
from megl_core.registry.gate import GateRow
from megl_core.registry.history import HISTORY_TAG, find_history
from megl_core.registry.models import Stage, promote, register, request
from megl_core.registry.promotion import Verdict
from megl_core.registry.tracking import start_run
from tests.integration.conftest import free_port, stop_group, wait_until_healthy, write_evaluation

pytestmark = [pytest.mark.service, pytest.mark.slow]

NAME = "audited"
BUCKET = "storage"
STORAGE = StorageConfig(dvc_remote=f"s3://{BUCKET}/dvc")


@dataclass(frozen=True)
class Audited:
    """A registry with two versions, the first in Production, and everything that an intruder may reach.

    Attributes:
        uri: of MLflow's server.
        database: of that server.
        s3: a client of the storage of artifacts and data.
        workspace: with the DVC repository.
        key: that signed both versions.
        model: the folder that became version 1.
        again: registers version 1 once more.
        contents: of the storage, before anybody changed it; filled once.
    """

    uri: str
    database: Path
    s3: Any
    workspace: Path
    key: Path
    model: Path
    again: Callable[[], object]
    contents: dict[str, bytes]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri, self.uri)

    def verify(self, **options: Any) -> list[Check]:
        options.setdefault("verifier", load_verifier(f"{self.key}.pub"))
        return verify(NAME, 1, self.uri, **options)

    def broken(self, **options: Any) -> tuple[str, str]:
        check = first_broken(self.verify(**options))
        assert check is not None, "nothing was noticed"
        return check.name, check.note

    def keys(self) -> dict[str, str]:
        """`{key: ETag}` of everything in the storage."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return {item["Key"]: item["ETag"] for page in pages for item in page.get("Contents", ())}

    def key_of(self, ending: str, containing: str = "") -> str:
        """The one object of version 1 whose key ends so."""
        location = self.client.get_logged_model(self.registered["logged_model"]).model_id
        found = [key for key in self.keys() if key.endswith(ending) and (containing or location) in key]
        assert len(found) == 1, found
        return found[0]

    def dvc_key(self, path: str) -> str:
        """Of the stored object of a file of the dataset."""
        digest = hashlib.md5((self.workspace / "datasets" / "scenes" / path).read_bytes()).hexdigest()
        return f"dvc/files/md5/{digest[:2]}/{digest[2:]}"

    @property
    def registered(self) -> dict[str, Any]:
        history = find_history(self.client, NAME)
        assert history is not None
        return dict(history.entries[0].details)

    def read(self, key: str) -> bytes:
        return bytes(self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def write(self, key: str, content: bytes) -> None:
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=content)

    def flip(self, key: str, place: float = 0.5) -> None:
        """Change one bit of an object."""
        content = bytearray(self.read(key))
        content[int(len(content) * place)] ^= 1
        self.write(key, bytes(content))

    def sql(self, statement: str, *values: object) -> None:
        with closing(sqlite3.connect(self.database, timeout=30)) as connection, connection:
            assert connection.execute(statement, values).rowcount > 0


@pytest.fixture(scope="module")
def module_environment() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "MEGL_PUBLIC_KEY", "MEGL_SIGNING_KEY"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", "an-id")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("MEGL_ACTOR", "ann")
        yield patch


@pytest.fixture(scope="module")
def s3(module_environment: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a moto S3 server, which the environment names."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for variable in ("AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL"):
        module_environment.setenv(variable, f"http://{host}:{port}")
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield client
    server.stop()


@pytest.fixture(scope="module")
def server(s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """`mlflow server` with its artifacts on S3; its URI and database."""
    folder = tmp_path_factory.mktemp("server")
    uri, database = f"http://127.0.0.1:{(port := free_port())}", folder / "mlflow.db"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"),
        *("--port", str(port), "--backend-store-uri", f"sqlite:///{database}"),
        *("--artifacts-destination", f"s3://{BUCKET}/mlflow"),
    ]
    log = folder / "server.log"
    with log.open("wb") as output:
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_until_healthy(f"{uri}/health", process, log)
        yield uri, database
    finally:
        stop_group(process)


def write_model(folder: Path, seed: int) -> Path:
    import torch

    from megl_core.config import BackboneConfig, DecoderConfig, ModelConfig
    from megl_core.data.tokenizer import WordTokenizer
    from megl_core.models.megl import MEGL

    torch.manual_seed(seed)
    config = ModelConfig(
        backbone=BackboneConfig(widths=[8, 8], depths=[1, 1]), decoder=DecoderConfig(width=8, max_tokens=6)
    )
    words = WordTokenizer.learn(["a red round thing"], 1)
    MEGL(config, ["round", "boxy", "crossed"], words).save_pretrained(folder / f"model-{seed}")
    return folder / f"model-{seed}"


def register_version(folder: Path, uri: str, workspace: Path, data: Ingested, key: Path, seed: int) -> Path:
    """Train (in name), evaluate, gate and register a small model on data; its folder."""
    with start_run(RegistryConfig(tracking_uri=uri), workspace, system_metrics=False) as tracker:
        run_id = tracker.run_id
    model = folder / f"model-{seed}"
    if not model.is_dir():
        write_model(folder, seed)
    digest = sha256_tree(model)
    shutil.rmtree(folder / f"evaluated-{seed}", ignore_errors=True)
    evaluation = write_evaluation(folder / f"evaluated-{seed}", digest, 0.9 + seed / 100, data.digest, 50)
    training = Training(
        sections={"train": {"seed": seed, "epochs": 3}},
        data_digest=data.digest,
        dvc=asdict(data.dvc),
        code_digest="c0de" * 16,
        checkpoints={},
        run_id=run_id,
        started="2026-11-24T00:00:00Z",
        finished="2026-11-24T00:01:00Z",
    )
    files = {name: folder / f"{name}-{seed}.json" for name in ("statement", "validation", "gate")}
    write_json(files["statement"], training_statement(model, training))
    write_json(files["validation"], {"passed": True, "digest": data.digest})
    verdict = {"passed": True, "model_digest": digest, "evaluation_digest": sha256_file(evaluation)}
    write_json(files["gate"], verdict)
    reports = {
        "evaluation.json": evaluation,
        "predictions.parquet": evaluation.with_name("predictions.parquet"),
        "validation.json": files["validation"],
        "gate.json": files["gate"],
    }
    register(
        model,
        reports,
        NAME,
        uri,
        run_id,
        statement=files["statement"],
        manifest=data.manifest,
        signer=load_signer(str(key)),
    )
    return model


def without_a_sample(workspace: Path, config: DataConfig) -> Ingested:
    """The dataset as it is after its owner removed one training sample and relabelled another."""
    annotations = workspace / "datasets" / "scenes" / "annotations.jsonl"
    _, first, *rest = annotations.read_text().splitlines()
    row = json.loads(first)
    row["label"] = next(
        json.loads(line)["label"] for line in rest if json.loads(line)["label"] != row["label"]
    )
    annotations.write_text("\n".join([json.dumps(row), *rest]) + "\n")
    return ingest(config, workspace, STORAGE)


@pytest.fixture(scope="module")
def built(server: tuple[str, Path], s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    (uri, database), folder = server, tmp_path_factory.mktemp("audited")
    workspace, key = folder / "workspace", folder / "key.pem"
    write_key_pair(key)
    config = DataConfig(
        name="scenes", scenes=ScenesConfig(num_train=8, num_val=4, num_test=4, size=24, mask_share=0.5)
    )
    data = ingest(config, workspace, STORAGE)
    model = register_version(folder, uri, workspace, data, key, 0)
    passed = Verdict(NAME, 1, True, [GateRow("test.accuracy", 0.9, None, ">= 0.5", True, "")], None)
    promote(NAME, 1, Stage.PRODUCTION, uri, reason="it is the first", verdict=passed)
    changed = without_a_sample(workspace, config)
    register_version(folder, uri, workspace, changed, key, 1)
    request(NAME, 2, Stage.PRODUCTION, uri, reason="it is newer")

    def again() -> object:
        return register_version(folder, uri, workspace, data, key, 0)

    built = Audited(uri, database, s3, workspace, key, model, again, {})
    built.contents.update({name: built.read(name) for name in built.keys()})  # noqa: SIM118 (a method)
    return built


@pytest.fixture
def audited(built: Audited, tmp_path: Path) -> Iterator[Audited]:
    """The registry; what a test changes in its database and storage is put back."""
    before = built.keys()
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(built.database)) as live, closing(sqlite3.connect(copy)) as saved:
        live.backup(saved)
    yield built
    with closing(sqlite3.connect(built.database)) as live, closing(sqlite3.connect(copy)) as saved:
        saved.backup(live)
    after = built.keys()
    for key in before.keys() | after.keys():
        if key not in before:
            built.s3.delete_object(Bucket=BUCKET, Key=key)
        elif before[key] != after.get(key):
            built.write(key, built.contents[key])


def run(audited: Audited, *arguments: str) -> Any:
    command = ["lineage", *arguments, "--tracking-uri", audited.uri, "--workspace", str(audited.workspace)]
    return CliRunner().invoke(app, command)


def test_an_untouched_version_verifies(audited: Audited) -> None:
    checks = audited.verify()
    assert [(check.name, check.outcome) for check in checks] == [
        (name, "ok")
        for name in (
            *("record", "version", "training run", "provenance", "signature", "model files"),
            *("reports", "gates", "manifest", "data", "stages"),
        )
    ], checks
    notes = {check.name: check.note for check in checks}
    assert f"s3://{BUCKET}/dvc" in notes["data"]
    assert notes["manifest"].startswith("24 rows")
    unsigned = {check.name: check for check in audited.verify(verifier=None, data="none")}
    assert unsigned["signature"].outcome == unsigned["data"].outcome == "not checked"


def test_a_flipped_byte_in_the_weights(audited: Audited) -> None:
    audited.flip(audited.key_of("/model/model.safetensors"))
    link, note = audited.broken()
    assert link == "model files"
    assert "bytes of model.safetensors are not those that were trained" in note


def test_swapped_files_of_the_model(audited: Audited) -> None:
    one, other = (audited.key_of(f"/model/{name}") for name in ("config.json", "tokenizer.json"))
    first, second = audited.read(one), audited.read(other)
    audited.write(one, second)
    audited.write(other, first)
    link, note = audited.broken()
    assert link == "model files"
    assert "bytes of config.json" in note


@pytest.mark.parametrize("place", [0.2, 0.4, 0.999])
def test_a_flipped_byte_in_the_manifest(audited: Audited, place: float) -> None:
    audited.flip(audited.key_of(f"{audited.registered['data_digest']}.parquet", "manifests"), place)
    link, note = audited.broken(data="none")
    assert link == "manifest"
    assert f"{audited.registered['data_digest']}.parquet" in note


@pytest.mark.parametrize(
    ("change", "named"),
    [({"label": "crossed"}, "the sample 'edited' is not what its digest says"), ({}, "has the digest")],
    ids=["a label", "a row that is right in itself"],
)
def test_a_manifest_that_was_edited_with_its_digest_in_the_record(
    audited: Audited, tmp_path: Path, change: dict[str, str], named: str
) -> None:
    key = audited.key_of(f"{audited.registered['data_digest']}.parquet", "manifests")
    (tmp_path / "manifest.parquet").write_bytes(audited.read(key))
    table = read_manifest(tmp_path / "manifest.parquet")
    first, *rest = table.to_pylist()
    first["id"] = "edited"
    first["row_sha256"] = row_digest(first)
    edited = pa.Table.from_pylist([first | change, *rest], schema=SCHEMA)
    write_manifest(edited, tmp_path / "manifest.parquet")
    audited.write(key, (tmp_path / "manifest.parquet").read_bytes())
    old, new = audited.registered["manifest_digest"], sha256_file(tmp_path / "manifest.parquet")
    rewrite_history(audited, lambda content: content.replace(old, new))
    link, note = audited.broken(data="none")
    assert link == "manifest"
    assert named in note


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_flipped_byte_at_the_remote(audited: Audited, kind: str) -> None:
    file = min((audited.workspace / "datasets" / "scenes" / kind).iterdir())
    path = f"{kind}/{file.name}"
    audited.flip(audited.dvc_key(path))
    link, note = audited.broken()
    assert link == "data"
    assert path in note
    assert first_broken(audited.verify(data="list")) is None  # it only looks whether the objects are there


def test_an_image_that_is_gone_from_the_remote(audited: Audited) -> None:
    file = min((audited.workspace / "datasets" / "scenes" / "images").iterdir())
    audited.s3.delete_object(Bucket=BUCKET, Key=audited.dvc_key(f"images/{file.name}"))
    for data in ("all", "list"):
        link, note = audited.broken(data=data)
        assert link == "data"
        assert f"images/{file.name} (the object is gone)" in note


def test_a_changed_listing_of_the_dataset(audited: Audited) -> None:
    statement = read_record(NAME, 1, audited.uri).statement
    assert statement is not None
    md5 = statement["predicate"]["buildDefinition"]["resolvedDependencies"][0]["digest"]["dvcMd5"]
    audited.flip(f"dvc/files/md5/{md5[:2]}/{md5[2:]}")
    link, note = audited.broken(data="list")
    assert link == "data"
    assert f"DVC object {md5}" in note


@pytest.mark.parametrize("report", ["evaluation.json", "validation.json", "gate.json", "predictions.parquet"])
def test_a_flipped_byte_in_a_report(audited: Audited, report: str) -> None:
    audited.flip(audited.key_of(f"/{report}"))
    link, note = audited.broken()
    assert link == "reports"
    assert report in note


def test_a_flipped_byte_in_the_gates_report(audited: Audited) -> None:
    audited.flip(audited.key_of(".json", "/gates/"))
    link, note = audited.broken()
    assert link == "gates"
    assert "entry 2" in note


def test_a_flipped_byte_in_the_signature(audited: Audited) -> None:
    key = audited.key_of("/provenance.json")
    audited.flip(key, audited.read(key).index(b'"sig": "') / len(audited.read(key)) + 0.001)
    link, note = audited.broken()
    assert link == "provenance"
    assert "provenance.json" in note


def rewrite_provenance(audited: Audited, change: Callable[[dict[str, Any]], None]) -> None:
    """As who can write storage and database does it: digests, tags and the whole chain agree again."""
    key, old = audited.key_of("/provenance.json"), audited.registered["provenance_digest"]
    envelope = json.loads(audited.read(key))
    change(envelope)
    audited.write(key, json.dumps(envelope).encode())
    new = hashlib.sha256(audited.read(key)).hexdigest()
    audited.client.set_model_version_tag(NAME, "1", "megl.provenance_digest", new)
    rewrite_history(audited, lambda content: content.replace(old, new))


def rewrite_history(audited: Audited, change: Callable[[str], str]) -> None:
    """Change entries and chain them anew, with the name of the last one."""
    history = find_history(audited.client, NAME)
    assert history is not None
    previous = "0" * 64
    for number in range(1, len(history.entries) + 1):
        stored = audited.client.get_run(history.run_id).data.params[f"{number:06d}"]
        content = change(stored).replace(json.loads(stored)["previous"], previous)
        previous = hashlib.sha256(content.encode()).hexdigest()
        entry = (content, history.run_id, f"{number:06d}")
        audited.sql("UPDATE params SET value = ? WHERE run_uuid = ? AND key = ?", *entry)
    audited.client.set_registered_model_tag(NAME, "megl.history_head", f"{len(history.entries)} {previous}")


def test_a_signature_that_was_replaced_with_everything_else(audited: Audited, tmp_path: Path) -> None:
    """Only the key tells: without one, a history that is rewritten as a whole looks like any other."""
    write_key_pair(tmp_path / "intruder.pem")

    def sign(envelope: dict[str, Any]) -> None:
        from megl_core.provenance.signing import open_envelope, seal

        statement = open_envelope(envelope, None, "a test")
        envelope.update(seal(statement, load_signer(str(tmp_path / "intruder.pem"))))

    rewrite_provenance(audited, sign)
    assert first_broken(audited.verify(verifier=None)) is None
    link, note = audited.broken()
    assert link == "signature"
    assert "not that of the key" in note


def test_a_signature_that_was_taken_away(audited: Audited) -> None:
    rewrite_provenance(audited, lambda envelope: envelope.update(signatures=[]))
    link, note = audited.broken()
    assert link == "signature"
    assert "not signed" in note


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_an_edited_entry_of_the_record(audited: Audited, number: int) -> None:
    audited.sql(
        "UPDATE params SET value = replace(value, '\"ann\"', '\"bob\"') WHERE key = ?", f"{number:06d}"
    )
    link, note = audited.broken(data="none")
    assert link == "record"
    assert f"entry {min(number + 1, 4)} of the record" in note  # the next one no longer follows


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_deleted_entry_of_the_record(audited: Audited, number: int) -> None:
    audited.sql("DELETE FROM params WHERE key = ?", f"{number:06d}")
    link, note = audited.broken(data="none")
    assert link == "record"
    assert "was removed" in note
    assert f"entry {number} " in note


def test_a_deleted_source_run(audited: Audited) -> None:
    audited.client.delete_run(audited.registered["run_id"])
    link, note = audited.broken(data="none")
    assert link == "training run"
    assert audited.registered["run_id"] in note


def test_a_deleted_logged_model(audited: Audited) -> None:
    model_id = audited.registered["logged_model"]
    audited.client.delete_logged_model(model_id)
    link, note = audited.broken(data="none")
    assert link == "training run"
    assert model_id in note


def test_a_deleted_version(audited: Audited) -> None:
    audited.client.transition_model_version_stage(NAME, "1", "Archived")
    audited.client.delete_model_version(NAME, "1")
    link, note = audited.broken(data="none")
    assert link == "version"
    assert "version 1, which the record tells of, is gone" in note


def test_a_deleted_record(audited: Audited) -> None:
    history = find_history(audited.client, NAME)
    assert history is not None
    audited.client.delete_run(history.run_id)
    link, note = audited.broken(data="none")
    assert link == "record"
    assert history.run_id in note


def test_a_second_record(audited: Audited) -> None:
    history = find_history(audited.client, NAME)
    assert history is not None
    experiment = audited.client.get_run(history.run_id).info.experiment_id
    other = audited.client.create_run(experiment, tags={"megl.history_of": NAME}).info.run_id
    link, note = audited.broken(data="none")
    assert link == "record"
    assert other in note


def test_a_version_that_was_registered_again_under_its_number(audited: Audited) -> None:
    """By MEGL itself, after the registered model was deleted: the record outlives it and tells."""
    audited.client.delete_registered_model(NAME)
    audited.again()
    link, note = audited.broken(data="none")
    assert link == "version"
    assert "version 1 was registered more than once: entries 1 and 5" in note


@pytest.mark.parametrize("with_record", [False, True])
def test_a_version_that_others_registered_under_its_number(audited: Audited, with_record: bool) -> None:
    """With plain MLflow: other bytes, and every tag of the version that was there."""
    client = audited.client
    history = find_history(client, NAME)
    assert history is not None
    version, other = client.get_model_version(NAME, "1"), client.get_model_version(NAME, "2")
    client.delete_registered_model(NAME)
    client.create_registered_model(NAME, tags={HISTORY_TAG: history.run_id} if with_record else {})
    model_id = other.source.removeprefix("models:/")
    client.create_model_version(NAME, other.source, version.run_id, dict(version.tags), model_id=model_id)
    link, note = audited.broken(data="none")
    assert link == ("version" if with_record else "record")
    expected = "its logged model is" if with_record else "the registered model names no record"
    assert expected in note


def test_an_alias_that_was_moved(audited: Audited) -> None:
    audited.client.set_registered_model_alias(NAME, "champion", "2")
    link, note = audited.broken(data="none")
    assert link == "stages"
    assert "'champion' belongs to version 2; by the record to 1" in note


def test_the_command_names_the_first_broken_link(audited: Audited) -> None:
    intact = run(
        audited, "verify", f"{NAME}/champion", "--data", "list", "--public-key", f"{audited.key}.pub"
    )
    assert intact.exit_code == 0
    audited.flip(audited.key_of("/gate.json"))
    done = run(audited, "verify", f"{NAME}/1", "--data", "none", "--json")
    assert done.exception is not None
    assert getattr(done.exception, "exit_code", None) == 6
    assert "reports: " in str(done.exception)
    told = json.loads(done.stdout)
    assert (told["intact"], told["first_broken"]) == (False, "reports")
    assert len(told["checks"]) == 11


def test_what_is_shown_of_a_version(audited: Audited, tmp_path: Path) -> None:
    page = tmp_path / "lineage.html"
    done = run(audited, "show", f"{NAME}/1", "--html", str(page))
    assert done.exit_code == 0, done.output
    for text in ("it is the first", "None to Production", "model.safetensors", "not in Git", "ann"):
        assert text in done.output
    digest = sha256_tree(audited.model)
    assert digest in page.read_text()
    told = json.loads(run(audited, "show", f"{NAME}/1", "--json").stdout)
    assert told["version"]["model_digest"] == digest
    assert [entry["action"] for entry in told["entries"]] == ["register", "promote"]


def test_which_versions_a_sample_had_a_part_in(audited: Audited) -> None:
    removed, kept = (
        json.loads(line)
        for line in (audited.workspace / "datasets" / "scenes" / "annotations.jsonl")
        .read_text()
        .splitlines()[:2]
    )
    assert removed["id"] != kept["id"]
    found = impact_of_sample(kept["id"], audited.uri, audited.workspace)
    assert [(use.version, use.stage, use.uses) for use in found.uses] == [
        (1, "Production", (TRAINED,)),
        (2, "None", (TRAINED,)),
    ]
    image = sha256_file(audited.workspace / "datasets" / "scenes" / kept["image"])
    by_bytes = impact_of_sample(image[:12], audited.uri, audited.workspace)
    assert by_bytes.uses == found.uses
    assert found.unanswered == ()


def test_which_versions_a_dataset_made(audited: Audited) -> None:
    found = impact_of_dataset(audited.registered["data_digest"][:16], audited.uri)
    assert [(use.version, use.uses) for use in found.uses] == [(1, (TRAINED, EVALUATED))]
    assert SELECTED not in found.uses[0].uses


def test_the_data_of_a_version_come_back_from_the_remote(audited: Audited, tmp_path: Path) -> None:
    command = ["data", "restore", f"{NAME}/1", "--output", str(tmp_path / "back"), "--json"]
    settings = [f"registry.tracking_uri={audited.uri}", f"storage.dvc_remote={STORAGE.dvc_remote}"]
    done = CliRunner().invoke(app, [*command, *(f"--set={setting}" for setting in settings)])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["digest"] == audited.registered["data_digest"]
    back, now = (
        tree_digests(folder) for folder in (tmp_path / "back", audited.workspace / "datasets/scenes")
    )
    assert {path for path in back if back[path] != now.get(path)} == {"annotations.jsonl"}


def test_what_changed_between_two_versions(audited: Audited, tmp_path: Path) -> None:
    """Manifests come from the workspace, or where it has none from the record."""
    for workspace in (audited.workspace, tmp_path):
        found = compare_versions((NAME, "1"), (NAME, "2"), audited.uri, workspace)
        assert found.data is not None
        assert len(found.data.removed) == 1
        assert list(found.data.changed.values()) == [("label",)]
        assert found.data.added == ()
        assert {key: (pair.first, pair.second) for key, pair in found.parameters.items()} == {
            "train.seed": (0, 1)
        }
        assert found.metrics["test.accuracy"].difference == pytest.approx(0.01)
        assert "megl_core" not in found.sources
    done = run(audited, "diff", f"{NAME}/1", f"{NAME}/2")
    assert "0 added, 1 removed, 1 changed" in done.output


def rows_of(audited: Audited, keep: Callable[[dict[str, Any]], bool], target: Path) -> tuple[Path, str]:
    """A dataset of some of the samples that version 1 was trained on: its manifest and its digest."""
    table = read_manifest(audited.workspace / "manifests" / f"{audited.registered['data_digest']}.parquet")
    table = table.filter([keep(row) for row in table.to_pylist()])
    write_manifest(table, target)
    return target, root_digest(table)


def novelty(audited: Audited, data: tuple[Path, str], workspace: Path, **settings: Any) -> Novelty:
    return find_novelty(*data, RetrainingConfig(**settings), NAME, audited.uri, workspace)


def test_data_that_any_version_was_trained_on_are_not_new(audited: Audited, tmp_path: Path) -> None:
    for manifest in sorted((audited.workspace / "manifests").glob("*.parquet")):
        found = novelty(audited, (manifest, manifest.stem), tmp_path)
        assert not found.train
        assert "was trained on these data" in found.why


def test_other_data_are_measured_against_the_version_in_production(audited: Audited, tmp_path: Path) -> None:
    fewer = rows_of(audited, lambda row: row["id"] != "train-00001", tmp_path / "fewer.parquet")
    found = novelty(audited, fewer, tmp_path)  # the workspace is empty: the manifest comes from the record
    assert (found.train, found.version, found.changed) == (True, 1, 1)
    assert found.reference is not None
    assert found.reference.stem == audited.registered["data_digest"]
    assert set(found.drift) == {"labels", "mask area", "text length"}
    few = novelty(audited, fewer, tmp_path, min_changed=2, max_drift=None)
    assert (few.train, few.changed) == (False, 1)
    assert "too little" in few.why


def test_few_samples_are_new_enough_if_the_make_up_moved(audited: Audited, tmp_path: Path) -> None:
    without_masks = rows_of(audited, lambda row: row["mask"] is None, tmp_path / "plain.parquet")
    found = novelty(audited, without_masks, tmp_path, min_changed=1000)
    assert found.train
    assert found.drift["mask area"] > 0.2
    assert "drift is above 0.2" in found.why
    assert not novelty(audited, without_masks, tmp_path, min_changed=1000, max_drift=50).train


def test_without_a_model_or_its_manifest_everything_is_new(audited: Audited, tmp_path: Path) -> None:
    fewer = rows_of(audited, lambda row: row["id"] != "train-00001", tmp_path / "fewer.parquet")
    first = find_novelty(*fewer, RetrainingConfig(), "nobody", audited.uri, tmp_path)
    assert (first.train, first.why, first.version) == (True, "there is no model yet", None)
    manifest = f"{audited.registered['data_digest']}.parquet"
    (key,) = (key for key in audited.keys() if key.endswith(manifest))  # noqa: SIM118
    audited.s3.delete_object(Bucket=BUCKET, Key=key)
    found = novelty(audited, fewer, tmp_path)
    assert (found.train, found.version, found.reference) == (True, 1, None)
    assert "manifest is not kept" in found.why


def test_where_the_champion_was_deleted_the_newest_other_version_counts(
    audited: Audited, tmp_path: Path
) -> None:
    audited.client.delete_model_version(NAME, "1")
    fewer = rows_of(audited, lambda row: row["id"] != "train-00001", tmp_path / "fewer.parquet")
    assert novelty(audited, fewer, tmp_path).version == 2
