"""The pages of the window, each built when it is first opened."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

from qlora_studio.state.app import AppState
from qlora_studio.ui.page import Page

PageFactory = Callable[[AppState], Page]


def page_factories() -> Mapping[str, PageFactory]:
    """Name -> what builds it. `monitor` is no item of the rail: it is a run's own page."""
    return {
        "home": _page("home", "HomePage"),
        "models": _page("models", "ModelsPage"),
        "data": _page("data", "DataPage"),
        "train": _page("train", "TrainPage"),
        "runs": _page("runs", "RunsPage"),
        "monitor": _page("monitor", "MonitorPage"),
        "chat": _page("chat", "ChatPage"),
        "export": _page("export", "ExportPage"),
        "settings": _page("settings", "SettingsPage"),
    }


def page_modules() -> list[str]:
    """Which modules the pages stand in, for whoever loads them before they are asked for."""
    return [f"{__name__}.{name}" for name in page_factories()]


def _page(module: str, name: str) -> PageFactory:
    """Imported on the first visit: a page with charts loads numpy and pyqtgraph."""

    def build(app: AppState) -> Page:
        page_class: PageFactory = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        return page_class(app)

    return build
