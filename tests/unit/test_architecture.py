"""The arrows of docs/architecture.md: who may import whom, and what never loads a framework."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import FRAMEWORKS, REPOSITORY

PACKAGE = REPOSITORY / "megl_core"
BASE = {"code", "config", "errors", "files", "html", "locks", "memory", "processes", "progress", "redaction"}
LAYERS = [
    BASE,
    {"cluster", "storage"},
    {"data", "models", "objectives", "metrics", "explain"},
    {"validation", "training", "evaluation", "provenance"},
    {"registry"},
    {"lineage", "operations", "remote", "tuning"},
    {"cli"},
]
MODULES = sorted(path.relative_to(REPOSITORY).as_posix() for path in PACKAGE.rglob("*.py"))
LIGHT = [
    module
    for module in MODULES
    if module.startswith(
        (
            "megl_core/cli/",
            "megl_core/cluster/",
            "megl_core/operations/",
            "megl_core/remote/",
            "megl_core/storage/",
        )
    )
    or module in {f"megl_core/{name}.py" for name in {*BASE, "__init__"}}
]


def imported(path: Path, *, only_on_import: bool = False) -> Iterator[str]:
    """The dotted names that a file imports: anywhere, or only those that run when it is imported."""
    for node in statements(ast.parse(path.read_text(encoding="utf-8")), only_on_import):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def statements(node: ast.AST, only_on_import: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        delayed = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if only_on_import and (delayed or for_types):
            continue
        yield child
        yield from statements(child, only_on_import)


def layer(part: str) -> int:
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


def parts_of_megl_core(module: str) -> set[str]:
    names = [name.split(".") for name in imported(REPOSITORY / module)]
    return {
        name[1] for name in names if name[0] == "megl_core" and len(name) > 1 and name[1] != "__version__"
    }


def test_the_walker_sees_what_runs_on_import_and_what_does_not(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text(
        "from typing import TYPE_CHECKING\nimport a.b\n"
        "if TYPE_CHECKING:\n    import c\n"
        "try:\n    import d\nexcept ImportError:\n    pass\n"
        "class K:\n    import e\n    def f(self):\n        import g\n"
    )
    assert set(imported(source)) == {"typing", "typing.TYPE_CHECKING", "a.b", "c", "d", "e", "g"}
    assert set(imported(source, only_on_import=True)) == {"typing", "typing.TYPE_CHECKING", "a.b", "d", "e"}


def test_every_part_of_megl_core_has_a_layer() -> None:
    parts = {Path(module).relative_to("megl_core").parts[0].removesuffix(".py") for module in MODULES}
    assert parts - {"__init__"} == set.union(*LAYERS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    part = Path(module).relative_to("megl_core").parts[0].removesuffix(".py")
    if part == "__init__":
        loaded = imported(REPOSITORY / module, only_on_import=True)
        assert not any(name.startswith("megl_core") for name in loaded)
        return
    above = {other for other in parts_of_megl_core(module) if layer(other) > layer(part)}
    assert above == set(), f"{module} imports from above itself"


@pytest.mark.parametrize("module", [module for module in MODULES if "/storage/" in module])
def test_storage_knows_nobody(module: str) -> None:
    assert parts_of_megl_core(module) <= {"config", "errors", "files", "locks", "redaction", "storage"}


@pytest.mark.parametrize("module", MODULES)
def test_megl_core_knows_no_pipelines_and_kubernetes_only_where_it_trains_there(module: str) -> None:
    roots = {name.partition(".")[0] for name in imported(REPOSITORY / module)}
    assert roots.isdisjoint({"kfp", "components", "pipelines"})
    assert "kubernetes" not in roots or module.startswith("megl_core/cluster/")


@pytest.mark.parametrize("module", [module for module in MODULES if "/cluster/" in module])
def test_the_cluster_knows_the_base_only(module: str) -> None:
    assert parts_of_megl_core(module) <= {"cluster", "config", "errors", "progress", "redaction"}


@pytest.mark.parametrize(
    "module",
    sorted(path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "components").rglob("*.py")),
)
def test_components_know_no_pipelines(module: str) -> None:
    assert "pipelines" not in {name.partition(".")[0] for name in imported(REPOSITORY / module)}


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_no_framework(module: str) -> None:
    loaded = {name.partition(".")[0] for name in imported(REPOSITORY / module, only_on_import=True)}
    assert loaded.isdisjoint(FRAMEWORKS)
