"""A version's training as OpenLineage events, for a catalogue that collects such."""

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megl_core.errors import ConfigError, UnavailableError
from megl_core.lineage.record import Recorded
from megl_core.provenance.statement import CODE, DATASET, Statement, data_digest, dependency

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent
    from openlineage.client.transport import Transport

NAMESPACE = "megl"
_NAMES = uuid.UUID("6f6d7f5e-6a0b-5f0c-9d5b-3a4f1d1c2b7e")  # of run ids; any constant will do
_PRODUCER = "urn:megl:lineage"


def export(recorded: Recorded, *, file: Path | None = None, url: str | None = None) -> int:
    """Write the events to a file, a line each, or send them to a server; returns how many there were.

    Raises:
        ConfigError: the version has no provenance.
        UnavailableError: the server does not take them.
    """
    if recorded.statement is None:
        raise ConfigError("the version has no provenance to export", fix="register it with its statement")
    found = events(recorded, recorded.statement)
    transport = _transport(file, url)
    for event in found:
        try:
            transport.emit(event)
        except Exception as error:
            raise UnavailableError(f"the events were not taken: {error}", where=url or str(file)) from None
    transport.close()
    return len(found)


def events(recorded: Recorded, statement: Statement) -> "list[RunEvent]":
    """START and COMPLETE of the training, with the dataset that went in and the model that came out."""
    from openlineage.client.event_v2 import Job, Run, RunEvent, RunState

    metadata = statement["predicate"]["runDetails"]["metadata"]
    run = Run(runId=str(uuid.uuid5(_NAMES, recorded.version.run_id)))
    job = Job(NAMESPACE, f"train {recorded.version.name}", facets=_job_facets(statement))
    common = {"run": run, "job": job, "producer": _PRODUCER, "inputs": [_dataset(statement)]}
    return [
        RunEvent(eventTime=metadata["startedOn"], eventType=RunState.START, **common),
        RunEvent(
            eventTime=metadata["finishedOn"],
            eventType=RunState.COMPLETE,
            outputs=[_model(recorded)],
            **common,
        ),
    ]


def _dataset(statement: Statement) -> Any:
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2.dataset_version_dataset import DatasetVersionDatasetFacet

    dataset = dependency(statement, DATASET) or {}
    facets = {"version": DatasetVersionDatasetFacet(data_digest(statement))}
    return InputDataset(NAMESPACE, str(dataset.get("uri") or data_digest(statement)), facets=facets)


def _model(recorded: Recorded) -> Any:
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2.dataset_version_dataset import DatasetVersionDatasetFacet

    facets = {"version": DatasetVersionDatasetFacet(recorded.version.model_digest)}
    return OutputDataset(NAMESPACE, recorded.version.uri, facets=facets)


def _job_facets(statement: Statement) -> dict[str, Any]:
    from openlineage.client.facet_v2.source_code_location_job import SourceCodeLocationJobFacet

    code = dependency(statement, CODE) or {}
    if not code.get("uri"):
        return {}
    location = SourceCodeLocationJobFacet(
        "git", code["uri"].removeprefix("git+"), version=code["digest"].get("gitCommit")
    )
    return {"sourceCodeLocation": location}


def _transport(file: Path | None, url: str | None) -> "Transport":
    from openlineage.client.transport.file import FileConfig, FileTransport
    from openlineage.client.transport.http import HttpConfig, HttpTransport

    if (file is None) == (url is None):
        raise ConfigError("a file or a URL is needed", fix="--file events.jsonl, or --url https://...")
    if url is not None:
        return HttpTransport(HttpConfig(url))
    return FileTransport(FileConfig(str(file), append=True))
