"""The whole state over silent children, and the Data page's part of it."""

from __future__ import annotations

import pytest

from qlora_studio.state.app import AppState
from qlora_studio.state.data import DataState
from tests.ui.conftest import app, app_and_silent, no_card, no_card_but_memory, silent

__all__ = ["app", "app_and_silent", "data", "no_card", "no_card_but_memory", "silent"]


@pytest.fixture
def data(app: AppState) -> DataState:
    """In front, with a model whose tokens are counted."""
    app.draft.set("model.path", "/models/tiny")
    app.data.look()
    return app.data
