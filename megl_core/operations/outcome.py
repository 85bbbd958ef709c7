"""How a pipeline run ended, and telling of it: in the log, and to a webhook where one is named.

The step that ends every run is told by the pipeline whether the others succeeded and gets none of their
results. What the run's last step leaves in the workspace says the rest.
"""

import http.client
import json
import os
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from megl_core.errors import MeglError
from megl_core.files import read_json, write_json
from megl_core.progress import get_reporter

WEBHOOK_VARIABLE = "MEGL_WEBHOOK_URL"
_TIMEOUT = 10.0  # seconds
_SUCCEEDED = {"SUCCEEDED", "COMPLETE", "COMPLETED", "CACHED"}  # the names differ between servers
_FAILED = {"FAILED", "CANCELED", "CANCELLED", "CANCELLING"}


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        run: the pipeline run's id.
        state: succeeded, failed, or what the pipeline's server calls it.
        model: the registered model; "" where the run came to none, and so are the next three.
        version: its number, as text.
        stage: the version's stage.
        report: where the run's page lies.
        error: what failed, as far as the server tells.
    """

    run: str
    state: str
    model: str = ""
    version: str = ""
    stage: str = ""
    report: str = ""
    error: str = ""

    @property
    def text(self) -> str:
        """One sentence for people."""
        parts = [f"MEGL run {self.run or 'without a name'}: {self.state}"]
        if self.version:
            parts.append(f"{self.model} v{self.version} in stage {self.stage}")
        if self.report:
            parts.append(f"report {self.report}")
        if self.error:
            parts.append(self.error)
        return ", ".join(parts)


def result_file(workspace: Path, run: str) -> Path:
    """Where a run's result lies."""
    return workspace / "pipeline" / "runs" / run / "result.json"


def write_result(workspace: Path, run: str, result: dict[str, Any]) -> None:
    """Leave the run's result for whoever asks after its end; a step outside of a run leaves none."""
    if run:
        write_json(result_file(workspace, run), result)


def read_outcome(workspace: Path, run: str, state: str, error: str = "") -> Outcome:
    """The outcome from the server's word for it and from what the run left in the workspace.

    A server that never closes its record of a group of steps calls it RUNNING when it has ended: then
    the result tells whether the run came to its end.
    """
    result: dict[str, Any] = {}
    if run and result_file(workspace, run).is_file():
        result = read_json(result_file(workspace, run))
    if state in _FAILED:
        state = "failed"
    elif state in _SUCCEEDED or result:
        state = "succeeded"
    named = {name: str(result.get(name, "")) for name in ("model_name", "version", "stage", "report")}
    return Outcome(run, state, named.pop("model_name"), **named, error=error)


def tell(outcome: Outcome) -> None:
    """Write the outcome to the log and POST it to `MEGL_WEBHOOK_URL`, if that is set.

    The JSON holds the fields of `Outcome`, and as `text` the sentence that chats show. A webhook that
    does not take it is named in the log by its host; the rest of its address is a secret.
    """
    reporter = get_reporter()
    reporter.message(outcome.text)
    if url := os.environ.get(WEBHOOK_VARIABLE):
        try:
            _post(url, asdict(outcome) | {"text": outcome.text})
        except MeglError as error:
            reporter.message(f"the webhook was not told: {error.what}")


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname:
            return parts.hostname
    except ValueError:
        pass
    raise MeglError(f"{WEBHOOK_VARIABLE} is not an http address")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Another address than the one that was given is told nothing."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _post(url: str, body: dict[str, Any]) -> None:
    host = _host(url)
    request = urllib.request.Request(  # noqa: S310 (http or https)
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        urllib.request.build_opener(_NoRedirect).open(request, timeout=_TIMEOUT).close()
    except urllib.error.HTTPError as error:
        raise MeglError(f"{host} answers with {error.code}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise MeglError(f"{host}: {type(error).__name__}") from None
