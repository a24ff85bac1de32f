"""A tiny model and the reader's jobs, for all tests of a file."""

import pytest

from qlora_studio.reader.jobs import Jobs
from tests.reader.whole_model import whole_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return whole_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def jobs():
    return Jobs(lambda answer: None)
