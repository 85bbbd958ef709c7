"""Builds the images: `make images`, or `python -m infra.images.build --help`.

Prints the sizes and keeps them in docs/images.md, and copies the bill of materials out of each image into
dist/.
"""

import argparse
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from components import IMAGE
from megl_core import __version__
from megl_core.files import atomic_file
from megl_core.redaction import redact

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "images.md"
DIST = ROOT / "dist"
CONTEXT = ("megl_core", "components", "pipelines", "infra/images", "pyproject.toml", "requirements-*.lock")
BOM = "/opt/megl/share/sbom.cdx.json"

BASE_IMAGE = "python:3.11-slim"
UV_VERSION = "0.13.9"
CYCLONEDX_VERSION = "7.5.0"

NAMES = {"cpu": IMAGE, "cuda": f"{IMAGE}-cuda"}
"""The image of each variant. Compiled pipelines name the first; a cluster with GPUs trains in the second."""

TORCH_WHEELS = {"cpu": "", "cuda": "index"}
LAYERS = ("system", "packages", "code")


@dataclass(frozen=True)
class Source:
    """The checkout that an image is made of. `commit` is empty where files of the image differ from it."""

    commit: str
    created: str
    uri: str


def find_source() -> Source:
    """Ask Git; an image of changed files claims no commit."""
    changed = _output("git", "status", "--porcelain", "--", *CONTEXT)
    remotes = _output("git", "remote").split()
    uri = redact(_output("git", "remote", "get-url", remotes[0])) if remotes else ""
    commit, created = _output("git", "show", "--no-patch", "--format=%H %cI").split()
    return Source("" if changed else commit, created, uri)


def build(variant: str, source: Source) -> str:
    """Build one variant from the checkout and return its name."""
    name = NAMES[variant]
    arguments = {
        "BASE_IMAGE": os.environ.get("BASE_IMAGE") or BASE_IMAGE,
        "UV_VERSION": UV_VERSION,
        "CYCLONEDX_VERSION": CYCLONEDX_VERSION,
        "TORCH_WHEELS": os.environ.get("TORCH_WHEELS") or TORCH_WHEELS[variant],
        "NAME": name,
        "VERSION": __version__,
        "COMMIT": source.commit,
        "CREATED": source.created,
        "SOURCE": source.uri,
    }
    given = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
    subprocess.run(
        ["docker", "build", "--file", "infra/images/Dockerfile", "--tag", name, *given, "."],
        cwd=ROOT,
        check=True,
    )
    return name


def layer_sizes(name: str) -> dict[str, int]:
    """Bytes of each of the image's layers; it has those three and no other that holds a file."""
    history = _output("docker", "history", "--human=false", "--format", "{{.Size}}", name)
    sizes = [int(size) for size in history.split() if int(size)]
    return dict(zip(LAYERS, reversed(sizes), strict=True))


def export_bom(name: str) -> Path:
    """Copy the bill of materials out of an image."""
    target = DIST / f"{name.replace(':', '-')}.cdx.json"
    text = _output("docker", "run", "--rm", "--network", "none", name, "cat", BOM)
    with atomic_file(target) as file:
        file.write_text(text + "\n", encoding="utf-8")
    return target


def row(name: str, layers: dict[str, int]) -> str:
    """An image's line in the table of sizes, in MB."""
    megabytes = [f"{size / 1e6:.0f} MB" for size in (*layers.values(), sum(layers.values()))]
    return f"| `{name}` | " + " | ".join(megabytes) + " |"


def with_sizes(page: str, sizes: dict[str, dict[str, int]]) -> str:
    """The page with these images' lines in its table; those of this version that were not built stay."""
    block = re.compile(r"(?s)(?<=<!-- sizes -->\n).*(?=<!-- /sizes -->)")
    rows = {
        found[1]: found[0]
        for found in re.finditer(r"(?m)^\| `(.+?)` .*$", page)
        if found[1] in NAMES.values()
    }
    rows |= {name: row(name, layers) for name, layers in sizes.items()}
    head = ["| image | " + " | ".join(LAYERS) + " | together |", "|---" + "|---:" * (len(LAYERS) + 1) + "|"]
    table = "\n".join([*head, *(rows[name] for name in NAMES.values() if name in rows)])
    return block.sub(lambda _: f"{table}\n", page)


def write_page(sizes: dict[str, dict[str, int]]) -> None:
    """Put the sizes in their place in docs/images.md."""
    text = with_sizes(PAGE.read_text(encoding="utf-8"), sizes)
    with atomic_file(PAGE) as file:
        file.write_text(text, encoding="utf-8")


def main() -> None:
    """Build what was asked for."""
    parser = argparse.ArgumentParser(description="Build the images of this version.")
    parser.add_argument("variants", nargs="*", default=["cpu"], metavar="VARIANT", help=", ".join(NAMES))
    parser.add_argument("--names", action="store_true", help="print the names and build nothing")
    wanted = parser.parse_args()
    if unknown := set(wanted.variants) - set(NAMES):
        parser.error(f"no variant {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if wanted.names:
        print("\n".join(NAMES[variant] for variant in wanted.variants))
        return
    if subprocess.run(["docker", "version"], capture_output=True, check=False).returncode:
        sys.exit("error: no Docker engine answers; start one, or name it in DOCKER_HOST")
    source = find_source()
    sizes = {}
    for variant in wanted.variants:
        name = build(variant, source)
        sizes[name] = layer_sizes(name)
        print(f"bill of materials: {export_bom(name).relative_to(ROOT)}")
    write_page(sizes)
    print("\n".join(row(name, layers) for name, layers in sizes.items()))


def _output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
