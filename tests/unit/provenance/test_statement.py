"""The statement has the fields that in-toto and SLSA name, and tells what a training knows."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from megl_core.errors import DataError, IntegrityError
from megl_core.files import sha256_file
from megl_core.provenance import source
from megl_core.provenance.source import find_code
from megl_core.provenance.statement import (
    Statement,
    Training,
    byproducts,
    check_subjects,
    data_digest,
    dependency,
    missing_parts,
    parameters,
    read_statement,
    subjects,
    training_statement,
    with_byproducts,
)
from megl_core.redaction import location_uri

DIGEST_SET = {
    "type": "object",
    "minProperties": 1,
    "properties": {
        "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "gitCommit": {"type": "string", "pattern": "^([0-9a-f]{40}|[0-9a-f]{64})$"},
    },
    "additionalProperties": {"type": "string"},
}
URI = {"type": "string", "pattern": r"^[a-z][a-z0-9+.-]*:[^\s]+$"}
TIME = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"}
RESOURCE = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "uri": URI,
        "digest": DIGEST_SET,
        "annotations": {"type": "object"},
    },
    "anyOf": [{"required": ["uri"]}, {"required": ["digest"]}],  # or `content`, which we do not use
    "additionalProperties": False,
}
SLSA_V1 = {
    "type": "object",
    "required": ["_type", "subject", "predicateType", "predicate"],
    "additionalProperties": False,
    "properties": {
        "_type": {"const": "https://in-toto.io/Statement/v1"},
        "predicateType": {"const": "https://slsa.dev/provenance/v1"},
        "subject": {
            "type": "array",
            "minItems": 1,
            "items": RESOURCE | {"required": ["name", "digest"]},
        },
        "predicate": {
            "type": "object",
            "required": ["buildDefinition", "runDetails"],
            "additionalProperties": False,
            "properties": {
                "buildDefinition": {
                    "type": "object",
                    "required": ["buildType", "externalParameters"],
                    "additionalProperties": False,
                    "properties": {
                        "buildType": URI,
                        "externalParameters": {"type": "object"},
                        "internalParameters": {"type": "object"},
                        "resolvedDependencies": {"type": "array", "items": RESOURCE},
                    },
                },
                "runDetails": {
                    "type": "object",
                    "required": ["builder"],
                    "additionalProperties": False,
                    "properties": {
                        "builder": {
                            "type": "object",
                            "required": ["id"],
                            "additionalProperties": False,
                            "properties": {
                                "id": URI,
                                "version": {"type": "object", "additionalProperties": {"type": "string"}},
                            },
                        },
                        "metadata": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {
                                "invocationId": {"type": "string", "minLength": 1},
                                "startedOn": TIME,
                                "finishedOn": TIME,
                            },
                        },
                        "byproducts": {"type": "array", "items": RESOURCE},
                    },
                },
            },
        },
    },
}
"""https://in-toto.io/Statement/v1 and https://slsa.dev/spec/v1.0/provenance, as far as we use them."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def made(model: Path, repository: str = "https://ann:secret@example.org/data.git") -> Statement:
    training = Training(
        sections={"train": {"epochs": 2}},
        data_digest="d" * 64,
        dvc={
            "repository": repository,
            "path": "my photos",
            "md5": "a.dir",
            "revision": "abc",
            "num_files": 3,
            "size": 10,
            "source": {"uri": "dvc+https://example.org/birds.git#data", "digest": {"gitCommit": "a" * 40}},
        },
        code_digest="c" * 64,
        checkpoints={"backbone": "b" * 64},
        run_id="run-1",
        started="2026-11-24T10:00:00Z",
        finished="2026-11-24T10:05:00Z",
    )
    return training_statement(model, training)


@pytest.mark.parametrize("place", ["checkout", "image", "installed"])
@pytest.mark.parametrize("repository", ["https://example.org/data.git", "/srv/my data", "../relative"])
def test_it_is_an_in_toto_statement_with_slsa_provenance(
    model: Path, place: str, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "image":
        monkeypatch.setenv("MEGL_IMAGE", "registry.example.org/megl:1")
        monkeypatch.setenv("MEGL_IMAGE_DIGEST", "sha256:" + "f" * 64)
        monkeypatch.setenv("MEGL_PIPELINE_RUN", "2026-11-24T09-00-00")
    if place != "checkout":
        monkeypatch.setattr(source.megl_core, "__file__", str(model / "megl_core" / "__init__.py"))
    statement = with_byproducts(made(model, repository), {"evaluation.json": "e" * 64})
    jsonschema.validate(statement, SLSA_V1)
    image = dependency(statement, "image")
    wanted = {"name": "image", "uri": "oci://registry.example.org/megl:1", "digest": {"sha256": "f" * 64}}
    assert image == (wanted if place == "image" else None)
    assert dependency(statement, "environment") is not None


def test_it_names_files_data_code_and_settings(model: Path) -> None:
    statement = made(model)
    assert subjects(statement) == {
        name: sha256_file(model / name) for name in ("config.json", "model.safetensors")
    }
    assert data_digest(statement) == "d" * 64
    dataset = dependency(statement, "dataset")
    assert dataset is not None
    assert dataset["digest"]["dvcMd5"] == "a.dir"
    assert "secret" not in str(statement)
    assert dataset["uri"] == "dvc+https://example.org/data.git#my%20photos"
    assert dataset["annotations"] == {
        "repository": "https://example.org/data.git",
        "path": "my photos",
        "revision": "abc",
        "num_files": 3,
        "size": 10,
    }
    imported = dependency(statement, "dataset source")
    assert imported is not None
    assert imported["uri"] == "dvc+https://example.org/birds.git#data"
    assert imported["digest"] == {"gitCommit": "a" * 40}
    pretrained = dependency(statement, "pretrained backbone")
    assert pretrained == {"name": "pretrained backbone", "digest": {"sha256": "b" * 64}}
    assert parameters(statement) == {"train": {"epochs": 2}}
    run = {"name": "mlflow run", "uri": "runs:/run-1", "annotations": {"run_id": "run-1"}}
    assert statement["predicate"]["runDetails"]["byproducts"] == [run]


def test_reports_are_added_and_replaced_by_name(model: Path) -> None:
    one = with_byproducts(made(model), {"evaluation.json": "1" * 64, "validation.json": "2" * 64})
    two = with_byproducts(one, {"evaluation.json": "3" * 64})
    assert byproducts(two) == {"evaluation.json": "3" * 64, "validation.json": "2" * 64}
    assert byproducts(one)["evaluation.json"] == "1" * 64


def test_what_is_missing_is_said_in_words(model: Path) -> None:
    statement = made(model)
    assert missing_parts(statement) == ["the validation report", "the evaluation"]
    whole = with_byproducts(statement, {"evaluation.json": "1" * 64, "validation.json": "2" * 64})
    assert missing_parts(whole) == []
    dataset = dependency(whole, "dataset")
    whole["predicate"]["buildDefinition"]["resolvedDependencies"] = [{"name": "dataset", "digest": {}}]
    assert dataset is not None
    assert missing_parts(whole)[:2] == ["the data's digest", "the data's DVC version"]


@pytest.mark.parametrize("change", ["edit", "remove", "add", "swap"])
def test_each_change_of_a_model_folder_is_named(model: Path, change: str) -> None:
    statement = made(model)
    check_subjects(statement, model, "here")
    weights = model / "model.safetensors"
    if change == "edit":
        weights.write_bytes(b"weighte")
    elif change == "remove":
        weights.unlink()
    elif change == "add":
        (model / "extra.json").write_text("{}")
    else:
        weights.write_bytes((model / "config.json").read_bytes())
    with pytest.raises(IntegrityError, match=r"extra\.json" if change == "add" else r"model\.safetensors"):
        check_subjects(statement, model, "here")


@pytest.mark.parametrize("value", [None, [], {}, {"_type": "x", "predicateType": "y"}])
def test_what_is_no_statement_is_named(value: object) -> None:
    with pytest.raises(DataError, match="no provenance statement"):
        read_statement(value, "here")


def test_the_commit_of_the_checkout_and_whether_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "megl_core"
    package.mkdir()
    (package / "__init__.py").touch()

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        command = ["git", *identity, "-C", str(tmp_path), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    git("remote", "add", "origin", "https://ann:secret@example.org/megl.git")
    monkeypatch.setattr(source.megl_core, "__file__", str(package / "__init__.py"))
    find_code.cache_clear()
    code = find_code()
    assert (code.commit, code.dirty) == (git("rev-parse", "HEAD"), False)
    assert code.uri == "git+https://example.org/megl.git"
    (package / "new.py").touch()
    find_code.cache_clear()
    assert find_code().dirty is True
    (package / "new.py").unlink()
    (tmp_path / "notes.txt").touch()  # nothing that runs
    find_code.cache_clear()
    assert find_code().dirty is False
    (package / "__init__.py").write_text("changed = True\n")
    find_code.cache_clear()
    assert find_code().dirty is True


@pytest.mark.parametrize(
    ("location", "uri"),
    [
        ("git@github.com:owner/megl.git", "git+ssh://github.com/owner/megl.git"),
        ("ssh://git@example.org/megl", "git+ssh://example.org/megl"),
        ("/srv/git/my megl", "git+file:///srv/git/my%20megl"),
        ("", ""),
        ("../megl", ""),
    ],
)
def test_where_a_checkout_comes_from_is_a_uri_without_credentials(location: str, uri: str) -> None:
    assert location_uri("git", location) == uri


def test_outside_of_a_checkout_a_variable_tells_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source.megl_core, "__file__", str(tmp_path / "megl_core" / "__init__.py"))
    monkeypatch.setenv("MEGL_CODE_COMMIT", "c0ffee")
    find_code.cache_clear()
    code = find_code()
    assert (code.commit, code.dirty, code.lock_digest) == ("c0ffee", None, "")


def test_without_git_the_variable_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(source.megl_core, "__file__", str(tmp_path / "megl_core" / "__init__.py"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("MEGL_CODE_COMMIT", "c0ffee")
    find_code.cache_clear()
    assert (find_code().commit, find_code().dirty) == ("c0ffee", None)


@pytest.fixture(autouse=True)
def _forget_the_code(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("MEGL_CODE_COMMIT", "MEGL_IMAGE", "MEGL_IMAGE_DIGEST", "MEGL_PIPELINE_RUN"):
        monkeypatch.delenv(name, raising=False)
    find_code.cache_clear()
    yield
    find_code.cache_clear()
