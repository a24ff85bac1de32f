"""Chats as ChatGPT exports them: a tree of messages, of which the branch that was shown last is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qlora_studio.data.chats import chat
from qlora_studio.data.shown_branch import shown_branch
from tests.data.imported_files import import_bytes


def node(parent: str | None, *children: str, role: str = "", text: str = "", **more: Any) -> dict[str, Any]:
    message = {
        "author": {"role": role, "name": None, "metadata": {}},
        "content": {"content_type": "text", "parts": [text]},
        "weight": 1.0,
        "recipient": "all",
        **more,
    }
    return {"message": message if role else None, "parent": parent, "children": list(children)}


TREE = {
    "root": node(None, "s"),
    "s": node("root", "h", role="system"),
    "h": node(
        "s", "q", role="user", text="My profile", metadata={"is_visually_hidden_from_conversation": True}
    ),
    "q": node("h", "a1", "a2", role="user", text="2 + 2?"),
    "a1": node("q", role="assistant", text="5"),
    "t": node("a2", "a3", role="assistant", content={"content_type": "thoughts", "thoughts": []}),
    "a2": node("q", "t", role="assistant", text="Let me see."),
    "a3": node("t", role="assistant", text="4"),
}


def test_the_branch_that_was_shown_last_is_a_chat_without_what_nobody_saw() -> None:
    found = chat(TREE)
    assert [(message.role, message.content) for message in found.messages] == [
        ("user", "2 + 2?"),
        ("assistant", "Let me see."),
        ("assistant", "4"),
    ]


def test_an_export_of_chats_is_imported_whole(tmp_path: Path) -> None:
    chats = [
        {
            "title": title,
            "create_time": 1.5,
            "mapping": {**TREE, "a3": node("t", role="assistant", text=title)},
        }
        for title in ("four", "IV")
    ]

    data = import_bytes(tmp_path / "conversations.json", json.dumps(chats).encode())

    assert (data.report.imported, data.report.skipped) == (2, 0)
    assert data.report.format == "messages"


@pytest.mark.parametrize(
    "nodes",
    [
        {"a": node("b", "b", role="user", text="?"), "b": node("a", "a", role="assistant", text="!")},
        {"a": node(None, "a", role="user", text="?")},
        {
            "a": {
                "message": {"author": 1, "content": [], "metadata": 3},
                "parent": {},
                "children": [{}, "x", []],
            }
        },
        {"a": {"message": {"author": {}, "content": {"parts": 7}}, "parent": None, "children": []}},
    ],
)
def test_a_tree_that_is_none_ends(nodes: dict[str, Any]) -> None:
    assert len(shown_branch(nodes) or []) <= len(nodes)


def test_other_objects_are_no_trees() -> None:
    assert shown_branch({}) is None
    assert shown_branch({"en": "a", "fr": "b"}) is None
    assert shown_branch({"turn_1": {"message": "a"}}) is None
