"""Makes `.venv` and puts into it exactly what the locks name; done already, it does nothing."""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
DONE = VENV / "set-up"  # one file a step that is done, holding the digest of what it installed
LOG = VENV / "set-up.log"

_WORTH_A_LINE = 20  # MB; smaller downloads are over before one has read about them
_DOWNLOAD = re.compile(r"\s*Downloading (\S+?)-(\d\S*?)-\S+ \((\d+(?:\.\d+)?) ([MG])B\)")


@dataclass(frozen=True)
class Step:
    """One call of pip, made again only when one of `files` has changed."""

    name: str
    words: str
    arguments: tuple[str, ...]
    files: tuple[str, ...]

    def digest(self) -> str:
        digest = hashlib.sha256(repr(self.arguments).encode())
        for file in self.files:
            digest.update((ROOT / file).read_bytes())
        return digest.hexdigest()


PACKAGES = Step(
    "packages",
    "the packages it runs with",
    ("-r", "packaging/requirements.lock"),
    ("packaging/requirements.lock", "packaging/cuda-constraints.lock"),
)
CHECKS = Step(
    "checks",
    "the packages of the checks",
    ("-r", "packaging/requirements-dev.lock"),
    ("packaging/requirements-dev.lock", *PACKAGES.files),
)
SAMPLE_MODEL = Step(
    "sample-model",
    "the sample model",
    ("--no-deps", "-r", "packaging/sample-model.lock"),
    ("packaging/sample-model.lock",),
)
PROJECT = Step(
    "project",
    "QLoRA Studio",
    ("--no-deps", "--no-build-isolation", "-e", "."),  # setuptools comes from the lock
    ("pyproject.toml",),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checks", action="store_true", help="also what `make test` needs")
    wanted = parser.parse_args()
    steps = (PACKAGES, CHECKS, SAMPLE_MODEL, PROJECT) if wanted.checks else (PACKAGES, SAMPLE_MODEL, PROJECT)
    with _alone():
        if not _is_sound():
            _make_venv()
        DONE.mkdir(exist_ok=True)
        for step in steps:
            _do(step)


@contextmanager
def _alone() -> Iterator[None]:
    """Of two that start at once, the second waits and finds it done."""
    folder = os.open(ROOT, os.O_RDONLY)  # not a file in .venv: that may be made anew
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _is_sound() -> bool:
    """Whether `.venv` holds a Python that runs, and was made in this place: its scripts name their folder."""
    check = [str(PYTHON), "-I", "-c", "import pip, sys; sys.exit(sys.version_info < (3, 11))"]
    try:
        made_here = str(VENV) in (VENV / "bin" / "pip").read_text("utf-8")
        return made_here and subprocess.run(check, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def _make_venv() -> None:
    print(f"Making .venv with Python {sys.version.split()[0]} ...", flush=True)
    try:
        venv.create(VENV, clear=True, symlinks=True, with_pip=True)
    except subprocess.CalledProcessError as error:
        sys.exit(
            f"This Python can't make a virtual environment: {error}\n"
            "On Debian and Ubuntu: apt-get install python3-venv"
        )


def _do(step: Step) -> None:
    done = DONE / step.name
    digest = step.digest()
    if done.exists() and done.read_text() == digest:
        return
    print(f"Installing {step.words} ...", flush=True)
    began = time.monotonic()
    _pip_install(step.arguments)
    done.write_text(digest)
    print(f"  done in {time.monotonic() - began:.0f} s", flush=True)


def _pip_install(arguments: tuple[str, ...]) -> None:
    """pip's own words go to the log; large downloads and what made it fail are told."""
    command = [str(PYTHON), "-I", "-m", "pip", "install", "--no-input", "--progress-bar", "off", *arguments]
    errors = []
    with (
        LOG.open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as pip,
    ):
        assert pip.stdout is not None
        for line in pip.stdout:
            log.write(line)
            if line.startswith("ERROR:"):
                errors.append(line)
            _tell(line)
    if pip.returncode:
        sys.exit(
            f"pip could not install {' '.join(arguments)}:\n{''.join(errors[-5:])}All of its words: {LOG}"
        )


def _environment() -> dict[str, str]:
    """Ours without what would send the packages elsewhere than into `.venv`."""
    elsewhere = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_QUIET")
    return {name: value for name, value in os.environ.items() if name not in elsewhere}


def _tell(line: str) -> None:
    download = _DOWNLOAD.match(line)
    if download:
        name, version, size, unit = download.groups()
        if unit == "G" or float(size) >= _WORTH_A_LINE:
            print(f"  downloading {name} {version}, {size} {unit}B", flush=True)
    elif line.startswith("Installing collected packages:"):
        count = line.count(",") + 1
        print(f"  unpacking {count} package{'s' if count > 1 else ''}", flush=True)


if __name__ == "__main__":
    main()
