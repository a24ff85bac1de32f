"""What no process of the tests may do while they are audited, each tried in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PICKLED = b"\x80\x04cos\ngetpid\n)R."

REFUSED = {
    "pickle": (f"import pickle; pickle.loads({PICKLED!r})", "nothing may be unpickled"),
    "torch": (
        "import torch; torch.save(torch.nn.Linear(1, 1), 'a.pt'); torch.load('a.pt', weights_only=False)",
        "nothing may be unpickled",
    ),
    "os.system": ("import os; os.system('true')", "no shell may be started"),
    "shell": ("import subprocess; subprocess.run('true', shell=True)", "no shell may be started"),
    "import": ("import sys; sys.path.insert(0, '.'); import evil", "code out of an input folder"),
    "exec": (
        "exec(compile('1', __import__('os').getcwd() + '/x.py', 'exec'))",
        "code out of an input folder",
    ),
    "write": ("open('/written_by_a_test', 'w')", "may not write outside"),
    "folder": ("import os; os.mkdir('/made_by_a_test')", "may not write outside"),
    "rename": ("import os; os.rename('evil.py', '/moved_by_a_test')", "may not write outside"),
    "remove": ("import os; os.remove('/not_there')", "may not write outside"),
}
TAKEN = {
    "files of its own": "import os; open('a', 'w').close(); os.mkdir('b'); os.rename('a', 'b/a')",
    "a tree of its own": "import os, shutil; os.makedirs('c/d'); shutil.rmtree('c')",
    "a file without a name": "import tempfile; tempfile.TemporaryFile().close()",
    "a process": "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)",
    "reading": "open('/etc/passwd').close(); import json, decimal",
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(tmp_path: Path, name: str) -> None:  # S1 S9
    code, words = REFUSED[name]
    done = audited(code, tmp_path)
    assert done.returncode == 1
    assert words in done.stderr


@pytest.mark.parametrize("name", TAKEN)
def test_what_tests_need_is_taken(tmp_path: Path, name: str) -> None:
    done = audited(TAKEN[name], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def audited(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Python with the hook, in the folder of this test."""
    (folder / "evil.py").write_text("open('marker', 'w')")
    environment = os.environ | {"QLORA_STUDIO_AUDIT": "1"}
    return subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
