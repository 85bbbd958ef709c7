"""The statement of a model: what was made, of what, by what.

An in-toto Statement v1 whose predicate is SLSA Provenance v1 (https://slsa.dev/spec/v1.0/provenance).
Subjects are the files of the model folder. The training step writes it, since it knows; registration adds
the digests of the reports, since it stores them.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from megl_core.errors import DataError, IntegrityError
from megl_core.files import tree_digests
from megl_core.provenance.source import (
    Code,
    environment_digest,
    find_code,
    find_image,
    pipeline_run,
)
from megl_core.redaction import location_uri, redact

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:megl:training:v1"
BUILDER = "urn:megl:builder"
PROVENANCE_FILE = "provenance.json"

DATASET, SOURCE, CODE, LIBRARY, LOCK, IMAGE, ENVIRONMENT = (
    *("dataset", "dataset source", "code", "megl_core", "lock", "image", "environment"),
)
"""Names of resolved dependencies."""
RUN = "mlflow run"
"""The by-product that names the training run."""

Statement = dict[str, Any]


@dataclass(frozen=True)
class Training:
    """What a training step knows of itself.

    Attributes:
        sections: the resolved sections of the configuration.
        data_digest: root digest of the data.
        dvc: the dataset's DVC version, as `DvcVersion` has it, and as `source` what it was imported from;
            None where DVC does not know the data.
        code_digest: of `megl_core`.
        checkpoints: SHA-256 of pretrained parts, by `backbone` and `decoder`.
        run_id: the MLflow run; "" without one.
        started, finished: RFC 3339 in UTC, ending in `Z`.
        processes: that trained.
    """

    sections: Mapping[str, Any]
    data_digest: str
    dvc: Mapping[str, Any] | None
    code_digest: str
    checkpoints: Mapping[str, str]
    run_id: str
    started: str
    finished: str
    processes: int = 1


def training_statement(model: Path, training: Training) -> Statement:
    """The statement of a model folder that was just trained."""
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": digest}} for name, digest in tree_digests(model).items()
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": dict(training.sections),
                "internalParameters": {"processes": training.processes},
                "resolvedDependencies": list(_dependencies(training)),
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"megl": _version()}},
                "metadata": {
                    **({"invocationId": invocation} if (invocation := pipeline_run()) else {}),
                    "startedOn": training.started,
                    "finishedOn": training.finished,
                },
                "byproducts": [_run(training.run_id)] if training.run_id else [],
            },
        },
    }


def statement_file(model: Path) -> Path:
    """Where a training leaves its statement: beside the folder, which tells of no time or place."""
    return model.with_name(f"{model.name}.provenance.json")


def with_byproducts(statement: Statement, reports: Mapping[str, str]) -> Statement:
    """The statement with the SHA-256 of reports among its by-products, by name; others stay."""
    copy: Statement = json.loads(json.dumps(statement))
    details = copy["predicate"]["runDetails"]
    kept = [item for item in details["byproducts"] if item["name"] not in reports]
    added = [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(reports.items())]
    details["byproducts"] = kept + added
    return copy


def subjects(statement: Statement) -> dict[str, str]:
    """`{file: SHA-256}` of the model folder."""
    return {item["name"]: item["digest"]["sha256"] for item in statement["subject"]}


def byproducts(statement: Statement) -> dict[str, str]:
    """`{report: SHA-256}`."""
    items = statement["predicate"]["runDetails"]["byproducts"]
    return {item["name"]: item["digest"]["sha256"] for item in items if "sha256" in item.get("digest", {})}


def parameters(statement: Statement) -> dict[str, Any]:
    """The sections of the configuration that the training ran with."""
    return dict(statement["predicate"]["buildDefinition"]["externalParameters"])


def dependency(statement: Statement, name: str) -> dict[str, Any] | None:
    """What the model was made of, by name."""
    items = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    return next((dict(item) for item in items if item["name"] == name), None)


def data_digest(statement: Statement) -> str:
    """Root digest of the training data; "" where the statement does not say."""
    dataset = dependency(statement, DATASET)
    return str(dataset["digest"].get("sha256", "")) if dataset else ""


def missing_parts(statement: Statement) -> list[str]:
    """What a complete statement would say and this one does not, in words."""
    dataset = dependency(statement, DATASET)
    known = byproducts(statement)
    checks = {
        "the model's files": bool(statement["subject"]),
        "the data's digest": bool(data_digest(statement)),
        "the data's DVC version": bool(dataset and dataset["digest"].get("dvcMd5")),
        "the code's digest": dependency(statement, LIBRARY) is not None,
        "image or packages": any(dependency(statement, name) for name in (IMAGE, LOCK, ENVIRONMENT)),
        "the parameters": bool(parameters(statement)),
        "the training run": RUN in _byproduct_names(statement),
        "the validation report": "validation.json" in known,
        "the evaluation": "evaluation.json" in known,
    }
    return [name for name, is_there in checks.items() if not is_there]


def read_statement(value: Any, where: str) -> Statement:
    """Check that a JSON value is a statement of ours.

    Raises:
        DataError: it is not.
    """
    try:
        if (value["_type"], value["predicateType"]) != (STATEMENT_TYPE, PREDICATE_TYPE):
            raise ValueError("of another type")
        subjects(value), byproducts(value), parameters(value), dependency(value, DATASET)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"this is no provenance statement: {error!r}", where=where) from None
    return dict(value)


def check_subjects(statement: Statement, model: Path, where: str) -> None:
    """Compare a model folder with the statement's subjects, file by file.

    Raises:
        IntegrityError: naming the first file that differs, is missing, or is too many.
    """
    wanted, found = subjects(statement), tree_digests(model)
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            raise IntegrityError(f"the model's file {name} is missing", where=where)
        if name not in wanted:
            raise IntegrityError(f"the file {name} is not part of the model", where=where)
        if wanted[name] != found[name]:
            raise IntegrityError(
                f"the bytes of {name} are not those that were trained: {wanted[name][:12]} then, "
                f"{found[name][:12]} now",
                where=where,
            )


def _dependencies(training: Training) -> Iterator[dict[str, Any]]:
    yield _dataset(training)
    if source := (training.dvc or {}).get("source"):
        yield {"name": SOURCE, **source}
    code = find_code()
    if code.commit:
        yield _code(code)
    yield {"name": LIBRARY, "digest": {"sha256": training.code_digest}}
    if code.lock_digest:
        yield {"name": LOCK, "digest": {"sha256": code.lock_digest}}
    image, image_digest = find_image()
    if image_digest:
        uri = {"uri": f"oci://{image}"} if image else {}
        yield {"name": IMAGE, **uri, "digest": {"sha256": image_digest.removeprefix("sha256:")}}
    yield {"name": ENVIRONMENT, "digest": {"sha256": environment_digest()}}
    for part, digest in sorted(training.checkpoints.items()):
        yield {"name": f"pretrained {part}", "digest": {"sha256": digest}}


def _dataset(training: Training) -> dict[str, Any]:
    dataset: dict[str, Any] = {"name": DATASET, "digest": {"sha256": training.data_digest}}
    if dvc := training.dvc:
        dataset["digest"]["dvcMd5"] = str(dvc["md5"])
        if uri := location_uri("dvc", str(dvc["repository"])):
            dataset["uri"] = f"{uri}#{quote(str(dvc['path']))}"
        annotations = {name: dvc.get(name) for name in ("path", "revision", "num_files", "size")}
        dataset["annotations"] = annotations | {"repository": redact(str(dvc["repository"]))}
    return dataset


def _code(code: Code) -> dict[str, Any]:
    uri = {"uri": code.uri} if code.uri else {}
    return {"name": CODE, **uri, "digest": {"gitCommit": code.commit}, "annotations": {"dirty": code.dirty}}


def _run(run_id: str) -> dict[str, Any]:
    return {"name": RUN, "uri": f"runs:/{run_id}", "annotations": {"run_id": run_id}}


def _byproduct_names(statement: Statement) -> list[str]:
    return [item["name"] for item in statement["predicate"]["runDetails"]["byproducts"]]


def _version() -> str:
    from megl_core import __version__

    return str(__version__)
