"""The endpoint's card: off by default, started by a click, and gone with its page."""

from __future__ import annotations

import pytest
from PySide6.QtWidgets import QApplication

from qlora_studio.ui.pages.chat import ENDPOINT_TIP, ChatPage
from tests.ui.person import click, found, words


@pytest.fixture
def page(app, qtbot):
    page = ChatPage(app).whole()
    qtbot.addWidget(page)
    page.resize(1300, 900)
    page.show()
    page.opened(None)
    qtbot.waitUntil(lambda: not app.chat.busy)
    return page


@pytest.fixture
def card(page):
    """Shown by the menu."""
    next(action for action in page.menu.actions() if action.text() == ENDPOINT_TIP).trigger()
    return found(page, "chat_endpoint")


def test_nothing_listens_before_the_click(page, card, app):  # S10
    assert not app.endpoint.running
    assert words(page, "chat_endpoint_state") == "off"
    assert not found(page, "chat_endpoint_url").isVisibleTo(page)


def test_a_click_starts_it_and_address_and_token_are_copied(page, card, app, loopback, qtbot):
    click(qtbot, page, "chat_endpoint_start")
    assert app.endpoint.running
    assert words(page, "chat_endpoint_url") == app.endpoint.url
    assert app.endpoint.token not in words(page, "chat_endpoint")
    click(qtbot, page, "chat_endpoint_copy_token")
    assert QApplication.clipboard().text() == app.endpoint.token
    click(qtbot, page, "chat_endpoint_copy_url")
    assert QApplication.clipboard().text() == app.endpoint.url
    click(qtbot, page, "chat_endpoint_stop")
    assert not app.endpoint.running


def test_it_ends_with_its_page(page, card, app, loopback, qtbot):  # S10
    click(qtbot, page, "chat_endpoint_start")
    page.hide()
    assert not app.endpoint.running
    assert app.notices.last[-1].text == "The local endpoint was closed with its page"


def test_it_ends_with_the_window(page, card, app, loopback, qtbot):  # S10
    click(qtbot, page, "chat_endpoint_start")
    app.close()
    assert not app.endpoint.running


def test_where_no_port_is_given_the_card_says_so(page, card, qtbot, monkeypatch):
    def refuse(*_):
        raise OSError(13, "Permission denied")

    monkeypatch.setattr("qlora_studio.client.endpoint_thread._Server", refuse)
    click(qtbot, page, "chat_endpoint_start")
    assert words(page, "chat_endpoint_models").startswith("No port could be opened on 127.0.0.1")
