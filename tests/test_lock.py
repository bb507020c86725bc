"""The lock is fresh: for every Python and system it has one version of each package that pyproject.toml asks for."""

import itertools
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

try:
    import tomllib
except ModuleNotFoundError:
    # Python 3.10; hatchling brings it there.
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
LOCK = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = ("train", "data", "plots", "notebooks", "test", "docs")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
SYSTEMS = {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}


def _asked():
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in EXTRAS)]
    requirements = map(Requirement, itertools.chain(*lists))
    return [requirement for requirement in requirements if requirement.name != "nbflows"]


def _locked(python, platform):
    """Versions by name."""
    environment = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": platform}
    environment |= {"platform_system": SYSTEMS[platform], "implementation_name": "cpython", "extra": ""}
    environment |= {"platform_python_implementation": "CPython", "platform_machine": "x86_64"}
    versions = {}
    for pin in map(Requirement, LOCK):
        if pin.marker is None or pin.marker.evaluate(environment):
            (exact,) = pin.specifier
            assert exact.operator == "==" and canonicalize_name(pin.name) not in versions, pin
            versions[canonicalize_name(pin.name)] = Version(exact.version)
    return versions


@pytest.mark.parametrize("platform", SYSTEMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_has_what_pyproject_asks_for(python, platform):
    locked = _locked(python, platform)
    missing = Version("0")
    stale = [need for need in _asked() if locked.get(canonicalize_name(need.name), missing) not in need.specifier]
    assert not stale, f"run make lock: it lacks {', '.join(map(str, stale))}"
    assert len(locked) > 100


def test_the_lock_covers_the_pythons_that_the_project_names():
    assert PROJECT["requires-python"] == ">=3.10,<3.14"
    named = [line.rsplit(" :: ", 1)[1] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert tuple(named) == PYTHONS
    assert "python>=3.10,<3.14" in (ROOT / "environment.yml").read_text()
    assert "(3.10 to 3.13)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_lock_names_no_address_and_no_version_that_is_not_everywhere_yet():
    assert not [line for line in LOCK if "//" in line or line.startswith("-")]
    versions = _locked("3.11", "linux")
    assert versions["torch"] <= Version("2.14.1") and versions["torchvision"] <= Version("0.29.1")
