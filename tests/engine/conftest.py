from pathlib import Path

import pytest
from filelock import FileLock

from qlora_studio.config.places import sample_model_folder


@pytest.fixture(scope="session")
def smollm2(request: pytest.FixtureRequest) -> Path:
    """The sample model as an ordinary folder; made once, and kept in pytest's cache for the next time."""
    from qlora_studio.engine.sample_model import make_sample_model

    assert request.config.cache is not None
    home = request.config.cache.mkdir("sample-model")
    with FileLock(home / "lock"), pytest.MonkeyPatch.context() as patched:
        patched.setenv("QLORA_STUDIO_HOME", str(home))
        for _ in make_sample_model():
            pass
        return sample_model_folder()
