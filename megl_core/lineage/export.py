"""A version's training as OpenLineage events, for catalogues that collect them (https://openlineage.io).

Two events, START and COMPLETE, with the times of the training: the data come in, the model goes out, each
with its digest as the version. All that is told fits the facets that the standard has.
"""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megl_core.errors import ConfigError, DataError, UnavailableError
from megl_core.files import canonical_json, write_text
from megl_core.lineage.record import Recorded
from megl_core.provenance.statement import CODE, DATASET, RUN, Statement, dependency, parameters
from megl_core.redaction import redact
from megl_core.registry.tracking import flatten

API_KEY_VARIABLE = "OPENLINEAGE_API_KEY"

_NAMESPACE = "megl"
_SECONDS = 10


def training_events(recorded: Recorded) -> list[Any]:
    """START and COMPLETE of the training that made a version, as `RunEvent`.

    Raises:
        DataError: the version has no provenance.
    """
    from openlineage.client.event_v2 import Job, Run, RunEvent, RunState

    version, statement = recorded.version, recorded.statement
    if statement is None:
        raise DataError(
            "nobody can say what this version was made of",
            where=f"{version.name}/{version.version}",
            fix=recorded.trouble or "it was registered without provenance",
        )
    metadata = statement["predicate"]["runDetails"]["metadata"]
    run = Run(_run_id(recorded, statement), _run_facets(recorded, statement))
    job = Job(_NAMESPACE, f"train.{version.name}", _job_facets(statement))
    inputs, outputs = list(_inputs(statement)), [_output(recorded)]
    return [
        RunEvent(
            eventTime=metadata[time],
            run=run,
            job=job,
            eventType=state,
            inputs=inputs,
            outputs=outputs if state is RunState.COMPLETE else [],
        )
        for state, time in ((RunState.START, "startedOn"), (RunState.COMPLETE, "finishedOn"))
    ]


def write_events(events: list[Any], path: Path) -> None:
    """Write events as JSON lines, as OpenLineage's file transport does, but as a whole."""
    from openlineage.client.serde import Serde

    write_text(path, "".join(f"{Serde.to_json(event)}\n" for event in events))


def send_events(events: list[Any], url: str) -> None:
    """Send events to an OpenLineage server; `OPENLINEAGE_API_KEY` is its key, where it wants one.

    Args:
        url: of the server, such as http://localhost:5000; the path api/v1/lineage is added.

    Raises:
        ConfigError: this is no URL.
        UnavailableError: the server does not take them.
    """
    import requests
    from openlineage.client.transport.http import HttpConfig, HttpTransport

    options: dict[str, Any] = {"url": url, "timeout": _SECONDS, "retry": {"total": 2}}
    if key := os.environ.get(API_KEY_VARIABLE):
        options["auth"] = {"type": "api_key", "apiKey": key}
    try:
        transport = HttpTransport(HttpConfig.from_dict(options))
    except ValueError as error:
        raise ConfigError(redact(str(error)), fix="--url http://host:5000") from None
    try:
        for event in events:
            transport.emit(event).raise_for_status()
    except requests.RequestException as error:
        raise UnavailableError(
            f"the OpenLineage server did not take the events: {redact(str(error))}",
            where=redact(url),
            fix=f"check the address, and {API_KEY_VARIABLE}",
        ) from None
    finally:
        transport.close()


def _run_id(recorded: Recorded, statement: Statement) -> str:
    """MLflow's run as a UUID, which its 32 digits are; else one that follows from the model's digest."""
    for item in statement["predicate"]["runDetails"]["byproducts"]:
        if item["name"] == RUN:
            try:
                return str(uuid.UUID(item["annotations"]["run_id"]))
            except ValueError:
                break
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"urn:megl:{recorded.version.model_digest}"))


def _run_facets(recorded: Recorded, statement: Statement) -> dict[str, Any]:
    from openlineage.client.generated.execution_parameters_run import (
        ExecutionParameter,
        ExecutionParametersRunFacet,
    )
    from openlineage.client.generated.processing_engine_run import ProcessingEngineRunFacet
    from openlineage.client.generated.tags_run import TagsRunFacet, TagsRunFacetFields

    builder = statement["predicate"]["runDetails"]["builder"]
    settings = [
        ExecutionParameter(key, value=value if isinstance(value, str) else canonical_json(value).decode())
        for key, value in flatten(parameters(statement)).items()
    ]
    tags = {"signed_by": ", ".join(recorded.signers) or "nobody", "version": str(recorded.version.version)}
    return {
        "executionParameters": ExecutionParametersRunFacet(parameters=settings),
        "processing_engine": ProcessingEngineRunFacet(
            version=builder.get("version", {}).get("megl", ""), name="MEGL"
        ),
        "tags": TagsRunFacet(
            tags=[TagsRunFacetFields(key, value, source="MEGL") for key, value in tags.items()]
        ),
    }


def _job_facets(statement: Statement) -> dict[str, Any]:
    from openlineage.client.generated.job_type_job import JobTypeJobFacet
    from openlineage.client.generated.source_code_location_job import SourceCodeLocationJobFacet

    facets: dict[str, Any] = {
        "jobType": JobTypeJobFacet(processingType="BATCH", integration="MEGL", jobType="TRAINING")
    }
    code = dependency(statement, CODE)
    if code and code.get("uri"):
        url = str(code["uri"]).removeprefix("git+")
        facets["sourceCodeLocation"] = SourceCodeLocationJobFacet(
            type="git", url=url, repoUrl=url, version=code["digest"]["gitCommit"]
        )
    return facets


def _inputs(statement: Statement) -> Iterator[Any]:
    from openlineage.client.event_v2 import InputDataset

    for item in statement["predicate"]["buildDefinition"]["resolvedDependencies"]:
        digest = item["digest"].get("sha256", "")
        if item["name"] == DATASET:
            notes = item.get("annotations", {})
            place = str(notes.get("repository") or _NAMESPACE)
            yield InputDataset(
                place, str(notes.get("path") or digest), facets=_facets(digest, item.get("uri"))
            )
        elif item["name"].startswith("pretrained "):
            yield InputDataset(_NAMESPACE, item["name"], facets=_facets(digest, item.get("uri")))


def _output(recorded: Recorded) -> Any:
    from openlineage.client.event_v2 import OutputDataset

    version = recorded.version
    return OutputDataset(
        _NAMESPACE, f"models/{version.name}", facets=_facets(version.model_digest, version.uri)
    )


def _facets(digest: str, uri: str | None) -> dict[str, Any]:
    from openlineage.client.generated.dataset_version_dataset import DatasetVersionDatasetFacet
    from openlineage.client.generated.datasource_dataset import DatasourceDatasetFacet

    facets: dict[str, Any] = {"version": DatasetVersionDatasetFacet(datasetVersion=digest)}
    if uri:
        facets["dataSource"] = DatasourceDatasetFacet(name=uri, uri=uri)
    return facets
