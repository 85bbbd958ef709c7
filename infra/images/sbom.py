"""Completes an image's bill of materials (CycloneDX 1.6, JSON).

    python sbom.py <environment.json> <target.json> --version V --commit C

`cyclonedx-py environment` describes the Python packages, with their licences. This adds a hash for each of
them, the interpreter, and the packages of the operating system. Runs while an image is built.
"""

import argparse
import hashlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DPKG_STATUS = Path("/var/lib/dpkg/status")
DOCUMENTS = Path("/usr/share/doc")
HASHES = "SHA-256 of the distribution's RECORD, which lists the SHA-256 of each of its files"


def complete(bom: dict[str, Any], *, version: str, commit: str) -> dict[str, Any]:
    """The bill of a whole image, from that of its Python environment."""
    hashes = dict(record_hashes())
    for component in bom["components"]:
        component["hashes"] = [{"alg": "SHA-256", "content": hashes[normal(component["name"])]}]
    bom["components"] += [interpreter(), *debian_packages(DPKG_STATUS.read_text(encoding="utf-8"))]
    main = bom["metadata"]["component"]
    main["version"] = version
    main["properties"] = [{"name": "megl:commit", "value": commit}, {"name": "megl:hashes", "value": HASHES}]
    return bom


def record_hashes() -> Iterator[tuple[str, str]]:
    """`(name, SHA-256)` of each installed distribution, the hash being that of its list of files."""
    for distribution in importlib.metadata.distributions():
        record = distribution.read_text("RECORD") or ""
        yield normal(distribution.metadata["Name"]), hashlib.sha256(record.encode()).hexdigest()


def normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def interpreter() -> dict[str, Any]:
    """CPython, which is no Debian package in every base image."""
    version = platform.python_version()
    return {
        "type": "platform",
        "bom-ref": f"cpython@{version}",
        "name": "cpython",
        "version": version,
        "purl": f"pkg:generic/cpython@{version}",
        "licenses": [{"license": {"id": "PSF-2.0"}}],
    }


def debian_packages(status: str) -> Iterator[dict[str, Any]]:
    """The installed packages that dpkg's status file lists."""
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.+)$", paragraph, flags=re.MULTILINE))
        if fields.get("Status") == "install ok installed":
            name, version = fields["Package"], fields["Version"]
            licences = [{"license": {"name": name}} for name in debian_licences(name)]
            yield {
                "type": "library",
                "bom-ref": f"deb:{name}@{version}",
                "name": name,
                "version": version,
                "purl": f"pkg:deb/debian/{name}@{version.replace(':', '%3A')}?arch={fields['Architecture']}",
                **({"licenses": licences} if licences else {}),
            }


def debian_licences(package: str) -> list[str]:
    """What a package's copyright file names, where it is in the form that a machine can read."""
    text = DOCUMENTS / package / "copyright"
    if not text.is_file():
        return []
    named = re.findall(r"^License: (\S.*)$", text.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return sorted({name.strip() for name in named})


def main() -> None:
    """Read the environment's bill and write the image's."""
    parser = argparse.ArgumentParser()
    parser.add_argument("environment", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--version", required=True)
    parser.add_argument("--commit", required=True)
    wanted = parser.parse_args()
    bom = complete(
        json.loads(wanted.environment.read_text(encoding="utf-8")),
        version=wanted.version,
        commit=wanted.commit,
    )
    wanted.target.write_text(json.dumps(bom, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
