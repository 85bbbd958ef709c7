"""The repository itself: locks, Makefile, papers, and nothing that belongs to one machine."""

import re
import subprocess
import tomllib

import pytest
import yaml

from tests.conftest import REPOSITORY

LOCKS = ["requirements.lock"] + [
    f"requirements-{name}.lock" for name in ("train", "serve", "data", "pipeline")
]


def locked(name: str) -> dict[str, str]:
    """`{package: version}` of a lock; every line must be a comment or `package==version`."""
    versions = {}
    for line in (REPOSITORY / name).read_text().splitlines():
        if not line.lstrip().startswith("#"):
            package, version = re.fullmatch(r"([a-z0-9_-]+)==([0-9][\w.!]*)(?: ; .+)?", line).groups()  # type: ignore[union-attr]
            versions[package] = version
    return versions


def tracked() -> list[str]:
    """Files of the repository that Git knows or would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a Git checkout")
    return [name for name in listed.stdout.splitlines() if (REPOSITORY / name).is_file()]


@pytest.mark.parametrize("name", LOCKS)
def test_locks_pin_versions_and_name_no_machine(name: str) -> None:
    text = (REPOSITORY / name).read_text()
    assert len(locked(name)) > 20
    assert "+cpu" not in text
    assert "://" not in text
    assert "--" not in text
    assert "megl" not in locked(name)


@pytest.mark.parametrize("name", LOCKS[1:])
def test_the_locks_agree_with_each_other(name: str) -> None:
    assert locked(name).items() <= locked(LOCKS[0]).items()


def test_the_locks_keep_the_constraints() -> None:
    constraints = locked("constraints.txt")
    normal = {package.replace("_", "-"): version for package, version in constraints.items()}
    assert normal.items() <= locked(LOCKS[0]).items()


@pytest.mark.parametrize(
    ("name", "present", "absent"),
    [
        (
            "requirements-train.lock",
            {"torch", "mlflow"},
            {"kfp", "dvc", "great-expectations", "kubernetes", "moto"},
        ),
        (
            "requirements-serve.lock",
            {"torch", "mlflow-skinny"},
            {"mlflow", "kfp", "dvc", "great-expectations"},
        ),
        ("requirements-data.lock", {"dvc", "dvc-s3", "great-expectations"}, {"torch", "mlflow", "kfp"}),
        (
            "requirements-pipeline.lock",
            {"kfp", "kubernetes"},
            {"torch", "mlflow", "dvc", "great-expectations"},
        ),
    ],
)
def test_each_lock_carries_what_its_image_needs_and_no_more(
    name: str, present: set[str], absent: set[str]
) -> None:
    packages = locked(name).keys()
    assert present <= packages
    assert absent.isdisjoint(packages)


def test_the_locks_hold_every_direct_dependency_of_their_extra() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for name, extra in zip(LOCKS, ["dev", "train", "serve", "data", "pipeline"], strict=True):
        direct = project["dependencies"] + project["optional-dependencies"][extra]
        packages = {re.match(r"[\w-]+", requirement)[0].lower() for requirement in direct}  # type: ignore[index]
        assert packages - {"megl"} <= locked(name).keys(), name


def test_make_help_lists_every_target() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: (\S+)$", makefile, flags=re.MULTILINE))
    shown = subprocess.run(
        ["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    listed = set(re.findall(r"^\s+(?:\x1b\[1m)?([a-z][a-z0-9-]*)", shown, flags=re.MULTILINE))
    assert listed == targets
    assert targets >= {
        *("setup", "demo", "test", "test-unit", "test-integration", "test-e2e", "lint", "format"),
        *("lock", "params", "compile", "compile-check", "ui", "doctor", "clean", "help"),
    }


def test_make_refuses_a_python_that_is_too_old_and_says_what_to_do() -> None:
    done = subprocess.run(
        ["make", "--always-make", "VENV=build/none", "PYTHON=/bin/false", "build/none/bin/uv"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "needs Python 3.11" in done.stderr
    assert not (REPOSITORY / "build").exists()


def test_ci_runs_what_it_should() -> None:
    script = REPOSITORY / ".ci" / "run"
    assert script.stat().st_mode & 0o111 == 0o111
    text = script.read_text()
    assert "set -euo pipefail" in text
    for target in ("setup", "lint", "compile-check", "test"):
        assert re.search(rf"^make .*\b{target}\b", text, flags=re.MULTILINE)


def test_the_papers_are_there() -> None:
    assert "Version 2.0, January 2004" in (REPOSITORY / "LICENSE").read_text()
    assert "## [Unreleased] - 0.1.0" in (REPOSITORY / "CHANGELOG.md").read_text()
    for name in ("README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/dvc.md"):
        assert (REPOSITORY / name).stat().st_size > 0, name


def test_stages_run_the_command_line_and_read_their_own_settings() -> None:
    from megl_core.config import Config

    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    assert list(stages) == ["generate", "validate", "pack", "train", "evaluate"]
    settings = Config().model_dump()
    for name, stage in stages.items():
        commands = stage["cmd"] if isinstance(stage["cmd"], list) else [stage["cmd"]]
        assert commands[0].startswith("megl "), name
        for parameter in stage["params"]:
            found = settings
            for key in parameter.split("."):
                found = found[key]
        for dependency in stage["deps"]:
            made = dependency.startswith(("data/", "runs/"))
            assert made or (REPOSITORY / dependency).exists(), dependency


def test_local_links_in_the_documentation_lead_somewhere() -> None:
    for name in tracked():
        if name.endswith(".md"):
            page = REPOSITORY / name
            for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
                if "://" not in target:
                    assert (page.parent / target).exists(), f"{name} -> {target}"


def test_nothing_that_git_ignores_is_committed() -> None:
    command = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a Git checkout")
    assert listed.stdout.splitlines()[:5] == []


def test_no_large_and_no_binary_serialised_files_are_tracked() -> None:
    for name in tracked():
        assert not name.endswith((".pkl", ".pickle", ".pt", ".pth", ".ckpt")), name
        assert (REPOSITORY / name).stat().st_size < 2_000_000, name
