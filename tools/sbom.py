"""Write the bill of materials of a wheel or a Debian package beside it, in CycloneDX 1.5: `python -m tools.sbom FILE`.

A wheel names what pip installs with it, in the versions of constraints.txt, with which the tests ran. A Debian package
names the packages that it depends on. Equal files have equal bills.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from email.parser import Parser
from importlib import metadata
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from tools.source import ROOT, BuildFailed, commit_time

Component = dict[str, Any]


def _pypi(name: str, version: str, scope: str = "required") -> Component:
    purl = f"pkg:pypi/{name}@{version}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl, "scope": scope}


def _pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {_normal(name): version for name, version in pairs}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _requirements(lines: list[str]) -> list[str]:
    """Return the names that these requirements need here; extras and other systems or Pythons are left out."""
    names = []
    for line in lines:
        text, _, marker = line.partition(";")
        skipped = re.search(r"extra\s*==|sys_platform|platform_system|python_version\s*<|implementation_name", marker)
        found = re.match(r"[A-Za-z0-9._-]+", text)
        if found and not skipped:
            names.append(_normal(found[0]))
    return names


def of_wheel(path: Path) -> tuple[Component, list[Component]]:
    """Return a wheel's component, and those that it needs, directly or not. Raises BuildFailed."""
    with ZipFile(path) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
        about = Parser().parsestr(archive.read(name).decode())
    pinned = _pinned()
    needed: dict[str, str] = {}
    queue = _requirements(about.get_all("Requires-Dist") or [])
    while queue:
        required = queue.pop()
        if required in needed:
            continue
        if required not in pinned:
            raise BuildFailed(f"constraints.txt has no version of {required}")
        needed[required] = pinned[required]
        queue += _requirements(metadata.requires(required) or [])
    return _pypi("pylvs", about["Version"]), [_pypi(*pair) for pair in sorted(needed.items())]


def of_package(path: Path) -> tuple[Component, list[Component]]:
    """Return a Debian package's component, and the packages that it depends on. Raises BuildFailed."""
    fields = {}
    for name in ("Version", "Architecture", "Depends"):
        done = subprocess.run(["dpkg-deb", "--field", str(path), name], capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildFailed(f"{path}: {done.stderr.strip()}")
        fields[name] = done.stdout.strip()
    own = f"pkg:deb/debian/pylvs@{fields['Version']}?arch={fields['Architecture']}"
    component = {"type": "application", "bom-ref": own, "name": "pylvs", "version": fields["Version"], "purl": own}
    components: list[Component] = []
    for clause in sorted(set(re.split(r",\s*", fields["Depends"]))):
        found = re.match(r"([a-z0-9.+-]+)(?::\w+)?\s*(?:\((.+?)\))?", clause)  # the first of alternatives
        assert found
        purl = f"pkg:deb/debian/{found[1]}"
        package: Component = {"type": "library", "bom-ref": purl, "name": found[1], "purl": purl, "scope": "required"}
        if found[2]:
            package["properties"] = [{"name": "debian:depends", "value": found[2]}]
        if purl not in {other["purl"] for other in components}:
            components.append(package)
    return component, components


def document(path: Path) -> Component:
    """Return the bill of a file. Raises BuildFailed."""
    component, components = of_wheel(path) if path.suffix == ".whl" else of_package(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    component["hashes"] = [{"alg": "SHA-256", "content": digest}]
    component["licenses"] = [{"expression": "GPL-2.0-only OR MIT"}]
    compiler = _pypi("ziglang", _pinned()["ziglang"], "excluded")  # its clang compiled the eBPF objects
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, digest)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(commit_time(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": component,
        },
        "components": [*components, compiler],
        "dependencies": [
            {"ref": component["bom-ref"], "dependsOn": [each["bom-ref"] for each in components]},
        ],
    }


def write(path: Path) -> Path:
    """Write the bill of a file beside it, and return its path. Raises BuildFailed."""
    target = path.with_name(f"{path.name}.cdx.json")
    target.write_text(json.dumps(document(path), indent=2) + "\n")
    return target


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
