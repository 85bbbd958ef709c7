"""What the verbs share that talk to a Kubeflow Pipelines server, and running a pipeline there."""

import importlib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer

from megl_core.cli.common import console, errors, print_json
from megl_core.config import Config
from megl_core.errors import UnavailableError

EXPERIMENT = "megl"
SERVICE_ACCOUNT = "megl-pipeline"

NamespaceOption = Annotated[
    str | None, typer.Option(help="The profile that owns what is made; none on a server for one user.")
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(help="A file that holds a token. Else MEGL_CLUSTER_TOKEN, or the token mounted in a pod."),
]
ExperimentOption = Annotated[str, typer.Option(help="Experiment that the runs belong to.")]
AccountOption = Annotated[
    str, typer.Option(help="Service account of the steps' pods; empty: the server's own choice.")
]


def module(name: str) -> Any:
    """A module of the pipelines package, found by entry point: megl_core does not import it."""
    found = list(entry_points(group="megl.pipelines"))
    if not found:
        raise UnavailableError(
            "the pipelines are not installed", fix="uv pip install 'megl[pipeline]', or run make setup"
        )
    package = found[0].module.partition(".")[0]
    return importlib.import_module(f"{package}.{name}")


def tell(text: str) -> None:
    """One line on standard error, where progress goes."""
    errors.print(text, markup=False, highlight=False, soft_wrap=True)


def connect(url: str, namespace: str | None, token_file: Path | None) -> Any:
    """The server, not yet asked."""
    return module("client").Server(url, namespace=namespace, token_file=token_file, tell=tell)


def run_there(
    server: Any,
    name: str,
    config: Config,
    *,
    follow: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run a pipeline on a server; follow it to its end, and fail as it fails.

    Args:
        options: stage, experiment, service account, and what else the pipeline takes.

    Raises:
        MeglError: the run failed or was canceled, or the server refused it.
    """
    started = module("remote").run_once(server, name, config, **options)
    tell(f"version {started['version']}" + ("" if started["uploaded"] else " (on the server already)"))
    tell(f"run {started['run_id']}: {started['url']}")
    if not follow:
        if as_json:
            print_json(started)
        return
    following = module("following")
    try:
        outcome = following.follow(server, started["run_id"], tell)
    except KeyboardInterrupt:
        tell(f"no longer following; the run goes on: {started['url']}")
        raise typer.Exit(130) from None
    if as_json:
        print_json(
            started
            | {"state": outcome.state, "steps": outcome.steps, "error": outcome.error, "log": outcome.log}
        )
    if not outcome.succeeded:
        raise following.failure(server, started["run_id"], outcome)
    if not as_json:
        console.print("the run succeeded", highlight=False)
