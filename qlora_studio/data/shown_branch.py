"""A chat as ChatGPT exports it: its messages by their ids, as a tree; the branch shown last is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_KINDS_READ = ("text", "code", "execution_output", "multimodal_text")  # others are thoughts and settings


def shown_branch(nodes: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Its turns, with role and content; None where these are no messages by their ids.

    nodes: id -> {"message": {"author", "content"}, "parent": id or null, "children": [ids]}
    """
    if not nodes or not all(_is_node(node) for node in nodes.values()):
        return None
    return [turn for message in _branch(nodes) if (turn := _turn(message)) is not None]


def _is_node(node: Any) -> bool:
    return isinstance(node, dict) and "message" in node and isinstance(node.get("children"), list)


def _branch(nodes: Mapping[str, Any]) -> Iterator[Any]:
    """Where a message was said or answered again, the last one."""
    node = next((node for node in nodes.values() if not _known(node.get("parent"), nodes)), None)
    for _ in nodes:  # a tree that bites its tail ends, too
        if node is None:
            return
        yield node["message"]
        following = [child for child in node["children"] if _known(child, nodes)]
        node = nodes[following[-1]] if following else None


def _known(name: Any, nodes: Mapping[str, Any]) -> bool:
    return isinstance(name, str) and name in nodes


def _turn(message: Any) -> dict[str, Any] | None:
    """None where a person never saw it."""
    if not isinstance(message, dict):
        return None
    author, content, about = (message.get(key) for key in ("author", "content", "metadata"))
    role = author.get("role") if isinstance(author, dict) else None
    hidden = isinstance(about, dict) and about.get("is_visually_hidden_from_conversation") is True
    if hidden or not isinstance(content, dict) or content.get("content_type", "text") not in _KINDS_READ:
        return None
    said = content.get("parts", content.get("text", ""))
    return None if role == "system" and said in ("", [], [""]) else {"role": role, "content": said}
