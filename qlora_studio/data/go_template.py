"""The few words of Go's text/template that our Modelfiles are written in, rendered as Ollama renders them.

What they mean: Go's text/template, and Ollama's template/template.go, which joins neighbouring messages of
one role before it renders.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_ACTION = re.compile(r'\{\{((?:"(?:[^"\\]|\\.)*"|[^"])*?)\}\}')
_WORDS = re.compile(r'"(?:[^"\\]|\\.)*"|\(|\)|:=|,|[^\s(),]+')


def literal(text: str) -> str:
    """`text` as it must stand in a template between three quotes."""
    if "{{" in text or '"""' in text or text.endswith('"') or text.startswith('"'):
        return "{{ " + json.dumps(text, ensure_ascii=False) + " }}"
    return text


def render(template: str, messages: Sequence[Mapping[str, str]]) -> str:
    """As Ollama does. messages: each with `role` and `content`. Raises: ValueError where it can't."""
    given = [{"Role": message["role"], "Content": message["content"]} for message in messages]
    root = _Block()
    _parse(_pieces(template), root)
    scope = {"Messages": _joined(given)}
    return "".join(_rendered(root.nodes, scope, {}))


@dataclass
class _Block:
    """What stands up to an `end` or `else`: texts, actions and further blocks."""

    nodes: list[Any] = field(default_factory=list)


@dataclass
class _If:
    condition: list[str]
    then: _Block = field(default_factory=_Block)
    otherwise: _Block = field(default_factory=_Block)


@dataclass
class _Range:
    names: list[str]
    over: list[str]
    body: _Block = field(default_factory=_Block)


def _pieces(template: str) -> Iterator[str | list[str]]:
    """Texts, and the words of actions."""
    at = 0
    for match in _ACTION.finditer(template):
        yield template[at : match.start()]
        yield _WORDS.findall(match[1])
        at = match.end()
    yield template[at:]


def _parse(pieces: Iterator[str | list[str]], block: _Block) -> list[str]:
    """Fills the block, and returns the words that ended it: `end`, or `else` with what follows."""
    for piece in pieces:
        if isinstance(piece, str):
            block.nodes.append(piece)
        elif piece[0] in ("end", "else"):
            return piece
        elif piece[0] == "if":
            block.nodes.append(_parse_if(pieces, piece[1:]))
        elif piece[0] == "range":
            *names, over = [word for word in piece[1:] if word not in (",", ":=")]
            node = _Range(names, [over])
            _parse(pieces, node.body)
            block.nodes.append(node)
        else:
            block.nodes.append(piece)
    return []


def _parse_if(pieces: Iterator[str | list[str]], condition: list[str]) -> _If:
    node = _If(condition)
    ended = _parse(pieces, node.then)
    if ended[:2] == ["else", "if"]:
        node.otherwise.nodes.append(_parse_if(pieces, ended[2:]))
    elif ended[:1] == ["else"]:
        _parse(pieces, node.otherwise)
    return node


def _rendered(nodes: Sequence[Any], dot: Any, names: Mapping[str, Any]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, str):
            yield node
        elif isinstance(node, _If):
            chosen = node.then if _value(node.condition, dot, names) else node.otherwise
            yield from _rendered(chosen.nodes, dot, names)
        elif isinstance(node, _Range):
            for index, item in enumerate(_value(node.over, dot, names)):
                own = dict(zip(node.names[-2:], (index, item), strict=False))
                yield from _rendered(node.body.nodes, item, {**names, **own})
        else:
            yield str(_value(node, dot, names))


def _value(words: list[str], dot: Any, names: Mapping[str, Any]) -> Any:
    """Of a pipeline: one operand, or a function and its operands."""
    operands = list(_operands(words, dot, names))
    if len(operands) == 1:
        return operands[0]
    function, *given = operands
    match function:
        case "eq":
            return given[0] == given[1]
        case "ne":
            return given[0] != given[1]
        case "gt":
            return given[0] > given[1]
        case "index":
            return given[0][given[1]]
    raise ValueError(f"{function!r} is no function that is known here")


def _operands(words: list[str], dot: Any, names: Mapping[str, Any]) -> Iterator[Any]:
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "(":
            end = _closing(words, at)
            value = _value(words[at:end], dot, names)
            at = end + 1
            if at < len(words) and words[at].startswith("."):
                value = value[words[at][1:]]
                at += 1
            yield value
        elif word.startswith('"'):
            yield json.loads(word)
        elif word.isdecimal():
            yield int(word)
        elif word.startswith("$"):
            yield names[word]
        elif word.startswith("."):
            yield dot[word[1:]]
        else:
            yield word


def _closing(words: list[str], at: int) -> int:
    depth = 1
    for place in range(at, len(words)):
        depth += {"(": 1, ")": -1}.get(words[place], 0)
        if depth == 0:
            return place
    raise ValueError("a bracket isn't closed")


def _joined(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Neighbours of one role are one message, but those of tools."""
    joined: list[dict[str, str]] = []
    for message in messages:
        if joined and joined[-1]["Role"] == message["Role"] != "tool":
            joined[-1]["Content"] += "\n\n" + message["Content"]
        else:
            joined.append(dict(message))
    return joined
