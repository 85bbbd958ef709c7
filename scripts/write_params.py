"""Write params.yaml: every setting with its default, and as comment what megl_core/config.py says of it.

Run it with `make params` after a change of config.py; it starts from the defaults, not from the file.
"""

import ast
import json
import typing
from pathlib import Path
from typing import Any

from megl_core import config
from megl_core.files import write_text

SEVERITIES = typing.get_args(config.Severity)
TARGET = Path("params.yaml")
HEADER = """\
# Every setting with its default. `megl ... --set section.key=value` overrides one for one command,
# `dvc exp run -S section.key=value` for one experiment. `make params` writes this file anew.
"""


def render() -> str:
    """The text of params.yaml."""
    lines: list[str] = []
    _section(config.Config(), lines, indent="", notes=_notes())
    return HEADER + "\n".join(lines) + "\n"


def _section(
    section: config.Section, lines: list[str], indent: str, notes: dict[tuple[str, str], str]
) -> None:
    for name in type(section).model_fields:
        value = getattr(section, name)
        if not indent:
            lines.append("")
        if note := notes.get((type(section).__name__, name)):
            lines += [f"{indent}# {line.strip()}" for line in note.replace("None:", "null:").splitlines()]
        if isinstance(value, config.Section) and not isinstance(value, config.Bound):
            if note := notes.get((type(value).__name__, "")):
                lines += [f"{indent}# {line.strip()}" for line in note.splitlines()]
            lines.append(f"{indent}{name}:")
            _section(value, lines, indent + "  ", notes)
        else:
            choices = typing.get_args(type(section).model_fields[name].annotation)
            if value in choices and not isinstance(value, config.Bound) and choices != SEVERITIES:
                lines.append(f"{indent}# {', '.join(map(str, choices))}")
            lines.append(f"{indent}{name}:{_value(value)}")


def _value(value: Any) -> str:
    """Flow YAML on one line, or a list of rules on a line each."""
    if isinstance(value, config.Section):
        return " " + _flow(value.model_dump(mode="json", exclude_none=True))
    if isinstance(value, list) and value and isinstance(value[0], config.Section):
        return "".join(
            f"\n    - {_flow(item.model_dump(mode='json', exclude_defaults=True))}" for item in value
        )
    return " " + _flow(value)


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str) and value.replace("_", "").replace(".", "").isalnum() and value != "off":
        return value
    return json.dumps(value)


def _notes() -> dict[tuple[str, str], str]:
    """`{(class, field): text}` of the strings under the fields in config.py; of the class under ''."""
    notes = {}
    for node in ast.parse(Path(config.__file__).read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef):
            continue
        notes[node.name, ""] = ast.get_docstring(node) or ""
        for field, text in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                notes[node.name, field.target.id] = str(text.value.value)
    return notes


if __name__ == "__main__":
    write_text(TARGET, render())
