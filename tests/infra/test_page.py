"""What docs/cluster.md and the jobs tell to do can be done."""

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from megl_core.config import Config, load_config
from tests.conftest import REPOSITORY
from tests.infra.manifests import JOBS, KUBERNETES, find, objects, render

PAGE = (REPOSITORY / "docs" / "cluster.md").read_text(encoding="utf-8")


def arguments(folder: str) -> list[str]:
    """The command line of a job's container."""
    (job,) = (one for one in objects(folder) if one["kind"] == "Job")
    container = job["spec"]["template"]["spec"]["containers"][0]
    return [*container["command"], *container["args"]]


def test_the_overlay_of_ones_own_builds_and_changes_what_it_says(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n# my-cluster/kustomization\.yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "megl").symlink_to(REPOSITORY)
    own = tmp_path / "my-cluster"
    own.mkdir()
    (own / "kustomization.yaml").write_text(text)
    made = render(own)
    (settings,) = [one["data"] for one in made if "PGHOST" in one.get("data", {})]
    assert settings["MLFLOW_ARTIFACTS_DESTINATION"] == "s3://your-bucket/mlflow"
    assert settings["PGSSLMODE"] == "verify-full"
    images = set(re.findall(r"image: (\S+)/megl:", yaml.safe_dump_all(made)))
    assert images == {"registry.your-company.com"}


@pytest.mark.parametrize("path", sorted(set(re.findall(r"infra/kubernetes/[\w./-]*\w", PAGE))))
def test_every_file_that_the_page_names_is_there(path: str) -> None:
    assert (REPOSITORY / path).exists()


def test_the_check_sets_settings_that_there_are() -> None:
    words = arguments("jobs/check")
    config = load_config(None, [word.removeprefix("--set=") for word in words if word.startswith("--set=")])
    assert (config.registry.model_name, config.train.epochs) == ("megl-check", 1)


def test_the_schedules_settings_are_settings_and_name_what_the_namespace_has() -> None:
    config: Config = load_config(KUBERNETES / "jobs" / "schedule" / "params.yaml")
    find("overlays/prod", "PersistentVolumeClaim", str(config.pods.workspace_claim))
    for secret in config.pods.secrets:
        assert f"create secret generic {secret} " in PAGE


@pytest.mark.parametrize("folder", JOBS)
def test_the_command_line_of_each_job_is_one_that_megl_takes(folder: str) -> None:
    from megl_core.cli import app

    if folder == "jobs/schedule":
        pytest.importorskip("pipelines.schedules")
    program, *words = arguments(folder)
    assert program == "megl"
    nouns = [word for word in words if not word.startswith("-")]
    verb = nouns[:3] if "schedule" in nouns else nouns[:2]
    shown = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert shown.exit_code == 0, shown.output
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        assert option in shown.output, f"{' '.join(verb)} knows no {option}"
