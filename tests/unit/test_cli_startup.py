"""The command line answers at once, helps without frameworks, and fails with a message and a code."""

import json
import subprocess
import sys
from collections.abc import Iterable

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from megl_core.cli import COMMANDS, _load, app
from tests.conftest import FRAMEWORKS

# Runs the command line as if the packages that the first argument names were not installed.
WITHOUT = """
import sys

refused = sys.argv.pop(1).split()

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
from megl_core.cli import main
sys.argv[0] = "megl"
main()
"""


def megl(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "megl_core.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def megl_without(packages: Iterable[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, " ".join(packages), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def verbs(noun: str) -> list[tuple[str, ...]]:
    """The commands under a noun that do something: `("data", "pack")`, or `("train",)` itself."""
    command = _load(noun)
    return [(noun, verb) for verb in command.commands] if isinstance(command, TyperGroup) else [(noun,)]


def test_help_loads_no_framework_and_lists_every_noun() -> None:
    code = (
        "import sys, json\nsys.argv = ['megl', '--help']\nfrom megl_core.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(json.dumps(sorted(name for name in sys.modules if '.' not in name)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *shown, modules = done.stdout.splitlines()

    assert set(json.loads(modules)).isdisjoint(FRAMEWORKS)
    for noun, (_, line) in COMMANDS.items():
        assert any(noun in text and line in text for text in shown), noun


@pytest.mark.parametrize("noun", COMMANDS)
def test_every_verb_helps_without_frameworks_and_shows_an_example(noun: str) -> None:
    for verb in verbs(noun):
        done = megl_without(FRAMEWORKS, *verb, "--help")
        assert done.returncode == 0, done.stderr
        assert "Example" in done.stdout, verb
        assert f"megl {' '.join(verb)}" in " ".join(done.stdout.split())


def test_training_loads_what_few_trainings_need_when_they_need_it() -> None:
    """A wrong setting or folder is told in half the time, and the parent of a search takes less memory."""
    code = "import sys, megl_core.training, megl_core.tuning; print('torch' in sys.modules, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    torch_is_there, *modules = done.stdout.split()
    assert torch_is_there == "True"
    assert {"transformers", "torch.distributed.tensor", "mlflow", "optuna"}.isdisjoint(modules)


def test_the_root_group_knows_exactly_the_commands() -> None:
    root = get_command(app)
    assert isinstance(root, TyperGroup)
    assert list(root.commands) == list(COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("evalute",), "Did you mean 'evaluate'?"),
        (("data", "generate", "--nonsense"), "--nonsense"),
        (("data",), "Usage"),
    ],
)
def test_a_wrong_call_exits_with_2(arguments: tuple[str, ...], told: str) -> None:
    done = megl(*arguments)
    assert done.returncode == 2
    assert told in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_users_error_is_a_message_on_standard_error_without_a_traceback() -> None:
    done = megl("data", "generate", "/nonexistent/never", "--set", "data.scenes.num_trian=9")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: wrong settings:")
    assert "did you mean 'data.scenes.num_train'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_package_that_is_not_installed_is_named_with_the_way_to_get_it() -> None:
    done = megl_without(["torch"], "evaluate", "model", "data")
    assert done.returncode == 5
    assert "needs the package torch" in done.stderr
    assert "make setup" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_version_is_that_of_the_package() -> None:
    from megl_core import __version__

    assert megl("--version").stdout.strip() == __version__
