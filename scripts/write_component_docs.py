"""Write README.md of each component from its docstring, its signature and its metadata.yaml.

    python scripts/write_component_docs.py [--check]

What metadata.yaml says of inputs and outputs is the signature's, too, and written anew with it.
"""

import argparse
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from docstring_parser import parse

from components.metadata import FOLDER, Metadata, interface, read_metadata, steps
from megl_core.files import write_text


def render(step: str) -> dict[Path, str]:
    """The files of a component that this script writes, as they should be."""
    component = getattr(importlib.import_module(f"components.{step}.component"), step)
    folder = FOLDER / step
    metadata = (folder / "metadata.yaml").read_text(encoding="utf-8")
    blocks = "".join(_block(name, values) for name, values in interface(component).items())
    return {
        folder / "metadata.yaml": re.sub(r"(?ms)^inputs:.*?(?=^resources:)", lambda _: blocks, metadata),
        folder / "README.md": _page(component, read_metadata(step)),
    }


def _block(name: str, values: dict[str, str]) -> str:
    if not values:
        return f"{name}: {{}}\n"
    return f"{name}:\n" + "".join(f"  {key}: {kind}\n" for key, kind in values.items())


def _page(component: Any, metadata: Metadata) -> str:
    text = inspect.getdoc(component.python_func) or ""
    described = parse(text)
    notes = {item.arg_name: " ".join((item.description or "").split()) for item in described.params}
    kinds = interface(component)
    returned = _returned(" ".join(text.partition("Returns:")[2].split()), list(kinds["outputs"]))
    parts = [
        f"# {metadata.name}",
        "<!-- Written by scripts/write_component_docs.py from component.py and metadata.yaml. -->",
        described.short_description or "",
        described.long_description or "",
        "## Inputs",
        _table(component.component_spec.inputs or {}, kinds["inputs"], notes),
        "## Outputs",
        _outputs(kinds["outputs"], notes | returned),
        "## On a cluster",
        _needs(metadata),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(inputs: Any, kinds: dict[str, str], notes: dict[str, str]) -> str:
    lines = ["| name | type | default | |", "|---|---|---|---|"]
    for name, item in inputs.items():
        default = f"`{item.default!r}`" if item.optional and item.default is not None else ""
        lines.append(f"| `{name}` | {kinds[name]} | {default} | {notes.get(name, '')} |")
    return "\n".join(lines)


def _outputs(kinds: dict[str, str], notes: dict[str, str]) -> str:
    if not kinds:
        return "None."
    lines = ["| name | type | |", "|---|---|---|"]
    lines += [f"| `{name}` | {kind} | {notes.get(name, '')} |" for name, kind in kinds.items()]
    return "\n".join(lines)


def _returned(text: str, names: list[str]) -> dict[str, str]:
    """What a docstring says of values that are returned by name, or of the one that has no name."""
    every = "|".join(names)
    found = re.findall(rf"\b({every}): (.*?)(?=[,.]? (?:{every}): |\.?$)", text) if names else []
    return {name: f"{words[0].upper()}{words[1:]}." for name, words in found} or {"Output": text}


def _needs(metadata: Metadata) -> str:
    cpu, memory, retries = metadata.resources.cpu, metadata.resources.memory, metadata.retries
    tries = f"{retries.count}, the first after {retries.pause_seconds} s" if retries.count else "none"
    rows = {
        "stability": metadata.stability,
        "cores": f"{cpu.request} reserved, {cpu.limit} at most",
        "memory": f"{memory.request} reserved, {memory.limit} at most",
        "GPUs": str(metadata.resources.gpus),
        "retries": tries,
        "timeout of each try": f"{metadata.timeout_minutes:g} minutes",
        "talks to": ", ".join(metadata.network) or "nobody",
        "result used again": "for the same inputs" if metadata.cached else "never",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def main() -> None:
    """Write every file, or with --check name those that are stale and exit with 1."""
    parser = argparse.ArgumentParser(description="Write README.md of each component.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is stale")
    check = parser.parse_args().check
    pages = {path: text for step in steps() for path, text in render(step).items()}
    stale = [path for path, text in pages.items() if not path.is_file() or path.read_text() != text]
    if check and stale:
        names = ", ".join(str(path.relative_to(FOLDER.parent)) for path in stale)
        sys.exit(f"stale: {names}; run python scripts/write_component_docs.py and commit them")
    for path in stale:
        write_text(path, pages[path])


if __name__ == "__main__":
    main()
